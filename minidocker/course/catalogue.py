"""Every exercise of the course, read from its notebooks: the task's text is the data.

    solutions/NN_name.ipynb     the source: tasks, solutions, all tests; a hand-out to learners may lack it
    exercises/NN_name.ipynb     what the learner works in: made from it by `minidocker.course.generate`

A cell is known by its grade_id: "setup"; NAME is the task, NAME-solution, NAME-scene, NAME-test-WORD, NAME-check.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from minidocker.course import generate
from minidocker.course import notebook as notebooks
from minidocker.course.notebook import Cell, NotANotebook, Notebook
from minidocker.errors import MinidockerError

_HEAD = re.compile(r"\*(\d+) minutes · (\d+) points?(?: · becomes `(minidocker(?:\.\w+)+)`)?\*")
_HINT = re.compile(r"<details>\s*<summary>[^<]*</summary>\s*(.*?)\s*</details>", re.DOTALL)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NEAR = 0.75  # how like a name another one is that was meant, of 1
_TASK_FORM = (
    "an exercise's task begins with '## Title', then '*15 minutes · 4 points · becomes `minidocker.module.name`*' "
    "(the last part may be left out)"
)


class BadExercise(MinidockerError):
    """A notebook's cells do not make up an exercise."""


class NoSuchExercise(MinidockerError):
    """No exercise of that name."""


class NoCourse(MinidockerError):
    """No folder that is named, or that one is in, holds the course."""


class Lost(NotANotebook):
    """A learner's notebook is missing, or is none any more."""


class Test(NamedTuple):
    """One graded test cell. `source` includes what is hidden from learners, where this course has it."""

    name: str
    points: int
    source: str


class Exercise(NamedTuple):
    """One exercise. `replaces` is the dotted name of the engine's own function, "" where there is none.

    `task` is the text without the hints, `scene` and `setup` are code that runs beside the learner's. `stub` is the
    solution's cell as a learner finds it. Read from a learner's notebook, `solution` is what the learner has written.
    """

    name: str
    section: str
    title: str
    minutes: int
    points: int
    replaces: str
    reads: tuple[str, ...]
    hints: tuple[str, ...]
    task: str
    setup: str
    solution: str
    stub: str
    scene: str
    tests: tuple[Test, ...]


class Course(NamedTuple):
    """The folder that holds the course, its exercises in their order, and whether it has the solutions."""

    folder: str
    exercises: tuple[Exercise, ...]
    complete: bool

    def get(self, name: str) -> Exercise:
        """Return an exercise by its name. Raises: NoSuchExercise, with the nearest name there is."""
        for exercise in self.exercises:
            if exercise.name == name:
                return exercise
        import difflib

        if inside := self.section(name):
            raise NoSuchExercise(f"{name} is a section: name one of its exercises, {_names(inside)}")
        near = difflib.get_close_matches(name, [exercise.name for exercise in self.exercises], n=1, cutoff=_NEAR)
        hint = f": did you mean {near[0]}?" if near else ": see 'minidocker course list'"
        raise NoSuchExercise(f"no exercise is called {name!r}{hint}")

    def section(self, name: str) -> tuple[Exercise, ...]:
        """Return the exercises of a section, named as it is or by its notebook's path; none where there is none."""
        section = os.path.basename(name).removesuffix(".ipynb")
        return tuple(exercise for exercise in self.exercises if exercise.section == section)

    def path(self, exercise: Exercise) -> str:
        """Return the notebook in which the learner writes this exercise."""
        return f"{self.folder}/exercises/{exercise.section}.ipynb"

    def written(self, exercise: Exercise) -> str:
        """Return what stands in the learner's solution cell, the stub where there is no such cell. Raises: Lost."""
        cells = learners(self.path(exercise)).cells
        return next((cell.source for cell in cells if _solves(cell, exercise.name)), exercise.stub)

    def write(self, exercise: Exercise, source: str) -> None:
        """Put `source` into the learner's solution cell. Raises: MinidockerError where there is none; OSError."""
        path = self.path(exercise)
        book = notebooks.read(path)
        if not any(_solves(cell, exercise.name) for cell in book.cells):
            raise MinidockerError(f"{path} has no cell {exercise.name}-solution any more: restore the notebook")
        cells = [cell._replace(source=source) if _solves(cell, exercise.name) else cell for cell in book.cells]
        notebooks.write(path, Notebook(tuple(cells), book.metadata))

    def restore(self, exercise: Exercise) -> None:
        """Make the learner's whole notebook anew. Raises: MinidockerError where there are no solutions; OSError."""
        if not self.complete:
            raise MinidockerError("this copy of the course cannot make a notebook anew: take it from the hand-out")
        os.makedirs(f"{self.folder}/exercises", exist_ok=True)
        book = notebooks.read(f"{self.folder}/solutions/{exercise.section}.ipynb")
        notebooks.write(self.path(exercise), generate.exercise_notebook(book))


def learners(path: str) -> Notebook:
    """Return a learner's notebook. Raises: Lost where it is missing or broken, with what restores it; OSError."""
    section = os.path.basename(path).removesuffix(".ipynb")
    try:
        return notebooks.read(path)
    except FileNotFoundError:
        raise Lost(f"{path} is missing: 'minidocker course reset {section}' (or git) restores it") from None
    except NotANotebook as problem:
        way = f"'minidocker course reset --force {section}' moves it aside and puts a new one in its place"
        raise Lost(f"{problem}; {way}") from problem


def _names(exercises: Iterable[Exercise]) -> str:
    return ", ".join(exercise.name for exercise in exercises)


