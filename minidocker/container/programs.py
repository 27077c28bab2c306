"""The engine's own programs, a container's shim for one: each a fresh interpreter that runs `main` of a module here."""

import _socket
import os
import sys

from minidocker import explain, standins
from minidocker.linux import interpreter

# -I and -S: neither the user's environment nor site-packages; our programs need only this package and the library.
# While it imports there is no garbage to be found, and what it has then stays: to look through it took 5 ms in all, and
# each process that forked from it a copy of what was looked at. For the same reason nothing is taken apart at the end.
_PROGRAM = (
    "import gc, os, sys; gc.disable(); sys.path.append(sys.argv[1]); {1}from minidocker.container import {0}; "
    "gc.freeze(); gc.enable(); {0}.main(); os._exit(0)"
)


def command_line(module: str, title: str) -> list[str]:
    """Return the arguments of such a program; the last is what `ps` shows of it."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    text = _PROGRAM.format(module, standins.LOAD if standins.files else "")
    return [sys.executable, "-I", "-S", "-c", text, package, *standins.files, title]


def spawn(module: str, title: str, kind: int = _socket.SOCK_STREAM) -> tuple[_socket.socket, int]:
    """Start `main` of a module of this package as a program of its own; return our end of its socket, and its id.

    The other end is its standard input. (`_socket` is the part of `socket` that is in C: a command's first steps do
    without the rest, see docs/decisions/0002-start-up.md.) posix_spawn(3) forks and executes in one step, without
    running any of this process's code in between: safe whatever other threads do. What is executed cannot be written to
    by what it becomes, nor by whoever gets to see that process (the class of CVE-2019-5736).
    """
    program = interpreter.sealed(sys.executable)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind)
    quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_WRONLY, 0) for fd in (1, 2)]
    if os.environ.get("MINIDOCKER_DEBUG"):
        quiet = []
    explain.step(f"posix_spawn({sys.executable}, minidocker.container.{module})", f"setsid python3 {module}.py &")
    try:
        pid = os.posix_spawn(
            f"/proc/self/fd/{program}",
            command_line(module, title),
            {"PATH": os.environ.get("PATH", os.defpath)},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), *quiet],
            setsid=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(program)
    return ours, pid
