"""The example of a class of thirty, by the commands of its first lines: handed in, collected, graded, reported."""

import csv
import json
import os
import shlex
import subprocess
import sys
from typing import Any

import pytest

from minidocker.course import result

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = f"{PROJECT}/examples/class/make_class.py"


def commands(place: str) -> list[list[str]]:
    """Return the commands of the script's first lines, for a class in a folder of the test's."""
    with open(SCRIPT) as file:
        lines = [line.strip() for line in file if line.startswith("    ")][:4]
    found = [shlex.split(line.replace("CLASS", place).replace("[SECTION]", ""), comments=True) for line in lines]
    bin = os.path.dirname(sys.executable)
    return [[f"{bin}/{os.path.basename(words[0])}", *words[1:]] for words in found if words]


@pytest.mark.root
@pytest.mark.timeout(180)
def test_a_class_of_thirty(tmp_path: Any) -> None:
    make, collect, grade = commands(str(tmp_path))
    for argv, code in ((make, 0), (collect, 0), (grade, 1)):  # 1: one of the notebooks is broken
        done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == code, done.stdout + done.stderr
    expected: dict[str, Any] = json.loads((tmp_path / "expected.json").read_text())
    results = {each.student: each for each in result.read_all(f"{tmp_path}/marks")}
    assert results.keys() == expected.keys() and len(results) == 30
    for student, wanted in expected.items():
        got = results[student]
        assert got.points == wanted["points"]
        assert got.late == (wanted["kind"] == "late")
        if wanted["earned"] is None:
            assert 0 < got.earned < got.points, student
        else:
            assert got.earned == wanted["earned"], (student, wanted, got)
        if wanted["kind"] in ("good", "late"):
            assert not got.notes and not got.trouble  # honest work produces no warning
    assert [each.student for each in results.values() if each.trouble] == ["Priya Raman"]
    assert len([each for each in results.values() if each.notes]) == 1  # who has changed the tests
    with open(tmp_path / "marks/marks.csv", newline="") as file:
        assert {row["student"]: float(row["earned"]) for row in csv.DictReader(file)} == {
            student: each.earned for student, each in results.items()
        }
    assert len(os.listdir(tmp_path / "marks/learners")) == 30
    assert not os.path.exists("/tmp/full")
