"""The terminal between a person and a container: raw mode, window size, detach keys, signals passed on.

A container with a terminal has a pseudo-terminal of its own; ours is made *raw*, so that every key, ctrl-C too, goes to
the one inside and is interpreted there. Whatever happens, the mode is put back.

See: termios(3), Raw mode; tty_ioctl(4), Get and set window size.
"""

import contextlib
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from minidocker.cli.arguments import UsageError
from minidocker.errors import InvalidArgument, MinidockerError

if TYPE_CHECKING:
    from minidocker.container.attach import Attachment

DETACH_KEYS = "ctrl-p,ctrl-q"
# Passed on to a container in the foreground. Not SIGCHLD and SIGWINCH, which are about us, nor what cannot be caught.
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCONT,
    signal.SIGTSTP,
)
UNKNOWN_END = 137  # the shim is gone and nobody knows: as if killed
PATIENCE = 3  # interrupts that a container may ignore before the command itself gives in


class Wishes(NamedTuple):
    """How to talk to a container: which streams, whether it has a terminal, which keys detach, who gets the signals.

    `redraw` has the program draw its screen anew, as it does whenever the size changes: it has drawn it for others.
    """

    terminal: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    keys: bytes = b"\x10\x11"
    forward: Callable[[signal.Signals], None] | None = None
    redraw: bool = False


class Detached(Exception):
    """The detach keys were pressed; the container goes on. `typed` is what came before them and is still for it."""

    def __init__(self, typed: bytes = b"") -> None:
        super().__init__()
        self.typed = typed


def check_terminal(wishes: Wishes) -> None:
    """Raise UsageError where a terminal is asked for and standard input is none."""
    if wishes.terminal and wishes.stdin and not os.isatty(0):
        raise UsageError("the input device is not a TTY", exit_code=1)


def parse_keys(text: str) -> bytes:
    """Return the bytes of a detach sequence: `ctrl-p,ctrl-q`, `ctrl-a,d`.

    Raises: InvalidArgument, in docker's words.
    """
    keys = bytearray()
    for name in text.split(",") if text else ():
        if len(name) == 1:
            keys += name.encode()
        elif name.startswith("ctrl-") and len(name) == 6 and name[5] in "abcdefghijklmnopqrstuvwxyz@[\\]^_":
            keys.append(ord(name[5].upper()) - 64)  # the control key takes 64 off a letter's code
        else:
            raise InvalidArgument(f"Unknown character: '{name}'")
    return bytes(keys)


class KeyFilter:
    """What is typed, with the detach sequence looked for. Keys that might begin it wait for the next ones."""

    def __init__(self, keys: bytes) -> None:
        self.keys = keys
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what is to be sent on. Raises Detached when the sequence is complete."""
        if not self.keys:
            return data
        data = self._held + data
        typed, found, _ = data.partition(self.keys)
        if found:
            raise Detached(typed)
        held = next(
            (length for length in range(len(self.keys) - 1, 0, -1) if data.endswith(self.keys[:length])),
            0,
        )
        self._held = data[len(data) - held :]
        return data[: len(data) - held]


def converse(stream: "Attachment", wishes: Wishes) -> int:
    """Pass what is typed in and what is printed out until the container's program ends; return its exit code.

    Raises: Detached when the person leaves by the detach keys.
    """
    with contextlib.ExitStack() as stack:
        if wishes.terminal and wishes.stdin and os.isatty(0):
            stack.enter_context(raw_mode(0))
            stack.enter_context(_handled((signal.SIGTERM, signal.SIGHUP), _leave))
        if wishes.terminal and os.isatty(1):
            if wishes.redraw:
                _tell_size(stream, taller=1)
            _tell_size(stream)
            stack.enter_context(_handled((signal.SIGWINCH,), lambda _number, _frame: _tell_size(stream)))
        if wishes.forward:
            stack.enter_context(_handled(FORWARDED, _forwarder(wishes.forward, wishes.terminal)))
        detached: list[bool] = []
        if wishes.stdin:
            _start_pump(stream, KeyFilter(wishes.keys if wishes.terminal else b""), detached)
        _print_frames(stream, wishes)
    if detached:
        raise Detached
    return UNKNOWN_END if stream.exit_code is None else stream.exit_code


def _print_frames(stream: "Attachment", wishes: Wishes) -> None:
    """Write what the container prints to the same descriptor here, as it comes."""
    wanted = {1: wishes.stdout, 2: wishes.stderr}
    for kind, data in stream.frames():
        if wanted.get(kind):
            write_all(kind, data)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, past Python's buffers."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


@contextlib.contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Let the terminal hand over every key as it is pressed, and interpret and echo none; undone at the end."""
    import tty

    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)  # not the default, which would throw away what was typed already
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _leave(number: int, _frame: FrameType | None) -> None:
    """End as the signal would have, but through the code that puts the terminal back."""
    sys.exit(128 + number)


def _forwarder(forward: Callable[[signal.Signals], None], terminal: bool) -> Callable[[int, FrameType | None], None]:
    interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number in (signal.SIGINT, signal.SIGTERM)
        if interrupts > PATIENCE:
            raise KeyboardInterrupt
        with contextlib.suppress(MinidockerError, OSError):  # it may have ended meanwhile
            forward(signal.Signals(number))
        if number == signal.SIGHUP and terminal:
            _leave(number, frame)  # our terminal has been closed: there is nobody left to show anything to

    return handle


def _tell_size(stream: "Attachment", taller: int = 0) -> None:
    """Tell the container's terminal how large ours is.

    May interrupt the pump in the middle of a send: what a terminal gives at once is small enough to go out whole.
    """
    with contextlib.suppress(OSError):  # the container may have ended, or the terminal be closed
        columns, rows = os.get_terminal_size(1)
        stream.resize(rows + taller, columns)


def _start_pump(stream: "Attachment", keys: KeyFilter, detached: list[bool]) -> None:
    """Send standard input on from a thread of its own, which a read that never ends does not keep from leaving."""
    import socket
    import threading

    def pump() -> None:
        try:
            while data := os.read(0, 65536):
                if ready := keys.feed(data):
                    stream.send_stdin(ready)
            stream.close_stdin()
        except Detached as left:
            detached.append(True)
            with contextlib.suppress(OSError):  # the container may just have ended
                if left.typed:
                    stream.send_stdin(left.typed)
                stream.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the container has ended, or our terminal has gone

    # No signal is for that thread: the kernel may give it two that come at once, and Python answers in the main one
    # only, which would not be woken. A thread begins with its parent's mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Thread(target=pump, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
