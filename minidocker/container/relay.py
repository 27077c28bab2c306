"""What a shim does while its container runs: carry bytes between the process, its log and those who are attached.

One loop, one thread. A slow reader slows the container down, as a terminal would; one that is gone does not.
"""

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterable

from minidocker.container import stream
from minidocker.container.attach import SOCKET
from minidocker.container.logs import Log
from minidocker.container.namespaces import Streams

_CHUNK = 65536
_HIGH_WATER = 1024 * 1024  # bytes that may wait for a slow reader before the container has to wait, too
_LARGEST_PIPE = 1024 * 1024  # as large as an ordinary user can make one; see: pipe(7), pipe-max-size
_PATIENCE = 0.2  # seconds that a shim waits, at its end, for those who are slow to take the last of the output


class Client:
    """One who is attached: frames arrive from it, and bytes wait to be sent to it."""

    def __init__(self, connection: socket.socket, is_owner: bool) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.is_owner = is_owner
        self.frames = stream.Frames()
        self.waiting = bytearray()
        self.pauses = False

    def send(self) -> None:
        """Send what waits, as far as it goes without blocking.

        Raises: OSError when the other side is gone.
        """
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                del self.waiting[: self.connection.send(self.waiting[:_CHUNK])]


class Relay:
    """The loop. `streams` are the shim's ends: where input is written to, where output and errors are read from.

    `freeze` has the container's processes stand still, or go on.
    """

    def __init__(
        self, streams: Streams, freeze: Callable[[bool], None], log_path: str = "", stdin_once: bool = True
    ) -> None:
        self._freeze = freeze
        self._stdin = streams.stdin
        self._stdin_once = stdin_once
        self._terminal = streams.stdin == streams.stdout and streams.stdin >= 0
        self._outputs = {streams.stdout: stream.STDOUT}
        if streams.stderr >= 0:
            self._outputs[streams.stderr] = stream.STDERR
        self._log = Log(log_path) if log_path else None
        self._input = bytearray()
        self._input_ends = False
        self._tied = self._abandoned = False
        self._listener: socket.socket | None = None
        self._clients: dict[int, Client] = {}
        for fd in {streams.stdin, *self._outputs}:
            if fd >= 0:
                os.set_blocking(fd, False)

    def listen(self, folder: str) -> None:
        """Let others attach, at a socket in `folder`, which only we may enter.

        An abstract socket would have no folder: each container in the host's network could reach it (CVE-2020-15257).
        """
        # A socket's address has room for 107 bytes: bind by a relative name.
        os.chdir(folder)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(SOCKET)
        self._listener.listen(64)
        self._listener.setblocking(False)
        os.chdir("/")

    def adopt(self, connection: socket.socket, attach: bool, tied: bool = False) -> None:
        """Make the engine that started us the first who is attached, or let it go; `tied`, the process ends with it."""
        self._tied = tied
        if attach:
            self._clients[connection.fileno()] = Client(connection, is_owner=True)
        else:
            connection.close()

    def serve(self, pid: int, lifeline: int = -1) -> int:
        """Carry bytes until process `pid` has ended and its output is read; return its exit code, as a shell would.

        When `lifeline` becomes readable, something is gone that the process cannot be without, and it is killed.

        See: pidfd_open(2): the descriptor becomes readable when the process ends.
        """
        pidfd = os.pidfd_open(pid)
        ended = False
        while not ended:
            for fd, _ in self._poll(pidfd, lifeline):
                ended = ended or fd == pidfd
                if fd == lifeline:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    lifeline = -1
                self._handle(fd)
            if self._abandoned:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        self._drain()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status if status >= 0 else 128 - status

    def _poll(self, *others: int, timeout: float | None = None) -> list[tuple[int, int]]:
        """Wait for something to do; who is not asked for is not read, and waits."""
        poll = select.poll()
        for fd in others:
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        if self._listener:
            poll.register(self._listener, select.POLLIN)
        wanted: dict[int, int] = {}
        clients_keep_up = all(len(client.waiting) < _HIGH_WATER for client in self._clients.values())
        for fd in self._outputs:
            wanted[fd] = select.POLLIN if clients_keep_up else 0
        if self._input:
            wanted[self._stdin] = wanted.get(self._stdin, 0) | select.POLLOUT
        for fd, client in self._clients.items():
            wanted[fd] = select.POLLIN if len(self._input) < _HIGH_WATER else 0
            wanted[fd] |= select.POLLOUT if client.waiting else 0
        for fd, events in wanted.items():
            if events:
                poll.register(fd, events)
        return poll.poll(timeout)

    def _handle(self, fd: int) -> None:
        """Do what one ready descriptor asks for."""
        if self._listener and fd == self._listener.fileno():
            self._accept()
        elif fd in self._clients:
            self._serve_client(self._clients[fd])
        else:
            if fd == self._stdin and self._input:
                self._write_input()
            if fd in self._outputs:
                self._read_output(fd)

    def _accept(self) -> None:
        if self._listener:
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection, _ = self._listener.accept()
                    self._clients[connection.fileno()] = Client(connection, is_owner=False)

    def _read_output(self, fd: int) -> int:
        """Take output of the process to the log and to everyone attached; return how many bytes."""
        kind = self._outputs[fd]
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal's master says so when the last process has closed it
                raise
            data = b""
        if not data:
            del self._outputs[fd]
        if self._log:
            self._log.write("stderr" if kind == stream.STDERR else "stdout", data, last=not data)
        if data:
            frame = stream.pack(kind, data)
            for client in self._clients.values():
                client.waiting += frame
        return len(data)

    def _serve_client(self, client: Client) -> None:
        """Take what a client sends, then send what waits for it; forget it when it is gone.

        In this order: to send fails once it has left, and what it said before that is still to be read.
        """
        try:
            data = client.connection.recv(_CHUNK)
            for kind, payload in client.frames.feed(data):
                self._take(client, kind, payload)
            gone = not data
        except BlockingIOError:
            gone = False
        except (OSError, ValueError, TypeError, KeyError, struct.error):  # or it does not speak as we do
            gone = True
        try:
            client.send()
        except OSError:
            client.waiting.clear()  # nobody takes it; that the client is gone is heard when all it said is read
        if gone:
            del self._clients[client.connection.fileno()]
            client.connection.close()
            if client.pauses and not any(other.pauses for other in self._clients.values()):
                self._freeze(False)
            self._abandoned = self._tied and client.is_owner
            if client.is_owner and self._stdin_once:
                self._end_input()

    def _take(self, client: Client, kind: int, payload: bytes) -> None:
        """Do what a frame from a client asks for."""
        if kind == stream.STDIN and self._stdin >= 0:
            self._input += payload
            self._write_input()
        elif kind == stream.CLOSE_STDIN and self._stdin_once:
            self._end_input()
        elif kind == stream.RESIZE and self._terminal:
            size = json.loads(payload)
            window = struct.pack("HHHH", size["rows"], size["columns"], 0, 0)
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, window)
        elif kind == stream.PAUSE:
            client.pauses = True
            self._freeze(True)
            client.waiting += stream.pack(stream.PAUSED)

    def _write_input(self) -> None:
        """Give the process what was typed, as far as it takes it now."""
        try:
            while self._input:
                del self._input[: os.write(self._stdin, self._input[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:  # it does not read any more
            self._input.clear()
            self._input_ends = True
        if self._input_ends and not self._terminal:
            self._end_input()

    def _end_input(self) -> None:
        """Close the process's standard input once everything typed before was taken. A terminal stays."""
        self._input_ends = True
        if not self._input and not self._terminal and self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def _drain(self) -> None:
        """Read what a process that has ended left in its pipes.

        Others may still hold them: what they will write is not waited for, and they may write without end.
        """
        left = _LARGEST_PIPE * len(self._outputs)
        while self._outputs and left > 0:
            poll = select.poll()
            for fd in self._outputs:
                poll.register(fd, select.POLLIN)
            ready = poll.poll(0)
            if not ready:
                break
            for fd, _ in ready:
                left -= self._read_output(fd)
        if self._log:
            for source in ("stdout", "stderr"):
                self._log.write(source, b"", last=True)

    def say_goodbye(self, how: dict[str, object]) -> None:
        """Tell everyone attached how it ended, after the last of the output.

        Nobody has to wait for those who are slow to read, a pager say: a process of its own stays for them.
        """
        goodbye = stream.pack(stream.EXIT, json.dumps(how).encode())
        told: set[int] = set()
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            self._accept()
            for client in self._clients.values():
                if client.connection.fileno() not in told:
                    told.add(client.connection.fileno())
                    client.waiting += goodbye
            if not self._deliver(_PATIENCE):
                return
        if os.fork() == 0:
            _close_all_but(self._clients)
            while self._deliver(None):
                pass
            os._exit(0)

    def _deliver(self, timeout: float | None) -> bool:
        """Send what waits, let go of those who have it all or are gone, wait for the others; say if there are any."""
        poll = select.poll()
        for fd, client in list(self._clients.items()):
            with contextlib.suppress(OSError):
                client.send()
                if client.waiting:
                    poll.register(fd, select.POLLOUT)
                    continue
                client.connection.shutdown(socket.SHUT_WR)
            del self._clients[fd]
        if self._clients:
            poll.poll(None if timeout is None else timeout * 1000)
        return bool(self._clients)


def _close_all_but(wanted: Iterable[int]) -> None:
    """Close every descriptor but those: the container's ports among them, which are free now."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in wanted:
            with contextlib.suppress(OSError):  # the listing's own, closed since
                os.close(int(name))
