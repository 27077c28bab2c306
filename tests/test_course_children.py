"""A child in namespaces of its own: what runs there, what the kernel tells of it, and that nothing of it stays."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from coursekit import one
from minidocker.course import children
from minidocker.course.children import child
from minidocker.course.judge import judge
from minidocker.linux import syscalls


@pytest.fixture(autouse=True, scope="module")
def _there_are_user_namespaces() -> None:
    try:
        with child(os.getpid) as it:
            assert it.result == it.pid
    except PermissionError:
        pytest.skip("user namespaces are not allowed here")


@pytest.mark.parametrize("kind", ["mnt", "pid", "net", "uts", "ipc", "cgroup"])
def test_the_namespaces_that_are_named_are_its_own_and_no_other(kind: str) -> None:
    with child(os.getpid, namespaces=(kind,)) as it:
        own = {name for name in children.KINDS if it.link(f"ns/{name}") != os.readlink(f"/proc/self/ns/{name}")}
    assert own == {kind, "user"}


def test_an_unknown_namespace_is_told() -> None:
    with pytest.raises(ValueError, match="'mount' is no kind of namespace"):
        with child(os.getpid, namespaces=("mount",)):
            pass


def test_in_a_pid_namespace_it_is_process_1() -> None:
    with child(os.getpid, namespaces=("pid",)) as it:
        assert it.result == 1
        assert it.status()["NSpid"].split() == [str(it.pid), "1"]


def test_it_is_root_and_has_every_power_over_its_own() -> None:
    with child(os.getuid) as it:
        assert it.result == 0
        assert int(it.status()["CapEff"], 16) & 1 << 21
        assert it.read("uid_map").split()[0] == "0"


@pytest.mark.root
def test_for_root_every_id_exists_in_it(tmp_path: Any) -> None:
    (tmp_path / "x").write_text("")

    def give(path: str) -> None:
        os.chown(path, 1234, 5678)

    with child(give, str(tmp_path / "x")) as it:
        assert it.result is None
    assert (os.stat(tmp_path / "x").st_uid, os.stat(tmp_path / "x").st_gid) == (1234, 5678)


def test_arguments_and_results_are_as_given() -> None:
    def both(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    with child(both, 1, b"2", named=(3,)) as it:
        assert it.result == ((1, b"2"), {"named": (3,)})


def test_what_it_raises_is_raised_whenever_the_result_is_asked_for() -> None:
    def fail() -> None:
        os.stat("/does/not/exist")

    with child(fail) as it:
        for _ in range(2):
            with pytest.raises(FileNotFoundError, match="/does/not/exist"):
                print(it.result)


def test_a_result_that_is_no_data_is_told() -> None:
    with child(object) as it, pytest.raises(Exception, match="a object cannot leave the child"):
        print(it.result)


def test_the_kernel_tells_what_it_did(tmp_path: Any) -> None:
    def move() -> None:
        os.mkdir(f"{tmp_path}/new")
        syscalls.mount("some tmpfs", f"{tmp_path}/new", "tmpfs", syscalls.MS_NOSUID)
        os.mkdir(f"{tmp_path}/new/a b")
        with open(f"{tmp_path}/new/hello", "w") as file:
            file.write("world")
        os.symlink("/hello", f"{tmp_path}/new/link")
        os.symlink("../../../../etc/passwd", f"{tmp_path}/new/out")
        syscalls.mount("tmpfs", f"{tmp_path}/new/a b", "tmpfs")
        os.chdir(f"{tmp_path}/new")
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")

    with child(move, namespaces=("mnt",)) as it:
        assert it.result is None
        assert it.listing("/") == ["a b", "hello", "link", "out"]
        assert it.read("/hello") == it.read("/link") == "world"
        assert it.link("/link") == "/hello"
        with pytest.raises(FileNotFoundError):
            it.read("/out")
        assert [mount.point for mount in it.mounts()] == ["/", "/a b"]
        assert it.mounts()[0].source == "some tmpfs" and "nosuid" in it.mounts()[0].options
        assert it.mounts()[0].fstype == "tmpfs"
    assert os.listdir(f"{tmp_path}/new") == []


def test_a_function_that_does_not_return_can_be_looked_at() -> None:
    with child(time.sleep, 60, seconds=0.2) as it:
        assert it.status()["State"].startswith("S")
        with pytest.raises(TimeoutError, match="did not return in time"):
            print(it.result)


def test_a_function_that_ends_its_process_is_told() -> None:
    with child(os._exit, 0) as it, pytest.raises(ChildProcessError, match="ended its process"):
        print(it.result)


def test_a_function_that_becomes_a_program_can_be_looked_at() -> None:
    with child(os.execvp, "sleep", ["sleep", "60"]) as it:
        assert it.result is None
        deadline = time.monotonic() + 5
        while it.read("comm") != "sleep\n" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert it.read("comm") == "sleep\n"


@pytest.mark.parametrize("namespaces", [(), ("pid",)])
def test_all_that_it_has_started_ends_with_the_block(namespaces: tuple[str, ...]) -> None:
    number = f"6{len(namespaces)}.{os.getpid()}"

    def leave() -> None:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", number])
            signal.pause()
        time.sleep(0.1)

    with child(leave, namespaces=namespaces) as it:
        assert it.result is None
        assert len(it.children()) == 1
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            assert number.encode() not in file.read()
    assert not os.path.exists(f"/proc/{it.pid}")


def test_it_ends_with_the_process_that_has_started_it() -> None:
    code = (
        "import os, time\nfrom minidocker.course.children import child\n"
        "with child(os.getpid) as it:\n    print(it.pid, flush=True)\n    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{int(done.stdout)}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_several_are_kept_at_once() -> None:
    with child(os.getpid) as first, child(os.getpid) as second:
        assert first.pid != second.pid
        assert first.result == first.pid and second.result == second.pid
    assert not os.path.exists(f"/proc/{first.pid}") and not os.path.exists(f"/proc/{second.pid}")


@pytest.mark.root
def test_a_folder_in_which_something_is_mounted_is_left_alone(tmp_path: Any) -> None:
    os.makedirs(f"{tmp_path}/folder/here")
    os.makedirs(f"{tmp_path}/kept/in/it")

    def mount_and_remove() -> tuple[list[str], list[str]]:
        syscalls.mount(f"{tmp_path}/kept", f"{tmp_path}/folder/here", flags=syscalls.MS_BIND)
        children.remove_tree(f"{tmp_path}/folder")
        while_mounted = os.listdir(f"{tmp_path}/kept/in")
        syscalls.umount2(f"{tmp_path}/folder/here")
        children.remove_tree(f"{tmp_path}/folder")
        return while_mounted, os.listdir(tmp_path)

    with child(mount_and_remove, namespaces=("mnt",)) as it:
        assert it.result == (["it"], ["kept"])


# The same in the judge, where the function is a learner's.

INSIDE = {
    "apart": "with child(double, 3, namespaces=('mnt', 'pid')) as it:\n"
    "    assert it.result == (6, 1)\n"
    "    assert it.link('ns/mnt') != os.readlink('/proc/self/ns/mnt')\n"
    "    assert it.status()['NSpid'].endswith('1')",
    "raises": "with child(double, '3', namespaces=('pid',)) as it:\n    with raises(TypeError):\n        it.result",
    "two": "with child(double, 1) as a, child(double, 2) as b:\n    assert (a.result[0], b.result[0]) == (2, 4)",
}


def test_a_learners_function_runs_in_a_child_of_the_learners_process(tmp_path: str) -> None:
    exercise = one(tmp_path, INSIDE, "return number * 2 + 0, os.getpid()")
    verdict = judge(exercise, exercise.solution)
    assert verdict.passed, verdict


def test_a_learner_cannot_name_a_process_that_is_not_theirs(tmp_path: str) -> None:
    code = (
        "import os\nfrom minidocker.course import children, learner\n"
        "children.hold = lambda *_: (1, 1, '[\"return\", 6]')\n"
        "import gc\nfrom minidocker.course.calls import Peer\n"
        "next(thing for thing in gc.get_objects() if isinstance(thing, Peer))._given[1] = children.hold\n"
        "def double(number):\n    return 2 * number"
    )
    exercise = one(tmp_path, {"forged": "with child(double, 3) as it:\n    assert it.result == 6"})
    verdict = judge(exercise, code)
    assert "none of its own" in verdict.tests[0].message
