"""Tar archives as streams: read once from front to back, whatever they are compressed with; written byte by byte.

The headers are read by `minidocker.image.tarheader`, and written here.
See: POSIX pax(1), "ustar Interchange Format" and "pax Header Block".
"""

import contextlib
import os
import stat
import tarfile
from collections.abc import Callable, Generator, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from minidocker.errors import UnsafeLayer
from minidocker.image.tarheader import BLOCK as BLOCK
from minidocker.image.tarheader import next_member

CHUNK = 1 << 18
XATTR = "SCHILY.xattr."
_AHEAD = 4  # pieces that are made before they are used; most have less than a megabyte
_PIECE = 4 << 20  # of decompressed data at once: 64 KiB of bzip2 can be 60 GB
_ZSTD_CHUNK = 1 << 10  # zstd's decompressor has no limit for its output, 32 MB at most for this much input
_XZ_MEMORY = 256 << 20  # what `xz -9` needs is 65 MB; a stream may ask for 4 GB
_END = "unexpected end of layer: the archive was cut off"


class _Format(NamedTuple):
    """How to undo one compression: a maker of decompressors, what they raise, how much to feed them at once.

    They have the interface of `bz2.BZ2Decompressor`.
    """

    new: Callable[[], Any]
    error: type[Exception]
    chunk: int = CHUNK


class _Zstd:
    """zstd's decompressor with the interface of the others."""

    needs_input = True

    def __init__(self) -> None:
        import zstandard

        self._object = zstandard.ZstdDecompressor().decompressobj()

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(data)


class Readable(Protocol):
    """What an archive is read from: a file, or a blob that is still arriving."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, `size` at most; none at the end."""


def decompressed(file: Readable) -> Iterator[bytes]:
    """Yield the content of `file` in pieces; gzip, zstd, bzip2 and xz are told by their first bytes.

    Raises `UnsafeLayer` for compressed data that is broken or ends before its end.
    """
    head = file.read(6)
    while len(head) < 6 and (more := file.read(6 - len(head))):  # there may not be more yet
        head += more
    form = _format(head)
    if form is not None:
        yield from _inflate(file, head, form)
        return
    while head:
        yield head
        head = file.read(CHUNK)


def compression(head: bytes) -> str:
    """Name the compression of data that begins like this: gzip, zstd, bzip2, xz, or nothing."""
    magics = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
    return next((name for magic, name in magics.items() if head.startswith(magic)), "")


def _format(head: bytes) -> _Format | None:
    """Choose the decompressor; each is imported only when it is needed."""
    kind = compression(head)
    if kind == "gzip":
        from isal import igzip_lib

        return _Format(lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), igzip_lib.error)  # type: ignore[arg-type]
    if kind == "zstd":
        import zstandard

        return _Format(_Zstd, zstandard.ZstdError, _ZSTD_CHUNK)
    if kind == "bzip2":
        import bz2

        return _Format(bz2.BZ2Decompressor, OSError)
    if kind == "xz":
        import lzma

        return _Format(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), lzma.LZMAError)
    return None


def _inflate(file: Readable, data: bytes, form: _Format) -> Iterator[bytes]:
    """Yield the decompressed pieces of one stream after another, up to the end of the file; none is very large."""
    while data.strip(b"\0"):  # what pads a compressed file to whole blocks is no stream
        decompressor = form.new()
        while not decompressor.eof:
            if decompressor.needs_input:
                data = data or file.read(form.chunk)
                if not data:
                    raise UnsafeLayer(_END)
            try:
                piece, data = decompressor.decompress(data, _PIECE), b""
            except form.error as error:
                raise UnsafeLayer(f"broken archive: {error}") from error
            if piece:
                yield piece
        data = decompressor.unused_data or file.read(form.chunk)


