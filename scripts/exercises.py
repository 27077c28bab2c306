"""Make the learners' notebooks, and prove that the exercises are good ones.

    scripts/exercises.py write [--force] [SECTION…]    solutions/*.ipynb → exercises/*.ipynb
    scripts/exercises.py drifted                       say which of exercises/ are not what solutions/ makes of them
    scripts/exercises.py prove [SECTION|NAME…]         the solution earns all points, the stub none, and every wrong
                                                       solution fails with a message that names its mistake

The wrong solutions are in solutions/wrong/; another folder than the project's is named in MINIDOCKER_COURSE.
"""

import os
import subprocess
import sys
import time
import tomllib
from typing import NamedTuple

from minidocker.course import catalogue, generate
from minidocker.course.catalogue import Exercise
from minidocker.course.judge import Verdict, judge
from minidocker.errors import MinidockerError

FOLDER = os.environ.get("MINIDOCKER_COURSE") or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECONDS = 1.0  # that a check may take
FEWEST = 3  # wrong solutions


class Wrong(NamedTuple):
    """A wrong solution: the right one with a text replaced, and what a failing test's message must say of it."""

    name: str
    old: str
    new: str
    says: str

    def made_of(self, solution: str) -> str:
        """Return the wrong solution. Raises: ValueError where its text does not stand in the right one just once."""
        if solution.count(self.old) != 1:
            raise ValueError(f"{self.name!r}: `old` stands {solution.count(self.old)} times in the solution, not once")
        return solution.replace(self.old, self.new)


def wrong_solutions(folder: str, exercise: Exercise) -> list[Wrong]:
    """Return the wrong solutions of an exercise. Raises: tomllib.TOMLDecodeError, TypeError for another form."""
    path = f"{folder}/solutions/wrong/{exercise.section}.toml"
    if not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        return [Wrong(**fields) for fields in tomllib.load(file).get(exercise.name, [])]


def faults(exercise: Exercise, wrong: list[Wrong]) -> list[str]:
    """Return what is not as it must be about an exercise, in words."""
    found = []
    if not 2 <= len(exercise.tests) <= 5:
        found.append(f"it has {len(exercise.tests)} tests: 2 to 5 are wanted")
    if len(wrong) < FEWEST:
        found.append(f"it has {len(wrong)} wrong solutions: {FEWEST} are the fewest")
    verdict = judge(exercise, exercise.solution)
    if not verdict.passed:
        found.append(f"its solution earns {verdict.earned} of {verdict.points} points: {failures(verdict)}")
    verdict = judge(exercise, exercise.stub)
    if verdict.earned:
        found.append(f"its stub earns {verdict.earned} points")
    for each in wrong:
        try:
            verdict = judge(exercise, each.made_of(exercise.solution))
        except ValueError as problem:
            found.append(f"wrong solution {problem}")
            continue
        if not any(each.says in test.message for test in verdict.tests if not test.earned):
            what = failures(verdict) if not verdict.passed else "it passes"
            found.append(f"wrong solution {each.name!r}: no message says {each.says!r}; {what}")
    return found


def failures(verdict: Verdict) -> str:
    """Return the messages of the tests that failed."""
    return "; ".join(f"{test.name}: {test.message} {test.where}".strip() for test in verdict.tests if not test.earned)


_ALL_IN_ONE = """
import sys
from minidocker.course import notebook
names = {"__name__": "__main__"}
for cell in notebook.read(sys.argv[1]).cells:
    if cell.kind == "code" and not cell.grade_id.endswith("-check"):
        exec(compile(cell.source, f"<cell {cell.grade_id or cell.id}>", "exec"), names)
"""


def fault_together(path: str) -> str:
    """Return what goes wrong when a solutions' notebook is run from top to bottom in one process; "" for nothing.

    That is what a notebook's kernel does, and nbgrader: there a test can hide a name that a later cell needs.
    """
    words = [sys.executable, "-c", _ALL_IN_ONE, path]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    places = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith('File "<cell')]
    return f"{done.stderr.strip().splitlines()[-1]}: {places[-1] if places else ''}" if done.returncode else ""


def slowness(exercise: Exercise) -> float:
    """Return how long a check of the right solution takes."""
    started = time.monotonic()
    judge(exercise, exercise.solution)
    return time.monotonic() - started


def prove(words: list[str]) -> int:
    """Print the faults of the exercises that the words name, or of all."""
    chosen = []
    for name in sorted(os.listdir(f"{FOLDER}/solutions")):
        section = name.removesuffix(".ipynb")
        if name.endswith(".ipynb") and (section in words or not any(word[:2].isdigit() for word in words)):
            found = catalogue.read(f"{FOLDER}/solutions/{name}")
            chosen += [each for each in found if not words or section in words or each.name in words]
    bad = 0
    for section in dict.fromkeys(exercise.section for exercise in chosen):
        if fault := fault_together(f"{FOLDER}/solutions/{section}.ipynb"):
            print(f"{section}: in one kernel, as nbgrader runs it: {fault}")
            bad += 1
    for exercise in chosen:
        wrong = wrong_solutions(FOLDER, exercise)
        problems = faults(exercise, wrong)
        taken = slowness(exercise)
        bad += bool(problems)
        state = "faulty" if problems else "good"
        print(f"{exercise.section} {exercise.name}: {state}; {len(wrong)} wrong ones; a check takes {taken:.2f} s")
        if taken > SECONDS:
            print(f"    a check takes more than {SECONDS:g} s")
        for fault in problems:
            print(f"    {fault}")
    if not chosen:
        print(f"no exercise or section is called {' or '.join(words)}", file=sys.stderr)
    return 1 if bad or not chosen else 0


def main(words: list[str]) -> int:
    """Carry out what the command line says."""
    solutions, exercises = f"{FOLDER}/solutions", f"{FOLDER}/exercises"
    try:
        if words[:1] == ["write"]:
            sections = [word for word in words[1:] if word != "--force"]
            for name in generate.write_all(solutions, exercises, sections, force="--force" in words):
                print(f"{exercises}/{name}")
        elif words == ["drifted"]:
            found = generate.drifted(solutions, exercises)
            for name in found:
                print(name)
            return 1 if found else 0
        elif words[:1] == ["prove"]:
            return prove(words[1:])
        else:
            print(__doc__)
            return 2
    except MinidockerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
