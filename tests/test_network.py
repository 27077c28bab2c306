"""The containers' network: plans without root, and with root real namespaces, a real outside machine, a real docker.

A "container" here is the least there can be of one: a process in a network namespace of its own, which answers on
TCP port 80 and UDP port 53 with its name and the address it was asked from.
"""

import asyncio
import contextlib
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from minidocker import explain
from minidocker.container import firewall, leases, network, network_links, ports
from minidocker.container.spec import Port
from minidocker.errors import NetworkError

SERVER = """
import socket, sys, threading
name = sys.argv[1].encode()
udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
udp.bind(("0.0.0.0", 53)); tcp.bind(("0.0.0.0", 80)); tcp.listen(64)
def echo():
    while True:
        data, peer = udp.recvfrom(2000)
        udp.sendto(name + b" " + peer[0].encode(), peer)
threading.Thread(target=echo, daemon=True).start()
print("ready", flush=True)
while True:
    connection, peer = tcp.accept()
    connection.sendall(name + b" " + peer[0].encode())
    connection.close()
"""
ASK = """
import socket, sys
kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = socket.socket(type=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
client.settimeout(2)
client.connect((host, port))
if kind == "udp":
    client.send(b"?")
print(client.recv(100).decode(), end="")
"""


class Container(NamedTuple):
    """A process in a namespace, and how it is connected."""

    id: str
    process: "subprocess.Popen[str]"
    endpoint: network.Endpoint
    ports: list[Port]
    holders: list[socket.socket]

    @property
    def pid(self) -> int:
        return self.process.pid


def ask(host: str, port: int, kind: str = "tcp", inside: int = 0) -> str:
    """Ask a server, from the host or from the namespace of process `inside`; "" when there is no answer."""
    enter = ["nsenter", "--net", f"--target={inside}"] if inside else []
    argv = [*enter, sys.executable, "-I", "-S", "-c", ASK, kind, host, str(port)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30).stdout


