"""The `%%shell` magic: commands in a notebook's cell, run as in a terminal, that fail the cell when they fail."""

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable

_CONTROL = re.compile(r"\x1b\[[0-9;?>]*[a-zA-Z]|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]|\x1b[=>]")
_QUIET = 0.3  # seconds without output after a prompt, after which the next line is typed
_PATIENCE = 20.0  # the same where no prompt is in sight: a program that waits without a word
_HOPELESS = 60.0  # seconds of silence with nothing left to type: nobody will end this program
_PROMPT = re.compile(r"[#$%>?:] ?$")


class CommandFailed(Exception):
    """A cell's commands ended otherwise than the cell expects."""


def magic(line: str, cell: str, variables: dict[str, object]) -> None:
    """Carry out a `%%shell` cell; print its output as it comes.

    `line` holds the options: `--fails` expects an exit code that is not 0; `--terminal` gives the commands a terminal,
    into which `--type TEXT` types, a line at every prompt (`\\n`, `\\x04` and such are understood).
    `variables` are the notebook's: those of capital letters that are strings are in the environment.

    Raises: CommandFailed.
    """
    options = shlex.split(line)
    typed = ""
    if "--type" in options:
        at = options.index("--type")
        typed = options[at + 1].encode().decode("unicode_escape")
        del options[at : at + 2]
    unknown = set(options) - {"--fails", "--terminal"}
    if unknown:
        raise CommandFailed(f"%%shell knows --fails, --terminal and --type TEXT, not {' '.join(sorted(unknown))}")
    exported = {name: text for name, text in variables.items() if name.isupper() and isinstance(text, str)}
    code = run(script(cell), {**os.environ, **exported}, "--terminal" in options, typed, _write)
    if "--fails" in options:
        if code == 0:
            raise CommandFailed("this was expected to fail, and did not")
        _write(f"(exit code {code})\n")
    elif code != 0:
        raise CommandFailed(f"exit code {code}")


def script(cell: str) -> str:
    """Return the script that runs a cell, and that says each command first where there are several."""
    found = commands(cell)
    if len([command for command in found if _does_something(command)]) < 2:
        return cell
    lines = []
    for command in found:
        if _does_something(command):
            lines.append(f"printf '%s\\n' {shlex.quote('$ ' + command.strip())}")
        lines.append(command)
    return "\n".join(lines)


def commands(cell: str) -> list[str]:
    """Split a cell into complete commands: a loop, a here-document or a line that goes on is one."""
    found, lines = [], ""
    for line in cell.splitlines():
        lines += f"{line}\n"
        if not line.endswith("\\") and _complete(lines):
            found.append(lines.rstrip("\n"))
            lines = ""
    return [*found, lines] if lines.strip() else found


def _complete(text: str) -> bool:
    """Ask bash, which reads without running: it complains of a command that is not finished, or a here-document."""
    asked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    return asked.returncode == 0 and not asked.stderr


def _does_something(command: str) -> bool:
    return any(line.strip() and not line.strip().startswith("#") for line in command.splitlines())


def run(text: str, environment: dict[str, str], terminal: bool, typed: str, write: Callable[[str], None]) -> int:
    """Run a script to its end and return its exit code; what it leaves in the background goes on, unheard."""
    environment = {**environment, "PATH": f"{os.path.dirname(sys.executable)}:{environment.get('PATH', os.defpath)}"}
    master, slave = os.openpty() if terminal else os.pipe()
    try:
        process = subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-c", text],
            env={**environment, "TERM": "xterm" if terminal else "dumb"},
            stdin=slave if terminal else subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal if terminal else None,
        )
        os.close(slave)
        try:
            _follow(process, master, terminal, typed.splitlines(keepends=True), write)
        except BaseException:
            for number, patience in ((signal.SIGINT, 3), (signal.SIGKILL, None)):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(patience)
            raise
        return process.returncode
    finally:
        os.close(master)


def _take_terminal() -> None:
    """Make the terminal on standard input the controlling one of the new session. See: ioctl_tty(2), TIOCSCTTY."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _follow(
    process: "subprocess.Popen[bytes]", master: int, terminal: bool, typed: list[str], write: Callable[[str], None]
) -> None:
    """Pass the output on until the process has ended and nothing more is to be read."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    heard, prompted = time.monotonic(), False
    while True:
        ended = process.poll() is not None
        readable, _, _ = select.select([master], [], [], 0 if ended else 0.05)
        if readable:
            heard = time.monotonic()
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                data = b""
            if not data:
                process.wait()
                return
            text = _CONTROL.sub("", decoder.decode(data)).replace("\r\n", "\n")
            prompted = bool(_PROMPT.search(text)) if text.strip() else prompted
            write(text)
        elif ended:
            return
        elif typed and time.monotonic() - heard > (_QUIET if prompted else _PATIENCE):
            heard = time.monotonic()
            os.write(master, typed.pop(0).encode())
        elif terminal and time.monotonic() - heard > _HOPELESS:
            raise CommandFailed(f"nothing is left to type, and nothing came for {_HOPELESS:.0f} s; does --type end it?")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
