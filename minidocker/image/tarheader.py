"""The headers of a tar archive, read: one block for each member, and before it what does not fit into a block.

Written by strangers, so read without trust. Python's own `tarfile` lets one megabyte of a pax header become a hundred
gigabytes of memory, keeps all that a global header says, and reads a sparse file's map for as long as there is one.
Here all that belongs to one member has a limit, and each byte of it is looked at once.

See: POSIX pax(1), "ustar Interchange Format" and "pax Header Block"; GNU tar manual, Basic Tar Format, Sparse Formats.
"""

import functools
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from minidocker.errors import UnsafeLayer

BLOCK = 512
LARGEST = 1 << 20  # of all headers of one member: a name, a link, attributes (64 KiB each at most), a sparse map
_DATA = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)
_NO_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_MOST = {"uid": 2**32 - 2, "gid": 2**32 - 2, "size": 2**63 - 1}  # the kernel's: uid -1 means "leave it as it is"

Records = list[tuple[str, str]]
Pieces = list[tuple[int, int]]


class Source(Protocol):
    """What headers are read from, forward only."""

    def read(self, size: int) -> bytes:
        """Return `size` bytes, none at the end."""

    def tell(self) -> int:
        """Return the position."""


class Found(NamedTuple):
    """A member, whose data comes next, and the position at which its data ends and the next header begins."""

    member: tarfile.TarInfo
    end: int


def next_member(source: Source) -> Found | None:
    """Read all headers of the next member; None at the end of the archive. Raises `UnsafeLayer` for a damaged one."""
    extra = _Extra(source)
    while True:
        start = source.tell()
        block = source.read(BLOCK)
        if not block.strip(b"\0"):
            if extra.used:
                raise UnsafeLayer(f"broken archive: at byte {start}, what a header speaks of is missing")
            return None
        try:
            if not extra.takes(block):
                return extra.complete(_member(block), block)
        except ValueError as error:
            raise UnsafeLayer(f"broken archive: {str(error)[:200]} in the header at byte {start}") from error


class _Extra:
    """What is said of one member before its own header, and how much of the limit that has used up."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.used = 0
        self.name = ""
        self.link = ""
        self.records: Records = []

    def takes(self, block: bytes) -> bool:
        """Read a header that only speaks of the next one; False for a member's own.

        A global header, which would speak of all that follow and be kept as long, is passed over, as docker does.
        """
        kind = block[156:157]
        if kind not in (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            return False
        check(block)
        self.spend(BLOCK)
        size = number(block[124:136])
        content = self.read(size)[:size]
        if kind in _PAX:
            self.records += pax_records(content)
        elif kind == tarfile.GNUTYPE_LONGNAME:
            self.name = _text(content)
        elif kind == tarfile.GNUTYPE_LONGLINK:
            self.link = _text(content)
        return True

    def spend(self, size: int) -> None:
        """Count bytes of headers. Raises `UnsafeLayer` when they are too many for one member."""
        self.used += size
        if not 0 <= size <= self.used <= LARGEST:
            raise UnsafeLayer(f"broken archive: a header of {self.used} bytes, {LARGEST} are enough for any member")

    def read(self, size: int) -> bytes:
        """Return the next bytes, in whole blocks."""
        size += -size % BLOCK
        self.spend(size)
        content = self.source.read(size)
        if len(content) != size:
            raise UnsafeLayer("unexpected end of layer: the archive was cut off in a header")
        return content

    def complete(self, member: tarfile.TarInfo, block: bytes) -> Found:
        """Say of a member what its own header could not."""
        pax = dict(self.records)
        member.pax_headers = pax
        member.name = pax.get("GNU.sparse.name") or pax.get("path") or self.name or member.name
        member.linkname = pax.get("linkpath") or self.link or member.linkname
        member.uid, member.gid = _override(pax, "uid", member.uid), _override(pax, "gid", member.gid)
        stored = _override(pax, "size", member.size) if member.type not in _NO_DATA else 0
        begin = self.source.tell()
        pieces = self.sparse(member, pax, block)
        member.size = stored
        if pieces is not None:
            key = "GNU.sparse.realsize" if "GNU.sparse.realsize" in pax else "GNU.sparse.size"
            real = number(block[483:495]) if member.type == tarfile.GNUTYPE_SPARSE else stored
            member.size = _override(pax, key, real)
            member.sparse = pieces  # type: ignore[assignment]
            if member.type == tarfile.GNUTYPE_SPARSE:
                begin = self.source.tell()
        if not 0 <= member.size <= _MOST["size"] or not 0 <= stored <= _MOST["size"]:
            raise ValueError(f"the size {member.size}")
        if not 0 <= member.uid <= _MOST["uid"] or not 0 <= member.gid <= _MOST["gid"]:
            raise ValueError(f"the owner {member.uid}:{member.gid}")
        return Found(member, begin + stored + -stored % BLOCK)

    # Files with holes: which pieces of them are in the archive, as (offset, size)

    def sparse(self, member: tarfile.TarInfo, pax: dict[str, str], block: bytes) -> Pieces | None:
        """Return the pieces of a file with holes, in whichever of four formats; None for any other file."""
        if member.type == tarfile.GNUTYPE_SPARSE:
            return self.old_map(block)
        if member.type not in _DATA:
            return None
        if "GNU.sparse.map" in pax:
            return _pairs(pax["GNU.sparse.map"].split(",") if pax["GNU.sparse.map"] else [])
        if pax.get("GNU.sparse.major") == "1" and pax.get("GNU.sparse.minor") == "0":
            return self.map_before_data()
        if "GNU.sparse.size" in pax:
            keys = ("GNU.sparse.offset", "GNU.sparse.numbytes")
            return _pairs([value for key, value in self.records if key in keys])
        return None

    def old_map(self, block: bytes) -> Pieces:
        """Read GNU's first format: four pieces in the header, and blocks of twenty-one for as long as one more is."""
        fields, more = block[386:482], block[482]
        while more:
            block = self.read(BLOCK)
            fields, more = fields + block[:504], block[504]
        numbers = [number(fields[at : at + 12]) for at in range(0, len(fields), 12)]
        return [(offset, size) for offset, size in zip(numbers[::2], numbers[1::2], strict=True) if size]

    def map_before_data(self) -> Pieces:
        """Read format 1.0: before the data, in whole blocks, how many pieces there are and the numbers, a line each."""
        content = self.read(BLOCK)
        count = 2 * decimal(content.partition(b"\n")[0].decode("ascii", "replace"))
        if count < 0:
            raise ValueError("a sparse map of less than nothing")
        lines = content.count(b"\n")
        blocks = [content]
        while lines <= count:
            blocks.append(self.read(BLOCK))
            lines += blocks[-1].count(b"\n")
        text = b"".join(blocks).decode("ascii", "replace")
        return _pairs(text.split("\n")[1 : 1 + count])


