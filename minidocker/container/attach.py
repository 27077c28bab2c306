"""The other end of a shim's socket: what `attach`, `run` without `-d`, `exec` and `wait` hold."""

import json
import os
import socket
from collections.abc import Iterator

from minidocker.container import stream

SOCKET = "attach.sock"  # in the run-time folder of each container that runs


class Attachment:
    """A connection to a running process's input and output.

    After `frames` has ended, `exit_code` says how the process did; None means that the shim went away, or that we
    closed the connection, before the process ended.
    """

    def __init__(self, connection: socket.socket, terminal: bool, frames: stream.Frames | None = None) -> None:
        self.socket = connection
        self.terminal = terminal
        self.exit_code: int | None = None
        self._frames = frames or stream.Frames()
        self._arrived: list[tuple[int, bytes]] = []

    def push(self, frames: list[tuple[int, bytes]]) -> None:
        """Take frames that had arrived before this object was made."""
        self._arrived += frames

    def send_stdin(self, data: bytes) -> None:
        """Give the process input.

        Raises: OSError when the shim is gone.
        """
        self.socket.sendall(stream.pack(stream.STDIN, data))

    def close_stdin(self) -> None:
        """Tell the process that there is no more input; one that was started detached keeps it open for others."""
        self.socket.sendall(stream.pack(stream.CLOSE_STDIN))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the process's terminal how large its window is, in characters."""
        self.socket.sendall(stream.pack(stream.RESIZE, json.dumps({"rows": rows, "columns": columns}).encode()))

    def pause(self) -> None:
        """Have all that runs in the container stand still, from now on until `close` or the end of this process.

        Raises: OSError when the shim is gone.
        """
        self.socket.sendall(stream.pack(stream.PAUSE))
        for kind, _ in stream.receive(self.socket):
            if kind == stream.PAUSED:
                return

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield the output as it comes: (`stream.STDOUT` or `stream.STDERR`, bytes), until the process ends."""
        while True:
            while self._arrived:
                kind, payload = self._arrived.pop(0)
                if kind in (stream.STDOUT, stream.STDERR):
                    yield kind, payload
                elif kind == stream.EXIT:
                    self.exit_code = json.loads(payload)["exit_code"]
                    return
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return
            if not data:
                return
            self._arrived += self._frames.feed(data)

    def close(self) -> None:
        """Let go: the process runs on."""
        self.socket.close()


def connect_to_shim(folder: str) -> socket.socket:
    """Connect to the shim whose run-time folder this is.

    Raises: FileNotFoundError, ConnectionRefusedError when there is none any more.
    """
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection = socket.socket(socket.AF_UNIX)
        # By way of the open directory, for the same 107 bytes; this process's own working directory stays.
        connection.connect(f"/proc/self/fd/{directory}/{SOCKET}")
        return connection
    finally:
        os.close(directory)
