"""On a bare kernel: nobody else divides the tree of control groups, and our folder is at its top."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from conftest import Minidocker

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
TOP = "/sys/fs/cgroup"


@pytest.fixture
def home(minidocker: Minidocker, busybox_image: str) -> Iterator[Minidocker]:
    """Return the command, with busybox in its store."""
    yield minidocker
    minidocker("rm", "-f", *minidocker.ok("ps", "-aq").split(), timeout=300)


def test_a_container_has_a_folder_below_ours(home: Minidocker) -> None:
    container = home.ok("run", "-d", "--name", "own", "-m", "64m", "busybox", "sleep", "1000")
    with open(f"{TOP}/minidocker/{container}/cgroup.procs") as file:
        assert [int(line) for line in file] == [json.loads(home.ok("inspect", "own"))[0]["State"]["Pid"]]
    home.ok("rm", "-f", "own")
    assert not os.path.exists(f"{TOP}/minidocker/{container}")
    home.ok("system", "prune", "-f")
    assert not os.path.exists(f"{TOP}/minidocker")


NESTED = """
    umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || exit 9
    test "$(cat /proc/self/cgroup)" = 0::/ || exit 9
    minidocker run --rm busybox echo without
    minidocker run --rm -m 64m busybox echo with
    mkdir /sys/fs/cgroup/init
    xargs -rn1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs
    minidocker run --rm -m 64m busybox cat /sys/fs/cgroup/memory.max
"""


def test_where_the_top_is_not_the_machines(home: Minidocker) -> None:
    """As in another engine's container: our folder is below a folder that holds processes, and may not divide it."""
    os.mkdir(f"{TOP}/outer")
    with open(f"{TOP}/cgroup.subtree_control", "w") as file:
        file.write("+memory +pids +cpu")
    enter = f"echo $$ >{TOP}/outer/cgroup.procs; exec unshare --cgroup --mount sh -c '{NESTED}'"
    done = subprocess.run(["sh", "-c", enter], capture_output=True, text=True, env={**os.environ, **home.env})
    assert done.stdout.split() == ["without", str(64 << 20)], done.stderr
    assert "cannot limit the container: there is no /sys/fs/cgroup/minidocker" in done.stderr
    for folder in (f"{TOP}/outer/minidocker", f"{TOP}/outer/init", f"{TOP}/outer"):
        os.rmdir(folder)
