"""scripts/exercises.py: what it calls a good exercise, and the faults that it finds."""

from typing import Any

import pytest

import exercises
from coursekit import cell, exercise_cells, make_course, one
from exercises import Wrong, fault_together, faults, wrong_solutions
from minidocker.course import notebook

TESTS = {"small": "assert double(1) == 2, 'twice 1'", "big": "assert double(100) == 200, 'twice 100'"}
THREE = [Wrong(f"wrong {n}", "2 * number", f"{n} * number", "twice") for n in (3, 4, 5)]


def test_a_good_exercise_has_no_fault(tmp_path: str) -> None:
    assert faults(one(tmp_path, TESTS), THREE) == []


def test_every_fault_is_named(tmp_path: Any) -> None:
    def found(tests: dict[str, str], wrong: list[Wrong], body: str = "return 2 * number") -> str:
        return " | ".join(faults(one(tmp_path, tests, body), wrong))

    assert "1 tests: 2 to 5" in found({"only": TESTS["small"]}, THREE)
    assert "2 wrong solutions: 3 are the fewest" in found(TESTS, THREE[:2])
    assert "its solution earns 0 of 4 points: small: twice 1; big: twice 100" in found(TESTS, THREE, "return 0")
    assert "its stub earns 2 points" in found({**TESTS, "free": "pass"}, THREE)
    passes = Wrong("no mistake", "2 * number", "number * 2", "twice")
    assert found(TESTS, [*THREE, passes]) == "wrong solution 'no mistake': no message says 'twice'; it passes"
    unsaid = Wrong("unsaid", "2 * number", "3 * number", "thrice")
    assert "no message says 'thrice'; small: twice 1; big: twice 100" in found(TESTS, [*THREE, unsaid])
    assert "stands 0 times in the solution" in found(TESTS, [*THREE, Wrong("x", "nowhere", "", "twice")])
    assert "stands 2 times in the solution" in found(TESTS, [*THREE, Wrong("x", "number", "", "twice")])


def test_wrong_solutions_are_read_from_their_file(tmp_path: Any) -> None:
    exercise = one(tmp_path, TESTS)
    assert wrong_solutions(str(tmp_path), exercise) == []
    (tmp_path / "solutions" / "wrong").mkdir()
    text = "[[double]]\nname = 'a'\nold = 'b'\nnew = 'c'\nsays = 'd'\n"
    (tmp_path / "solutions" / "wrong" / "01_first.toml").write_text(text)
    assert wrong_solutions(str(tmp_path), exercise) == [Wrong("a", "b", "c", "d")]


def test_a_test_that_hides_a_name_is_found(tmp_path: Any) -> None:
    make_course(str(tmp_path), exercise_cells({"hides": "double = double(1)\nassert double == 2", "next": "double(2)"}))
    path = f"{tmp_path}/solutions/01_first.ipynb"
    assert fault_together(path) == (
        "TypeError: 'int' object is not callable: File \"<cell double-test-next>\", line 1, in <module>"
    )
    book = notebook.read(path)
    notebook.write(path, book._replace(cells=(*book.cells[:-1], cell("check", "1 / 0", "double"))))
    assert fault_together(path) == ""


def test_the_command_says_what_it_did(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make_course(str(tmp_path), exercise_cells(TESTS))
    monkeypatch.setattr(exercises, "FOLDER", str(tmp_path))
    assert exercises.main(["drifted"]) == 0
    book = notebook.read(f"{tmp_path}/exercises/01_first.ipynb")
    notebook.write(f"{tmp_path}/exercises/01_first.ipynb", book._replace(metadata={}))
    assert exercises.main(["drifted"]) == 1
    assert capsys.readouterr().out == "01_first.ipynb\n"
    assert exercises.main(["write", "02_second"]) == 0
    assert capsys.readouterr().out == ""
    assert exercises.main(["write"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/exercises/01_first.ipynb\n"
    assert exercises.main(["drifted"]) == 0
    assert exercises.main(["prove", "nothing"]) == 1
    assert exercises.main(["prove", "01_first"]) == 1
    assert "double: faulty; 0 wrong ones" in capsys.readouterr().out
    assert exercises.main(["unknown"]) == 2
