"""A disk that is full: every story says so, leaves nothing half, loses nothing, and works again when there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Minidocker, Roots, add_image, remove_containers
from minidocker.engine import open_engine

pytestmark = pytest.mark.root

FULL = "no space left on device"


class Disk:
    """A small filesystem of its own that can be filled up to some bytes, and freed again."""

    def __init__(self, path: str, size: str) -> None:
        self.path = path
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)

    def fill(self, leave: int) -> None:
        with open(f"{self.path}/filler", "wb", buffering=0) as file:
            while (free := self.free()) > leave:
                try:
                    file.write(bytes(min(free - leave, 1 << 20)))
                except OSError:
                    return

    def free(self) -> int:
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize

    def empty(self) -> None:
        os.unlink(f"{self.path}/filler")

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)


@pytest.fixture
def disk(roots: Roots, minidocker: Minidocker) -> Iterator[Disk]:
    """Give MINIDOCKER_ROOT a small disk of its own."""
    disk = Disk(roots.root, "40m")
    yield disk
    remove_containers(minidocker)
    minidocker("system", "prune", "-a", "-f")
    disk.close()


@pytest.fixture
def home(disk: Disk, roots: Roots, minidocker: Minidocker, embedded: str, tmp_path: Path) -> Minidocker:
    """Return the command with an image, a container that has changed something, and an archive to load."""
    add_image(roots, embedded, minidocker, "busybox:latest")
    context = tmp_path / "context"
    context.mkdir()
    (context / "f").write_bytes(os.urandom(300_000))
    (context / "Dockerfile").write_text("FROM busybox\nCOPY f /f\nRUN cp /f /g && echo built\n")
    minidocker.ok("build", "-q", "--network", "none", "-t", "other", str(context))
    minidocker.ok("save", "-o", str(tmp_path / "other.tar"), "other")
    minidocker.ok("rmi", "other")
    (context / "f").write_bytes(os.urandom(300_000))
    script = "dd if=/dev/urandom of=/f bs=1k count=300"
    minidocker.ok("run", "--name", "box", "--network", "none", "busybox", "sh", "-c", script)
    return minidocker


def whole(roots: Roots) -> list[str]:
    """List what there is, and see that each image is whole."""
    engine = open_engine(roots.root, roots.run)
    for image in engine.images.images():
        for layer in engine.images.manifest(image).layers:
            engine.images.layout.check_blob(layer.digest)
        assert all(engine.images.has_layer(diff_id) for diff_id in engine.images.config(image).diff_ids)
    containers = [container.id for container in engine.containers.list()]
    for container in containers:
        assert os.path.isdir(engine.containers.path(container, "upper"))
    return sorted([image.id for image in engine.images.images()] + containers)


STORIES = {
    "load": ("load", "-i", "{tmp}/other.tar"),
    "build": ("build", "--network", "none", "-t", "built", "{tmp}/context"),
    "commit": ("commit", "box", "committed"),
    "create": ("create", "busybox", "true"),
    "run": ("run", "--rm", "busybox", "true"),
    "start": ("start", "-a", "box"),
    "tag": ("tag", "busybox", "again"),
    "cp": ("cp", "{tmp}/other.tar", "box:/tmp/x"),
    "rename": ("rename", "box", "crate"),
}


@pytest.mark.parametrize("leave", [0, 16_384, 250_000])
@pytest.mark.parametrize("story", STORIES)
def test_a_full_disk(home: Minidocker, disk: Disk, roots: Roots, tmp_path: Path, story: str, leave: int) -> None:
    words = [word.format(tmp=tmp_path) for word in STORIES[story]]
    before = whole(roots)
    disk.fill(leave)
    done = home(*words)
    assert done.returncode == 0 or FULL in done.stderr.lower(), done.stderr
    if done.returncode and story != "build":  # the steps that succeeded are images
        assert whole(roots) == before
    whole(roots)
    for listing in (("ps", "-a"), ("images", "-a"), ("inspect", "box")):
        if done.returncode or story != "rename":
            home.ok(*listing)
    disk.empty()
    if done.returncode:
        home.ok(*words)
    whole(roots)


@pytest.mark.parametrize("leave", [0, 100_000, 1_000_000, 2_500_000])
def test_pull(
    disk: Disk, roots: Roots, minidocker: Minidocker, embedded: str, monkeypatch: pytest.MonkeyPatch, leave: int
) -> None:
    monkeypatch.setenv("MINIDOCKER_EMBEDDED", embedded)
    minidocker("ps")
    disk.fill(leave)
    done = minidocker("pull", "busybox")
    assert done.returncode == 0 or FULL in done.stderr.lower(), done.stderr
    assert minidocker("images", "-q").stdout == "" or done.returncode == 0
    disk.empty()
    minidocker.ok("pull", "busybox")
    minidocker.ok("run", "--rm", "--network", "none", "busybox", "true")


def test_removing_is_what_one_does_then(home: Minidocker, disk: Disk) -> None:
    disk.fill(0)
    home.ok("rm", "box")
    home.ok("rmi", "busybox")
    home.ok("system", "prune", "-f")


def test_a_container_that_fills_the_disk_is_not_lost(home: Minidocker, disk: Disk) -> None:
    """Its log misses lines, the end and its exit code are known all the same."""
    script = "exec </in; echo before; read go; seq 500; read go; echo last; exit 3"
    fifo = f"{disk.path}/fifo"
    os.mkfifo(fifo)
    keys = os.open(fifo, os.O_RDWR)
    command = ("busybox", "sh", "-c", script)
    name = home.ok("run", "-d", "--network", "none", "-v", f"{fifo}:/in", *command)
    disk.fill(0)
    os.write(keys, b"go\n")
    home.ok("exec", name, "true")  # it runs and can be entered
    os.write(keys, b"go\n")
    assert home.ok("wait", name) == "3"
    assert home.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name) == "exited 3"
    disk.empty()
    assert home.ok("logs", name).startswith("before")
    os.write(keys, b"go\ngo\n")
    assert home("start", "-a", name).returncode == 3
    os.close(keys)
    assert home.ok("logs", name).endswith("500\nlast"), "what is written after a torn line is not lost"


def test_a_full_run_folder(roots: Roots, minidocker: Minidocker, busybox_image: str) -> None:
    disk = Disk(roots.run, "200k")
    try:
        minidocker.ok("run", "--rm", busybox_image, "true")
        disk.fill(0)
        done = minidocker("run", "--rm", "-p", "127.0.0.1::80", busybox_image, "true")
        assert done.returncode == 0 or FULL in done.stderr.lower(), done.stderr
        assert minidocker.ok("ps", "-aq") == ""
        disk.empty()
        minidocker.ok("run", "--rm", "-p", "127.0.0.1::80", busybox_image, "true")
        minidocker.ok("system", "prune", "-f")
    finally:
        disk.close()
