"""An ordinary user whose own systemd gives the containers their place: limits, published ports, a build with apt."""

import glob
import subprocess

import pytest

from test_examples import fetch, until
from test_rootless import SERVER, ask_by_udp

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
SETTINGS = "XDG_RUNTIME_DIR=/run/user/1000 MINIDOCKER_EMBEDDED=/var/lib/minidocker/registry"
SLICE = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/minidocker.slice"


def learner(command: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run a line of shell as the user `learner`, in a session of its own."""
    argv = ["su", "-l", "learner", "-c", f"export {SETTINGS}; {command}"]
    return subprocess.run(argv, input=input, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    done = learner("minidocker pull -q busybox && minidocker pull -q debian:bookworm")
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


def test_published_ports_of_a_limited_container() -> None:
    """Through slirp4netns, from the machine's loopback and from its card's address."""
    ports = "-p 8080:80 -p 8007:7/udp"
    done = learner(f"minidocker run -d --name web -m 64m {ports} debian:bookworm perl -e '{SERVER}' 2>&1")
    assert done.returncode == 0, done.stdout
    for address in ("127.0.0.1", "10.0.2.15"):
        assert until(lambda: fetch(f"http://{address}:8080/"), 60) == "page\n"  # noqa: B023, called at once
    assert until(lambda: ask_by_udp(8007), 60) == "back\n"
    (scope,) = glob.glob(f"{SLICE}/minidocker-{done.stdout.strip()}-*.scope")
    with open(f"{scope}/container/memory.max") as file:
        assert int(file.read()) == 64 << 20
    assert learner("minidocker rm -f web").returncode == 0
    assert fetch("http://127.0.0.1:8080/") == ""


DOCKERFILE = """
FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends hello
CMD ["hello"]
"""


def test_a_build_installs_a_package() -> None:
    """apt reaches name servers and mirrors through slirp4netns and the machine's card, as a user of its own."""
    done = learner("mkdir hello && cat >hello/Dockerfile && minidocker build -t hello hello", DOCKERFILE)
    assert "Successfully tagged hello" in done.stdout, done.stdout + done.stderr
    assert learner("minidocker run --rm hello").stdout == "Hello, world!\n"
    assert " root adm " in learner("minidocker run --rm hello ls -l /var/log/apt/term.log").stdout
