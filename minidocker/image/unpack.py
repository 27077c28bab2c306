"""A layer's archive becomes a folder, as overlayfs wants it for a lower directory, and nothing outside is ever touched.

An archive is written by strangers. A name may hold `..`, pass through a symbolic link that points to `/etc`, or replace
what came before it. So the folder a name lies in is opened with openat2(RESOLVE_IN_ROOT), for which the layer is the
whole world, and what is done there is done by that descriptor to a last component that is never followed.

See: OCI image-spec, layer.md; openat2(2); Linux, Documentation/filesystems/overlayfs.rst, whiteouts and opaque
directories.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from minidocker import explain
from minidocker.errors import UnsafeLayer
from minidocker.image.entries import is_folder, is_whiteout, parts_of, same
from minidocker.image.limits import Limits
from minidocker.image.tarstream import TarReader, mtime_ns, xattrs
from minidocker.linux import trees, userns
from minidocker.linux.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from minidocker.linux.userns import Powers

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_META = ".wh..wh."  # what aufs kept in layers for itself
_FOLDER = os.O_PATH | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What the system says of nonsense in an archive: a name too long, an attribute or a device number that cannot be.
_NONSENSE = (errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTSUP, errno.E2BIG, errno.ERANGE, errno.EMLINK)


class _Late(NamedTuple):
    """What a folder gets when all is in it: writing into it changes its time, and a default ACL what is made there."""

    mode: int
    uid: int
    gid: int
    time: int
    attributes: dict[str, bytes]


def unpack(
    tar: TarReader,
    root: str,
    below: str = "",
    *,
    whiteouts: bool = True,
    powers: Powers | None = None,
    limits: Limits | None = None,
) -> int:
    """Unpack an archive into folder `below` of the tree `root`; return the size of its files in bytes.

    With `whiteouts` the archive is a layer: `.wh.name` becomes overlayfs's mark for what is deleted. What
    `powers` (of this process, if not given) do not allow is left out: owners, device nodes, attributes. It may take
    no more than the `limits`, those of the disk if not given.
    Raises `UnsafeLayer`.
    """
    explain.step(
        f"openat2({root}, …, RESOLVE_IN_ROOT) and write what the archive holds", f"tar --extract -C {root}/{below}"
    )
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    work = _Unpacking(tar, folder, parts_of(below), whiteouts, powers or userns.powers(), limits)
    name = ""
    try:
        for member in tar.members():
            name = member.name[:200]
            work.add(member)
        work.finish_folders()
    except (OverflowError, ValueError, RecursionError) as error:
        raise UnsafeLayer(f"broken archive: member {name!r}: {error}") from error
    except OSError as error:
        if error.errno not in _NONSENSE:
            raise
        raise UnsafeLayer(f"member {name!r} cannot be unpacked: {os.strerror(error.errno).lower()}") from error
    finally:
        work.close()
        os.close(folder)
    return work.size


class _Unpacking:
    """The state while an archive is unpacked: the folder last written to, and the folders whose times are to be set."""

    def __init__(
        self, tar: TarReader, root: int, below: list[str], whiteouts: bool, powers: Powers, limits: Limits | None
    ) -> None:
        self.tar = tar
        self.root = root
        self.below = below
        self.whiteouts = whiteouts
        self.powers = powers
        self.size = 0
        self._folder: tuple[list[str], int] | None = None
        self._unfinished: dict[str, _Late] = {}
        self._makers: dict[bytes, Callable[[tarfile.TarInfo, int, str], None]] = {
            tarfile.SYMTYPE: self._symlink,
            tarfile.LNKTYPE: self._hard_link,
            tarfile.CHRTYPE: self._node,
            tarfile.BLKTYPE: self._node,
            tarfile.FIFOTYPE: self._node,
        }
        self.limits = limits or Limits.of_disk(self._open(below))

    def close(self) -> None:
        """Let go of the folder last written to."""
        if self._folder is not None:
            os.close(self._folder[1])
            self._folder = None

    def add(self, member: tarfile.TarInfo) -> None:
        """Unpack one member."""
        parts = [*self.below, *parts_of(member.name)]
        self.limits.take(member.name, member.size if member.isreg() else 0)
        if member.isdir() and not parts:
            self._finish_later("", member)
            return
        if not parts:
            raise UnsafeLayer(f"member {member.name[:200]!r} would replace the layer's own folder")
        name, folder = parts[-1], self._open(parts[:-1])
        if self.whiteouts and name.startswith(WHITEOUT):
            self._white_out(folder, name)
        elif member.isdir():
            self._directory(folder, name)
            self._finish_later("/".join(parts), member)
        elif member.isreg():
            self._file(member, folder, name)
        elif member.type in self._makers:
            self._makers[member.type](member, folder, name)
        else:
            raise UnsafeLayer(f"member {member.name[:200]!r} is of the unknown type {member.type!r}")

    # Where to write

    def _open(self, parts: list[str]) -> int:
        """Return a descriptor of a folder, made if it is missing; it stays open until another is asked for."""
        if self._folder is None or self._folder[0] != parts:
            self.close()
            self._folder = parts, self._resolve(parts)
        return self._folder[1]

    def _resolve(self, parts: list[str]) -> int:
        path = "/".join(parts) or "."
        try:
            # Here `..` and links, one or a chain of them, stay inside: for this call the layer is the whole world.
            return openat2(self.root, path, _FOLDER, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise
            if error.errno != errno.ENOENT or not parts:
                raise UnsafeLayer(
                    f"{path[:200]!r} is used as a folder, but is none ({os.strerror(error.errno)})"
                ) from error
        parent = self._resolve(parts[:-1])
        try:
            os.mkdir(parts[-1], 0o755, dir_fd=parent)
        except FileExistsError as error:
            raise UnsafeLayer(f"{path[:200]!r} is used as a folder, but is a symbolic link to nothing") from error
        finally:
            os.close(parent)
        return self._resolve(parts)

    # What to write

    def _create(self, folder: int, name: str, make: Callable[[], None]) -> None:
        """Make something; what has the name already, from earlier in the archive, is removed first."""
        try:
            make()
        except FileExistsError:
            self._remove(folder, name)
            make()

    def _remove(self, folder: int, name: str) -> None:
        """Remove a name and what is below it."""
        if is_folder(folder, name):
            trees.delete_below(name, folder)
        else:
            os.unlink(name, dir_fd=folder)

    def _directory(self, folder: int, name: str) -> None:
        """Make a folder, or keep the one there is. One that replaces a whiteout hides what is below it: opaque."""
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            if is_folder(folder, name):
                return
            replaces_whiteout = self.whiteouts and is_whiteout(folder, name)
            os.unlink(name, dir_fd=folder)
            os.mkdir(name, 0o700, dir_fd=folder)
            if replaces_whiteout:
                self._make_opaque(f"/proc/self/fd/{folder}/{name}")

    def _file(self, member: tarfile.TarInfo, folder: int, name: str) -> None:
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        except FileExistsError:
            self._remove(folder, name)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            if member.sparse is not None:
                self._sparse_content(member, fd)
            else:
                self.tar.copy(member.size, lambda piece: _write(fd, piece))
            if self.powers.owners:
                os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode & 0o7777)
            self._set_xattrs(xattrs(member), f"/proc/self/fd/{fd}", True)
            _set_times(mtime_ns(member), fd)
        finally:
            os.close(fd)
        self.size += member.size

    def _sparse_content(self, member: tarfile.TarInfo, fd: int) -> None:
        """Write the pieces of a file with holes where they belong."""
        os.ftruncate(fd, member.size)
        pieces: list[tuple[int, int]] = member.sparse  # type: ignore[assignment]
        for offset, size in pieces:
            if offset < 0 or size < 0 or offset + size > member.size:
                raise UnsafeLayer(
                    f"broken archive: the sparse file {member.name[:200]!r} has a piece outside of itself"
                )
            os.lseek(fd, offset, os.SEEK_SET)
            self.tar.copy(size, lambda piece: _write(fd, piece))

    def _symlink(self, member: tarfile.TarInfo, folder: int, name: str) -> None:
        if "\0" in member.linkname or not member.linkname:
            raise UnsafeLayer(f"the symbolic link {member.name[:200]!r} points to {member.linkname[:200]!r}")
        self._create(folder, name, lambda: os.symlink(member.linkname, name, dir_fd=folder))
        if self.powers.owners:
            os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
        self._set_xattrs(xattrs(member), f"/proc/self/fd/{folder}/{name}", False)
        _set_times(mtime_ns(member), name, folder)

    def _hard_link(self, member: tarfile.TarInfo, folder: int, name: str) -> None:
        """Link to an earlier member, found as names are: inside the layer, its last component never followed."""
        parts = [*self.below, *parts_of(member.linkname)]
        if not parts:
            raise UnsafeLayer(f"the hard link {member.name[:200]!r} points to the layer's own folder")
        source = self._resolve(parts[:-1])

        def link() -> None:
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)

        try:
            if not same(source, parts[-1], folder, name):
                self._create(folder, name, link)
        except (FileNotFoundError, PermissionError) as error:
            raise UnsafeLayer(
                f"the hard link {member.name[:200]!r} points to {member.linkname[:200]!r}, which is no file here"
            ) from error
        finally:
            os.close(source)

    def _node(self, member: tarfile.TarInfo, folder: int, name: str) -> None:
        """Make a device node or a named pipe."""
        kind = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}[
            member.type
        ]
        if kind != stat.S_IFIFO and not self.powers.nodes:
            return
        device = 0 if kind == stat.S_IFIFO else os.makedev(member.devmajor, member.devminor)
        self._create(folder, name, lambda: os.mknod(name, kind | 0o600, device, dir_fd=folder))
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
        try:
            if self.powers.owners:
                os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
            os.chmod(f"/proc/self/fd/{node}", member.mode & 0o7777)
        finally:
            os.close(node)
        self._set_xattrs(xattrs(member), f"/proc/self/fd/{folder}/{name}", False)
        _set_times(mtime_ns(member), name, folder)

    def _white_out(self, folder: int, name: str) -> None:
        """Mark a name, or all of a folder, as deleted from the layers below; what this layer itself has there stays."""
        if name == OPAQUE:
            self._make_opaque(f"/proc/self/fd/{folder}")
            return
        if name.startswith(_META):
            return
        name = name.removeprefix(WHITEOUT)
        if name in ("", ".", ".."):
            raise UnsafeLayer(f"whiteout of {name!r}")
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=folder)
        except FileExistsError:
            if is_folder(folder, name):
                self._make_opaque(f"/proc/self/fd/{folder}/{name}")

    # Attributes

    def _make_opaque(self, path: str) -> None:
        os.setxattr(path, f"{self.powers.overlay}opaque", b"y")

    def _set_xattrs(self, attributes: dict[str, bytes], path: str, follow: bool) -> None:
        """Set attributes, as far as the powers go. A filesystem may have no `user.` ones."""
        for name, value in attributes.items():
            if not (self.powers.security or name.startswith("user.")):
                continue
            if not self.powers.trusted and name.startswith("trusted."):
                continue
            try:
                os.setxattr(path, name, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM) or not name.startswith("user."):
                    raise

    def _finish_later(self, path: str, member: tarfile.TarInfo) -> None:
        """Keep what `finish_folders` is to give a folder; of two members for one folder the last counts."""
        attributes = xattrs(member)
        self.limits.remember(path, attributes)
        self._unfinished.pop(path, None)
        self._unfinished[path] = _Late(member.mode & 0o7777, member.uid, member.gid, mtime_ns(member), attributes)

    def finish_folders(self) -> None:
        """Set owners, modes, attributes and times of folders, the deepest first."""
        for path, late in reversed(self._unfinished.items()):
            with self._reopened(path.split("/") if path else []) as fd:
                if fd is None:
                    continue
                if self.powers.owners:
                    os.fchown(fd, late.uid, late.gid)
                os.fchmod(fd, late.mode)
                self._set_xattrs(late.attributes, f"/proc/self/fd/{fd}", True)
                _set_times(late.time, fd)

    @contextmanager
    def _reopened(self, parts: list[str]) -> Iterator[int | None]:
        """Yield a descriptor of a folder that was unpacked, or None where something else has taken its place."""
        fd = None
        try:
            parent = self._resolve(parts[:-1]) if parts else os.dup(self.root)
            try:
                fd = os.open(parts[-1] if parts else ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            except (NotADirectoryError, FileNotFoundError):
                pass
            finally:
                os.close(parent)
            yield fd
        finally:
            if fd is not None:
                os.close(fd)


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _set_times(nanoseconds: int, target: int | str, folder: int | None = None) -> None:
    if isinstance(target, int):
        os.utime(target, ns=(nanoseconds, nanoseconds))
    else:
        os.utime(target, ns=(nanoseconds, nanoseconds), dir_fd=folder, follow_symlinks=False)
