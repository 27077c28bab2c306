"""The cells of a whole notebook, run one after the other in a learner's process, for a course of any form.

What fails does not stop what follows, as in nbgrader. The tests are in the same process as the code that they test.
"""

import builtins
import contextlib
import linecache
import re
import signal
import sys
from collections.abc import Iterator
from types import FrameType, ModuleType

from minidocker.course import values

_TIMERS = ("%%time", "%%capture", "%%timeit")


class Runner:
    """A notebook at work: `cells` are the grade_id, "" where there is none, and the source of each, in order.

    The cells up to a graded one may take so many `seconds`, a little less than its judge waits for an answer.
    """

    def __init__(self, cells: list[tuple[str, str]], seconds: float) -> None:
        self._cells = cells
        self._seconds = seconds
        self._next = 0
        self._errors: dict[str, BaseException | None] = {}
        self._module = ModuleType("__main__")
        vars(self._module).update(__builtins__=builtins, display=print)
        sys.modules["__main__"] = self._module

    def __call__(self, grade_id: str, solution: str) -> None:
        """Go on up to a graded cell.

        Raises: what the cell has raised, or the solution's cell before it; LookupError where there is none.
        """
        with _alarm(self._seconds):
            while grade_id not in self._errors and self._next < len(self._cells):
                name, source = self._cells[self._next]
                self._next += 1
                self._errors[name] = self._run(name or f"number {self._next}", source)
        report(self._errors, grade_id, solution)

    def _run(self, name: str, source: str) -> BaseException | None:
        """Run one cell; return what it has raised."""
        try:
            plain = python(source)
            file = values.compiled_as(name)
            linecache.cache[file] = (len(plain), None, plain.splitlines(keepends=True), file)
            exec(compile(plain, file, "exec", dont_inherit=True), vars(self._module))  # noqa: S102, it is for this
        except BaseException as error:  # noqa: BLE001, a learner's cell may raise whatever it likes
            return error
        return None


def report(errors: dict[str, BaseException | None], grade_id: str, solution: str) -> None:
    """Raise what a graded cell has raised, or the solution's cell before it; LookupError where there is none."""
    if grade_id not in errors:
        raise LookupError(f"the notebook has no cell {grade_id}")
    if error := errors[grade_id]:
        raise (errors.get(solution) if solution else None) or error


def python(source: str) -> str:
    """Return a cell without what only IPython understands: its magics and its shell commands are passed over."""
    try:
        compile(source, "cell", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        first, _, rest = source.partition("\n")
        if first.startswith("%%"):
            return f"\n{rest}" if first.startswith(_TIMERS) else ""
        return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)
    return source


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt the block when it has taken too long, so that the cells before it need not be run again."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 1)  # for what catches the error and goes on
        raise TimeoutError(f"not done within {seconds:g} seconds")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
