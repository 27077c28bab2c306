"""A teacher's way with folders: what is handed out holds no secret, what comes back finds its place."""

import io
import json
import os
import subprocess
import tempfile
import zipfile
from datetime import UTC, datetime
from typing import Any

import pytest

from coursekit import exercise_cells, make_course
from minidocker.cli.main import main
from minidocker.course import catalogue, classroom, collecting, generate, notebook, result
from minidocker.course.collecting import Known
from minidocker.course.result import Test as Outcome
from minidocker.errors import MinidockerError
from test_course_exports import graded

TESTS = {
    "small": "assert double(1) == 2\n### BEGIN HIDDEN TESTS\nassert double(4711) == 9422\n### END HIDDEN TESTS",
    "big": "assert double(100) == 200",
}
RIGHT = "def double(number):\n    return 2 * number"


@pytest.fixture
def course(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a course of two sections, `double` and `again`, go there, and return its folder."""
    monkeypatch.delenv("MINIDOCKER_COURSE", raising=False)
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/state.json")
    folder = str(tmp_path / "course")
    make_course(folder, exercise_cells(TESTS), exercise_cells(TESTS, name="again"))
    monkeypatch.chdir(folder)
    return folder


def written(course: str, section: str = "01_first", mark: str = "") -> bytes:
    """Return a learner's notebook; `mark` makes it another one's."""
    book = notebook.read(f"{course}/exercises/{section}.ipynb")
    cells = tuple(
        cell._replace(source=f"{RIGHT}{mark and f'  # {mark}'}") if cell.grade_id.endswith("-solution") else cell
        for cell in book.cells
    )
    return book._replace(cells=cells).to_bytes()


def put(path: Any, data: bytes, when: str = "2026-05-01T12:00:00+00:00") -> None:
    """Write a file that was handed in at a time."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.utime(path, (datetime.fromisoformat(when).timestamp(),) * 2)


def zipped(files: dict[str, bytes], hour: int = 12) -> bytes:
    """Return an archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 5, 1, hour, 0, 0)), content)
    return data.getvalue()


def assignments(course: str) -> list[Known]:
    names = ("01_first", "02_second")
    return collecting.known({name: f"{course}/solutions/{name}.ipynb" for name in names})


def collected(course: str, tmp_path: Any, *sources: str, due: str = "") -> tuple[list[tuple[str, str]], list[str]]:
    """Return whose notebooks of what there are after collecting, and the notes."""
    when = datetime.fromisoformat(due).replace(tzinfo=UTC) if due else None
    to = f"{tmp_path}/to"
    placed, notes = collecting.collect(sources or [f"{tmp_path}/in"], to, assignments(course), when)
    found = [(each.student, each.assignment) for each in placed]
    assert sorted(found) == sorted(
        (student, name.removesuffix(".ipynb"))
        for student in (os.listdir(to) if os.path.isdir(to) else [])
        for name in os.listdir(f"{to}/{student}")
        if name.endswith(".ipynb")
    )
    return found, notes


def test_what_is_handed_out_has_no_secrets_and_works(course: str, tmp_path: Any, monkeypatch: Any) -> None:
    to = str(tmp_path / "out")
    assert main(["course", "hand-out", to]) == 0
    for folder, _, names in os.walk(to):
        for name in names:
            with open(f"{folder}/{name}") as file:
                text = file.read()
            assert "4711" not in text and "2 * number" not in text and "BEGIN" not in text
    assert sorted(os.listdir(f"{to}/exercises")) == ["01_first.ipynb", "02_second.ipynb"]
    assert not generate.drifted(f"{course}/solutions", f"{to}/exercises")
    monkeypatch.chdir(to)
    assert main(["course", "list"]) == 0
    assert main(["course", "check", "double"]) == 1
    found = catalogue.load()
    found.write(found.get("double"), RIGHT)
    assert main(["course", "check", "double"]) == 0
    with pytest.raises(MinidockerError, match="comes without solutions"):
        classroom.hand_out(str(tmp_path / "again"))


def test_a_hand_out_as_an_archive_of_one_section(course: str, tmp_path: Any) -> None:
    for name in ("one.zip", "two.zip"):
        assert main(["course", "hand-out", f"{tmp_path}/{name}", "02_second"]) == 0
    with zipfile.ZipFile(f"{tmp_path}/one.zip") as archive:
        assert archive.namelist() == ["minidocker-course/README.md", "minidocker-course/exercises/02_second.ipynb"]
        readme = archive.read("minidocker-course/README.md").decode()
    assert ". .venv/bin/activate" in readme and "jupyter lab exercises" in readme
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_nothing_is_handed_out_over_what_is_there(course: str, tmp_path: Any) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "work").write_text("mine")
    with pytest.raises(MinidockerError, match="is there already"):
        classroom.hand_out(str(tmp_path / "there"))
    with pytest.raises(MinidockerError, match="no section is called '03_third'"):
        classroom.hand_out(str(tmp_path / "new"), ["03_third"])
    assert not (tmp_path / "new").exists()


def test_a_secret_in_a_cell_without_marks_is_not_handed_out(course: str, tmp_path: Any) -> None:
    path = f"{course}/solutions/01_first.ipynb"
    book = notebook.read(path)
    secret = notebook.Cell("code", "### BEGIN SOLUTION\nx = 1\n### END SOLUTION", {}, "more")
    notebook.write(path, book._replace(cells=(*book.cells, secret)))
    with pytest.raises(MinidockerError, match="not marked as one"):
        classroom.hand_out(str(tmp_path / "out"))


SHAPES = {
    "a folder for each": "kim/01_first.ipynb",
    "the whole folder": "kim/exercises/01_first.ipynb",
    "nbgrader's": "submitted/kim/01_first/01_first.ipynb",
    "by assignment": "01_first/kim.ipynb",
    "by assignment, in folders": "01_first/kim/work.ipynb",
    "Moodle's folders": "kim_1234_assignsubmission_file_/my work.ipynb",
    "Moodle's flat files": "kim_1234_assignsubmission_file_my work.ipynb",
    "Canvas's": "kim_77_4567_my work-2.ipynb",
    "name behind": "01_first_kim.ipynb",
    "name in front": "kim-01_first (1).ipynb",
    "only a name": "kim.ipynb",
    "upper case": "kim/01_FIRST.IPYNB",
}


@pytest.mark.parametrize("path", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("packed", ["folder", "archive"])
def test_every_shape_finds_its_place(course: str, tmp_path: Any, path: str, packed: str) -> None:
    others = {path.replace("kim", "lee").replace("1234", "99"): written(course, mark="lee"), path: written(course)}
    source = f"{tmp_path}/in"
    if packed == "archive":
        source += ".zip"
        put(source, zipped(others))
    else:
        for name, data in others.items():
            put(f"{source}/{name}", data)
    assert collected(course, tmp_path, source) == ([("kim", "01_first"), ("lee", "01_first")], [])
    assert (tmp_path / "to/kim/01_first.ipynb").read_bytes() == written(course)


def test_archives_of_learners(course: str, tmp_path: Any) -> None:
    put(f"{tmp_path}/in/kim.zip", zipped({"exercises/01_first.ipynb": written(course)}))
    inner = zipped({"x/02_second.ipynb": written(course, "02_second")})
    put(f"{tmp_path}/in/lee.zip", zipped({"work.zip": inner, "__MACOSX/._01_first.ipynb": b"no"}))
    for sources in ([], [f"{tmp_path}/in/kim.zip", f"{tmp_path}/in/lee.zip"]):
        assert collected(course, tmp_path, *sources) == ([("kim", "01_first"), ("lee", "02_second")], [])


def test_an_archive_of_a_folder_of_learners(course: str, tmp_path: Any) -> None:
    files = {f"class/{name}/01_first.ipynb": written(course, mark=name) for name in ("kim", "lee")}
    put(f"{tmp_path}/all.zip", zipped(files))
    assert collected(course, tmp_path, f"{tmp_path}/all.zip") == ([("kim", "01_first"), ("lee", "01_first")], [])


def test_nobody_hands_in_for_another(course: str, tmp_path: Any) -> None:
    """What a learner has packed, and how its folders are called, says nothing of whose it is."""
    put(f"{tmp_path}/in/kim/01_first.ipynb", written(course))
    forged = written(course, mark="forged")
    names = (
        "kim/01_first.ipynb",
        "../kim/01_first.ipynb",
        "kim_1_assignsubmission_file_/01_first.ipynb",
        "/kim/x.ipynb",
    )
    put(f"{tmp_path}/in/lee.zip", zipped(dict.fromkeys(names, forged), hour=23))
    put(f"{tmp_path}/in/mo/kim_1_2_01_first.ipynb", forged, "2026-05-02T12:00:00+00:00")
    found, _ = collected(course, tmp_path)
    assert found == [("kim", "01_first"), ("lee", "01_first"), ("mo", "01_first")]
    assert (tmp_path / "to/kim/01_first.ipynb").read_bytes() == written(course)
    assert sorted(os.listdir(tmp_path)) == ["course", "in", "to"]


def test_two_learners_of_one_name_are_told_apart(course: str, tmp_path: Any) -> None:
    for number in (11, 12):
        place = f"{tmp_path}/in/Kim Lee_{number}_assignsubmission_file_/01_first.ipynb"
        put(place, written(course, mark=str(number)))
    assert collected(course, tmp_path) == ([("Kim Lee 11", "01_first"), ("Kim Lee 12", "01_first")], [])


def test_the_last_of_several_counts(course: str, tmp_path: Any) -> None:
    put(f"{tmp_path}/in/kim/01_first.ipynb", written(course, mark="new"), "2026-05-03T12:00:00+00:00")
    put(f"{tmp_path}/in/kim/old/01_first.ipynb", written(course, mark="old"))
    found, notes = collected(course, tmp_path)
    assert found == [("kim", "01_first")]
    assert (tmp_path / "to/kim/01_first.ipynb").read_bytes() == written(course, mark="new")
    assert notes == [f"kim handed in 01_first more than once: {tmp_path}/in/kim/old/01_first.ipynb is not taken"]


def test_what_is_late_is_marked(course: str, tmp_path: Any) -> None:
    put(f"{tmp_path}/in/early/01_first.ipynb", written(course), "2026-05-01T11:59:00+00:00")
    put(f"{tmp_path}/in/later/01_first.ipynb", written(course), "2026-05-01T12:01:00+00:00")
    put(f"{tmp_path}/in/canvas_LATE_1_2_01_first.ipynb", written(course), "2026-04-01T12:00:00+00:00")
    put(f"{tmp_path}/in/stamped/01_first/01_first.ipynb", written(course))
    (tmp_path / "in/stamped/01_first/timestamp.txt").write_text("2026-05-01 13:00:00.5 UTC")
    collected(course, tmp_path, due="2026-05-01 12:00")
    late = sorted(p.parent.name for p in tmp_path.glob("to/*/01_first.late"))
    assert late == ["canvas", "later", "stamped"]
    assert os.stat(tmp_path / "to/stamped/01_first.ipynb").st_mtime == 1777640400.5
    collected(course, tmp_path)
    assert sorted(p.parent.name for p in tmp_path.glob("to/*/01_first.late")) == ["canvas"]


def test_what_has_no_place_is_said(course: str, tmp_path: Any) -> None:
    put(f"{tmp_path}/in/kim/essay.ipynb", b'{"cells": [], "metadata": {}, "nbformat": 4}')
    put(f"{tmp_path}/in/lee/01_first.ipynb", b"{broken")  # its name says what it was to be
    put(f"{tmp_path}/in/mo/01_first.ipynb", b"")
    put(f"{tmp_path}/in/no.zip", b"PK\x03\x04 broken")
    put(f"{tmp_path}/in/photo.png", b"")
    os.symlink("/etc/passwd", tmp_path / "in/link.ipynb")
    found, notes = collected(course, tmp_path)
    assert found == [("lee", "01_first")]
    assert [note.removeprefix(f"{tmp_path}/in/") for note in sorted(notes)] == [
        "kim/essay.ipynb is passed over: neither its cells nor its name say what it is of",
        "link.ipynb is passed over: it is a link",
        "mo/01_first.ipynb is passed over: the file is empty",
        "no.zip is passed over: File is not a zip file",
        "photo.png is passed over: it is neither a notebook nor an archive",
    ]


def test_learners_without_a_notebook_are_named(course: str, tmp_path: Any) -> None:
    put(f"{tmp_path}/in/submitted/kim/01_first.ipynb", written(course))
    put(f"{tmp_path}/in/submitted/kim/data.csv", b"1")
    put(f"{tmp_path}/in/submitted/zoe.pdf", b"%PDF")
    os.makedirs(f"{tmp_path}/in/submitted/eve/01_first")
    found, notes = collected(course, tmp_path)
    assert found == [("kim", "01_first")]
    assert notes == [
        f"there is no notebook in {tmp_path}/in/submitted/eve",
        f"{tmp_path}/in/submitted/zoe.pdf is passed over: it is neither a notebook nor an archive",
    ]


def test_a_notebook_that_is_nobodys_among_others_is_told(course: str, tmp_path: Any) -> None:
    put(f"{tmp_path}/in/01_first.ipynb", written(course))
    assert collected(course, tmp_path) == ([("in", "01_first")], [])
    put(f"{tmp_path}/in/kim_01_first.ipynb", written(course))
    found, notes = collected(course, tmp_path)
    assert found == [("in", "01_first"), ("kim", "01_first")]
    path = f"{tmp_path}/in/01_first.ipynb"
    assert notes == [f"{path} has no learner's name: it is taken for in's, after what it lies in"]


def test_the_place_of_a_hand_out_is_not_forgotten(course: str, tmp_path: Any, capsys: Any) -> None:
    assert main(["course", "hand-out", "02_second"]) != 0
    assert "02_second is a section" in capsys.readouterr().err
    assert not os.path.exists("02_second")
    assert main(["course", "hand-out", "./02_second", "02_second"]) == 0


def test_a_wrong_time_and_an_archive_to_grade_say_what_to_do(course: str, tmp_path: Any, capsys: Any) -> None:
    put(f"{tmp_path}/in.zip", zipped({"kim/01_first.ipynb": written(course)}))
    for words in (["course", "collect"], ["grade", "--out", f"{tmp_path}/out"]):
        assert main([*words, "--due", "tomorrow", f"{tmp_path}/in.zip"]) == 2
        assert "not a time such as 2026-05-31 or '2026-05-31 18:00'" in capsys.readouterr().err
    assert main(["grade", "--out", f"{tmp_path}/out", f"{tmp_path}/in.zip"]) == 2
    assert f"'minidocker course collect --to submissions {tmp_path}/in.zip'" in capsys.readouterr().err


def test_an_archive_that_is_a_bomb_is_passed_over(course: str, tmp_path: Any) -> None:
    put(f"{tmp_path}/in/kim.zip", zipped({"01_first.ipynb": bytes(33 << 20)}))
    deep = zipped({"01_first.ipynb": written(course)})
    for _ in range(5):
        deep = zipped({"in.zip": deep})
    put(f"{tmp_path}/in/lee.zip", deep)
    found, notes = collected(course, tmp_path)
    assert found == []
    assert any("larger than 32 MB" in note for note in notes)


def test_collect_at_the_terminal(course: str, tmp_path: Any, capsys: Any) -> None:
    put(f"{tmp_path}/in/kim/01_first.ipynb", written(course))
    put(f"{tmp_path}/in/lee/02_second.ipynb", written(course, "02_second"))
    words = ["course", "collect", "--to", f"{tmp_path}/to", "--due", "2026-04-01", f"{tmp_path}/in"]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("kim  01_first  late: 2026-05-01")
    assert out[2] == f"2 notebooks of 2 learners in {tmp_path}/to"
    assert main([*words[:3], f"{tmp_path}/one", "--assignment", "01_first", f"{tmp_path}/in"]) == 0
    assert os.listdir(tmp_path / "one") == ["kim"]
    alone = ["--assignment", f"{course}/solutions/02_second.ipynb", f"{tmp_path}/in"]  # a notebook of no course
    assert main([*words[:3], f"{tmp_path}/two", *alone]) == 0
    assert os.listdir(tmp_path / "two") == ["lee"]
    os.mkdir(tmp_path / "empty")
    assert main(["course", "collect", "--to", f"{tmp_path}/to", f"{tmp_path}/empty"]) == 1
    assert main(["course", "collect", f"{tmp_path}/nowhere"]) != 0
    assert "there is no" in capsys.readouterr().err


def test_a_report_of_results(course: str, tmp_path: Any, capsys: Any) -> None:
    out = f"{tmp_path}/out"
    assert main(["course", "report", out]) != 0
    assert "grade first" in capsys.readouterr().err
    result.write(out, graded("kim", Outcome("t", 2, 1, "half", hidden=True)))
    assert main(["course", "report", out]) == 0
    names = ["classroom", "gradescope", "index.html", "junit.xml", "learners", "marks.csv", "nbgrader.csv", "results"]
    assert sorted(os.listdir(out)) == names
    page = (tmp_path / "out/learners/kim.html").read_text()
    assert "half" not in page
    assert main(["course", "report", "--show-hidden", out]) == 0
    assert "half" in (tmp_path / "out/learners/kim.html").read_text()


def test_gradescopes_archive_has_its_scripts_at_the_root(course: str, tmp_path: Any) -> None:
    assert main(["course", "gradescope", "01_first", f"{tmp_path}/a.zip"]) == 0
    with zipfile.ZipFile(f"{tmp_path}/a.zip") as archive:
        names = archive.namelist()
        modes = {name: archive.getinfo(name).external_attr >> 16 for name in names}
        archive.extractall(tmp_path / "source")
    assert {name for name in names if "/" not in name} == {"setup.sh", "run_autograder"}
    assert modes["setup.sh"] == modes["run_autograder"] == 0o755
    assert "solutions/01_first.ipynb" in names and "solutions/02_second.ipynb" not in names
    assert "minidocker/minidocker/cli/main.py" in names and "minidocker/pyproject.toml" in names
    for name in ("setup.sh", "run_autograder"):
        subprocess.run(["bash", "-n", f"{tmp_path}/source/{name}"], check=True)


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_gradescopes_harness(course: str, tmp_path: Any) -> None:
    """What Gradescope does, in a folder of the test's: unpack, set up, bring a submission, run, read the results."""
    classroom.gradescope(f"{tmp_path}/a.zip", "01_first")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as base:  # a box has a /tmp of its own, and is nobody's
        os.chmod(base, 0o755)
        with zipfile.ZipFile(f"{tmp_path}/a.zip") as archive:
            archive.extractall(f"{base}/source")
        env = {**os.environ, "AUTOGRADER": base}
        subprocess.run(["bash", f"{base}/source/setup.sh"], env=env, check=True, capture_output=True, timeout=110)
        put(f"{base}/submission/my work.ipynb", written(course))
        run = ["bash", f"{base}/source/run_autograder"]
        done = subprocess.run(run, env=env, check=True, capture_output=True, text=True, timeout=60)
        with open(f"{base}/results/results.json") as file:
            found = json.load(file)
        assert (found["score"], [test["status"] for test in found["tests"]]) == (4, ["passed", "passed"]), (found, done)
        os.unlink(f"{base}/submission/my work.ipynb")
        subprocess.run(run, env=env, check=True, capture_output=True, timeout=60)
        with open(f"{base}/results/results.json") as file:
            assert "not handed in" in file.read()
