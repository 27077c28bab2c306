"""How a shim and those who talk to it speak: frames on a Unix socket.

A frame is an 8-byte header, the kind in the first byte and the payload's length in the last four, big endian, and the
payload. Kinds 0 to 2 are those of docker's attach stream; the others are ours.

See: docker's Engine API, "Attach to a container", Stream format.
"""

import socket
import struct
from collections.abc import Iterator

STDIN = 0
STDOUT = 1
STDERR = 2
RESIZE = 3  # {"rows": n, "columns": n}, to the shim
EXIT = 4  # {"exit_code": n, …}, from the shim: the process has ended and all its output was sent before
CLOSE_STDIN = 5  # to the shim: there is no more input
EXPLAIN = 6  # [kernel, shell], from the shim: a step that was taken
BEGIN = 7  # to a new shim: what to run
CREATED = 8  # {"pid": n}, from the shim: the namespaces exist; the network may be made
GO = 9  # {"address": …}, to the shim: all is set up outside; run the program
STARTED = 10  # from the shim: the program runs
FAILED = 11  # {"error": …, "exit_code": n}, from the shim: it does not, and everything was undone
PAUSE = 12  # to the shim: the container's processes are to stand still for as long as this connection stays
PAUSED = 13  # from the shim: they do

_HEADER = struct.Struct(">B3xI")
LARGEST = 16 * 1024 * 1024
MOST_DESCRIPTORS = 253  # that one message can carry; see: unix(7), SCM_RIGHTS


def pack(kind: int, payload: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    return _HEADER.pack(kind, len(payload)) + payload


class Frames:
    """The frames in a stream of bytes that arrives in pieces."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Add `data`; yield each frame that is now whole, as (kind, payload).

        Raises: ValueError for a frame longer than anything we send.
        """
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending)
            if length > LARGEST:
                raise ValueError(f"a frame of {length} bytes, where {LARGEST} are the most")
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            yield kind, payload


def receive(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield frames until the other side closes."""
    frames = Frames()
    while data := connection.recv(65536):
        yield from frames.feed(data)
