"""The stage the demo plays on: a folder to type in, commands shown as typed with their real output, and checks.

Nothing is staged but the typing: every command is a real one, run by a shell, and every check looks for itself.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from clean import clean
from terminal import Terminal

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07|\r(?=\n)")
QUESTION = re.compile(r"\x1b\[[0-9;?>]*[cn]")  # "where is the cursor?": the reader's terminal would type the answer
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


class Failure(Exception):
    """A command or a claim of the demo that did not hold."""


def paint(text: str, code: str) -> str:
    """Colour a text where somebody looks."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


class Stage:
    """A reader at a terminal, in a folder of their own, with a minidocker of their own."""

    def __init__(self, root: str, run: str) -> None:
        self.root, self.run_dir = root, run
        self.folder = tempfile.mkdtemp(prefix="minidocker-demo-")
        self.env = {
            **os.environ,
            "PATH": f"{PROJECT}/.venv/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "HOME": self.folder,
            "DOCKER_CONFIG": f"{self.folder}/.docker",
            "MINIDOCKER_ROOT": root,
            "MINIDOCKER_RUN": run,
        }
        self.checks = 0
        self._servers: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> None:
        """Begin with an empty root."""
        self._remove_root()
        os.makedirs(self.root)

    def section(self, number: str, title: str) -> None:
        """Begin a section of the tutorial."""
        print(paint(f"\n── {number} {title} ".ljust(100, "─"), "1;36"), flush=True)

    def say(self, text: str) -> None:
        """Tell the reader what comes next."""
        print(paint(f"\n{text}", "3"), flush=True)

    def type(self, command: str, code: int = 0, shown: str = "") -> str:
        """Show `command` as typed, run it, show its output as it comes, and return it.

        Raises Failure where its exit code is not `code`.
        """
        print(f"{paint('$', '1;32')} {paint(shown or command, '1')}", flush=True)
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output = b""
        while process.stdout and (chunk := os.read(process.stdout.fileno(), 65536)):
            output += chunk
            sys.stdout.write(chunk.decode(errors="replace"))
            sys.stdout.flush()
        if output and not output.endswith(b"\n"):
            print(flush=True)
        if process.wait() != code:
            raise Failure(f"`{command}` ended with exit code {process.returncode}, expected was {code}")
        return output.decode(errors="replace")

    @contextlib.contextmanager
    def terminal(self, command: str) -> Iterator[Terminal]:
        """Show `command` as typed and run it on a real terminal, for the block to type into."""
        print(f"{paint('$', '1;32')} {paint(command, '1')}", flush=True)
        with contextlib.chdir(self.folder), Terminal(["bash", "-c", f"exec {command}"], env=self.env, echo=echo) as on:
            yield on
        print(flush=True)

    def ask(self, command: str) -> str:
        """Run a command that the reader does not see, and return what it printed."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return (done.stdout + done.stderr).strip()

    def check(self, claim: str, holds: object, found: object = "") -> None:
        """Say that `claim` is so; raise Failure with what was found where it is not."""
        if not holds:
            raise Failure(f"not so: {claim}" + (f"\n  found: {found}" if found != "" else ""))
        self.checks += 1
        print(f"{paint('✓', '1;32')} {claim}", flush=True)

    def wait(self, claim: str, condition: Callable[[], object], seconds: float = 15) -> None:
        """Check a claim that takes a moment to become true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise Failure(f"not so, even after {seconds:.0f} s: {claim}")
            time.sleep(0.05)
        self.check(claim, True)

    def serve(self, command: str, ready: Callable[[], bool]) -> subprocess.Popen[bytes]:
        """Show `command &`, start it and wait until it is `ready`; `close` ends it."""
        print(f"{paint('$', '1;32')} {paint(command + ' &', '1')}", flush=True)
        with open(f"{self.folder}/.server-log", "ab") as log:
            argv = ["bash", "-c", f"exec {command}"]
            server = subprocess.Popen(
                argv, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._servers.append(server)
        deadline = time.monotonic() + 10
        while not ready():
            if server.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"`{command}` did not start: {self.ask('tail -n 5 .server-log')}")
            time.sleep(0.05)
        return server

    def close(self) -> None:
        """End what the demo started and remove what it made, also after a failure in the middle."""
        for server in self._servers:
            server.send_signal(signal.SIGTERM)
            server.wait(10)
        self._remove_root()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_root(self) -> None:
        """Stop and remove whatever this or an earlier, interrupted demo left."""
        left = clean(self.root, self.run_dir)
        shutil.rmtree(self.root, ignore_errors=True)
        if left:
            print("could not remove " + ", ".join(left), file=sys.stderr)


def echo(text: str) -> None:
    """Show what an interactive program prints; without its control sequences where nobody sees them act."""
    sys.stdout.write(QUESTION.sub("", text) if COLOUR else CONTROL.sub("", text))
    sys.stdout.flush()
