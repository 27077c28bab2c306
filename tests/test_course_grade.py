"""A class is graded: what lies where, what is judged of it, what is said; cached, resumed, the same marks each time."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from coursekit import exercise_cells, make_course
from minidocker.cli import grade as command
from minidocker.cli import main
from minidocker.course import assignment, grade, notebook, result, submission
from minidocker.course.grade import Assignments, Rules
from minidocker.course.judge import judge
from minidocker.course.notebook import Cell, Notebook
from minidocker.course.pool import Done, Job, Limits, Pool, exercises
from minidocker.course.result import Result
from minidocker.errors import MinidockerError

RIGHT, HALF, WRONG = "return 2 * number", "return min(2 * number, 100)", "return number"
TESTS = {
    "small": "assert double(1) == 2, f'twice 1 is 2, not {double(1)}'",
    "big": "### BEGIN HIDDEN TESTS\nassert double(10**30) == 2 * 10**30, 'big'\n### END HIDDEN TESTS",
}


class Unboxed:
    """A pool without boxes: what it is given, and verdicts as boxes would give them."""

    def __init__(self, seconds: float = 5) -> None:
        self.jobs: list[Job] = []
        self.seconds = seconds
        self.trouble = ""

    def __enter__(self) -> "Unboxed":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        for job in jobs:
            self.jobs.append(job)
            found = [each for each in exercises(job.folder, job.assignment) if each.name in job.codes]
            verdicts = tuple(judge(each, job.codes[each.name], self.seconds) for each in found)
            yield Done(job.key, () if self.trouble else verdicts, 0.1, self.trouble)


def body(text: str) -> str:
    return "def double(number):\n" + "\n".join(f"    {line}" for line in text.splitlines())


class Class:
    """A course of two exercises, and what its learners hand in."""

    def __init__(self, folder: Any) -> None:
        self.folder = str(folder)
        more = exercise_cells(
            {"one": "assert triple(1) == 3, 'triple'"}, "return 3 * n", name="triple", solution=TRIPLE
        )
        make_course(
            f"{folder}/course", [*exercise_cells(TESTS), *more], [*exercise_cells({"a": "double"}, name="third")]
        )
        self.out = f"{folder}/out"
        self.pool = Unboxed()

    def handed_out(self, name: str = "01_first") -> Notebook:
        return notebook.read(f"{self.folder}/course/exercises/{name}.ipynb")

    def with_code(self, double: str | None = None, triple: str | None = None) -> Notebook:
        codes = {"double-solution": double, "triple-solution": triple}
        cells = (
            each._replace(source=code) if (code := codes.get(each.grade_id)) is not None else each
            for each in self.handed_out().cells
        )
        return Notebook(tuple(cells), {})

    def hand_in(self, path: str, content: Notebook | bytes) -> str:
        file = f"{self.folder}/class/{path}"
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as stream:
            stream.write(content if isinstance(content, bytes) else content.to_bytes())
        return file

    def grade(self, wanted: str = "", **rules: Any) -> dict[str, Result]:
        folder = f"{self.folder}/course/solutions"
        paths = {name.removesuffix(".ipynb"): f"{folder}/{name}" for name in os.listdir(folder)}
        made = Rules(self.out, **rules)
        found = submission.find([f"{self.folder}/class"], paths, wanted)
        results = list(grade.grade(found, Assignments(paths, made), made, lambda: self.pool))
        assert sorted(each.student for each in results) == sorted(each.student for each in found)
        return {each.student: each for each in result.read_all(self.out)}

    def of(self, content: Notebook | bytes) -> Result:
        """Return the result of one submission."""
        self.hand_in("kim.ipynb", content)
        return self.grade("01_first")["kim"]


ENTRY = "from minidocker.cli.entry import entry; entry()"
TRIPLE = "def triple(n):\n    ### BEGIN SOLUTION\n    return 3 * n\n    ### END SOLUTION"


@pytest.fixture
def pupils(tmp_path: Any) -> Class:
    return Class(tmp_path)


def edited(book: Notebook, grade_id: str, change: Callable[[Cell], list[Cell]]) -> Notebook:
    cells = [new for each in book.cells for new in (change(each) if each.grade_id == grade_id else [each])]
    return book._replace(cells=tuple(cells))


def messages(got: Result) -> dict[str, str]:
    return {f"{each.name}.{test.name}": test.message for each in got.exercises for test in each.tests}


def states(got: Result) -> list[tuple[str, str, float]]:
    return [(each.name, each.state, each.earned) for each in got.exercises]


# ------------------------------------------------------------------------------------------ what is judged and said


def test_points_are_given_test_by_test_with_the_reason_of_each_loss(pupils: Class) -> None:
    got = pupils.of(pupils.with_code(body(HALF), "def triple(n):\n    return n"))
    assert (got.points, got.earned, got.notes, got.trouble, got.late) == (6, 2, (), "", False)
    assert states(got) == [("double", "graded", 2), ("triple", "graded", 0)]
    assert messages(got) == {"double.small": "", "double.big": "big", "triple.one": "triple"}
    assert [test.hidden for test in got.exercises[0].tests] == [False, True]
    assert got.graded_by.mode == "functions" and got.graded_by.seconds == 0.1


def test_what_was_handed_out_is_not_written_and_needs_no_judge(pupils: Class) -> None:
    got = pupils.of(pupils.handed_out())
    assert states(got) == [("double", "not written", 0), ("triple", "not written", 0)]
    assert (got.points, got.notes, pupils.pool.jobs) == (6, (), [])
    assert messages(got)["double.small"] == "not written yet"


def test_a_syntax_error_charges_its_exercise_only(pupils: Class) -> None:
    got = pupils.of(pupils.with_code("def double(:\n    return", TRIPLE))
    assert states(got) == [("double", "does not run", 0), ("triple", "graded", 2)]
    assert got.exercises[0].tests[0].message.startswith("SyntaxError")
    assert got.exercises[0].tests[0].where.splitlines()[0] == "line 1: def double(:"
    assert got.notes == ()


def test_a_missing_cell_charges_its_exercise_only(pupils: Class) -> None:
    got = pupils.of(edited(pupils.with_code(triple=TRIPLE), "double-solution", lambda _: []))
    assert states(got) == [("double", "missing", 0), ("triple", "graded", 2)]
    assert messages(got)["double.small"] == "the cell double-solution is not in the notebook"


def test_warnings_and_prints_cost_nothing(pupils: Class) -> None:
    loud = "import warnings\nwarnings.warn('careful')\nprint('hello')\n"
    got = pupils.of(pupils.with_code(loud + body(f"print(number)\n{RIGHT}"), TRIPLE))
    assert (got.earned, got.notes) == (6, ())
    assert "hello" in got.exercises[0].printed


def test_changed_locked_cells_are_restored_and_noted_once(pupils: Class) -> None:
    book = pupils.with_code(body(WRONG), TRIPLE)
    for name in ("double-test-small", "double-test-big"):
        book = edited(book, name, lambda each: [each._replace(source="pass")])
    book = edited(book, "setup", lambda each: [each._replace(source="def triple(n): 1 / 0")])
    got = pupils.of(book)
    assert states(got) == [("double", "graded", 0), ("triple", "graded", 2)]
    assert got.notes == (
        "the locked cells setup, double-test-small, double-test-big had been changed and were restored",
    )


def test_a_deleted_test_is_restored_and_noted(pupils: Class) -> None:
    got = pupils.of(edited(pupils.with_code(body(WRONG)), "double-test-small", lambda _: []))
    assert messages(got)["double.small"] == "twice 1 is 2, not 1"
    assert got.notes == ("the locked cell double-test-small had been deleted and was restored",)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "  \n"])
def test_what_editors_change_by_themselves_is_no_change(pupils: Class, ends: str) -> None:
    book = pupils.with_code(body(RIGHT), TRIPLE)
    cells = [each._replace(source=each.source.replace("\n", ends) + ends) for each in book.cells]
    extra = Cell("code", "1 / 0", {}, "mine")
    got = pupils.of(Notebook((*cells, extra), {"kernelspec": {}}))
    assert (got.earned, got.notes) == (6, ())


def test_the_solution_with_its_hidden_tests_is_no_change(pupils: Class) -> None:
    got = pupils.of(notebook.read(f"{pupils.folder}/course/solutions/01_first.ipynb"))
    assert (got.earned, got.notes) == (6, ())


def test_of_two_cells_of_a_name_the_last_that_is_written_in_counts(pupils: Class) -> None:
    stub = next(each for each in pupils.handed_out().cells if each.grade_id == "double-solution")
    book = edited(
        pupils.with_code(), "double-solution", lambda each: [each._replace(source=body(RIGHT), id="copy"), stub]
    )
    got = pupils.of(book)
    assert got.exercises[0].earned == 4
    assert got.notes == ("there are 2 cells double-solution: the last one that is written in counts",)
    same = edited(pupils.with_code(body(RIGHT)), "double-solution", lambda each: [each, each])
    assert pupils.of(same).notes == ()


BAD: dict[str, tuple[Notebook | bytes, str]] = {
    "no notebook": (b"%PDF-1.4 hello", "it is not a notebook"),
    "not even text": (bytes(range(256)) * 9, "it is not a notebook"),
    "an empty file": (b" \n", "the file is empty"),
    "no cells": (Notebook((), {}), "the notebook is empty"),
    "an old format": (b'{"nbformat": 3, "worksheets": []}', "notebook format 3 is not 4"),
    "another form of JSON": (b'["cells"]', "it is not a notebook"),
    "many parts": (b"[" + b"[]," * 1_000_001 + b"[]]", "it has more than 1000000 parts"),
    "deep": (b"[" * 200_000, "it is not a notebook"),
    "no metadata": (Notebook((Cell("code", "1", {}, "a"),), {}), "none of its cells is one of the assignment's"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_graded_is_said_and_stops_nobody(pupils: Class, name: str) -> None:
    content, words = BAD[name]
    pupils.hand_in("abe.ipynb", pupils.with_code(body(RIGHT)))
    pupils.hand_in("lea.ipynb", pupils.with_code(body(HALF)))
    got = pupils.of(content)
    assert words in got.trouble
    assert (got.student, got.assignment, got.points, got.earned, got.exercises) == ("kim", "01_first", 6, 0, ())
    assert [each.earned for each in pupils.grade().values()] == [4, 0, 2]


def test_a_notebook_of_another_assignment_is_named(pupils: Class) -> None:
    assert pupils.of(pupils.handed_out("02_second")).trouble == "it is a notebook of 02_second, and not of 01_first"
    assert pupils.grade()["kim"].assignment == "02_second"  # where no assignment is wanted, its cells say what it is


def test_a_file_of_100_mb_is_not_read(pupils: Class) -> None:
    with open(pupils.hand_in("kim.ipynb", b"{}"), "wb") as file:
        file.truncate(100 << 20)
    assert "100 MB are too much for a notebook" in pupils.grade("01_first")["kim"].trouble


def test_links_and_pipes_are_not_followed(pupils: Class) -> None:
    theirs = pupils.hand_in("abe.ipynb", pupils.with_code(body(RIGHT)))
    os.symlink(theirs, f"{pupils.folder}/class/kim.ipynb")
    os.mkfifo(f"{pupils.folder}/class/lea.ipynb")
    got = pupils.grade("01_first")
    assert [got[name].trouble for name in ("abe", "kim", "lea")] == ["", "it is a link", "it is no file"]


def test_half_characters_and_commands_to_terminals_do_no_harm(pupils: Class) -> None:
    got = pupils.of(pupils.with_code(body("raise ValueError('\\ud800 \\x1b[2J')")))
    assert messages(got)["double.small"] == "ValueError: ? \x1b[2J"
    book = json.loads(pupils.with_code(body(RIGHT)).to_bytes())
    book["cells"][0]["source"] = "\ud800"
    assert pupils.of(json.dumps(book).encode()).exercises[0].earned == 4
    trouble = pupils.of(b'{"nbformat": "\\u001b[2J", "cells": []}').trouble
    assert "\x1b" not in trouble and "is not 4" in trouble


def test_trouble_is_told_in_one_line(pupils: Class) -> None:
    pupils.pool.trouble = 'the judge has failed:\n  File "x", line 4\r\n\tNo module\n'
    got = pupils.of(pupils.with_code(body(RIGHT)))
    assert got.trouble == 'the grader has failed: the judge has failed: File "x", line 4 No module'


def test_the_graders_own_failure_is_trouble_and_not_kept(pupils: Class) -> None:
    pupils.pool.trouble = "the box could not be made"
    got = pupils.of(pupils.with_code(body(RIGHT)))
    assert (got.trouble, got.earned) == ("the grader has failed: the box could not be made", 0)
    pupils.pool.trouble = ""
    assert pupils.grade("01_first")["kim"].earned == 4


def test_what_a_judge_has_left_out_is_trouble_and_no_lost_point(pupils: Class, monkeypatch: pytest.MonkeyPatch) -> None:
    pupils.hand_in("kim.ipynb", pupils.with_code(body(RIGHT), TRIPLE))
    everything = pupils.pool.run

    def run(jobs: Iterable[Job]) -> Iterator[Done]:
        return (done._replace(verdicts=done.verdicts[1:]) for done in everything(jobs))

    monkeypatch.setattr(pupils.pool, "run", run)
    trouble = pupils.grade()["kim"].trouble
    assert trouble == "the grader has failed: the judge has left out double-test-small"
    monkeypatch.setattr(pupils.pool, "run", everything)
    assert pupils.grade()["kim"].earned == 6


# ------------------------------------------------------------------------------------------ where it lies, and when


@pytest.mark.parametrize(
    ("files", "wanted", "students"),
    [
        (["kim.ipynb", "abe.ipynb", "notes.txt", ".hidden.ipynb"], "", ["abe ", "kim "]),
        (["kim.ipynb", "data/table.csv"], "01_first", ["kim 01_first"]),
        (["kim/01_first.ipynb", "abe/01_first.ipynb", "abe/02_second.ipynb"], "", "all"),
        (["kim/01_first.ipynb", "abe/01_first.ipynb", "abe/02_second.ipynb"], "01_first", "first"),
        (["kim/01_first/01_first.ipynb", "abe/01_first/01_first.ipynb", "abe/02_second/02_second.ipynb"], "", "all"),
        (["submitted/kim/01_first/01_first.ipynb", "source/01_first/01_first.ipynb"], "", ["kim 01_first"]),
        (["kim/01_first.ipynb", "kim/.ipynb_checkpoints/01_first.ipynb", "kim/more.ipynb"], "", ["kim 01_first"]),
        (["kim/homework (1).ipynb"], "01_first", ["kim 01_first"]),
        (["kim/homework (1).ipynb"], "", ["kim "]),
        (["kim/text.pdf"], "01_first", ["kim 01_first: there is no notebook: 01_first.ipynb is looked for"]),
        (["kim/a.ipynb", "kim/b.ipynb"], "", ["kim : none of the 2 notebooks is an assignment's"]),
    ],
)
def test_submissions_are_found(tmp_path: Any, files: list[str], wanted: str, students: Any) -> None:
    for name in files:
        os.makedirs(os.path.dirname(f"{tmp_path}/class/{name}"), exist_ok=True)
        open(f"{tmp_path}/class/{name}", "w").close()
    found = submission.find([f"{tmp_path}/class"], ["01_first", "02_second"], wanted)
    said = [f"{each.student} {each.assignment}{': ' * bool(each.trouble)}{each.trouble}" for each in found]
    first = ["abe 01_first", "kim 01_first"]
    expected = {"first": first, "all": [first[0], "abe 02_second", first[1]]}.get(str(students), students)
    assert len(said) == len(expected)
    assert all(got.startswith(each) for got, each in zip(said, expected, strict=True))


def test_a_students_own_folder_and_file_are_found(tmp_path: Any) -> None:
    for path in ("kim/01_first.ipynb", "submitted/lea/01_first/01_first.ipynb"):
        os.makedirs(os.path.dirname(f"{tmp_path}/{path}"))
        open(f"{tmp_path}/{path}", "w").close()
    for path in ("kim", "kim/", "kim/01_first.ipynb"):
        assert [each.student for each in submission.find([f"{tmp_path}/{path}"], ["01_first"])] == ["kim"]
    for path in ("submitted/lea", "submitted/lea/01_first", "submitted/lea/01_first/01_first.ipynb"):
        assert [each.student for each in submission.find([f"{tmp_path}/{path}"], ["01_first"])] == ["lea"]
    assert submission.find([f"{tmp_path}/kim/01_first.ipynb"], [], "02_second")[0].assignment == "02_second"
    twice = submission.find([f"{tmp_path}/kim", f"{tmp_path}/kim/01_first.ipynb"], ["01_first"])
    assert len(twice) == 1 and not twice[0].trouble


def test_a_folder_that_cannot_be_read_is_one_students_trouble(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("abe", "kim"):
        os.mkdir(f"{tmp_path}/{path}")
        open(f"{tmp_path}/{path}/01_first.ipynb", "w").close()
    listed = submission._listed

    def refuse(path: str) -> tuple[list[str], list[str]]:
        if path.endswith("abe"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(submission, "_listed", refuse)
    found = submission.find([str(tmp_path)], ["01_first"])
    assert [each.trouble for each in found] == ["its folder cannot be read: Permission denied", ""]


def test_two_of_one_student_are_not_chosen_between(tmp_path: Any) -> None:
    for path in ("a/kim/01_first.ipynb", "b/kim/01_first.ipynb"):
        os.makedirs(os.path.dirname(f"{tmp_path}/{path}"))
        open(f"{tmp_path}/{path}", "w").close()
    (found,) = submission.find([f"{tmp_path}/a", f"{tmp_path}/b"], ["01_first"])
    assert found.trouble.startswith("it is there twice: ")


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-05-31 18:00:00.000000 UTC", "2026-05-31T18:00:00+00:00"),
        ("2026-05-31 18:00 Europe/Berlin", "2026-05-31T16:00:00+00:00"),
        ("2026-05-31T18:00+02:00", "2026-05-31T16:00:00+00:00"),
        ("2026-05-31T18:00:00Z", "2026-05-31T18:00:00+00:00"),
    ],
)
def test_times_are_read(text: str, utc: str) -> None:
    assert submission.moment(text).astimezone(UTC).isoformat() == utc


def test_a_day_ends_at_its_end_and_no_time_is_an_error() -> None:
    assert submission.moment("2026-05-31").strftime("%d %H:%M:%S") == "31 23:59:59"
    for text in ("tomorrow", "", "2026-05-31 18:00 Nowhere/Land", "2026-05-31 18:00 ../etc/passwd"):
        with pytest.raises(ValueError):
            submission.moment(text)


def test_late_is_what_came_after_the_time(pupils: Class) -> None:
    due = datetime(2026, 5, 31, 18, tzinfo=UTC)
    for name, seconds in (("abe/01_first", 0), ("kim/01_first", 1), ("lea/01_first/01_first", 2), ("max/01_first", -9)):
        file = pupils.hand_in(f"{name}.ipynb", pupils.handed_out())
        os.utime(file, (due.timestamp() + seconds,) * 2)
    pupils.hand_in("lea/01_first/timestamp.txt", b"2026-05-31 17:59:59.000000 UTC\n")
    pupils.hand_in("max/01_first.late", b"")
    assert [each.late for each in pupils.grade(due=due).values()] == [False, True, False, True]
    assert [each.late for each in pupils.grade().values()] == [False, False, False, True]


# ------------------------------------------------------------------------------------------ nobody is graded twice


def test_what_was_judged_is_not_judged_again_whosever_it_is(pupils: Class) -> None:
    for name in ("abe", "kim"):
        pupils.hand_in(f"{name}.ipynb", pupils.with_code(body(HALF)))
    first = pupils.grade()
    assert len(pupils.pool.jobs) == 1
    pupils.hand_in("lea.ipynb", edited(pupils.with_code(body(HALF)), "double", lambda _: []))  # a text is not judged
    again = pupils.grade()
    assert len(pupils.pool.jobs) == 1
    assert [again["abe"], again["kim"]] == [first["abe"], first["kim"]]
    assert [each.earned for each in again.values()] == [2, 2, 2]
    pupils.hand_in("lea.ipynb", pupils.with_code(body(WRONG)))
    assert pupils.grade()["lea"].earned == 0
    assert len(pupils.pool.jobs) == 2


def test_another_assignment_or_other_limits_are_judged_anew(pupils: Class) -> None:
    pupils.of(pupils.with_code(body(HALF)))
    pupils.grade(limits=Limits(seconds=3))
    assert len(pupils.pool.jobs) == 2
    path = f"{pupils.folder}/course/solutions/01_first.ipynb"
    book = notebook.read(path)
    notebook.write(
        path,
        edited(book, "double-test-small", lambda each: [each._replace(source="assert double(60) == 120, 'sixty'")]),
    )
    got = pupils.grade("01_first")["kim"]
    assert len(pupils.pool.jobs) == 3
    assert messages(got)["double.small"] == "sixty"


def test_a_broken_cache_is_no_cache(pupils: Class) -> None:
    first = pupils.of(pupils.with_code(body(HALF)))
    (name,) = os.listdir(f"{pupils.out}/cache")
    for broken in (b"", b"[]", b'{"verdicts": [["double"]], "seconds": 0}'):
        with open(f"{pupils.out}/cache/{name}", "wb") as file:
            file.write(broken)
        assert pupils.grade("01_first")["kim"] == first
    assert len(pupils.pool.jobs) == 4


def test_two_graders_do_not_work_on_one_folder(pupils: Class) -> None:
    pupils.hand_in("kim.ipynb", pupils.with_code(body(RIGHT)))
    rules = Rules(pupils.out)
    course = Assignments({}, rules)
    busy = grade.grade(
        [submission.Found("kim", "", f"{pupils.folder}/class/kim.ipynb")], course, rules, lambda: pupils.pool
    )
    next(busy)
    with pytest.raises(Exception, match="another grader is at work"):
        pupils.grade()
    busy.close()  # type: ignore[attr-defined]
    assert pupils.grade()["kim"].earned == 4


def test_a_result_is_read_as_it_was_written_and_another_schema_is_refused(pupils: Class) -> None:
    got = pupils.of(pupils.with_code(body(HALF)))
    fields = got.to_json()
    assert fields["schema"] == 1 and result.from_json(json.loads(json.dumps(fields))) == got
    assert result.from_json({**fields, "later": 1}) == got
    wrong: Any
    for wrong in ({**fields, "schema": 2}, {"schema": 1}, {**fields, "exercises": [3]}, [], None):
        with pytest.raises(result.NotAResult):
            result.from_json(wrong)


# ------------------------------------------------------------------------------------------ a course of another form


def plain_course(folder: Any) -> str:
    """Write a notebook as nbgrader's users do, with any names; return its path."""

    def marked(grade_id: str, source: str, points: float = 0, kind: str = "code", **marks: bool) -> Cell:
        fields = {"grade_id": grade_id, "schema_version": 3, "solution": False, "grade": False, "locked": False}
        return Cell(kind, source, {"nbgrader": {**fields, **marks, "points": points}}, grade_id)

    cells = (
        Cell("markdown", "# Problem 1", {}, "head"),
        marked("imports", "import math", locked=True),
        marked(
            "jupyter", "### BEGIN SOLUTION\ndef area(r):\n    return math.pi * r * r\n### END SOLUTION", solution=True
        ),
        marked("correct_area", "assert round(area(1), 2) == 3.14", 1.5, grade=True, locked=True),
        marked(
            "q1b",
            "### BEGIN HIDDEN TESTS\nassert area(0) == 0, 'nothing'\n### END HIDDEN TESTS",
            2,
            grade=True,
            locked=True,
        ),
        marked("essay", "YOUR ANSWER HERE", 5, kind="markdown", grade=True, solution=True),
        marked("q2", "### BEGIN SOLUTION\nsquares = [1, 4]\n### END SOLUTION", solution=True),
        marked("q2_test", "assert squares == [1, 4]", 1, grade=True, locked=True),
    )
    path = f"{folder}/source/ps1/problem1.ipynb"
    os.makedirs(os.path.dirname(path))
    notebook.write(path, Notebook(cells, {}))
    return path