def ahead(pieces: Iterator[bytes], give_up: Callable[[], None] = lambda: None) -> Generator[bytes, None, None]:
    """Yield the same pieces, made by a thread while the ones before are used.

    To decompress and to hash needs no Python, and so goes on beside the writing of files: a third less time for a
    layer of 6,700 files. To be closed, also when not all are wanted any more: the thread ends then.
    `give_up` lets go of it where it waits for more to arrive.
    """
    import queue
    import threading

    made: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def make() -> None:
        try:
            for piece in pieces:
                made.put(piece)
                if stop.is_set():
                    return
            made.put(b"")
        except BaseException as error:  # noqa: BLE001 (it is raised again where the pieces are used)
            made.put(error)

    thread = threading.Thread(target=make, daemon=True, name="decompress")
    thread.start()
    try:
        while piece := made.get():
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stop.set()
        give_up()
        while thread.is_alive():  # it may wait for room, and looks at `stop` as soon as there is
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.01)


class TarReader:
    """A tar archive that arrives in pieces: a file for `tarfile`, only forward, and its digest at the end.

    `first_ids` are the user and the group that its 0 stands for.
    """

    def __init__(self, pieces: Iterator[bytes], tick: Callable[[], None] = lambda: None) -> None:
        """Read from `pieces`; `tick` is called at each, for progress."""
        self._pieces = self._hashed(pieces)
        self._tick = tick
        self._piece = memoryview(b"")
        self._position = 0
        self._hash = sha256()
        self.first_ids = (0, 0)

    @contextlib.contextmanager
    def reading_ahead(self, give_up: Callable[[], None] = lambda: None) -> Iterator[None]:
        """While in the block, have the pieces decompressed and hashed beside whatever is done with those before."""
        with contextlib.closing(ahead(self._pieces, give_up)) as self._pieces:
            yield

    def _hashed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._hash.update(piece)
            yield piece

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or none at the end of the stream. Raises `UnsafeLayer` when it ends in between."""
        data = bytes(self._next(size))
        while len(data) < size and (part := self._next(size - len(data))):
            data += part
        if len(data) not in (0, size):
            raise UnsafeLayer(_END)
        return data

    def tell(self) -> int:
        """Return the position in the archive."""
        return self._position

    def seek(self, position: int) -> None:
        """Skip to `position`, which must lie ahead."""
        if position != self._position:
            self.copy(position - self._position, lambda piece: None)

    def copy(self, size: int, write: Callable[[memoryview], object]) -> None:
        """Hand the next `size` bytes to `write`, piece by piece. Raises `UnsafeLayer` when there are fewer."""
        if size < 0:
            raise UnsafeLayer("broken archive: its parts overlap")
        while size:
            part = self._next(size)
            if not part:
                raise UnsafeLayer(_END)
            write(part)
            size -= len(part)

    def finish(self) -> str:
        """Read what follows the archive's end and return the digest of the whole stream."""
        while self._take_piece():
            pass
        return f"sha256:{self._hash.hexdigest()}"

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members; what is left unread of one is skipped. Raises `UnsafeLayer` for a damaged header."""
        while (found := next_member(self)) is not None:
            found.member.uid += self.first_ids[0]
            found.member.gid += self.first_ids[1]
            yield found.member
            self.seek(found.end)

    def _next(self, size: int) -> memoryview:
        """Return the next bytes as they lie in one piece, `size` at most; none at the end of the stream."""
        if not self._piece and size:
            self._take_piece()
        part, self._piece = self._piece[:size], self._piece[size:]
        self._position += len(part)
        return part

    def _take_piece(self) -> bool:
        piece = next(self._pieces, b"")
        self._piece = memoryview(piece)
        if piece:
            self._tick()
        return bool(piece)


def xattrs(member: tarfile.TarInfo) -> dict[str, bytes]:
    """Return a member's extended attributes, byte for byte.

    Not overlayfs's own: by them it would say what of the layers below is hidden, or is to be found elsewhere.
    """
    if not member.pax_headers:
        return {}
    found = {
        name.removeprefix(XATTR): value.encode("utf-8", "surrogateescape")
        for name, value in member.pax_headers.items()
        if name.startswith(XATTR)
    }
    return {name: value for name, value in found.items() if not name.startswith(("trusted.overlay.", "user.overlay."))}


def mtime_ns(member: tarfile.TarInfo) -> int:
    """Return a member's time in nanoseconds; a pax header has it as a decimal fraction."""
    text = member.pax_headers.get("mtime")
    if text is None:
        return int(member.mtime) * 10**9
    try:
        whole, _, fraction = text.partition(".")
        nanoseconds = int(f"{fraction:0<9}"[:9])
        return int(whole or 0) * 10**9 + (-nanoseconds if whole.startswith("-") else nanoseconds)
    except ValueError as error:
        raise UnsafeLayer(f"broken archive: {member.name[:200]!r} has the time {text[:80]!r}") from error


