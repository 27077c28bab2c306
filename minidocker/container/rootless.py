"""Without being root: an ordinary user's own user namespace, in which that user is root.

All of a user's commands work in one user namespace, so that each of them has power over what the others have made. A
small process, the holder, keeps it: it is started by the first command and does nothing but exist. Later commands join.

    RUN/rootless/holder.json    the holder's process id and start time, and the boot they belong to
    RUN/rootless/alive          a pipe that the holder keeps open: who reads from it learns of the holder's end
    RUN/rootless/lock           held while a holder is looked for, started or ended
    RUN/rootless/used           held by every command in the namespace: nobody ends the holder meanwhile
    RUN/rootless/said           what the user has been told already, and need not hear with every command

Inside, minidocker works as it does for root. The holder also has a network namespace, where the bridge is and the
firewall; slirp4netns, a user's process, carries what leaves it. Commands stay in the host's network themselves.

See: user_namespaces(7), newuidmap(1), subuid(5); docs/decisions/0007-rootless.md.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from minidocker import explain
from minidocker.container import files, records, stream
from minidocker.errors import NetworkError, StartError
from minidocker.linux import syscalls, userns

Json = dict[str, Any]
Say = Callable[[str], object]
T = TypeVar("T")

SINGLE_ID = (
    "{reason}, so a container has one user only: all its files are that user's, 'run --user' and packages that add "
    "users do not work. As root: apt-get install uidmap; usermod --add-subuids {ids} --add-subgids {ids} {user}"
)
NO_RUNTIME_DIR = (
    "XDG_RUNTIME_DIR is not set, as it is where one logs in: what ends with this boot is kept in {folder} instead"
)
THREADS = (
    "this program has threads, and a program with threads cannot enter a user namespace (setns(2)): "
    "start it inside, with 'minidocker unshare {program}', or be root"
)
# slirp4netns's network, and the name server there, which asks the host's. Its default, 10.0.2.0/24, is the network that
# qemu and VirtualBox give to their machines: to whom a machine has an address in it, it would send no answers. This one
# is kept for examples (RFC 5737).
NETWORK, NAME_SERVER = "198.51.100.0/24", "198.51.100.3"
_used: list[int] = []  # the descriptor of RUN/rootless/used, which this process holds to its end


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


def folders(root: str = "", run: str = "") -> tuple[str, str]:
    """Return an ordinary user's ROOT and RUN: those given, those that the environment names, or the usual ones."""
    root = root or os.environ.get("MINIDOCKER_ROOT") or default_root()
    run = run or os.environ.get("MINIDOCKER_RUN") or default_run()
    return os.path.abspath(root), os.path.abspath(run)


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


def enter(run: str, say: Say) -> None:
    """Join the user's own user namespace, starting its holder where there is none. The caller has one thread.

    `say` is called with a line when something does not work as it does for root. Raises: StartError.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise StartError(THREADS.format(program="python3 …"))
    folder = _own_folder(run)
    if not os.environ.get("XDG_RUNTIME_DIR") and run == default_run():
        say_once(run, NO_RUNTIME_DIR.format(folder=run), say)
    with files.locked(f"{folder}/lock"):
        pid = holder(run) or _start_holder(run, lambda line: say_once(run, line, say))
        from minidocker.container import slirp

        slirp.ensure(run, pid, lambda line: say_once(run, line, say))
        _used.append(os.open(f"{folder}/used", os.O_RDWR | os.O_CREAT, 0o600))
        fcntl.flock(_used[-1], fcntl.LOCK_SH)
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
    os.close(namespace)


def _own_folder(run: str) -> str:
    """Make the folder for what this module keeps, readable to nobody else.

    Raises: StartError where that is not possible, or the folder is somebody else's.
    """
    try:
        for path in (os.path.dirname(run), run, f"{run}/rootless"):
            if not os.path.isdir(path):
                os.makedirs(path, 0o700, exist_ok=True)
        owner = os.stat(f"{run}/rootless", follow_symlinks=False).st_uid
    except OSError as error:
        raise StartError(
            f"{run} cannot be made ({(error.strerror or 'failed').lower()}): XDG_RUNTIME_DIR has to name a folder of "
            f"user {os.getuid()}, as it does where one logs in; 'su' and 'sudo' keep that of somebody else"
        ) from None
    if owner != os.getuid():
        raise StartError(f"{run} belongs to user {owner}: set XDG_RUNTIME_DIR to a folder of your own")
    return f"{run}/rootless"


def stay_in_use() -> None:
    """Let the program that this process becomes keep the namespace in use, as this process does."""
    for descriptor in _used:
        os.set_inheritable(descriptor, True)


def say_once(run: str, line: str, say: Say) -> None:
    """Tell the user something, unless it was told since the machine has started."""
    note = f"{run}/rootless/said"
    with contextlib.suppress(FileNotFoundError), open(note) as file:
        if f"{line}\n" in file:
            return
    with open(note, "a") as file:
        file.write(f"{line}\n")
    say(line)


def is_kept(run: str) -> bool:
    """Say whether the containers of a run folder live in a namespace that a holder keeps."""
    return os.path.isdir(f"{run}/rootless")


def holder(run: str) -> int:
    """Return the process id of the holder, 0 where there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError), open(f"{run}/rootless/holder.json") as file:
        known = json.load(file)
        if known["boot"] == records.boot_id() and records.start_time(known["pid"]) == known["start"]:
            return int(known["pid"])
    return 0


