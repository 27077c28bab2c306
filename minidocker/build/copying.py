"""COPY and ADD as a plan: first a list of entries, which can be hashed, then one loop that makes them.

The files are put together in a folder of their own, which becomes the layer: the image below is only looked at.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from minidocker import explain
from minidocker.build.context import Source
from minidocker.build.tree import Tree
from minidocker.errors import BuildError
from minidocker.linux import trees

_NEW_FOLDER = stat.S_IFDIR | 0o755
_PIECE = 1 << 18
_HIDDEN_ATTRIBUTES = ("trusted.overlay.", "user.overlay.")


class Owner(NamedTuple):
    """A user and a group, by number."""

    uid: int
    gid: int


ROOT = Owner(0, 0)


class Entry(NamedTuple):
    """One file of the new layer. `mode` holds the type too; `time` is in nanoseconds, -1 for now.

    `real` is the file on this machine that has the content, unless `content` has it (a link's target, a
    here-document). `known` marks a folder that the image has already and that is only there to hold others.
    """

    target: str
    mode: int
    owner: Owner
    time: int = -1
    real: str = ""
    content: bytes = b""
    device: int = 0
    attributes: tuple[tuple[str, bytes], ...] = ()
    known: bool = False
    temporary: bool = False


def plan(
    sources: list[Source],
    image: Tree,
    destination: str,
    owner: Owner | None = None,
    mode: int | None = None,
    several: bool = False,
) -> list[Entry]:
    """Say which entries bring `sources` to `destination`, an absolute path, in `image`; parents come first.

    A directory's content is copied, not the directory. With a slash at the end, or where there is a directory already,
    a file goes into the destination, else it becomes it; `several` need the slash. Files become root's but for `owner`.
    Raises BuildError when the destination cannot take them.
    """
    target = image.resolve(destination)
    there = image.status(target)
    folder = destination.endswith("/") or (there is not None and stat.S_ISDIR(there.st_mode))
    if several and not destination.endswith("/"):
        raise BuildError(
            "When using COPY with more than one source file, the destination must be a directory and end with a /"
        )
    entries: dict[str, Entry] = {}
    for source in sources:
        is_folder = source.content is None and source.tree.is_directory(source.path)
        into = target if is_folder or not folder else f"{target.rstrip('/')}/{source.name}"
        holder = into if is_folder else os.path.dirname(into)
        for entry in parents(image, holder, owner or ROOT):
            entries.setdefault(entry.target, entry)
        for entry in _content(source, into) if is_folder else [_file(source, into)]:
            entries.pop(entry.target, None)
            entries[entry.target] = _overridden(entry, owner, mode)
    return list(entries.values())


def parents(image: Tree, folder: str, owner: Owner) -> Iterator[Entry]:
    """Yield `folder` and what it lies in, from the top: as the image has it, or new.

    Raises BuildError where the image has something that is no directory.
    """
    parts = [part for part in folder.split("/") if part]
    for length in range(1, len(parts) + 1):
        path = "/" + "/".join(parts[:length])
        real = image.real(path)
        if real is None:
            yield Entry(path, _NEW_FOLDER, owner)
            continue
        status = os.lstat(real)
        if not stat.S_ISDIR(status.st_mode):
            raise BuildError(f"cannot copy to non-directory: {path}")
        yield _of_file(path, real, status, keep=True)._replace(known=True)


def _content(source: Source, target: str) -> Iterator[Entry]:
    """Yield what is below a directory. Sockets cannot be copied."""
    below = len(source.path.rstrip("/"))
    for path, real, status in source.tree.walk(source.path):
        if not stat.S_ISSOCK(status.st_mode):
            yield _of_file(target.rstrip("/") + path[below:], real, status, source.keep, source.temporary)


def _file(source: Source, target: str) -> Entry:
    """Describe a source that is no directory."""
    if source.content is not None:
        content = source.content.encode(errors="surrogateescape")
        return Entry(target, stat.S_IFREG | 0o644, ROOT, 0, content=content)
    real = source.tree.real(source.path)
    if real is None:
        raise BuildError(f"{source.path} vanished while it was copied")
    return _of_file(target, real, os.lstat(real), source.keep, source.temporary)


def _of_file(target: str, real: str, status: os.stat_result, keep: bool, temporary: bool = False) -> Entry:
    """Describe a file as it is, or, without `keep`, as it leaves a context: root's, and with its capabilities only."""
    owner = Owner(status.st_uid, status.st_gid) if keep else ROOT
    names = sorted(os.listxattr(real, follow_symlinks=False))
    kept = [name for name in names if name == "security.capability" or (keep and not _hidden(name))]
    attributes = tuple((name, os.getxattr(real, name, follow_symlinks=False)) for name in kept)
    content = os.readlink(os.fsencode(real)) if stat.S_ISLNK(status.st_mode) else b""
    time, device = status.st_mtime_ns, status.st_rdev
    return Entry(target, status.st_mode, owner, time, real, content, device, attributes, temporary=temporary)


def _hidden(attribute: str) -> bool:
    return attribute.startswith(_HIDDEN_ATTRIBUTES)


def _overridden(entry: Entry, owner: Owner | None, mode: int | None) -> Entry:
    """Apply --chown and --chmod."""
    if mode is not None and not stat.S_ISLNK(entry.mode):
        entry = entry._replace(mode=stat.S_IFMT(entry.mode) | mode)
    return entry._replace(owner=owner) if owner is not None else entry


def digest(entries: Iterable[Entry]) -> str:
    """Hash names, modes, owners and content; times do not count. Return hexadecimal digits."""
    total = _Digest()
    for entry in entries:
        total.add(entry, total.content(entry))
    return total.hexdigits()