class Facts(NamedTuple):
    """What a header says of a file besides its name and kind; the time is in seconds."""

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    device: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> "Facts":
        """Take them from stat(2).

        Times become whole seconds, as in docker's layers: the fraction would cost a second header for every file.
        """
        kind, mtime = stat.S_IFMT(status.st_mode), status.st_mtime_ns // 10**9
        size = status.st_size if kind == stat.S_IFREG else 0
        device = status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, size, mtime, device)


def header(name: str, kind: bytes, facts: Facts, link: str = "", attributes: Mapping[str, bytes] = {}) -> bytes:
    """Return a member's header: one block, and before it a pax header for what one block cannot say."""
    path = os.fsencode(name) + (b"/" if kind == tarfile.DIRTYPE else b"")
    target = os.fsencode(link)
    records = {XATTR.encode() + os.fsencode(key): value for key, value in sorted(attributes.items())}
    for key, text in ((b"path", path), (b"linkpath", target)):
        if len(text) > 100 or not text.isascii():
            records[key] = text
    numbers = b"%07o\0" % facts.mode
    for key, number, digits in _numbers(facts):
        fits = 0 <= number < 8**digits
        if not fits:
            records[key] = b"%d" % number
        numbers += b"%0*o\0" % (digits, number if fits else 0)
    device = b"%07o\0%07o\0" % (os.major(facts.device), os.minor(facts.device))
    block = _block(_field(path, 100) + numbers, kind + _field(target, 100) + b"ustar\x0000" + bytes(64) + device)
    return _pax(records) + block if records else block


def _numbers(facts: Facts) -> Iterator[tuple[bytes, int, int]]:
    """Yield the numbers that may be too great for their field: pax name, value, octal digits there is room for."""
    yield from ((b"uid", facts.uid, 7), (b"gid", facts.gid, 7), (b"size", facts.size, 11), (b"mtime", facts.mtime, 11))


def padding(size: int) -> bytes:
    """Return what fills up the last block of `size` bytes."""
    return bytes(-size % BLOCK)


def _field(text: bytes, size: int) -> bytes:
    """Return text cut and filled up to `size`, in ASCII; where that loses something, the pax header has it whole."""
    return bytes(byte if byte < 128 else ord("?") for byte in text[:size]).ljust(size, b"\0")


def _block(front: bytes, back: bytes) -> bytes:
    """Put a header's checksum, the sum of its bytes with the checksum itself taken as blanks, between its halves."""
    blank = (front + b" " * 8 + back).ljust(BLOCK, b"\0")
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def _pax(records: Mapping[bytes, bytes]) -> bytes:
    """Return a pax header: a member of type `x` whose content is `length key=value` lines."""
    content = b"".join(_record(key, value) for key, value in records.items())
    front = _field(b"././@PaxHeader", 100) + b"0000000\0" * 3 + b"%011o\0" % len(content) + b"00000000000\0"
    return (
        _block(front, b"x" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2)
        + content
        + padding(len(content))
    )


def _record(key: bytes, value: bytes) -> bytes:
    """Return one line of a pax header; its length counts its own digits."""
    rest = len(b" =\n") + len(key) + len(value)
    length = rest
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
