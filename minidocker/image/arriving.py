"""A blob that is read while it is still on its way, so that a layer is unpacked while it is downloaded."""

import os
import threading
from collections.abc import Callable

from minidocker.errors import UnsafeLayer

_LOOK = 0.01  # seconds after which is looked again for more


class Arriving:
    """A download's file for whoever unpacks it: `read` waits for what is to come, `wait` for the verified end.

    What is read is not verified yet. Should the download begin anew under way, what was read is of no use: its end, or
    the digest of what is in it, will be wrong.
    """

    def __init__(self, size: int, ended: threading.Event, wait: Callable[[], None]) -> None:
        """Begin with nothing. `ended` is set when the download has ended, and `wait` raises what it has failed with."""
        self.size = size
        self.wait = wait
        self._ended = ended
        self._begun = threading.Event()
        self._closed = False
        self._file = -1

    def begin(self, file: int) -> None:
        """Open the file that is written to by this descriptor; called by the download, at each attempt.

        Opened anew: a duplicate would share the position, and keep the download's lock when it has let go of it.
        """
        if self._file < 0 and not self._closed:
            self._file = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
            self._begun.set()

    @property
    def ended(self) -> bool:
        """Whether there is no more to come."""
        return self._ended.is_set()

    def begun(self) -> bool:
        """Wait until there is something to be read; False where the download ends without."""
        while not self._begun.wait(_LOOK) and not self.ended:
            pass
        return self._begun.is_set()

    def read(self, size: int) -> bytes:
        """Return the next bytes, as soon as there are any; none after the last of them."""
        while not self._closed:
            ended = self.ended  # asked before: what comes until then is not missed
            if data := os.read(self._file, size):
                return data
            if ended:
                return b""
            self._ended.wait(_LOOK)
        raise UnsafeLayer("given up: what unpacks the layer has ended")

    def fileno(self) -> int:
        """Return the descriptor, whose position is how much has been read."""
        return self._file

    def close(self) -> None:
        """Read no more; who waits in `read` is let go."""
        self._closed = True

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)
