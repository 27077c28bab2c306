"""`check("…")` in a notebook: which code it judges, what it shows, and that it never raises."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from coursekit import exercise_cells, make_course, one
from minidocker.course import progress, report
from minidocker.course.catalogue import Course
from minidocker.course.check import check, written_in
from minidocker.course.judge import Outcome, Verdict

TESTS = {"small": "assert double(1) == 2, 'twice <1> is 2'", "big": "assert double(100) == 200, 'twice 100 is 200'"}

# A notebook's kernel without the network: IPython's own shell, which runs cells and keeps what they display.
KERNEL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.loads(sys.argv[1]):
    from IPython.utils.capture import capture_output
    with capture_output() as shown:
        done = shell.run_cell(cell, store_history=True)
    outputs = [dict(output.data) for output in shown.outputs]
    raised = repr(done.error_in_exec or done.error_before_exec or "")
    print(json.dumps({"printed": shown.stdout, "outputs": outputs, "raised": raised}))
"""


@pytest.fixture
def course(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Course]:
    """Give a course of one exercise, `double`."""
    monkeypatch.setenv("MINIDOCKER_COURSE", str(tmp_path))
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/course.json")
    yield make_course(str(tmp_path), exercise_cells(TESTS))


def run_cells(*cells: str) -> list[dict[str, Any]]:
    pytest.importorskip("IPython")
    done = subprocess.run([sys.executable, "-c", KERNEL, json.dumps(cells)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


IMPORT = "from minidocker.course.check import check"
WRONG = "def double(number):\n    print('hello')\n    return 2"


def test_the_cell_that_has_defined_the_function_is_judged(course: Course) -> None:
    right, ask = "def double(n):\n    return n + n", "check('double')"
    *_, first, _, second = run_cells(IMPORT, WRONG, ask, right, ask)
    assert first["raised"] == second["raised"] == "''"
    verdict, hint = first["outputs"]
    assert verdict["text/plain"].startswith("Double it: 2 of 4 points\n  ✓ small (2 points)\n  ✗ big (2 points)\n")
    assert "twice 100 is 200" in verdict["text/html"]
    assert "hello" in verdict["text/plain"]
    assert hint["text/plain"] == "A hint: minidocker course hint double"
    assert second["outputs"][0]["text/plain"].startswith("Double it: all 4 points")
    assert len(second["outputs"]) == 1
    assert progress.mark("double").solved


def test_a_function_that_is_defined_nowhere_is_told(course: Course) -> None:
    (_, said) = run_cells(IMPORT, "check('double')")
    assert said["outputs"][0]["text/plain"] == "Run the cell with your code first: double is not defined yet."
    assert said["raised"] == "''"


def test_a_value_is_found_in_the_cell_that_has_assigned_it(course: Course) -> None:
    cells = exercise_cells({"all": "assert TEXT == 'b'"}, name="text", solution="TEXT = '''\n### BEGIN SOLUTION\n'''")
    cells[1] = cells[1]._replace(source="### BEGIN SOLUTION\nTEXT = 'b'\n### END SOLUTION")
    make_course(course.folder, cells)
    (_, _, _, said) = run_cells(IMPORT, "TEXT = 'a'", "TEXT = 'b'\nother = 1", "check('text')")
    assert said["outputs"][0]["text/plain"].startswith("Double it: all 2 points")


def test_the_button_reveals_one_hint_more_each_time(course: Course) -> None:
    pytest.importorskip("ipywidgets")
    click = (
        "import ipywidgets, gc\n"
        "button = [w for w in gc.get_objects() if isinstance(w, ipywidgets.Button)][-1]\n"
        "shown = [w for w in gc.get_objects() if type(w) is ipywidgets.Output][-1]\n"
        "says = lambda: shown.outputs[0]['data']['text/markdown']\n"
        "button.click(); one = says(); button.click(); print(one, '|', says(), button.disabled)"
    )
    *_, clicked = run_cells(IMPORT, WRONG, "check('double')", click)
    one_hint, two_hints = clicked["printed"].split("|")
    assert "hint number 1" in one_hint and "hint number 2" not in one_hint
    assert "hint number 1" in two_hints and "hint number 2" in two_hints and two_hints.strip().endswith("True")
    assert progress.mark("double").hints == 2


def test_without_a_notebook_the_verdict_is_printed(course: Course, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(globals(), "double", lambda number: 2)
    check("double")
    assert capsys.readouterr().out.startswith("Double it: ")
    monkeypatch.delitem(globals(), "double")
    check("double")
    assert capsys.readouterr().out.startswith("Run the cell with your code first")


@pytest.mark.parametrize("folder", ["nowhere", "broken"])
def test_whatever_is_missing_nothing_is_raised(course: Course, capsys: Any, monkeypatch: Any, folder: str) -> None:
    check("nothing")
    assert "nothing cannot be judged: no exercise is called 'nothing'" in capsys.readouterr().out
    monkeypatch.setenv("MINIDOCKER_COURSE", f"{course.folder}/{folder}")
    check("double")
    assert "double cannot be judged" in capsys.readouterr().out


def test_only_the_function_that_is_asked_for_counts(tmp_path: str) -> None:
    exercise = one(tmp_path, TESTS)
    assert written_in({}, exercise) == ""
    assert written_in({"In": ["double = 3"], "double": 3}, exercise) == "double = 3"


def test_what_the_code_prints_cannot_become_html(tmp_path: str) -> None:
    exercise = one(tmp_path, TESTS)
    outcome = Outcome("small", 2, 0, "<script>alert(1)</script>", "line 1: <b>")
    verdict = Verdict("double", True, (outcome,), "<img src=x>")
    shown = report.as_html(exercise, verdict)
    assert "<script" not in shown and "<img" not in shown and "<b>" not in shown.replace("<b>Double", "")
    assert "&lt;script&gt;alert(1)" in shown