class _Digest:
    """The digest of entries, which are added in their order."""

    def __init__(self) -> None:
        from hashlib import sha256

        self._new = sha256
        self._total = sha256()

    def add(self, entry: Entry, content: bytes) -> None:
        """Add an entry whose content has this hash."""
        if not entry.known:
            device = entry.device if stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode) else 0
            facts = (entry.mode, *entry.owner, device, entry.attributes)
            self._total.update(repr((os.fsencode(entry.target), facts)).encode() + content)

    def content(self, entry: Entry, write: Callable[[bytes], object] | None = None) -> bytes:
        """Hash an entry's content, and hand it to `write` piece by piece, so that a file is read only once."""
        found = self._new()
        for piece in _pieces(entry):
            if write:
                write(piece)
            found.update(piece)
        return found.digest()

    def hexdigits(self) -> str:
        return self._total.hexdigest()


def _pieces(entry: Entry) -> Iterator[bytes]:
    """Yield the content of a file, or what stands for it."""
    if not entry.real or not stat.S_ISREG(entry.mode):
        yield entry.content
        return
    fd = os.open(entry.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while piece := os.read(fd, _PIECE):
            yield piece
    finally:
        os.close(fd)


def apply(entries: Iterable[Entry], upper: str) -> str:
    """Make the entries in the folder `upper`, and return their digest, which is taken of what is written.

    The folder is empty and ours alone, so that no link in it leads anywhere.
    """
    made: list[Entry] = []
    total = _Digest()
    explain.step(f"copy into {upper}", f"cp -a … {upper}")
    for entry in entries:
        total.add(entry, _make(entry, upper + entry.target, total))
        made.append(entry)
    for entry in reversed(made):
        if entry.time >= 0 and stat.S_ISDIR(entry.mode):
            os.utime(upper + entry.target, ns=(entry.time, entry.time))
    return total.hexdigits()


def _make(entry: Entry, path: str, total: _Digest) -> bytes:
    """Make one entry, and return the hash of its content."""
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFREG and not (entry.temporary and entry.real):
        return _make_file(entry, path, total)
    if os.path.lexists(path) and not (kind == stat.S_IFDIR and os.path.isdir(path) and not os.path.islink(path)):
        trees.delete(path)
    if kind == stat.S_IFDIR:
        if not os.path.isdir(path):
            os.mkdir(path)
    elif kind == stat.S_IFLNK:
        os.symlink(entry.content, os.fsencode(path))
    elif kind == stat.S_IFREG:  # one that is temporary lends its inode, which keeps hard links together
        os.link(entry.real, path, follow_symlinks=False)
    else:
        os.mknod(path, entry.mode, entry.device)
    _make_alike(entry, path, follow=False)
    return total.content(entry)


def _make_file(entry: Entry, path: str, total: _Digest) -> bytes:
    """Make a regular file with its content, and return the content's hash."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        trees.delete(path)
        fd = os.open(path, flags, 0o600)
    with open(fd, "wb") as file:
        content = total.content(entry, file.write)
        file.flush()  # before it gets its time
        _make_alike(entry, fd, follow=True)
    return content


def _make_alike(entry: Entry, file: str | int, follow: bool) -> None:
    """Give a file, by its path or its descriptor, the owner, mode, attributes and time of an entry."""
    os.chown(file, *entry.owner, follow_symlinks=follow)
    if not stat.S_ISLNK(entry.mode):
        os.chmod(file, stat.S_IMODE(entry.mode))  # after chown, which takes the set-id bits away
    for name, value in entry.attributes:
        os.setxattr(file, name, value, follow_symlinks=follow)
    if entry.time >= 0 and not stat.S_ISDIR(entry.mode):
        os.utime(file, ns=(entry.time, entry.time), follow_symlinks=follow)


def find_owner(image: Tree, text: str) -> Owner | None:
    """Read `--chown=user[:group]`, by name or number, with the image's own /etc/passwd and /etc/group.

    A group that is not named is the one with the user's name or number, or else the user's first group.
    Raises BuildError for a name that the image does not know.
    """
    if not text:
        return None
    user, colon, group = text.partition(":")
    if not user or (colon and not group) or ":" in group:
        raise BuildError(f"invalid chown string format: {text}: it must be user or user:group")
    accounts = _table(image, "/etc/passwd")
    groups = _table(image, "/etc/group")
    uid = _number(user, accounts)
    if uid is None:
        raise BuildError(f"{_CANNOT_CONVERT}: can't find uid for user {user}: no such user: {user}")
    gid = _number(group or user, groups)
    if gid is None and not group:
        gid = _number(accounts[user][3], {})
    if gid is None:
        raise BuildError(f"{_CANNOT_CONVERT}: can't find gid for group {group}: no such group: {group}")
    return Owner(uid, gid)


_CANNOT_CONVERT = "unable to convert uid/gid chown string to host mapping"


def _number(name: str, table: dict[str, list[str]]) -> int | None:
    if name in table:
        name = table[name][2]
    return int(name) if name.isascii() and name.isdigit() and int(name) < 2**32 - 1 else None


def _table(image: Tree, path: str) -> dict[str, list[str]]:
    """Read /etc/passwd or /etc/group of the image: the fields of each line, by the first."""
    real = image.real(image.resolve(path))
    if real is None or not stat.S_ISREG(os.lstat(real).st_mode):
        return {}
    with open(real, encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":") for line in file]
    return {
        fields[0]: fields + [""] for fields in reversed(lines) if len(fields) >= 3 and not fields[0].startswith("#")
    }
