"""A tree of files as an image sees it: a stack of layers looked through from the top, or simply one folder.

Every question is answered within the tree. A symbolic link is followed as if the tree were `/`; nothing leads out.

See: OCI image-spec, layer.md, Whiteouts; Linux, overlayfs: a whiteout is a character device 0:0.
"""

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from minidocker.build.ignore import Ignore

_MOST_LINKS = 255
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


class TooManyLinks(OSError):
    """Symbolic links that lead in a circle."""


class Tree(NamedTuple):
    """`layers` are folders, the topmost first; in a build context, `ignore` says which files count as absent."""

    layers: tuple[str, ...]
    ignore: Ignore = Ignore()

    def real(self, path: str) -> str | None:
        """Return where the file `path` (`/a/b`) lies on the host, or None. `path` must be free of symbolic links."""
        relative = path.strip("/")
        if relative and self.ignore.rules and not self._visible(relative):
            return None
        for layer in self.layers:
            found, hidden = _look(layer, relative)
            if found or hidden:
                return found
        return None

    def _visible(self, relative: str) -> bool:
        if not self.ignore.excludes(relative):
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
        """Return the sorted names in the directory `path`: those of all layers that show through."""
        relative = path.strip("/")
        seen: set[str] = set()
        for layer in self.layers:
            found, hidden = _look(layer, relative)
            if found and stat.S_ISDIR(os.lstat(found).st_mode):
                seen.update(os.listdir(found))
            if hidden or (found and (_is_opaque(found) or not os.path.isdir(found))):
                break
        base = path.rstrip("/")
        return sorted(name for name in seen if self.real(f"{base}/{name}") is not None)

    def walk(self, path: str) -> Iterator[str]:
        """Yield what is below the directory `path`, parents before their children. Links are not followed."""
        for name in self.names(path):
            child = f"{path.rstrip('/')}/{name}"
            yield child
            if self.is_directory(child):
                yield from self.walk(child)

    def resolve(self, path: str) -> str:
        """Follow every symbolic link in `path`, also the last; what does not exist stays as it is.

        Raises TooManyLinks.
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
                raise TooManyLinks(f"too many symbolic links in {path}")
            target = os.readlink(real)
            done = [] if target.startswith("/") else done
            left += target.split("/")[::-1]
        return "/" + "/".join(done)


def _look(layer: str, relative: str) -> tuple[str | None, bool]:
    """Look for a file in one layer. Return where it is, and whether this layer hides it in the layers below.

    A directory on the way hides what is below when it is opaque; anything else on the way always does.
    """
    current = layer
    hidden = False
    for name in relative.split("/") if relative else ():
        hidden = hidden or _is_opaque(current)
        current = f"{current}/{name}"
        try:
            status = os.lstat(current)
        except FileNotFoundError:
            return None, hidden
        except NotADirectoryError:
            return None, True
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            return None, True
        if stat.S_ISLNK(status.st_mode) and current != f"{layer}/{relative}":
            return None, True
    return current, hidden


def _is_opaque(folder: str) -> bool:
    """Say whether a directory hides all that lower layers have in its place."""
    for name in _OPAQUE:
        try:
            if os.getxattr(folder, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False
