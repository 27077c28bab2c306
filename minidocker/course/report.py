"""Verdicts and hints, for people: as text, which is all there is at a terminal, and as HTML, which says the same."""

import html
from collections.abc import Iterator

from minidocker.course.catalogue import Exercise
from minidocker.course.judge import NOT_WRITTEN, Outcome, Verdict

_DEEP = 6  # columns by which what has failed is indented
PASSED, FAILED = "✓", "✗"
PRINTED = "your code printed:"
_STYLE = "border-left:4px solid {};padding:.3em 0 .3em 1em;margin:.3em 0"
_PRINTED_STYLE = "padding-left:3em;font-family:monospace;white-space:pre-wrap;max-height:12em;overflow:auto"
_GREEN, _RED = "var(--jp-success-color0, #2e8540)", "var(--jp-error-color1, #c0392b)"  # as light or dark as JupyterLab


def headline(exercise: Exercise, verdict: Verdict) -> str:
    """Return the first line of a verdict."""
    title = exercise.title if exercise.title.endswith("?") else f"{exercise.title}:"
    if verdict.passed:
        return f"{title} all {verdict.points} points"
    if not verdict.written and not verdict.earned:
        return f"{title} {NOT_WRITTEN}"
    return f"{title} {verdict.earned} of {verdict.points} points"


def lines(exercise: Exercise, verdict: Verdict) -> list[str]:
    """Return a verdict, line by line: the headline, each test, what the code printed."""
    found = [headline(exercise, verdict), *_tests(verdict)]
    if verdict.printed and not verdict.passed:
        found += [f"  {PRINTED}", *(f"      {line}" for line in verdict.printed.splitlines())]
    return found


def _tests(verdict: Verdict) -> Iterator[str]:
    """Yield a line for each test, and what has failed: once, where the code cannot be run at all."""
    once = not verdict.loaded and len({(test.message, test.where) for test in verdict.tests}) == 1
    if once:
        yield from _failure(verdict.tests[0])
    for test in verdict.tests:
        passed = test.earned == test.points
        points = f"{test.points} point{'s' * (test.points != 1)}"
        yield f"  {PASSED if passed else FAILED} {test.name.replace('_', ' ')} ({points})"
        if not passed and not once:
            yield from _failure(test)


def _failure(test: Outcome) -> Iterator[str]:
    told = [test.message, *([f"your {test.where}"] if test.where else [])] if test.message != NOT_WRITTEN else []
    yield from (" " * _DEEP + line for text in told for line in text.splitlines())


def text(exercise: Exercise, verdict: Verdict) -> str:
    """Return a verdict as text."""
    return "\n".join(lines(exercise, verdict))


def as_html(exercise: Exercise, verdict: Verdict) -> str:
    """Return a verdict as HTML."""
    parts = [f"<div style='{_STYLE.format(_GREEN if verdict.passed else _RED)}'>"]
    parts.append(f"<b>{html.escape(headline(exercise, verdict))}</b>")
    for line in _tests(verdict):
        indent = min(len(line) - len(line.lstrip()), _DEEP)
        shown = html.escape(line[indent:])
        colour = {PASSED: _GREEN, FAILED: _RED}.get(line.strip()[:1], "")
        style = f"padding-left:{indent // 2}em" + (f";color:{colour}" if colour else "")
        style += ";font-family:monospace;white-space:pre-wrap" if indent > 2 else ""
        parts.append(f"<div style='{style}'>{shown}</div>")
    if verdict.printed and not verdict.passed:
        parts.append(f"<div style='padding-left:1em'>{PRINTED}</div>")
        parts.append(f"<div style='{_PRINTED_STYLE}'>{html.escape(verdict.printed.rstrip())}</div>")
    return "".join([*parts, "</div>"])


def hints(exercise: Exercise, revealed: int) -> str:
    """Return the hints that have been revealed, as text."""
    if not exercise.hints:
        return "There is no hint for this exercise."
    shown = [f"Hint {n} of {len(exercise.hints)}: {text}" for n, text in enumerate(exercise.hints[:revealed], 1)]
    return "\n\n".join(shown)


def hints_as_markdown(exercise: Exercise, revealed: int) -> str:
    """Return the hints that have been revealed, as Markdown, in which they are written."""
    shown = [f"**Hint {n} of {len(exercise.hints)}**\n\n{text}" for n, text in enumerate(exercise.hints[:revealed], 1)]
    return "\n\n".join(shown)
