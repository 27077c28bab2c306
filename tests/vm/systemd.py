"""Beside systemd, which is process 1 here and owns the tree of control groups: who is where, and who outlives whom."""

import glob
import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from conftest import Minidocker

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
SLICE = "/sys/fs/cgroup/minidocker.slice"


@pytest.fixture
def home(minidocker: Minidocker, busybox_image: str) -> Iterator[Minidocker]:
    """Return the command, with busybox in its store."""
    yield minidocker
    minidocker("rm", "-f", *minidocker.ok("ps", "-aq").split(), timeout=300)


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout.strip()


def scope_of(container: str) -> str:
    """Return the one scope of a container."""
    (folder,) = glob.glob(f"{SLICE}/minidocker-{container}-*.scope")
    return folder


def show(home: Minidocker, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(home.ok("inspect", name))[0]["State"]
    return found


def own_group(pid: object) -> str:
    with open(f"/proc/{pid}/cgroup") as file:
        return file.read().strip().removeprefix("0::")


def processes(folder: str) -> list[int]:
    with open(f"{folder}/cgroup.procs") as file:
        return [int(line) for line in file]


def text(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def test_a_container_has_a_scope_of_its_own(home: Minidocker) -> None:
    container = home.ok("run", "-d", "--name", "own", "-m", "64m", "busybox", "sleep", "1000")
    scope = scope_of(container)
    assert processes(f"{scope}/container") == [show(home, "own")["Pid"]]
    assert len(processes(f"{scope}/shim")) == 1
    assert processes(scope) == []
    unit = os.path.basename(scope)
    shown = systemctl("show", "-p", "Delegate,Description,Slice,ActiveState", unit)
    assert sorted(shown.splitlines()) == [
        "ActiveState=active",
        "Delegate=yes",
        f"Description=Container {container[:12]}",
        "Slice=minidocker.slice",
    ]
    home.ok("rm", "-f", "own")
    deadline = time.monotonic() + 10
    while os.path.exists(scope) and time.monotonic() < deadline:  # systemd takes it back in its own time
        time.sleep(0.1)
    assert not os.path.exists(scope)
    assert systemctl("show", "-p", "LoadState", unit) == "LoadState=not-found"


def test_limits_outlast_what_systemd_does_to_its_tree(home: Minidocker) -> None:
    argv = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "20", "busybox", "sleep", "1000"]
    container = home.ok("run", "-d", "--name", "kept", *argv)
    group = f"{scope_of(container)}/container"
    pid = show(home, "kept")["Pid"]

    def limits() -> list[str]:
        return [text(f"{group}/{name}") for name in ("memory.max", "cpu.max", "pids.max")]

    before = limits()
    assert before == [str(64 << 20), "50000 100000", "20"]
    systemctl("daemon-reload")
    assert limits() == before
    systemctl("daemon-reexec")
    assert limits() == before
    # A unit that uses controllers comes and goes: systemd switches them on and off above us.
    subprocess.run(["systemd-run", "-q", "--wait", "--collect", "-p", "CPUWeight=50", "true"], check=True)
    assert limits() == before
    assert processes(group) == [pid]


def run_in_unit(home: Minidocker, *words: str) -> None:
    """Type a command of ours in a service of systemd's, and see the service end."""
    settings = [f"--setenv={name}={value}" for name, value in home.env.items()]
    unit = ["systemd-run", "-q", "--wait", "--collect", *settings, "minidocker", *words]
    subprocess.run(unit, check=True, timeout=120)


def test_a_container_outlives_the_service_that_started_it(home: Minidocker) -> None:
    """As with docker, whose daemon starts it. systemd ends every process that a service leaves behind."""
    run_in_unit(home, "run", "-d", "--name", "left", "busybox", "sleep", "1000")
    time.sleep(1)
    assert show(home, "left")["Running"] is True


def test_a_container_outlives_the_session_that_started_it(home: Minidocker) -> None:
    settings = [f"--setenv={name}={value}" for name, value in home.env.items()]
    command = ["minidocker", "run", "-d", "--name", "left", "busybox", "sleep", "1000"]
    subprocess.run(["systemd-run", "-q", "--scope", "--unit=session-x", *settings, *command], check=True, timeout=120)
    subprocess.run(["systemctl", "stop", "session-x.scope"], check=False, capture_output=True)
    time.sleep(1)
    assert show(home, "left")["Running"] is True


def test_stopping_the_scope_ends_the_container(home: Minidocker) -> None:
    """What systemd does with every scope when the machine is shut down: SIGTERM, and what it says is heard."""
    script = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 1; done"
    container = home.ok("run", "-d", "--name", "told", "busybox", "sh", "-c", script)
    while home.ok("logs", "told") != "ready":
        time.sleep(0.2)
    systemctl("stop", os.path.basename(scope_of(container)))
    assert home.ok("wait", "told") == "7"
    assert home.ok("logs", "told").splitlines() == ["ready", "told"]
    found = show(home, "told")
    assert (found["Status"], found["ExitCode"], found["OOMKilled"]) == ("exited", 7, False)


def test_a_restarted_container_has_a_new_scope(home: Minidocker) -> None:
    container = home.ok("run", "-d", "--name", "again", "busybox", "sleep", "1000")
    first = scope_of(container)
    home.ok("restart", "-t", "0", "again")
    deadline = time.monotonic() + 10
    while os.path.exists(first) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert scope_of(container) != first
    assert show(home, "again")["Running"] is True


def test_the_whole_slice_can_be_limited(home: Minidocker) -> None:
    """What a teacher with a class wants: all containers together, by systemd's own means."""
    container = home.ok("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    systemctl("set-property", "--runtime", "minidocker.slice", "MemoryMax=300M", "TasksMax=50")
    try:
        assert text(f"{SLICE}/memory.max") == str(300 << 20)
        assert processes(f"{scope_of(container)}/container") == [show(home, "one")["Pid"]]
    finally:
        systemctl("set-property", "--runtime", "minidocker.slice", "MemoryMax=", "TasksMax=")
