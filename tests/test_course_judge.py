"""Verdicts: what right, wrong, unwritten and hostile code gets; and that nothing of it is left running."""

import os
import time
from typing import Any

import pytest

from coursekit import SETUP, exercise_cells, make_course, one, solution
from minidocker.course import judge as judges
from minidocker.course import report
from minidocker.course.calls import Trouble
from minidocker.course.judge import NOT_WRITTEN, Outcome, Verdict, judge, judge_apart
from minidocker.errors import MinidockerError

TESTS = {
    "small": "assert double(1) == 2, f'twice 1 is 2, not {double(1)}'",
    "big": "assert double(10**30) == 2 * 10**30, 'big numbers are numbers, too'",
}


def verdict_on(
    tmp_path: Any, code: str, tests: dict[str, str] | None = None, seconds: float = 5, **more: str
) -> Verdict:
    return judge(one(tmp_path, tests or TESTS, **more), code, seconds)


def messages(verdict: Verdict) -> list[str]:
    return [test.message for test in verdict.tests]


def body(text: str) -> str:
    return "def double(number):\n" + "\n".join(f"    {line}" for line in text.splitlines())


def test_the_solution_earns_all(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, body("return number * 2"))
    assert verdict.passed and verdict.earned == verdict.points == 4
    assert verdict.tests == (Outcome("small", 2, 2), Outcome("big", 2, 2))


def test_the_stub_is_not_written_yet(tmp_path: str) -> None:
    exercise = one(tmp_path, TESTS)
    verdict = judge(exercise, exercise.stub)
    assert (verdict.written, verdict.passed, verdict.earned) == (False, False, 0)
    assert messages(verdict) == [NOT_WRITTEN] * 2


def test_a_test_may_fail_alone_and_says_what_its_assert_says(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, body("return min(number * 2, 100)"))
    assert [test.earned for test in verdict.tests] == [2, 0]
    assert messages(verdict) == ["", "big numbers are numbers, too"]


def test_an_error_in_the_code_is_told_with_its_line(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, body("x = {}\nreturn x['no']"))
    assert verdict.tests[0] == Outcome("small", 2, 0, "KeyError: 'no'", "line 3: return x['no']")


def test_a_cell_that_cannot_be_read_is_told_with_its_line(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, "def double(number):\n    return number *\n")
    assert verdict.tests[1] == Outcome(
        "big", 2, 0, "SyntaxError: invalid syntax", f"line 2: return number *\n{' ' * 28}^"
    )


def test_code_that_cannot_be_run_is_told_once_with_the_place(tmp_path: str) -> None:
    exercise = one(tmp_path, TESTS)
    assert report.text(exercise, judge(exercise, "def double(number):\n    return number *\n")) == (
        "Double it: 0 of 4 points\n"
        "      SyntaxError: invalid syntax\n"
        "      your line 2: return number *\n"
        "                                  ^\n"
        "  ✗ small (2 points)\n"
        "  ✗ big (2 points)"
    )


def test_a_scenes_line_is_not_called_the_learners(tmp_path: str) -> None:
    scene = "def quick():\n    return double(1)\nTWO = double(1)"
    verdict = verdict_on(tmp_path, "def twice(number):\n    return 2", scene=scene)
    assert verdict.tests[0] == Outcome("small", 2, 0, "double is not defined: the solution's cell has to define it")
    verdict = verdict_on(tmp_path, "def double(number):\n    return 2", scene="TWO = double()")
    assert verdict.tests[0].where == ""
    verdict = verdict_on(tmp_path, "def double(number):\n    return 2 / 0", scene="TWO = double(1)")
    assert verdict.tests[0].where == "line 2: return 2 / 0"


def test_after_a_hang_the_other_tests_get_less_time(tmp_path: str) -> None:
    exercise = one(tmp_path, {**TESTS, "zero": "assert double(0) == 0"})
    code = "import time\ndef double(number):\n    time.sleep(60 if number else 0)\n    return 0"
    verdict = judge(exercise, code, 0.5, after_hang=0.2)
    assert messages(verdict) == [
        "your code did not answer within 0.5 seconds",
        "your code did not answer within 0.2 seconds: a test may take 0.5, but an earlier one did not end in time",
        "",
    ]


def test_after_a_child_that_hangs_the_other_tests_get_less_time(tmp_path: str) -> None:
    run = "with child(double, 1, seconds=0.5) as it:\n    assert it.result == 2"
    exercise = one(tmp_path, {"one": run, "two": run.replace("0.5", "60")})
    verdict = judge(exercise, body("import time\ntime.sleep(60)"), 5, after_hang=0.5)
    assert [message.partition(":")[0] for message in messages(verdict)] == [
        "TimeoutError",
        "your code did not answer within 0.5 seconds",
    ]


