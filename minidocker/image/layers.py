"""A folder becomes a layer's archive: what changed in a container, ready to be stored and pushed. `unpack` undoes it.

A layer is compressed once, when it is made. So its blob, its manifest and the image's digest stay the same from the
build to the registry. The same tree gives the same bytes: names are sorted, and no time of packing is written anywhere.

See: OCI image-spec, layer.md.
"""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from minidocker import explain
from minidocker.errors import UnsafeLayer
from minidocker.image.layout import Layout
from minidocker.image.oci import LAYER_GZIP, Descriptor
from minidocker.image.tarstream import BLOCK, Facts, TarReader, decompressed, header, padding
from minidocker.image.unpack import OPAQUE, WHITEOUT, unpack

__all__ = ["Layer", "TarReader", "compress", "decompressed", "pack", "pack_path", "unpack", "write_layer"]

Write = Callable[[bytes], object]

_CHUNK = 1 << 20
_GZIP_LEVEL = 1
_OVERLAY = ("trusted.overlay.", "user.overlay.")
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class Layer(NamedTuple):
    """A layer that was made: its compressed blob, the digest of its archive, and the size of its files in bytes."""

    blob: Descriptor
    diff_id: str
    size: int


def write_layer(layout: Layout, upper: str) -> Layer:
    """Pack an overlay's upper directory into a gzip blob of `layout`: archived, hashed and compressed in one pass."""
    explain.step(f"read {upper} with its whiteouts, write a layer", f"tar --create -C {upper} . | gzip -n")
    return compress(layout, lambda write: pack(upper, write))


def compress(layout: Layout, produce: Callable[[Write], int]) -> Layer:
    """Store what `produce` writes, an archive, as a gzip blob; `produce` returns the size of the files in it."""
    from concurrent.futures import ThreadPoolExecutor
    from hashlib import sha256

    from isal import isal_zlib

    digest = sha256()
    squeeze = isal_zlib.compressobj(_GZIP_LEVEL, wbits=31)  # isal's gzip header has no time in it
    with layout.writer() as blob, ThreadPoolExecutor(1) as beside:
        waiting = bytearray()

        def take(size: int) -> None:
            with memoryview(waiting) as view:
                piece = bytes(view[:size])
            del waiting[:size]
            compressing = beside.submit(squeeze.compress, piece)  # by another core than hashes it
            digest.update(piece)
            blob.write(compressing.result())

        def write(data: bytes) -> None:
            waiting.extend(data)
            while len(waiting) >= _CHUNK:  # exactly: what comes out depends on the pieces that go in
                take(_CHUNK)

        size = produce(write)
        take(len(waiting))
        blob.write(squeeze.flush())
        done = blob.commit()
    return Layer(Descriptor(LAYER_GZIP, done.digest, done.size), f"sha256:{digest.hexdigest()}", size)