def of_plain_course(tmp_path: Any, changes: dict[str, str | None], boxed: bool = False, **rules: Any) -> Result:
    tmp_path = f"{tmp_path}/.courses"
    from minidocker.course.generate import exercise_notebook

    source = plain_course(tmp_path)
    book = exercise_notebook(notebook.read(source))
    cells = [
        each._replace(source=changed)
        for each in book.cells
        if (changed := changes.get(each.grade_id, each.source)) is not None
    ]
    os.makedirs(f"{tmp_path}/source/ps1/.ipynb_checkpoints")
    open(f"{tmp_path}/source/ps1/.ipynb_checkpoints/problem1.ipynb", "w").close()
    os.makedirs(f"{tmp_path}/submitted/kim/ps1")
    notebook.write(f"{tmp_path}/submitted/kim/ps1/problem1.ipynb", Notebook(tuple(cells), {}))
    made = Rules(f"{tmp_path}/out", **rules)
    paths = grade.known([str(tmp_path)])
    found = submission.find([str(tmp_path)], paths)
    pool = (lambda: Pool(1, made.of_judge)) if boxed else Unboxed
    (got,) = grade.grade(found, Assignments(paths, made), made, pool)
    return got


AREA = "def area(r):\n    return 3.14159 * r * r"


def test_a_course_of_any_form_is_graded_cell_by_cell(tmp_path: Any) -> None:
    got = of_plain_course(tmp_path, {"jupyter": AREA, "q2": "%matplotlib inline\n!ls\nsquares = [1]"})
    assert (got.assignment, got.graded_by.mode, got.points, got.earned) == ("ps1-problem1", "cells", 4.5, 3.5)
    assert states(got) == [("jupyter", "graded", 3.5), ("q2", "graded", 0)]
    assert got.exercises[0].title == "Problem 1"
    assert messages(got)["q2.q2_test"] == "it does not hold at `assert squares == [1, 4]`"
    assert got.notes == ("a person gives the points of essay (5 points): they are not counted here",)


