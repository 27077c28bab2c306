"""News of a pull or a push: on a terminal a line a layer, redrawn in place; elsewhere a line for what is finished."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TextIO

from minidocker.cli import human
from minidocker.progress import Progress, Report, silent

# What is worth a line where lines cannot be redrawn.
FINISHED = ("Pull complete", "Already exists", "Pushed", "Layer already exists", "Mounted from", "Loaded", "Downloaded")
_REDRAW_SECONDS = 0.05
_BAR = 50


@contextlib.contextmanager
def printer(stream: TextIO, quiet: bool = False) -> Iterator[Report]:
    """Yield what prints news on `stream`, in the way that suits it."""
    if quiet:
        yield silent
    elif stream.isatty():
        yield Screen(stream).show
    else:
        yield lambda news: _print_plain(stream, news)


def _print_plain(stream: TextIO, news: Progress) -> None:
    if not news.id:
        print(news.status, file=stream, flush=True)
    elif not news.total and (news.status.startswith(FINISHED) or "ulling from" in news.status):
        print(f"{news.id}: {news.status}", file=stream, flush=True)


class Screen:
    """Lines that change in place, below what was printed before. Called from several threads."""

    def __init__(self, stream: TextIO) -> None:
        import threading

        self._stream = stream
        self._rows: dict[str, int] = {}
        self._drawn: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def show(self, news: Progress) -> None:
        """Print one piece of news: on its layer's line, or, where it is about the whole, on a new one."""
        with self._lock:
            if not news.id:
                self._rows.clear()  # what stands above is finished
                self._stream.write(f"{news.status}\n")
            elif self._worth_drawing(news):
                self._draw(news)
            self._stream.flush()

    def _worth_drawing(self, news: Progress) -> bool:
        """Leave out bytes that follow on the last ones too fast for the eye."""
        status, when = self._drawn.get(news.id, ("", 0.0))
        now = time.monotonic()
        if news.status == status and news.current < news.total and now - when < _REDRAW_SECONDS:
            return False
        self._drawn[news.id] = (news.status, now)
        return True

    def _draw(self, news: Progress) -> None:
        """Write over the layer's line, or begin one at the bottom.

        See: console_codes(4): CSI n A and CSI n B move the cursor up and down, CSI 2 K clears the line.
        """
        size = _terminal_size(self._stream)
        text = line(news, size.columns)[: size.columns - 1]
        row = self._rows.get(news.id)
        if row is None or len(self._rows) - row >= size.lines:
            self._rows[news.id] = len(self._rows) if row is None else row
            self._stream.write(f"{text}\n" if row is None else "")
            return
        up = len(self._rows) - row
        self._stream.write(f"\033[{up}A\033[2K\r{text}\033[{up}B\r")


def _terminal_size(stream: TextIO) -> os.terminal_size:
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return os.terminal_size((80, 24))
    return size if size.columns and size.lines else os.terminal_size((80, 24))


def line(news: Progress, width: int) -> str:
    """Return a layer's line, with a bar as long as there is room for."""
    if not (news.current or news.total):
        return f"{news.id}: {news.status} "
    numbers = human.size(news.current, 4).rjust(8)
    if news.total:
        numbers += f"/{human.size(news.total, 4)}"
    start = f"{news.id}: {news.status} "
    room = min(_BAR, width - len(start) - len(numbers) - 6)
    if room < 5 or not news.total:
        return start + numbers
    filled = min(news.current * room // news.total, room)
    return f"{start}[{'=' * filled}>{' ' * (room - filled)}] {numbers}"
