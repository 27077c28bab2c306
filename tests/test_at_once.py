"""Twenty commands at once, on the same and on different things: no lost update, nothing given twice, no dead lock."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from conftest import Minidocker, Roots
from minidocker import engine as stories
from minidocker import progress, storage
from minidocker.container import records, view
from minidocker.container.options import RunOptions
from minidocker.engine import open_engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

MANY = 20
PATIENCE = 180  # seconds after which we say that it is a dead lock


class Done:
    """How one of many commands ended."""

    def __init__(self, words: tuple[str, ...], process: "subprocess.Popen[bytes]") -> None:
        out, err = process.communicate(timeout=PATIENCE)
        self.words, self.code = words, process.returncode
        self.out, self.err = out.decode().strip(), err.decode().strip()
        assert "bug in minidocker" not in self.err, f"{words}: {self.err}"

    def __repr__(self) -> str:
        return f"{' '.join(self.words)}: {self.code} {self.out} {self.err}"


def at_once(minidocker: Minidocker, commands: Iterable[tuple[str, ...]]) -> list[Done]:
    """Start all commands together and wait for all."""
    started = [
        (words, minidocker.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL))
        for words in commands
    ]
    return [Done(*each) for each in started]


def all_well(done: list[Done]) -> None:
    assert not [each for each in done if each.code], done


def test_the_same_pull(minidocker: Minidocker, roots: Roots, embedded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_EMBEDDED", embedded)
    all_well(at_once(minidocker, [("pull", "busybox")] * MANY))
    assert len(minidocker.ok("images", "-q").split()) == 1
    assert os.listdir(f"{roots.root}/images/ingest") == []
    minidocker.ok("run", "--rm", "--network", "none", "busybox", "true")


def test_the_same_build(minidocker: Minidocker, busybox_image: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox_image}\nCOPY f /f\nRUN cp /f /g\nENV A=1\n")
    (tmp_path / "f").write_bytes(os.urandom(100_000))
    names = [f"built{number}" for number in range(8)]
    all_well(at_once(minidocker, [("build", "-q", "--network", "none", "-t", name, str(tmp_path)) for name in names]))
    for name in names:
        assert minidocker.ok("run", "--rm", "--network", "none", name, "sh", "-c", "cmp /f /g && echo $A") == "1"


def test_names_come_and_go(minidocker: Minidocker, busybox_image: str) -> None:
    """Each command changes the one index: every change has to be in it at the end."""
    stay = [("tag", busybox_image, f"stay{number}") for number in range(MANY // 2)]
    go = [f"go{number}" for number in range(MANY // 2)]
    for name in go:
        minidocker.ok("tag", busybox_image, name)
    all_well(at_once(minidocker, [*stay, *(("rmi", name) for name in go)]))
    names = set(minidocker.ok("images", "--format", "{{.Repository}}").split())
    assert names == {"busybox", *(f"stay{number}" for number in range(MANY // 2))}


def test_the_same_name_is_given_once(minidocker: Minidocker, busybox_image: str) -> None:
    command = ("run", "-d", "--name", "one", "--network", "none", busybox_image, "sleep", "1000")
    done = at_once(minidocker, [command] * MANY)
    assert sorted(each.code for each in done) == [0] + [125] * (MANY - 1)
    assert all('The container name "/one" is already in use' in each.err for each in done if each.code)
    assert minidocker.ok("ps", "-aq", "--no-trunc") == next(each.out for each in done if not each.code)
    assert len(os.listdir(f"{minidocker.env['MINIDOCKER_ROOT']}/containers")) == 2, "names.lock and the container"


def test_addresses_and_ports_are_given_once(minidocker: Minidocker, busybox_image: str) -> None:
    command = ("run", "-d", "-p", "127.0.0.1::80", busybox_image, "sleep", "1000")
    done = at_once(minidocker, [command] * MANY)
    all_well(done)
    documents = json.loads(minidocker.ok("inspect", *(each.out for each in done)))
    addresses = {document["NetworkSettings"]["IPAddress"] for document in documents}
    ports = {document["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] for document in documents}
    assert (len(addresses), len(ports)) == (MANY, MANY)
    all_well(at_once(minidocker, [("rm", "-f", each.out) for each in done]))
    assert os.listdir(f"{minidocker.env['MINIDOCKER_RUN']}/network/leases") == []
    assert os.listdir(f"{minidocker.env['MINIDOCKER_RUN']}/network/published") == []


def test_the_same_port_is_given_once(minidocker: Minidocker, busybox_image: str) -> None:
    port = 20_000 + os.getpid() % 10_000  # one that nobody is given who asks for any, as tests beside this one do
    command = ("run", "-d", "-p", f"127.0.0.1:{port}:80", busybox_image, "sleep", "1000")
    done = at_once(minidocker, [command] * 8)
    assert sorted(each.code for each in done) == [0] + [125] * 7
    assert all(f"127.0.0.1:{port}" in each.err for each in done if each.code)


def test_one_container_started_stopped_and_removed(minidocker: Minidocker, busybox_image: str) -> None:
    """Whatever comes first: what is left is whole, and nobody waits for ever."""
    minidocker.ok("run", "-d", "--name", "one", busybox_image, "sleep", "1000")
    kinds: list[tuple[str, ...]] = [
        ("stop", "-t", "0", "one"),
        ("start", "one"),
        ("restart", "-t", "0", "one"),
        ("exec", "one", "true"),
        ("kill", "one"),
        ("cp", "/etc/passwd", "one:/tmp/"),
        ("commit", "one", "made"),
    ]
    at_once(minidocker, (kinds * MANY)[:MANY])
    minidocker.ok("start", "one")
    assert minidocker.ok("exec", "one", "echo", "fine") == "fine"
    at_once(minidocker, [("rm", "-f", "one")] * 6 + [("start", "one")] * 6)
    minidocker("rm", "-f", "one")
    assert minidocker.ok("ps", "-aq") == ""


def test_removing_images_while_they_are_used(minidocker: Minidocker, busybox_image: str, roots: Roots) -> None:
    """A container that was made keeps its layers, whoever removes its image."""
    commands: list[tuple[str, ...]] = []
    for number in range(6):
        minidocker.ok("tag", busybox_image, f"other{number}")
        commands += [("create", f"other{number}", "true"), ("rmi", "-f", f"other{number}"), ("system", "prune", "-f")]
    commands.append(("rmi", "-f", busybox_image))
    gone = ("o such image", "unable to find image")
    done = at_once(minidocker, commands)
    assert not [each for each in done if each.code and not any(text in each.err.lower() for text in gone)], done
    for container in minidocker.ok("ps", "-aq").split():
        minidocker.ok("start", container)


def test_pruning_while_others_build(minidocker: Minidocker, busybox_image: str, tmp_path: Path) -> None:
    contexts = []
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "Dockerfile").write_text(f"FROM {busybox_image}\nRUN echo {number} > /n\nRUN cat /n > /m\n")
        contexts.append(("build", "-q", "--network", "none", "-t", f"n{number}", str(folder)))
    at_once(minidocker, [*contexts, *[("system", "prune", "-f")] * 5])
    for number in range(5):
        minidocker.ok(*contexts[number])
        assert minidocker.ok("run", "--rm", "--network", "none", f"n{number}", "cat", "/m") == str(number)


def test_the_trial_of_overlayfs_beside_a_prune(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command of all tries a mount; what that lies in is not what a killed command has left."""
    engine = open_engine()

    @contextlib.contextmanager
    def mount_while_another_prunes(
        containers: records.Containers, trial: records.Container, read_only: bool
    ) -> Iterator[str]:
        with view.mounted(containers, trial, read_only) as merged:
            stories.tidy(engine)
            assert os.path.isdir(containers.path(trial.id, "upper"))
            yield merged

    monkeypatch.setattr(storage, "mounted", mount_while_another_prunes)
    assert storage.overlay_works(engine, progress.silent)
    assert engine.containers.ids() == []


def test_descriptors_and_threads_of_a_long_process_stay(roots: Roots, busybox_image: str) -> None:
    """A notebook's kernel runs hundreds of containers."""
    import threading

    home = open_engine(roots.root, roots.run)

    def once(network: str) -> None:
        _, attachment = stories.run(home, busybox_image, RunOptions(command=("true",), remove=True, network=network))
        assert attachment
        assert list(attachment.frames()) == []
        attachment.close()

    for network in ("bridge", "none"):
        once(network)
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    for number in range(20):
        once(("bridge", "none")[number % 2])
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
