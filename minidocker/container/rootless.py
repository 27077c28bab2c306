"""Without being root: an ordinary user's own user namespace, in which that user is root.

All of a user's commands work in one user namespace, so that each of them has power over what the others have made. A
small process, the holder, keeps it: it is started by the first command and does nothing but exist. Later commands join.

    RUN/rootless/holder.json    the holder's process id and start time
    RUN/rootless/slirp.sock     where slirp4netns takes orders to publish ports
    RUN/rootless/lock           held while a holder is looked for or started

Inside, minidocker works as it does for root. The holder also has a network namespace, where the bridge is and the
firewall; slirp4netns, a user's process, carries what leaves it. Commands stay in the host's network themselves.

See: user_namespaces(7), newuidmap(1), subuid(5), slirp4netns(1).
"""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from minidocker import explain
from minidocker.container import records, stream
from minidocker.container.spec import Port
from minidocker.errors import MinidockerError, NetworkError, StartError
from minidocker.linux import syscalls, userns

Json = dict[str, Any]
T = TypeVar("T")

SINGLE_ID = (
    "this user has no subordinate ids (see subuid(5)), so a container has one user only: packages that add users, and "
    "images with files of several owners, will not work. As root: usermod --add-subuids 100000-165535 "
    "--add-subgids 100000-165535 {user}; and install uidmap"
)


class IdRange(NamedTuple):
    """Ids inside a user namespace and the ids of the host that they stand for."""

    inside: int
    outside: int
    length: int


def default_root() -> str:
    """Return where an ordinary user's images and containers are kept.

    See: the XDG Base Directory Specification, XDG_DATA_HOME.
    """
    return f"{os.environ.get('XDG_DATA_HOME') or os.path.expanduser('~/.local/share')}/minidocker"


def default_run() -> str:
    """Return where an ordinary user's run-time files are: XDG_RUNTIME_DIR, or a folder nobody else can write."""
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/tmp/minidocker-{os.getuid()}'}/minidocker"


def subordinate(path: str, user: str, uid: int) -> tuple[int, int]:
    """Return the first subordinate id of a user and how many there are; (0, 0) where there are none.

    See: subuid(5): `name-or-number:first:count`.
    """
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        for line in file:
            owner, _, numbers = line.strip().partition(":")
            first, _, count = numbers.partition(":")
            if owner in (user, str(uid)) and first.isdigit() and count.isdigit():
                return int(first), int(count)
    return 0, 0


def mapping(own: int, first: int, count: int) -> list[IdRange]:
    """Return the map of ids: the user is root inside, and the subordinate ids are 1, 2, 3, … Pure."""
    return [IdRange(0, own, 1), *([IdRange(1, first, count)] if count else [])]


def enter(run: str, say: Any) -> None:
    """Join the user's own user namespace, starting its holder where there is none. The caller has one thread.

    `say` is called with a line when something does not work as it does for root. Raises: StartError.
    """
    folder = f"{run}/rootless"
    os.makedirs(folder, 0o700, exist_ok=True)
    with records.locked(f"{folder}/lock"):
        pid = holder(run)
        if not pid:
            pid = _start_holder(folder, say)
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
    os.close(namespace)


def holder(run: str) -> int:
    """Return the process id of the holder, 0 where there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError), open(f"{run}/rootless/holder.json") as file:
        known = json.load(file)
        if records.start_time(known["pid"]) == known["start"]:
            return int(known["pid"])
    return 0


def _start_holder(folder: str, say: Any) -> int:
    """Start a holder, give it its ids and its network; return its process id."""
    from minidocker.container import launch

    connection, child = launch.spawn("rootless", "minidocker-holder")
    os.waitpid(child, 0)  # it forks once more
    frames = stream.receive(connection)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(connection.close)  # the holder ends with it, until it is told to go on alone
        kind, payload = next(frames, (stream.FAILED, b'{"error": "the holder of the user namespace died"}'))
        if kind == stream.FAILED:
            raise StartError(json.loads(payload)["error"])
        pid: int = json.loads(payload)["pid"]
        _map_ids(pid, say)
        connection.sendall(stream.pack(stream.GO))
        if next(frames, (stream.FAILED, b""))[0] != stream.STARTED:
            raise StartError("the holder of the user namespace died")
        start_slirp(folder, pid, connection, say)
        records.write_json(f"{folder}/holder.json", {"pid": pid, "start": records.start_time(pid)})
        connection.sendall(stream.pack(stream.STARTED))
    return pid


def _map_ids(pid: int, say: Any) -> None:
    """Say which of the host's ids the holder's namespace has: by the set-uid tools, which know what is the user's."""
    import pwd
    import shutil

    user = pwd.getpwuid(os.getuid()).pw_name
    uids = subordinate("/etc/subuid", user, os.getuid())
    gids = subordinate("/etc/subgid", user, os.getuid())
    if uids[1] and gids[1] and shutil.which("newuidmap") and shutil.which("newgidmap"):
        _run_tool(["newuidmap", str(pid), *_words(mapping(os.getuid(), *uids))])
        _run_tool(["newgidmap", str(pid), *_words(mapping(os.getgid(), *gids))])
        return
    say(SINGLE_ID.format(user=user))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {os.getuid()} 1"), ("gid_map", f"0 {os.getgid()} 1")):
        explain.step(f"write(/proc/{pid}/{name}, {text!r})", f"echo '{text}' > /proc/{pid}/{name}")
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def _words(ranges: list[IdRange]) -> list[str]:
    return [str(number) for each in ranges for number in each]


