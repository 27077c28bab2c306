"""The process in which a learner's code runs, apart from whoever judges it.

It is a program of its own, and two processes: a keeper, which looks after what the learner's code starts and ends it
all, and below it the one that loads the cells and serves calls (see `minidocker.course.calls`). What the code prints
goes into a file that cannot grow without end. This keeps mistakes from the judge, and cheats honest; it is no prison.
"""

import contextlib
import linecache
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import IOBase
from types import ModuleType
from typing import Any, BinaryIO, NoReturn

from minidocker.course import children, values
from minidocker.course.calls import Gone, Peer, Remote
from minidocker.linux import syscalls

_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from minidocker.course import learner; learner.main()"
_LOAD, _HOLD, _RELEASE = range(3)  # the first objects that the learner's side gives
_MOST = ((resource.RLIMIT_FSIZE, 64 << 20), (resource.RLIMIT_AS, 4 << 30), (resource.RLIMIT_CORE, 0))
_SHOWN = 4000
NOT_ITS_OWN = "your code's process says that the function runs in a process which is none of its own"


class Learner:
    """The judge's side: a running process with a learner's code. Use it as a context manager."""

    def __init__(self, known: dict[str, Any]) -> None:
        """Start the process. `known` are the classes of the set-up cell, as the judge has them, by name."""
        ours, theirs = socket.socketpair()
        self._printed = self._open_printed()
        self._connection = ours
        self.peer = Peer(ours, known, open_hearted=False)
        self.peer.hold, self.peer.release = self._hold, self._release
        with theirs:
            self._begin(theirs)

    def _open_printed(self) -> BinaryIO:
        return tempfile.TemporaryFile()

    def _begin(self, theirs: socket.socket) -> None:
        """Start the process, with its end of the connection."""
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-u", "-c", _PROGRAM, package, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, cells: list[tuple[str, str]]) -> dict[str, Any]:
        """Run cells, each a name and its source; return what they define: values, and for the rest what calls it.

        Raises: what they raise; Gone.
        """
        found: dict[str, Any] = self.peer.call(_LOAD, cells)
        return found

    def _hold(self, function: Remote, args: Any, kwargs: Any, namespaces: Any, seconds: float) -> children.Held:
        """Run a function in a child of the learner's process: see `minidocker.course.children`."""
        held = children.Held(*self.peer.call(_HOLD, function, args, kwargs, namespaces, seconds))
        return held._replace(pid=self._found(held.pid))

    def _found(self, pid: int) -> int:
        """Return our number for a process that the learner's code speaks of. Raises: Gone for one not its own."""
        if not children.descends(pid, self._process.pid):
            raise Gone(NOT_ITS_OWN)
        return pid

    def _release(self, keeper: int) -> None:
        """End what `_hold` has started."""
        self.peer.call(_RELEASE, keeper)

    def allow(self, seconds: float) -> None:
        """Give the code so much time from now on, until it is given more."""
        self.peer.deadline = time.monotonic() + seconds

    def printed(self) -> str:
        """Return what the code has printed so far: the beginning of it, where it was much."""
        self._printed.seek(0)
        text = self._printed.read(_SHOWN + 1).decode(errors="replace")
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n… (and more)"

    def ending(self) -> str:
        """Say how the process has ended, after Gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1)
            return f"signal {code - 128}" if code > 128 else f"exit status {code}"
        return "it still runs"

    def close(self) -> None:
        """End the process and all that it has started."""
        self._connection.close()
        self._end()
        self._printed.close()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Be the keeper and, below it, the learner's process: what `Learner` starts."""
    number = int(sys.argv[2])
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    for kind, most in _MOST:
        resource.setrlimit(kind, (most, most))
    serve(socket.socket(fileno=number))


def serve(connection: socket.socket) -> NoReturn:
    """Be the keeper and, below it, the process that loads what the judge sends and answers its calls."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    folder = tempfile.mkdtemp(prefix="minidocker-exercise-")
    pid = os.fork()
    if pid:
        connection.close()
        status = children.keep(pid)
        children.remove_tree(folder)
        os._exit(status)
    os.chdir(folder)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_inheritable(connection.fileno(), False)
    module = ModuleType("exercise")
    sys.modules["exercise"] = module
    peer = Peer(connection, vars(module), open_hearted=True)
    for service in (lambda cells: _load(module, cells), children.hold, children.release):
        peer.give(service)
    try:
        peer.serve()
    except Gone:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    os._exit(0)


def _load(module: ModuleType, cells: list[tuple[str, str]]) -> dict[str, Any]:
    """Run cells in one module; return the names that the cells after the first have defined.

    A file or an iterator is left out: to hand it over would be to read it to its end.
    """
    before: dict[str, Any] = {}
    for number, (name, source) in enumerate(cells):
        if number == 1:
            before = dict(vars(module))
        file = values.compiled_as(name)
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(values.compiled(source, file), vars(module))  # noqa: S102, this process is for it
    defined = {name: thing for name, thing in vars(module).items() if not name.startswith("__")}
    return {
        name: thing
        for name, thing in defined.items()
        if (name not in before or before[name] is not thing) and not isinstance(thing, (ModuleType, IOBase, Iterator))
    }
