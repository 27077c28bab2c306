"""Judge one exercise: run its tests here and the learner's code in a process of its own.

A test's names for what the solution and the scene define are stand-ins: calling one calls the learner's process. The
tests, what they expect and the points never go there.
"""

import builtins
import contextlib
import io
import json
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from minidocker.course.calls import Gone, Trouble
from minidocker.course.catalogue import Exercise, Test
from minidocker.course.children import NOT_IN_TIME
from minidocker.course.generate import STUB, defined, is_hidden
from minidocker.course.learner import Learner
from minidocker.course.values import Trace, compiled
from minidocker.errors import MinidockerError

SECONDS = 10.0  # that one test may take
AFTER_HANG = 1.0  # that a test may take after another has taken all its time: a learner waits for the verdict
_LONGEST = 120  # seconds of a whole judgement in another process
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from minidocker.course import judge; judge.main()"
NOT_WRITTEN = "not written yet"
Start = Callable[[dict[str, Any]], Learner]


class Outcome(NamedTuple):
    """How one test went. `where` is the line of the learner's own cell at which it failed, "" where there is none.

    `hidden`: what failed is in the part of the test that learners do not have.
    """

    name: str
    points: int
    earned: int
    message: str = ""
    where: str = ""
    hidden: bool = False


class Verdict(NamedTuple):
    """How an exercise went, test by test. `written`: whether anything is in the place of the stub.

    `loaded`: whether the learner's cell could be run at all.
    """

    exercise: str
    written: bool
    tests: tuple[Outcome, ...]
    printed: str = ""
    loaded: bool = True

    @property
    def points(self) -> int:
        """Return what there was to earn."""
        return sum(test.points for test in self.tests)

    @property
    def earned(self) -> int:
        """Return what was earned."""
        return sum(test.earned for test in self.tests)

    @property
    def passed(self) -> bool:
        """Say whether every test has passed."""
        return bool(self.tests) and self.earned == self.points


class _Failed(Exception):
    """A test that failed, in words."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hidden = False


def judge(
    exercise: Exercise, code: str, seconds: float = SECONDS, start: Start = Learner, after_hang: float = 0
) -> Verdict:
    """Judge `code` as the solution of an exercise; each test may take so many seconds.

    `after_hang`: less, for the tests after one that did not end in time; marks are given without it.
    `start` makes the learner's process: by itself, one that is apart and no more; see `minidocker.course.boxes`.
    """
    names: dict[str, Any] = {"__name__": "exercise"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compiled(exercise.setup, "<setup>"), names)  # noqa: S102, the course's own
    court = _Court(exercise, code, seconds, names, start, after_hang or seconds)
    try:
        outcomes = tuple(court.hear(test) for test in exercise.tests)
    finally:
        court.close()
    return Verdict(exercise.name, STUB[-1] not in code, outcomes, court.printed, court.loaded)


class _Court:
    """One judgement: the learner's process, started when a test needs it and anew after it has ended."""

    def __init__(
        self,
        exercise: Exercise,
        code: str,
        seconds: float,
        names: dict[str, Any],
        start: Start,
        after_hang: float,
    ) -> None:
        self.start = start
        self.exercise = exercise
        self.code = code
        self.seconds = self.next_seconds = self.allowed = seconds
        self.after_hang = min(seconds, after_hang)
        self.names = names
        self.printed = ""
        self._learner: Learner | None = None
        self._defined: dict[str, Any] = {}
        self._unloadable: _Failed | None = None

    def hear(self, test: Test) -> Outcome:
        """Run one test."""
        try:
            self._load()
            self._run(test)
        except _Failed as failed:
            message = NOT_WRITTEN if self.code.strip() == self.exercise.stub.strip() else failed.message
            return Outcome(test.name, test.points, 0, message, failed.where, failed.hidden)
        return Outcome(test.name, test.points, test.points)

    @property
    def loaded(self) -> bool:
        """Say whether the learner's cell could be run."""
        return self._unloadable is None

    def close(self) -> None:
        """End the learner's process, and keep what it has printed."""
        if self._learner:
            self.printed = self.printed or self._learner.printed()
            self._learner.close()
            self._learner = None

    def _load(self) -> None:
        """Have a process with the learner's code. Raises: _Failed, the same for every test."""
        if self._unloadable:
            raise self._unloadable
        if self._learner:
            return
        known = {name: thing for name, thing in self.names.items() if isinstance(thing, type)}
        self._learner = self.start(known)
        self._allow(self.seconds)
        exercise = self.exercise
        cells = [("setup", exercise.setup), (f"for {exercise.name}", self.code), ("scene", exercise.scene)]
        try:
            loaded = self._learner.load(cells)
            self._defined = {name: thing for name, thing in loaded.items() if self._is_theirs(name)}
        except BaseException as error:  # noqa: BLE001, a learner's cell may raise whatever it likes
            self._unloadable = self._failure(error, "")
            raise self._unloadable from None

    def _allow(self, seconds: float) -> None:
        assert self._learner is not None  # noqa: S101, it has been started
        self.allowed = seconds
        self._learner.allow(seconds)

    def _is_theirs(self, name: str) -> bool:
        """Say whether a name means the learner's in a test: never what the set-up or Python itself has given it.

        Or a cell that defines `raises`, or `len`, would pass every test.
        """
        own = defined(self.exercise.stub) + defined(self.exercise.scene)
        return name in own or not (name in self.names or hasattr(builtins, name))

    def _run(self, test: Test) -> None:
        """Run a test's cell. Raises: _Failed."""
        self._allow(self.next_seconds)
        file = f"<test {test.name}>"
        linecache.cache[file] = (len(test.source), None, test.source.splitlines(keepends=True), file)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compiled(test.source, file), {**self.names, **self._defined})  # noqa: S102
        except BaseException as error:  # noqa: BLE001, a test may fail in every way there is
            failed = self._failure(error, file)
            at = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
            failed.hidden = bool(at) and is_hidden(test.source, at[-1] or 0)
            raise failed from None

    def _failure(self, error: BaseException, file: str) -> _Failed:
        """Return what to tell the learner of an error. Raises: KeyboardInterrupt, Trouble: not their making."""
        trace = getattr(error, "learner", None)
        if isinstance(error, KeyboardInterrupt | Trouble) and trace is None:
            raise error
        if isinstance(error, Gone):
            return self._gone(str(error))
        if isinstance(trace, Trace):
            if isinstance(error, TimeoutError) and trace.text == NOT_IN_TIME:
                self.next_seconds = self.after_hang
            return _theirs(error, trace, self.code, defined(self.exercise.stub))
        if isinstance(error, AssertionError) and str(error):
            return _Failed(str(error))
        if isinstance(error, NameError) and error.name and error.name not in self._defined:
            return _undefined(error.name)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f" at `{frames[-1].line}`" if frames else ""
        if isinstance(error, AssertionError):
            return _Failed(f"it does not hold{place}")
        return _Failed(f"the test cannot go on{place}: {type(error).__name__}: {error}")

    def _gone(self, reason: str) -> _Failed:
        """End a process that does not answer any more, so that the next test gets a new one."""
        assert self._learner is not None  # noqa: S101, it has just not answered
        if "in time" in reason:
            reason = f"your code did not answer within {self.allowed:g} second{'s' * (self.allowed != 1)}"
            if self.allowed < self.seconds:
                reason += f": a test may take {self.seconds:g}, but an earlier one did not end in time"
            self.next_seconds = self.after_hang
        elif "has ended" in reason:
            reason += f" before it answered ({self._learner.ending()})"
        self.close()
        return _Failed(reason)


