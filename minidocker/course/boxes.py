"""Boxes made in a moment: a process that has everything imported forks one for each submission.

It knows no test and no other submission: it is forked off before its judge has got any, and is told nothing but what
learners can read. Nor does it ever run a learner's code: its children do, each in a box (see `sandbox.confine`).

    judge → maker    {"import": source} | {"box": namespaces}, with two descriptors | {"end": true}
    maker → judge    {} | {"pid": number} | {"status": how it ended} | {"trouble": text}

See: unix(7), SOCK_SEQPACKET, SCM_RIGHTS.
"""

import ast
import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any, BinaryIO, NamedTuple, NoReturn

from minidocker.course import children, learner, sandbox, values
from minidocker.course.calls import Gone, Trouble
from minidocker.course.learner import Learner
from minidocker.linux import syscalls

Json = dict[str, Any]
_MOST = 1 << 20  # bytes of a message
_PATIENCE = 30.0  # seconds for the maker to answer


class Room(NamedTuple):
    """What a judge has at hand: the maker of boxes, the folder for what is printed, and the count of kills.

    `kills` is a descriptor of the file in which the kernel counts what it killed for want of memory; -1 for none.
    """

    maker: "Maker"
    printing: int
    limits: sandbox.Limits
    kills: int


class Maker:
    """The judge's side of the process that makes boxes."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._connection.settimeout(_PATIENCE)

    def ask(self, request: Json, descriptors: tuple[int, ...] = ()) -> Json:
        """Send a request and return the answer. Raises: Trouble."""
        try:
            socket.send_fds(self._connection, [json.dumps(request).encode()], list(descriptors))
            data = self._connection.recv(_MOST)
        except OSError as error:
            raise Trouble(f"the process that makes boxes does not answer: {error}") from None
        if not data:
            raise Trouble("the process that makes boxes has ended")
        answer: Json = json.loads(data)
        if "trouble" in answer:
            raise Trouble(f"the box could not be made: {answer['trouble']}")
        return answer


class Boxed(Learner):
    """The judge's side of a learner's process in a box."""

    def __init__(self, known: Json, room: Room, namespaces: bool) -> None:
        """Start it. `namespaces`: whether its tests run functions in namespaces of their own. Raises: Trouble."""
        self._room = room
        self._namespaces = namespaces
        self._killed = _kills(room.kills)
        self._status: int | None = None
        super().__init__(known)

    def _open_printed(self) -> BinaryIO:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._room.printing)
        return os.fdopen(fd, "w+b")

    def _begin(self, theirs: socket.socket) -> None:
        descriptors = theirs.fileno(), self._printed.fileno()
        self._pid = self._room.maker.ask({"box": self._namespaces}, descriptors)["pid"]
        self._pidfd = os.pidfd_open(self._pid)

    def _found(self, pid: int) -> int:
        for name in os.listdir("/proc"):
            if name.isdigit() and _numbers(name)[1:2] == [pid] and children.descends(int(name), self._pid):
                return int(name)
        raise Gone(learner.NOT_ITS_OWN)

    def ending(self) -> str:
        """Say how the process has ended, after Gone."""
        if not select.select([self._pidfd], [], [], 1)[0]:
            return "it still runs"
        self._end()
        if _kills(self._room.kills) > self._killed:
            return f"the kernel has ended it: it used more than {self._room.limits.memory >> 20} MiB of memory"
        code = self._status or 0
        return f"signal {code - 128}" if code > 128 else f"exit status {code}"

    def _end(self) -> None:
        if self._status is None:
            self._status = int(self._room.maker.ask({"end": True})["status"])
            os.close(self._pidfd)


def _numbers(pid: str) -> list[int]:
    """Return a process's number here, and in each pid namespace below. See: proc_pid_status(5), NSpid."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("NSpid:"):
                return list(map(int, line.split()[1:]))
    return []


