"""Verdicts as marks: what a result says of each exercise and test, in words that a learner can act on."""

from collections.abc import Iterator

from minidocker.course import judge
from minidocker.course.assignment import FUNCTIONS, WHOLE, Assignment, Part
from minidocker.course.generate import HIDDEN_TESTS
from minidocker.course.judge import Outcome, Verdict
from minidocker.course.result import DOES_NOT_RUN, GRADED, MISSING, NOT_WRITTEN, Exercise, Test
from minidocker.errors import MinidockerError

_LONGEST = 4000  # characters of a message


class Unjudged(MinidockerError):
    """A judge has said nothing of a test: there is no mark then, and never a bad one."""


def exercises(assignment: Assignment, states: dict[str, str], verdicts: tuple[Verdict, ...]) -> Iterator[Exercise]:
    """Yield what the result says of each exercise; `states` are those of exercises of which nothing was judged.

    Raises: Unjudged.
    """
    by_name = {verdict.exercise: verdict for verdict in verdicts}
    whole = by_name.get(WHOLE) if assignment.mode != FUNCTIONS else None
    for part in assignment.parts:
        verdict = whole or by_name.get(part.name)
        if whole:
            outcomes = {test.name: _of_cell(test, part) for test in whole.tests}
        else:
            outcomes = {f"{part.name}-test-{test.name}": test for test in (verdict.tests if verdict else ())}
        tests = tuple(_test(part, outcomes, states.get(part.name, "")))
        state = states.get(part.name) or (_state_of_cells(tests) if whole or not verdict else _state(verdict))
        points, earned = sum(test.points for test in tests), sum(test.earned for test in tests)
        printed = verdict.printed if verdict else ""
        yield Exercise(part.name, part.title, points, earned, state, printed, tests)


def _state(verdict: Verdict) -> str:
    """Return the state of an exercise that was judged."""
    if not verdict.loaded:
        return DOES_NOT_RUN
    return GRADED if verdict.written or verdict.earned else NOT_WRITTEN


def _state_of_cells(tests: tuple[Test, ...]) -> str:
    """Return the state of an exercise whose cells were run."""
    broken = [test.message.startswith(("SyntaxError", "IndentationError", "TabError")) for test in tests]
    return DOES_NOT_RUN if broken and all(broken) else GRADED


def _test(part: Part, outcomes: dict[str, Outcome], state: str) -> Iterator[Test]:
    """Yield how each test of an exercise went; those of which there was nothing to judge are lost. Raises: Unjudged."""
    said = {MISSING: f"the cell {part.solution} is not in the notebook", NOT_WRITTEN: judge.NOT_WRITTEN}
    for test in part.tests:
        outcome = outcomes.get(test.grade_id)
        if not outcome and state not in said:
            raise Unjudged(f"the judge has left out {test.grade_id}")
        outcome = outcome or Outcome(test.name, 1, 0, said[state])
        earned = test.points if outcome.earned == outcome.points else 0
        message, where = outcome.message[:_LONGEST], outcome.where[:_LONGEST]
        yield Test(test.name, test.points, earned, message, where, outcome.hidden)


def _of_cell(outcome: Outcome, part: Part) -> Outcome:
    """Return the outcome of a test whose cell ran beside the learner's code, in words.

    Where in it something failed is not known: all of it is hidden where some of it is.
    """
    source = next((test.source for test in part.tests if test.grade_id == outcome.name), "")
    message = outcome.message.removeprefix("AssertionError: ")
    if message == "AssertionError":
        message = f"it does not hold at `{outcome.where.partition(': ')[2]}`"
    hidden = outcome.earned < outcome.points and HIDDEN_TESTS in source
    return outcome._replace(message=message, hidden=hidden)
