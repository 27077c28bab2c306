"""Drive an interactive program as a person at a terminal does: type, wait for what the screen says, resize, leave.

The program gets a real pseudo-terminal as its controlling terminal, so job control, `vi` and `ctrl-p ctrl-q` behave as
they do under a hand. Used by the demo and by the tests.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self


class Terminal:
    """A program running on its own pseudo-terminal. Use as a context manager, so that nothing outlives the block."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        rows: int = 24,
        columns: int = 80,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        """Start `argv`; everything it prints is also handed to `echo`."""
        self.output = ""
        self._seen = 0
        self._echo = echo
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        environment = {**os.environ, "TERM": "xterm", **(env or {})}
        # setsid --ctty makes the terminal the controlling one of a new session and becomes the program.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv], stdin=slave, stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size; the kernel tells the foreground processes with SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text: str) -> None:
        """Type `text`; a line ends with "\\r" as the Enter key's does."""
        os.write(self.master, text.encode("utf-8", "surrogateescape"))

    def expect(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Wait until the regular expression `pattern` appears in what was printed since the last match.

        Raises TimeoutError that shows what was printed instead, also where the program ended without printing it.
        """
        deadline = time.monotonic() + timeout
        while True:
            match = re.compile(pattern).search(self.output, self._seen)
            if match:
                self._seen = match.end()
                return match
            if not self._read(deadline - time.monotonic()):
                raise TimeoutError(f"{pattern!r} did not appear; printed was {self.output[self._seen :]!r}")

    def wait(self, timeout: float = 20.0) -> int:
        """Read until the program ends and return its exit code, negative for a signal."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        """End the program as closing a terminal window does; kill it if it does not go."""
        os.close(self.master)
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read(self, timeout: float) -> bool:
        """Take in what the program prints next; False at its end or after `timeout` seconds."""
        if timeout <= 0 or not select.select([self.master], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the last process that had the terminal open has closed it
            return False
        text = data.decode("utf-8", "replace")
        self.output += text
        if self._echo:
            self._echo(text)
        return bool(data)
