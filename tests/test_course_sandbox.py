"""The box: what is in it, that every exercise of the course can be done in it, and that it never fails open."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from boxkit import HONEST, SMALL, TESTS, Grader, make_grader, processes
from coursekit import exercise_cells, make_course
from exercises import failures, wrong_solutions
from minidocker.container import cgroups
from minidocker.course import catalogue, sandbox, worker
from minidocker.course.judge import Verdict, judge
from minidocker.course.pool import Job, Limits, Pool
from minidocker.errors import StartError
from minidocker.linux.syscalls import MS_BIND, MS_REC

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COURSE = catalogue.load(PROJECT)
SECTIONS = sorted({exercise.section for exercise in COURSE.exercises})


@pytest.fixture(scope="module")
def grader(tmp_path_factory: Any) -> Generator[Grader, None, None]:
    yield from make_grader(str(tmp_path_factory.mktemp("course")), Limits())


# What is in it.


def test_the_plan_shows_the_system_python_and_this_package_and_no_more() -> None:
    shown = sandbox.trees()
    images = sandbox.images()
    own = {sys.base_prefix, sys.prefix, sandbox.PACKAGE, images.path if images else ""}
    assert set(shown) <= {*sandbox._SYSTEM, *own}
    mounts = sandbox.plan(shown)
    assert all(attach.flags & MS_BIND and sandbox.in_room(attach.source) == attach.target for attach in mounts)
    assert all(attach.flags == MS_BIND | MS_REC for attach in mounts if not attach.source.startswith("/dev/"))
    for hidden in ("solutions", "exercises", "tests"):
        assert sandbox.shows(f"{PROJECT}/{hidden}") == ""
    assert sandbox.shows(f"{sandbox.PACKAGE}/course") and sandbox.shows("/usr/share/course")


BELOW_TMP = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from minidocker.course.pool import Job, Limits, Pool\n"
    "with Pool(1, Limits()) as pool:\n"
    "    for done in pool.run([Job('x', '01_first', sys.argv[2], {'double': sys.argv[3]})] * 2):\n"
    "        print(done.trouble, [verdict.passed for verdict in done.verdicts], done.verdicts[0].printed)\n"
)
LOOKS_AROUND = (
    "import errno, os, minidocker\nplace = os.path.dirname(minidocker.__file__)\n"
    "def fails(call, *args):\n    try:\n        call(*args)\n    except OSError as error:\n"
    "        return errno.errorcode[error.errno]\n"
    "print([name for name in os.listdir('/tmp') if 'exercise' not in name], end=' ')\n"
    "print(fails(open, place + '/new', 'w'), fails(os.rename, place, place + 's'))\n"
    "import minidocker.course.lab\nopen('/tmp/left', 'w').close()\n"
)


def test_a_clone_below_tmp_grades_and_its_files_are_not_in_the_learners_tmp(grader: Grader) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as clone:
        os.chmod(clone, 0o755)
        shutil.copytree(sandbox.PACKAGE, f"{clone}/minidocker")
        command = [sys.executable, "-I", "-c", BELOW_TMP, clone, grader.folder, LOOKS_AROUND + HONEST]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [" [True] [] EROFS EROFS", ""] * 2, done.stdout + done.stderr


def test_only_what_is_below_tmp_has_another_path_in_the_room() -> None:
    assert sandbox.in_room("/tmp/clone/minidocker") == "/shown/tmp/clone/minidocker"
    assert [sandbox.in_room(path) for path in ("/usr", "/tmpfiles", "/opt/tmp")] == ["/usr", "/tmpfiles", "/opt/tmp"]


def test_a_python_that_could_not_be_started_in_the_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/tmp/python")
    with pytest.raises(StartError, match="Python itself is in /tmp/python: use one"):
        sandbox.stage()


def test_a_link_into_what_is_shown_is_seen_through(tmp_path: Any) -> None:
    (tmp_path / "link").symlink_to("/usr/share")
    assert sandbox.shows(f"{tmp_path}/link/course") != ""


def test_a_course_that_submissions_could_read_is_not_graded(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "trees", lambda: ["/usr", grader.folder])
    with Pool(1, SMALL) as strict:
        (done,) = strict.run([grader.job(HONEST)])
    assert done.verdicts == () and "submissions can read: move it elsewhere" in done.trouble


def test_namespaces_are_for_the_exercises_whose_tests_make_some() -> None:
    with_them = {exercise.name for exercise in COURSE.exercises if worker.needs_namespaces(exercise)}
    assert {"unshare", "pivot_root", "cable", "start_time"} <= with_them
    assert not with_them & {"parse_reference", "split_words", "cache_key", "commit", "cgroup_limits"}


def test_a_filter_with_namespaces_is_another_than_one_without() -> None:
    assert sandbox.filter_program(False) != sandbox.filter_program(True)


def test_an_exercise_travels_whole() -> None:
    for exercise in COURSE.exercises:
        assert worker.unpack(worker.pack(exercise)) == exercise


# Every exercise can be done in it.


def in_boxes(section: str, codes: list[dict[str, str]]) -> Iterator[Any]:
    """Grade some submissions of a section of the course, in their order."""
    jobs = [Job(str(number), section, PROJECT, code) for number, code in enumerate(codes)]
    with Pool(1, Limits()) as made:
        found = {done.key: done for done in made.run(jobs)}
    for job in jobs:
        assert not found[job.key].trouble, found[job.key].trouble
        yield found[job.key].verdicts


@pytest.mark.parametrize("section", SECTIONS)
def test_solutions_earn_all_points_in_a_box_and_stubs_none(section: str) -> None:
    own = [exercise for exercise in COURSE.exercises if exercise.section == section]
    solutions, stubs = in_boxes(section, [{e.name: e.solution for e in own}, {e.name: e.stub for e in own}])
    assert [verdict.exercise for verdict in solutions] == [exercise.name for exercise in own]
    for verdict in solutions:
        assert verdict.passed, failures(verdict)
    assert [verdict.earned for verdict in stubs] == [0] * len(own)


@pytest.mark.parametrize("section", ["02_images", "07_versions"])
def test_a_box_gives_the_verdicts_that_a_learner_gets_at_home(section: str) -> None:
    pairs = [(e, w) for e in COURSE.exercises if e.section == section for w in wrong_solutions(PROJECT, e)]
    codes = [wrong.made_of(exercise.solution) for exercise, wrong in pairs]
    graded = in_boxes(section, [{exercise.name: code} for (exercise, _), code in zip(pairs, codes, strict=True)])
    for (exercise, wrong), code, (verdict,) in zip(pairs, codes, graded, strict=True):
        at_home = judge(exercise, code)
        assert [test.earned for test in verdict.tests] == [test.earned for test in at_home.tests]
        assert not verdict.passed and any(wrong.says in test.message for test in verdict.tests)


def test_only_the_cells_that_are_given_are_judged(grader: Grader) -> None:
    (done,) = grader.pool.run([grader.job(HONEST)._replace(codes={"nothing": HONEST})])
    assert (done.verdicts, done.trouble) == ((), "")


# It never fails open.

STEPS = (
    # in the guard
    "minidocker.course.sandbox.filter_program",
    "minidocker.course.sandbox.map_room",
    "minidocker.container.cgroups.create",
    "minidocker.container.mounting.restrict",
    "minidocker.linux.syscalls.unshare",
    "minidocker.linux.syscalls.clone",
    "minidocker.course.sandbox.lay_out",
    # in the judge
    "minidocker.course.sandbox.become_root",
    "minidocker.course.sandbox.enter_room",
    "minidocker.linux.syscalls.mount",
    "minidocker.linux.syscalls.pivot_root",
    "minidocker.linux.syscalls.umount2",
    "minidocker.course.sandbox.place_to_print",
    "minidocker.course.sandbox.renew_tmp",
    "os.fork",
    # in the box
    "minidocker.course.children.map_ids",
    "minidocker.course.sandbox.confine",
    "minidocker.linux.syscalls.sethostname",
    "minidocker.container.loopback.bring_up",
    "minidocker.linux.capabilities.limit_bounding_set",
    "minidocker.linux.capabilities.set_own",
    "minidocker.linux.seccomp.load",
    "minidocker.linux.syscalls.prctl",
    "resource.setrlimit",
    "os.setsid",
    "os.closerange",
)
BREAK = (
    "import sys; sys.path.insert(0, sys.argv[1]); import importlib, resource\n"
    "from minidocker.course import worker, sandbox, boxes, children\n"
    "from minidocker.container import network, cgroups, mounting\n"
    "def no(*_, **__): {how}\n"
    "owner, _, name = {step!r}.rpartition('.')\n"
    "old = getattr(importlib.import_module(owner), name)\n"
    "setattr(importlib.import_module(owner), name, no)\n"
    "for module in list(sys.modules.values()):\n"
    "    if module and module.__name__.startswith('minidocker.') and vars(module).get(name) is old:\n"
    "        setattr(module, name, no)\n"
    "worker.main()\n"
)


def graded_by(program: str, grader: Grader, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(worker, "PROGRAM", program)
    with Pool(1, SMALL) as broken:
        (done,) = broken.run([grader.job(HONEST)])
    return done


@pytest.mark.root
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "how", ["raise OSError(1, 'broken on purpose')", "import os; os._exit(0)"], ids=["fails", "ends"]
)
def test_a_step_that_fails_is_trouble_and_no_verdict(
    grader: Grader, monkeypatch: pytest.MonkeyPatch, step: str, how: str
) -> None:
    done = graded_by(BREAK.format(step=step, how=how), grader, monkeypatch)
    assert done.verdicts == () and done.trouble
    if "raise" in how:
        assert "broken on purpose" in done.trouble or step == "os.fork", done.trouble


def test_a_box_without_a_filter_is_none(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    done = graded_by(
        BREAK.format(step="minidocker.course.sandbox.filter_program", how="return b''"), grader, monkeypatch
    )
    assert done.verdicts == () and "no seccomp filter" in done.trouble


def test_a_judge_that_ends_is_trouble_and_another_takes_its_place(grader: Grader) -> None:
    code = "import time\ntime.sleep(3)\n" + HONEST
    with Pool(1, Limits()) as hurt:
        assert next(iter(hurt.run([grader.job(HONEST)]))).verdicts[0].passed
        running = hurt.run([grader.job(code), grader.job(HONEST)])
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.extend(running))
        thread.start()
        time.sleep(1)
        os.kill(hurt._busy[0].process.pid, signal.SIGKILL)
        thread.join()
    assert "ended" in answers[0].trouble and answers[0].verdicts == ()
    assert answers[1].verdicts[0].passed


def test_a_judge_that_was_killed_while_it_waited_is_replaced_and_its_cgroups_are_swept(grader: Grader) -> None:
    with Pool(1, SMALL) as hurt:
        assert next(iter(hurt.run([grader.job(HONEST)]))).verdicts[0].passed
        guard = hurt._idle[0].process
        guard.kill()
        guard.wait()
        (done,) = hurt.run([grader.job(HONEST)])
        assert done.verdicts[0].passed
        assert f"grade-{guard.pid}" not in rooms()


def test_an_error_of_the_courses_own_is_trouble(tmp_path: Any, grader: Grader) -> None:
    make_course(str(tmp_path), exercise_cells(TESTS), setup="raise ValueError('a broken set-up')")
    (done,) = grader.pool.run([Job("x", "01_first", str(tmp_path), {"double": HONEST})])
    assert "a broken set-up" in done.trouble and done.verdicts == ()
    (done,) = grader.pool.run([Job("x", "99_none", str(tmp_path), {"double": HONEST})])
    assert "No such file" in done.trouble
    assert grader.verdict(HONEST).passed


# Pools.


def test_two_workers_share_the_work_and_take_jobs_as_there_is_room(grader: Grader) -> None:
    taken = []

    def jobs() -> Iterator[Job]:
        for number in range(6):
            taken.append(number)
            yield grader.job(HONEST)

    with Pool(2, SMALL) as two:
        answers = two.run(jobs())
        assert next(answers).verdicts[0].passed
        assert len(taken) <= 3
        assert all(done.verdicts[0].passed for done in answers)
    assert len(taken) == 6


def test_jobs_that_nobody_waits_for_are_given_up(grader: Grader) -> None:
    with Pool(2, SMALL) as two:
        answers = two.run([grader.job(HONEST), grader.job("import time\ntime.sleep(4)\n" + HONEST)])
        assert next(answers).verdicts[0].passed
        answers.close()  # type: ignore[attr-defined]
        (done,) = two.run([grader.job(HONEST)._replace(key="the next one")])
        assert done.key == "the next one" and done.verdicts[0].passed


def rooms() -> list[str]:
    """Return the folders of cgroups that judges have now."""
    folders = [f"{place}/{cgroups.PARENT}" for place in cgroups.everywhere().values()]
    return [name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder) if "grade-" in name]


KILLED = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from minidocker.course.pool import Job, Limits, Pool\n"
    "with Pool(1, Limits()) as pool:\n"
    '    code = \'import os\\nif not os.fork(): os.execvp("sleep", ["sleep", sys.argv[3]])\\nwhile True: pass\'\n'
    "    code = code.replace('sys.argv[3]', repr(sys.argv[3]))\n"
    "    print('go', flush=True)\n"
    "    list(pool.run([Job('x', '01_first', sys.argv[2], {'double': code})]))\n"
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_when_the_grader_is_killed(grader: Grader, number: int) -> None:
    word = f"{os.getpid()}.{int(number)}577"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, PROJECT, grader.folder, word], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as killed:
        deadline = time.monotonic() + 30
        while not processes(f"^sleep {word}") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes(f"^sleep {word}")
        workers = [pid for pid in processes("worker.main") if f"PPid:\t{killed.pid}\n" in status(pid)]
        assert workers
        killed.send_signal(number)
        killed.wait(20)
    deadline = time.monotonic() + 5
    while (processes(f"^sleep {word}") or any(status(pid) for pid in workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes(f"^sleep {word}") == []
    assert not any(status(pid) for pid in workers)
    assert not [name for name in rooms() if name in {f"grade-{pid}" for pid in workers}]


def status(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        return file.read()
    return ""


@pytest.mark.root
def test_for_root_the_room_has_limits_of_its_own_while_it_is_there(grader: Grader) -> None:
    if cgroups.version(cgroups.mounted()) == 0:
        pytest.skip("there are no cgroups here that root may write to")
    assert grader.verdict(HONEST).passed and grader.pool.weaker == ()
    name = f"grade-{grader.pool._idle[0].process.pid}"
    assert name in rooms()
    with Pool(1, SMALL) as other:
        list(other.run([grader.job(HONEST)]))
        name = f"grade-{other._idle[0].process.pid}"
        assert name in rooms()
    assert name not in rooms()


@pytest.mark.root
def test_an_ordinary_user_has_boxes_too(tmp_path: Any) -> None:
    from ordinary import ordinary_user

    with ordinary_user(subordinate=False) as user:
        folder = f"{user.base}/course"
        make_course(folder, exercise_cells(TESTS))
        program = (
            "from minidocker.course.pool import *\n"
            "with Pool(1, Limits()) as pool:\n"
            f"    for done in pool.run([Job('x', '01_first', {folder!r}, {{'double': {HONEST!r}}})]):\n"
            "        print(done.trouble, [verdict.passed for verdict in done.verdicts], pool.weaker)\n"
        )
        done = user.command(sys.executable, "-c", program)
        if "clone(" in done.stdout:
            pytest.skip(f"ordinary users have no user namespaces here: {done.stdout}")
        assert "[True]" in done.stdout, done.stdout + done.stderr
        assert "not all together" in done.stdout


def test_what_a_job_is_answered_is_plain(grader: Grader) -> None:
    done = grader(HONEST)
    assert done.key and 0 < done.seconds < 60 and isinstance(done.verdicts[0], Verdict)