def test_a_helper_in_another_cell_is_told(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, body("return helper(number)"))
    assert messages(verdict)[0] == "NameError: name 'helper' is not defined"
    assert verdict.tests[0].where.startswith("line 2: return helper(number) (only the solution's cell is judged")


def test_a_judgement_that_does_not_end_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_course(str(tmp_path), exercise_cells({"hangs": "while True:\n    pass"}))
    monkeypatch.setattr(judges, "_LONGEST", 0.5)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(MinidockerError, match="no verdict after 0.5 seconds"):
        judge_apart(str(tmp_path), "double", body("return 2"))
    deadline = time.monotonic() + 5
    while os.listdir(tmp_path / "temporary") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(tmp_path / "temporary") == []


def test_a_name_that_is_missing_is_told(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, "def twice(number): return 2 * number")
    assert messages(verdict)[0] == "double is not defined: the solution's cell has to define it"


def test_a_test_that_cannot_go_on_says_where(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, body("return None"), {"size": "assert double(1).bit_length() == 2"})
    assert messages(verdict) == [
        "the test cannot go on at `assert double(1).bit_length() == 2`: "
        "AttributeError: 'NoneType' object has no attribute 'bit_length'"
    ]


def test_an_assert_without_a_message_shows_itself(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, body("return 3"), {"plain": "assert double(1) == 2"})
    assert messages(verdict) == ["it does not hold at `assert double(1) == 2`"]


def test_what_fails_among_the_hidden_tests_is_marked(tmp_path: str) -> None:
    hidden = (
        "assert double(0) == 0, 'zero'\n### BEGIN HIDDEN TESTS\nassert double(5) == 10, 'five'\n### END HIDDEN TESTS"
    )
    tests = {
        "both": hidden,
        "late": f"{hidden}\nassert double(5) == 10, 'again'",
        "seen": "assert double(5) == 10, 'open'",
    }
    assert [test.hidden for test in verdict_on(tmp_path, body("return min(number, 4)"), tests).tests] == [1, 1, 0]
    verdict = verdict_on(tmp_path, body("return 1"), tests)
    assert [(test.message, test.hidden) for test in verdict.tests] == [("zero", 0), ("zero", 0), ("open", 0)]
    assert not any(test.hidden for test in verdict_on(tmp_path, "def double(:", tests).tests)


def test_a_cell_that_cannot_be_run_is_marked(tmp_path: str) -> None:
    assert not verdict_on(tmp_path, "def double(:").loaded
    assert not verdict_on(tmp_path, "1 / 0").loaded
    assert verdict_on(tmp_path, body("return 1 / 0")).loaded


def test_what_the_code_prints_is_kept_within_bounds(tmp_path: str) -> None:
    verdict = verdict_on(tmp_path, body("print('x' * 10**7)\nreturn 2 * number"))
    assert verdict.passed
    assert verdict.printed.startswith("xxx") and len(verdict.printed) < 5000
    assert verdict.printed.endswith("… (and more)")


def test_what_little_the_code_prints_is_there_at_once(tmp_path: str) -> None:
    assert verdict_on(tmp_path, body("print(number)\nreturn 0"), {"one": "assert double(7) == 14"}).printed == "7\n"


def test_each_test_starts_afresh(tmp_path: str) -> None:
    tests = {"one": "left_behind = 1", "two": "assert left_behind == 1"}
    assert [test.earned for test in verdict_on(tmp_path, body("return 0"), tests).tests] == [2, 0]


def test_files_and_iterators_of_a_cell_are_left_alone(tmp_path: str) -> None:
    code = "import itertools\nwith open('/dev/null', 'rb') as file:\n    pass\nnumbers = itertools.count()\n"
    assert verdict_on(
        tmp_path, code + body("return 2 * number + next(numbers)"), {"one": "assert double(1) == 2"}
    ).passed


# What travels: arguments, results, functions, errors, and things that stay where they are.


def test_functions_are_called_back_and_their_errors_come_through(tmp_path: str) -> None:
    code = "def double(number):\n    return number(21)"
    tests = {
        "back": "assert double(lambda x: 2 * x) == 42",
        "error": "def bad(x):\n    raise InvalidReference('me')\nwith raises(InvalidReference, 'me'):\n    double(bad)",
    }
    assert verdict_on(tmp_path, code, tests).passed


