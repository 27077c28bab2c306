"""Ctrl-c: where it may break in, and when it comes too late.

Python lets it break in anywhere, also where that does harm. In the midst of an import it leaves the lock of all imports
held, and then each thread waits for another (`importlib._bootstrap`, between a lock's taking and the `try` after it).
What is called when an object goes (`weakref`) loses it: nobody waits there for an exception.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from minidocker.errors import MinidockerError

if TYPE_CHECKING:
    from minidocker.container.records import Containers

Handler = Callable[[int, FrameType | None], None]

_SOON = 0.001  # seconds
_NOT_IN = ("<frozen importlib", f"{os.path.dirname(os.__file__)}/weakref.py")


def listen() -> None:
    """Have ctrl-c raise KeyboardInterrupt; in the midst of an import, a moment later."""
    signal.signal(signal.SIGALRM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, break_in)


def ignore() -> None:
    """Have ctrl-c change nothing any more: what is done is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def break_in(_number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or try again soon where it would do harm."""
    if _would_do_harm(frame):
        signal.setitimer(signal.ITIMER_REAL, _SOON)
    else:
        raise KeyboardInterrupt


def _would_do_harm(frame: FrameType | None) -> bool:
    """Say whether a frame, or one that waits for it, is of a program that must not be broken into."""
    while frame:
        if frame.f_code.co_filename.startswith(_NOT_IN):
            return True
        frame = frame.f_back
    return False


def forward_once_it_runs(
    containers: "Containers", container_id: str, forward: Callable[[signal.Signals], None] | None
) -> None:
    """Have ctrl-c end the command until the container runs, and from then on `forward` it there.

    To nobody, where the container is to be left alone: its id is about to be printed.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if containers.state(container_id).status == "created":
            break_in(number, frame)
        elif forward:
            with contextlib.suppress(MinidockerError, OSError):  # it may have ended meanwhile
                forward(signal.Signals(number))

    signal.signal(signal.SIGINT, handle)
