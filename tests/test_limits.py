"""Limits that bite, with the real kernel: what is over the limit dies or waits, and the machine does not notice.

Written for both versions of control groups: the machine at hand has one of them, and `make test-vm` has version 2.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Minidocker, Roots
from leaks import cgroup_folders
from minidocker import engine as stories
from minidocker.container import cgroups, lifecycle
from minidocker.engine import open_engine
from minidocker.image import layers
from minidocker.image.layout import Layout

pytestmark = pytest.mark.root

VERSION = 2 if set(cgroups.mounted()) == {"unified"} else 1
BOMB = "b() { b | b & }; b & exec sleep 1000"  # the first shell forks once, and not where there is no room any more
SPIN = "while :; do :; done"


@pytest.fixture
def home(minidocker: Minidocker, busybox_image: str) -> Iterator[Minidocker]:
    """Return the command, with busybox in its store; the containers that a test left running go by force."""
    yield minidocker
    minidocker("rm", "-f", *minidocker.ok("ps", "-aq").split())


def state(home: Minidocker, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(home.ok("inspect", name))[0]["State"]
    return found


def own_cgroup(pid: object) -> dict[str, str]:
    """Return the folder of a process in each hierarchy: by controller, and under `` for version 2."""
    with open(f"/proc/{pid}/cgroup") as file:
        paths = {name: line.rstrip("\n").split(":", 2) for line in file for name in line.split(":")[1].split(",")}
    places = cgroups.mounted()
    return {
        name: places[name or "unified"] + path for name, (_, _, path) in paths.items() if (name or "unified") in places
    }


def value(pid: object, controller: str, file_v1: str, file_v2: str) -> str:
    """Return what a control file of the container's says, found through its process."""
    folders = own_cgroup(pid)
    path = f"{folders['']}/{file_v2}" if VERSION == 2 else f"{folders[controller]}/{file_v1}"
    with open(path) as file:
        return file.read().strip()


