"""A class, graded: each submission is read, judged by a pool's judges, and kept as one JSON file as soon as it is done.

    OUT/results/STUDENT/ASSIGNMENT.json    see `minidocker.course.result`
    OUT/cache/SHA256.json                  what was judged, by all that the marks depend on

Whoever is killed goes on where it was: what is in the cache is not judged again, for whom ever it was.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from itertools import chain
from typing import NamedTuple, Protocol, Self

from minidocker import __version__
from minidocker.course import assignment as assignments
from minidocker.course import catalogue, marking, result, submission
from minidocker.course.assignment import Assignment
from minidocker.course.judge import Outcome, Verdict
from minidocker.course.pool import Done, Job, Limits
from minidocker.course.result import GradedBy, Result
from minidocker.course.submission import Found, Reading
from minidocker.errors import MinidockerError

_LESS = 0.8  # of a test's time is for a whole notebook's cells: the rest is for their judge
_MORE = 10  # times a cell's time is for a whole notebook in fidelity mode
_MORE_MEMORY = 4 << 30  # bytes of address space that a kernel with its threads may ask for
_LONGEST = 500  # characters of a trouble


class Judges(Protocol):
    """What judges: `minidocker.course.pool.Pool`, or a cluster's scheduler in its place."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Judge every job and yield each answer as it comes, in any order."""


class Rules(NamedTuple):
    """How a class is graded, and where to."""

    out: str
    limits: Limits = Limits()
    due: datetime | None = None
    fidelity: bool = False

    @property
    def seconds(self) -> float:
        """Return what the cells up to a graded one may take where a whole notebook is run; in fidelity mode, each."""
        return self.limits.seconds * _LESS if not self.fidelity else self.limits.seconds

    @property
    def of_judge(self) -> Limits:
        """Return the limits of a pool. A kernel takes time to start, and more memory."""
        if not self.fidelity:
            return self.limits
        return self.limits._replace(seconds=self.limits.seconds * _MORE, memory=_MORE_MEMORY)


class Assignments:
    """The assignments there are, by name; read when they are asked for."""

    def __init__(self, paths: dict[str, str], rules: Rules) -> None:
        self.names = tuple(paths)
        self._paths = paths
        self._rules = rules
        self._read: dict[str, Assignment] = {}

    def get(self, name: str) -> Assignment:
        """Return one assignment. Raises: MinidockerError, OSError."""
        if name not in self._read:
            if name not in self._paths:
                raise MinidockerError(f"no assignment is called {name!r}: there are {', '.join(sorted(self.names))}")
            work = f"{self._rules.out}/.course"
            self._read[name] = assignments.load(name, self._paths[name], work, self._rules.fidelity)
        return self._read[name]

    def all(self) -> list[Assignment]:
        """Return all that can be read."""
        found = []
        for name in self.names:
            with contextlib.suppress(MinidockerError, OSError):
                found.append(self.get(name))
        return found


def known(paths: Iterable[str], wanted: str = "") -> dict[str, str]:
    """Return the teacher's notebook of every assignment, by its name.

    It is `wanted` where that is a path, or in nbgrader's `source` beside `submitted`, or in the course's folder.
    Raises: MinidockerError where there is none, or MINIDOCKER_COURSE names a folder without one.
    """
    if wanted.endswith(".ipynb"):
        return {os.path.basename(wanted).removesuffix(".ipynb"): wanted}
    found: dict[str, str] = {}
    with contextlib.suppress(catalogue.NoCourse):
        folder = catalogue.folder()
        kind = next(kind for kind in ("solutions", "exercises") if os.path.isdir(f"{folder}/{kind}"))
        for name in sorted(os.listdir(f"{folder}/{kind}")):
            if name.endswith(".ipynb") and not name.startswith("."):
                found[name.removesuffix(".ipynb")] = f"{folder}/{kind}/{name}"
    for path in paths:
        before, submitted, _ = f"{os.path.abspath(path)}/".partition("/submitted/")
        source = f"{before.rstrip('/') if submitted else os.path.abspath(path)}/source"
        for folder, _, names in os.walk(source):
            for name in sorted(names):
                stem, inner = name.removesuffix(".ipynb"), os.path.basename(folder)
                if name.endswith(".ipynb") and "/." not in folder.removeprefix(source):
                    found[stem if stem == inner else f"{inner}-{stem}"] = f"{folder}/{name}"
    if not found:
        raise MinidockerError("there is no assignment: name the teacher's notebook, --assignment FILE.ipynb")
    return found


