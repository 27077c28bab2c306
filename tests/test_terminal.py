"""Containers under a hand: a real pseudo-terminal, keys typed, the screen read, windows resized and closed."""

import hashlib
import os
import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Minidocker
from terminal import Terminal

pytestmark = pytest.mark.root

PROMPT = r"/ # "
DETACH = "\x10\x11"


def until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def status(minidocker: Minidocker, name: str) -> str:
    return minidocker.ok("ps", "-a", "--filter", f"name={name}", "--format", "{{.Status}}")


def size(terminal: Terminal) -> str:
    """Ask the shell in the container how large its terminal is."""
    terminal.send("stty size\r")
    return terminal.expect(r"\r\n(\d+ \d+)\r\n")[1]


def modes(terminal: Terminal) -> list[object]:
    return termios.tcgetattr(terminal.master)


@pytest.fixture
def box(minidocker: Minidocker, busybox_image: str) -> str:
    """Start a detached shell that has a terminal, and return its name."""
    minidocker.ok("run", "-dit", "--network", "none", "--name", "box", busybox_image, "sh")
    return "box"


@pytest.fixture
def shell(minidocker: Minidocker, busybox_image: str) -> Iterator[Terminal]:
    """Run a shell in the foreground; yield the terminal, its prompt read."""
    with minidocker.pty("run", "-it", "--network", "none", "--name", "front", busybox_image, "sh") as terminal:
        terminal.expect(PROMPT)
        yield terminal


def test_job_control(shell: Terminal) -> None:
    shell.send("tty; echo $TERM; test -t 0 && test -t 2 && echo both\r")
    assert shell.expect(r"(/dev/\S+)\r\nxterm\r\nboth\r\n")[1] == "/dev/pts/0"
    shell.expect(PROMPT)
    shell.send("sleep 100; echo code=$?\r")
    shell.expect("sleep 100; echo")
    time.sleep(0.3)
    shell.send("\x03")
    shell.expect(r"\^C")
    shell.expect(PROMPT)
    shell.send("sleep 50\r")
    shell.expect("sleep 50\r\n")
    time.sleep(0.3)
    shell.send("\x1a")
    shell.expect(r"Stopped\s+sleep 50")
    shell.expect(PROMPT)
    shell.send("fg\r")
    shell.expect("sleep 50\r\n")
    time.sleep(0.3)
    shell.send("\x1c")  # ctrl-\
    shell.expect(PROMPT)
    shell.send("jobs; echo no-more\r")
    assert "sleep" not in shell.expect("(?s)jobs; echo no-more\r\n(.*)no-more\r\n")[1]
    shell.send("exit 7\r")
    assert shell.wait() == 7


def test_colours_and_bytes_pass(shell: Terminal) -> None:
    shell.send("printf '\\033[31mred\\033[0m \\303\\244\\n'\r")
    shell.expect("\x1b\\[31mred\x1b\\[0m ä\r\n")
    shell.send("seq 20000 | md5sum; seq 20000; echo the-end\r")
    shell.expect("(?s)1\r\n2\r\n3\r\n(.*)\r\n20000\r\nthe-end\r\n")
    assert shell.output.count("\r\n1999") >= 11
    pasted = ("x" * 300 + "\n") * 10
    shell.send("cat > /pasted\r")
    shell.expect("cat > /pasted\r\n")
    time.sleep(0.3)  # until the shell has handed its terminal over to cat
    shell.send(pasted.replace("\n", "\r") + "\x04")
    shell.expect(PROMPT)
    shell.send("md5sum < /pasted\r")
    shell.expect(hashlib.md5(pasted.encode(), usedforsecurity=False).hexdigest())


def test_the_size_follows_the_window(minidocker: Minidocker, busybox_image: str) -> None:
    with minidocker.pty("run", "-it", "--rm", "--network", "none", busybox_image, "sh", rows=31, columns=97) as shell:
        shell.expect(PROMPT)
        assert size(shell) == "31 97"
        shell.send("trap 'echo changed' WINCH; sleep 1; sleep 1\r")
        time.sleep(0.3)
        shell.resize(40, 120)
        shell.expect("changed")
        assert size(shell) == "40 120"
        for rows in range(10, 60):
            shell.resize(rows, 80)
        until(lambda: size(shell) == "59 80")
        shell.send("exit\r")
        assert shell.wait() == 0


def test_vi_and_top(shell: Terminal) -> None:
    shell.send("vi /letter\r")
    shell.expect("/letter")
    shell.send("i")
    shell.expect("I /letter")
    shell.send("hello from vi")
    shell.expect("hello from vi")
    shell.send("\x1b")
    time.sleep(0.3)  # vi tells the escape key from a longer sequence by the pause after it
    shell.send(":wq\r")
    shell.expect(PROMPT)
    shell.send("cat /letter\r")
    shell.expect("hello from vi\r\n")
    shell.expect(PROMPT)
    shell.send("top -d 1\r")
    for _ in range(3):
        shell.expect("Mem: ", timeout=5)
    shell.send("q")
    shell.expect(PROMPT)