def ask_until_answered(host: str, port: int, inside: int) -> str:
    """Ask a server that may not have started yet."""
    deadline = time.monotonic() + 10
    while not (answer := ask(host, port, inside=inside)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def shell(command: str) -> str:
    return subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def net_run() -> Iterator[str]:
    """Return a run folder; whatever of the network is left at the end is removed, and then nothing may be left."""
    run_dir = f"/tmp/mdn-{secrets.token_hex(4)}"
    os.mkdir(run_dir)
    own = network.names(run_dir)
    yield run_dir
    network.remove_all(run_dir)
    assert os.listdir(run_dir) == []
    assert own.bridge not in shell("nft list ruleset; ip link; ip rule; ip route")
    os.rmdir(run_dir)


@pytest.fixture
def start(net_run: str) -> Iterator[Callable[..., Container]]:
    """Start containers; at the end of the test they are ended as a shim does it."""
    started: list[Container] = []

    def begin(*published: str, preferred: str = "", name: str = "") -> Container:
        container_id = name or secrets.token_hex(32)
        argv = ["unshare", "--net", sys.executable, "-I", "-S", "-c", SERVER, container_id[:8]]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wanted = [port for text in published for port in ports.parse(text)]
        resolved, holders = ports.reserve(net_run, container_id, "test", wanted)
        try:
            endpoint = network.connect(net_run, container_id, process.pid, resolved, preferred)
        except BaseException:
            _end(process, holders)
            raise
        started.append(Container(container_id, process, endpoint, resolved, holders))
        return started[-1]

    yield begin
    with contextlib.ExitStack() as ending:
        for container in started:
            ending.callback(end, net_run, container)


def _end(process: "subprocess.Popen[str]", holders: list[socket.socket]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
    for holder in holders:
        holder.close()


def end(run_dir: str, container: Container) -> None:
    """End a container in the order in which a shim does: the process, its network, last the ports it holds."""
    container.process.kill()
    container.process.wait()
    network.disconnect(run_dir, container.id)
    _end(container.process, container.holders)


def free_port() -> int:
    """Return a port that no other test is likely to get: those that are chosen for containers begin at 32768."""
    while True:
        with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            number = 20000 + secrets.randbelow(10000)
            with contextlib.suppress(OSError):
                probe.bind(("0.0.0.0", number))  # noqa: S104
                datagrams.bind(("0.0.0.0", number))  # noqa: S104
                return number


def host_address() -> str:
    """Return an address of the host's that is not 127.0.0.1."""
    for link in json.loads(shell("ip -j -4 address")):
        if link["ifname"] == "eth0" or (link["ifname"] != "lo" and "UP" in link["flags"]):
            for address in link["addr_info"]:
                return str(address["local"])
    pytest.skip("this machine has no address but 127.0.0.1")


# ---------------------------------------------------------------------------------------------- plans, without root


def test_the_plan_of_a_cable() -> None:
    (request,) = network_links.cable("veth1", "minidocker0", 7, 5, 4321, "02:42:ac:12:00:02")
    assert request.shell == (
        "ip link add veth1 up master minidocker0 type veth peer name eth0 address 02:42:ac:12:00:02 netns 4321"
    )
    assert str(request) == (
        "RTM_NEWLINK(flags=1, ifname=veth1, master=7, linkinfo={info_kind=veth, "
        "info_data={info_peer={ifname=eth0, address=02:42:ac:12:00:02, net_ns_fd=5}}})"
    )


def test_the_plan_of_the_inside() -> None:
    plan = network_links.configure(2, "172.18.0.2", 16, "172.18.0.1")
    assert [request.shell for request in plan] == [
        "ip link set lo up",
        "ip address add 172.18.0.2/16 broadcast 172.18.255.255 dev eth0",
        "ip link set eth0 up",
        "ip route add default via 172.18.0.1",
    ]


def test_a_request_in_bytes() -> None:
    """The bytes are those that `ip link set dev lo up` sends. See: rtnetlink(7)."""
    up = network_links.configure(2, "172.18.0.2", 16, "172.18.0.1")[0]
    header = (32).to_bytes(4, "little") + b"\x13\x00\x05\x00" + bytes(8)
    assert sys.byteorder != "little" or network_links.encode(up) == header + bytes(4) + b"\1\0\0\0" * 3


def test_pyroute2_stays_whole_for_others() -> None:
    code = (
        "import sys; from minidocker.container import network; network.preload()\n"
        "assert 'asyncio' not in sys.modules and 'pyroute2.iproute' not in sys.modules\n"
        "from pyroute2 import IPRoute; import pyroute2\n"
        "assert pyroute2.NetNS and pyroute2.netlink and pyroute2.__version__ and not hasattr(pyroute2, 'nonsense')\n"
        "network.preload(); IPRoute().close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_shim_needs_is_light() -> None:
    code = "import sys; from minidocker.container import network; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True).stdout.split())
    assert "minidocker.container.network" in loaded
    assert not loaded & {"pyroute2", "subprocess", "asyncio", "ipaddress", "minidocker.container.network_links"}


def test_names_differ_by_run_folder() -> None:
    assert network.names("/run/minidocker") == ("minidocker0", "minidocker")
    own, other = network.names("/tmp/a/run"), network.names("/tmp/b/run")
    assert own != other
    assert len(own.bridge) <= 15, "IFNAMSIZ"


def test_publish_and_its_undoing() -> None:
    published = [Port(80, "tcp", "0.0.0.0", 8080), Port(53, "udp", "127.0.0.1", 5353)]  # noqa: S104
    assert firewall.publish("t", "172.18.0.2", published) == (
        "add element ip t everywhere { tcp . 8080 : 172.18.0.2 . 80 }\n"
        "add element ip t somewhere { udp . 127.0.0.1 . 5353 : 172.18.0.2 . 53 }\n"
    )
    assert firewall.unpublish("t", "172.18.0.2", published[:1]) == (
        "add element ip t everywhere { tcp . 8080 : 172.18.0.2 . 80 }; "
        "delete element ip t everywhere { tcp . 8080 : 172.18.0.2 . 80 }\n"
    )


LISTING = """\
table ip filter { # handle 2
	chain FORWARD { # handle 8
		type filter hook forward priority filter; policy drop;
		counter packets 0 bytes 0 jump DOCKER-USER # handle 30
	}

	chain DOCKER-USER { # handle 9
		counter packets 0 bytes 0 return # handle 31
	}
}
"""


def test_beside_docker_our_rules_go_where_docker_lets_users_put_theirs() -> None:
    plan = firewall.missing(LISTING, "minidocker", "minidocker0", "172.18.0.0/16")
    inserted = [line for line in plan.splitlines() if line.startswith("insert")]
    assert len(inserted) == 4
    assert all(line.startswith("insert rule ip filter DOCKER-USER ") for line in inserted)
    assert all(line.endswith('comment "minidocker0"') for line in inserted)


def test_without_docker_a_dropping_chain_gets_them_and_an_accepting_one_does_not() -> None:
    dropping = LISTING.replace("DOCKER-USER", "elsewhere")
    assert "insert rule ip filter FORWARD" in firewall.missing(dropping, "m", "m0", "172.18.0.0/16")
    assert "insert" not in firewall.missing(dropping.replace("drop;", "accept;"), "m", "m0", "172.18.0.0/16")


def test_nothing_is_missing_twice() -> None:
    ours = '\t\tiifname "m0" accept comment "m0" # handle 77\n\t\tcounter packets'
    listing = LISTING.replace("\t\tcounter packets", ours, 1) + firewall.table("m", "m0", "172.18.0.0/16")
    assert firewall.missing(listing, "m", "m0", "172.18.0.0/16") == ""
    assert firewall.missing(listing, "m", "m0", "172.19.0.0/16").startswith("table ip m {")
    assert firewall.removal(listing, "m", "m0") == "delete table ip m\ndelete rule ip filter FORWARD handle 77\n"


# ------------------------------------------------------------------------------------------- with the real kernel


@pytest.mark.root
def test_a_container_reaches_its_gateway_and_others(start: Callable[..., Container]) -> None:
    one, two = start(), start()
    assert one.endpoint.address != two.endpoint.address
    assert ask(two.endpoint.address, 80, inside=one.pid) == f"{two.id[:8]} {one.endpoint.address}"
    assert ask(one.endpoint.address, 80) == f"{one.id[:8]} {one.endpoint.gateway}"
    links = json.loads(shell(f"nsenter -t {one.pid} -n ip -j address"))
    assert [link["ifname"] for link in links if "UP" in link["flags"]] == ["lo", "eth0"]
    assert links[-1]["address"] == one.endpoint.mac
    loopback = next(link for link in links if link["ifname"] == "lo")
    assert "::1" in [address["local"] for address in loopback["addr_info"]] or not os.path.exists("/proc/net/if_inet6")
    assert not [address for address in links[-1]["addr_info"] if address["family"] == "inet6"]


@pytest.mark.root
@pytest.mark.parametrize(("kind", "port"), [("tcp", 80), ("udp", 53)])
def test_published_everywhere(start: Callable[..., Container], kind: str, port: int) -> None:
    """From the host at 127.0.0.1 and at its own address, from a neighbour, from the container itself."""
    web, neighbour = start(f"{port}/{kind}"), start()
    number = web.ports[0].host_port
    for host in ("127.0.0.1", "127.0.0.5", host_address(), web.endpoint.gateway):
        assert ask(host, number, kind).startswith(web.id[:8]), f"from the host at {host}"
    for host in (host_address(), web.endpoint.gateway):
        for client in (neighbour, web):
            assert ask(host, number, kind, inside=client.pid).startswith(web.id[:8]), f"from {client.id[:8]} at {host}"


@pytest.mark.root
def test_published_on_one_address(start: Callable[..., Container]) -> None:
    web = start("127.0.0.1::80")
    number = web.ports[0].host_port
    assert ask("127.0.0.1", number).startswith(web.id[:8])
    assert ask(host_address(), number) == ""
    other = start(f"{host_address()}:{number}:80")
    assert ask(host_address(), number).startswith(other.id[:8])
    assert ask("127.0.0.1", number).startswith(web.id[:8])


@pytest.fixture
def outside() -> Iterator[tuple[int, str, str]]:
    """Return another machine on a wire of its own: its process, its address, and the host's on that wire."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    mark, subnet = secrets.token_hex(3), secrets.randbelow(250)
    try:
        while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        inside = f"nsenter -t {process.pid} -n ip"
        shell(f"ip link add mdo{mark} type veth peer name wire netns {process.pid}")
        shell(f"ip address add 10.214.{subnet}.1/24 dev mdo{mark} && ip link set mdo{mark} up")
        shell(f"{inside} address add 10.214.{subnet}.2/24 dev wire && {inside} link set wire up")
        yield process.pid, f"10.214.{subnet}.2", f"10.214.{subnet}.1"
    finally:
        process.kill()
        process.wait()
        subprocess.run(["ip", "link", "delete", f"mdo{mark}"], capture_output=True, check=False)


@pytest.mark.root
def test_an_outside_machine(start: Callable[..., Container], outside: tuple[int, str, str]) -> None:
    """It reaches what is published, with its own address seen; nothing else, not even with a route to the subnet."""
    pid, address, gateway = outside
    web = start("80", "53/udp")
    assert ask(gateway, web.ports[0].host_port, inside=pid) == f"{web.id[:8]} {address}"
    assert ask(gateway, web.ports[1].host_port, "udp", inside=pid) == f"{web.id[:8]} {address}"
    shell(f"nsenter -t {pid} -n ip route add {web.endpoint.address} via {gateway}")
    assert ask(web.endpoint.address, 80, inside=pid) == ""


@pytest.mark.root
def test_a_container_goes_out_with_the_hosts_address(
    start: Callable[..., Container], outside: tuple[int, str, str]
) -> None:
    pid, address, gateway = outside
    server = subprocess.Popen(
        ["nsenter", "-t", str(pid), "-n", sys.executable, "-I", "-S", "-c", SERVER, "outside"], stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        assert ask(address, 80, inside=start().pid) == f"outside {gateway}"
        assert ask(address, 53, "udp", inside=start().pid) == f"outside {gateway}"
    finally:
        server.kill()
        server.communicate()


@pytest.mark.root
def test_a_container_never_reaches_the_hosts_own_loopback(start: Callable[..., Container]) -> None:
    """Not even one that routes 127.0.0.0/8 to the bridge, which must route it for the sake of published ports."""
    container = start("80")
    inside = f"nsenter -t {container.pid} -n"
    with socket.socket() as server, socket.socket(type=socket.SOCK_DGRAM) as seen:
        server.bind(("127.0.0.1", 0))
        server.listen()
        seen.bind(("127.0.0.1", 0))
        seen.settimeout(0.5)
        shell(f"{inside} sysctl -qw net.ipv4.conf.eth0.route_localnet=1 net.ipv4.conf.all.route_localnet=1")
        shell(f"{inside} ip link set lo down")
        shell(f"{inside} ip address add {container.endpoint.address}/32 dev lo; {inside} ip route flush table local")
        shell(f"{inside} ip route add 127.0.0.0/8 via {container.endpoint.gateway} dev eth0")
        assert ask("127.0.0.1", server.getsockname()[1], inside=container.pid) == ""
        ask("127.0.0.1", seen.getsockname()[1], "udp", inside=container.pid)
        with pytest.raises(TimeoutError):
            seen.recv(100)


@pytest.mark.root
def test_ports_and_address_are_freed(net_run: str, start: Callable[..., Container]) -> None:
    first = start(f"{free_port()}:80")
    number, address = first.ports[0].host_port, first.endpoint.address
    end(net_run, first)
    network.disconnect(net_run, first.id)
    assert ask("127.0.0.1", number) == ""
    assert os.listdir(f"{net_run}/network/leases") == os.listdir(f"{net_run}/network/published") == []
    with socket.socket() as server:
        server.bind(("127.0.0.1", number))
    second = start(f"{number}:80")
    assert second.endpoint.address == address
    assert ask("127.0.0.1", number).startswith(second.id[:8])


@pytest.mark.root
def test_restart_keeps_the_address(net_run: str, start: Callable[..., Container]) -> None:
    first, second = start(), start(f"{free_port()}:80")
    number, name = second.ports[0].host_port, second.id
    end(net_run, first)
    end(net_run, second)
    again = start(f"{number}:80", preferred=second.endpoint.address, name=name)
    assert again.endpoint.address == second.endpoint.address
    assert ask("127.0.0.1", number).startswith(name[:8])


@pytest.mark.root
def test_udp_flows_follow_the_port(net_run: str, start: Callable[..., Container]) -> None:
    """A client that never changes its port gets the new container's answers, not the old one's silence."""
    first = start(f"{free_port()}:53/udp")
    number = first.ports[0].host_port
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((host_address(), number))
        client.send(b"?")
        assert client.recv(100).decode().startswith(first.id[:8])
        keeper = start()
        end(net_run, first)
        second = start(f"{number}:53/udp", preferred="172.31.255.254")
        assert keeper.endpoint.address != second.endpoint.address
        client.send(b"?")
        assert client.recv(100).decode().startswith(second.id[:8])


@pytest.mark.root
def test_what_a_killed_shim_left_is_reclaimed(net_run: str, start: Callable[..., Container]) -> None:
    dead = start(f"{free_port()}:80")
    _end(dead.process, dead.holders)  # nobody disconnects
    number = dead.ports[0].host_port
    fresh = start(f"{number}:80")
    assert fresh.endpoint.address == dead.endpoint.address
    assert ask("127.0.0.1", number).startswith(fresh.id[:8])
    assert os.listdir(f"{net_run}/network/published") == [fresh.id]


@pytest.mark.root
def test_a_stale_rule_is_replaced(net_run: str, start: Callable[..., Container]) -> None:
    dead = start(f"{free_port()}:80", "53/udp")
    _end(dead.process, dead.holders)
    shell(f"rm {net_run}/network/published/*")
    fresh = start(f"{dead.ports[0].host_port}:80")
    assert ask("127.0.0.1", fresh.ports[0].host_port).startswith(fresh.id[:8])


@pytest.mark.root
def test_a_late_undoing_spares_the_successor(net_run: str, start: Callable[..., Container]) -> None:
    late = start(f"{free_port()}:80", f"{free_port()}:81")
    for holder in late.holders:
        holder.close()
    network_file = f"{net_run}/network/published/{late.id}"
    with open(network_file) as file:
        undo = file.read()
    os.unlink(network_file)
    successor = start(f"{late.ports[0].host_port}:80")
    with open(network_file, "w") as file:
        file.write(undo)
    network.disconnect(net_run, late.id)
    assert ask("127.0.0.1", successor.ports[0].host_port).startswith(successor.id[:8])
    table = network.names(net_run).table
    assert str(late.ports[1].host_port) not in shell(f"nft list table ip {table}")


SLOW_NFT = """#!/bin/sh
PATH=/usr/bin:/bin; cd {folder}
cat > script
if grep -q "^add element" script && ! grep -q delete script; then touch begun; sleep 1; fi
/usr/sbin/nft "$@" < script
touch done
"""
CONNECT = """
import sys
from minidocker.container import network
from minidocker.container.spec import Port
network.connect(sys.argv[1], "killed", int(sys.argv[2]), [Port(80, "tcp", "127.0.0.1", int(sys.argv[3]))])
"""


@pytest.mark.root
def test_a_command_that_is_killed_while_nft_adds_a_rule(
    net_run: str, start: Callable[..., Container], tmp_path: Path
) -> None:
    """Whoever undoes it waits for that nft: a rule that came later would lead to whoever has the address then."""
    start()
    (tmp_path / "nft").write_text(SLOW_NFT.format(folder=tmp_path))
    (tmp_path / "nft").chmod(0o755)
    port = free_port()
    with subprocess.Popen(["unshare", "--net", "sleep", "60"]) as container:
        time.sleep(0.2)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        argv = [sys.executable, "-c", CONNECT, net_run, str(container.pid), str(port)]
        with subprocess.Popen(argv, env=environment) as command:
            wait_for(tmp_path / "begun")
            (tmp_path / "done").unlink(missing_ok=True)
            command.kill()
        container.kill()
    network.disconnect(net_run, "killed")
    wait_for(tmp_path / "done")
    assert str(port) not in shell(f"nft list table ip {network.names(net_run).table}")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)


@pytest.mark.root
def test_rules_that_were_flushed_come_back(net_run: str, start: Callable[..., Container]) -> None:
    first = start("80")
    shell(f"nft delete table ip {network.names(net_run).table}")
    end(net_run, first)
    second = start("80")
    assert ask("127.0.0.1", second.ports[0].host_port).startswith(second.id[:8])


@pytest.mark.root
def test_a_bridge_that_was_deleted_comes_back(net_run: str, start: Callable[..., Container]) -> None:
    before = start().endpoint
    shell(f"ip link delete {before.bridge}")
    after = start("80")
    assert after.endpoint.bridge == before.bridge  # in another subnet, if somebody took the first meanwhile
    assert ask("127.0.0.1", after.ports[0].host_port).startswith(after.id[:8])


@pytest.mark.root
def test_a_failure_gives_everything_back(net_run: str, start: Callable[..., Container]) -> None:
    start()
    process = subprocess.Popen(["sleep", "60"])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(FileNotFoundError):
        network.connect(net_run, "gone", process.pid, [Port(80, "tcp", "127.0.0.1", 1)])
    bad = Port(80, "nonsense", "127.0.0.1", 1)
    with (
        subprocess.Popen(["unshare", "--net", "sleep", "60"]) as other,
        pytest.raises(NetworkError, match="nonsense"),
    ):
        try:
            time.sleep(0.2)
            network.connect(net_run, "bad", other.pid, [bad])
        finally:
            other.kill()
    assert len(os.listdir(f"{net_run}/network/leases")) == 1
    assert os.listdir(f"{net_run}/network/published") == []


@pytest.mark.root
def test_twenty_at_once(net_run: str, start: Callable[..., Container]) -> None:
    """Twenty threads, with no bridge yet: one bridge, twenty addresses, each reachable under its port."""
    with ThreadPoolExecutor(20) as pool:
        started = list(pool.map(lambda _: start("80"), range(20)))
    assert len({container.endpoint.address for container in started}) == 20
    assert len({container.endpoint.gateway for container in started}) == 1
    for container in started:
        assert ask("127.0.0.1", container.ports[0].host_port).startswith(container.id[:8])
    listed = shell("nft list ruleset ip")
    assert listed.count(f"table ip {network.names(net_run).table} {{") == 1


@pytest.mark.root
def test_two_roots_at_once() -> None:
    """Two run folders choose different bridges, tables and subnets; to remove one leaves the other."""
    runs = [f"/tmp/mdn-{secrets.token_hex(4)}" for _ in range(2)]
    processes = [subprocess.Popen(["unshare", "--net", "sleep", "60"]) for _ in runs]
    time.sleep(0.3)
    try:
        with ThreadPoolExecutor(2) as pool:
            endpoints = list(pool.map(lambda n: network.connect(runs[n], "c", processes[n].pid), range(2)))
        assert endpoints[0].bridge != endpoints[1].bridge
        assert endpoints[0].gateway != endpoints[1].gateway
        network.remove_all(runs[0])
        assert network.names(runs[1]).table in shell("nft list tables")
        assert endpoints[1].bridge in shell("ip link")
    finally:
        for process, run_dir in zip(processes, runs, strict=True):
            process.kill()
            process.wait()
            network.remove_all(run_dir)
            network.remove_all(run_dir)
            shell(f"rm -rf {run_dir}")


@pytest.mark.root
def test_from_a_running_event_loop(start: Callable[..., Container]) -> None:
    """As a notebook's kernel calls it; and no thread of the caller is left in another namespace."""
    before = {os.readlink(f"/proc/self/task/{task}/ns/net") for task in os.listdir("/proc/self/task")}

    async def run() -> tuple[Container, Container]:
        return start("80"), await asyncio.to_thread(start, "80")

    direct, threaded = asyncio.run(run())
    assert direct.endpoint.address != threaded.endpoint.address
    after = {os.readlink(f"/proc/self/task/{task}/ns/net") for task in os.listdir("/proc/self/task")}
    assert after == before
    assert not [thread for thread in threading.enumerate() if thread.name == "minidocker-setns"]


@pytest.mark.root
def test_explained(net_run: str, start: Callable[..., Container]) -> None:
    told: list[tuple[str, str]] = []
    explain.listen(lambda kernel, line: told.append((kernel, line)))
    try:
        container = start("80")
    finally:
        explain.listen(None)
    lines = [line for _, line in told]
    bridge = network.names(net_run).bridge
    assert any(line.startswith(f"ip link add {bridge} ") for line in lines)
    assert any(line.startswith(f"ip link add {container.endpoint.veth} up master {bridge} type veth") for line in lines)
    assert "ip route add default via " + container.endpoint.gateway in lines
    assert any(line.startswith("nft 'add element ip ") for line in lines)
    assert any(kernel.startswith("RTM_NEWADDR(") for kernel, _ in told)


@pytest.mark.root
def test_loopback_alone() -> None:
    code = (
        "import os, socket; from minidocker.linux import syscalls; from minidocker.container import loopback\n"
        "syscalls.unshare(syscalls.CLONE_NEWNET); loopback.bring_up(); loopback.bring_up()\n"
        "server = socket.create_server(('127.0.0.1', 0)); socket.create_connection(server.getsockname()).close()\n"
        "socket.create_server(('::1', 0), family=socket.AF_INET6)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.root
def test_the_lease_names_a_living_process(net_run: str, start: Callable[..., Container]) -> None:
    container = start()
    (lease,) = leases.held(f"{net_run}/network/leases")
    assert (lease.container_id, lease.pid, lease.alive) == (container.id, container.pid, True)


def _rules_of(docker: Any) -> list[str]:
    """Return the rules of this docker's own bridge, without its containers' ports: other tests come and go."""
    name = '{{index .Options "com.docker.network.bridge.name"}}'
    bridge = docker.run("network", "inspect", "bridge", "-f", name).stdout.strip()
    assert bridge
    return [line for line in shell("iptables-save").splitlines() if bridge in line and " --dport " not in line]


@pytest.mark.peers
def test_beside_a_docker_daemon(
    net_run: str, docker: Any, start: Callable[..., Container], outside: tuple[int, str, str]
) -> None:
    """Where docker's FORWARD chain drops what it does not know, both reach each other's published ports.

    Two rules at the end of the chain do what policy DROP does, to our bridge only: other tests run at the same time.
    """
    bridge = network.names(net_run).bridge
    before = _rules_of(docker)
    assert before
    shell(f"iptables -A FORWARD -i {bridge} -j DROP; iptables -A FORWARD -o {bridge} -j DROP")
    docker.run("import", "-", "netpeer", input=_busybox_tar())
    serve = "while true; do echo docker | nc -l -p 80; done"
    peer = docker.run("run", "-d", "-p", "80", "netpeer", "/bin/busybox", "sh", "-c", serve).stdout.strip()
    try:
        peer_port = int(docker.run("port", peer, "80").stdout.splitlines()[0].rpartition(":")[2])
        web, client = start("80"), start()
        number = web.ports[0].host_port
        pid, address, gateway = outside
        assert ask(gateway, number, inside=pid) == f"{web.id[:8]} {address}"
        assert ask("127.0.0.1", number).startswith(web.id[:8])
        assert ask(web.endpoint.address, 80, inside=client.pid).startswith(web.id[:8])
        assert ask(host_address(), number, inside=client.pid).startswith(web.id[:8])
        assert ask_until_answered(host_address(), peer_port, inside=client.pid) == "docker\n"
        asked = docker.run("exec", peer, "/bin/busybox", "nc", "-w", "2", host_address(), str(number)).stdout
        assert asked.startswith(web.id[:8])
    finally:
        docker.run("rm", "-f", peer, check=False)
        shell(f"iptables -D FORWARD -i {bridge} -j DROP; iptables -D FORWARD -o {bridge} -j DROP")
    network.remove_all(net_run)
    assert bridge not in shell("iptables-save")
    assert _rules_of(docker) == before


def _busybox_tar() -> bytes:
    """Return the archive of a root that holds busybox and nothing else."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add("/bin/busybox", "bin/busybox")
        return buffer.getvalue()


@pytest.mark.root
def test_where_forwarding_is_dropped(net_run: str) -> None:
    """On a machine whose forward chain drops: a namespace of its own plays the machine, with all its rules."""
    code = f"""
import os, subprocess, sys, time
from minidocker.container import network
os.system("nft add table ip filter")
os.system("nft 'add chain ip filter FORWARD {{ type filter hook forward priority 0; policy drop; }}'")
boxes = [subprocess.Popen(["unshare", "--net", "sleep", "60"]) for _ in range(2)]
time.sleep(0.3)
one, other = (network.connect({net_run!r}, str(box.pid), box.pid) for box in boxes)
rules = subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True).stdout
network.remove_all({net_run!r})
after = subprocess.run(["iptables", "-S"], capture_output=True, text=True).stdout
for box in boxes:
    box.kill()
assert rules.count("ACCEPT") == 2, rules
assert one.bridge not in after, after
"""
    argv = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t sysfs sys /sys && exec "$@"', "sh", sys.executable]
    subprocess.run([*argv, "-c", code], check=True)
