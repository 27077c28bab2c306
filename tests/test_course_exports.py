"""Marks as other programs read them: the same in every form, and harmless whatever names and messages hold."""

import csv
import io
import json
from typing import Any
from xml.etree import ElementTree

import pytest

from minidocker.course import exports, result
from minidocker.course.result import Exercise, GradedBy, Result
from minidocker.course.result import Test as Outcome

ODD = [
    "Jürgen Groß, jun.",
    'the "quoted" one',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(A1)",
    "-2",
    "tab\there",
    "line\nbreak",
    "\x00\x07\x1b[31m\ufffe\ud800<b>&amp;]]>",
    "\u202egnihsif",
    "..",
]
SECRET = "expected 4711"


def graded(student: str, *tests: Outcome, assignment: str = "01_first", **more: Any) -> Result:
    """Return a result of one exercise."""
    earned, points = sum(t.earned for t in tests), sum(t.points for t in tests)
    exercise = Exercise("double", "Double it", points, earned, result.GRADED, "", tests)
    fields: dict[str, Any] = {
        "student": student,
        "assignment": assignment,
        "file": f"{student}/{assignment}.ipynb",
        "sha256": "0" * 64,
        "late": False,
        "points": points,
        "earned": earned,
        "exercises": (exercise,) if tests else (),
        "notes": (),
        "trouble": "",
        "graded_by": GradedBy("0.1.0", "1" * 64, "functions", 0.04),
    }
    return Result(**(fields | more))


def odd_class() -> list[Result]:
    """Return a class in which everybody's name is odd, and so is what the tests say."""
    found = []
    for place, name in enumerate(ODD):
        seen = Outcome(name, 2, place % 3, name, f"line 1: {name}")
        found.append(graded(name, seen, Outcome("hidden one", 3, 0, SECRET, "", True), notes=(name,), late=place == 1))
    found.append(graded("broken", points=5, earned=0, trouble="the notebook is no JSON: \x00"))
    return found


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_every_form_has_the_same_marks() -> None:
    results = odd_class()
    wanted = [(each.earned, each.points) for each in results]
    assert [(float(r["earned"]), float(r["points"])) for r in rows(exports.marks_csv(results))] == wanted
    by_name = {r["student_id"]: (float(r["score"]), float(r["max_score"])) for r in rows(exports.nbgrader_csv(results))}
    assert [by_name[exports.cell(each.student)] for each in results] == wanted
    suites = list(ElementTree.fromstring(exports.junit_xml(results)))
    assert [_sum_of_properties(suite) for suite in suites] == wanted
    for each, mark in zip(results, wanted, strict=True):
        scope = exports.gradescope(each)
        assert (scope["score"], each.points) == mark
        assert tuple(sum(t[key] for t in scope["tests"]) for key in ("score", "max_score")) == mark
        room = exports.classroom(each)
        assert (sum(t["score"] for t in room["tests"]), room["max_score"]) == mark
        total = exports.classroom_table(each).splitlines()[-1].split("|")
        assert (float(total[2]), float(total[3])) == mark


def _sum_of_properties(suite: ElementTree.Element) -> tuple[float, float]:
    def total(name: str) -> float:
        return sum(float(p.attrib["value"]) for p in suite.findall(f"testcase/properties/property[@name='{name}']"))

    return total("earned"), total("points")


@pytest.mark.parametrize("name", ODD)
def test_no_cell_of_a_spreadsheet_is_a_formula(name: str) -> None:
    results = [graded(name, Outcome("t", 1, 0, name), notes=(name,), trouble=name)]
    for text in (exports.marks_csv(results), exports.nbgrader_csv(results)):
        assert len(rows(text)) == 1
        for value in rows(text)[0].values():
            assert not value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
            assert "\x00" not in value


def test_an_honest_name_stays_what_it_is() -> None:
    text = exports.marks_csv([graded(ODD[0], Outcome("t", 1, 0.5))])
    assert text == 'student,assignment,earned,points,late,notes,trouble\n"Jürgen Groß, jun.",01_first,0.5,1,,,\n'


def test_junit_counts_and_says_why() -> None:
    one = graded("kim", Outcome("good", 1, 1), Outcome("bad", 2, 1, "half <right>", "line 2: x"))
    broken = graded("lee", points=3, trouble="no notebook")
    first, second = ElementTree.fromstring(exports.junit_xml([one, broken]))
    assert (first.attrib["tests"], first.attrib["failures"], first.attrib["errors"]) == ("2", "1", "0")
    failure = first.find("testcase[@name='bad']/failure")
    assert failure is not None
    assert failure.attrib["message"] == "half <right>"
    assert failure.text == "half <right>\nyour line 2: x"
    assert (second.attrib["tests"], second.attrib["failures"], second.attrib["errors"]) == ("1", "0", "1")


def test_nbgraders_columns_have_every_learner_for_every_assignment() -> None:
    results = [graded("kim", Outcome("t", 2, 1)), graded("lee", Outcome("t", 4, 4), assignment="02_second")]
    text = exports.nbgrader_csv(results)
    assert text.splitlines()[0] == (
        "assignment,duedate,timestamp,student_id,last_name,first_name,email,raw_score,late_submission_penalty,score,"
        "max_score"
    )
    found = [(r["assignment"], r["student_id"], r["raw_score"], r["score"], r["max_score"]) for r in rows(text)]
    assert found == [
        ("01_first", "kim", "1.0", "1.0", "2.0"),
        ("01_first", "lee", "0.0", "0.0", "2.0"),
        ("02_second", "kim", "0.0", "0.0", "4.0"),
        ("02_second", "lee", "4.0", "4.0", "4.0"),
    ]


@pytest.mark.parametrize("form", [exports.gradescope, exports.classroom])
def test_learners_do_not_read_what_a_hidden_test_says(form: Any) -> None:
    one = graded(
        "kim", Outcome("seen", 1, 0, "too small", "line 1: x"), Outcome("unseen", 2, 0, SECRET, "line 3: y", True)
    )
    text = json.dumps(form(one))
    assert "too small" in text and "line 1: x" in text and "unseen" in text
    assert SECRET not in text and "line 3" not in text
    assert SECRET in json.dumps(form(one, show_hidden=True))


def test_the_classrooms_reporter_reads_status_and_scores() -> None:
    good, half = graded("kim", Outcome("t", 1, 1)), graded("lee", Outcome("t", 2, 1, "half"), Outcome("u", 1, 1))
    assert exports.classroom(good) == {
        "version": 1,
        "status": "pass",
        "max_score": 1,
        "tests": [{"name": "double: t", "status": "pass", "score": 1, "message": None, "line_no": 0}],
    }
    assert exports.classroom(half)["status"] == "fail"
    assert [test["status"] for test in exports.classroom(half)["tests"]] == ["fail", "pass"]
    assert exports.classroom(graded("x", points=3, trouble="gone"))["status"] == "error"


def test_what_is_written_stays_below_its_folder(tmp_path: Any) -> None:
    names = ["../../escaped", "/etc/escaped", ".hidden", *ODD]
    paths = exports.write_all(f"{tmp_path}/out", [graded(name, Outcome("t", 1, 1)) for name in names])
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert len(set(paths)) == 3 + 3 * len(names)
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            assert file.read()
