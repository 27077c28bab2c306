"""On a bare kernel: nobody else divides the tree of control groups, and our folder is at its top."""

import json
import os
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
