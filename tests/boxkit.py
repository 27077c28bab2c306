"""A pool of one worker and a course of one exercise, to see what a submission's code can do and what it gets for it."""

import os
import re
from collections.abc import Generator
from typing import Any

import pytest

from coursekit import exercise_cells, make_course
from minidocker.course.pool import Done, Job, Limits, Pool

SECRET = "the-expected-value-of-a-hidden-test"
SMALL = Limits(seconds=5, memory=256 << 20, processes=24, files=8 << 20, output=1 << 20)
TESTS = {
    "small": "assert double(1) == 2, f'twice 1 is 2, not {double(1)}'",
    "hidden": "### BEGIN HIDDEN TESTS\n"
    f"assert double(10**30) == 2 * 10**30, {SECRET!r}[:0] + 'twice'\n"
    "### END HIDDEN TESTS",
}
HONEST = "def double(number):\n    return 2 * number"


class Grader:
    """A pool, and the folder of the course that it grades."""

    def __init__(self, pool: Pool, folder: str) -> None:
        self.pool = pool
        self.folder = folder
        self._numbers = iter(range(10**6))

    def job(self, code: str, section: str = "01_first", exercise: str = "double") -> Job:
        return Job(str(next(self._numbers)), section, self.folder, {exercise: code})

    def __call__(self, code: str, section: str = "01_first", exercise: str = "double") -> Done:
        """Grade one cell."""
        (done,) = self.pool.run([self.job(code, section, exercise)])
        return done

    def verdict(self, code: str, section: str = "01_first", exercise: str = "double") -> Any:
        """Grade one cell; the grader itself must have had no trouble."""
        done = self(code, section, exercise)
        assert not done.trouble, done.trouble
        return done.verdicts[0]

    def printed(self, code: str, **where: str) -> str:
        """Return what an honest solution prints that does something else besides, and earns all its points."""
        indented = "".join(f"    {line}\n" for line in code.splitlines())
        tried = f"{HONEST}\ntry:\n{indented}except BaseException as error:\n    print(type(error).__name__, error)\n"
        verdict = self.verdict(tried, **where)
        assert verdict.passed, verdict
        return str(verdict.printed)


def processes(pattern: str) -> list[int]:
    """Return the processes of this machine whose command line matches."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if re.search(pattern, file.read().replace(b"\0", b" ").decode(errors="replace")):
                    found.append(int(pid))
        except OSError:
            continue
    return found


def make_grader(folder: str, limits: Limits = SMALL, sections: Any = None) -> Generator[Grader, None, None]:
    """Write a course into `folder` and give a pool that grades it."""
    make_course(folder, *(sections or [exercise_cells(TESTS)]))
    with Pool(1, limits) as pool:
        grader = Grader(pool, folder)
        done = grader(HONEST)
        if "user namespace" in done.trouble or "clone(" in done.trouble:
            pytest.skip(f"boxes cannot be made here: {done.trouble}")
        assert not done.trouble, done.trouble
        yield grader
