"""Where a path is in a stack of layers, and what each of them has to say about it."""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from minidocker.errors import InvalidArgument
from minidocker.image import overlay

MOST_LINKS = 40  # that the kernel follows on one way; see: path_resolution(7)


class Place(NamedTuple):
    """What one folder of a stack says of a path.

    `kind` is `absent`, `file`, `directory`, `link`, `whiteout` or `special`; `hides` says why nothing below is asked,
    where it is not for the path itself; `target` is a link's.
    """

    kind: str
    hides: str = ""
    target: str = ""

    @property
    def stops(self) -> bool:
        """Whether the layers below are not asked any more."""
        return bool(self.hides) or self.kind not in ("absent", "directory")


def clean(path: str) -> str:
    """Return a path from the root, as it was typed; raise InvalidArgument for what no path can be."""
    if "\0" in path:
        raise InvalidArgument(f"{path!r} is no path: a name cannot have a NUL in it")
    return "/" + "/".join(_parts(path))


def _parts(path: str) -> list[str]:
    return [part for part in path.strip().split("/") if part not in ("", ".")]


def look(folder: str, path: str) -> Place:
    """Ask one layer for a path. Nothing is followed: a link on the way hides what is below as any file does."""
    here, hides, parts = folder, "", _parts(path)
    for number, name in enumerate(parts, 1):
        here, at = f"{here}/{name}", "/" + "/".join(parts[:number])
        try:
            status = os.lstat(here)
        except (FileNotFoundError, NotADirectoryError):
            return Place("absent", hides)
        last = number == len(parts)
        if overlay.is_whiteout(status):
            return Place("whiteout" if last else "absent", f"a whiteout at {at}")
        if not stat.S_ISDIR(status.st_mode):
            return _file(here, status) if last else Place("absent", f"{at} is no directory here")
        if overlay.is_opaque(here):
            hides = f"{at} is opaque"
    return Place("directory", hides)


def _file(path: str, status: os.stat_result) -> Place:
    if stat.S_ISLNK(status.st_mode):
        return Place("link", target=os.readlink(path))
    return Place("file" if stat.S_ISREG(status.st_mode) else "special")


def follow(path: str, stack: Sequence[str]) -> tuple[str, list[str]]:
    """Follow the links on the way to a path, but not one at its end; return where it leads and what was followed.

    Links lead where they lead in the container: an absolute one begins at its root, and nothing goes above that.
    Raises: InvalidArgument for links in a circle.
    """
    todo, done, notes = _parts(path), list[str](), list[str]()
    while todo:
        name = todo.pop(0)
        if name == "..":
            done = done[:-1]
            continue
        done.append(name)
        found = overlay.lookup("/".join(done), stack)
        if todo and found and os.path.islink(found):
            if len(notes) == MOST_LINKS:
                raise InvalidArgument(f"{path}: more than {MOST_LINKS} symbolic links on the way")
            target = os.readlink(found)
            notes.append(f"/{'/'.join(done)} is a link to {target}")
            done = [] if target.startswith("/") else done[:-1]
            todo = [*_parts(target), *todo]
    return "/" + "/".join(done), notes
