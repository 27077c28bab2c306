"""A container's log: how its shim writes it, and how `logs` reads all of it or its end, and what is added meanwhile."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from minidocker.container import records

_BLOCK = 65536  # bytes read at once; also the longest piece of a line that is written as one entry
_PAUSE = 0.05  # seconds between looks at a log that is followed


class Log:
    """The container's log: a line of JSON for each line of output, as docker's `json-file` driver writes it."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._unfinished = {"stdout": b"", "stderr": b""}
        self._torn = False  # the last line could not be written to its end

    def write(self, source: str, data: bytes, last: bool = False) -> None:
        """Add output; what is not a whole line yet waits for its end, or for `last`.

        A disk that is full loses lines of the log, not the container.
        """
        *lines, rest = (self._unfinished[source] + data).split(b"\n")
        whole = [line + b"\n" for line in lines]
        if rest and (last or len(rest) >= _BLOCK):
            whole, rest = [*whole, rest], b""
        self._unfinished[source] = rest
        if whole:
            now = records.now()
            entries = [
                json.dumps({"log": line.decode(errors="surrogateescape"), "stream": source, "time": now})
                for line in whole
            ]
            text = ("\n" * self._torn + "\n".join(entries) + "\n").encode()
            with contextlib.suppress(OSError):
                self._torn = os.write(self._fd, text) < len(text)


class LogLine(NamedTuple):
    """One entry: when it was written (RFC 3339), to which stream, and what, with its newline."""

    time: str
    stream: str
    data: bytes


def read(path: str, running: Callable[[], bool], follow: bool = False, tail: int = -1) -> Iterator[LogLine]:
    """Yield the log's entries; only the last `tail` of them where that is not negative.

    With `follow`, go on with what is added as long as `running` says that there may be more. An entry that was cut
    off, by a full disk or a machine that stopped, is left out.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115, closed by the generator's end
    except FileNotFoundError:
        return
    with contextlib.closing(file):
        if tail >= 0:
            file.seek(tail_offset(path, tail))
        rest = b""
        while True:
            alive = follow and running()  # asked before reading: what is written until it ends is still read
            while block := file.read(_BLOCK):
                *lines, rest = (rest + block).split(b"\n")
                yield from filter(None, map(_entry, lines))
            if not alive:
                return
            time.sleep(_PAUSE)


def _entry(line: bytes) -> LogLine | None:
    try:
        data = json.loads(line)
        return LogLine(data["time"], data["stream"], data["log"].encode(errors="surrogateescape"))
    except (ValueError, KeyError):
        return None


def tail_offset(path: str, count: int) -> int:
    """Return where the last `count` lines of a file begin, reading it backwards, block by block."""
    with open(path, "rb") as file:
        position = file.seek(0, os.SEEK_END)
        left = count + 1  # the newline before the first of them
        while position:
            start = max(0, position - _BLOCK)
            file.seek(start)
            block = file.read(position - start)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                left -= 1
                if not left:
                    return start + at + 1
            position = start
        return 0