def test_in_cells_an_error_stops_nothing_and_is_told_where_it_was_made(tmp_path: Any) -> None:
    got = of_plain_course(tmp_path, {"jupyter": "def area(:", "q2": "squares = [1, 4]"})
    assert states(got) == [("jupyter", "does not run", 0), ("q2", "graded", 1)]
    assert messages(got)["jupyter.correct_area"].startswith("SyntaxError")


def test_in_cells_what_is_locked_is_restored(tmp_path: Any) -> None:
    changes = {
        "jupyter": "def area(r):\n    return 3.14159",
        "imports": "import nothing",
        "correct_area": "pass",
        "q1b": None,
    }
    got = of_plain_course(tmp_path, changes)
    assert got.earned == 1.5
    assert messages(got)["jupyter.q1b"] == "nothing"
    assert [test.hidden for test in got.exercises[0].tests] == [False, True]
    assert got.notes[:2] == (
        "the locked cells imports, correct_area had been changed and were restored",
        "the locked cell q1b had been deleted and was restored",
    )


@pytest.mark.root
def test_in_cells_a_box_does_the_same(tmp_path: Any) -> None:
    got = of_plain_course(tmp_path, {"jupyter": f"print(__name__)\n{AREA}", "q2": "import os\nos._exit(0)"}, boxed=True)
    assert (got.trouble, got.graded_by.mode) == ("", "cells")
    assert states(got) == [("jupyter", "graded", 3.5), ("q2", "graded", 0)]
    assert "exit status 0" in messages(got)["q2.q2_test"]
    assert "__main__" in got.exercises[0].printed