def test_what_is_no_data_stays_and_can_be_given_back(tmp_path: str) -> None:
    scene = "class Box:\n    def __init__(self, n):\n        self.n = n\n    def put(self, n):\n        self.n = n"
    tests = {
        "box": "box = Box(3)\nassert box.n == 3\nbox.put(4)\nassert double(box) == 8\nassert repr(box) == 'a Box'",
        "own": "try:\n    double(object())\nexcept Exception as error:\n    assert 'make it in a scene' in str(error)\n"
        "else:\n    assert False",
        "private": "try:\n    Box(3)._hidden\nexcept AttributeError:\n    pass\nelse:\n    assert False",
    }
    verdict = verdict_on(tmp_path, body("return 2 * number.n"), tests, scene=scene)
    assert verdict.passed, messages(verdict)


def test_values_and_classes_of_the_cells_arrive(tmp_path: str) -> None:
    setup = SETUP + "from typing import NamedTuple\nclass Point(NamedTuple):\n    x: int\n"
    cells = exercise_cells(
        {"all": "assert WORD == 'w' and type(double(Point(1))) is Point and double(Point(1)).x == 2"},
        solution=solution("return Point(2 * number.x)") + "\nWORD = 'w'",
    )
    exercise = make_course(str(tmp_path), cells, setup=setup).exercises[0]
    verdict = judge(exercise, exercise.solution)
    assert verdict.passed, messages(verdict)


def test_raises_names_what_is_missing(tmp_path: str) -> None:
    tests = {
        "none": "with raises(InvalidReference, why='capitals'):\n    double(1)",
        "other": "with raises(InvalidReference, 'upper'):\n    double(0)",
        "wrong": "with raises(InvalidReference):\n    double(-1)",
    }
    code = body(
        "if number == 0:\n    raise InvalidReference('x')\nif number < 0:\n    raise KeyError('y')\nreturn 2 * number"
    )
    assert messages(verdict_on(tmp_path, code, tests)) == [
        "capitals: InvalidReference is to be raised, and nothing was",
        "InvalidReference says 'x', without 'upper'",
        "KeyError: 'y'",
    ]


def test_a_stub_does_not_pass_where_a_runtime_error_is_expected(tmp_path: str) -> None:
    exercise = one(tmp_path, {"error": "with raises(RuntimeError):\n    double(1)"})
    assert messages(judge(exercise, exercise.stub)) == [NOT_WRITTEN]


# Hostile code: a clear failure, never a pass, never a hang, and nothing left behind.

