"""Make a class of thirty learners and what they have handed in: good, partial, broken, hostile and late.

    .venv/bin/python examples/class/make_class.py CLASS [SECTION]     # of 02_images where no section is named
    minidocker course collect --to CLASS/submissions --due '2026-05-31 18:00' CLASS/handed-in
    minidocker grade --timeout 2 --due '2026-05-31 18:00' --out CLASS/marks CLASS/submissions
    # then open CLASS/marks/index.html

CLASS/handed-in is as a course platform gives it to download. CLASS/expected.json says what each has earned: points, or
null where a wrong solution earns whatever its tests say, but not everything.
"""

import json
import os
import random
import sys
import tomllib
from datetime import datetime
from typing import Any, NamedTuple

from minidocker.course import catalogue, generate
from minidocker.course import notebook as notebooks
from minidocker.course.catalogue import Exercise
from minidocker.course.notebook import Notebook

ON_TIME, LATE = datetime(2026, 5, 30, 20, 15), datetime(2026, 6, 1, 1, 30)
NAMES = (
    "Ada Novak, Amir Haddad, Anna Åkesson, Bao Nguyen, Björn Bäck, Chiara Rossi, Chen Wei, Dmitri Orlov, Élodie Petit, "
    "Emre Yılmaz, Fatima Zahra, Grace O'Neill, Hanna Groß, Ibrahim Diallo, Ines Müller-Lüdenscheidt, Jonas Berg, "
    "Kofi Mensah, Lara Horvat, Lucía Peña, Mateusz Łuczak, Mei Lin, Nikos Pappas, Olga Ivanova, Priya Raman, "
    "Quentin Dubois, Rosa Alvarez, Sven Lindqvist, Tomás Vega, Uma Iyer, Zoë de Vries"
).split(", ")

# What hostile learners put into a solution's cell: each would earn everything if it worked.
HOSTILE = {
    "looks for the solutions": """
import glob, os
places = [p for root in ("/", os.getcwd()) for p in glob.glob(root + "/**/solutions/*.ipynb", recursive=True)]
exec(open(places[0]).read())
""",
    "ends early with success": "import os\nprint('all tests have passed')\nos._exit(0)\n",
    "gives the tests' words another meaning": """
import builtins, minidocker.course.testing as testing
testing.equal = lambda *_: None
builtins.AssertionError = type("Nothing", (BaseException,), {})
""",
    "runs for ever": "while True:\n    pass\n",
    "is a fork bomb": "import os\nwhile True:\n    os.fork()\n",
    "fills the disk": "with open('/tmp/full', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))\n",
}


class HandedIn(NamedTuple):
    """What somebody has handed in, and what it is to earn; None: not everything."""

    kind: str
    data: bytes
    earned: int | None
    when: datetime = ON_TIME


class Section:
    """The notebooks of one section, and what can be written into them."""

    def __init__(self, name: str) -> None:
        self.folder = catalogue.folder()
        self.name = name
        path = f"{self.folder}/solutions/{name}.ipynb"
        self.exercises = catalogue.read(path)
        self.empty = generate.exercise_notebook(notebooks.read(path))
        with open(f"{self.folder}/solutions/wrong/{name}.toml", "rb") as file:
            self.wrong: dict[str, list[dict[str, str]]] = tomllib.load(file)
        self.points = sum(exercise.points for exercise in self.exercises)

    def book(self, codes: dict[str, str]) -> Notebook:
        """Return a learner's notebook with this code in the exercises' cells."""
        ids = {f"{name}-solution": code for name, code in codes.items()}
        cells = (cell._replace(source=ids.get(cell.grade_id, cell.source)) for cell in self.empty.cells)
        return self.empty._replace(cells=tuple(cells))

    def right(self) -> dict[str, str]:
        """Return the right code of every exercise."""
        return {exercise.name: plain(exercise.solution) for exercise in self.exercises}

    def almost(self, exercise: Exercise, which: int) -> str:
        """Return one of the wrong solutions."""
        wrong = self.wrong[exercise.name]
        each = wrong[which % len(wrong)]
        return plain(exercise.solution.replace(each["old"], each["new"]))


