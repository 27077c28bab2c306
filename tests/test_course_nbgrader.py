"""Beside the real nbgrader: our sources are an assignment of its own, and both give the same marks."""

import csv
import os
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from minidocker.course import classroom, notebook
from minidocker.course.notebook import Cell

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.path.dirname(sys.executable)
SECTION = "02_images"


def run(folder: Any, *argv: str) -> str:
    """Run a command of the environment in nbgrader's folder; return all that it said."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [f"{BIN}/{argv[0]}", *argv[1:]],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}"
    return done.stdout


def solved(released: notebook.Notebook, codes: dict[str, str]) -> bytes:
    """Return a learner's notebook with this code in the cells of these exercises."""
    ids = {f"{name}-solution": code for name, code in codes.items()}
    return released._replace(
        cells=tuple(cell._replace(source=ids.get(cell.grade_id, cell.source)) for cell in released.cells)
    ).to_bytes()


def marks(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: row["student_id"])


def as_released(cell: Cell) -> tuple[object, ...]:
    """Return what of a cell is to be the same: not the checksum, which is nbgrader's, nor the stub, which is ours."""
    marks = {name: value for name, value in cell.nbgrader.items() if name not in ("checksum", "cell_type")}
    return cell.kind, cell.source, marks, cell.metadata.get("deletable"), cell.metadata.get("editable")


@pytest.mark.peers
@pytest.mark.timeout(400)
def test_the_same_assignment_and_the_same_marks(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/state.json")
    monkeypatch.setenv("MINIDOCKER_COURSE", PROJECT)
    folder = tmp_path / "course"
    (folder / "source" / SECTION).mkdir(parents=True)
    (folder / "nbgrader_config.py").write_text("c = get_config()\n")
    source = notebook.read(f"{PROJECT}/solutions/{SECTION}.ipynb")
    notebook.write(f"{folder}/source/{SECTION}/{SECTION}.ipynb", source)

    run(folder, "nbgrader", "generate_assignment", SECTION)
    classroom.hand_out(f"{tmp_path}/ours", [SECTION])
    released = notebook.read(f"{folder}/release/{SECTION}/{SECTION}.ipynb")
    ours = notebook.read(f"{tmp_path}/ours/exercises/{SECTION}.ipynb")
    assert [as_released(cell) for cell in released.cells] == [as_released(cell) for cell in ours.cells]

    solutions = [cell for cell in source.cells if cell.nbgrader.get("solution")]
    right = {cell.grade_id.removesuffix("-solution"): cell.source for cell in solutions}
    with open(f"{PROJECT}/solutions/wrong/{SECTION}.toml", "rb") as file:
        wrong = tomllib.load(file)["parse_reference"][1]
    partial = right["parse_reference"].replace(wrong["old"], wrong["new"])
    warned = "import warnings; warnings.warn('old')\n" + right["parse_reference"]
    books = {
        "good": solved(ours, right),
        "partial": solved(released, {"parse_reference": partial}),
        "stub": solved(ours, {}),
        "typo": solved(released, {"parse_reference": warned, "chain_ids": "def ("}),
    }
    for student, data in books.items():
        (folder / "submitted" / student / SECTION).mkdir(parents=True)
        (folder / "submitted" / student / SECTION / f"{SECTION}.ipynb").write_bytes(data)
    run(folder, "nbgrader", "autograde", SECTION)
    run(folder, "nbgrader", "generate_feedback", SECTION)
    run(folder, "nbgrader", "export")
    run(folder, "minidocker", "grade", "--out", "out", "submitted")  # finds nbgrader's source beside it

    theirs = marks(f"{folder}/grades.csv")
    assert [float(row["score"]) for row in theirs] == [11, 5, 0, 7]
    assert marks(f"{folder}/out/nbgrader.csv") == theirs
    assert sorted(os.listdir(folder / "feedback")) == sorted(books)
