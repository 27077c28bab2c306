"""Verdicts and hints, for people: as text, which is all there is at a terminal, and as HTML, which says the same."""

import html

from minidocker.course.catalogue import Exercise
from minidocker.course.judge import NOT_WRITTEN, Verdict

PASSED, FAILED = "✓", "✗"
_STYLE = "border-left:4px solid {};padding:.3em 0 .3em 1em;margin:.3em 0"
_GREEN, _RED = "#2e8540", "#c0392b"


def headline(exercise: Exercise, verdict: Verdict) -> str:
    """Return the first line of a verdict."""
    if verdict.passed:
        return f"{exercise.title}: all {verdict.points} points"
    if not verdict.written and not verdict.earned:
        return f"{exercise.title}: {NOT_WRITTEN}"
    return f"{exercise.title}: {verdict.earned} of {verdict.points} points"


def lines(exercise: Exercise, verdict: Verdict) -> list[str]:
    """Return a verdict, line by line: the headline, each test, what the code printed."""
    found = [headline(exercise, verdict)]
    for test in verdict.tests:
        passed = test.earned == test.points
        points = f"{test.points} point{'s' * (test.points != 1)}"
        found.append(f"  {PASSED if passed else FAILED} {test.name.replace('_', ' ')} ({points})")
        if not passed and test.message != NOT_WRITTEN:
            found += [f"      {line}" for line in test.message.splitlines()]
            found += [f"      your {test.where}"] if test.where else []
    if verdict.printed and not verdict.passed:
        found += ["  your code printed:", *(f"      {line}" for line in verdict.printed.splitlines())]
    return found


def text(exercise: Exercise, verdict: Verdict) -> str:
    """Return a verdict as text."""
    return "\n".join(lines(exercise, verdict))


def as_html(exercise: Exercise, verdict: Verdict) -> str:
    """Return a verdict as HTML."""
    parts = [f"<div style='{_STYLE.format(_GREEN if verdict.passed else _RED)}'>"]
    parts.append(f"<b>{html.escape(headline(exercise, verdict))}</b>")
    for line in lines(exercise, verdict)[1:]:
        indent = len(line) - len(line.lstrip())
        shown = html.escape(line.strip())
        colour = {PASSED: _GREEN, FAILED: _RED}.get(line.strip()[:1], "")
        style = f"padding-left:{indent // 2}em" + (f";color:{colour}" if colour else "")
        style += ";font-family:monospace;white-space:pre-wrap" if indent > 2 else ""
        parts.append(f"<div style='{style}'>{shown}</div>")
    return "".join([*parts, "</div>"])


def hints(exercise: Exercise, revealed: int) -> str:
    """Return the hints that have been revealed, as text."""
    if not exercise.hints:
        return "There is no hint for this exercise."
    shown = [f"Hint {n} of {len(exercise.hints)}: {text}" for n, text in enumerate(exercise.hints[:revealed], 1)]
    return "\n\n".join(shown)
