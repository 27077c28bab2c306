"""With whom a shim speaks while it starts a container: with the engine, and with what becomes the container."""

import contextlib
import json
import os
import select
import socket
from typing import Any, NoReturn

from minidocker.container import namespaces, stream
from minidocker.errors import MinidockerError, StartError

Json = dict[str, Any]

INTERRUPTED = "the command that was starting the container was interrupted"
_LONGEST = 4000  # characters of a text that the child reports: one message has to hold it


class Control:
    """The socket to the engine that started us, until the program runs."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._frames = stream.Frames()
        self._waiting: list[tuple[int, bytes]] = []
        self.descriptors: list[int] = []

    def send(self, kind: int, message: Any = None) -> None:
        """Send one frame; a listener that is gone, or was let go, is noticed when we next receive."""
        with contextlib.suppress(OSError):
            self.connection.sendall(stream.pack(kind, json.dumps(message).encode()))

    def expect(self, kind: int) -> Json:
        """Wait for a frame of this kind.

        Raises: StartError when the engine goes away, or gives up, before the program runs: nothing may run unseen.
        """
        while not self._waiting:
            data, fds, _, _ = socket.recv_fds(self.connection, 65536, stream.MOST_DESCRIPTORS)
            self.descriptors += fds
            if not data:
                raise StartError(INTERRUPTED)
            self._waiting += self._frames.feed(data)
        arrived, payload = self._waiting.pop(0)
        if arrived != kind:
            raise StartError(f"expected frame {kind} from the engine and got {arrived}")
        message: Json = json.loads(payload)
        return message


class Child:
    """The shim's side of the pair of sockets between it and the process that is becoming the container."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def parent(self) -> namespaces.Parent:
        """Return what the child may do with its end."""
        self.ours.close()
        return namespaces.Parent(self._give_terminal, self._wait_mapped, self._wait_limited, self._wait_ready)

    def _give_terminal(self, master: int) -> None:
        socket.send_fds(self.theirs, [b"terminal"], [master])

    def _wait(self) -> None:
        if not self.theirs.recv(16):
            os._exit(1)  # the shim is gone

    def _wait_mapped(self) -> None:
        self.theirs.send(b"nobody")
        self._wait()

    def _wait_limited(self) -> None:
        self.theirs.send(b"apart")
        self._wait()

    def _wait_ready(self) -> None:
        self.theirs.send(b"ready")
        self._wait()

    def tell_step(self, kernel: str, shell: str) -> None:
        """Pass on one step of `--explain`, unless a seccomp filter does not allow it any more."""
        with contextlib.suppress(PermissionError):
            self.theirs.send(b"step" + json.dumps([kernel[:_LONGEST], shell[:_LONGEST]]).encode())

    def fail(self, error: BaseException) -> NoReturn:
        """Report why the container cannot be, and end: called in the child."""
        code = error.exit_code if isinstance(error, StartError) else 125
        known = isinstance(error, (MinidockerError, OSError))
        text = str(error) if known else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            self.theirs.send(b"error" + json.dumps([text[:_LONGEST], code]).encode())
        os._exit(1)

    def listen(self, control: Control, until: bytes) -> int:
        """Handle what the child sends until it says `until`; return the terminal's master if it sent one, else -1.

        It says nothing more (`b""`) when it has become the program: the socket closes on exec.

        Raises: StartError with what the child reported, or when the engine went away; ChildProcessError when the child
        died without a word.
        """
        terminal = -1
        poll = select.poll()
        poll.register(self.ours, select.POLLIN)
        poll.register(control.connection, select.POLLRDHUP)
        while True:
            if self.ours.fileno() not in dict(poll.poll()):
                raise StartError(INTERRUPTED)
            message, fds, _, _ = socket.recv_fds(self.ours, 65536, 1)
            if message.startswith(b"step"):
                control.connection.sendall(stream.pack(stream.EXPLAIN, message[4:]))
            elif message.startswith(b"terminal"):
                terminal = fds[0]
            elif message.startswith(b"error"):
                text, code = json.loads(message[5:])
                raise StartError(text, code)
            elif message == until:
                return terminal
            else:
                raise ChildProcessError("the container's process died before it could begin")

    def proceed(self) -> None:
        """Let the child go on from where it waits."""
        self.ours.send(b"go")
