"""The unpacked layers: a folder for each, as overlayfs wants it for a lower directory.

    <diff id>/        the layer's tree; whole as soon as it has this name
    <diff id>.size    the size of its files in bytes, so that nobody has to walk it again
    <diff id>.lock    held (flock) by whoever is making the layer
    <diff id>.tmp/    a layer in the making, or in the unmaking

Whoever makes layers holds the store's content lock shared; whoever deletes them holds it alone.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from minidocker.errors import InvalidManifest
from minidocker.image.layout import replace_file
from minidocker.image.oci import check_digest
from minidocker.linux import trees


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
                temporary = f"{self.layer(diff_id)}.tmp"
                trees.delete(temporary)
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
        trees.delete(f"{path}.tmp")  # a removal before this one may have been killed
        os.rename(path, f"{path}.tmp")
        with suppress(FileNotFoundError):
            os.unlink(f"{path}.size")
        trees.delete(f"{path}.tmp")
        return size

    def delete_leftovers(self) -> None:
        """Delete what killed commands left. Nobody may be making layers."""
        for name in _names(self.path):
            if name.endswith((".tmp", ".lock")) or not os.path.isdir(f"{self.path}/{name.removesuffix('.size')}"):
                trees.delete(f"{self.path}/{name}")

    def _publish(self, folder: str, diff_id: str, size: int) -> None:
        replace_file(f"{self.layer(diff_id)}.size", str(size).encode())
        os.rename(folder, self.layer(diff_id))

    @contextmanager
    def _locked(self, diff_id: str) -> Iterator[None]:
        """Hold the layer alone. The lock's file goes when the layer is whole: who waited for it finds the layer."""
        # Nobody else is to reach what an image has brought: a set-id program, say (the class of CVE-2021-41091).
        os.makedirs(self.path, 0o700, exist_ok=True)
        path = f"{self.layer(diff_id)}.lock"
        with open(path, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
            with suppress(FileNotFoundError):
                os.unlink(path)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
