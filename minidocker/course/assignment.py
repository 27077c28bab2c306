"""An assignment: the teacher's notebook, with solutions and hidden tests, and what of it is graded.

A notebook of this course's form is graded in mode "functions": its tests stay with the judge. Of any other that has
nbgrader's metadata the cells are run one after the other in the learner's process, mode "cells": it is made into one
exercise, whose tests run the notebook up to a graded cell. Mode "notebook" is the same with Jupyter's own kernel.

See: nbgrader's metadata schema version 3.
"""

import hashlib
import os
import re
import shutil
from typing import NamedTuple

from minidocker.course import catalogue, generate
from minidocker.course import notebook as notebooks
from minidocker.course.notebook import KERNEL, Cell, Notebook
from minidocker.errors import MinidockerError

FUNCTIONS, CELLS, NOTEBOOK = "functions", "cells", "notebook"
WHOLE = "notebook"  # the exercise that a notebook of another form becomes
_ENGINE = "minidocker.course.trial"  # what starts an engine imports it
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


class Graded(NamedTuple):
    """A cell that is worth points, by its grade_id; `name` is how the result calls it."""

    grade_id: str
    name: str
    points: float
    source: str


class Part(NamedTuple):
    """What becomes an exercise of the result. `solution` is the grade_id of the learner's cell, "" where none is."""

    name: str
    title: str
    solution: str
    stub: str
    tests: tuple[Graded, ...]


class Assignment(NamedTuple):
    """One assignment. `folder` is the course's for the judges; `by_hand` are cells whose points a person gives."""

    name: str
    path: str
    folder: str
    mode: str
    sha256: str
    cells: tuple[Cell, ...]
    parts: tuple[Part, ...]
    by_hand: tuple[str, ...]

    @property
    def points(self) -> float:
        """Return what there is to earn."""
        return sum(test.points for part in self.parts for test in part.tests)

    @property
    def locked(self) -> dict[str, Cell]:
        """Return the code that learners may not change, by its grade_id."""
        return {cell.grade_id: cell for cell in self.cells if cell.grade_id and cell.kind == "code" and _locked(cell)}

    @property
    def grade_ids(self) -> set[str]:
        """Return the names by which a notebook is known to belong to this assignment."""
        return {part.solution for part in self.parts} | {test.grade_id for part in self.parts for test in part.tests}


def load(name: str, path: str, work: str, fidelity: bool = False) -> Assignment:
    """Read an assignment; put into the folder `work` what judges need and no course holds yet.

    Raises: MinidockerError where nothing in it is graded, or not with `fidelity`; BadExercise, NotANotebook, OSError.
    """
    with open(path, "rb") as file:
        data = file.read()
    cells = notebooks.from_bytes(data, path).cells
    if _is_ours(cells):
        parts = tuple(_part(exercise) for exercise in catalogue.read(path))
        mode, folder, by_hand = FUNCTIONS, _course(name, path, work), list[str]()
    else:
        parts, by_hand = _parts(path, cells)
        mode, folder = CELLS, work
    if fidelity:
        if any(_ENGINE in cell.source for cell in cells):
            raise MinidockerError(
                f"the tests of {name} start an engine, for which a box has no place: leave --fidelity out"
            )
        mode, folder = NOTEBOOK, f"{work}/{NOTEBOOK}"
    if mode != FUNCTIONS:
        _write_whole(f"{folder}/solutions/{name}.ipynb", name, parts, cells, mode)
    return Assignment(name, path, folder, mode, hashlib.sha256(data).hexdigest(), cells, parts, tuple(by_hand))


def _locked(cell: Cell) -> bool:
    marks = cell.nbgrader
    return bool(marks.get("locked") or marks.get("grade")) and not marks.get("solution")


def _is_ours(cells: tuple[Cell, ...]) -> bool:
    """Say whether a notebook has an exercise of this course's form: NAME, NAME-solution and NAME-test-WORD."""
    ids = {cell.grade_id for cell in cells}
    names = {grade_id.removesuffix("-solution") for grade_id in ids if grade_id.endswith("-solution")}
    return any(name in ids and any(each.startswith(f"{name}-test-") for each in ids) for name in names)


