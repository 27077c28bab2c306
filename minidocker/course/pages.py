"""Pages for people, made from results: one for the teacher, and one for each learner. No scripts, nothing from outside.

    index.html                the class: who has earned what, which exercises were hard, what went wrong most often
    learners/STUDENT.html     what one learner has earned and why points are missing; hidden tests keep their secrets

Everything that learners have written is escaped, and stands in an element of its own for the direction of its script.
"""

import html
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from minidocker.course.exports import HIDDEN, clean, file_name, number, passed, told, write
from minidocker.course.result import DOES_NOT_RUN, GRADED, MISSING, NOT_WRITTEN, Exercise, Result

_COMMONEST = 15  # tests that are listed among those that failed most often
_MESSAGES = 3  # messages of each
_LONGEST = 600  # characters of a message on the teacher's page
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|\b0x\w+|\b[0-9a-f]{12,}\b|\d+""")
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6875; --page: #fbfbf9; --card: #fff; --line: #dfe3e8;
  --good: #1f7a3d; --bad: #b3261e; --bar: #cfe8d6; --warn: #8a5300; --warned: #fff3dd; --code: #f2f4f6 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa7b4; --page: #14181d; --card: #1b2128;
  --line: #323b45; --good: #6fce8d; --bad: #ff8a80; --bar: #234a31; --warn: #ffc46b; --warned: #33270f;
  --code: #232a32 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.7rem; margin: 0 0 .2rem } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem }
h3 { font-size: 1rem; margin: 0 }
p { margin: .3rem 0 } a { color: inherit } .soft { color: var(--soft) } .good { color: var(--good) }
.bad { color: var(--bad) } .warn { color: var(--warn) }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; background: var(--card) }
table { border-collapse: collapse; width: 100% } th, td { padding: .35rem .7rem; text-align: left; vertical-align: top }
thead th { font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line); white-space: nowrap }
tbody tr + tr > * { border-top: 1px solid var(--line) } tbody th { font-weight: 500 }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bar { background: linear-gradient(var(--bar), var(--bar)) no-repeat; background-size: var(--part) 100% }
pre, code { font: .85em/1.45 ui-monospace, monospace; overflow-wrap: anywhere }
pre { background: var(--code); margin: .3rem 0 0; padding: .5rem .7rem; border-radius: .4rem; white-space: pre-wrap }
.card { border: 1px solid var(--line); border-radius: .5rem; background: var(--card); padding: .8rem 1rem }
.card + .card { margin-top: .8rem }
.card ul { list-style: none; margin: .5rem 0 0; padding: 0 } .card li { margin: .35rem 0 }
.note { background: var(--warned); border-radius: .5rem; padding: .6rem 1rem; margin: .6rem 0 }
.head { display: flex; justify-content: space-between; gap: 1rem; align-items: baseline }
@media print { body { max-width: none; padding: 0 } .card, .wide { break-inside: avoid } }
"""
_PAGE = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<style>{style}</style></head>\n<body>\n{body}\n</body></html>\n"
)


def write_all(out: str, results: Sequence[Result], show_hidden: bool = False) -> list[str]:
    """Write the teacher's page and every learner's below `out`; return the paths. Raises: OSError."""
    paths = [write(f"{out}/index.html", teacher(results))]
    for student, theirs in by_student(results).items():
        paths.append(write(f"{out}/learners/{file_name(student)}.html", learner(student, theirs, show_hidden)))
    return paths


