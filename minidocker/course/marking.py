"""Verdicts as marks: what a result says of each exercise and test, in words that a learner can act on."""

from collections.abc import Iterator

from minidocker.course import judge
from minidocker.course.assignment import FUNCTIONS, WHOLE, Assignment, Part
from minidocker.course.generate import HIDDEN_TESTS
from minidocker.course.judge import Outcome, Verdict
from minidocker.course.result import DOES_NOT_RUN, GRADED, MISSING, NOT_WRITTEN, Exercise, Test

_LONGEST = 4000  # characters of a message


def exercises(assignment: Assignment, states: dict[str, str], verdicts: tuple[Verdict, ...]) -> Iterator[Exercise]:
    """Yield what the result says of each exercise; `states` are those of exercises of which nothing was judged."""
    by_name = {verdict.exercise: verdict for verdict in verdicts}
    for part in assignment.parts:
        state = states.get(part.name, "")
        if assignment.mode == FUNCTIONS:
            verdict = by_name.get(part.name, Verdict(part.name, False, ()))
            outcomes = {test.name: test for test in verdict.tests}
            state = state or _state(verdict)
        else:
            verdict = by_name[WHOLE]
            outcomes = {test.name: _of_cell(test, part) for test in verdict.tests}
        tests = tuple(_test(part, outcomes, state))
        points, earned = sum(test.points for test in tests), sum(test.earned for test in tests)
        printed = verdict.printed
        yield Exercise(part.name, part.title, points, earned, _stated(state, tests), printed, tests)


def _state(verdict: Verdict) -> str:
    """Return the state of an exercise that was judged."""
    if not verdict.loaded:
        return DOES_NOT_RUN
    return GRADED if verdict.written or verdict.earned else NOT_WRITTEN


def _stated(state: str, tests: tuple[Test, ...]) -> str:
    """Return the state of an exercise whose cells were run, where nothing is said of it yet."""
    if state:
        return state
    broken = [test.message.startswith(("SyntaxError", "IndentationError", "TabError")) for test in tests]
    return DOES_NOT_RUN if broken and all(broken) else GRADED


def _test(part: Part, outcomes: dict[str, Outcome], state: str) -> Iterator[Test]:
    """Yield how each test of an exercise went; those that were not run are lost, and say why."""
    said = {
        MISSING: f"the cell {part.solution} is not in the notebook",
        NOT_WRITTEN: judge.NOT_WRITTEN,
    }.get(state, "it was not judged")
    for test in part.tests:
        outcome = outcomes.get(test.name) or Outcome(test.name, 1, 0, said)
        passed = outcome.earned == outcome.points
        message, where = outcome.message[:_LONGEST], outcome.where[:_LONGEST]
        yield Test(test.name, test.points, test.points if passed else 0, message, where, outcome.hidden)


def _of_cell(outcome: Outcome, part: Part) -> Outcome:
    """Return the outcome of a test whose cell ran beside the learner's code, in words.

    Where in it something failed is not known: all of it is hidden where some of it is.
    """
    source = next((test.source for test in part.tests if test.name == outcome.name), "")
    message = outcome.message.removeprefix("AssertionError: ")
    if message == "AssertionError":
        message = f"it does not hold at `{outcome.where.partition(': ')[2]}`"
    hidden = outcome.earned < outcome.points and HIDDEN_TESTS in source
    return outcome._replace(message=message, hidden=hidden)