def test_the_terminal_is_put_back(minidocker: Minidocker, busybox_image: str) -> None:
    """However the command ends, the terminal is again as it was: echoing, and in lines."""
    run = ("run", "-it", "--network", "none", "--name", "front", busybox_image)
    endings: dict[str, Callable[[Terminal], object]] = {
        "exit": lambda terminal: terminal.send("exit\r"),
        "detach": lambda terminal: terminal.send(DETACH),
        "kill": lambda _terminal: minidocker("kill", "front"),
        "term": lambda terminal: terminal.process.send_signal(signal.SIGTERM),
        "shim": lambda _terminal: os.kill(shim_of(minidocker, "front"), signal.SIGKILL),
    }
    for name, end in endings.items():
        with minidocker.pty(*run, "sh", "-c", "trap 'exit 3' TERM; exec sh" if name != "term" else SLEEPER) as terminal:
            before = modes(terminal)
            terminal.expect(PROMPT if name != "term" else "ready")
            assert modes(terminal) != before, "every key is the container's"
            end(terminal)
            terminal.wait()
            assert modes(terminal) == before, name
        minidocker("rm", "-f", "front")
    with minidocker.pty(*run, "nosuch") as terminal:
        before = modes(terminal)
        assert terminal.wait() == 127
        assert modes(terminal) == before


SLEEPER = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"


def shim_of(minidocker: Minidocker, name: str) -> int:
    pid = minidocker.ok("inspect", "-f", "{{.State.Pid}}", name)
    return int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def test_leaving_and_coming_back(minidocker: Minidocker, shell: Terminal) -> None:
    shell.send("marker=here\r")
    shell.expect(PROMPT)
    shell.send("\x10x")  # half of the keys, and then another: both are the shell's
    shell.send("\x15marker=$marker-and-there\r" + DETACH)  # what is typed before the keys is its, too
    assert shell.wait() == 0
    assert "Up" in status(minidocker, "front")
    with minidocker.pty("attach", "front", rows=33, columns=99) as again:
        again.expect(PROMPT)  # without a key: the shell draws it anew
        again.send("\x15echo $marker\r")
        again.expect("\r\nhere-and-there\r\n")
        assert size(again) == "33 99"
        again.send(DETACH)
        again.expect("read escape sequence")
        assert again.wait() == 1
    with minidocker.pty("attach", "--detach-keys", "ctrl-a,d", "front") as again:
        again.expect(PROMPT)
        again.send("\x01d")
        assert again.wait() == 1
    with minidocker.pty("attach", "front") as again:
        again.expect(PROMPT)
        again.send("exit 5\r")
        assert again.wait() == 5
    assert "Exited (5)" in status(minidocker, "front")
    with minidocker.pty("start", "-ai", "front") as again:
        again.expect(PROMPT)
        again.send("exit 6\r")
        assert again.wait() == 6


def test_two_at_once(minidocker: Minidocker, box: str) -> None:
    with minidocker.pty("attach", box) as one, minidocker.pty("attach", box) as other:
        for terminal in (one, other):
            terminal.expect(PROMPT)
        one.send("echo from-$((1+1))\r")
        for terminal in (one, other):
            terminal.expect("from-2\r\n")
        other.send("echo to-$((1+2))\r")
        for terminal in (one, other):
            terminal.expect("to-3\r\n")
        one.send(DETACH)
        assert one.wait() == 1
        other.send("echo still-$((1+3)); exit 4\r")
        other.expect("still-4\r\n")
        assert other.wait() == 4
    assert "still-4" in minidocker.ok("logs", box)


def test_a_window_that_is_closed(minidocker: Minidocker, box: str, shell: Terminal) -> None:
    """A detached container goes on; one in the foreground is told, as by docker."""
    with minidocker.pty("attach", box) as window:
        window.expect(PROMPT)
    assert window.process.returncode == 128 + signal.SIGHUP
    assert "Up" in status(minidocker, box)
    with minidocker.pty("exec", "-it", box, "sh") as window:
        window.expect(PROMPT)
    assert "Up" in status(minidocker, box)
    with minidocker.pty("attach", box) as window:
        window.expect(PROMPT)
        window.process.kill()
        window.process.wait()
    assert "Up" in status(minidocker, box)
    with minidocker.pty("run", "-it", "--network", "none", "--name", "told", "busybox", "sh", "-c", LISTENER) as window:
        window.expect("ready")
    assert window.process.returncode == 128 + signal.SIGHUP
    until(lambda: "Exited (9)" in status(minidocker, "told"))


