"""`minidocker course …`: the exercises at the terminal, and what is remembered of them."""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from coursekit import exercise_cells, make_course
from minidocker.cli.main import main
from minidocker.course import progress
from minidocker.course.catalogue import Course
from minidocker.course.progress import Mark
from terminal import Terminal

TESTS = {"small": "assert double(1) == 2, 'twice 1 is 2'", "big": "assert double(100) == 200, 'twice 100 is 200'"}
RIGHT = "def double(number):\n    return 2 * number"
HALF = "def double(number):\n    return 2"


@pytest.fixture
def course(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Course]:
    """Give a course of two sections and two exercises, `double` and `again`, and go there."""
    monkeypatch.delenv("MINIDOCKER_COURSE", raising=False)
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/state/course.json")
    monkeypatch.chdir(tmp_path)
    yield make_course(
        str(tmp_path),
        exercise_cells(TESTS, becomes="minidocker.image.reference.parse"),
        exercise_cells(TESTS, name="again"),
    )


class Typed:
    """What a command line printed, and how it ended."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        capsys.readouterr()
        self.code = main(["course", *words])
        self.out, self.err = capsys.readouterr()


def test_check_judges_the_first_that_is_not_solved(course: Course, capsys: Any) -> None:
    typed = Typed(capsys, "check")
    assert typed.code == 1
    assert typed.out == (
        "Double it: not written yet\n  ✗ small (2 points)\n  ✗ big (2 points)\n\n"
        "A hint: minidocker course hint double\n"
    )
    course.write(course.get("double"), HALF)
    typed = Typed(capsys, "check", "double")
    assert typed.code == 1
    assert typed.out.startswith(
        "Double it: 2 of 4 points\n  ✓ small (2 points)\n  ✗ big (2 points)\n      twice 100 is 200\n"
    )
    course.write(course.get("double"), RIGHT)
    typed = Typed(capsys, "check")
    assert typed.code == 0
    assert typed.out.startswith("Double it: all 4 points\n")
    assert "minidocker --with exercises/01_first.ipynb run" in typed.out
    assert typed.out.endswith("Next: again in exercises/02_second.ipynb\n")
    assert progress.marks() == {"double": Mark(4, 4)}


@pytest.mark.parametrize("words", [("nothing",), ("double", "again")])
def test_check_of_what_is_not_there_exits_with_2(course: Course, capsys: Any, words: tuple[str, ...]) -> None:
    typed = Typed(capsys, "check", *words)
    assert typed.code == 2
    assert typed.err and not typed.out


def test_check_where_there_is_no_course_exits_with_2(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("MINIDOCKER_COURSE", str(tmp_path))
    (tmp_path / "exercises").mkdir()
    (tmp_path / "exercises" / "01_broken.ipynb").write_text("{}")
    assert Typed(capsys, "check").code == 2


@pytest.mark.parametrize("line", ["list", "next", "check", "progress", "hint double"])
@pytest.mark.parametrize("folder", ["nope", "empty"])
def test_a_folder_that_is_named_and_holds_no_course_is_told(
    course: Course, monkeypatch: pytest.MonkeyPatch, capsys: Any, line: str, folder: str
) -> None:
    os.makedirs(f"{course.folder}/empty/exercises")
    monkeypatch.setenv("MINIDOCKER_COURSE", f"{course.folder}/{folder}")
    typed = Typed(capsys, *line.split())
    assert typed.code != 0 and not typed.out
    assert f"there is no course in {course.folder}/{folder}" in typed.err


def test_next_shows_the_task_and_its_file(course: Course, capsys: Any) -> None:
    typed = Typed(capsys, "next")
    assert typed.out.startswith("double in exercises/01_first.ipynb\n\n## Double it\n")
    assert "hint number" not in typed.out
    assert typed.out.endswith("then: minidocker course check double\n")
    progress.judged("double", 4, 4)
    assert Typed(capsys, "next").out.startswith("again in")


def test_all_solved_is_celebrated_once(course: Course, capsys: Any) -> None:
    progress.judged("again", 4, 4)
    course.write(course.get("double"), RIGHT)
    assert "All exercises of the course are solved." in Typed(capsys, "check", "double").out
    assert "All exercises" not in Typed(capsys, "check", "double").out
    assert "All exercises" in Typed(capsys, "check").out
    assert "All exercises" in Typed(capsys, "next").out
    assert "1 parts" not in Typed(capsys, "progress").out
    assert "A part of the engine is yours now." in Typed(capsys, "progress").out


def test_hints_come_one_by_one(course: Course, capsys: Any) -> None:
    assert Typed(capsys, "hint").out == "Hint 1 of 2: hint number 1\n"
    both = "Hint 1 of 2: hint number 1\n\nHint 2 of 2: hint number 2\n"
    assert Typed(capsys, "hint", "double").out == both
    after = "\nThat was the last hint; 'minidocker course solution double --anyway' shows the solution.\n"
    assert Typed(capsys, "hint", "double").out == both + after
    assert progress.mark("double").hints == 2
    assert "(2 hints)" in Typed(capsys, "list").out


def test_the_list_says_what_is_done(course: Course, capsys: Any) -> None:
    progress.judged("double", 4, 4)
    progress.judged("again", 2, 4)
    progress.look("again")
    lines = Typed(capsys, "list").out.splitlines()
    assert [re.sub(r" +", " ", line) for line in lines] == [
        "01_first",
        " ✓ double Double it 4 pt 5 min",
        "02_second",
        " · again Double it 4 pt 5 min (2 of 4 points, solution seen)",
    ]


def test_progress_has_a_bar_for_each_section(course: Course, capsys: Any) -> None:
    progress.judged("double", 4, 4)
    lines = [re.sub(r" +", " ", line) for line in Typed(capsys, "progress").out.splitlines()]
    assert lines == [
        f"01_first {'█' * 20} 1/1 solved 4/4 points",
        f"02_second {'░' * 20} 0/1 solved 0/4 points",
        f"all {'█' * 10}{'░' * 10} 1/2 solved 4/8 points",
    ]


def test_a_better_verdict_stays(course: Course) -> None:
    progress.judged("double", 4, 4)
    progress.judged("double", 0, 4)
    assert progress.mark("double").solved
    progress.judged("double", 4, 6)  # the exercise has changed
    assert not progress.mark("double").solved


def test_reset_asks_first_and_keeps_what_was_written(course: Course, tmp_path: Any, capsys: Any) -> None:
    exercise = course.get("double")
    assert Typed(capsys, "reset", "double").out == "double is as it was\n"
    course.write(exercise, HALF)
    typed = Typed(capsys, "reset", "double")
    assert (typed.code, typed.out) == (1, "")
    assert "--force" in typed.err
    assert course.written(exercise) == HALF
    typed = Typed(capsys, "reset", "-f", "double")
    assert typed.code == 0
    assert course.written(exercise) == exercise.stub
    (kept,) = os.listdir(tmp_path / "state" / "course-kept")
    assert f"{kept}\n" in typed.out
    assert (tmp_path / "state" / "course-kept" / kept).read_text() == f"{HALF}\n"


def test_a_notebook_that_is_missing_is_named_and_restored(course: Course, capsys: Any) -> None:
    path = course.path(course.get("double"))
    for name in ("double", "01_first"):
        os.unlink(path)
        for words in (["next"], ["check"], ["check", "double"], ["check", "01_first"]):
            typed = Typed(capsys, *words)
            assert typed.code and not typed.out
            assert "01_first.ipynb is missing: 'minidocker course reset 01_first'" in typed.err
        for word in ("01_first", "exercises/01_first.ipynb"):
            assert main(["--with", word, "ps"]) != 0
            assert "01_first.ipynb is missing" in capsys.readouterr().err
        typed = Typed(capsys, "reset", name)
        assert (typed.code, typed.out) == (0, "exercises/01_first.ipynb is as it was handed out\n")
        assert course.written(course.get("double")) == course.get("double").stub


def test_a_broken_notebook_is_moved_aside(course: Course, tmp_path: Any, capsys: Any) -> None:
    path = course.path(course.get("double"))
    with open(path, "w") as file:
        file.write('{"cells": [')
    for words in (["next"], ["check"], ["reset", "double"]):
        typed = Typed(capsys, *words)
        assert typed.code and not typed.out
        assert "is not a notebook" in typed.err and "reset --force 01_first' moves it aside" in typed.err
    assert main(["--with", "01_first", "ps"]) != 0
    assert "reset --force 01_first' moves it aside" in capsys.readouterr().err
    assert Typed(capsys, "reset", "--force", "double").code == 0
    (kept,) = os.listdir(tmp_path / "state" / "course-kept")
    assert (tmp_path / "state" / "course-kept" / kept).read_text() == '{"cells": ['
    assert course.written(course.get("double")) == course.get("double").stub


def test_a_section_is_judged_as_a_whole(course: Course, capsys: Any) -> None:
    typed = Typed(capsys, "check", "01_first")
    assert typed.code == 1
    assert typed.out.endswith("\n01_first: 0 of 1 exercises passed\n")
    course.write(course.get("double"), RIGHT)
    typed = Typed(capsys, "check", "exercises/01_first.ipynb")
    assert typed.code == 0
    assert (
        typed.out
        == "Double it: all 4 points\n  ✓ small (2 points)\n  ✓ big (2 points)\n\n01_first: 1 of 1 exercises passed\n"
    )


@pytest.mark.parametrize("verb", ["check", "hint", "solution", "reset"])
def test_a_wrong_name_exits_alike(course: Course, capsys: Any, verb: str) -> None:
    typed = Typed(capsys, verb, "doubel")
    assert (typed.code, typed.out, typed.err) == (
        2,
        "",
        "Error: no exercise is called 'doubel': did you mean double?\n",
    )
    if verb in ("hint", "solution"):
        typed = Typed(capsys, verb, "01_first")
        assert (typed.code, typed.err) == (2, "Error: 01_first is a section: name one of its exercises, double\n")


def test_a_solution_is_shown_after_a_pass_or_remembered(course: Course, capsys: Any) -> None:
    typed = Typed(capsys, "solution", "double")
    assert (typed.code, typed.out) == (1, "")
    assert "not solved yet" in typed.err
    typed = Typed(capsys, "solution", "--anyway", "double")
    assert typed.out == "def double(number: int) -> int:\n    return 2 * number\n"
    assert progress.mark("double").looked
    progress.judged("again", 4, 4)
    assert Typed(capsys, "solution", "again").code == 0
    assert not progress.mark("again").looked
    assert "after a look at the solution" in Typed(capsys, "progress").out


def test_a_hand_out_has_no_solutions(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    course = make_course(f"{tmp_path}/handed", exercise_cells(TESTS), solutions=False)
    monkeypatch.setenv("MINIDOCKER_COURSE", course.folder)
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/course.json")
    for source in ("", RIGHT):
        if source:
            course.write(course.get("double"), source)
        assert "without solutions" in Typed(capsys, "solution", "--anyway", "double").err
    assert Typed(capsys, "check").code == 0


def test_notes_that_cannot_be_read_are_taken_for_none(course: Course, capsys: Any) -> None:
    os.makedirs(os.path.dirname(progress.path()))
    for text in ("", "{}", '{"exercises": {"double": {"earned": 1, "odd": 2}}}', "[]"):
        with open(progress.path(), "w") as file:
            file.write(text)
        assert Typed(capsys, "list").code == 0
    progress.judged("double", 4, 4)
    assert progress.mark("double").solved


def test_many_note_something_at_once(course: Course) -> None:
    threads = [threading.Thread(target=progress.judged, args=(f"e{n}", 1, 1)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(progress.marks()) == 20


def test_nothing_is_coloured_but_at_a_terminal(course: Course, capsys: Any) -> None:
    assert "\033" not in Typed(capsys, "list").out + Typed(capsys, "check").out


def test_watch_judges_again_when_the_notebook_is_saved_and_ends_with_ctrl_c(course: Course) -> None:
    import sys

    script = "import sys; from minidocker.cli.entry import entry; sys.exit(entry())"
    environment = {"MINIDOCKER_COURSE_STATE": progress.path()}
    with Terminal([sys.executable, "-c", script, "course", "watch"], env=environment) as terminal:
        terminal.expect("not written yet")
        terminal.expect("ctrl-c ends this")
        with open(course.path(course.get("double"))) as notebook:
            text = notebook.read()
        with open(course.path(course.get("double")), "w") as notebook:
            notebook.write(text[:100])
        terminal.expect("is not a notebook")
        terminal.expect("ctrl-c ends this")
        with open(course.path(course.get("double")), "w") as notebook:
            notebook.write(text)
        terminal.expect("ctrl-c ends this")
        course.write(course.get("double"), HALF)
        terminal.expect("2 of 4 points")
        time.sleep(0.01)
        course.write(course.get("double"), RIGHT)
        terminal.expect("all 4 points")
        terminal.expect("again in exercises/02_second.ipynb")
        terminal.expect("ctrl-c ends this")
        terminal.send("\x03")
        assert terminal.wait() == 0
    assert json.loads(open(progress.path()).read())["exercises"]["double"]["earned"] == 4
