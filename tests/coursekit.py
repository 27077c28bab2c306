"""A tiny course for tests: notebooks of a few cells, made from a few words."""

import os
from typing import Any

from minidocker.course import generate, notebook
from minidocker.course.catalogue import Course, Exercise, load
from minidocker.course.notebook import KERNEL, Cell, Notebook

SETUP = """
import os, sys, time
from minidocker.course.testing import child, equal, folder, raises
from minidocker.errors import InvalidReference
from minidocker.image.reference import Reference
"""


def cell(role: str, source: str, exercise: str = "", name: str = "", points: int = 0) -> Cell:
    """Return a cell with nbgrader's metadata for its role."""
    ends = {"setup": "setup", "task": exercise, "test": f"{exercise}-test-{name}"}
    grade_id = ends.get(role, f"{exercise}-{role}")
    fields: dict[str, Any] = {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": role == "test",
        "solution": role == "solution",
        "locked": role != "solution",
        "task": False,
    }
    if role == "test":
        fields["points"] = points
    return Cell("markdown" if role == "task" else "code", source, {"nbgrader": fields}, grade_id)


def solution(body: str, head: str = "def double(number: int) -> int:") -> str:
    """Return a solution's cell: a function with this body between the markers."""
    lines = ["### BEGIN SOLUTION", *body.splitlines(), "### END SOLUTION"]
    return "\n".join([head, *(f"    {line}" for line in lines)])


def task(points: int, becomes: str = "", hints: int = 2) -> str:
    """Return a task's text."""
    part = f" · becomes `{becomes}`" if becomes else ""
    shown = "".join(
        f"\n\n<details><summary>Hint {n}</summary>\n\nhint number {n}\n</details>" for n in range(1, hints + 1)
    )
    return f"## Double it\n*5 minutes · {points} points{part}*\n\nReturn twice the number.\n\n**Read:** `a`, b{shown}"


def exercise_cells(
    tests: dict[str, str], body: str = "return 2 * number", name: str = "double", becomes: str = "", **more: str
) -> list[Cell]:
    """Return the cells of one exercise; each test is worth two points."""
    found = [cell("task", task(2 * len(tests), becomes), name)]
    found.append(cell("solution", more.get("solution") or solution(body), name))
    if more.get("scene"):
        found.append(cell("scene", more["scene"], name))
    return found + [cell("test", source, name, test, 2) for test, source in tests.items()]


def make_course(folder: str, *sections: list[Cell], setup: str = SETUP, solutions: bool = True) -> Course:
    """Write a course of sections `01_first`, `02_second` … and return it as it is read."""
    for number, cells in enumerate(sections, 1):
        name = f"{number:02}_{('first', 'second', 'third', 'fourth')[number - 1]}.ipynb"
        book = Notebook((cell("setup", setup), *cells), dict(KERNEL))
        for kind, made in (("solutions", book), ("exercises", generate.exercise_notebook(book))):
            if kind == "exercises" or solutions:
                os.makedirs(f"{folder}/{kind}", exist_ok=True)
                notebook.write(f"{folder}/{kind}/{name}", made)
    return load(folder)


def one(folder: Any, tests: dict[str, str], body: str = "return 2 * number", **more: str) -> Exercise:
    """Return the only exercise of a course of one section."""
    return make_course(str(folder), exercise_cells(tests, body, **more)).exercises[0]