def _run_tool(command: list[str]) -> None:
    explain.step(f"posix_spawn({command[0]})", " ".join(command))
    child = os.posix_spawnp(command[0], command, os.environ)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise StartError(f"{' '.join(command)} failed: does /etc/subuid give this user those ids?")


def start_slirp(folder: str, pid: int, keep: socket.socket, say: Any) -> None:
    """Connect the holder's network namespace to the world; it ends with the holder.

    See: slirp4netns(1): --exit-fd, --ready-fd, --api-socket.
    """
    import shutil

    if not shutil.which("slirp4netns"):
        say("slirp4netns is missing, so containers have no network but --network none and host: install slirp4netns")
        return
    api = f"{folder}/slirp.sock"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(api)
    ready, ready_child = os.pipe()
    gone, gone_child = os.pipe()
    socket.send_fds(keep, [stream.pack(stream.CREATED)], [gone_child])  # closed when the holder ends
    os.close(gone_child)
    command = ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", f"--api-socket={api}"]
    command += ["--ready-fd=100", "--exit-fd=101", str(pid), "tap0"]
    explain.step("posix_spawn(slirp4netns)", " ".join(command))
    quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    actions = [(os.POSIX_SPAWN_DUP2, ready_child, 100), (os.POSIX_SPAWN_DUP2, gone, 101)]
    os.posix_spawnp(command[0], command, os.environ, file_actions=[*quiet, *actions], setsid=True)
    os.close(ready_child)
    os.close(gone)
    if os.read(ready, 1) != b"1":
        say("slirp4netns could not be started, so containers have no network but --network none and host")
    os.close(ready)


def main() -> None:
    """Hold a user namespace and a network namespace: the program of the holder."""
    from minidocker.container import network

    connection = socket.socket(fileno=os.dup(0))
    if os.fork():
        os._exit(0)
    os.setsid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        connection.sendall(stream.pack(stream.FAILED, json.dumps({"error": str(error)}).encode()))
        return
    connection.sendall(stream.pack(stream.CREATED, json.dumps({"pid": os.getpid()}).encode()))
    if not connection.recv(8):
        return
    syscalls.unshare(syscalls.CLONE_NEWNET)
    network.bring_up_loopback()
    connection.sendall(stream.pack(stream.STARTED))
    told = b""
    kept: list[int] = []  # the end of slirp4netns's pipe: it ends when we do
    while told[-8:-7] != bytes([stream.STARTED]):
        data, fds, _, _ = socket.recv_fds(connection, 64, 1)
        if not data:
            return
        told += data
        kept += fds
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection.close()
    while True:
        signal.pause()


def in_network(run: str, action: Callable[[], T]) -> T:
    """Do something in the network namespace that has the bridge: the host's for root, the holder's for others.

    A thread made for it goes there and ends, so that the caller stays where it is.

    Raises: NetworkError where there is no holder; what `action` raises.
    """
    if not userns.is_mapped():
        return action()
    import threading

    pid = holder(run)
    if not pid:
        raise NetworkError("the holder of this user's network is gone: try again")
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            os.close(namespace)
            outcome.append(action())
        except BaseException as error:  # noqa: BLE001, it is raised again, where the caller is
            failure.append(error)

    thread = threading.Thread(target=work, name="in-holders-network")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def forward(run: str, container_id: str, ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """Have the host's side of `ports` led into the holder's network; return the ports as they are there.

    For root there is nothing to do: the host's network is the bridge's.

    See: slirp4netns(1), API: add_hostfwd. Raises: NetworkError.
    """
    if not userns.is_mapped():
        return ports
    with open(f"{run}/network/forwards/{container_id}", "w") as note:
        for port in ports:
            here = {"host_addr": port.host_ip, "host_port": port.host_port, "guest_port": port.host_port}
            answer = _ask_slirp(run, {"execute": "add_hostfwd", "arguments": {"proto": port.protocol, **here}})
            if "error" in answer:
                reason = answer["error"].get("desc", "refused")
                raise NetworkError(f"Bind for {port.host_ip}:{port.host_port} failed: slirp4netns: {reason}")
            note.write(f"{answer['return']['id']}\n")
            note.flush()
    return tuple(port._replace(host_ip="0.0.0.0") for port in ports)  # noqa: S104, in the holder's network


def end_forwards(run: str, container_id: str) -> None:
    """End what `forward` began for a container; where there is nothing to end that is no error."""
    path = f"{run}/network/forwards/{container_id}"
    with contextlib.suppress(FileNotFoundError):
        with open(path) as note:
            numbers = note.read().split()
        os.unlink(path)
        for number in numbers:
            with contextlib.suppress(MinidockerError):
                _ask_slirp(run, {"execute": "remove_hostfwd", "arguments": {"id": int(number)}})


def _ask_slirp(run: str, question: Json) -> Json:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(f"{run}/rootless/slirp.sock")
        except OSError:
            raise NetworkError("slirp4netns does not run: install slirp4netns, or use --network none") from None
        connection.sendall(json.dumps(question).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    result: Json = json.loads(answer)
    return result


def end(run: str) -> None:
    """End the holder, and with it the network that it holds: for `system prune` and `make clean` when nothing runs."""
    pid = holder(run)
    if pid:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 2
        while records.start_time(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{run}/rootless/holder.json")