def grade(found: list[Found], course: Assignments, rules: Rules, pool: Callable[[], Judges]) -> Iterator[Result]:
    """Grade submissions and yield each result, kept already, as it comes. `pool` is called when a judge is needed.

    Raises: MinidockerError where another grader is at work on the same folder; OSError.
    """
    os.makedirs(rules.out, exist_ok=True)
    with open(f"{rules.out}/.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MinidockerError(f"another grader is at work on {rules.out}") from None
        yield from _Class(found, course, rules).run(pool)


class _Read(NamedTuple):
    """A submission that has been read: what is to be judged, and what the result says besides."""

    found: Found
    sha256: str
    assignment: Assignment
    reading: Reading


class _Class:
    """One run. `ready` are results to be yielded, `waiting` submissions that wait for a job, by its key.

    `unnamed` are those in trouble, with the file's hash: the others, `seen`, may tell of what they are.
    """

    def __init__(self, found: list[Found], course: Assignments, rules: Rules) -> None:
        self.found = found
        self.course = course
        self.rules = rules
        self.ready: list[Result] = []
        self.seen: set[str] = set()
        self.unnamed: list[tuple[Found, str, str]] = []
        self.waiting: dict[str, list[_Read]] = {}

    def run(self, pool: Callable[[], Judges]) -> Iterator[Result]:
        """Yield the results."""
        jobs = self._jobs()
        first = next(jobs, None)
        yield from self._drain()
        if first is not None:
            with pool() as judges:
                for done in judges.run(chain([first], jobs)):
                    self._settle(done)
                    yield from self._drain()
        names = {each.assignment for each in self.found if each.assignment} or self.seen
        for each, sha256, trouble in self.unnamed:
            name = each.assignment or (next(iter(names)) if len(names) == 1 else "unknown")
            self._failed(each._replace(assignment=name), sha256, trouble)
        yield from self._drain()

    def _drain(self) -> Iterator[Result]:
        while self.ready:
            yield self.ready.pop(0)

    def _jobs(self) -> Iterator[Job]:
        """Read every submission; yield what has to be judged, each code once."""
        for found in self.found:
            sha256 = ""
            try:
                if found.trouble:
                    raise MinidockerError(found.trouble)
                data = submission.content(found.file)
                sha256 = hashlib.sha256(data).hexdigest()
                read = self._read(found, sha256, data)
            except (MinidockerError, OSError) as trouble:
                self.unnamed.append((found, sha256, str(trouble)))
                continue
            self.seen.add(read.assignment.name)
            codes = submission.code_of(read.reading, self.rules.seconds)
            key = _key(codes, read.assignment, self.rules.limits)
            if key in self.waiting:
                self.waiting[key].append(read)
            elif (done := _cached(self.rules.out, key)) or not codes:
                self._keep(read, done or Done(key, (), 0))
            else:
                self.waiting[key] = [read]
                yield Job(key, read.assignment.name, read.assignment.folder, codes)

    def _read(self, found: Found, sha256: str, data: bytes) -> _Read:
        """Find out what a notebook is of and what is to be judged. Raises: MinidockerError, OSError."""
        book = submission.parsed(data)
        name = found.assignment or submission.belongs_to(book, self.course.all())
        if not name:
            raise MinidockerError("none of its cells is an exercise of an assignment: its metadata may have been lost")
        assignment = self.course.get(name)
        if not submission.belongs_to(book, [assignment]):
            other = submission.belongs_to(book, self.course.all())
            of = f"it is a notebook of {other}" if other else "none of its cells is one of the assignment's"
            raise MinidockerError(f"{of}, and not of {name}")
        return _Read(found._replace(assignment=name), sha256, assignment, submission.take(book, assignment))

    def _settle(self, done: Done) -> None:
        """Keep what a judge has said, for all who have handed in the same code."""
        waiting = self.waiting.pop(done.key)
        try:
            tuple(marking.exercises(waiting[0].assignment, waiting[0].reading.states, done.verdicts))
        except marking.Unjudged as problem:
            done = done._replace(trouble=done.trouble or str(problem))
        if not done.trouble:
            verdicts = [[*each[:2], [list(test) for test in each.tests], *each[3:]] for each in done.verdicts]
            fields = {"verdicts": verdicts, "seconds": round(done.seconds, 4)}
            result.write_json(f"{self.rules.out}/cache/{done.key}.json", fields)
        for read in waiting:
            if done.trouble:
                self._failed(read.found, read.sha256, f"the grader has failed: {done.trouble}")
            else:
                self._keep(read, done)

    def _keep(self, read: _Read, done: Done) -> None:
        """Make the result of a submission, and keep it."""
        found, assignment = read.found, read.assignment
        made = tuple(marking.exercises(assignment, read.reading.states, done.verdicts))
        by = GradedBy(__version__, assignment.sha256, assignment.mode, round(done.seconds, 4))
        late = submission.is_late(found.file, self.rules.due)
        points, earned = sum(each.points for each in made), sum(each.earned for each in made)
        notes, name = read.reading.notes, assignment.name
        self._done(Result(found.student, name, found.file, read.sha256, late, points, earned, made, notes, "", by))

    def _failed(self, found: Found, sha256: str, trouble: str) -> None:
        """Make the result of a submission that cannot be graded."""
        points, by = 0.0, GradedBy(__version__, "", "", 0)
        with contextlib.suppress(MinidockerError, OSError):
            assignment = self.course.get(found.assignment)
            points, by = assignment.points, by._replace(assignment_sha256=assignment.sha256, mode=assignment.mode)
        late = submission.is_late(found.file, self.rules.due)
        name, said = found.assignment, printable(" ".join(trouble.split()))[:_LONGEST]
        self._done(Result(found.student, name, found.file, sha256, late, points, 0, (), (), said, by))

    def _done(self, made: Result) -> None:
        result.write(self.rules.out, made)
        result.forget_others(self.rules.out, made)
        self.ready.append(made)


def printable(text: str) -> str:
    """Return a stranger's text without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _key(codes: dict[str, str], assignment: Assignment, limits: Limits) -> str:
    """Return what stands for all that the marks depend on."""
    parts = [sorted(codes.items()), assignment.sha256, assignment.mode, list(limits), version()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def version() -> str:
    """Return what changes whenever the grader may judge otherwise: Python's version, and minidocker's own text."""
    digest = hashlib.sha256(sys.version.encode())
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder, folders, names in os.walk(package):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                with open(f"{folder}/{name}", "rb") as file:
                    digest.update(file.read())
    return digest.hexdigest()


def _cached(out: str, key: str) -> Done | None:
    """Return what was said of the same code before; None where nothing was, or nothing that can be read."""
    try:
        with open(f"{out}/cache/{key}.json", encoding="utf-8") as file:
            fields = json.load(file)
        verdicts = (
            Verdict(name, written, tuple(Outcome(*test) for test in tests), *more)
            for name, written, tests, *more in fields["verdicts"]
        )
        return Done(key, tuple(verdicts), fields["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
