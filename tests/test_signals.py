"""Process 1 and signals: init, zombies, programs that do not listen, ctrl-c in every phase, kills from outside."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from conftest import Minidocker, Roots, remove_containers
from loopback import Answer, Asked, Loopback, loopback
from minidocker import engine as stories
from minidocker.container import lifecycle, records
from minidocker.container.options import RunOptions
from minidocker.engine import open_engine
from minidocker.errors import NetworkError, StartError
from minidocker.image import oci

pytestmark = pytest.mark.root

LOOP = "while :; do sleep 0.1; done"


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def detached(minidocker: Minidocker, *command: str, options: tuple[str, ...] = ("--network", "none")) -> str:
    return minidocker.ok("run", "-d", *options, "busybox", *command)


def state(minidocker: Minidocker, container: str) -> str:
    return minidocker.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container)


def own_state(roots: Roots, container: str) -> records.State:
    """Return what the record says, without the checks that are made when it is shown."""
    return open_engine(roots.root, roots.run).containers.load(container).state


@pytest.fixture
def home(minidocker: Minidocker, busybox_image: str) -> Minidocker:
    return minidocker


# Process 1


def test_init_reaps_orphans_and_passes_on_how_it_ended(home: Minidocker) -> None:
    orphans = "for i in 1 2 3; do (sleep 0.1 &) ; done; sleep 0.5; ps -o stat | grep -c Z; exit 7"
    done = home("run", "--rm", "--init", "--network", "none", "busybox", "sh", "-c", orphans)
    assert (done.stdout, done.returncode) == ("0\n", 7)


def test_zombies_are_left_to_a_process_1_that_does_not_wait(home: Minidocker) -> None:
    """The kernel's rule, and why there is --init: `sleep` adopts what its shell left and never waits for it."""
    container = detached(home, "sh", "-c", "(sleep 1 & exec sleep 2) & exec sleep 100")
    wait_until(lambda: " Z " in home.ok("exec", container, "ps", "-o", "pid,stat,comm").replace("Z\n", "Z "))


@pytest.mark.parametrize("init", [(), ("--init",)])
def test_stop_asks_first(home: Minidocker, init: tuple[str, ...]) -> None:
    script = f"trap 'echo bye; exit 5' TERM; echo ready; {LOOP}"
    container = detached(home, "sh", "-c", script, options=("--network", "none", *init))
    wait_until(lambda: home.ok("logs", container) == "ready")
    home.ok("stop", "-t", "60", container)
    assert (home.ok("logs", container), state(home, container)) == ("ready\nbye", "exited 5")


def test_stop_ends_one_that_ignores_it(home: Minidocker) -> None:
    container = detached(home, "sh", "-c", f"trap '' TERM; echo ready; {LOOP}")
    wait_until(lambda: home.ok("logs", container) == "ready")
    home.ok("stop", "-t", "1", container)
    assert state(home, container) == "exited 137"


def test_the_stop_signal_of_the_container(home: Minidocker) -> None:
    script = f"trap 'exit 9' USR1; echo ready; {LOOP}"
    container = detached(home, "sh", "-c", script, options=("--network", "none", "--stop-signal", "USR1"))
    wait_until(lambda: home.ok("logs", container) == "ready")
    home.ok("stop", "-t", "60", container)
    assert state(home, container) == "exited 9"


def test_every_signal_arrives_as_itself(home: Minidocker) -> None:
    """One container catches them all and says which came; SIGKILL and SIGSTOP cannot be caught."""
    catchable = [n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD)]
    traps = " ".join(f"trap 'echo got {number}' {number};" for number in catchable)
    container = detached(home, "sh", "-c", f"{traps} echo ready; {LOOP}")
    wait_until(lambda: "ready" in home.ok("logs", container))
    for number in catchable:
        name = str(number) if number % 3 == 0 else signal.Signals(number).name.removeprefix("SIG" * (number % 3 - 1))
        home.ok("kill", "-s", name, container)
        wait_until(lambda number=number: f"got {number}\n" in home.ok("logs", container) + "\n")  # type: ignore[misc]
    home.ok("kill", container)
    wait_until(lambda: state(home, container) == "exited 137")


@pytest.mark.parametrize("name", ["0", "99", "NOPE", "-1", ""])
def test_a_signal_that_is_none(home: Minidocker, name: str) -> None:
    container = detached(home, "sleep", "100")
    done = home("kill", "-s", name, container)
    assert done.returncode == 1
    assert done.stderr.lower().startswith("error")
    assert state(home, container) == "running 0"


def test_a_container_that_is_stopped_by_sigstop(home: Minidocker, roots: Roots) -> None:
    container = detached(home, "sleep", "1000")
    pid = own_state(roots, container).pid
    home.ok("kill", "-s", "STOP", container)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    assert state(home, container) == "running 0"
    home.ok("stop", "-t", "0", container)
    assert state(home, container) == "exited 137"


