"""The learner's notebook, made from the one with the solutions."""

import os

import pytest

from coursekit import cell, exercise_cells, make_course, solution
from minidocker.course import generate, notebook
from minidocker.course.generate import BadMarkers
from minidocker.errors import MinidockerError

TESTS = {"small": "assert double(1) == 2\n### BEGIN HIDDEN TESTS\nassert double(2) == 4\n### END HIDDEN TESTS"}


def test_what_stands_between_the_markers_becomes_the_stub_as_far_indented() -> None:
    source = "class A:\n    def f(self):\n        ### BEGIN SOLUTION\n        return 1\n        ### END SOLUTION\nb = 2"
    wanted = "class A:\n    def f(self):\n        # YOUR CODE HERE\n        raise NotImplementedError()\nb = 2"
    assert generate.stub(source) == wanted


def test_every_region_is_replaced() -> None:
    region = "### BEGIN SOLUTION\nx = 1\n### END SOLUTION"
    stub = "# YOUR CODE HERE\nraise NotImplementedError()"
    assert generate.stub(f"{region}\nkept\n{region}") == f"{stub}\nkept\n{stub}"


def test_a_solution_without_markers_is_all_stub() -> None:
    assert generate.stub("def f(): return 1") == "# YOUR CODE HERE\nraise NotImplementedError()"
    assert generate.stub("an essay", code=False) == "YOUR ANSWER HERE"


def test_hidden_tests_go_without_a_trace() -> None:
    assert generate.visible("a\n### BEGIN HIDDEN TESTS\nb\n### END HIDDEN TESTS\nc\n") == "a\nc\n"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "within another"),
        ("### BEGIN SOLUTION\nx", "no END SOLUTION"),
    ],
)
def test_markers_that_do_not_match_are_told(source: str, says: str) -> None:
    with pytest.raises(BadMarkers, match=says):
        generate.stub(source)


def test_a_learner_can_edit_the_solution_and_nothing_else(tmp_path: str) -> None:
    make_course(str(tmp_path), exercise_cells(TESTS))
    cells = {each.grade_id: each for each in notebook.read(f"{tmp_path}/exercises/01_first.ipynb").cells}
    assert "return 2" not in cells["double-solution"].source
    assert cells["double-solution"].metadata["deletable"] is False
    assert "editable" not in cells["double-solution"].metadata
    assert cells["double-test-small"].source == "assert double(1) == 2"
    assert cells["double-test-small"].metadata["editable"] is False
    assert cells["double-test-small"].nbgrader["points"] == 2
    assert cells["double"].metadata["editable"] is False


def test_the_same_source_makes_the_same_bytes(tmp_path: str) -> None:
    make_course(str(tmp_path), exercise_cells(TESTS))
    book = notebook.read(f"{tmp_path}/solutions/01_first.ipynb")
    assert generate.exercise_notebook(book).to_bytes() == generate.exercise_notebook(book).to_bytes()
    assert generate.drifted(f"{tmp_path}/solutions", f"{tmp_path}/exercises") == []


def test_drift_is_found_and_mended(tmp_path: str) -> None:
    make_course(str(tmp_path), exercise_cells(TESTS), exercise_cells(TESTS, name="other"))
    solutions, exercises = f"{tmp_path}/solutions", f"{tmp_path}/exercises"
    book = notebook.read(f"{solutions}/01_first.ipynb")
    notebook.write(f"{solutions}/01_first.ipynb", book._replace(cells=(*book.cells, cell("check", "x", "double"))))
    os.rename(f"{exercises}/02_second.ipynb", f"{exercises}/03_third.ipynb")
    assert generate.drifted(solutions, exercises) == ["01_first.ipynb", "02_second.ipynb", "03_third.ipynb"]
    assert generate.write_all(solutions, exercises, only=["02_second"]) == ["02_second.ipynb"]
    assert generate.write_all(solutions, exercises) == ["01_first.ipynb"]
    os.unlink(f"{exercises}/03_third.ipynb")
    assert generate.drifted(solutions, exercises) == []


def test_what_a_learner_has_written_is_not_overwritten(tmp_path: str) -> None:
    course = make_course(str(tmp_path), exercise_cells(TESTS))
    course.write(course.get("double"), "def double(number): return 3")
    solutions, exercises = f"{tmp_path}/solutions", f"{tmp_path}/exercises"
    with pytest.raises(MinidockerError, match="somebody has written"):
        generate.write_all(solutions, exercises)
    assert course.written(course.get("double")) == "def double(number): return 3"
    assert generate.write_all(solutions, exercises, force=True) == ["01_first.ipynb"]
    assert course.written(course.get("double")) == generate.stub(solution("return 2 * number"))