def _course(name: str, path: str, work: str) -> str:
    """Return the course's folder that a notebook lies in; one that lies elsewhere gets a course of its own."""
    folder, kind = os.path.split(os.path.dirname(os.path.abspath(path)))
    if kind in ("solutions", "exercises") and os.path.basename(path) == f"{name}.ipynb":
        return folder
    os.makedirs(f"{work}/solutions", exist_ok=True)
    shutil.copyfile(path, f"{work}/solutions/{name}.ipynb")
    return work


def _part(exercise: catalogue.Exercise) -> Part:
    prefix = f"{exercise.name}-test-"
    tests = tuple(Graded(prefix + test.name, test.name, test.points, test.source) for test in exercise.tests)
    return Part(exercise.name, exercise.title, f"{exercise.name}-solution", exercise.stub, tests)


def _parts(path: str, cells: tuple[Cell, ...]) -> tuple[tuple[Part, ...], list[str]]:
    """Return the parts of a notebook of any form, a solution's cell and the tests after it, and what is for people.

    Raises: MinidockerError.
    """
    parts, by_hand, heading = [Part(WHOLE, "The notebook", "", "", ())], list[str](), ""
    for cell in cells:
        marks, points = cell.nbgrader, _points(path, cell)
        if cell.kind == "markdown" and (found := _HEADING.findall(cell.source)):
            heading = found[-1]
        if points and (marks.get("solution") or marks.get("task") or cell.kind != "code"):
            by_hand.append(f"{cell.grade_id} ({points:g} points)")
        elif marks.get("solution") and cell.kind == "code":
            parts.append(Part(cell.grade_id, heading or cell.grade_id, cell.grade_id, generate.stub_of(cell), ()))
        elif points:
            test = Graded(cell.grade_id, cell.grade_id, points, cell.source)
            parts[-1] = parts[-1]._replace(tests=(*parts[-1].tests, test))
    graded = tuple(part for part in parts if part.tests)
    ids = [test.grade_id for part in graded for test in part.tests]
    if not graded:
        raise MinidockerError(f"{path}: no cell is graded: mark them in JupyterLab with nbgrader's 'Create Assignment'")
    if len(set(ids)) < len(ids):
        raise MinidockerError(f"{path}: two graded cells have the same grade_id")
    return graded, by_hand


def _points(path: str, cell: Cell) -> float:
    """Return what a cell is worth. Raises: MinidockerError."""
    points = cell.nbgrader.get("points", 0) if cell.nbgrader.get("grade") or cell.nbgrader.get("task") else 0
    if not isinstance(points, (int, float)) or not 0 <= points < float("inf"):
        raise MinidockerError(f"{path}: {cell.grade_id} is not worth a number of points: {points!r}")
    return int(points) if points == int(points) else points


def _write_whole(path: str, name: str, parts: tuple[Part, ...], whole: tuple[Cell, ...], mode: str) -> None:
    """Write the one exercise that a whole notebook becomes, by which its judge knows whether namespaces are needed.

    See: `minidocker.course.cells`, `minidocker.course.fidelity`.
    """
    runner = "fidelity" if mode == NOTEBOOK else "cells"
    needs = "  # a cell calls child()" if any("child(" in cell.source for cell in whole) else ""
    tests = [(test.grade_id, f"run_to({test.grade_id!r}, {part.solution!r})") for part in parts for test in part.tests]
    cells = [
        _cell("setup", f"from minidocker.course.{runner} import Runner", locked=True),
        _cell(WHOLE, f"## {name}\n*1 minutes · {len(tests)} points*", kind="markdown", locked=True),
        _cell(f"{WHOLE}-solution", generate.STUB[-1], solution=True),
        _cell(f"{WHOLE}-scene", f"run_to = Runner(*__cells__){needs}", locked=True),
        *(_cell(f"{WHOLE}-test-{each}", source, locked=True, grade=True, points=1) for each, source in tests),
    ]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    notebooks.write(path, Notebook(tuple(cells), dict(KERNEL)))


def _cell(grade_id: str, source: str, kind: str = "code", **marks: object) -> Cell:
    return Cell(kind, source, {"nbgrader": {"grade_id": grade_id, "schema_version": 3, **marks}}, grade_id)
