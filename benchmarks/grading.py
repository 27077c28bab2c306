"""Measure `minidocker grade` side by side with `nbgrader autograde`, on the same notebooks, in one run.

    benchmarks/grading.py [--ours 10,100,1000] [--whole 10] [--theirs 10,100] [--section 02_images]

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
from collections.abc import Iterator
from typing import Any, NamedTuple

from minidocker.course import generate, result
from minidocker.course import notebook as notebooks

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.path.dirname(sys.executable)
MARKERS = re.compile(r"(<!-- grading -->\n).*?(<!-- /grading -->)", re.DOTALL)
OURS, WHOLE, THEIRS = "`minidocker grade`", "`minidocker grade --fidelity`", "`nbgrader autograde`"


class Result(NamedTuple):
    """How long one way of grading took for so many submissions, in seconds of wall time; how many got no marks."""

    way: str
    workers: int
    submissions: int
    seconds: float
    failed: int

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
        seconds = self._run([*argv, "--fidelity"] if fidelity else argv, fine=(0, 1))
        graded = sum(not each.trouble for each in result.read_all(out))
        return Result(WHOLE if fidelity else OURS, workers, self.submissions, seconds, self.submissions - graded)

    def theirs(self) -> Result:
        """Grade the class with nbgrader, which must know the assignment first; that is not measured."""
        self._run(["nbgrader", "generate_assignment", self.section])
        seconds = self._run(["nbgrader", "autograde", self.section])
        graded = len(os.listdir(f"{self.folder}/autograded"))
        return Result(THEIRS, 1, self.submissions, seconds, self.submissions - graded)

    def _run(self, argv: list[str], fine: tuple[int, ...] = (0,)) -> float:
        """Run a command, which must end as is `fine`, in the class's folder; return how long it took."""
        env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "MINIDOCKER_COURSE_STATE": f"{self.folder}/state"}
        started = time.perf_counter()
        done = subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode not in fine:
            sys.exit(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return time.perf_counter() - started


def measure(base: str, section: str, ours: list[int], whole: list[int], theirs: list[int]) -> Iterator[Result]:
    """Measure everything; each class is graded by all ways before the next one is made."""
    for submissions in sorted({*ours, *whole, *theirs}):
        made = Class(base, section, submissions)
        if submissions in theirs:
            yield made.theirs()
        if submissions in ours:
            yield made.ours(1)
            yield made.ours(2)
        if submissions in whole:
            yield made.ours(2, fidelity=True)


def table(results: list[Result], about: dict[str, Any]) -> str:
    """Return the results as the guide shows them."""
    lines = ["| | at work | submissions | seconds | ms a submission |", "|---|---:|---:|---:|---:|"]
    for each in results:
        failed = f" ({each.failed} got no marks)" if each.failed else ""
        numbers = f"{each.workers} | {each.submissions}{failed} | {each.seconds:.1f} | {1000 * each.each:.0f}"
        lines.append(f"| {each.way} | {numbers} |")
    note = f"`{about['section']}` on {about['cores']} cores, Python {about['python']}; made by `make bench-grading`."
    load = about["load before"]
    busy = f" The machine was busy: its load was {load:.0f} when this began." if load > about["cores"] else ""
    return "\n".join([*lines, "", note + busy, ""])


def write(results: list[Result], about: dict[str, Any]) -> str:
    """Write what there is by now to the file and to the guide; return the table."""
    with open(f"{PROJECT}/benchmarks/grading.json", "w") as file:
        rows = [{**each._asdict(), "seconds": round(each.seconds, 3)} for each in results]
        json.dump({"machine": about, "runs": rows}, file, indent=1)
        file.write("\n")
    shown = table(results, about)
    with open(f"{PROJECT}/docs/grading.md", encoding="utf-8") as file:
        guide = file.read()
    with open(f"{PROJECT}/docs/grading.md", "w", encoding="utf-8") as file:
        file.write(MARKERS.sub(lambda match: match.group(1) + shown + match.group(2), guide))
    return shown


def main() -> None:
    """Measure, write it down and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ours", "10,100,1000"), ("whole", "10"), ("theirs", "10,100")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--section", default="02_images")
    said = parser.parse_args()
    about: dict[str, Any] = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    about |= {"load before": round(os.getloadavg()[0], 2), "section": said.section}
    base, results = tempfile.mkdtemp(prefix="mdb", dir="/tmp"), list[Result]()
    try:
        sizes = ([int(number) for number in text.split(",") if number] for text in (said.ours, said.whole, said.theirs))
        for each in measure(base, said.section, *sizes):
            results.append(each)
            print(f"{each.way} of {each.submissions}, {each.workers} at work: {each.seconds:.1f} s", flush=True)
            shown = write(results, about)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(shown)


if __name__ == "__main__":
    main()
