"""`grade`: a class's notebooks, judged side by side; marks and reasons for teachers and learners."""

import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, TextIO

from minidocker.cli.arguments import Call, Command, Option, whole_number
from minidocker.errors import MinidockerError

if TYPE_CHECKING:
    from minidocker.course.grade import Assignments, Rules
    from minidocker.course.pool import Pool
    from minidocker.course.result import Result
    from minidocker.course.submission import Found

NOT_ALL = 1
WRONG_USE = 2
INTERRUPTED = 130
_SPARSE = 10.0  # seconds between two lines where a line cannot be redrawn
_LONGEST = 3600  # seconds of a test
_LATEST = 50  # results by which the time left is told


def grade(call: Call) -> int:
    """Grade submissions, print the marks, and write them in every form."""
    from minidocker.course import classroom
    from minidocker.course.grade import grade as graded
    from minidocker.course.grade import printable

    try:
        found, course, rules = _wanted(call)
    except (MinidockerError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return WRONG_USE
    results: list[Result] = []
    pools: list[Pool] = []

    def pool() -> "Pool":
        pools.append(_pool(call, rules))
        return pools[-1]

    progress = Progress(sys.stderr, len(found))
    try:
        for result in graded(found, course, rules, pool):
            results.append(result)
            progress.show(bool(result.trouble))
    except KeyboardInterrupt:
        progress.end()
        print(f"{len(results)} of {len(found)} are done; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    progress.end()
    _print_marks(results)
    classroom.report(rules.out, call["show-hidden"])  # of all that has been graded by now, also other assignments
    print(f"\nThe pages: {rules.out}/index.html", file=sys.stderr)
    for weaker in pools[0].weaker if pools else ():
        print(f"weaker on this machine: {weaker}", file=sys.stderr)
    troubles = [result for result in results if result.trouble]
    for result in troubles:
        print(printable(f"{result.student} could not be graded: {result.file}: {result.trouble}"), file=sys.stderr)
    return NOT_ALL if troubles else 0


def _wanted(call: Call) -> "tuple[list[Found], Assignments, Rules]":
    """Return what is to be graded, and how. Raises: MinidockerError, OSError."""
    from minidocker.course import grade as grading
    from minidocker.course import submission
    from minidocker.course.pool import Limits

    if not call.words or not call["out"]:
        raise MinidockerError("name what was handed in, and with --out the folder for the results")
    wanted = call["assignment"]
    paths = grading.known(call.words, wanted)
    name = os.path.basename(wanted).removesuffix(".ipynb")
    limits = Limits(seconds=call["timeout"])
    rules = grading.Rules(os.path.abspath(call["out"]), limits, call["due"], call["fidelity"])
    course = grading.Assignments(paths, rules)
    if name:
        course.get(name)
    found = submission.find(call.words, paths, name)
    found = [each for each in found if not f"{os.path.abspath(each.file)}/".startswith(f"{rules.out}/")]
    if not found:
        raise MinidockerError(f"there is no notebook in {', '.join(call.words)}")
    return found, course, rules


def _pool(call: Call, rules: "Rules") -> "Pool":
    """Start the judges."""
    from minidocker.course.pool import Pool

    return Pool(call["workers"] or len(os.sched_getaffinity(0)), rules.of_judge)


class Progress:
    """How far a class is: one line that is redrawn at a terminal, now and then a line elsewhere."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._done = self._failed = 0
        self._times = deque([time.monotonic()], _LATEST)
        self._printed = time.monotonic()
        self._redraws = stream.isatty()

    def show(self, failed: bool) -> None:
        """Count one submission more."""
        self._done += 1
        self._failed += failed
        self._times.append(time.monotonic())
        if self._redraws:
            self._stream.write(f"\r\033[2K{self._line()}")
        elif self._times[-1] - self._printed >= _SPARSE:
            self._printed = self._times[-1]
            self._stream.write(f"{self._line()}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line as it is."""
        self._stream.write("\n" if self._redraws and self._done else "")
        self._stream.flush()

    def _line(self) -> str:
        left = (self._times[-1] - self._times[0]) / (len(self._times) - 1) * (self._total - self._done)
        failed = f", {self._failed} could not be" if self._failed else ""
        remaining = f", {int(left) // 60}:{int(left) % 60:02} left" if self._done < self._total else ""
        return f"{self._done - self._failed} of {self._total} graded{failed}{remaining}"


def _print_marks(results: "list[Result]") -> None:
    """Print a line for each submission."""
    from minidocker.course.grade import printable

    ordered = sorted(results, key=lambda result: (result.student, result.assignment))
    wide = max((len(result.student) for result in ordered), default=0)
    for result in ordered:
        marks = "not graded" if result.trouble else f"{result.earned:g} of {result.points:g}"
        late = "  late" if result.late else ""
        notes = f"  {len(result.notes)} note{'s' * (len(result.notes) > 1)}" if result.notes else ""
        print(printable(f"{result.student:{wide}}  {result.assignment}  {marks}{late}{notes}"))


def _moment(text: str) -> object:
    from minidocker.course.submission import moment

    return moment(text)


def _several(text: str) -> int:
    number = whole_number(text)
    if number < 1:
        raise ValueError("not one or more")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"not a number of seconds up to {_LONGEST}")
    return seconds


COMMANDS = {
    "grade": Command(
        grade,
        "[OPTIONS] SUBMISSION...",
        (
            Option("assignment", "string", "Its name, or the teacher's notebook", default=""),
            Option("out", "string", "Folder for the results", "o", default=""),
            Option("workers", "int", "How many judges work side by side (default: one for each core)", read=_several),
            Option("due", "time", "What comes later is late: 2026-05-31, or '2026-05-31 18:00'", read=_moment),
            Option("timeout", "seconds", "What one test may take", default=10.0, read=_seconds),
            Option("show-hidden", "bool", "Let learners read what hidden tests say"),
            Option("fidelity", "bool", "Run the whole notebook as Jupyter does"),
        ),
        at_most=None,
        root=False,
        misuse=WRONG_USE,
        about="SUBMISSION is a notebook, a folder of NAME.ipynb, a folder with one for each student, or nbgrader's.\n"
        "What was graded before is not graded again: the same command goes on where it was ended.\n"
        "Exits with 0 when all are graded, 1 when some could not be, 2 when there is nothing to grade.",
    ),
}
