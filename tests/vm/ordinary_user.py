"""Limits without root: an ordinary user's own systemd gives the containers their place, with what it was given."""

import subprocess

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
SETTINGS = "XDG_RUNTIME_DIR=/run/user/1000 MINIDOCKER_EMBEDDED=/var/lib/minidocker/registry"
SLICE = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/minidocker.slice"


def learner(command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell as the user `learner`, in a session of its own."""
    argv = ["su", "-l", "learner", "-c", f"export {SETTINGS}; {command}"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module", autouse=True)
def busybox() -> None:
    done = learner("minidocker pull -q busybox")
    assert done.returncode == 0, done.stderr


def test_every_limit_of_an_ordinary_users_container() -> None:
    script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max; cat /proc/self/cgroup"
    done = learner(f"minidocker run --rm -m 64m --cpus 0.5 --pids-limit 20 busybox sh -c '{script}'")
    assert done.stdout.splitlines() == [str(64 << 20), "50000 100000", "20", "0::/"], done.stderr


def test_an_allocation_over_the_limit() -> None:
    done = learner("minidocker run --name eater -m 24m busybox dd if=/dev/zero of=/dev/null bs=200M")
    assert done.returncode == 137, done.stderr
    assert learner("minidocker inspect -f '{{.State.OOMKilled}}' eater").stdout == "true\n"
    assert learner("minidocker rm eater").stdout == "eater\n"


def test_exec_from_another_session_is_inside_the_limits() -> None:
    assert learner("minidocker run -d --name outer -m 24m busybox sleep 1000").returncode == 0
    done = learner("minidocker exec outer dd if=/dev/zero of=/dev/null bs=200M")
    assert done.returncode == 137, done.stderr
    assert learner("minidocker rm -f outer").returncode == 0


def test_a_controller_that_was_not_delegated() -> None:
    done = learner("minidocker run --rm --device-read-bps /dev/vda:1mb busybox true")
    assert done.returncode == 125
    assert "cannot limit the container: there is no" in done.stderr
    assert "io.max" in done.stderr
