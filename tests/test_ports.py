"""Published ports: how `-p` and `--expose` are read, compared with docker's own client, and how ports are held."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from minidocker.container import firewall, ports
from minidocker.container.spec import Port
from minidocker.errors import InvalidArgument, NetworkError

ANY = "0.0.0.0"  # noqa: S104
GOOD = {
    "80": [Port(80)],
    "80/udp": [Port(80, "udp")],
    "80/TCP": [Port(80)],
    "80/": [Port(80)],
    ":80": [Port(80)],
    "8080:80": [Port(80, "tcp", ANY, 8080)],
    "0:80": [Port(80)],
    "127.0.0.1:8080:80": [Port(80, "tcp", "127.0.0.1", 8080)],
    "127.0.0.1::80": [Port(80, "tcp", "127.0.0.1", 0)],
    "[::1]:8080:80": [Port(80, "tcp", "::1", 8080)],
    "8000-8002:80-82/udp": [Port(80 + n, "udp", ANY, 8000 + n) for n in range(3)],
    "80-81": [Port(80), Port(81)],
    "8000-8002:80": [Port(80, "tcp", ANY, 8000, 8002)],
    "published=8080,target=80": [Port(80, "tcp", ANY, 8080)],
    "target=53,protocol=udp": [Port(53, "udp")],
}
BAD = [
    "foo",
    "8080:",
    "8080:80/xyz",
    "70000",
    "8000-8002:80-81",
    "1.2.3:80:80",
    "8010-8000:80",
    "::1:80:80",
    "",
    "a:80",
]
BAD += [" 80", "65536:80", "-1", "80-", "-80", "80-70", "8080:80:90:100", "/tcp", "1.2.3.4.5::80", "８０"]
BAD_EXPOSED = ["foo", "80:80", "8010-8000", "70000", "", "-", "80-"]


@pytest.mark.parametrize(("text", "expected"), GOOD.items(), ids=GOOD)
def test_parse(text: str, expected: list[Port]) -> None:
    assert ports.parse(text) == expected


@pytest.mark.parametrize("text", BAD, ids=repr)
def test_parse_refuses_in_dockers_words(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ports.parse(text)
    if shutil.which("/usr/bin/docker"):
        assert f"docker: {caught.value}." in _docker("-p", text)


@pytest.mark.parametrize("text", GOOD, ids=repr)
@pytest.mark.skipif(not shutil.which("/usr/bin/docker"), reason="needs docker's client to compare with")
def test_docker_reads_what_we_read(text: str) -> None:
    assert "Cannot connect to the Docker daemon" in _docker("-p", text)


def _docker(*options: str) -> str:
    """Return what docker's client says; it reads its options before it looks for a daemon."""
    argv = ["/usr/bin/docker", "-H", "unix:///nonexistent", "run", *options, "x"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stderr


def test_parse_exposed() -> None:
    assert ports.parse_exposed("22") == ["22/tcp"]
    assert ports.parse_exposed("8000-8002/udp") == ["8000/udp", "8001/udp", "8002/udp"]
    assert ports.publish_all(["22/tcp", "53/udp"]) == [Port(22), Port(53, "udp")]


@pytest.mark.parametrize("text", BAD_EXPOSED, ids=repr)
def test_parse_exposed_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--expose: "):
        ports.parse_exposed(text)


def test_parse_exposed_refuses_protocol() -> None:
    with pytest.raises(InvalidArgument, match="Invalid proto: xyz"):
        ports.parse_exposed("80/xyz")


@contextlib.contextmanager
def _held(run_dir: str, *wanted: Port) -> Iterator[list[Port]]:
    """Hold ports for a container called `web`."""
    resolved, holders = ports.reserve(run_dir, "3f2a", "web", wanted)
    try:
        yield resolved
    finally:
        for holder in holders:
            holder.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_reserve_chooses_a_port_that_nobody_else_gets(tmp_path: os.PathLike[str]) -> None:
    with _held(str(tmp_path), Port(80), Port(53, "udp")) as (web, dns), _held(str(tmp_path), Port(80)) as (other,):
        assert web.host_port >= 32768
        assert dns.host_port >= 32768
        assert other.host_port not in (0, web.host_port)
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                server.bind((ANY, web.host_port))


def test_reserve_frees_with_the_last_descriptor(tmp_path: os.PathLike[str]) -> None:
    port = Port(80, "tcp", "127.0.0.1", _free_port())
    with _held(str(tmp_path), port):
        pass
    with _held(str(tmp_path), port) as resolved:
        assert resolved == [port]


def test_reserve_takes_the_first_free_of_a_range(tmp_path: os.PathLike[str]) -> None:
    first = _free_port()
    with _held(str(tmp_path), Port(80, "tcp", "127.0.0.1", first)):
        wanted = Port(80, "tcp", "127.0.0.1", first, first + 5)
        with _held(str(tmp_path), wanted) as (port,):
            assert first < port.host_port <= first + 5
            assert port.host_port_last == 0


def test_reserve_says_that_another_process_has_the_port(tmp_path: os.PathLike[str]) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        with (
            pytest.raises(NetworkError) as caught,
            _held(str(tmp_path), Port(81, "tcp", "127.0.0.1"), Port(80, "tcp", "127.0.0.1", number)),
        ):
            pass
    assert str(caught.value) == (
        "driver failed programming external connectivity on endpoint web (3f2a): "
        f"listen tcp4 127.0.0.1:{number}: bind: address already in use"
    )


def test_reserve_says_that_another_container_has_the_port(tmp_path: os.PathLike[str]) -> None:
    port = Port(80, "tcp", ANY, _free_port())
    os.makedirs(f"{tmp_path}/network/published")
    with open(f"{tmp_path}/network/published/0123", "w") as file:
        file.write(firewall.unpublish("minidocker", "172.18.0.2", [port]))
    with (
        _held(str(tmp_path), port),
        pytest.raises(NetworkError, match=rf"\(3f2a\): Bind for 0\.0\.0\.0:{port.host_port} failed: port is already"),
        _held(str(tmp_path), port),
    ):
        pass


def test_reserve_overlooks_connections_that_have_ended(tmp_path: os.PathLike[str]) -> None:
    """After its server has gone, a TCP port stays in TIME_WAIT for a minute; docker takes it, and so do we."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    with _held(str(tmp_path), Port(80, "tcp", "127.0.0.1", number)), socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", number))


@pytest.mark.parametrize(
    ("host_ip", "words"),
    [("198.51.100.7", "listen tcp4 198.51.100.7:8080: bind: cannot assign requested address"), ("::1", "IPv4")],
)
def test_reserve_refuses_an_address_that_is_not_ours(tmp_path: os.PathLike[str], host_ip: str, words: str) -> None:
    with pytest.raises(NetworkError, match=words) as caught, _held(str(tmp_path), Port(80, "tcp", host_ip, 8080)):
        pass
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno != errno.EADDRINUSE
