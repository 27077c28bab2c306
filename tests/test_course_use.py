"""A learner's functions in the engine: where they are put, what is counted, and that all is as before afterwards."""

import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from conftest import Minidocker
from coursekit import exercise_cells, make_course, solution
from minidocker import standins
from minidocker.container import programs, records
from minidocker.course import use as uses
from minidocker.course.catalogue import Course
from minidocker.course.use import use
from minidocker.errors import InvalidArgument, MinidockerError
from minidocker.image import oci, reference
from minidocker.image.reference import Reference

PARSE = "minidocker.image.reference.parse"
MINE = solution(
    "return Reference('docker.io', 'mine/' + text, default_tag, '')",
    "def parse(text: str, default_tag: str = 'latest') -> Reference:",
)


@pytest.fixture
def course(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Course]:
    """Give a course with one exercise that becomes the engine's `parse`."""
    monkeypatch.setenv("MINIDOCKER_COURSE", str(tmp_path))
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/course.json")
    cells = exercise_cells({"all": "assert parse('a').tag"}, name="parse_it", becomes=PARSE, solution=MINE)
    yield make_course(str(tmp_path), cells, exercise_cells({"all": "assert double(1) == 2"}))


def write(course: Course, name: str = "parse_it", source: str = "") -> str:
    """Have the learner write the solution, or something else; return the notebook's path."""
    exercise = course.get(name)
    course.write(exercise, source or exercise.solution)
    return course.path(exercise)


# replace


def test_whoever_knows_the_function_by_a_name_gets_the_other_one() -> None:
    importer = ModuleType("minidocker.container.importer_of_the_test")
    vars(importer)["known"] = reference.parse
    sys.modules[importer.__name__] = importer
    original = reference.parse

    def mine(text: str, default_tag: str = "") -> Reference:
        return Reference("", text, default_tag, "")

    try:
        undo = standins.replace(PARSE, mine)
        assert reference.parse is mine and vars(importer)["known"] is mine
        late = ModuleType("minidocker.container.late_of_the_test")
        vars(late)["parse"] = reference.parse
        sys.modules[late.__name__] = late
        undo()
        assert reference.parse is vars(importer)["known"] is vars(late)["parse"] is original
    finally:
        for name in (importer.__name__, "minidocker.container.late_of_the_test"):
            sys.modules.pop(name, None)


def test_a_method_is_replaced_in_its_class() -> None:
    original = oci.Index.choose
    undo = standins.replace("minidocker.image.oci.Index.choose", lambda self, platform: (self, platform))
    index: Any = oci.Index("", ())
    assert index.choose(3) == (index, 3)
    undo()
    assert oci.Index.choose is original


def test_static_methods_class_methods_and_properties_stay_what_they_are() -> None:
    module = ModuleType("minidocker.container.kinds_of_the_test")

    class Kinds:
        """One of each."""

        @staticmethod
        def static(x: int) -> int:
            return x

        @classmethod
        def of_class(cls, x: int) -> Any:
            return cls, x

        @property
        def owned(self) -> int:
            return 1

    vars(module)["Kinds"] = Kinds
    sys.modules[module.__name__] = module
    import minidocker.container

    setattr(minidocker.container, "kinds_of_the_test", module)  # noqa: B010
    try:
        name = f"{module.__name__}.Kinds"
        undo = [
            standins.replace(f"{name}.static", lambda x: -x),
            standins.replace(f"{name}.of_class", lambda cls, x: (x, cls)),
            standins.replace(f"{name}.owned", lambda self: 2),
        ]
        assert (Kinds.static(1), Kinds.of_class(1), Kinds().owned) == (-1, (1, Kinds), 2)
        for each in undo:
            each()
        assert (Kinds.static(1), Kinds.of_class(1), Kinds().owned) == (1, (Kinds, 1), 1)
    finally:
        del sys.modules[module.__name__]
        delattr(minidocker.container, "kinds_of_the_test")


@pytest.mark.parametrize("name", ["minidocker.image.nothing.parse", "minidocker.image.reference.nothing"])
def test_what_is_not_there_is_told(name: str) -> None:
    with pytest.raises(LookupError, match=name):
        standins.replace(name, print)


# use


def test_a_function_is_in_the_engine_for_the_time_of_a_block(course: Course) -> None:
    def parse(text: str) -> Reference:
        return Reference("mine", text, "", "")

    before = reference.parse
    with use(parse=parse) as used:
        assert reference.parse("a").domain == "mine"
        assert [mine.exercise for mine in used.mine] == ["parse_it"]
    assert reference.parse is before
    assert standins.files == []
    assert use.parts() == [(PARSE, "parse_it", True, 1)]


def test_the_engines_own_is_back_after_an_error(course: Course) -> None:
    before = reference.parse
    with pytest.raises(KeyError):
        with use(parse_it=len):
            raise KeyError
    assert reference.parse is before and standins.files == []


def test_all_that_is_written_in_a_section_is_used(course: Course) -> None:
    write(course)
    with use("01_first"):
        assert reference.parse("a").repository == "docker.io/mine/a"
        assert reference.parse("b", "c").tag == "c"
        assert standins.files == [f"{course.folder}/course.json.calls/parse_it.py"]
    assert uses.parts() == [(PARSE, "parse_it", True, 2)]
    with use("02_second"):
        assert uses.parts() == [(PARSE, "parse_it", False, 0)]


def test_a_stub_is_not_used(course: Course) -> None:
    with use("01_first"):
        assert reference.parse("a").repository == "docker.io/library/a"
    assert uses.parts() == [(PARSE, "parse_it", False, 0)]