def test_process_1_killed_from_the_host(home: Minidocker, roots: Roots) -> None:
    container = detached(home, "sh", "-c", f"sleep 1000 & {LOOP}")
    before = own_state(roots, container)
    inside = home.ok("top", container)
    assert "sleep 1000" in inside
    os.kill(before.pid, signal.SIGKILL)
    assert home.ok("wait", container) == "137"
    assert not records.start_time(before.pid), "and with process 1 its pid namespace"


# The shim


def test_a_shim_that_is_killed_gives_back_what_its_container_had(home: Minidocker, roots: Roots) -> None:
    publish = ("-p", "127.0.0.1::80")
    container = detached(home, "sleep", "1000", options=publish)
    port = home.ok("port", container, "80")
    before = own_state(roots, container)
    os.kill(before.shim, signal.SIGKILL)
    wait_until(lambda: not records.start_time(before.pid))
    assert state(home, container) == "exited 137"
    other = detached(home, "sleep", "1000", options=("-p", f"{port}:80"))
    assert own_state(roots, other).address == before.address
    home.ok("rm", container)


@pytest.mark.parametrize("program", [("su", "nobody", "-s", "/bin/sh", "-c", "exec sleep 1000"), ("sleep", "1000")])
def test_a_container_whose_shim_was_killed_does_not_go_on_unseen(
    home: Minidocker, roots: Roots, program: tuple[str, ...]
) -> None:
    """Also where it has become another user, which makes the kernel forget to tell it that its parent died."""
    container = detached(home, *program)
    before = own_state(roots, container)
    wait_until(lambda: b"sleep" in Path(f"/proc/{before.pid}/cmdline").read_bytes().split(b"\0")[0])
    os.kill(before.shim, signal.SIGKILL)
    wait_until(lambda: not records.start_time(before.shim))
    assert home.ok("ps", "-q") == ""
    wait_until(lambda: not records.start_time(before.pid))
    home.ok("start", container)
    assert state(home, container) == "running 0"