LISTENER = "trap 'exit 9' HUP; echo ready; while :; do sleep 0.1; done"


def test_exec_has_a_terminal_of_its_own(minidocker: Minidocker, box: str) -> None:
    with minidocker.pty("exec", "-it", "-e", "A=b", "-w", "/tmp", box, "sh", rows=20, columns=60) as inside:
        inside.expect("/tmp # ")
        assert size(inside) == "20 60"
        inside.resize(25, 70)
        until(lambda: size(inside) == "25 70")
        inside.send("tty; echo $A $TERM\r")
        inside.expect("/dev/pts/1\r\nb xterm\r\n")
        inside.send("sleep 100\r")
        inside.expect("sleep 100\r\n")
        time.sleep(0.3)
        inside.send("\x03")
        inside.expect("/tmp # ")
        inside.send("exit 9\r")
        assert inside.wait() == 9
    with minidocker.pty("exec", "-it", box, "sh") as inside:
        inside.expect(PROMPT)
        inside.send(DETACH)
        inside.expect("read escape sequence")
        assert inside.wait() == 1
    assert minidocker("exec", "-t", box, "tty").stdout.startswith("/dev/pts/")
    assert minidocker("exec", box, "tty").returncode == 1
    assert "Up" in status(minidocker, box)


def test_ctrl_c_without_a_terminal_in_the_container(minidocker: Minidocker, busybox_image: str) -> None:
    run = ("run", "--rm", "--network", "none")
    with minidocker.pty(*run, "--init", busybox_image, "sleep", "100") as terminal:
        wait_for_name(minidocker, 1)
        terminal.send("\x03")
        assert terminal.wait() == 130
    with minidocker.pty(*run, busybox_image, "sh", "-c", "trap 'exit 8' INT; while :; do sleep 0.1; done") as terminal:
        wait_for_name(minidocker, 1)
        time.sleep(0.3)
        terminal.send("\x03")
        assert terminal.wait() == 8
    with minidocker.pty(*run, busybox_image, "sleep", "100") as terminal:
        wait_for_name(minidocker, 1)
        terminal.send("\x03")
        time.sleep(0.5)
        assert terminal.process.poll() is None, "process 1 ignores what it does not ask for"
        for _ in range(3):
            terminal.send("\x03")
            time.sleep(0.2)
        terminal.wait()
    minidocker.ok("kill", *minidocker.ok("ps", "-q").split())
    with minidocker.pty(*run, "-i", busybox_image, "cat") as terminal:
        terminal.send("abc\r\x04")
        terminal.expect("abc\r\nabc\r\n")
        assert terminal.wait() == 0


def wait_for_name(minidocker: Minidocker, count: int) -> None:
    until(lambda: len(minidocker.ok("ps", "-q").split()) == count)


def test_no_terminal_here(minidocker: Minidocker, busybox_image: str, box: str) -> None:
    """Input that is no terminal: refused with -it, read to its end with -i; -t alone gives the container one."""
    for command in (("run", "-it", busybox_image, "sh"), ("exec", "-it", box, "sh"), ("attach", box)):
        refused = minidocker(*command)
        assert (refused.returncode, refused.stderr.strip()) == (1, "the input device is not a TTY"), command
    assert minidocker.ok("run", "-i", "--rm", busybox_image, "cat", input="a\nb\n") == "a\nb"
    assert minidocker.ok("run", "-t", "--rm", busybox_image, "sh", "-c", "test -t 1 && echo yes") == "yes"
    many = "".join(f"{number}\n" for number in range(100_000))
    assert minidocker.ok("run", "-i", "--rm", busybox_image, "wc", "-l", input=many) == "100000"
    done = subprocess.run(
        [*minidocker.argv, "run", "-i", "--rm", busybox_image, "sh", "-c", "cat | md5sum; echo e >&2"],
        input=os.urandom(3_000_000),
        env={**os.environ, **minidocker.env},
        capture_output=True,
        check=True,
    )
    assert (len(done.stdout), done.stderr) == (36, b"e\n")


def test_the_first_size_is_known_soon(minidocker: Minidocker, busybox_image: str) -> None:
    """A program that asks for the size as its first act gets it before long."""
    script = "i=0; while ! stty size 2>/dev/null | grep . && [ $i -lt 50 ]; do i=$((i+1)); sleep 0.1; done"
    with minidocker.pty("run", "-it", "--rm", busybox_image, "sh", "-c", script, rows=44, columns=132) as terminal:
        terminal.expect("44 132")
        assert terminal.wait() == 0
