"""Measure `minidocker grade` side by side with `nbgrader autograde`, on the same notebooks, in one run.

    benchmarks/grading.py [--theirs 10,100] [--ours 10,100,1000] [--section 02_images]

Every learner's code is a little different, so that nothing is graded by remembering it. nbgrader grades one submission
after the other, whatever there are of cores. Results go to `benchmarks/grading.json`, and as a table into
docs/grading.md between its markers: never typed by hand.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from minidocker.course import generate
from minidocker.course import notebook as notebooks

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.path.dirname(sys.executable)
MARKERS = re.compile(r"(<!-- grading -->\n).*?(<!-- /grading -->)", re.DOTALL)
OURS, WHOLE, THEIRS = "`minidocker grade`", "`minidocker grade --fidelity`", "`nbgrader autograde`"


class Result(NamedTuple):
    """How long one way of grading took for so many submissions, in seconds of wall time."""

    way: str
    workers: int
    submissions: int
    seconds: float

    @property
    def each(self) -> float:
        """Say how long one submission took."""
        return self.seconds / self.submissions


class Class:
    """So many learners who have solved a section, in a folder of nbgrader's form."""

    def __init__(self, base: str, section: str, submissions: int) -> None:
        self.folder = f"{base}/{submissions}"
        self.section = section
        self.submissions = submissions
        path = f"{PROJECT}/solutions/{section}.ipynb"
        source = notebooks.read(path)
        right = {cell.grade_id: cell.source for cell in source.cells if cell.nbgrader.get("solution")}
        empty = generate.exercise_notebook(source)
        os.makedirs(f"{self.folder}/source/{section}")
        shutil.copy(path, f"{self.folder}/source/{section}/{section}.ipynb")
        with open(f"{self.folder}/nbgrader_config.py", "w") as file:
            file.write("c = get_config()\n")
        for number in range(submissions):
            cells = tuple(
                cell._replace(source=f"{right[cell.grade_id]}\n# {number}" if cell.grade_id in right else cell.source)
                for cell in empty.cells
            )
            place = f"{self.folder}/submitted/learner{number:04}/{section}"
            os.makedirs(place)
            notebooks.write(f"{place}/{section}.ipynb", empty._replace(cells=cells))

    def ours(self, workers: int, fidelity: bool = False) -> Result:
        """Grade the class with our grader, from nothing."""
        out = f"{self.folder}/out-{workers}-{fidelity}"
        argv = ["minidocker", "grade", "--out", out, "--workers", str(workers), f"{self.folder}/submitted"]
        seconds = self._run([*argv, "--fidelity"] if fidelity else argv)
        with open(f"{out}/marks.csv") as file:
            self._nobody_is_missing(len(file.readlines()) - 1)
        return Result(WHOLE if fidelity else OURS, workers, self.submissions, seconds)

    def theirs(self) -> Result:
        """Grade the class with nbgrader, which must know the assignment first; that is not measured."""
        self._run(["nbgrader", "generate_assignment", self.section])
        seconds = self._run(["nbgrader", "autograde", self.section])
        self._nobody_is_missing(len(os.listdir(f"{self.folder}/autograded")))
        return Result(THEIRS, 1, self.submissions, seconds)

    def _nobody_is_missing(self, graded: int) -> None:
        if graded != self.submissions:
            sys.exit(f"{graded} of {self.submissions} were graded")

    def _run(self, argv: list[str]) -> float:
        """Run a command, which must succeed, in the class's folder; return how long it took."""
        env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "MINIDOCKER_COURSE_STATE": f"{self.folder}/state"}
        started = time.perf_counter()
        done = subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return time.perf_counter() - started


def measure(base: str, section: str, ours: list[int], theirs: list[int]) -> list[Result]:
    """Measure everything; each class is graded by all ways before the next one is made."""
    found = []
    for submissions in sorted({*ours, *theirs}):
        made = Class(base, section, submissions)
        ways: list[Callable[[], Result]] = []
        if submissions in ours:
            ways += [partial(made.ours, 1), partial(made.ours, 2)]
        if submissions == min(ours):
            ways.append(partial(made.ours, 2, True))
        if submissions in theirs:
            ways.append(made.theirs)
        for way in ways:
            found.append(result := way())
            print(f"{result.way} of {submissions}, {result.workers} at work: {result.seconds:.1f} s", flush=True)
    return found


def table(results: list[Result], section: str, load: float) -> str:
    """Return the results as the guide shows them."""
    lines = ["| | at work | submissions | seconds | ms a submission |", "|---|---:|---:|---:|---:|"]
    for each in results:
        lines.append(
            f"| {each.way} | {each.workers} | {each.submissions} | {each.seconds:.1f} | {1000 * each.each:.0f} |"
        )
    note = f"`{section}` on {os.cpu_count()} cores, Python {platform.python_version()}; made by `make bench`."
    busy = f" The machine had {load:.0f} other processes at work when this began." if load >= 1 else ""
    return "\n".join([*lines, "", note + busy, ""])


def main() -> None:
    """Measure, write it down and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="10,100,1000")
    parser.add_argument("--theirs", default="10,100")
    parser.add_argument("--section", default="02_images")
    said = parser.parse_args()
    load, base = os.getloadavg()[0], tempfile.mkdtemp(prefix="mdb", dir="/tmp")
    try:
        sizes = ([int(number) for number in text.split(",") if number] for text in (said.ours, said.theirs))
        results = measure(base, said.section, *sizes)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    with open(f"{PROJECT}/benchmarks/grading.json", "w") as file:
        rows = [{**each._asdict(), "seconds": round(each.seconds, 3)} for each in results]
        json.dump(
            {"machine": machine, "load before": round(load, 2), "section": said.section, "runs": rows}, file, indent=1
        )
        file.write("\n")
    shown = table(results, said.section, load)
    with open(f"{PROJECT}/docs/grading.md", encoding="utf-8") as file:
        guide = file.read()
    with open(f"{PROJECT}/docs/grading.md", "w", encoding="utf-8") as file:
        file.write(MARKERS.sub(lambda match: match.group(1) + shown + match.group(2), guide))
    print(shown)


if __name__ == "__main__":
    main()
