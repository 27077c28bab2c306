"""Where shims come from: a program of ours that has imported all that a shim needs, and forks for each.

An interpreter takes 30 ms until it can be a shim, a fork one. So the server of a process is started by its first
container, or before that, while the process itself still imports and looks for the image; it serves all containers that
the process starts, and ends with it. A command that starts one container has a server for as long as that takes.

It is not this process that forks: a notebook's kernel has threads, and a container's parent would have all of its
memory, and could be written to by a container that gets hold of /proc/PID/exe. See: `minidocker.container.programs`.
"""

import contextlib
import os
import socket
from typing import NamedTuple

from minidocker.container import programs

WIDTH = 28  # of a title
_TRIES = 2


class _Server(NamedTuple):
    """A running server: our end of its socket, its process id, whose it is, and how it was started."""

    connection: socket.socket
    pid: int
    owner: int
    command_line: list[str]


_server: _Server | None = None


def prepare() -> None:
    """Have a server that is as this process would start it now. Of two that two threads start at once, one ends."""
    global _server
    command_line = programs.command_line("shim", "minidocker-shim".ljust(WIDTH))
    if _server and (_server.owner, _server.command_line) == (os.getpid(), command_line):
        return
    end()
    connection, pid = programs.spawn("shim", command_line[-1], socket.SOCK_SEQPACKET)
    _server = _Server(connection, pid, os.getpid(), command_line)


def end() -> None:
    """Let go of a server, which ends then, or has."""
    global _server
    if _server:
        _server.connection.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(_server.pid, os.WNOHANG)
    _server = None


def new(title: str) -> socket.socket:
    """Return a connection to a new shim, which `ps` shows by its title."""
    ours, theirs = socket.socketpair()
    with theirs:
        for attempt in range(_TRIES):
            prepare()
            assert _server  # noqa: S101, we have just prepared it
            try:
                socket.send_fds(_server.connection, [title[:WIDTH].ljust(WIDTH).encode()], [theirs.fileno()])
                break
            except OSError:  # somebody has killed it
                end()
                if attempt == _TRIES - 1:
                    ours.close()
                    raise
    return ours