def _kills(fd: int) -> int:
    """Return how many processes the kernel has killed for want of memory, of those that are counted in a file."""
    if fd < 0:
        return 0
    for line in os.pread(fd, 4096, 0).decode().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


def make(connection: socket.socket, limits: sandbox.Limits, programs: tuple[bytes, bytes]) -> NoReturn:
    """Make boxes until the judge has gone. `programs` are the filters: without namespaces, and with them."""
    import gc

    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    box = 0
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, _MOST, 2)
        if not data:
            os._exit(0)
        request = json.loads(data)
        answer: Json = {}
        if "import" in request:
            _import(request["import"])
            gc.collect()
            gc.freeze()  # what is here is here to stay: no child's collector need look at it, and copy its pages
        elif "end" in request:
            answer = {"status": _end(box)}
        else:
            answer = _make(descriptors, limits, programs[request["box"]])
            box = answer.get("pid", 0)
        for fd in descriptors:
            os.close(fd)
        connection.sendall(json.dumps(answer).encode())


def _import(source: str) -> None:
    """Import what a set-up imports, and compile it, so that no box has to. What is wrong is the set-up's to tell."""
    try:
        values.compiled(source, values.compiled_as("setup"))
        nodes = ast.parse(source).body
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            with contextlib.suppress(Exception):
                exec(compile(ast.unparse(node), "<setup>", "exec"), {})  # noqa: S102, it is the course's own


def _end(box: int) -> int:
    """Kill a box, unless it has ended, with all that is in it; return how its first process ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(box, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(box, 0)[1])
    return code if code >= 0 else 128 - code


def _make(descriptors: list[int], limits: sandbox.Limits, program: bytes) -> Json:
    """Fork a box; return its number once it has said itself that it is one."""
    told, tell = os.pipe()
    mapped, map_it = os.pipe()
    pid = 0
    try:
        pid = syscalls.clone(sandbox.BOX)
        if pid == 0:
            os.close(map_it)
            _be_boxed(descriptors, limits, program, tell, mapped)
        os.close(tell)
        tell = -1
        children.map_ids(pid)
        os.write(map_it, b"x")
        said = _read(told)
    except OSError as error:
        said = str(error)
    finally:
        for fd in (told, mapped, map_it, tell):
            if fd >= 0:
                os.close(fd)
    if said == "ready":
        return {"pid": pid}
    if pid:
        _end(pid)
    return {"trouble": said or "it has ended before it was one"}


def _read(told: int) -> str:
    """Return all that a box says, which is at most some lines. A box that takes too long has said nothing."""
    deadline = time.monotonic() + _PATIENCE / 2
    data = b""
    while select.select([told], [], [], max(0, deadline - time.monotonic()))[0]:
        piece = os.read(told, 4096)
        if not piece:
            return data.decode(errors="replace")
        data += piece
    return ""


def _be_boxed(descriptors: list[int], limits: sandbox.Limits, program: bytes, tell: int, mapped: int) -> NoReturn:
    """In the child: become a box, say so, and be the learner's process; or say what is wrong and end."""
    try:
        if not os.read(mapped, 1):
            raise OSError("its ids could not be mapped")
        theirs, printed = descriptors
        null = os.open("/dev/null", os.O_RDONLY)
        _arrange((null, printed, printed, theirs, tell))
        tell = 4
        sandbox.confine(limits, program)
    except BaseException as error:  # noqa: BLE001, whatever it is, there is no box
        with contextlib.suppress(OSError):
            os.write(tell, f"{type(error).__name__}: {error}"[:4000].encode())
        os._exit(1)
    os.write(4, b"ready")
    os.close(4)
    learner.serve(socket.socket(fileno=3))


def _arrange(descriptors: tuple[int, ...]) -> None:
    """Make these the first descriptors of this process, and close every other one."""
    high = [os.dup2(fd, 100 + number) for number, fd in enumerate(descriptors)]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number < 3)
    os.closerange(len(descriptors), 1 << 20)
