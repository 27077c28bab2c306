"""A folder for what a build makes on its way, on the filesystem of the layers; gone when the build is over."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from minidocker.image.unpacked import spread
from minidocker.linux import trees


class Workspace:
    """Hands out new folders in one build's own folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.made = 0

    def new(self) -> str:
        """Make an empty folder and return its path."""
        self.made += 1
        path = f"{self.folder}/{self.made}"
        os.mkdir(path)
        os.chmod(path, 0o755)
        return path


@contextmanager
def workspace(folder: str) -> Iterator[Workspace]:
    """Give a build its own folder below `folder`, and delete what killed builds have left there.

    A build holds a lock (flock) on its folder; so a folder that can be locked has nobody any more.
    """
    os.makedirs(folder, mode=0o711, exist_ok=True)
    spread(folder)
    delete_leftovers(folder)
    with _locked(folder):
        own = f"{folder}/{os.urandom(8).hex()}"
        os.mkdir(own, 0o700)
        lock = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield Workspace(own)
    finally:
        trees.delete(own)
        os.close(lock)


def delete_leftovers(folder: str) -> None:
    """Delete what killed builds have left below `folder`, if there is any."""
    if os.path.isdir(folder):
        with _locked(folder):
            for name in os.listdir(folder):
                _delete_unless_locked(f"{folder}/{name}")


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Hold the folder itself, so that nobody takes a build's new folder for a killed one's before it is locked."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _delete_unless_locked(path: str) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        trees.delete(path)
    except BlockingIOError:
        return
    finally:
        os.close(lock)