def _member(block: bytes) -> tarfile.TarInfo:
    """Read a member's own header. Raises ValueError."""
    check(block)
    member = tarfile.TarInfo(_text(block[:100]))
    member.mode, member.uid, member.gid = number(block[100:108]), number(block[108:116]), number(block[116:124])
    member.size, member.mtime = number(block[124:136]), number(block[136:148])
    member.type, member.linkname = block[156:157], _text(block[157:257])
    if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = number(block[329:337]), number(block[337:345])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        member.name = f"{prefix}/{member.name}"
    if member.type == tarfile.AREGTYPE and member.name.endswith("/"):
        member.type = tarfile.DIRTYPE
    return member


def check(block: bytes) -> None:
    """Raise ValueError unless the header's checksum is right: the sum of its bytes, its own place taken as blanks.

    Old writers took bytes above 127 as negative numbers.
    """
    if len(block) != BLOCK:
        raise UnsafeLayer("unexpected end of layer: the archive was cut off in a header")
    told, unsigned = number(block[148:156]), _sum(block[:148]) + 8 * ord(" ") + _sum(block[156:404]) + _sum(block[404:])
    if told != unsigned and told != unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:]):
        raise ValueError("a wrong checksum")


def _sum(data: bytes) -> int:
    """Add up 256 bytes at most: one more than that, modulo 65521, is the lower half of their Adler-32.

    zlib does it for the 13,000 headers of debian in 8 milliseconds, `sum` in 29. See: RFC 1950, 9.
    """
    return (zlib.adler32(data) & 0xFFFF) - 1


@functools.lru_cache(4096)  # owners, modes and times are the same in header after header
def number(field: bytes) -> int:
    """Read a number: octal digits, or, marked by its first bit, base 256 with a sign. Raises ValueError."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field) & (1 << bits) - 1
        return value - (1 << bits) if field[0] & 0x40 else value
    text = field.partition(b"\0")[0].strip(b" ")
    if text.strip(b"01234567"):
        raise ValueError(f"{field!r} for a number")
    return int(text or b"0", 8)


def decimal(text: str) -> int:
    """Read a number as pax writes them. Raises ValueError."""
    if not re.fullmatch("-?[0-9]{1,20}", text):
        raise ValueError(f"{text[:80]!r} for a number")
    return int(text)


def pax_records(content: bytes) -> Records:
    """Read the lines `length key=value` of a pax header; `length` is that of the whole line. Raises ValueError.

    A value may hold anything, also line ends and what is not UTF-8; `surrogateescape` keeps it.
    """
    return list(_records(content))


def _records(content: bytes) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(content):
        digits = content[position : position + 8].partition(b" ")[0]
        end = position + int(digits) if digits.isdigit() else 0
        key, equals, value = content[position + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or not key or content[end - 1 : end] != b"\n":
            raise ValueError(f"the line {content[position : position + 80]!r}")
        yield key.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")
        position = end


def _override(pax: dict[str, str], key: str, value: int) -> int:
    """Return what a pax header says, or, where it says nothing, `value`."""
    return decimal(pax[key]) if pax.get(key) else value


def _pairs(numbers: list[str]) -> Pieces:
    if len(numbers) % 2:
        raise ValueError("a sparse map with an odd end")
    return [(decimal(offset), decimal(size)) for offset, size in zip(numbers[::2], numbers[1::2], strict=True)]


def _text(field: bytes) -> str:
    """Read a text up to its NUL. Names are bytes to us, and `surrogateescape` keeps them."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
