"""Which address and which subnet: leases that never collide, and a choice that avoids what is in use."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from minidocker.container import leases, subnets
from minidocker.errors import InvalidArgument, NetworkError

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 172.16.0.0/14 2 0 2
        |-- 172.17.0.0
           /16 link UNICAST
        |-- 172.18.4.0
           /22 universe UNICAST
     |-- 192.0.2.0
        /24 link UNICAST
Local:
  +-- 127.0.0.0/8 2 0 2
     |-- 127.0.0.1
        /32 host LOCAL
"""


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_lowest_free_address_first(tmp_path: os.PathLike[str]) -> None:
    folder, me = str(tmp_path), os.getpid()
    assert [leases.take(folder, "10.9.0.0/24", f"c{n}", me).address for n in range(3)] == [
        "10.9.0.2",
        "10.9.0.3",
        "10.9.0.4",
    ]
    leases.release(folder, "c1")
    assert leases.take(folder, "10.9.0.0/24", "d", me).address == "10.9.0.3"
    assert os.readlink(f"{folder}/10.9.0.3").split()[:2] == ["d", str(me)]


@pytest.mark.parametrize(
    ("preferred", "given"),
    [
        ("10.9.0.77", "10.9.0.77"),
        ("10.9.0.2", "10.9.0.3"),  # taken
        ("10.9.0.1", "10.9.0.3"),  # the gateway's
        ("10.9.0.0", "10.9.0.3"),
        ("10.9.0.255", "10.9.0.3"),
        ("172.18.0.9", "10.9.0.3"),  # of another subnet
    ],
)
def test_preferred_address(tmp_path: os.PathLike[str], preferred: str, given: str) -> None:
    leases.take(str(tmp_path), "10.9.0.0/24", "first", os.getpid())
    assert leases.take(str(tmp_path), "10.9.0.0/24", "second", os.getpid(), preferred).address == given


def test_no_address_left(tmp_path: os.PathLike[str]) -> None:
    for n in range(5):
        leases.take(str(tmp_path), "10.9.0.0/29", f"c{n}", os.getpid())
    with pytest.raises(NetworkError, match=r"no address left in 10\.9\.0\.0/29: 5 containers"):
        leases.take(str(tmp_path), "10.9.0.0/29", "one too many", os.getpid())


def test_release_twice_and_of_nothing(tmp_path: os.PathLike[str]) -> None:
    leases.take(str(tmp_path), "10.9.0.0/24", "c", os.getpid())
    leases.release(str(tmp_path), "c")
    leases.release(str(tmp_path), "c")
    leases.release(f"{tmp_path}/nowhere", "c")
    assert leases.held(str(tmp_path)) == []


def test_a_lease_dies_with_its_process(tmp_path: os.PathLike[str], sleeper: "subprocess.Popen[bytes]") -> None:
    lease = leases.take(str(tmp_path), "10.9.0.0/24", "c", sleeper.pid)
    assert lease.alive
    assert not lease._replace(start=lease.start - 1).alive, "the same process id at another time is another process"
    os.kill(sleeper.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while lease.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lease.alive


def test_the_name_alone_prevents_a_collision(tmp_path: os.PathLike[str]) -> None:
    """Even callers without the lock never get the same address: one of them fails."""
    code = (
        "import sys; from minidocker.container import leases\n"
        "while True:\n"
        "    try: lease = leases.take(sys.argv[1], '10.9.0.0/24', sys.argv[2], 1); break\n"
        "    except FileExistsError: pass\n"
        "print(lease.address)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"c{n}"], stdout=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    assert len({process.communicate(timeout=30)[0] for process in started}) == 8


def test_routes() -> None:
    used = [(leases.dotted(first), count) for first, count in subnets.routes(FIB_TRIE)]
    assert used == [("172.17.0.0", 1 << 16), ("172.18.4.0", 1 << 10), ("192.0.2.0", 256), ("127.0.0.1", 1)]


def test_pick_avoids_what_is_used() -> None:
    used = subnets.routes(FIB_TRIE) + subnets.nameservers("search x\nnameserver 172.19.255.254\nnameserver ::1\n")
    assert subnets.pick(subnets.CANDIDATES, used) == "172.20.0.0/16"
    assert subnets.pick(["172.25.0.0/16"], used) == "172.25.0.0/16"
    vpn = [leases.bounds("172.16.0.0/12")]
    assert subnets.pick(subnets.CANDIDATES, vpn) == "192.168.0.0/20"
    with pytest.raises(NetworkError, match="MINIDOCKER_SUBNET"):
        subnets.pick(subnets.CANDIDATES, [*vpn, leases.bounds("192.168.0.0/16")])


@pytest.mark.parametrize("text", ["10.9.0.0", "10.9.0.1/24", "10.9.0.0/30", "0.0.0.0/0", "10.9.0/24", "x", "fd00::/64"])
def test_a_wrong_subnet_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_SUBNET", text)
    with pytest.raises(InvalidArgument, match="MINIDOCKER_SUBNET"):
        subnets.choose()


def test_the_users_subnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_SUBNET", "10.251.7.0/24")
    assert subnets.choose() == "10.251.7.0/24"
    assert leases.gateway("10.251.7.0/24") == "10.251.7.1"
    monkeypatch.setenv("MINIDOCKER_SUBNET", "127.0.0.0/8")
    with pytest.raises(NetworkError, match="has a route into it"):
        subnets.choose()
