"""How containers end, and what those who watch, write, wait, start or stop at that moment get to see."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Minidocker, Roots
from containerkit import detached, wait_until
from minidocker import engine
from minidocker.container import launch, records, shims, stream
from minidocker.container.options import ExecOptions, RunOptions
from minidocker.engine import Engine
from minidocker.errors import ContainerNotFound, ContainerStateError, InvalidArgument, StartError

pytestmark = pytest.mark.root


def ended(pid: int) -> bool:
    return records.start_time(pid) == 0


def test_an_exec_that_leaves_a_writer_behind_ends(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    attachment = engine.execute(home, container, ExecOptions(("sh", "-c", "yes & exit 3")))
    assert attachment
    size = sum(len(data) for _, data in attachment.frames())
    assert attachment.exit_code == 3
    assert size < 64 << 20


def test_a_reader_who_pauses_gets_all_of_it_and_nobody_waits_for_him(home: Engine) -> None:
    command = ("sh", "-c", "dd if=/dev/zero bs=1M count=3 2>/dev/null; exit 6")
    container, attachment = engine.run(home, "busybox", RunOptions(command=command, network="none"))
    assert attachment
    frames = attachment.frames()
    size = 0
    while size < 2_000_000:  # about as much stays between us and the end as the shim holds for a reader
        size += len(next(frames)[1])
    begun = time.monotonic()
    assert engine.wait(home, home.containers.load(container.id)) == 6
    assert time.monotonic() - begun < 3
    time.sleep(0.5)
    assert size + sum(len(data) for _, data in frames) == 3 << 20
    assert attachment.exit_code == 6


def test_nonsense_from_who_is_attached_hurts_nobody(home: Engine) -> None:
    container = detached(home, "cat", interactive=True, terminal=True)
    for payload in (b"{}", b"[]", b"no json", b'{"rows": 1e9, "columns": 1}', b'{"rows": "x", "columns": 1}'):
        attachment = engine.attach(home, container)
        attachment.socket.sendall(stream.pack(stream.RESIZE, payload))
        attachment.close()
    attachment = engine.attach(home, container)
    attachment.socket.sendall(b"\xff" * 100)
    assert attachment.socket.recv(10) == b""
    time.sleep(0.1)
    assert home.containers.load(container.id).running


def test_input_of_a_detached_container_stays_open_for_the_next(home: Engine) -> None:
    container = detached(home, "cat", interactive=True)
    for word in (b"one\n", b"two\n"):
        attachment = engine.attach(home, container)
        attachment.send_stdin(word)
        attachment.close_stdin()
        assert next(attachment.frames())[1] == word
        attachment.close()
    assert home.containers.load(container.id).running


def test_a_container_that_removes_itself_survives_a_restart(home: Engine) -> None:
    container = detached(home, "sh", "-c", "echo x >> /n; exec sleep 100", remove=True)
    engine.restart(home, container, timeout=0)
    again = home.containers.load(container.id)
    assert again.running
    assert again.state.pid != container.state.pid
    engine.stop(home, again, timeout=0)
    assert home.containers.list() == []


def test_waiting_for_a_container_that_was_removed_is_no_success(home: Engine) -> None:
    container = detached(home, "sh", "-c", "sleep 0.3; exit 5", remove=True)
    assert engine.wait(home, container) == 5
    with pytest.raises(ContainerNotFound):
        engine.wait(home, container)


def test_stop_waits_for_a_start_that_goes_on(home: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    container = engine.create(home, "busybox", RunOptions(command=("sleep", "100"), network="none"))
    may_go, begun = threading.Event(), threading.Event()

    def slowly(*args: object) -> object:
        begun.set()
        may_go.wait(10)
        return original(*args)  # type: ignore[arg-type]

    original = launch.launch
    monkeypatch.setattr(launch, "launch", slowly)
    starting = threading.Thread(target=engine.start, args=(home, container))
    starting.start()
    begun.wait(10)
    stopping = threading.Thread(target=engine.stop, args=(home, container, 0))
    stopping.start()
    time.sleep(0.2)
    may_go.set()
    starting.join(10)
    stopping.join(10)
    assert home.containers.load(container.id).state.status == "exited"


def test_an_interrupted_start_says_what_is_so(home: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted just when the program began: it runs, and its record must not say otherwise."""
    follow = launch._follow

    def interrupted(connection: socket.socket, kind: int, *rest: object) -> None:
        if kind == stream.STARTED:
            raise KeyboardInterrupt
        follow(connection, kind, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(launch, "_follow", interrupted)
    container = engine.create(home, "busybox", RunOptions(command=("sleep", "100"), network="none"))
    with pytest.raises(KeyboardInterrupt):
        engine.start(home, container)
    assert home.containers.load(container.id).running


def test_a_failed_start_has_undone_everything_when_it_is_told(home: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minidocker.container.network.connect", fails)
    container = engine.create(home, "busybox", RunOptions(command=("sleep", "100")))
    with pytest.raises(KeyboardInterrupt):
        engine.start(home, container)
    assert not os.path.exists(home.containers.run_path(container.id))
    assert home.containers.load(container.id).state.status == "created"


def test_a_start_that_hangs_ends_with_its_command(home: Engine, minidocker: Minidocker) -> None:
    container = engine.create(home, "busybox", RunOptions(command=("true",), network="none", name="hangs"))
    upper = Path(home.containers.path(container.id, "upper"))
    (upper / "etc").mkdir()
    os.mkfifo(upper / "etc/passwd")  # whoever reads it waits
    process = minidocker.start("start", "hangs")
    wait_until(lambda: os.path.exists(home.containers.run_path(container.id, "attach.sock")))
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.wait(5)
    wait_until(lambda: not os.path.exists(home.containers.run_path(container.id)))


def test_a_container_holds_nothing_of_its_command(minidocker: Minidocker, home: Engine, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    done = subprocess.Popen(
        [*minidocker.argv, "run", "-d", "--network", "none", "busybox", "sleep", "100"],
        env={**os.environ, **minidocker.env},
        stdout=subprocess.DEVNULL,
        pass_fds=(writing,),
        cwd=tmp_path,
    )
    os.close(writing)
    assert done.wait(20) == 0
    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b""  # the end: nobody has it open
    container = home.containers.list()[0]
    assert os.readlink(f"/proc/{container.state.shim}/cwd") == "/"
    os.close(reading)


def test_exec_in_a_container_that_ends_says_so(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    engine.kill(home, container)
    wait_until(lambda: ended(container.state.pid))
    with pytest.raises((StartError, ContainerStateError), match="is not running"):
        engine.execute(home, container, ExecOptions(("true",)))


def test_a_great_many_execs_while_the_container_ends(home: Engine) -> None:
    container = detached(home, "sleep", "0.5")
    problems = []
    while not ended(container.state.pid):
        try:
            engine.execute(home, container, ExecOptions(("true",), detach=True))
        except (StartError, ContainerStateError) as error:
            problems.append(str(error))
    assert all("is not running" in problem for problem in problems), problems


def test_long_arguments_and_texts(home: Engine) -> None:
    options = RunOptions(command=("x" * 200_000,), network="none", remove=True)
    with pytest.raises(StartError, match="exec: .*xxx") as caught:
        engine.run(home, "busybox", options)
    assert caught.value.exit_code in (126, 127)
    with pytest.raises(StartError, match="argument list too long"):
        engine.run(home, "busybox", options._replace(command=("true", "x" * 200_000)))


def test_bytes_that_are_no_text(home: Engine, minidocker: Minidocker) -> None:
    word = os.fsdecode(b"\xff\xfe")
    command = ("run", "--rm", "--network", "none", "-e", f"A={word}", "-h", word, "busybox", "sh", "-c")
    done = minidocker(*command, "echo $0 $A; hostname; cat /etc/hostname", word)
    assert os.fsencode(done.stdout) == b"\xff\xfe \xff\xfe\n\xff\xfe\n\xff\xfe\n"


@pytest.fixture
def small_disk(roots: Roots, busybox_image: str) -> Iterator[Callable[[], None]]:
    """Put the containers on a disk of 3 MB; calling it fills that."""
    folder = f"{roots.root}/containers"
    os.makedirs(folder, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "small", folder], check=True)

    def fill() -> None:
        with open(f"{folder}/full.up", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    yield fill
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(home: Engine, small_disk: Callable[[], None], minidocker: Minidocker) -> None:
    running = detached(home, "sh", "-c", "read x; echo late; exit 5", interactive=True)
    attachment = engine.attach(home, running)
    waiting: list[int] = []
    waiter = threading.Thread(target=lambda: waiting.append(engine.wait(home, running)))
    waiter.start()
    time.sleep(0.2)
    small_disk()
    before = sorted(os.listdir(home.containers.folder))
    done = minidocker("run", "--network", "none", "busybox", "true")
    assert done.returncode == 125
    assert "no space left on device" in done.stderr.lower()
    assert sorted(os.listdir(home.containers.folder)) == before
    attachment.send_stdin(b"go\n")
    assert b"".join(data for _, data in attachment.frames()) == b"late\n"
    assert attachment.exit_code == 5
    waiter.join(5)
    assert waiting == [5]
    wait_until(lambda: ended(running.state.shim))
    state = home.containers.load(running.id).state
    assert (state.status, state.exit_code, state.error) == ("exited", 5, "")
    engine.remove(home, home.containers.load(running.id))
    assert sorted(os.listdir(home.containers.folder)) == ["full.up", "names.lock"]


def test_what_a_killed_create_has_left_is_tidied(home: Engine) -> None:
    kept = engine.create(home, "busybox", RunOptions(command=("true",)))
    os.mkdir(home.containers.path("f" * 64))
    engine.tidy(home)
    assert sorted(home.containers.ids()) == [kept.id]


def test_a_volume_that_is_not_to_be_filled(home: Engine, minidocker: Minidocker) -> None:
    command = ("run", "--rm", "--network", "none", "-v", "conf:/etc:nocopy", "busybox", "ls", "/etc")
    assert minidocker.ok(*command).split() == ["hostname", "hosts", "resolv.conf"]


def test_top_says_what_it_cannot_show(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    assert engine.top(home, container, ["-ef"])[1][0][-1] == "sleep 100"
    with pytest.raises(InvalidArgument, match="takes no other option"):
        engine.top(home, container, ["-o", "pid"])


def test_a_shim_for_which_there_is_nothing_to_run_ends() -> None:
    title = f"minidocker-shim {os.urandom(6).hex()}"
    connection = shims.new(title)
    wait_until(lambda: bool(shims_called(title)))
    connection.close()
    wait_until(lambda: not shims_called(title))


def test_the_server_of_shims_is_started_anew_when_it_has_been_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shims, "_server", None)
    titles = [f"minidocker-shim {os.urandom(6).hex()}" for _ in range(3)]
    connections = [shims.new(title) for title in titles[:2]]
    server = shims._server
    assert server and f"\nPPid:\t{server.pid}\n" in status_of(titles[1])
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)
    connections.append(shims.new(titles[2]))
    wait_until(lambda: all(map(shims_called, titles)))
    for connection in connections:
        connection.close()
    wait_until(lambda: not any(map(shims_called, titles)))
    assert shims._server and shims._server.pid != server.pid
    shims.end()


def status_of(title: str) -> str:
    wait_until(lambda: bool(shims_called(title)))
    return Path(f"/proc/{shims_called(title)[0]}/status").read_text()


def shims_called(title: str) -> list[str]:
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
            found += [pid] * (title in file.read().split("\0"))
    return found
