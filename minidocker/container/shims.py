"""Where shims come from, and views: a program of ours that has imported all that they need, and forks for each.

An interpreter takes 30 ms until it can be a shim, a fork one. So the server of a process is started by its first
container, or before that, while the process itself still imports and looks for the image; it serves all containers that
the process starts, and ends with it. A command that starts one container has a server for as long as that takes.

It is not this process that forks: a notebook's kernel has threads, and a container's parent would have all of its
memory, and could be written to by a container that gets hold of /proc/PID/exe. See: `minidocker.container.programs`.
"""

import _socket
import os

from minidocker.container import programs

TYPE_CHECKING = False  # see `minidocker.explain`

if TYPE_CHECKING:
    import socket

WIDTH = 28  # of a title


class _Server:
    """A running server: our end of its socket, its process id, whose it is, and how it was started."""

    def __init__(self, command_line: list[str]) -> None:
        self.command_line = command_line
        self.owner = os.getpid()
        self.connection, self.pid = programs.spawn("shim", command_line[-1], _socket.SOCK_SEQPACKET)


_server: _Server | None = None


def prepare() -> _Server:
    """Have a server that is as this process would start it now. Of two that two threads start at once, one stays."""
    global _server
    command_line = programs.command_line("shim", "minidocker-shim".ljust(WIDTH))
    if not _server or (_server.owner, _server.command_line) != (os.getpid(), command_line):
        end()
        _server = _Server(command_line)
    return _server


def end() -> None:
    """Let go of the server, which ends then, or has."""
    global _server
    if _server:
        _server.connection.close()
        if _server.owner == os.getpid():
            try:
                os.waitpid(_server.pid, os.WNOHANG)
            except ChildProcessError:
                pass
    _server = None


def new(title: str) -> "socket.socket":
    """Return a connection to a new shim, or by that title to a view; `ps` shows the title."""
    import socket

    ours, theirs = socket.socketpair()
    message = title[:WIDTH].ljust(WIDTH).encode()
    with theirs:
        try:
            socket.send_fds(prepare().connection, [message], [theirs.fileno()])  # type: ignore[arg-type]
        except OSError:  # somebody has killed the server
            end()
            socket.send_fds(prepare().connection, [message], [theirs.fileno()])  # type: ignore[arg-type]
    return ours