def test_an_allocation_over_the_limit_ends_with_137_and_oomkilled(home: Minidocker) -> None:
    done = home("run", "--name", "eater", "-m", "24m", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M")
    assert done.returncode == 137
    found = state(home, "eater")
    assert (found["ExitCode"], found["OOMKilled"], found["Status"]) == (137, True, "exited")


def test_a_child_over_the_limit_is_noticed(home: Minidocker) -> None:
    script = "dd if=/dev/zero of=/dev/null bs=200M; echo the child: $?"
    done = home("run", "--name", "parent", "-m", "24m", "busybox", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "the child: 137\n")
    assert state(home, "parent")["OOMKilled"] is True


def test_what_stays_below_the_limit_lives(home: Minidocker) -> None:
    home.ok("run", "--name", "small", "-m", "64m", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=8M", "count=2")
    assert state(home, "small")["OOMKilled"] is False


def test_files_in_memory_count(home: Minidocker) -> None:
    """A tmpfs is memory: without this, /dev/shm would be a way around the limit."""
    argv = ["-m", "24m", "--tmpfs", "/big:size=500m", "busybox", "dd", "if=/dev/zero", "of=/big/file", "bs=1M"]
    assert home("run", "--name", "filler", *argv, "count=200").returncode == 137
    assert state(home, "filler")["OOMKilled"] is True


def test_a_fork_bomb_stays_in_its_box(home: Minidocker) -> None:
    home.ok("run", "-d", "--name", "bomb", "--pids-limit", "40", "busybox", "sh", "-c", BOMB)
    pid = state(home, "bomb")["Pid"]
    most, slowest, until = 0, 0.0, time.monotonic() + 5
    while time.monotonic() < until:
        most = max(most, int(value(pid, "pids", "pids.current", "pids.current")))
        started = time.monotonic()
        subprocess.run(["/bin/true"], check=True)
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(0.05)
    assert 30 <= most <= 40, "the bomb did not go off, or got out"
    assert slowest < 3, f"starting a program took {slowest:.1f} s beside the bomb"
    assert home.ok("ps", "-q")
    home.ok("rm", "-f", "bomb")


def test_half_a_processor_is_half_a_processor(home: Minidocker) -> None:
    """Measured by the processor time of the processes themselves, not by what the control group says."""
    home.ok("run", "-d", "--name", "half", "--cpus", "0.5", "busybox", "sh", "-c", f"{SPIN} & {SPIN}")
    pid = state(home, "half")["Pid"]
    time.sleep(1)
    shares = [share_of(pid, 3.0)]
    while not 0.42 < shares[-1] < 0.58 and len(shares) < 5:
        shares.append(share_of(pid, 3.0))
    assert max(shares) < 0.6, f"it got more than half: {shares}"
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)  # then nobody gets what they may have
    assert shares[-1] > (0.05 if busy else 0.42), f"it got {shares}"


def share_of(pid: object, seconds: float) -> float:
    """Return how many processors a container's processes used in the next seconds."""
    started, before = time.monotonic(), processor_time(pid)
    time.sleep(seconds)
    return (processor_time(pid) - before) / (time.monotonic() - started)


def processor_time(pid: object) -> float:
    """Return the seconds of processor time of a process and its children. See: proc_pid_stat(5)."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        pids = [str(pid), *file.read().split()]
    ticks = 0
    for number in pids:
        with open(f"/proc/{number}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def test_a_container_without_limits_has_none(home: Minidocker) -> None:
    home.ok("run", "-d", "--name", "free", "busybox", "sleep", "1000")
    pid = state(home, "free")["Pid"]
    assert value(pid, "pids", "pids.max", "pids.max") == "max"
    assert value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] in ("-1", "max")


def test_the_container_sees_its_own_cgroups_and_cannot_change_them(home: Minidocker) -> None:
    script = """
        cat /proc/self/cgroup | cut -d: -f3 | sort -u
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null
        for folder in /sys/fs/cgroup /sys/fs/cgroup/memory; do
            [ -e $folder/cgroup.procs ] && mkdir $folder/mine
        done
        [ -e /sys/fs/cgroup/memory.max ] && echo max >/sys/fs/cgroup/memory.max
        [ -e /sys/fs/cgroup/memory/tasks ] && echo -1 >/sys/fs/cgroup/memory/memory.limit_in_bytes
        true
    """
    done = home("run", "--rm", "-m", "64m", "busybox", "sh", "-c", script)
    assert done.stdout.split() == ["/", str(64 << 20)]
    assert done.stderr.count("Read-only file system") == 2


def test_nothing_is_left(home: Minidocker) -> None:
    container = home.ok("run", "-d", "--name", "gone", "-m", "64m", "--pids-limit", "9", "busybox", "sleep", "1000")
    assert [folder for folder in cgroup_folders() if container in folder]
    home.ok("stop", "-t", "0", "gone")
    assert not [folder for folder in cgroup_folders() if container in folder]
    home.ok("start", "gone")
    assert [folder for folder in cgroup_folders() if container in folder]
    home.ok("rm", "-f", "gone")
    assert not [folder for folder in cgroup_folders() if container in folder]


def test_nothing_is_left_when_the_shim_is_killed(home: Minidocker) -> None:
    container = home.ok("run", "-d", "--name", "orphan", "-m", "64m", "busybox", "sleep", "1000")
    with open(f"{home.env['MINIDOCKER_ROOT']}/containers/{container}/state.json") as file:
        shim = json.load(file)["shim"]
    os.kill(shim, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while state(home, "orphan")["Running"] and time.monotonic() < deadline:
        time.sleep(0.1)
    home.ok("rm", "-f", "orphan")
    assert not [folder for folder in cgroup_folders() if container in folder]


def test_exec_is_inside_the_limits(home: Minidocker) -> None:
    home.ok("run", "-d", "--name", "outer", "-m", "24m", "busybox", "sleep", "1000")
    done = home("exec", "outer", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M")
    assert done.returncode == 137


def forbidden_device() -> str:
    """Return type and numbers of a device that this process may open, though no container: a disk if there is one."""
    for name in sorted(os.listdir("/sys/block"), key=lambda name: name.startswith("loop")):
        with contextlib.suppress(OSError):
            os.close(os.open(f"/dev/{name}", os.O_RDONLY))
            number = os.stat(f"/dev/{name}").st_rdev
            return f"b {os.major(number)} {os.minor(number)}"
    pytest.fail("this machine has no disk that root may open")


@pytest.fixture
def open_it() -> str:
    """Return a script that makes a node for a disk of the machine's and opens it."""
    return f"mknod /node {forbidden_device()}; : </node && echo opened it"


def test_a_container_cannot_open_the_machines_devices(home: Minidocker, open_it: str) -> None:
    done = home("run", "--rm", "busybox", "sh", "-c", open_it)
    assert (done.stdout, done.stderr) == ("", "sh: can't open /node: Operation not permitted\n")


def test_a_container_that_may_not_make_nodes(home: Minidocker, open_it: str) -> None:
    done = home("run", "--rm", "--cap-drop", "MKNOD", "busybox", "sh", "-c", open_it)
    assert done.stderr.startswith("mknod: /node: Operation not permitted\n")


def test_an_exec_with_every_capability_cannot_open_them(home: Minidocker, open_it: str) -> None:
    home.ok("run", "-d", "--name", "outer", "busybox", "sleep", "1000")
    done = home("exec", "--privileged", "outer", "sh", "-c", open_it)
    assert (done.stdout, done.stderr) == ("", "sh: can't open /node: Operation not permitted\n")


def test_a_device_in_the_image_cannot_be_opened(home: Minidocker, tmp_path: Path) -> None:
    """A hostile image brings the node along, and needs no capability to make it."""
    kind, major, minor = forbidden_device().split()
    tree = f"{tmp_path}/tree"
    os.makedirs(f"{tree}/bin")
    shutil.copy("/bin/busybox", f"{tree}/bin/sh")
    subprocess.run(["mknod", f"{tree}/disk", kind, major, minor], check=True)
    subprocess.run(["mknod", f"{tree}/null", "c", "1", "3"], check=True)
    subprocess.run(["tar", "-C", tree, "-cf", f"{tmp_path}/image.tar", "."], check=True)
    home.ok("import", f"{tmp_path}/image.tar", "hostile")
    script = ": </null && echo null opened; : </disk && echo disk opened"
    done = home("run", "--rm", "hostile", "/bin/sh", "-c", script)
    assert done.stdout == "null opened\n"
    assert "can't open /disk: Operation not permitted" in done.stderr


def test_a_privileged_container_may_open_them(home: Minidocker, open_it: str) -> None:
    assert home.ok("run", "--rm", "--privileged", "busybox", "sh", "-c", open_it) == "opened it"


def disk_of(path: str) -> str:
    """Return the whole disk that a path's filesystem is on: limits are for disks, not for partitions."""
    number = os.stat(path).st_dev
    folder = os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    name = os.path.basename(os.path.dirname(folder) if os.path.exists(f"{folder}/partition") else folder)
    if not os.path.exists(f"/dev/{name}"):
        pytest.fail(f"{path} is on no disk that can be limited")
    return f"/dev/{name}"


@pytest.mark.parametrize("direction", ["read", "write"])
@pytest.mark.parametrize(("limit", "size"), [("bps", "256k"), ("iops", "4k")])
def test_a_disk_is_only_so_fast(home: Minidocker, direction: str, limit: str, size: str) -> None:
    """Twelve times 256 kB at 1 MB a second take three seconds, and so do twelve times at four times a second."""
    folder = tempfile.mkdtemp(dir="/var/tmp")
    try:
        subprocess.run(["dd", "if=/dev/zero", f"of={folder}/file", "bs=1M", "count=3", "conv=fsync"], check=True)
        work = {
            "read": f"dd if=/data/file of=/dev/null bs={size} count=12 iflag=direct",
            "write": f"dd if=/dev/zero of=/data/file bs={size} count=12 oflag=direct conv=notrunc",
        }
        rate = {"bps": "1mb", "iops": "4"}[limit]
        asked = f"--device-{direction}-{limit}={disk_of(folder)}:{rate}"
        done = home("run", "--rm", "-v", f"{folder}:/data", asked, "busybox", "sh", "-c", f"time {work[direction]}")
        took = re.search(r"real\s+(\d+)m ([\d.]+)s", done.stderr)  # without the start, which may be slow by itself
        assert took, done.stderr
        assert int(took[1]) * 60 + float(took[2]) > 2.5
    finally:
        shutil.rmtree(folder)


def test_the_end_of_a_container_is_not_slowed_down(home: Minidocker) -> None:
    """To unmount an overlay is to write out all that anybody has written to the disk: not in the container's name."""
    folder = tempfile.mkdtemp(dir="/var/tmp")
    limit = f"--device-write-iops={disk_of(folder)}:2"
    try:
        for number in range(200):
            Path(folder, str(number)).write_bytes(bytes(4096))
        started = time.monotonic()
        home.ok("run", "--rm", "--network", "none", limit, "busybox", "true")
        assert time.monotonic() - started < 50
    finally:
        shutil.rmtree(folder)


def test_the_weight_at_the_disk(home: Minidocker) -> None:
    home.ok("run", "-d", "--name", "heavy", "--blkio-weight", "500", "busybox", "sleep", "1000")
    assert json.loads(home.ok("inspect", "heavy"))[0]["HostConfig"]["BlkioWeight"] == 500
    pid = state(home, "heavy")["Pid"]
    with contextlib.suppress(FileNotFoundError):  # no scheduler here knows weights
        assert value(pid, "blkio", "blkio.bfq.weight", "io.weight").split()[-1] == ("500" if VERSION == 1 else "4950")


def test_a_commit_has_everything_stand_still(home: Minidocker, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is not to; and everything goes on when whoever wanted that has gone, however it went."""
    script = "i=0; while :; do i=$((i+1)); echo $i > /count; usleep 10000; done"
    engine = open_engine(roots.root, roots.run)
    container = engine.containers.get(home.ok("run", "-d", "--network", "none", "busybox", "sh", "-c", script))
    count = Path(engine.containers.path(container.id, "upper", "count"))

    def is_moving() -> bool:
        before, deadline = count.read_text(), time.monotonic() + 1.5
        while count.read_text() in (before, ""):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    moving, write_layer = [], layers.write_layer

    def look_and_write_layer(layout: Layout, upper: str) -> layers.Layer:
        moving.append(is_moving())
        return write_layer(layout, upper)

    home.ok("exec", container.id, "sh", "-c", "until test -s /count; do usleep 10000; done")
    monkeypatch.setattr(layers, "write_layer", look_and_write_layer)
    stories.commit(engine, container)
    stories.commit(engine, container, pause=False)
    assert moving == [False, True]
    attachment = lifecycle.connect(engine.containers, container)
    attachment.pause()
    assert not is_moving()
    attachment.close()
    time.sleep(0.1)
    assert is_moving()