def pack(folder: str, write: Write, *, whiteouts: bool = True) -> int:
    """Write the archive of all that is in `folder`; return the size of its files in bytes.

    With `whiteouts` the folder is an overlay's upper directory: a character device 0:0 becomes `.wh.name`, a folder
    that hides what is below it gets `.wh..wh..opq`. Without, it is a whole tree. Sockets are left out, as docker does.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        packing = _Packing(write, whiteouts)
        with _depth_said():
            packing.folder(fd, "")
        return packing.finish()
    finally:
        os.close(fd)


def pack_path(path: str, name: str, write: Write, first_ids: tuple[int, int] = (0, 0)) -> int:
    """Write the archive of one file, or of one folder and what is in it, under `name`; return its size in bytes.

    `first_ids` are the user and the group of this process's view that are 0 to those whose tree it is.
    """
    parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        packing = _Packing(write, whiteouts=False, first_ids=first_ids)
        with _depth_said():
            packing.entry(parent, os.path.basename(path), name)
        return packing.finish()
    finally:
        os.close(parent)


@contextmanager
def _depth_said() -> Iterator[None]:
    """Say what is wrong with a tree that is nested deeper than calls can be."""
    try:
        yield
    except RecursionError as error:
        raise UnsafeLayer("folders are nested too deeply, several hundred in one another, to be packed") from error


class _Packing:
    """The state while an archive is written: its size, and the names of files with several, by device and inode.

    The tree may be a running container's, and change while it is read: everything is opened by its folder's descriptor
    and no symbolic link is followed, so that nothing from outside gets in.
    """

    def __init__(self, write: Write, whiteouts: bool, first_ids: tuple[int, int] = (0, 0)) -> None:
        self.write = write
        self.whiteouts = whiteouts
        self.size = 0
        self._first_ids = first_ids
        self._linked: dict[tuple[int, int], str] = {}

    def _facts(self, status: os.stat_result) -> Facts:
        """Return what a header says of a file, with the owners that it has for those whose tree it is."""
        facts, (uid, gid) = Facts.of(status), self._first_ids
        if uid or gid:
            facts = facts._replace(uid=max(0, facts.uid - uid), gid=max(0, facts.gid - gid))
        return facts

    def finish(self) -> int:
        """Write the end of the archive, two empty blocks."""
        self.write(bytes(2 * BLOCK))
        return self.size

    def folder(self, fd: int, path: str) -> None:
        """Write what is in a folder, sorted by name, each folder followed by what is in it."""
        for name in sorted(os.listdir(fd), key=os.fsencode):
            try:
                self.entry(fd, name, f"{path}/{name}" if path else name)
            except FileNotFoundError:  # deleted since the folder was listed
                continue

    def entry(self, parent: int, name: str, path: str) -> None:
        """Write one name, with all that is below it."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return
        if self.whiteouts and kind == tarfile.CHRTYPE and status.st_rdev == 0:
            self.white_out(os.path.join(os.path.dirname(path), WHITEOUT + name))
            return
        link = os.readlink(name, dir_fd=parent) if kind == tarfile.SYMTYPE else ""
        if kind != tarfile.DIRTYPE and status.st_nlink > 1:
            first = self._linked.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                self.write(header(path, tarfile.LNKTYPE, self._facts(status)._replace(size=0), first))
                return
        attributes = _xattrs(f"/proc/self/fd/{parent}/{name}")
        _refuse_half_copies(path, attributes)
        kept = {key: value for key, value in attributes.items() if not key.startswith(_OVERLAY)}
        if kind == tarfile.REGTYPE:
            self._file(parent, name, path, kept)
        elif kind == tarfile.DIRTYPE:
            self.write(header(path, kind, self._facts(status), link, kept))
            self._subfolder(parent, name, path, attributes)
        else:
            self.write(header(path, kind, self._facts(status), link, kept))

    def white_out(self, path: str) -> None:
        """Write an empty file that says by its name what is deleted; it has no owner and no time worth keeping."""
        self.write(header(path, tarfile.REGTYPE, Facts(0o600)))

    def _subfolder(self, parent: int, name: str, path: str, attributes: dict[str, bytes]) -> None:
        if self.whiteouts and b"y" in (attributes.get(f"{prefix}opaque") for prefix in _OVERLAY):
            self.white_out(f"{path}/{OPAQUE}")
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            self.folder(fd, path)
        finally:
            os.close(fd)

    def _file(self, parent: int, name: str, path: str, attributes: dict[str, bytes]) -> None:
        """Write a file as long as it was when it was opened: what has become shorter is filled up with zeros."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
        try:
            status = os.fstat(fd)
            self.write(header(path, tarfile.REGTYPE, self._facts(status), attributes=attributes))
            left = status.st_size
            while left and (data := os.read(fd, min(left, _CHUNK))):
                self.write(data)
                left -= len(data)
            for start in range(0, left, _CHUNK):
                self.write(bytes(min(_CHUNK, left - start)))
        finally:
            os.close(fd)
        self.write(padding(status.st_size))
        self.size += status.st_size


def _xattrs(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def _refuse_half_copies(path: str, attributes: dict[str, bytes]) -> None:
    """Refuse an upper directory whose content is partly elsewhere: overlayfs mounted with redirect_dir or metacopy."""
    for prefix in _OVERLAY:
        for key in ("redirect", "metacopy"):
            if f"{prefix}{key}" in attributes:
                raise UnsafeLayer(f"{path} has {prefix}{key}: mount with redirect_dir=off,metacopy=off to get layers")
