"""A child in namespaces of its own, in which a function is run that changes the process it runs in.

    with child(enter_root, "/tmp/root", namespaces=("mnt", "pid")) as it:
        it.link("ns/mnt"); it.mounts(); it.listing("/"); it.result

The child is root of a user namespace that was made for it, so a wrong function hurts nobody and nobody has to be root.
When the function has returned or raised, the child is kept as it is until the block ends, so that the kernel can be
asked about it: what is told by /proc is true, whatever the function says.

See: user_namespaces(7), proc(5); prctl(2), PR_SET_CHILD_SUBREAPER.
"""

import contextlib
import json
import os
import re
import select
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from minidocker.course import values
from minidocker.course.values import Refused
from minidocker.linux import syscalls, userns

KINDS = {
    "mnt": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "net": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "user": syscalls.CLONE_NEWUSER,
}
SECONDS = 5.0  # that a function may take
NOT_IN_TIME = "the function did not return in time"
_MOST_READ = 1 << 20
_ENDING = 0.2  # seconds from the closing of its last descriptor to the end of a process, at most
_releases: dict[int, int] = {}  # of each keeper: the descriptor by which it is told to end


class Held(NamedTuple):
    """A child that is kept: its process, the keeper above it, and how the function ended, as JSON."""

    pid: int
    keeper: int
    outcome: str


class Mount(NamedTuple):
    """One line of a process's mountinfo. See: proc_pid_mountinfo(5)."""

    point: str
    root: str
    fstype: str
    source: str
    options: tuple[str, ...]
    propagation: tuple[str, ...]
    super_options: tuple[str, ...]


class Child:
    """What the kernel tells about a child that is kept. A path without a `/` at its beginning is one in /proc/PID."""

    def __init__(self, held: Held, unpack: Callable[[Any], Any]) -> None:
        self.pid = held.pid
        self._outcome = held.outcome
        self._unpack = unpack

    @property
    def result(self) -> Any:
        """Return what the function returned. Raises: what it raised."""
        kind, data = json.loads(self._outcome)
        value = self._unpack(data)
        if kind == "raise":
            raise value
        return value

    def link(self, path: str) -> str:
        """Return where a link leads: `ns/mnt`, `root`, `cwd`, `fd/0`; or one in its root: `/etc/mtab`."""
        if not path.startswith("/"):
            return os.readlink(f"/proc/{self.pid}/{path}")
        with self._opened(path, os.O_PATH | os.O_NOFOLLOW) as fd:
            return os.readlink("", dir_fd=fd)

    def read(self, path: str) -> str:
        """Return what a file holds: `uid_map`, `cgroup`; or one as the child sees it: `/etc/hostname`."""
        if not path.startswith("/"):
            with open(f"/proc/{self.pid}/{path}", errors="replace") as file:
                return file.read(_MOST_READ)
        with self._opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
            return os.read(fd, _MOST_READ).decode(errors="replace")

    def listing(self, path: str) -> list[str]:
        """Return the names in a folder, sorted: `/` and what is below it as the child sees it, or `fd`."""
        if not path.startswith("/"):
            return sorted(os.listdir(f"/proc/{self.pid}/{path}"))
        with self._opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            return sorted(os.listdir(fd))

    def status(self) -> dict[str, str]:
        """Return /proc/PID/status: `NSpid`, `CapEff`, `Uid` …, each a text."""
        pairs = [line.split(":", 1) for line in self.read("status").splitlines() if ":" in line]
        return {name: text.strip() for name, text in pairs}

    def mounts(self) -> list[Mount]:
        """Return what is mounted in the child's mount namespace, as far as its root sees it."""
        return [_mount(line) for line in self.read("mountinfo").splitlines()]

    def children(self) -> list[int]:
        """Return the process ids of the child's own children, zombies among them."""
        return children_of(self.pid)

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        """Open a path in the child's root, out of which no link leads."""
        root = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = syscalls.openat2(root, path, flags, resolve=syscalls.RESOLVE_IN_ROOT)
        finally:
            os.close(root)
        try:
            yield fd
        finally:
            os.close(fd)


def _mount(line: str) -> Mount:
    words = [re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), word) for word in line.split(" ")]
    dash = words.index("-", 6)
    return Mount(
        words[4],
        words[3],
        words[dash + 1],
        words[dash + 2],
        tuple(words[5].split(",")),
        tuple(words[6:dash]),
        tuple(words[dash + 3].split(",")),
    )