def plain(solution: str) -> str:
    """Return a solution as a learner would write it: without the marks."""
    return "\n".join(line for line in solution.splitlines() if not line.strip().startswith("### "))


def good(section: Section) -> list[HandedIn]:
    """Ten who have solved everything, each in a notebook that looks a little different."""
    found = []
    for number in range(10):
        book = section.book({name: f"{code}\n# version {number}" for name, code in section.right().items()})
        if number == 3:  # works with a cell of their own
            book = book._replace(cells=(*book.cells, notebooks.Cell("code", "1 + 1", {}, "mine")))
        if number == 4:  # a warning costs nothing
            book = section.book({name: f"import warnings\n{code}" for name, code in section.right().items()})
        found.append(HandedIn("good", book.to_bytes(), section.points))
    return found


def partial(section: Section) -> list[HandedIn]:
    """Seven who have solved the first exercises, or have made a mistake."""
    found = []
    first, last = section.exercises[0], section.exercises[-1]
    for number in range(2):
        found.append(HandedIn("partial", section.book({first.name: plain(first.solution)}).to_bytes(), first.points))
    for number in range(5):
        codes = section.right() | {last.name: section.almost(last, number)}
        found.append(HandedIn("partial", section.book(codes).to_bytes(), None))
    return found


def broken(section: Section) -> list[HandedIn]:
    """Four whose notebook, or a part of it, cannot be read."""
    first, rest = section.exercises[0], section.points - section.exercises[0].points
    typo = section.right() | {first.name: "def half(:\n    retrun"}
    gone = section.book(section.right())
    cells = tuple(cell for cell in gone.cells if cell.grade_id != f"{first.name}-solution")
    return [
        HandedIn("broken", section.book(typo).to_bytes(), rest),
        HandedIn("broken", gone._replace(cells=cells).to_bytes(), rest),
        HandedIn("broken", section.book({}).to_bytes(), 0),
        HandedIn("broken", section.book(section.right()).to_bytes()[:2000], 0),
    ]


def hostile(section: Section) -> list[HandedIn]:
    """Seven who attack the grader, the last of whom has changed every test."""
    first, rest = section.exercises[0], section.points - section.exercises[0].points
    found = [section.book(section.right() | {first.name: attack}) for attack in HOSTILE.values()]
    book = section.book({})
    tests = [cell._replace(source="pass") if cell.nbgrader.get("grade") else cell for cell in book.cells]
    return [
        *(HandedIn("hostile", each.to_bytes(), rest) for each in found),
        HandedIn("hostile", book._replace(cells=tuple(tests)).to_bytes(), 0),
    ]


def late(section: Section) -> list[HandedIn]:
    """Two who have solved everything too late."""
    return [each._replace(kind="late", when=LATE) for each in good(section)[:2]]


def main(folder: str, name: str = "02_images") -> None:
    """Write the class."""
    section = Section(name)
    everything = good(section) + partial(section) + broken(section) + hostile(section) + late(section)
    random.Random(30).shuffle(everything)
    expected: dict[str, Any] = {}
    for number, (student, each) in enumerate(zip(NAMES, everything, strict=True), 1):
        place = f"{folder}/handed-in/{student}_{4700 + number}_assignsubmission_file_"
        os.makedirs(place, exist_ok=True)
        path = f"{place}/{name}.ipynb"
        with open(path, "wb") as file:
            file.write(each.data)
        os.utime(path, (each.when.timestamp(),) * 2)
        expected[student] = {"kind": each.kind, "earned": each.earned, "points": section.points}
    with open(f"{folder}/expected.json", "w", encoding="utf-8") as file:
        json.dump(expected, file, indent=1, ensure_ascii=False)
    print(f"{len(expected)} learners have handed in {name}: {folder}/handed-in")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