def test_the_teachers_notebook_can_be_named(pupils: Class, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{pupils.folder}/elsewhere/hw 1.ipynb"
    os.makedirs(os.path.dirname(path))
    os.rename(f"{pupils.folder}/course/solutions/01_first.ipynb", path)
    pupils.hand_in("kim.ipynb", pupils.with_code(body(HALF)))
    rules = Rules(pupils.out)
    course = Assignments(grade.known([], path), rules)
    found = submission.find([f"{pupils.folder}/class"], course.names, "hw 1")
    (got,) = grade.grade(found, course, rules, Unboxed)
    assert (got.assignment, got.earned, got.graded_by.mode) == ("hw 1", 2, "functions")


def test_in_cells_what_does_not_end_is_interrupted(tmp_path: Any) -> None:
    changes: dict[str, str | None] = {"jupyter": f"{AREA}\nwhile True: pass", "q2": "squares = [1, 4]"}
    got = of_plain_course(tmp_path, changes, limits=Limits(seconds=1))
    assert got.earned == 4.5  # what was defined before is there


def test_in_fidelity_mode_nobody_loses_points_for_an_engine_that_has_no_place_in_a_box(tmp_path: Any) -> None:
    make_course(str(tmp_path), exercise_cells(TESTS), setup="from minidocker.course.trial import try_out")
    with pytest.raises(MinidockerError, match="start an engine"):
        assignment.load("01_first", f"{tmp_path}/solutions/01_first.ipynb", f"{tmp_path}/work", fidelity=True)


def test_a_notebook_without_marks_is_no_assignment(tmp_path: Any) -> None:
    notebook.write(f"{tmp_path}/a.ipynb", Notebook((Cell("code", "1", {}, "a"),), {}))
    with pytest.raises(Exception, match="no cell is graded"):
        assignment.load("a", f"{tmp_path}/a.ipynb", f"{tmp_path}/work")


# ------------------------------------------------------------------------------------------ at the terminal


class Screen:
    """What is written, to a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        self.text = ""
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_is_one_line_on_a_terminal_and_sparse_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown, sparse = Screen(True), Screen(False)
    bars = [command.Progress(screen, 100) for screen in (shown, sparse)]  # type: ignore[arg-type]
    for number in range(60):
        now[0] += 0.5
        for bar in bars:
            bar.show(failed=number == 3)
    for bar in bars:
        bar.end()
    assert shown.text.count("\n") == 1
    assert shown.text.endswith("59 of 100 graded, 1 could not be, 0:20 left\n")
    assert sparse.text.splitlines() == [
        f"{n - 1} of 100 graded, 1 could not be, 0:{(100 - n) // 2:02} left" for n in (20, 40, 60)
    ]


@pytest.mark.parametrize(
    "line",
    ["", "class", "--out out", "--out out nowhere", "--out out --assignment no class", "--out out --wrong class"]
    + [
        "--out out --due tomorrow class",
        "--out out --workers 0 class",
        "--out out --timeout x class",
        "--out out empty",
    ],
)
def test_a_line_that_cannot_be_understood_ends_with_2(
    pupils: Class, line: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pupils.hand_in("kim.ipynb", pupils.handed_out())
    os.mkdir(f"{pupils.folder}/empty")
    monkeypatch.chdir(pupils.folder)
    monkeypatch.setenv("MINIDOCKER_COURSE", f"{pupils.folder}/course")
    assert main.main(["grade", *line.split()]) == 2
    assert capsys.readouterr().err


def test_a_folder_that_is_named_and_holds_no_course_is_told(
    pupils: Class, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pupils.hand_in("kim.ipynb", pupils.handed_out())
    monkeypatch.setenv("MINIDOCKER_COURSE", "/nope")
    assert main.main(["grade", "--out", pupils.out, f"{pupils.folder}/class"]) == 2
    assert "there is no course in /nope" in capsys.readouterr().err


def test_the_marks_are_printed_and_the_exit_code_says_whether_all_are_there(
    pupils: Class, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("MINIDOCKER_COURSE", f"{pupils.folder}/course")
    monkeypatch.setattr(command, "_pool", lambda *_: pupils.pool)
    monkeypatch.setattr(Unboxed, "weaker", (), raising=False)
    pupils.hand_in("kim.ipynb", pupils.with_code(body(HALF)))
    line = ["grade", "--out", pupils.out, f"{pupils.folder}/class"]
    assert main.main(line) == 0
    assert capsys.readouterr().out == "kim  01_first  2 of 6\n"
    pupils.hand_in("abe.ipynb", b"hello")
    line[2] = f"{pupils.folder}/class/out"  # which is not taken for a student's
    assert main.main(line) == 1
    said = capsys.readouterr()
    assert said.out == "abe  01_first  not graded\nkim  01_first  2 of 6\n"
    assert f"abe could not be graded: {pupils.folder}/class/abe.ipynb: it is not a notebook" in said.err
    with open(f"{line[2]}/marks.csv") as file:
        assert len(file.readlines()) == 3


@pytest.mark.root
def test_in_fidelity_mode_jupyters_kernel_runs_the_whole_notebook_in_the_box(tmp_path: Any) -> None:
    changes: dict[str, str | None] = {
        "jupyter": f"import os\nprint('in', os.path.exists('/home'), get_ipython())\n{AREA}",
        "q2": "%time squares = !echo 1; echo 4\nsquares = [int(word) for word in squares]\nprint(1 / 0)",
    }
    got = of_plain_course(tmp_path, changes, boxed=True, fidelity=True)
    assert (got.trouble, got.graded_by.mode) == ("", "notebook")
    assert states(got) == [("jupyter", "graded", 3.5), ("q2", "graded", 1)]
    assert "in False <ipykernel" in got.exercises[0].printed


@pytest.mark.root
def test_in_fidelity_mode_an_end_of_the_kernel_is_told(tmp_path: Any) -> None:
    changes: dict[str, str | None] = {"jupyter": AREA, "q2": "import os\nos._exit(0)"}
    got = of_plain_course(tmp_path, changes, boxed=True, fidelity=True)
    assert [each.earned for each in got.exercises] == [3.5, 0]
    assert "the kernel has ended" in messages(got)["q2.q2_test"]


# ------------------------------------------------------------------------------------------ killed and gone on with


def small_class(folder: Any, size: int) -> list[str]:
    """Make a class of so many in a course of one exercise; return the command line that grades it, but for --out."""
    make_course(f"{folder}/course", exercise_cells(TESTS), setup="from minidocker.course.testing import equal\n")
    book = notebook.read(f"{folder}/course/exercises/01_first.ipynb")
    os.mkdir(f"{folder}/class")
    for number in range(size):
        code = f"{body((RIGHT, HALF, WRONG, 'return nothing')[number % 4])}  # {number}"
        theirs = edited(book, "double-solution", lambda each, code=code: [each._replace(source=code)])  # type: ignore[misc]
        notebook.write(f"{folder}/class/s{number:03}.ipynb", theirs)
    return [sys.executable, "-c", ENTRY, "grade", f"{folder}/class", "--workers", "2", "--out"]


def kept(folder: str) -> dict[str, tuple[int, int]]:
    """Return the judgements that are kept, each with what changes when it is written again."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return {each.name: (each.inode(), each.stat().st_mtime_ns) for each in entries if each.name.endswith(".json")}
    return {}


def marks(out: str) -> list[Any]:
    return [each._replace(graded_by=each.graded_by._replace(seconds=0)) for each in result.read_all(out)]


@pytest.mark.root
@pytest.mark.timeout(600)  # four hundred submissions on a machine that may be busy
def test_a_class_that_was_killed_ten_times_gets_the_marks_of_one_that_was_not(tmp_path: Any) -> None:
    line = small_class(tmp_path, 200)
    environment = {**os.environ, "MINIDOCKER_COURSE": f"{tmp_path}/course"}
    chance = random.Random()  # noqa: S311, it is no secret
    seen: dict[str, tuple[int, int]] = {}
    for _ in range(10):
        running = subprocess.Popen([*line, f"{tmp_path}/out"], env=environment, stderr=subprocess.DEVNULL)
        enough, deadline = len(seen) + chance.randrange(10), time.monotonic() + 60  # a fast machine has work left
        while len(kept(f"{tmp_path}/out/cache")) < enough and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.random() / 20)
        with open(f"/proc/{running.pid}/task/{running.pid}/children") as file:
            workers = file.read().split()
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 20
        while any(os.path.exists(f"/proc/{pid}") for pid in workers):
            assert time.monotonic() < deadline, "a judge has outlived its grader"
            time.sleep(0.01)
        before, seen = seen, kept(f"{tmp_path}/out/cache")
        assert before.items() <= seen.items()  # nothing was judged a second time
    assert 0 < len(seen) < 200
    subprocess.run([*line, f"{tmp_path}/out"], env=environment, check=True, capture_output=True)
    subprocess.run([*line, f"{tmp_path}/unbroken"], env=environment, check=True, capture_output=True)
    assert seen.items() <= kept(f"{tmp_path}/out/cache").items()
    assert len(marks(f"{tmp_path}/out")) == 200
    assert marks(f"{tmp_path}/out") == marks(f"{tmp_path}/unbroken")
    with open(f"{tmp_path}/out/marks.csv") as ours, open(f"{tmp_path}/unbroken/marks.csv") as theirs:
        assert ours.read() == theirs.read()


@pytest.mark.root
def test_ctrl_c_leaves_what_is_done(tmp_path: Any) -> None:
    line = small_class(tmp_path, 60)
    environment = {**os.environ, "MINIDOCKER_COURSE": f"{tmp_path}/course"}
    running = subprocess.Popen([*line, f"{tmp_path}/out"], env=environment, stderr=subprocess.PIPE, text=True)
    while len(kept(f"{tmp_path}/out/cache")) < 5 and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "of 60 are done; the same command goes on from there" in said
    assert "Traceback" not in said
    assert 4 <= len(list(result.read_all(f"{tmp_path}/out"))) < 60  # the fifth may be judged and not yet said
