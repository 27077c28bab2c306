"""What changed in a container: an overlay's upper directory read against the layers below it.

Overlayfs writes what a container changes into the *upper* directory. A deleted file is a character device 0:0 there (a
whiteout); a folder that was deleted and made anew has the attribute `trusted.overlay.opaque`. A folder is merged with
the folders of that name below it, down to the first that is opaque, or that is no folder.

Where overlayfs cannot be had, a container runs on a full copy of its image. A full copy is an upper directory that is
opaque everywhere, so the same function compares it.

Lists of lower directories begin with the topmost, as in the mount option `lowerdir=`.
See: Linux, Documentation/filesystems/overlayfs.rst; moby 20.10, pkg/archive/changes.go.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_OVERLAY = ("trusted.overlay.", "user.overlay.")


class Change(NamedTuple):
    """One line of `docker diff`: `A`dded, `C`hanged or `D`eleted, and the path from the container's root."""

    kind: str
    path: str


def changes(upper: str, lowers: Sequence[str]) -> list[Change]:
    """Return what `upper` changes of the tree below it, sorted, a changed folder before what changed in it.

    As docker has it: a file that was copied up and is as it was is no change; a folder is changed when something in it
    is; what was in a deleted folder is not listed; all that is in a new one is.
    """
    return list(_compare(upper, list(lowers), "", complete=False))


def changes_between(old: str, new: str) -> list[Change]:
    """Return what differs between two complete trees, in the same terms as `changes`."""
    return list(_compare(new, [old], "", complete=True))


def lookup(path: str, lowers: Sequence[str]) -> str | None:
    """Return where `path` really is in a stack of layers, or None. Symbolic links on the way are not followed."""
    found = list(lowers)
    for name in path.split("/"):
        if name not in ("", "."):
            found = merged(found, name)
    return found[0] if found else None


def write_upper(upper: str, tree: str, what: Sequence[Change]) -> None:
    """Make `upper` the upper directory that these changes of the complete `tree` would have left, for `layers.pack`.

    Files are linked, not copied: the same filesystem is needed, and `upper` is for reading only. Needs root.
    """
    for change in what:
        source, target = f"{tree}{change.path}", f"{upper}{change.path}"
        if change.kind == "D":
            os.mknod(target, stat.S_IFCHR, 0)
        elif stat.S_ISDIR(os.lstat(source).st_mode):
            os.mkdir(target)
            _copy_metadata(source, target)
        else:
            os.link(source, target, follow_symlinks=False)
    for change in reversed(what):  # making what is in a folder changes its time
        if change.kind != "D" and stat.S_ISDIR(os.lstat(f"{tree}{change.path}").st_mode):
            status = os.lstat(f"{tree}{change.path}")
            os.utime(f"{upper}{change.path}", ns=(status.st_atime_ns, status.st_mtime_ns))


def _compare(folder: str, lowers: list[str], path: str, complete: bool) -> Iterator[Change]:
    """Yield the changes in one folder. `complete`: what the folder does not have is deleted."""
    names = set(os.listdir(folder))
    if complete:
        names.update(*map(os.listdir, lowers))
    for name in sorted(names, key=os.fsencode):
        yield from _compare_entry(f"{folder}/{name}", merged(lowers, name), f"{path}/{name}", complete)


def _compare_entry(new: str, lowers: list[str], path: str, complete: bool) -> Iterator[Change]:
    """Yield the change of one name and those below it; `lowers` are the files or folders it hides or is merged with."""
    try:
        status = os.lstat(new)
    except FileNotFoundError:  # only below; or deleted since the folder was listed
        status = None
    if status is None or is_whiteout(status):
        if lowers:
            yield Change("D", path)
        return
    is_folder = stat.S_ISDIR(status.st_mode)
    merges = is_folder and bool(lowers) and os.path.isdir(lowers[0]) and not os.path.islink(lowers[0])
    inside = []
    if is_folder:
        inside = list(_compare(new, lowers if merges else [], path, complete or is_opaque(new)))
    if not lowers:
        yield Change("A", path)
    elif inside or _differs(new, status, lowers[0]):
        yield Change("C", path)
    yield from inside


def merged(folders: Sequence[str], name: str) -> list[str]:
    """Return what a name stands for in a stack of folders: a file, or the folders that are merged; none if deleted."""
    found: list[str] = []
    for folder in folders:
        path = f"{folder}/{name}"
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(status.st_mode):
            return found if found or is_whiteout(status) else [path]
        found.append(path)
        if is_opaque(path):
            break
    return found


def _differs(new: str, status: os.stat_result, old: str) -> bool:
    """Compare what a container can change: mode, owner, attributes; of what is no folder, size, time and device too.

    A time without a fraction may have lost it in an archive, and is compared by the second.
    """
    before = os.lstat(old)
    if (status.st_mode, status.st_uid, status.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
        return True
    if not stat.S_ISDIR(status.st_mode):
        fraction = status.st_mtime_ns % 10**9 and before.st_mtime_ns % 10**9
        unit = 1 if fraction else 10**9
        if status.st_mtime_ns // unit != before.st_mtime_ns // unit:
            return True
        if (status.st_size, status.st_rdev) != (before.st_size, before.st_rdev):
            return True
    return _xattrs(new) != _xattrs(old)


def is_whiteout(status: os.stat_result) -> bool:
    """Say whether a file of this status marks a deleted name."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(folder: str) -> bool:
    """Say whether a folder hides the folders of its name below it."""
    for name in _OPAQUE:
        try:
            if os.getxattr(folder, name, follow_symlinks=False) == b"y":
                return True
        except OSError:  # no such attribute; or none on this filesystem
            continue
    return False


def _xattrs(path: str) -> dict[str, bytes]:
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(_OVERLAY)]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _copy_metadata(source: str, target: str) -> None:
    """Give a folder the owner, mode and attributes of another."""
    status = os.lstat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name, value in _xattrs(source).items():
        os.setxattr(target, name, value)