def by_student(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return the results of each learner, by name."""
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda each: (_in_order(each.student), each.assignment)):
        found.setdefault(result.student, []).append(result)
    return found


def _in_order(name: str) -> str:
    """Return by what a name is put in order: É stands with E."""
    return unicodedata.normalize("NFKD", name).casefold()


def learner(student: str, results: Sequence[Result], show_hidden: bool = False) -> str:
    """Return a learner's page."""
    earned, points = sum(each.earned for each in results), sum(each.points for each in results)
    body = [f"<h1><bdi>{_text(student)}</bdi></h1>", f'<p class="soft">{number(earned)} of {number(points)} points</p>']
    for result in results:
        late = ' <span class="warn">handed in late</span>' if result.late else ""
        score = f'<span class="n">{number(result.earned)} of {number(result.points)}</span>'
        body.append(f'<h2 class="head"><span>{_text(result.assignment)}{late}</span>{score}</h2>')
        body += [_note(f"This could not be graded: {result.trouble}")] if result.trouble else []
        body += [_note(note) for note in result.notes]
        body += [_card(exercise, show_hidden) for exercise in result.exercises]
    return _page(f"{student}: marks", body)


def _card(exercise: Exercise, show_hidden: bool) -> str:
    """Return one exercise as its learner sees it: what the code has printed may be what a hidden test has given it."""
    full = exercise.earned >= exercise.points
    score = f'<span class="n {"good" if full else "bad"}">{number(exercise.earned)} of {number(exercise.points)}</span>'
    title = exercise.title or exercise.name
    said = {told(test, show_hidden) for test in exercise.tests}
    once = "" if exercise.state == GRADED else f'<p class="soft">{_text(exercise.state)}</p>'
    alike = len(said) == 1 and len(exercise.tests) > 1
    once += _pre(*said) if alike and exercise.state in (GRADED, DOES_NOT_RUN) else ""
    parts = [f'<div class="card"><div class="head"><h3>{_text(title)}</h3>{score}</div>{once}<ul>']
    for test in exercise.tests:
        sign = '<span class="good">✓</span>' if passed(test) else '<span class="bad">✗</span>'
        words = "" if alike else told(test, show_hidden)
        shown = f'<p class="soft">{_text(words)}</p>' if words == HIDDEN else _pre(words)
        got = f"{number(test.earned)} of {number(test.points)}"
        parts.append(f'<li>{sign} {_text(test.name)} <span class="soft">({got})</span>{shown}</li>')
    parts.append("</ul>")
    if exercise.printed and show_hidden:
        parts.append(f'<p class="soft">Your code printed:</p>{_pre(exercise.printed)}')
    return "".join([*parts, "</div>"])


def teacher(results: Sequence[Result]) -> str:
    """Return the teacher's page."""
    if not results:
        return _page("The class", ["<h1>The class</h1>", "<p>Nothing has been graded yet.</p>"])
    shares = [each.earned / each.points for each in results if each.points]
    facts = f"{_many(len(by_student(results)), 'learner')}, {_many(len(results), 'submission')}"
    if shares:
        facts += f"; half of these earned {statistics.median(shares):.0%} of the points or more"
    late = sum(each.late for each in results)
    facts += f"; {late} late" if late else ""
    body = ["<h1>The class</h1>", f'<p class="soft">{facts}</p>']
    troubles = [each for each in results if each.trouble]
    if troubles:
        body.append(f"<h2>Could not be graded: {len(troubles)}</h2>")
        body += [_note(each.trouble, f"{each.student}, {each.assignment}") for each in troubles]
    body += ["<h2>Marks</h2>", _marks(results), "<h2>Exercises</h2>", _exercises(results)]
    body += ["<h2>What failed most often</h2>", _commonest(results)]
    noted = [(each, note) for each in results for note in each.notes]
    if noted:
        body.append("<h2>Notes</h2>")
        body += [_note(note, f"{each.student}, {each.assignment}") for each, note in noted]
    return _page("The class", body)


def _marks(results: Sequence[Result]) -> str:
    """Return the table of learners and assignments."""
    assignments = sorted({each.assignment for each in results})
    rows = []
    for student, theirs in by_student(results).items():
        link = f"learners/{quote(file_name(student))}.html"
        row = [f'<th scope="row"><a href="{link}"><bdi>{_text(student)}</bdi></a></th>']
        found = {each.assignment: each for each in theirs}
        row += [_mark(found.get(assignment)) for assignment in assignments]
        if len(assignments) > 1:
            row.append(_points(sum(each.earned for each in theirs), sum(each.points for each in theirs)))
        rows.append(row)
    return _table(["Learner"], [*assignments, *(["All"] if len(assignments) > 1 else [])], rows)


def _mark(result: Result | None) -> str:
    if result is None:
        return '<td class="n soft">–</td>'
    more = ' <span class="warn" title="handed in late">late</span>' if result.late else ""
    more += ' <span class="bad" title="could not be graded">not graded</span>' if result.trouble else ""
    more += ' <span class="warn" title="see the notes below">note</span>' if result.notes else ""
    return _points(result.earned, result.points, more)


def _points(earned: float, points: float, more: str = "") -> str:
    """Return a table's cell with points in it, and a bar of what part they are."""
    part = f"{100 * earned / points:.0f}%" if points else "0%"
    return f'<td class="n bar" style="--part: {part}">{number(earned)} / {number(points)}{more}</td>'


def _exercises(results: Sequence[Result]) -> str:
    """Return the table of the exercises: how much of each was earned, by how many wholly, and why not."""
    found: dict[tuple[str, str], list[Exercise]] = {}
    for result in results:
        for exercise in result.exercises:
            found.setdefault((result.assignment, exercise.name), []).append(exercise)
    rows = []
    for (assignment, name), each in sorted(found.items(), key=lambda item: item[0][0]):
        states = Counter(exercise.state for exercise in each)
        mean = statistics.fmean(exercise.earned for exercise in each)
        full = sum(exercise.earned >= exercise.points for exercise in each)
        row = [f'<th scope="row">{_text(name)} <span class="soft">{_text(each[0].title)}</span></th>']
        row += [f"<td>{_text(assignment)}</td>", _points(round(mean, 2), each[0].points)]
        row.append(f'<td class="n">{full} of {len(each)}</td>')
        row += [f'<td class="n">{states[state] or "–"}</td>' for state in (NOT_WRITTEN, MISSING, DOES_NOT_RUN)]
        rows.append(row)
    return _table(["Exercise", "In"], ["Mean", "All points", "Not written", "Missing", "Does not run"], rows)


def _commonest(results: Sequence[Result]) -> str:
    """Return the tests that failed most often where something was written, each with its commonest messages.

    Messages that differ in values only are one, shown by an example.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for exercise in result.exercises:
            failed = [test for test in exercise.tests if not passed(test)]
            if exercise.state == DOES_NOT_RUN and failed:
                found.setdefault((exercise.name, DOES_NOT_RUN), []).append(failed[0].message)
            for test in failed if exercise.state == GRADED else ():
                found.setdefault((exercise.name, test.name), []).append(test.message)
    if not found:
        return '<p class="soft">Nothing.</p>'
    rows = []
    for (where, name), messages in sorted(found.items(), key=lambda item: -len(item[1]))[:_COMMONEST]:
        examples = {_VALUE.sub("…", message): message for message in messages}
        kinds = Counter(_VALUE.sub("…", message) for message in messages).most_common(_MESSAGES)
        shown = "".join(_pre(f"{count} × {examples[kind][:_LONGEST]}") for kind, count in kinds)
        others = len(examples) - len(kinds)
        shown += f'<p class="soft">and {_many(others, "other message")}</p>' if others > 0 else ""
        head = f'<th scope="row">{_text(where)}: {_text(name)}</th>'
        rows.append([head, f"<td>{shown}</td>", f'<td class="n">{len(messages)}</td>'])
    return _table(["Test", "What it said"], ["Failed"], rows)


def _table(words: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table: columns of words, then of numbers; the rows' cells are HTML already."""
    head = "".join(f'<th scope="col">{_text(each)}</th>' for each in words)
    head += "".join(f'<th scope="col" class="n">{_text(each)}</th>' for each in numbers)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _page(title: str, body: Iterable[str]) -> str:
    return _PAGE.format(title=_text(title), style=_STYLE, body="\n".join(body))


def _note(words: str, who: str = "") -> str:
    return f'<p class="note">{f"<b><bdi>{_text(who)}</bdi></b>: " if who else ""}{_text(words)}</p>'


def _pre(words: str) -> str:
    return f'<pre dir="auto">{_text(words)}</pre>' if words else ""


def _text(words: str) -> str:
    """Return a text as HTML shows it, whatever stands in it."""
    return html.escape(clean(words))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