def test_the_group_of_a_command_is_killed_and_its_container_goes_on(home: Minidocker) -> None:
    process = home.start("run", "--name", "on", "--network", "none", "busybox", "sh", "-c", LOOP, process_group=0)
    wait_until(lambda: "on" in home.ok("ps", "--format", "{{.Names}}"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert state(home, "on") == "running 0"


def test_a_terminal_that_is_closed(home: Minidocker) -> None:
    script = f"trap 'exit 3' HUP; echo ready; {LOOP}"
    with home.pty("run", "-it", "--name", "hung", "--network", "none", "busybox", "sh", "-c", script) as terminal:
        terminal.expect("ready")
        os.close(terminal.master)
        terminal.master = os.open("/dev/null", os.O_RDWR)
        terminal.process.wait(60)
    wait_until(lambda: state(home, "hung") == "exited 3")


# Ctrl-c, in every phase


@pytest.fixture
def endless() -> Iterator[Loopback]:
    """Serve a registry that answers, and then never comes to an end."""
    digest = f"sha256:{'0' * 64}"
    layer = {"mediaType": oci.LAYER_GZIP, "digest": digest, "size": 1 << 20}
    platform = {"os": "linux", "architecture": oci.host_platform().architecture}
    config = json.dumps({**platform, "rootfs": {"type": "layers", "diff_ids": [digest]}}).encode()
    described = {"mediaType": oci.CONFIG, "digest": oci.digest_of(config), "size": len(config)}
    manifest = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": described, "layers": [layer]}

    def answer(asked: Asked) -> Answer:
        if "/manifests/" in asked.path:
            return Answer(200, json.dumps(manifest).encode(), {"Content-Type": oci.MANIFEST})
        if asked.path.endswith(oci.digest_of(config)):
            return Answer(200, config)
        return Answer(200, bytes(1 << 20), trickle=0.5) if "/blobs/" in asked.path else Answer()

    with loopback(answer) as server:
        yield server


def interrupted(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    """Press ctrl-c; return how the command ended, and what it printed and said, which is no traceback."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    assert b"bug" not in err
    return process.returncode, (out or b"").decode(), err.decode()


def test_during_pull(minidocker: Minidocker, endless: Loopback) -> None:
    process = minidocker.start("pull", f"{endless.host}/never", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: any(f"/blobs/sha256:{'0' * 64}" in asked.path for asked in endless.asked))
    assert interrupted(process)[0] == 130
    assert minidocker.ok("images", "-aq") == ""


def test_during_build(home: Minidocker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun && sleep 1000\n")
    words = ("build", "--network", "none", "-t", "never", str(tmp_path))
    process = home.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    while process.stdout.readline() != b"begun\n":
        pass
    assert interrupted(process)[0] == 130
    assert home.ok("ps", "-aq") == ""
    assert os.listdir(f"{home.env['MINIDOCKER_ROOT']}/build/tmp") == []
    assert "never" not in home.ok("images", "-a")


def test_a_build_that_is_killed(home: Minidocker, tmp_path: Path) -> None:
    """Its RUN does not go on without it."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN sleep 1000\n")
    process = home.start("build", "--network", "none", str(tmp_path), stdout=subprocess.DEVNULL)
    wait_until(lambda: home.ok("ps", "-q") != "")
    container = home.ok("ps", "-q")
    process.kill()
    process.wait()
    assert home.ok("wait", container) == "137"
    home.ok("system", "prune", "-f")
    assert home.ok("ps", "-aq") == ""


def test_a_process_that_is_killed_while_its_network_is_made(
    home: Minidocker, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ready and waits for the word to go, which cannot come: nobody may wait for the other for ever."""

    def connect(_run: str, _id: str, pid: int, *_rest: object) -> NoReturn:
        time.sleep(1)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not records.start_time(pid))
        raise NetworkError("there is no such process any more")

    monkeypatch.setattr("minidocker.container.network.connect", connect)
    engine = open_engine(roots.root, roots.run)
    with pytest.raises(StartError):
        stories.run(engine, "busybox", RunOptions(command=("sleep", "9"), remove=True, detach=True))
    assert home.ok("ps", "-aq") == ""


# Says when the command itself has begun: before that, Python answers ctrl-c, with a traceback, or dies of it.
BEGUN = """
import sys
from minidocker.cli import entry, main as cli
carry_out = cli.main
def main(argv):
    print("begun", file=sys.stderr, flush=True)
    return carry_out(argv)
cli.main = main
entry.entry()
"""


def begun(home: Minidocker, *words: str) -> "subprocess.Popen[bytes]":
    """Start a command and return it when it has begun."""
    argv, pipe = [sys.executable, "-c", BEGUN, *words], subprocess.PIPE
    process = subprocess.Popen(argv, env={**os.environ, **home.env}, stdout=pipe, stderr=pipe)
    assert process.stderr
    assert process.stderr.readline() == b"begun\n"
    return process


@pytest.mark.parametrize("delay", [0, 0.01, 0.02, 0.04, 0.06, 0.09, 0.12, 0.15, 0.2, 0.5])
@pytest.mark.parametrize("remove", [(), ("--rm",)])
def test_during_create_and_start(home: Minidocker, delay: float, remove: tuple[str, ...]) -> None:
    """Whenever it comes: the container runs and its id is printed, or it does not run and there is no half of it."""
    process = begun(home, "run", *remove, "-d", "-p", "127.0.0.1::80", "busybox", "sleep", "1000")
    time.sleep(delay)
    code, out, _ = interrupted(process)
    printed = out.split()
    assert code == (0 if printed else 130)
    assert home.ok("ps", "-q", "--no-trunc").split() == printed
    assert printed or not remove or home.ok("ps", "-aq") == ""
    remove_containers(home)
    home.ok("system", "prune", "-f")  # for what ctrl-c has kept from being deleted
    folder = f"{home.env['MINIDOCKER_ROOT']}/containers"
    assert not os.path.isdir(folder) or os.listdir(folder) in ([], ["names.lock"])


@pytest.mark.parametrize("remove", [False, True])
def test_an_interrupt_just_after_the_start(home: Minidocker, monkeypatch: pytest.MonkeyPatch, remove: bool) -> None:
    """Whoever called `run` was told of no container, so none may run."""
    start = lifecycle.start

    def start_and_be_interrupted(containers: records.Containers, container: records.Container, attach: bool) -> None:
        start(containers, container, attach)
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "start", start_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        options = RunOptions(command=("sleep", "1000"), network="none", remove=remove, detach=True)
        stories.run(open_engine(), "busybox", options)
    wait_until(lambda: home.ok("ps", "-q") == "")
    assert (home.ok("ps", "-aq") == "") == remove


def test_when_all_is_done_and_only_the_reader_is_slow(home: Minidocker) -> None:
    """The container runs: its id is printed all the same, into a pipe that has no room before that."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    words = ("run", "-d", "--network", "none", "busybox", "sleep", "1000")
    process = home.start(*words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    wait_until(lambda: home.ok("ps", "-q") != "")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    with open(reader, "rb") as printed:
        printed.read(filled)
        assert process.wait(60) == 0
        assert printed.read().decode().strip() == home.ok("ps", "-q", "--no-trunc")
    assert process.stderr
    assert process.stderr.read() == b""


def test_during_an_attached_run(home: Minidocker) -> None:
    script = f"trap 'echo caught; exit 4' INT; echo ready; {LOOP}"
    words = ("run", "--name", "front", "--network", "none", "busybox", "sh", "-c", script)
    process = home.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    assert interrupted(process) == (4, "caught\n", "")
    assert state(home, "front") == "exited 4"


def test_a_program_that_ignores_ctrl_c_does_not_hold_the_command(home: Minidocker) -> None:
    words = ("run", "--name", "deaf", "--network", "none", "busybox", "sh", "-c", f"trap '' INT; echo ready; {LOOP}")
    process = home.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert interrupted(process)[0] == 130
    assert state(home, "deaf") == "running 0"