@contextlib.contextmanager
def child(
    function: Any, *args: Any, namespaces: tuple[str, ...] = (), seconds: float = SECONDS, **kwargs: Any
) -> Iterator[Child]:
    """Run `function` in a child with these namespaces, and a user namespace, of its own; keep it until the block ends.

    A learner's function that stays in another process is run in a child of that. Raises: OSError where there can be no
    such child; ValueError for a namespace that does not exist.
    """
    unknown = [kind for kind in namespaces if kind not in KINDS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no kind of namespace: {', '.join(KINDS)}")
    peer = getattr(function, "_peer", None)
    if peer is None:
        held = Held(*hold(function, args, kwargs, namespaces, seconds))
        ending: Callable[[int], None] = release

        def unpack(data: Any) -> Any:
            return values.unpack(data, {}, _refuse)
    else:
        held = peer.hold(function, args, kwargs, namespaces, seconds)
        ending, unpack = peer.release, peer.unpack
    try:
        yield Child(held, unpack)
    finally:
        ending(held.keeper)


def hold(function: Any, args: Any, kwargs: Any, namespaces: Any, seconds: float) -> tuple[int, int, str]:
    """Start a keeper and below it the child; return a Held's fields once the function has ended or time is up.

    Raises: OSError where namespaces cannot be made here.
    """
    flags = syscalls.CLONE_NEWUSER
    for kind in namespaces:
        flags |= KINDS[kind]
    told, tell = os.pipe()
    end, release_it = os.pipe()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads: a kernel has some
        keeper = os.fork()
    if keeper == 0:
        with contextlib.suppress(BaseException):
            os.close(told)
            os.close(release_it)
            _be_keeper(function, args, kwargs, flags, tell, end)
        os._exit(1)
    os.close(tell)
    os.close(end)
    _releases[keeper] = release_it
    try:
        deadline = time.monotonic() + seconds
        kind, data = _frame(told, deadline, -1)
        if kind != "pid":
            release(keeper)
            raise values.unpack(data, {}, _refuse)
        pidfd = os.pidfd_open(data)
        try:
            return data, keeper, json.dumps(_frame(told, deadline, pidfd))
        finally:
            os.close(pidfd)
    finally:
        os.close(told)


def release(keeper: int) -> None:
    """End a child that `hold` has started, with everything that it has left behind."""
    end = _releases.pop(keeper)
    with contextlib.suppress(OSError):
        os.write(end, b"x")
    os.close(end)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(keeper, 0)


def _be_keeper(function: Any, args: Any, kwargs: Any, flags: int, tell: int, end: int) -> None:
    """Start the child, give it its ids, and end it and what it leaves behind when we are told to."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    mapped, map_it = os.pipe()
    try:
        pid = syscalls.clone(flags)
    except OSError as error:
        _say(tell, "raise", {"error": values.pack_error(error)})
        return
    if pid == 0:
        os.close(end)
        os.close(map_it)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.read(mapped, 1)
        os.close(mapped)
        _run(function, args, kwargs, tell)
    os.close(mapped)
    _say(tell, "pid", pid)
    os.close(tell)
    map_ids(pid)
    os.close(map_it)
    os.read(end, 1)
    end_descendants()
    os._exit(0)


def map_ids(pid: int) -> None:
    """Give the child every id that there is here, each as itself; where that is not allowed, us as its root."""
    try:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/self/{name}") as file:
                ranges = [line.split() for line in file]
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write("".join(f"{inside} {inside} {count}\n" for inside, _, count in ranges))
    except PermissionError:
        userns.map_one(pid, os.geteuid(), os.getegid())


def _run(function: Any, args: Any, kwargs: Any, tell: int) -> NoReturn:
    """In the child: run the function, tell how it ended, and stay."""
    try:
        outcome = "return", values.pack(function(*args, **kwargs), _refuse)
    except BaseException as error:  # noqa: BLE001, whatever it is, it is the answer
        outcome = "raise", {"error": values.pack_error(error)}
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    _say(tell, *outcome)
    while True:
        signal.pause()


def _refuse(thing: Any) -> Any:
    raise Refused(f"a {type(thing).__name__} cannot leave the child that it was made in")


def _say(tell: int, kind: str, data: Any) -> None:
    text = json.dumps([kind, data]).encode()
    text = struct.pack(">I", len(text)) + text
    while text:
        text = text[os.write(tell, text) :]


def _frame(told: int, deadline: float, pidfd: int) -> Any:
    """Return what the keeper or the child says; an exception in its place where it ends, or when time is up."""
    data = b""
    poll = select.poll()
    poll.register(told, select.POLLIN)
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    while missing := (4 if len(data) < 4 else 4 + struct.unpack(">I", data[:4])[0]) - len(data):
        ready = dict(poll.poll(max(0, (deadline - time.monotonic()) * 1000)))
        if not ready:
            return _failed(TimeoutError(NOT_IN_TIME))
        piece = os.read(told, missing) if told in ready else b""  # and not of the frame after this one
        if not piece:
            ended = pidfd < 0 or bool(select.select([pidfd], [], [], _ENDING)[0])
            return _failed(ChildProcessError("the function ended its process")) if ended else ["return", None]
        data += piece
    return json.loads(data[4:])


def _failed(error: Exception) -> Any:
    return ["raise", {"error": values.pack_error(error)}]


def keep(pid: int) -> int:
    """Wait for a child to end, or for SIGTERM, then end everything below this process; return how the child did.

    The caller has blocked SIGTERM and SIGCHLD, and is a subreaper.
    """
    status = None
    while status is None:
        if signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGTERM:
            status = 128 + signal.SIGTERM
        while True:
            try:
                ended, how = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if ended == 0:
                break
            if ended == pid:
                code = os.waitstatus_to_exitcode(how)
                status = code if code >= 0 else 128 - code
    end_descendants()
    return status


def remove_tree(path: str) -> None:
    """Remove a folder and what is in it, unless something is mounted there: that is not ours to remove."""
    import shutil

    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        mounted = any(f" {path}/" in line or f" {path} " in line for line in file)
    if not mounted:
        shutil.rmtree(path, ignore_errors=True)


def end_descendants() -> None:
    """Kill every child of this process and wait for it, until there is none: as a subreaper, we get those of theirs."""
    while found := children_of(os.getpid()):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def children_of(parent: int) -> list[int]:
    """Return the process ids of a process's children, zombies among them."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(int(name)) == parent]


def descends(pid: int, ancestor: int) -> bool:
    """Say whether a process is a child of another, or a child of its children, and so on."""
    while pid > 1:
        pid = _parent(pid)
        if pid == ancestor:
            return True
    return False


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0
