"""What carries an ordinary user's network to the world: slirp4netns, a process of the user's.

It has one end in the holder's network namespace, a card named tap0, and speaks with the world as any program does. A
port of the host is published by telling it so.

    RUN/rootless/slirp.json     its process id and start time
    RUN/rootless/slirp.sock     where it takes orders
    RUN/network/forwards/ID     a line for each published port of a container: its number here, and what was asked

See: slirp4netns(1).
"""

import contextlib
import json
import os
import socket
from typing import Any

from minidocker import explain
from minidocker.container import files, firewall, records, rootless
from minidocker.container.spec import Port
from minidocker.errors import NetworkError

Json = dict[str, Any]

MISSING = (
    "slirp4netns is missing, so containers have no network but --network none and host: apt-get install slirp4netns"
)
FAILED = (
    "slirp4netns could not be started, so containers have no network but --network none and host: "
    "may this user open /dev/net/tun? see 'minidocker doctor'"
)
# Every address of its network but that of its name server stands for the host's 127.0.0.1. Its own option against that,
# --disable-host-loopback, also loses the answers to what is asked by UDP from there; so it is done here.
GUARD = f"""\
table ip slirp-guard {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        oifname "tap0" ip daddr {rootless.NAME_SERVER} meta l4proto {{ tcp, udp }} th dport 53 accept
        oifname "tap0" ip daddr {rootless.NETWORK} ct direction original drop
    }}
}}
"""
_READY, _EXIT = 100, 101  # the numbers that its descriptors have there


def ensure(run: str, pid: int, say: rootless.Say) -> None:
    """Connect the network of the holder `pid` to the world, unless it is. The caller holds the holder's lock."""
    note = f"{run}/rootless/slirp.json"
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError), open(note) as file:
        known = json.load(file)
        if known["holder"] == pid and records.start_time(known["pid"]) == known["start"]:
            return
    import shutil

    if not shutil.which("slirp4netns"):
        say(MISSING)
        return
    started = _start(run, pid)
    if not started:
        say(FAILED)
        return
    _forward_again(run)
    files.write_json(note, {"pid": started, "start": records.start_time(started), "holder": pid})


def _start(run: str, pid: int) -> int:
    """Start slirp4netns for the network namespace of `pid`, with which it ends; return its id, 0 where that failed.

    See: slirp4netns(1): --exit-fd, --ready-fd, --api-socket.
    """
    api = f"{run}/rootless/slirp.sock"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(api)
    ready, ready_child = os.pipe()
    alive = os.open(f"{run}/rootless/alive", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    command = ["slirp4netns", "--configure", "--mtu=65520", f"--cidr={rootless.NETWORK}", f"--api-socket={api}"]
    command += [f"--ready-fd={_READY}", f"--exit-fd={_EXIT}", str(pid), "tap0"]
    explain.step("posix_spawn(slirp4netns)", " ".join(command))
    quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    given = [(os.POSIX_SPAWN_DUP2, ready_child, _READY), (os.POSIX_SPAWN_DUP2, alive, _EXIT)]
    started = os.posix_spawnp(command[0], command, os.environ, file_actions=[*quiet, *given], setsid=True)
    os.close(ready_child)
    os.close(alive)
    with open(ready, "rb") as pipe:
        return started if pipe.read(1) == b"1" else 0


def guard(rules: str) -> None:
    """Keep containers from what listens on the host's 127.0.0.1, unless the `rules` of this network say so already."""
    if "table ip slirp-guard {" not in rules:
        firewall.apply(GUARD)


def forward(run: str, container_id: str, ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """Have the host's side of `ports` led into the holder's network; return the ports as they are there.

    Raises: NetworkError.
    """
    with open(f"{run}/network/forwards/{container_id}", "w") as note:
        for port in ports:
            asked = {"proto": port.protocol, "host_addr": port.host_ip, "host_port": port.host_port}
            _add(run, {**asked, "guest_port": port.host_port}, note)
    return tuple(port._replace(host_ip="0.0.0.0") for port in ports)  # noqa: S104, in the holder's network


def _add(run: str, asked: Json, note: Any) -> None:
    """Publish one port, and note how it can be undone, or done again."""
    answer = _ask(run, {"execute": "add_hostfwd", "arguments": asked})
    if "error" in answer:
        reason = answer["error"].get("desc", "refused")
        raise NetworkError(f"Bind for {asked['host_addr']}:{asked['host_port']} failed: slirp4netns: {reason}")
    note.write(json.dumps({"id": answer["return"]["id"], "asked": asked}) + "\n")
    note.flush()


def _forward_again(run: str) -> None:
    """Publish anew what a slirp4netns that is gone had published. A port that somebody else has taken stays lost."""
    folder = f"{run}/network/forwards"
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        with open(f"{folder}/{name}") as note:
            lines = [json.loads(line) for line in note]
        with open(f"{folder}/{name}", "w") as note:
            for line in lines:
                with contextlib.suppress(NetworkError):
                    _add(run, line["asked"], note)


def end_forwards(run: str, container_id: str) -> None:
    """End what `forward` began for a container; where there is nothing to end that is no error."""
    path = f"{run}/network/forwards/{container_id}"
    with contextlib.suppress(FileNotFoundError):
        with open(path) as note:
            numbers = [json.loads(line)["id"] for line in note]
        os.unlink(path)
        for number in numbers:
            with contextlib.suppress(NetworkError):
                _ask(run, {"execute": "remove_hostfwd", "arguments": {"id": number}})


def _ask(run: str, question: Json) -> Json:
    """Put one question to slirp4netns.

    See: slirp4netns(1), API: a connection a question, in JSON. A socket's address has room for 107 bytes, so it is
    reached by way of its folder.
    """
    folder = os.open(f"{run}/rootless", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        try:
            connection.connect(f"/proc/self/fd/{folder}/slirp.sock")
            connection.sendall(json.dumps(question).encode())
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while data := connection.recv(65536):
                answer += data
            result: Json = json.loads(answer)
        except (OSError, ValueError):
            raise NetworkError("slirp4netns does not answer: try again, or use --network none or host") from None
        finally:
            os.close(folder)
    return result
