"""A tree of files as an image sees it: a stack of layers looked through from the top, or simply one folder.

Every question is answered within the tree. A symbolic link is followed as if the tree were `/`; nothing leads out.

See: `minidocker.image.overlay`, which knows how layers hide one another.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minidocker.build.ignore import Ignore
from minidocker.errors import BuildError
from minidocker.image import overlay

_MOST_LINKS = 255


class Tree(NamedTuple):
    """`layers` are folders, the topmost first; in a build context, `ignore` says which files count as absent."""

    layers: tuple[str, ...]
    ignore: Ignore = Ignore()

    def real(self, path: str) -> str | None:
        """Return where the file `path` (`/a/b`) lies on the host, or None. `path` must be free of symbolic links."""
        relative = path.strip("/")
        if relative and not self._visible(relative):
            return None
        return overlay.lookup(relative, self.layers)

    def _visible(self, relative: str) -> bool:
        """Say whether the rules leave a file in: by themselves, or because it is a folder with something left in."""
        if not self.ignore.rules or not self.ignore.excludes(relative):
            return True
        real = os.path.join(self.layers[0], relative)
        if not self.ignore.takes_back or not os.path.isdir(real) or os.path.islink(real):
            return False
        return any(self._visible(f"{relative}/{name}") for name in os.listdir(real))

    def status(self, path: str) -> os.stat_result | None:
        """Return lstat's answer about `path`, or None when there is no such file."""
        real = self.real(path)
        return os.lstat(real) if real is not None else None

    def is_directory(self, path: str) -> bool:
        """Say whether `path` is a directory; a symbolic link to one is none."""
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def names(self, path: str) -> list[str]:
        """Return the sorted names in the directory `path`."""
        return [os.path.basename(child) for child, _, _ in self._children(path.rstrip("/"), self._merged(path))]

    def walk(self, path: str) -> Iterator[tuple[str, str, os.stat_result]]:
        """Yield all below the directory `path`, parents before their children: its path, where it lies, its status.

        Links are not followed.
        """
        yield from self._walk(path.rstrip("/"), self._merged(path))

    def _walk(self, base: str, folders: Sequence[str]) -> Iterator[tuple[str, str, os.stat_result]]:
        for path, found, status in self._children(base, folders):
            yield path, found[0], status
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(path, found)

    def _merged(self, path: str) -> Sequence[str]:
        """Return the folders, the topmost first, whose content together is that of `path`."""
        folders: Sequence[str] = self.layers
        for part in path.split("/"):
            folders = overlay.merged(folders, part) if part else folders
        return folders

    def _children(self, base: str, folders: Sequence[str]) -> Iterator[tuple[str, Sequence[str], os.stat_result]]:
        """Yield what is in a merged directory, sorted by name: the path, the file or folders it stands for, the status.

        Where only one layer has the directory there is nothing to merge, and one lstat(2) for each file is enough.
        """
        alone = len(folders) == 1
        for name in sorted({name for folder in folders for name in os.listdir(folder)}):
            found = [f"{folders[0]}/{name}"] if alone else overlay.merged(folders, name)
            if not found or not self._visible(f"{base[1:]}/{name}" if base else name):
                continue
            try:
                status = os.lstat(found[0])
            except FileNotFoundError:  # deleted since the folder was listed
                continue
            if not overlay.is_whiteout(status):
                yield f"{base}/{name}", found, status

    def resolve(self, path: str) -> str:
        """Follow every symbolic link in `path`, also the last; what does not exist stays as it is.

        Raises BuildError for links that lead in a circle.
        """
        done: list[str] = []
        left = path.split("/")[::-1]
        links = 0
        while left:
            name = left.pop()
            if name in ("", "."):
                continue
            if name == "..":
                done = done[:-1]
                continue
            real = self.real("/" + "/".join([*done, name]))
            if real is None or not os.path.islink(real):
                done.append(name)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise BuildError(f"too many symbolic links in {path}")
            target = os.readlink(real)  # an absolute one begins at the tree's own root, not at the host's
            done = [] if target.startswith("/") else done
            left += target.split("/")[::-1]
        return "/" + "/".join(done)