def test_a_folder_and_a_path_are_what_they_say(course: Course) -> None:
    path = write(course)
    for word in (os.path.dirname(path), path, f"02_second,{path}"):
        with use(word) as used:
            assert [mine.name for mine in used.mine] == [PARSE]


def test_one_use_within_another(course: Course) -> None:
    write(course)
    with use("01_first"):
        with use("02_second"):
            reference.parse("a")
        reference.parse("a")
    assert uses.parts() == [(PARSE, "parse_it", True, 2)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((("04_fourth",), {}), "neither a notebook nor a section"),
        (((), {"nothing": len}), "no exercise is nothing"),
        (((), {"double": len}), "no exercise is double"),
    ],
)
def test_what_cannot_be_used_is_told(course: Course, arguments: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        use(*arguments[0], **arguments[1]).__enter__()


def test_a_cell_that_cannot_be_run_is_told(course: Course) -> None:
    write(course, source="def parse(text): return 1\nraise ValueError('x')")
    with pytest.raises(MinidockerError, match="your parse_it cannot be used: ValueError: x"):
        use("01_first").__enter__()
    assert standins.files == []


def test_the_engine_judges_without_the_stand_ins(course: Course) -> None:
    from minidocker.course import testing

    setattr(testing, "start_time", records.start_time)  # noqa: B010
    try:
        undo = standins.replace("minidocker.container.records.start_time", lambda pid: 7)
        assert records.start_time(1) == 7
        assert vars(testing)["start_time"](os.getpid()) != 7
        undo()
    finally:
        delattr(testing, "start_time")


# In the programs that the engine starts


def test_the_file_for_the_engines_programs_passes_over_what_cannot_be_imported_there(tmp_path: Any) -> None:
    setup = "import os\nimport no_such_module\nfrom minidocker.image.reference import Reference\nHERE = os.sep"
    count = f"{tmp_path}/x.count"
    with open(count, "wb") as file:
        file.write(bytes(8))
    mine = uses.Mine("parse_it", PARSE, setup, "def parse(text):\n    return HERE + text", len)
    source = uses.standin_source(mine, count)
    before = reference.parse
    try:
        exec(compile(source, "standin", "exec"), {"__name__": "standin"})  # noqa: S102
        assert reference.parse("a") == "/a"  # type: ignore[comparison-overlap]
        with open(count, "rb") as file:
            assert file.read(1) == b"\x01"
    finally:
        standins.replace(PARSE, before)


PIVOT = (
    "def pivot(merged: str, flags: int) -> None:\n"
    "    os.chdir(merged)\n"
    "    syscalls.pivot_root('.', '.')\n"
    "    syscalls.umount2('.', syscalls.MNT_DETACH)\n"
    "    os.chdir('/')\n"
    "    os.close(os.open('/mine', os.O_CREAT | os.O_WRONLY))\n"
)


@pytest.mark.root
def test_a_container_is_run_on_a_learners_functions(
    tmp_path: Any, minidocker: Minidocker, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIDOCKER_COURSE", str(tmp_path))
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/course.json")
    pivot = exercise_cells(
        {"all": "x"}, name="pivot", becomes="minidocker.container.rootfs.pivot", solution=solution("", PIVOT)
    )
    reap = exercise_cells(
        {"all": "x"},
        name="reap",
        becomes="minidocker.container.init.reap",
        solution="def reap(child):\n    pid, status = os.waitpid(-1, 0)\n"
        "    return os.waitstatus_to_exitcode(status) + 3 if pid == child else None",
    )
    setup = "import os\nimport pyroute2\nfrom minidocker.linux import syscalls"
    course = make_course(str(tmp_path), [*pivot, *reap], setup=setup)
    done = minidocker("run", "--rm", "--init", busybox_image, "ls", "/mine")
    assert done.returncode == 1
    for name, source in (("pivot", PIVOT), ("reap", course.get("reap").solution)):
        course.write(course.get(name), source)
    path = f"{tmp_path}/exercises/01_first.ipynb"
    done = minidocker("--with", path, "run", "--rm", "--init", busybox_image, "ls", "/mine")
    assert (done.returncode, done.stdout) == (3, "/mine\n")
    assert done.stderr == "minidocker: yours: container.rootfs.pivot, container.init.reap\n"
    assert [(part.exercise, part.mine) for part in uses.parts()] == [("pivot", True), ("reap", True)]
    assert [part.called for part in uses.parts()] == [1, 1]
    minidocker("--with", path, "run", "--rm", busybox_image, "true")
    assert [part.called for part in uses.parts()] == [2, 1]


def test_an_error_in_a_learners_function_is_told_with_its_line(course: Course, minidocker: Minidocker) -> None:
    path = write(course, source="def parse(text, default_tag='latest'):\n    return text.nothing")
    done = minidocker("--with", path, "tag", "a", "b")
    assert done.returncode == 1
    assert "'str' object has no attribute 'nothing'\nIt was raised in your cell for parse_it, line 2." in done.stderr
    assert "bug in minidocker" not in done.stderr


def test_nothing_written_is_told(course: Course, minidocker: Minidocker) -> None:
    done = minidocker("--with", f"{course.folder}/exercises", "version")
    assert done.stderr.startswith(f"minidocker: nothing is written in {course.folder}/exercises yet")
    assert minidocker("--with", "/does/not/exist", "version").returncode == 1


def test_without_stand_ins_the_engines_programs_are_started_as_ever() -> None:
    assert "standins" not in programs._PROGRAM.format("shim", "")
