"""Grading side by side: judges that each work through one submission after the other.

`Pool.run` is all that a grader knows of it, so that a cluster's scheduler can take its place.
"""

import os
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from minidocker.course import catalogue
from minidocker.course.catalogue import Exercise
from minidocker.course.judge import Verdict, judge
from minidocker.errors import MinidockerError


class Limits(NamedTuple):
    """What one submission may use: seconds for each test, the rest in bytes and processes."""

    seconds: float = 10
    memory: int = 512 << 20
    processes: int = 64
    files: int = 64 << 20
    output: int = 1 << 20


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


class Pool:
    """So many judges at work. Use it as a context manager."""

    def __init__(self, workers: int, limits: Limits) -> None:
        self._workers = workers
        self._limits = limits

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all judges, and what they have started."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Judge every job and yield each answer as it comes, in any order. Jobs are taken as there is room."""
        for job in jobs:
            started = time.monotonic()
            try:
                found = [each for each in exercises(job.folder, job.assignment) if each.name in job.codes]
                verdicts = tuple(judge(each, job.codes[each.name], self._limits.seconds) for each in found)
                yield Done(job.key, verdicts, time.monotonic() - started)
            except (MinidockerError, OSError) as error:
                yield Done(job.key, (), time.monotonic() - started, str(error))


def exercises(folder: str, assignment: str) -> list[Exercise]:
    """Return the exercises of a section, with the hidden tests where the folder has them. Raises: as catalogue.read."""
    path = f"{folder}/solutions/{assignment}.ipynb"
    return catalogue.read(path if os.path.exists(path) else f"{folder}/exercises/{assignment}.ipynb")