def _start_holder(run: str, say: Say) -> int:
    """Start a holder and give it its ids; return its process id."""
    from minidocker.container import programs

    folder = f"{run}/rootless"
    with contextlib.suppress(FileExistsError):
        os.mkfifo(f"{folder}/alive", 0o600)
    ours, child = programs.spawn("rootless", "minidocker-holder")
    connection = socket.socket(fileno=ours.detach())
    os.waitpid(child, 0)  # it forks once more
    frames = stream.receive(connection)
    with contextlib.closing(connection):  # the holder ends with it, until it is told to go on alone
        connection.sendall(stream.pack(stream.BEGIN, json.dumps({"alive": f"{folder}/alive"}).encode()))
        pid: int = _answer(frames)["pid"]
        _map_ids(pid, say)
        connection.sendall(stream.pack(stream.GO))
        _answer(frames)
        note = {"pid": pid, "start": records.start_time(pid), "boot": records.boot_id()}
        files.write_json(f"{folder}/holder.json", note)
        connection.sendall(stream.pack(stream.STARTED))
        _answer(frames)
    return pid


def _answer(frames: Any) -> Json:
    """Return what the holder says next. Raises: StartError with what went wrong with it."""
    kind, payload = next(frames, (stream.FAILED, b'{"error": "the holder of the user namespace died"}'))
    message: Json = json.loads(payload)
    if kind == stream.FAILED:
        raise StartError(message["error"])
    return message


def _map_ids(pid: int, say: Say) -> None:
    """Say which of the host's ids the holder's namespace has: by the set-uid tools, which know what is the user's."""
    import pwd
    import shutil

    user = pwd.getpwuid(os.getuid()).pw_name
    uids = subordinate("/etc/subuid", user, os.getuid())
    gids = subordinate("/etc/subgid", user, os.getuid())
    tools = shutil.which("newuidmap") and shutil.which("newgidmap")
    if uids[1] and gids[1] and tools:
        _run_tool(["newuidmap", str(pid), *_words(mapping(os.getuid(), *uids))])
        _run_tool(["newgidmap", str(pid), *_words(mapping(os.getgid(), *gids))])
        return
    reason = "newuidmap is missing" if uids[1] and gids[1] else f"user {user} has no subordinate ids (subuid(5))"
    say(SINGLE_ID.format(reason=reason, user=user, ids="100000-165535"))
    userns.map_one(pid, os.getuid(), os.getgid())


def _words(ranges: list[IdRange]) -> list[str]:
    return [str(number) for each in ranges for number in each]


def _run_tool(command: list[str]) -> None:
    explain.step(f"posix_spawn({command[0]})", " ".join(command))
    child = os.posix_spawnp(command[0], command, os.environ)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise StartError(f"{' '.join(command)} failed: does /etc/{command[0][3:6]}id give this user those ids?")


def main() -> None:
    """Hold a user namespace and a network namespace: the program of the holder."""
    from minidocker.container import loopback

    connection = socket.socket(fileno=os.dup(0))
    if os.fork():
        os._exit(0)
    os.setsid()
    frames = stream.receive(connection)
    try:
        kept = os.open(json.loads(next(frames)[1])["alive"], os.O_RDWR | os.O_CLOEXEC)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        connection.sendall(stream.pack(stream.CREATED, json.dumps({"pid": os.getpid()}).encode()))
        if next(frames, None) is None:
            return
        syscalls.unshare(syscalls.CLONE_NEWNET)
        loopback.bring_up()
        connection.sendall(stream.pack(stream.CREATED, b"{}"))
    except OSError as error:
        reason = f"this user cannot have a user namespace: {error}; see 'minidocker doctor'"
        connection.sendall(stream.pack(stream.FAILED, json.dumps({"error": reason}).encode()))
        return
    if next(frames, None) is None:
        return
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection.sendall(stream.pack(stream.STARTED, b"{}"))
    connection.close()
    while kept:  # the pipe closes when this process ends, however it does
        signal.pause()


def watch(run: str) -> int:
    """Return a descriptor that becomes readable when the holder ends; -1 where nothing is held."""
    pid = holder(run) if is_kept(run) else 0
    return os.pidfd_open(pid) if pid else -1


def in_network(run: str, action: Callable[[], T]) -> T:
    """Do something in the network namespace that has the bridge: the host's for root, the holder's for others.

    A thread made for it goes there and ends, so that the caller stays where it is.

    Raises: NetworkError where there is no holder; what `action` raises.
    """
    if not is_kept(run):
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


def end(run: str) -> None:
    """End the holder, and with it its network, unless another command uses them. No container may be running."""
    pid = holder(run)
    if not pid:
        return
    with files.locked(f"{run}/rootless/lock"):
        try:
            for descriptor in _used or [os.open(f"{run}/rootless/used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)]:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 2
        while records.start_time(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.unlink(f"{run}/rootless/holder.json")