def _solves(cell: Cell, name: str) -> bool:
    return cell.grade_id == f"{name}-solution"


def folder() -> str:
    """Return the course's folder: MINIDOCKER_COURSE, or the current one or one above it, or the project's own.

    Raises: NoCourse where one is in none; MinidockerError where the one that is named is none.
    """
    if named := os.environ.get("MINIDOCKER_COURSE"):
        kinds = [f"{os.path.abspath(named)}/{kind}" for kind in ("solutions", "exercises")]
        if not any(name.endswith(".ipynb") for kind in kinds if os.path.isdir(kind) for name in os.listdir(kind)):
            raise MinidockerError(
                f"there is no course in {named}: name the folder that holds exercises/ in MINIDOCKER_COURSE"
            )
        return os.path.abspath(named)
    place = os.getcwd()
    above = [place]
    while os.path.dirname(place) != place:
        place = os.path.dirname(place)
        above.append(place)
    project = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for candidate in [*above, project]:
        if any(_sections(f"{candidate}/{kind}") for kind in ("solutions", "exercises")):
            return candidate
    raise NoCourse("the course is not here: go to the folder that holds exercises/, or name it in MINIDOCKER_COURSE")


def load(place: str = "") -> Course:
    """Read the whole course. Raises: BadExercise, NotANotebook, MinidockerError, OSError."""
    place = place or folder()
    kind = "solutions" if _sections(f"{place}/solutions") else "exercises"
    found: list[Exercise] = []
    for section in _sections(f"{place}/{kind}"):
        found += read(f"{place}/{kind}/{section}.ipynb")
    for number, exercise in enumerate(found):
        for other in found[:number]:
            if other.name == exercise.name:
                raise BadExercise(f"two exercises are called {other.name}: in {other.section} and {exercise.section}")
    return Course(place, tuple(found), kind == "solutions")


def _sections(place: str) -> list[str]:
    """Return the names of the course's notebooks in a folder, without their ending."""
    names = os.listdir(place) if os.path.isdir(place) else []
    return sorted(name.removesuffix(".ipynb") for name in names if re.fullmatch(r"\d\d_\w+\.ipynb", name))


def read(path: str) -> list[Exercise]:
    """Return the exercises of one notebook, in their order. Raises: BadExercise, NotANotebook, OSError."""
    cells = {}
    for cell in notebooks.read(path).cells:
        if cell.grade_id and cell.grade_id in cells:
            raise BadExercise(f"{path}: two cells have the grade_id {cell.grade_id}")
        if cell.grade_id:
            cells[cell.grade_id] = cell
    section = os.path.basename(path).removesuffix(".ipynb")
    names = [name.removesuffix("-solution") for name in cells if name.endswith("-solution")]
    try:
        return [_exercise(section, name, cells) for name in names]
    except (BadExercise, generate.BadMarkers) as problem:
        raise BadExercise(f"{path}: {problem}") from problem


def _exercise(section: str, name: str, cells: dict[str, Cell]) -> Exercise:
    """Put one exercise together. Raises: BadExercise."""
    if not _NAME.fullmatch(name):
        raise BadExercise(f"{name!r} is no name for an exercise: small letters, digits and _, a letter first")
    if name not in cells:
        raise BadExercise(f"{name} has a solution but no task: a cell with the grade_id {name}")
    tests = []
    for grade_id, cell in cells.items():
        if grade_id.startswith(f"{name}-test-"):
            points = cell.nbgrader.get("points")
            if not isinstance(points, int) or points < 1 or not cell.nbgrader.get("grade"):
                raise BadExercise(f"{grade_id} is not worth a whole number of points from 1")
            generate.visible(cell.source)
            tests.append(Test(grade_id.removeprefix(f"{name}-test-"), points, cell.source))
    stub = generate.stub_of(cells[f"{name}-solution"])
    title, minutes, points, replaces = _head(name, cells[name].source)
    total = sum(test.points for test in tests)
    if total != points:
        raise BadExercise(f"{name}: the task says {points} points, its {len(tests)} tests are worth {total}")
    text = cells[name].source
    sources = {kind: cells[f"{name}-{kind}"].source for kind in ("solution", "scene") if f"{name}-{kind}" in cells}
    return Exercise(
        name,
        section,
        title,
        minutes,
        points,
        replaces,
        _reads(text),
        tuple(_HINT.findall(text)),
        _HINT.sub("", text).strip(),
        cells["setup"].source if "setup" in cells else "",
        sources["solution"],
        stub,
        sources.get("scene", ""),
        tuple(tests),
    )


def _head(name: str, text: str) -> tuple[str, int, int, str]:
    """Return the title, minutes, points and the engine's function of a task. Raises: BadExercise."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    title = re.fullmatch(r"#{2,3} +(.+)", lines[0]) if lines else None
    head = _HEAD.fullmatch(lines[1]) if len(lines) > 1 else None
    if not title or not head:
        raise BadExercise(f"{name}: {_TASK_FORM}; found {lines[:2]}")
    if text.count("<details>") != len(_HINT.findall(text)):
        raise BadExercise(f"{name}: a hint is '<details><summary>Hint 1</summary>', a text, '</details>'")
    return title[1].strip(), int(head[1]), int(head[2]), head[3] or ""


def _reads(text: str) -> tuple[str, ...]:
    """Return what the task's `**Read:**` line names."""
    found = re.search(r"^\*\*Read:\*\*\s*((?:.+\n?)+)", text, re.MULTILINE)
    parts = re.split(r",\s+(?!\*)", found[1]) if found else []  # what is in italics is a part of the text before it
    return tuple(" ".join(part.split()) for part in parts if part.strip())
