"""The unpacked layers: a folder for each, as overlayfs wants it for a lower directory.

    <diff id>/        the layer's tree; whole as soon as it has this name
    <diff id>.size    the size of its files in bytes, so that nobody has to walk it again
    <diff id>.lock    held (flock) by whoever is making the layer
    <diff id>.*.tmp/  a layer in the making, or in the unmaking

Whoever makes layers holds the store's content lock shared; whoever deletes them holds it alone.
"""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from minidocker.errors import InvalidManifest
from minidocker.image.layout import replace_file
from minidocker.image.oci import check_digest
from minidocker.linux import trees

# FS_IOC_GETFLAGS and FS_IOC_SETFLAGS, which take a number of 32 bits though they were defined with a long.
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602
TOP_FOLDER = 0x00020000


class UnpackedLayers:
    """The layers in folder `path`. Making the object touches nothing."""

    def __init__(self, path: str) -> None:
        self.path = path

    def layer(self, diff_id: str) -> str:
        """Return where the layer's tree is, or would be. Raises `InvalidManifest` for what is not a digest."""
        return f"{self.path}/{check_digest(diff_id).removeprefix('sha256:')}"

    def has(self, diff_id: str) -> bool:
        """Say whether the layer is here, which is all or nothing."""
        return os.path.isdir(self.layer(diff_id))

    def size(self, diff_id: str) -> int:
        """Return the size of the layer's files in bytes. Raises `InvalidManifest` when the layer is not here."""
        try:
            with open(f"{self.layer(diff_id)}.size", encoding="ascii") as file:
                return int(file.read())
        except FileNotFoundError as error:
            raise InvalidManifest(f"layer {diff_id} is not unpacked: pull or load its image again") from error

    def all(self) -> list[str]:
        """Return the diff ids of the layers there are."""
        return [f"sha256:{name}" for name in _names(self.path) if "." not in name]

    def make(self, diff_id: str, fill: Callable[[str], int]) -> str:
        """Make the layer unless it is here, and return its path: `fill` is given an empty folder, returns the size.

        Two at once do the work once; when `fill` raises nothing is left behind.
        """
        with self._locked(diff_id):
            if not self.has(diff_id):
                self._delete_unfinished(diff_id)
                temporary = self._temporary(diff_id)
                os.mkdir(temporary, 0o755)
                try:
                    self._publish(temporary, diff_id, fill(temporary))
                except BaseException:
                    trees.delete(temporary)
                    raise
        return self.layer(diff_id)

    def adopt(self, folder: str, diff_id: str, size: int) -> str:
        """Make `folder` the layer by renaming it; where the layer is here already, delete the folder."""
        with self._locked(diff_id):
            if self.has(diff_id):
                trees.delete(folder)
            else:
                self._publish(folder, diff_id, size)
        return self.layer(diff_id)

    def delete(self, diff_id: str) -> int:
        """Delete a layer and return its size. It loses its name first: what has the name is whole."""
        path, size = self.layer(diff_id), 0
        with suppress(InvalidManifest):
            size = self.size(diff_id)
        os.rename(path, self._temporary(diff_id))
        with suppress(FileNotFoundError):
            os.unlink(f"{path}.size")
        self._delete_unfinished(diff_id)  # and what a removal before this one, which was killed, may have left
        return size

    def delete_leftovers(self) -> None:
        """Delete what killed commands left. Nobody may be making layers."""
        for name in _names(self.path):
            if name.endswith((".tmp", ".lock")) or not os.path.isdir(f"{self.path}/{name.removesuffix('.size')}"):
                trees.delete(f"{self.path}/{name}")

    def _temporary(self, diff_id: str) -> str:
        """Name a folder for a layer that is not whole; a new name each time, for ext4 to `spread` by."""
        return f"{self.layer(diff_id)}.{os.urandom(4).hex()}.tmp"

    def _delete_unfinished(self, diff_id: str) -> None:
        """Delete what was begun of a layer. Nobody else may be making or deleting it."""
        name = os.path.basename(self.layer(diff_id))
        for found in _names(self.path):
            if found.startswith(f"{name}.") and found.endswith(".tmp"):
                trees.delete(f"{self.path}/{found}")

    def _publish(self, folder: str, diff_id: str, size: int) -> None:
        replace_file(f"{self.layer(diff_id)}.size", str(size).encode())
        os.rename(folder, self.layer(diff_id))

    @contextmanager
    def _locked(self, diff_id: str) -> Iterator[None]:
        """Hold the layer alone. The lock's file goes when the layer is whole: who waited for it finds the layer."""
        # Nobody else is to reach what an image has brought: a set-id program, say (the class of CVE-2021-41091).
        os.makedirs(self.path, 0o700, exist_ok=True)
        spread(self.path)
        path = f"{self.layer(diff_id)}.lock"
        with open(path, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
            with suppress(FileNotFoundError):
                os.unlink(path)


def spread(folder: str) -> None:
    """Let ext4 put each folder in this one elsewhere on the disk, as it does with those in the root folder.

    ext4 gives no inode away again for a minute after its file was deleted, and looks at each such inode every time it
    needs one nearby: after the removal of an image with 6,700 files, unpacking it again took 2.9 to 5.3 seconds, 0.4
    in a part of the disk where nothing was deleted. Layers have nothing to do with one another, so that is where they
    may go. Other filesystems know no such flag, and need none.
    See: chattr(1), T; ioctl_iflags(2), FS_TOPDIR_FL; Linux, fs/ext4/ialloc.c, recently_deleted.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            flags = int.from_bytes(fcntl.ioctl(fd, GET_FLAGS, bytes(4)), sys.byteorder)
            if not flags & TOP_FOLDER:
                fcntl.ioctl(fd, SET_FLAGS, (flags | TOP_FOLDER).to_bytes(4, sys.byteorder))
    finally:
        os.close(fd)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
