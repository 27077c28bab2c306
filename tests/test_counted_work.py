"""How much work the main commands do, counted: modules, system calls, bytes. Times vary by the hour, these do not.

A bound is what was counted when it was set, and a tenth. Whoever cannot do with it, raises it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Minidocker
from loopback import Answer, Asked, loopback, sample_image
from minidocker.engine import Engine
from minidocker.image.reference import parse
from minidocker.image.store import ImageStore
from minidocker.progress import silent
from minidocker.registry import client, transfer

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START = "import sys; from minidocker.cli.entry import entry; sys.argv[0] = 'minidocker'; entry()"

# Each costs a command more than all of its own modules, or is one that most commands do not need.
HEAVY = {"argparse", "asyncio", "ctypes", "dataclasses", "datetime", "hashlib", "inspect", "isal", "logging", "pathlib"}
HEAVY |= {"pyroute2", "random", "shutil", "subprocess", "tarfile", "tempfile", "threading", "urllib3", "zstandard"}


def imported(program: str, *args: str, isolated: tuple[str, ...] = ("-I", "-S")) -> list[str]:
    """Return what a program imports beyond what the interpreter itself does, in order."""
    prefix = f"import sys; sys.path.append({PACKAGE!r}); "
    argv = [sys.executable, *isolated, "-X", "importtime", "-c", prefix + program, *args]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return names[names.index("io") :]


def test_the_lists_import_little(roots: object) -> None:
    for command in ("images", "ps", "version"):
        found = imported(START, command)
        assert not HEAVY & set(found), command
        assert len(found) <= 90, f"{command}: {len(found)} modules"


def test_a_commands_first_steps_import_next_to_nothing() -> None:
    """A shim's server is to be started before anything else is imported."""
    found = imported("from minidocker.container import shims")
    assert not {"collections", "contextlib", "enum", "re", "socket", "typing"} & set(found)
    assert len(found) <= 30, f"{len(found)} modules"


def test_a_shim_imports_little() -> None:
    found = imported("from minidocker.container import shim")
    assert HEAVY & set(found) == {"ctypes"}
    assert len(found) <= 91, f"{len(found)} modules"


@pytest.mark.root
def test_to_run_a_container_imports_little(home: Engine, minidocker: Minidocker) -> None:
    run = ("run", "--rm", "--network", "none", "busybox", "true")
    minidocker.ok(*run)  # compiles the filter, which is kept
    found = imported(START, *run)
    assert HEAVY & set(found) == {"ctypes"}
    assert len(found) <= 127, f"{len(found)} modules"


def calls(minidocker: Minidocker, out: Path, *args: str) -> dict[str, int]:
    """Run a command under strace; return how often it and its shim have made each system call, and `total`."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    argv = ["strace", "-f", "-c", "-o", str(out), *minidocker.argv, *args]
    subprocess.run(argv, env={**os.environ, **minidocker.env}, capture_output=True, check=True)
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d* +(\d+) +(?:\d+ +)?(\w+)$", out.read_text(), re.MULTILINE)
    return {name: int(count) for count, name in rows}


@pytest.mark.root
def test_to_run_a_container_takes_few_system_calls(home: Engine, minidocker: Minidocker, tmp_path: Path) -> None:
    run = ("run", "--rm", "--network", "none", "busybox", "true")
    minidocker.ok(*run)  # compiles the filter, tries the overlay
    found = calls(minidocker, tmp_path / "calls", *run)
    assert "fsync" not in found, "nothing of what removes itself need outlast the machine's end"
    assert found["execve"] == 3, "the command, its shim, the program"
    assert found.get("clone", 0) + found.get("clone3", 0) + found.get("fork", 0) + found.get("vfork", 0) <= 3
    assert found["mount"] <= 50
    assert not found.keys() & {"nanosleep", "clock_nanosleep"}, "nothing waits by sleeping"
    assert found["total"] <= 5100, found["total"]


@pytest.mark.root
def test_exec_takes_few_system_calls(home: Engine, minidocker: Minidocker, tmp_path: Path) -> None:
    minidocker.ok("run", "-d", "--name", "idle", "--network", "none", "busybox", "sleep", "100")
    found = calls(minidocker, tmp_path / "calls", "exec", "idle", "true")
    assert "fsync" not in found
    assert "mount" not in found
    assert found["total"] <= 3850, found["total"]
    minidocker.ok("rm", "-f", "idle")


def more_calls(home: Engine, minidocker: Minidocker, out: Path, *args: str) -> int:
    """Return how many more system calls a command makes with twelve containers than with two."""
    counted = []
    for made in (2, 12):
        for number in range(len(home.containers.ids()), made):
            minidocker.ok("create", "--name", f"c{number}", "busybox")
        counted.append(calls(minidocker, out, *args)["total"])
    return counted[1] - counted[0]


@pytest.mark.root
def test_a_list_takes_few_system_calls_for_each_container(home: Engine, minidocker: Minidocker, tmp_path: Path) -> None:
    assert more_calls(home, minidocker, tmp_path / "calls", "ps", "-a") <= 10 * 9, "to open, read and close two files"


@pytest.mark.root
def test_to_find_a_container_takes_no_look_at_the_others(home: Engine, minidocker: Minidocker, tmp_path: Path) -> None:
    assert abs(more_calls(home, minidocker, tmp_path / "calls", "inspect", "c0")) <= 5


@pytest.mark.root
def test_the_list_of_images_is_read_from_one_file(home: Engine, minidocker: Minidocker, tmp_path: Path) -> None:
    one = calls(minidocker, tmp_path / "calls", "images")["total"]
    for number in range(20):
        minidocker.ok("tag", "busybox", f"name{number}")
    many = calls(minidocker, tmp_path / "calls", "images")["total"]
    assert abs(many - one) <= 20


def moved() -> tuple[int, int]:
    """Return how many bytes this process has read and written by now, not counting sockets. See: proc_pid_io(5)."""
    with open("/proc/self/io") as file:
        facts = dict(line.split(": ") for line in file)
    return int(facts["rchar"]), int(facts["wchar"])


def test_a_pull_reads_each_layer_once_and_writes_it_twice(tmp_path: Path) -> None:
    """Packed and unpacked: it comes from a socket, is written as it comes, and is read once to be unpacked."""
    content = os.urandom(3_000_000)
    image = sample_image({"one": content}, {"two": content[::-1]})
    packed = sum(len(image.blobs[digest]) for digest in image.layers)
    store = ImageStore(str(tmp_path / "root"))

    def answer(asked: Asked) -> Answer:
        if "/manifests/" in asked.path:
            return Answer(200, image.manifest, {"Content-Type": image.media_type})
        blob = image.blobs.get(asked.path.rpartition("/")[2])
        return Answer(200, blob) if blob is not None else Answer(200)

    with loopback(answer) as server:
        ref = parse(f"{server.host}/two/layers:1")
        registry = client.connect(ref.domain)
        read, written = moved()
        transfer.fetch(store, ref, None, silent, registry)
        now_read, now_written = moved()
    assert packed <= now_read - read <= 1.1 * packed + 500_000
    assert packed + 6_000_000 <= now_written - written <= 1.1 * (packed + 6_000_000)
