"""A terminal in a cell: a shell in a running container, typed to from a notebook.

What the shell writes goes through a small screen that knows what a line of text needs: return, new line, backspace,
tabs, clearing. Colours and the rest of a terminal's language are left out.

See: console_codes(4); ECMA-48, control sequences.
"""

import atexit
import contextlib
import os
import re
import signal
import threading
import time
from typing import Any

from minidocker import engine as stories
from minidocker.container import processes
from minidocker.container.attach import Attachment
from minidocker.container.options import ExecOptions
from minidocker.course.widgets import drawing
from minidocker.course.widgets.picture import Picture, find
from minidocker.errors import MinidockerError

ROWS, COLUMNS = 24, 100
MOST_LINES = 2000
MOST_COLUMNS = 1000
SHOWN_LINES = 300
_MOMENT = 0.08  # seconds
_MARK = "MINIDOCKER_CELL"  # the variable by which the shell is found among the container's processes
# Whole sequences; what may be the beginning of one waits for the rest.
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()*+#%].|[^\[\]()*+#%])", re.DOTALL)
_BEGUN = re.compile(r"\x1b(\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[()*+#%])?\Z")


class Screen:
    """The lines that a program has written, as a terminal would show them."""

    def __init__(self) -> None:
        self.lines = [""]
        self.column = 0
        self._waiting = ""

    def write(self, text: str) -> None:
        """Take what a program writes, in pieces of any size."""
        text = self._waiting + text
        self._waiting = ""
        position = 0
        while position < len(text):
            if text[position] != "\x1b":
                self._letter(text[position])
                position += 1
            elif sequence := _SEQUENCE.match(text, position):
                self._obey(sequence[0])
                position = sequence.end()
            elif _BEGUN.match(text, position) and len(text) - position < 4096:
                self._waiting = text[position:]
                return
            else:
                position += 1

    def _letter(self, letter: str) -> None:
        if letter == "\n":
            self.lines.append("")
            self.column = 0
            del self.lines[:-MOST_LINES]
        elif letter == "\r":
            self.column = 0
        elif letter == "\b":
            self.column = max(self.column - 1, 0)
        elif letter == "\t":
            self._put(" " * (8 - self.column % 8))
        elif letter == "\f":
            self.clear()
        elif letter.isprintable():
            self._put(letter)

    def _put(self, text: str) -> None:
        if self.column + len(text) > MOST_COLUMNS:
            self._letter("\n")
        line = self.lines[-1].ljust(self.column)
        self.lines[-1] = line[: self.column] + text + line[self.column + len(text) :]
        self.column += len(text)

    def _obey(self, sequence: str) -> None:
        """Do what matters for lines: to clear the screen or a line, to go left and right."""
        number = min(int(re.sub(r"\D", "", sequence)[:6] or 0), MOST_COLUMNS)
        if (sequence.startswith("\x1b[") and sequence.endswith("J") and number in (2, 3)) or sequence == "\x1bc":
            self.clear()
        elif sequence.startswith("\x1b[") and sequence.endswith("K"):
            line = self.lines[-1]
            self.lines[-1] = {0: line[: self.column], 1: " " * self.column + line[self.column :]}.get(number, "")
        elif sequence.startswith("\x1b[") and sequence.endswith("D"):
            self.column = max(self.column - (number or 1), 0)
        elif sequence.startswith("\x1b[") and sequence.endswith("C"):
            self.column = min(self.column + (number or 1), MOST_COLUMNS)

    def clear(self) -> None:
        """Begin anew."""
        self.lines, self.column = [""], 0

    def text(self) -> str:
        """Return what is on the screen."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")


class Terminal(Picture):
    """A shell and what it has written. `type` types to it, `close` ends it."""

    def __init__(self, what: Any, command: str) -> None:
        self.engine, self.container = find(what)
        self.command = command
        self.screen = Screen()
        self.exit_code: int | None = None
        self.history: list[str] = []
        self._mark = os.urandom(8).hex()
        self._heard = threading.Condition()
        self._last = time.monotonic()
        self._over, self._drawing = True, False
        self.title = f"{command} in {self.container.name}"
        self._attachment: Attachment | None = None
        if self.container.running:
            self._open()

    def _open(self) -> None:
        """Start the shell on a terminal of its own, and somebody who listens to it."""
        # No colours, and a prompt that does not set the window's title.
        env = (f"{_MARK}={self._mark}", "TERM=dumb", "PS1=# ")
        asked = ExecOptions((self.command,), env=env, terminal=True, interactive=True)
        attachment = stories.execute(self.engine, self.container, asked)
        if attachment is None:  # only one that is detached has none
            return
        self._attachment, self._over = attachment, False
        attachment.resize(ROWS, COLUMNS)
        threading.Thread(target=self._listen, args=(attachment,), daemon=True, name="minidocker-terminal").start()
        atexit.register(self.close)

    def _listen(self, attachment: Attachment) -> None:
        """Put what the shell writes on the screen, until it ends."""
        import codecs

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with contextlib.suppress(OSError):
            for _, data in attachment.frames():
                with self._heard:
                    self.screen.write(decoder.decode(data))
                    self._last = time.monotonic()
                    self._heard.notify_all()
                self._redraw_soon()
        self.exit_code = attachment.exit_code
        with self._heard:
            self._over = True
            self._heard.notify_all()
        attachment.close()
        self.redraw()

    def _redraw_soon(self) -> None:
        """Draw once for all that is written in a moment."""

        def draw() -> None:
            self._drawing = False
            self.redraw()

        if not self._drawing:
            self._drawing = True
            threading.Timer(_MOMENT, draw).start()

    def type(self, text: str) -> None:
        """Type to the shell: a line ends with a new line. What is typed to one that has ended is lost."""
        if self._attachment and not self._over:
            with contextlib.suppress(OSError):
                self._attachment.send_stdin(text.encode())

    def run(self, script: str, patience: float = 20.0) -> None:
        """Type a script line by line, each when the shell asks for it, for `patience` seconds at most a line."""
        for line in script.splitlines():
            self.wait_for_prompt(patience)
            if self._over:
                return
            self.type(line + "\n")
            time.sleep(0.02)
        self.wait_for_prompt(patience)

    def wait_for_prompt(self, patience: float) -> None:
        """Wait until the shell has written its prompt and nothing more, or has ended."""
        until = time.monotonic() + patience
        with self._heard:
            while not self._over and time.monotonic() < until:
                quiet = time.monotonic() - self._last
                if quiet > 0.08 and self.screen.lines[-1].endswith(("# ", "$ ", "> ")):
                    return
                self._heard.wait(0.05)

    def close(self) -> None:
        """End the shell and what it runs, as a terminal that is closed does: by SIGHUP, and then by SIGKILL."""
        atexit.unregister(self.close)
        for number in (signal.SIGHUP, signal.SIGKILL):
            if self._over:
                return
            self._signal(number)
            with self._heard:
                self._heard.wait_for(lambda: self._over, timeout=1)

    def _signal(self, number: int) -> None:
        """Send a signal to the processes that have our mark in their environment, and to no others.

        See: proc_pid_environ(5); pidfd_open(2): a descriptor stands for one process, a number for whoever has it.
        """
        mark = f"{_MARK}={self._mark}".encode()
        with contextlib.suppress(MinidockerError, OSError):
            for process in processes.listing(self.engine.containers.load(self.container.id)):
                with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                    pidfd = os.pidfd_open(process.pid)
                    stack.callback(os.close, pidfd)
                    environment = stack.enter_context(open(f"/proc/{process.pid}/environ", "rb"))
                    if mark in environment.read().split(b"\0"):
                        signal.pidfd_send_signal(pidfd, number)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()

    def controls(self) -> list[Any]:
        """Let the reader type, interrupt, end the input, and close; not where the shell has ended."""
        if self._over:
            return []
        import ipywidgets

        layout = ipywidgets.Layout(width="420px")
        field = ipywidgets.Combobox(placeholder="type a command, then Enter", options=[], layout=layout)

        def enter(_field: Any) -> None:
            line, field.value = field.value, ""
            self.history = [*(old for old in self.history if old != line), line] if line else self.history
            field.options = tuple(reversed(self.history[-50:]))
            self.type(line + "\n")

        import warnings

        with warnings.catch_warnings():  # the way that is recommended instead cannot tell Enter from leaving the field
            warnings.simplefilter("ignore")
            field.on_submit(enter)
        buttons = []
        for name, action in (
            ("Ctrl-C", lambda: self.type("\x03")),
            ("Ctrl-D", lambda: self.type("\x04")),
            ("Clear", self._wipe),
            ("Close", self.close),
        ):
            button = ipywidgets.Button(description=name, layout=ipywidgets.Layout(width="80px"))
            button.on_click(lambda _button, action=action: action())
            buttons.append(button)
        return [field, *buttons]

    def _wipe(self) -> None:
        self.screen.clear()
        self.type("\n")

    def state(self) -> str:
        """Say whether the shell runs."""
        if not self._over:
            return "The shell runs."
        if not self._attachment:
            return f"{self.container.name} is not running: start it, then open a terminal in it."
        if self.exit_code is None:
            return "The shell has ended with the container."
        return f"The shell has ended with exit code {self.exit_code}."

    def text(self) -> str:
        """Say what is on the screen."""
        return f"{self.title}. {self.state()}\n\n{self.screen.text()}"

    def body(self) -> str:
        """Draw the screen's last lines."""
        style = "max-height:420px;overflow:auto;display:flex;flex-direction:column-reverse"
        last = "\n".join(self.screen.text().split("\n")[-SHOWN_LINES:])
        screen = f"<pre>{drawing.escape(last)}</pre>"
        tone = "grey" if self._over else "green"
        return drawing.card(f'<div style="{style}">{screen}</div>', tone) + drawing.span(self.state(), "dim")

    def page(self) -> str:
        """Return the screen alone: it is words already."""
        return self.html()


def terminal(container: Any, script: str = "", command: str = "/bin/sh") -> Terminal:
    """Open a shell in a running container. With a `script`, type that line by line and wait for its end.

    Raises: ContainerNotFound, StartError where it has no such shell.
    """
    opened = Terminal(container, command)
    opened.wait_for_prompt(5)
    if script:
        opened.run(script)
        opened.close()
    return opened