def _undefined(name: str) -> _Failed:
    return _Failed(f"{name} is not defined: the solution's cell has to define it")


def _theirs(error: BaseException, trace: Trace, code: str, wanted: list[str]) -> _Failed:
    """Return what to tell of an error that was raised in the learner's process; `wanted` has to be defined there."""
    place = f"line {trace.line}: "
    source = trace.source.replace("\n", "\n" + " " * len(f"your {place}"))  # a mark stays below what it marks
    where = f"{place}{source}" if trace.line else ""
    unknown = re.match(r"name '(\w+)' is not defined", trace.text) if isinstance(error, NameError) else None
    if unknown and not where and unknown[1] in wanted:
        return _undefined(unknown[1])
    if unknown and where:
        where += " (only the solution's cell is judged, with what the set-up imports)"
    text = re.sub(r" \(<[^>]*>, line \d+\)$", "", trace.text)  # of a SyntaxError: the line is in `where`
    if isinstance(error, NotImplementedError) and not trace.text and STUB[-1] in code:
        return _Failed(NOT_WRITTEN)
    return _Failed(f"{trace.kind}: {text}" if text else trace.kind, where)


def judge_apart(folder: str, name: str, code: str) -> Verdict:
    """Judge in another process than this one, which may be a notebook's kernel, full of a learner's code.

    Raises: MinidockerError where that process does not give a verdict.
    """
    import subprocess

    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM, package],
            input=json.dumps([folder, name, code]),
            capture_output=True,
            encoding="utf-8",
            timeout=_LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MinidockerError(f"{name} cannot be judged: there is no verdict after {_LONGEST} seconds") from None
    try:
        exercise, written, tests, *more = json.loads(done.stdout)
        return Verdict(exercise, written, tuple(Outcome(*test) for test in tests), *more)
    except ValueError:
        raise MinidockerError(f"{name} cannot be judged: {done.stderr.strip()[-500:]}") from None


def main() -> None:
    """Judge what is on standard input and write the verdict to standard output: what `judge_apart` starts."""
    from minidocker.course import catalogue

    answer, sys.stdout = sys.stdout, sys.stderr
    folder, name, code = json.load(sys.stdin)
    try:
        verdict = judge(catalogue.load(folder).get(name), code, after_hang=AFTER_HANG)
    except Trouble as trouble:
        sys.exit(str(trouble))
    json.dump(verdict, answer)