EXITS = "your code's process has ended before it answered (exit status 0)"
NO_DATA = "your code's process answered with something that is no data"
HOSTILE = {
    "exits": ("import os\nos._exit(0)", EXITS),
    "exits politely": ("raise SystemExit(0)", "SystemExit: 0"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "ended before it answered (signal 9)"),
    "prints a verdict": ("print('[\"return\", 2]', flush=True)\nprint('passed: 4 of 4 points')\nreturn 3", "twice 1"),
    "closes everything": ("import os\nos.closerange(0, 100)\nreturn 2", "your code's process has ended"),
    "answers with noise": ("import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'x' * 100)\n"
                           "    except OSError:\n        pass\nreturn 2", "your code's process answered with"),
    "answers deeply": ("import os, struct\ntext = b'[' * 200000\nfor fd in range(3, 20):\n    try:\n"
                       "        os.write(fd, struct.pack('>I', len(text)) + text)\n    except OSError:\n        pass\n"
                       "return 2", NO_DATA),
    "asks the judge for its things": (
        "import gc\nfrom minidocker.course.calls import Peer\n"
        "peer = next(thing for thing in gc.get_objects() if isinstance(thing, Peer))\n"
        "return peer.ask(['get', 0, '__globals__'])", "not a request"),
    "calls what it was not given": (
        "import gc\nfrom minidocker.course.calls import Peer\n"
        "peer = next(thing for thing in gc.get_objects() if isinstance(thing, Peer))\n"
        "return peer.call(0, 'x')", "no object's number"),
    "equals everything": ("class All:\n    def __eq__(self, other):\n        return True\nreturn All()", "twice 1"),
    "is a number that equals everything": (
        "class All(int):\n    def __eq__(self, other):\n        return True\nreturn All(3)", "twice 1"),
    "patches what tests are made of": (
        "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.isinstance = lambda *_: True\nreturn 3",
        ""),
    "raises what nobody expects": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "takes all memory": ("all = []\nwhile True:\n    all.append(bytes(1 << 24))", "MemoryError"),
    "prints without end": ("while True:\n    print('x' * 10**6)", "File too large"),
    "recurses": ("return double(number)", "RecursionError"),
    "claims to be judged": ("raise AssertionError()", "AssertionError"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_fails_and_is_told_why(tmp_path: str, name: str) -> None:
    code, says = HOSTILE[name]
    verdict = verdict_on(tmp_path, body(code))
    assert verdict.earned == 0
    assert says in messages(verdict)[0]


@pytest.mark.parametrize("name", ["raises", "equal", "child", "isinstance", "len", "AssertionError", "__builtins__"])
def test_a_cell_cannot_give_the_tests_own_words_another_meaning(tmp_path: str, name: str) -> None:
    tests = {
        "raises": "with raises(InvalidReference):\n    double(1)",
        "equal": "equal(double(1), 2, 'twice')",
        "child": "with child(double, 1) as it:\n    assert it.result == 2",
        "builtins": "assert isinstance(double(1), str)\nassert len(double(1)) == 2",
    }
    code = (
        "class Always:\n    def __init__(self, *args): pass\n    def __enter__(self): return self\n"
        f"    def __exit__(self, *_): return True\n    result = 2\n{name} = Always\n"
        "def double(number):\n    return 3\n"
    )
    assert verdict_on(tmp_path, code, tests).earned == 0


def test_a_scene_may_use_a_name_of_the_set_up_for_its_own(tmp_path: str) -> None:
    verdict = verdict_on(
        tmp_path, body("return 2"), {"own": "assert folder() == 'mine'"}, scene="def folder():\n    return 'mine'"
    )
    assert verdict.passed


@pytest.mark.parametrize("code", ["while True: pass", body("import time\ntime.sleep(60)"), body("number.join(1)")])
def test_code_that_hangs_is_given_up(tmp_path: str, code: str) -> None:
    if "join" in code:
        code = body("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nsignal.pause()")
    started = time.monotonic()
    verdict = verdict_on(tmp_path, code, {"one": "assert double(1) == 2"}, seconds=0.5)
    assert messages(verdict) == ["your code did not answer within 0.5 seconds"]
    assert time.monotonic() - started < 5


def test_a_test_cannot_take_a_dead_process_for_an_error_that_it_expects(tmp_path: str) -> None:
    tests = {"any": "try:\n    double(1)\nexcept Exception:\n    pass", "all": "with raises(Exception):\n    double(1)"}
    assert verdict_on(tmp_path, body("import os\nos._exit(3)"), tests).earned == 0


def test_the_next_test_gets_a_process_of_its_own(tmp_path: str) -> None:
    code = body("import os\nif number == 1:\n    os._exit(0)\nreturn 2 * number")
    assert [test.earned for test in verdict_on(tmp_path, code).tests] == [0, 2]


def test_what_the_code_has_started_is_ended(tmp_path: str) -> None:
    code = body(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execvp('sleep', ['sleep', '61.7539'])\n"
        "    os._exit(0)\n"
        "time.sleep(0.1)\n"
        "return 2 * number"
    )
    assert verdict_on(tmp_path, code).passed
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                assert b"61.7539" not in file.read()
        except OSError:
            continue


def test_files_beside_the_code_do_not_matter_and_its_folder_is_its_own(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "socket.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    code = body("import os\nopen('left', 'w').close()\nreturn os.getcwd()")
    verdict = verdict_on(tmp_path, code, {"where": "assert not os.path.exists(double(1) + '/socket.py'), double(1)"})
    assert verdict.passed, messages(verdict)
    assert not os.path.exists(tmp_path / "left")


def test_the_folder_of_the_code_goes_with_it_however_that_ends(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for code in ("open('left', 'w').close()\nreturn 2 * number", "import os\nos._exit(0)", "while True: pass"):
        verdict_on(tmp_path / "course", body(code), {"one": "assert double(1) == 2"}, seconds=0.5)
        assert os.listdir(tmp_path / "temporary") == []


def test_judging_apart_gives_the_same_verdict(tmp_path: str) -> None:
    course = make_course(str(tmp_path), exercise_cells(TESTS))
    code = body("print('hello')\nreturn 3")
    exercise = course.get("double")
    assert judge_apart(str(tmp_path), "double", code) == judge(exercise, code)
    with pytest.raises(MinidockerError, match="cannot be judged"):
        judge_apart(str(tmp_path), "nothing", code)


def test_a_check_takes_less_than_a_second(tmp_path: str) -> None:
    exercise = one(tmp_path, TESTS)
    taken = []
    for _ in range(3):
        started = time.monotonic()
        assert judge(exercise, exercise.solution).passed
        taken.append(time.monotonic() - started)
    assert min(taken) < 1


def test_trouble_of_the_checks_own_is_nobodys_mistake(tmp_path: str) -> None:
    trouble = "from minidocker.course.calls import Trouble\n"
    tests = {"own": f"{trouble}raise Trouble('there is no engine')"}
    with pytest.raises(Trouble, match="there is no engine"):
        verdict_on(tmp_path, body("return number * 2"), tests)
    verdict = verdict_on(tmp_path, f"{trouble}{body('raise Trouble(number)')}")
    assert [test.earned for test in verdict.tests] == [0, 0]
