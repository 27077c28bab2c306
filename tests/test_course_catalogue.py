"""Exercises as they are read from notebooks: the form of a task, and what is wrong with another."""

import os

import pytest

from coursekit import cell, exercise_cells, make_course, one, solution, task
from minidocker.course import catalogue, notebook
from minidocker.course.catalogue import BadExercise, Lost, NoSuchExercise
from minidocker.course.notebook import Cell
from minidocker.errors import MinidockerError

TESTS = {
    "small": "assert double(1) == 2",
    "big": "assert double(9) == 18\n### BEGIN HIDDEN TESTS\nx\n### END HIDDEN TESTS",
}


def test_an_exercise_is_what_its_cells_say(tmp_path: str) -> None:
    exercise = one(tmp_path, TESTS, becomes="minidocker.image.reference.parse", scene="def scene(): pass")
    assert exercise._replace(setup="", tests=(), task="", solution="", stub="", scene="") == catalogue.Exercise(
        name="double",
        section="01_first",
        title="Double it",
        minutes=5,
        points=4,
        replaces="minidocker.image.reference.parse",
        reads=("`a`", "b"),
        hints=("hint number 1", "hint number 2"),
        task="",
        setup="",
        solution="",
        stub="",
        scene="",
        tests=(),
    )
    assert [(test.name, test.points) for test in exercise.tests] == [("small", 2), ("big", 2)]
    assert "BEGIN HIDDEN" in exercise.tests[1].source
    assert "Return twice" in exercise.task and "hint number" not in exercise.task
    assert exercise.scene == "def scene(): pass"
    assert "return 2 * number" not in exercise.stub and "raise NotImplementedError()" in exercise.stub


def test_what_is_in_italics_belongs_to_the_text_before_it(tmp_path: str) -> None:
    cells = exercise_cells(TESTS)
    text = cells[0].source.replace("`a`, b", "`a`, OCI image-spec, *Whiteouts*, `b`")
    exercise = make_course(str(tmp_path), [cells[0]._replace(source=text), *cells[1:]]).exercises[0]
    assert exercise.reads == ("`a`", "OCI image-spec, *Whiteouts*", "`b`")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Double it", "begins with '## Title'"),
        ("## Double it\n\nNo points.", "begins with '## Title'"),
        ("## Double it\n*many minutes · 4 points*", "begins with '## Title'"),
        ("## Double it\n*5 minutes · 3 points*", "says 3 points, its 2 tests are worth 4"),
        ("## Double it\n*5 minutes · 4 points*\n<details>Hint</details>", "a hint is"),
    ],
)
def test_a_task_of_another_form_is_told(tmp_path: str, text: str, says: str) -> None:
    cells = exercise_cells(TESTS)
    with pytest.raises(BadExercise, match=says):
        make_course(str(tmp_path), [cells[0]._replace(source=text), *cells[1:]])


def _without_task() -> list[Cell]:
    return exercise_cells(TESTS)[1:]


def _pointless() -> list[Cell]:
    return [*exercise_cells(TESTS), cell("test", "assert True", "double", "third", 0)]


def _twice() -> list[Cell]:
    return [*exercise_cells(TESTS), cell("solution", solution("pass"), "double")]


def _half_a_marker() -> list[Cell]:
    return [cell("task", task(2), "double"), cell("solution", "### BEGIN SOLUTION", "double")]


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (_without_task, "a solution but no task"),
        (_pointless, "double-test-third is not worth"),
        (_twice, "two cells have the grade_id double-solution"),
        (_half_a_marker, "no END SOLUTION"),
        (lambda: exercise_cells(TESTS, name="Double"), "no name for an exercise"),
    ],
)
def test_cells_that_make_up_no_exercise_are_told(tmp_path: str, cells: object, says: str) -> None:
    assert callable(cells)
    with pytest.raises(BadExercise, match=says) as caught:
        catalogue_of = cells()
        for place in ("solutions",):
            os.makedirs(f"{tmp_path}/{place}")
            notebook.write(f"{tmp_path}/{place}/01_first.ipynb", notebook.Notebook(tuple(catalogue_of), {}))
        catalogue.load(str(tmp_path))
    assert "01_first.ipynb" in str(caught.value)


def test_a_name_is_there_once(tmp_path: str) -> None:
    with pytest.raises(BadExercise, match="two exercises are called double"):
        make_course(str(tmp_path), exercise_cells(TESTS), exercise_cells(TESTS))


def test_a_wrong_name_gets_the_nearest(tmp_path: str) -> None:
    course = make_course(str(tmp_path), exercise_cells(TESTS))
    assert course.get("double").name == "double"
    with pytest.raises(NoSuchExercise, match="did you mean double"):
        course.get("duoble")
    with pytest.raises(NoSuchExercise, match="see 'minidocker course list'"):
        course.get("table")


def test_a_hand_out_has_the_visible_tests_only(tmp_path: str) -> None:
    exercise = make_course(str(tmp_path), exercise_cells(TESTS), solutions=False).exercises[0]
    assert [test.source for test in exercise.tests] == ["assert double(1) == 2", "assert double(9) == 18"]
    assert exercise.points == 4
    assert exercise.stub == exercise.solution


def test_the_stub_is_known_after_a_learner_has_written(tmp_path: str) -> None:
    course = make_course(str(tmp_path), exercise_cells(TESTS), solutions=False)
    course.write(course.get("double"), "def double(number): return 3")
    course = catalogue.load(str(tmp_path))
    assert course.written(course.get("double")) == "def double(number): return 3"
    assert "raise NotImplementedError()" in course.get("double").stub
    assert "def double(number: int)" in course.get("double").stub


def test_what_a_learner_writes_is_found_and_put_back(tmp_path: str) -> None:
    course = make_course(str(tmp_path), exercise_cells(TESTS))
    exercise = course.get("double")
    assert course.written(exercise) == exercise.stub
    course.write(exercise, "def double(number): return 3")
    assert course.written(exercise) == "def double(number): return 3"
    os.unlink(course.path(exercise))
    with pytest.raises(Lost, match=r"01_first.ipynb is missing: 'minidocker course reset 01_first' \(or git\)"):
        course.written(exercise)


def test_a_notebook_that_lost_its_cell_is_told(tmp_path: str) -> None:
    course = make_course(str(tmp_path), exercise_cells(TESTS))
    exercise = course.get("double")
    book = notebook.read(course.path(exercise))
    kept = tuple(each for each in book.cells if each.grade_id != "double-solution")
    notebook.write(course.path(exercise), book._replace(cells=kept))
    with pytest.raises(MinidockerError, match="no cell double-solution"):
        course.write(exercise, "x")


def test_the_course_is_where_one_is_or_above_or_named(tmp_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_course(f"{tmp_path}/course", exercise_cells(TESTS))
    below = f"{tmp_path}/course/exercises/deeper"
    os.makedirs(below)
    monkeypatch.delenv("MINIDOCKER_COURSE", raising=False)
    monkeypatch.chdir(below)
    assert catalogue.folder() == f"{tmp_path}/course"
    make_course(f"{tmp_path}/other", exercise_cells(TESTS))
    monkeypatch.setenv("MINIDOCKER_COURSE", f"{tmp_path}/other")
    assert catalogue.folder() == f"{tmp_path}/other"
