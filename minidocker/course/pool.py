"""Grading side by side: judges that each work through one submission after the other, in boxes.

`Pool.run` is all that a grader knows of it, so that a cluster's scheduler can take its place. Each worker is a program
of its own (see `minidocker.course.worker`): nothing that this process knows gets there but the tests of an assignment
and one submission at a time.
"""

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from minidocker.course import catalogue, sandbox, worker
from minidocker.course.catalogue import Exercise
from minidocker.course.judge import Outcome, Verdict
from minidocker.course.sandbox import Limits
from minidocker.errors import MinidockerError

__all__ = ["Done", "Job", "Limits", "Pool", "exercises"]

_TO_START = 60.0  # seconds for a worker to be ready
_TO_ANSWER = 30.0  # seconds beyond what the tests may take
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Job(NamedTuple):
    """One submission: the course's folder, the section in it, and the learner's cells by exercise.

    `key` is the caller's, to know the answer by.
    """

    key: str
    assignment: str
    folder: str
    codes: dict[str, str]


class Done(NamedTuple):
    """How a job went: a verdict for each exercise whose cell it had, in the section's order.

    `trouble` is the grader's own failure, never the learner's: then there are no verdicts.
    """

    key: str
    verdicts: tuple[Verdict, ...]
    seconds: float
    trouble: str = ""


class _Worker:
    """A worker's process, and what it is at."""

    def __init__(self, limits: Limits) -> None:
        self.connection, theirs = socket.socketpair()
        self.job: Job | None = None
        self.began = self.deadline = time.monotonic()
        self.knows: tuple[str, str] | None = None  # the assignment whose tests it has
        self.started = False
        images = sandbox.images()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-u", "-c", worker.PROGRAM, os.path.dirname(sandbox.PACKAGE)]
                + [str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env={**_ENVIRONMENT, "HOME": "/tmp", **({"MINIDOCKER_EMBEDDED": images.path} if images else {})},
                start_new_session=True,
            )
        worker.send(self.connection, {"limits": list(limits)})

    def start(self) -> tuple[str, ...]:
        """Wait until it is ready; return what is weaker on this machine. Raises: MinidockerError."""
        if self.started:
            return ()
        self.started = True
        self.deadline = time.monotonic() + _TO_START
        return tuple(self.receive()["ready"])

    def give(self, job: Job, tests: list[Exercise], limits: Limits) -> None:
        """Have it judge a job. Raises: OSError."""
        message: dict[str, Any] = {"codes": job.codes}
        if self.knows != (job.folder, job.assignment):
            message["exercises"] = [worker.pack(exercise) for exercise in tests]
            self.knows = (job.folder, job.assignment)
        self.job = job
        self.began = time.monotonic()
        pieces = sum(2 * len(exercise.tests) for exercise in tests)  # each may be given a process that has to load
        self.deadline = self.began + pieces * limits.seconds + _TO_ANSWER
        worker.send(self.connection, message)

    def receive(self) -> dict[str, Any]:
        """Return what it says. Raises: MinidockerError for trouble, an end, or no answer in time."""
        self.connection.settimeout(max(0.1, self.deadline - time.monotonic()))
        try:
            message = worker.receive(self.connection)
        except OSError:
            raise MinidockerError("the judge did not answer in time") from None
        if message is None:
            raise MinidockerError("the judge has ended before it answered")
        if "trouble" in message:
            raise MinidockerError(message["trouble"])
        return message

    def lives(self) -> bool:
        """Say whether it still waits for a job: one that was killed meanwhile has hung up."""
        if self.process.poll() is not None:
            return False
        return not self.started or not select.select([self.connection], [], [], 0)[0]

    def end(self) -> None:
        """End it, and with it all that is in its room."""
        self.connection.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pool:
    """So many judges at work. Use it as a context manager.

    `weaker` says what this machine cannot do as well as another: known once the first job has been given.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self.weaker: tuple[str, ...] = ()
        self._limits = limits
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._size = max(1, workers)
        self._tests: dict[tuple[str, str], list[Exercise]] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and what they have started."""
        for one in self._idle + self._busy:
            one.connection.close()
        for one in self._idle + self._busy:
            one.end()
        self._idle, self._busy = [], []

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Judge every job and yield each answer as it comes, in any order. Jobs are taken as there is room.

        Who stops to listen gives up the jobs that are under way.
        """
        waiting = iter(jobs)
        more = True
        try:
            while more or self._busy:
                while more and len(self._busy) < self._size:
                    job = next(waiting, None)
                    if job is None:
                        more = False
                    elif refused := self._give(job):
                        yield refused
                yield from self._answers()
        finally:
            while self._busy:
                self._busy.pop().end()

    def _give(self, job: Job) -> Done | None:
        """Give a job to a worker; return the answer where it cannot be given."""
        began = time.monotonic()
        one = None
        try:
            tests = self._exercises(job)
            for dead in [one for one in self._idle if not one.lives()]:
                self._idle.remove(dead)
                dead.end()
            while len(self._idle) + len(self._busy) < self._size:  # all at once: they take a while to start
                self._idle.append(_Worker(self._limits))
            one = self._idle.pop()
            self.weaker = one.start() or self.weaker
            one.give(job, tests, self._limits)
            self._busy.append(one)
        except (MinidockerError, OSError) as error:
            if one:
                one.end()
            return Done(job.key, (), time.monotonic() - began, str(error))
        return None

    def _answers(self) -> Iterator[Done]:
        """Wait until a worker answers, or has had its time; yield what has come."""
        if not self._busy:
            return
        left = min(one.deadline for one in self._busy) - time.monotonic()
        ready = select.select([one.connection for one in self._busy], [], [], max(0.0, left))[0]
        for one in list(self._busy):
            if one.connection in ready or time.monotonic() >= one.deadline:
                self._busy.remove(one)
                yield self._answer(one)

    def _answer(self, one: _Worker) -> Done:
        """Return a worker's answer. One that is in trouble is ended, and another will take its place."""
        assert one.job is not None  # noqa: S101, it is one of the busy
        job, one.job = one.job, None
        try:
            verdicts = tuple(_verdict(data) for data in one.receive()["verdicts"])
        except MinidockerError as error:
            one.end()
            return Done(job.key, (), time.monotonic() - one.began, str(error))
        self._idle.append(one)
        return Done(job.key, verdicts, time.monotonic() - one.began)

    def _exercises(self, job: Job) -> list[Exercise]:
        """Return a job's tests, read once. Raises: MinidockerError where a submission could read them, too; OSError."""
        key = (job.folder, job.assignment)
        if key not in self._tests:
            if tree := sandbox.shows(job.folder):
                raise MinidockerError(
                    f"the course in {job.folder} lies in {tree}, which submissions can read: move it elsewhere"
                )
            self._tests[key] = exercises(job.folder, job.assignment)
        return self._tests[key]


def _verdict(data: Any) -> Verdict:
    name, written, tests, *rest = data
    return Verdict(name, written, tuple(Outcome(*test) for test in tests), *rest)


def exercises(folder: str, assignment: str) -> list[Exercise]:
    """Return the exercises of a section, with the hidden tests where the folder has them. Raises: as catalogue.read."""
    path = f"{folder}/solutions/{assignment}.ipynb"
    return catalogue.read(path if os.path.exists(path) else f"{folder}/exercises/{assignment}.ipynb")
