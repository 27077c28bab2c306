"""Archives that mean harm, each tried for real: what they would write outside, fill, hang or crash is as it was.

Every test unpacks into a folder that has neighbours worth attacking, and compares the neighbours before and after.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagekit import member, tar
from minidocker.errors import DigestMismatch, UnsafeLayer
from minidocker.image import tarheader
from minidocker.image.layers import TarReader, compress, decompressed, pack, unpack
from minidocker.image.limits import Limits
from minidocker.image.oci import digest_of
from minidocker.image.store import ImageStore
from minidocker.linux import trees, userns
from trees import snapshot

LINK, HARD, DIR, CHAR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE
ROOT = os.geteuid() == 0
SECRET = b"the host's own secret"


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[str]:
    """Yield the folder to unpack in; what is around it must not change."""
    (tmp_path / "host/etc").mkdir(parents=True)
    (tmp_path / "host/etc/shadow").write_bytes(SECRET)
    (tmp_path / "layers/below").mkdir(parents=True)
    (tmp_path / "layers/below/kept").write_bytes(b"kept")
    folder = tmp_path / "layers/target"
    folder.mkdir()
    before = snapshot(str(tmp_path))
    links = os.stat(tmp_path / "host/etc/shadow").st_nlink
    yield str(folder)
    after = {name: facts for name, facts in snapshot(str(tmp_path)).items() if not name.startswith("layers/target")}
    before = {name: facts for name, facts in before.items() if not name.startswith("layers/target")}
    for facts in (before, after):
        facts["layers"] = facts["layers"]._replace(mtime=0)
    assert after == before
    assert os.stat(tmp_path / "host/etc/shadow").st_nlink == links
    trees.delete(str(folder))


def put(data: bytes, folder: str, **how: Any) -> int:
    reader = TarReader(decompressed(io.BytesIO(data)))
    size = unpack(reader, folder, **how)
    reader.finish()
    return size


def refused(data: bytes, folder: str, words: str = "", **how: Any) -> str:
    """Unpack what must be refused, with a message that is one short line; return the message."""
    with pytest.raises(UnsafeLayer, match=words or None) as error:
        put(data, folder, **how)
    text = str(error.value)
    assert text and "\n" not in text and len(text) < 800
    return text


def host(folder: str) -> str:
    return f"{os.path.dirname(os.path.dirname(folder))}/host"


# Names and links that lead out


@pytest.mark.parametrize("name", ["../x", "/../x", "a/../../x", "a/b/../../../host/etc/shadow", "..", "a/.."])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, DIR, LINK, HARD, tarfile.FIFOTYPE])
def test_dots_in_a_name(layer: str, name: str, kind: bytes) -> None:
    refused(tar(member(name, kind=kind, linkname="x")), layer, "leads out of the layer")
    assert os.listdir(layer) == []


def test_an_absolute_name_is_one_of_the_layer(layer: str) -> None:
    put(tar(member(f"{host(layer)}/etc/shadow", b"mine")), layer)
    assert Path(f"{layer}{host(layer)}/etc/shadow").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "target", ["{host}", "../../host", "../../../../../../../../../..{host}", "/proc/self/root{host}"]
)
def test_a_soft_link_and_a_file_below_it(layer: str, target: str) -> None:
    """The link means a place in the layer: what is written there is made inside, or refused."""
    data = tar(member("out", kind=LINK, linkname=target.format(host=host(layer))), member("out/etc/shadow", b"mine"))
    refused(data, layer, "is used as a folder, but is")


def test_a_chain_of_links(layer: str) -> None:
    chain = [member(f"l{number}", kind=LINK, linkname=f"l{number + 1}") for number in range(30)]
    data = tar(*chain, member("l30", kind=LINK, linkname=host(layer)), member("l0/etc/shadow", b"mine"))
    refused(data, layer, "symbolic link to nothing")
    # The same, with the place there in the layer: then it is that place.
    inside = member(f"{host(layer)}/etc", kind=DIR)
    put(tar(inside, *chain, member("l30", kind=LINK, linkname=host(layer)), member("l0/etc/shadow", b"mine")), layer)
    assert Path(f"{layer}{host(layer)}/etc/shadow").read_bytes() == b"mine"


def test_a_folder_swapped_for_a_link_between_entries(layer: str) -> None:
    """What was found to be a folder is looked up again once something took its place."""
    data = tar(
        member("d", kind=DIR),
        member("d/first", b"1"),
        member("d", kind=LINK, linkname=f"{host(layer)}/etc"),
        member("d/shadow", b"mine"),
    )
    refused(data, layer, "symbolic link to nothing|used as a folder")


def test_a_folder_swapped_before_its_times_are_set(layer: str) -> None:
    """Owners and times of folders come at the end, when the name may be a link."""
    data = tar(
        member("d", kind=DIR, mode=0o777, uid=5, mtime=5),
        member("d", kind=LINK, linkname=f"{host(layer)}/etc"),
        member("e", kind=DIR),
        member("e/sub", kind=DIR, mode=0o777, uid=5, mtime=5),
        member("e", kind=LINK, linkname=host(layer)),
    )
    try:
        put(data, layer)
    except UnsafeLayer as error:
        assert "symbolic link to nothing" in str(error)


@pytest.mark.parametrize("name", ["../../host/etc/shadow", "a/../../../host/etc/shadow"])
def test_a_hard_link_out_by_dots(layer: str, name: str) -> None:
    refused(tar(member("x", kind=HARD, linkname=name)), layer, "leads out of the layer")


def test_a_hard_link_out_through_links(layer: str) -> None:
    up = member("up", kind=LINK, linkname="../../host/etc")
    refused(tar(up, member("x", kind=HARD, linkname="up/shadow")), layer, "link to nothing|no file here")
    refused(tar(member("x", kind=HARD, linkname=f"{host(layer)}/etc/shadow")), layer, "no file here")
    # A hard link to a link is one more name of the link, not of what it points to.
    put(tar(member("s", kind=LINK, linkname=f"{host(layer)}/etc/shadow"), member("x", kind=HARD, linkname="s")), layer)
    assert os.path.islink(f"{layer}/x")


def test_writing_through_a_link_replaces_the_link(layer: str) -> None:
    put(tar(member("x", kind=LINK, linkname=f"{host(layer)}/etc/shadow"), member("x", b"mine")), layer)
    assert not os.path.islink(f"{layer}/x")


@pytest.mark.skipif(not ROOT, reason="whiteouts and owners need root")
@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "a/.wh...", "../.wh.below", "a/../../.wh.below"])
def test_a_whiteout_aimed_outside(layer: str, name: str) -> None:
    refused(tar(member(name)), layer, "whiteout of|leads out")


@pytest.mark.skipif(not ROOT, reason="whiteouts and owners need root")
def test_a_whiteout_through_a_link(layer: str) -> None:
    for name in (".wh.shadow", ".wh..wh..opq"):
        refused(
            tar(member("out", kind=LINK, linkname=f"{host(layer)}/etc"), member(f"out/{name}")), layer, "to nothing"
        )
    put(tar(member("x", kind=LINK, linkname=host(layer)), member(".wh.x")), layer)
    assert os.path.islink(f"{layer}/x")


# Devices, set-id bits, attributes


@pytest.mark.skipif(not ROOT, reason="only root makes device nodes")
def test_device_nodes_only_where_they_are_allowed(layer: str) -> None:
    data = tar(
        member("sda", kind=tarfile.BLKTYPE, devmajor=8, mode=0o666), member("mem", kind=CHAR, devmajor=1, devminor=1)
    )
    put(data, layer, powers=userns.NONE)
    assert os.listdir(layer) == []
    put(data, layer)  # in a layer they may be: a container cannot open them, see the tests of devices
    assert stat.S_ISBLK(os.lstat(f"{layer}/sda").st_mode)


@pytest.mark.parametrize("number", [2**31, 2**55, -1])
def test_device_numbers_that_cannot_be(layer: str, number: int) -> None:
    one, _ = member("x", kind=CHAR, devmajor=1, devminor=1)
    block = bytearray(one.tobuf(tarfile.GNU_FORMAT))
    block[329:337] = b"\x80" + (number & 2**56 - 1).to_bytes(7) if number > 0 else b"\xff" * 8
    data = sealed(block)
    if ROOT:
        refused(data, layer)


@pytest.mark.skipif(not ROOT, reason="owners need root")
def test_set_id_bits_on_links(layer: str) -> None:
    """A link has no mode; the file that it points to, or shares, keeps its own."""
    put(
        tar(
            member("file", b"x", mode=0o755),
            member("hard", kind=HARD, linkname="file", mode=0o6755),
            member("soft", kind=LINK, linkname="file", mode=0o6755),
            member("out", kind=LINK, linkname=f"{host(layer)}/etc/shadow", mode=0o6777, uid=5),
        ),
        layer,
    )
    assert stat.S_IMODE(os.stat(f"{layer}/file").st_mode) == 0o755


@pytest.mark.parametrize(
    "records",
    [
        {"SCHILY.xattr.user.\0x": "1"},
        {"SCHILY.xattr.": "1"},
        {"SCHILY.xattr.user." + "n" * 300: "1"},
        {"SCHILY.xattr.user.big": "v" * 70_000},
        {"SCHILY.xattr.nowhere.x": "1"},
        {"SCHILY.xattr.security.capability": "rubbish"},
        {"SCHILY.xattr.system.posix_acl_access": "rubbish"},
    ],
    ids=lambda records: next(iter(records))[:30],
)
def test_attributes_that_cannot_be(layer: str, records: dict[str, str]) -> None:
    if ROOT:
        refused(tar(member("x", b"x", pax_headers=records)), layer)


# Names that differ only in how they are written


def test_names_that_differ_only_in_their_encoding_are_different_files(layer: str) -> None:
    names = ["é", "e\u0301", os.fsdecode(b"\xe9"), os.fsdecode(b"\xc0\xaf"), "E\u0301", "\u2024\u2024", "\uff0e\uff0e"]
    put(tar(*(member(name, name.encode("utf-8", "surrogateescape")) for name in names)), layer)
    assert sorted(os.listdir(layer)) == sorted(names)
    for name in names:
        assert Path(layer, name).read_bytes() == os.fsencode(name)
    # An over-long encoding of a slash is no slash, and dots in other scripts are no dots.
    put(tar(member(os.fsdecode(b"..\xc0\xaf..\xc0\xafx"), b"x"), member("\u2025/\uff0e./x", b"x")), layer)
    assert os.listdir(f"{layer}/\u2025") == ["\uff0e."]


@pytest.mark.parametrize("name", ["n" * 256, "a/" + "n" * 256, "d/" * 2100 + "x", "d/" * 1500 + "x", "x" * 900_000])
def test_names_that_are_too_long(layer: str, name: str) -> None:
    refused(tar(member(name, b"x")), layer)


def test_folders_nested_deeper_than_calls_can_be(layer: str) -> None:
    """Each name is short; a link to where the last one ended makes the path long. It can be made, and deleted."""
    deep, members = "d/" * 400, []
    for number in range(4):
        members += [member(f"l{number}", kind=LINK, linkname=f"l{number - 1}/{deep}" if number else deep)]
        members += [member(f"l{number - 1}/{deep}x" if number else f"{deep}x", b"x")]
    put(tar(*members), layer)
    with pytest.raises(UnsafeLayer, match="nested too deeply"):
        pack(layer, lambda data: None)
    trees.delete(layer)
    assert not os.path.exists(layer)
    os.mkdir(layer)


# Bombs


def zeros(size: int) -> Iterator[bytes]:
    """Yield the archive of one file of zeros, without ever holding it."""
    info, _ = member("zeros")
    info.size = size
    yield info.tobuf(tarfile.GNU_FORMAT)
    for _ in range(size >> 20):
        yield bytes(1 << 20)
    yield bytes(1024)


@pytest.mark.parametrize(
    "squeeze",
    [
        pytest.param(lambda: zstandard.ZstdCompressor().compressobj(), id="zstd"),
        pytest.param(bz2.BZ2Compressor, id="bzip2"),
    ],
)
def test_a_bomb_is_refused_by_the_size_it_says_it_has(layer: str, squeeze: Callable[[], Any]) -> None:
    press = squeeze()
    data = b"".join(press.compress(piece) for piece in zeros(160 << 20)) + press.flush()
    assert len(data) < 1 << 20
    words = refused(data, layer, "no space left on device for 'zeros'", limits=Limits(100 << 20, 100))
    assert "it has 167772160 bytes unpacked, and 104857600 are free" in words
    assert os.listdir(layer) == []  # not a byte of it was written


def test_a_bomb_in_many_files_is_refused_when_it_is_too_much(layer: str) -> None:
    files = tar(*(member(f"f{number}", bytes(1000)) for number in range(10)))
    refused(files, layer, "'f5'.* and 0 are free", limits=Limits(5000, 100))
    refused(files, layer, "too many files", limits=Limits(1 << 20, 5))


def test_the_disk_itself_is_the_limit(layer: str) -> None:
    info, _ = member("x")
    info.size = 1 << 50
    refused(info.tobuf(tarfile.GNU_FORMAT) + bytes(512), layer, "no space left on device")
    sparse, _ = member("x", b"", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**62)})
    refused(tar((sparse, b"")), layer, "no space left on device")
    fd = os.open(layer, os.O_RDONLY)
    free = os.statvfs(layer).f_bavail * os.statvfs(layer).f_frsize
    assert 0 < Limits.of_disk(fd).size <= free
    os.close(fd)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed_data_comes_in_pieces_that_fit_into_memory(kind: str) -> None:
    """64 KiB of bzip2 can be 60 GB, and must not become it at once."""
    plain = bytes(64 << 20)
    pack_it = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}[kind]
    data = pack_it(plain)  # type: ignore[operator]
    data = data * 3  # three streams, one after another
    largest = total = 0
    for piece in decompressed(io.BytesIO(data)):
        largest, total = max(largest, len(piece)), total + len(piece)
    assert total == 3 * len(plain)
    assert largest <= 32 << 20


def test_an_xz_stream_that_asks_for_all_memory(layer: str) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    data = lzma.compress(tar(member("x", b"x")), filters=filters, preset=None)
    refused(data, layer, "Memory usage limit")


MEASURE = """
import resource, sys
sys.path[:0] = {paths}
from minidocker.errors import UnsafeLayer
from minidocker.image.layers import TarReader
from minidocker.image.limits import Limits
from minidocker.image.tarstream import Facts, header
from minidocker.image import unpack as module
def archive():
    for number in range({count}):
        yield header("%d/%d" % (number % 100, number), {kind!r}, Facts(0o755))
if {pretend}:
    module._Unpacking._directory = module._Unpacking._file = lambda self, *a: None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    module.unpack(TarReader(archive()), {folder!r}, limits=Limits(1 << 40, 1 << 40))
except UnsafeLayer as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def measured(folder: str, count: int, kind: bytes, pretend: bool) -> list[str]:
    script = MEASURE.format(paths=sys.path, count=count, kind=kind, folder=folder, pretend=pretend)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split("\n")


def test_many_files_need_no_memory(layer: str) -> None:
    """Memory is measured with the making of files left out, which is the kernel's affair: nothing is kept of a file.

    So a million need no more than these.
    """
    used = measured(layer, 100_000, tarfile.REGTYPE, True)
    assert int(used[0]) < 20


def test_what_is_kept_of_folders_is_counted(layer: str) -> None:
    """Of a folder its times are kept until the end: as much as is counted, so that a million are too many."""
    used = measured(layer, 60_000, DIR, True)
    assert int(used[0]) <= 5 + (60_000 * 350 >> 20)
    refused(tar(*(member(f"d{number}", kind=DIR) for number in range(20))), layer, "too many folders", limits=FEW)


FEW = Limits(1 << 30, 100, 5000)


def test_attributes_of_folders_are_limited_together(layer: str) -> None:
    big = {"SCHILY.xattr.user.big": "v" * 60_000}
    data = tar(*(member(f"d{number}", kind=DIR, pax_headers=big) for number in range(20)))
    refused(data, layer, "too many folders with too many attributes", limits=Limits(1 << 30, 100, 1 << 20))


# Oddities of headers


def sealed(block: bytes | bytearray) -> bytes:
    """Put the right checksum into a header."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def extended(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """Return a header of this kind with content, which may lie about its size."""
    info, _ = member("x", kind=kind)
    info.size = len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


FILE = tar(member("f", b"content"))


def with_field(start: int, value: bytes) -> bytes:
    block = bytearray(FILE[:512])
    block[start : start + len(value)] = value
    return sealed(block) + FILE[512:]


@pytest.mark.parametrize("start", [100, 108, 116, 124, 136], ids=["mode", "uid", "gid", "size", "mtime"])
@pytest.mark.parametrize(
    "value",
    [
        b"\xff" * 8,
        b"\x80" + b"\xff" * 7,
        b"\xc0" + b"\0" * 7,
        b"-0000001",
        b"0o000017",
        b"9999999\0",
        b"1_000_0\0",
        b"abcdefg\0",
    ],
    ids=repr,
)
def test_numbers_that_overflow_or_are_none(layer: str, start: int, value: bytes) -> None:
    try:
        put(with_field(start, value), layer)
    except UnsafeLayer as error:
        assert "broken archive" in str(error) or "no space" in str(error) or "unpacked" in str(error)
        assert os.listdir(layer) in ([], ["f"])


@pytest.mark.parametrize("key", ["size", "uid", "gid", "mtime"])
@pytest.mark.parametrize("value", ["-1", "1" * 30, "9" * 5000, "nan", "inf", "1e3", "0x10", "1_0", "٣", " 1", ""])
def test_pax_numbers_that_overflow_or_are_none(layer: str, key: str, value: str) -> None:
    record = tarheader_record(key, value)
    if key == "mtime" and value in ("-1", "1_0", "٣", " 1", ""):
        return  # a time before 1970, or one that Python understands, too, hurts nobody
    if value == "":
        put(extended(b"x", record) + FILE, layer)
    else:
        refused(extended(b"x", record) + FILE, layer)


def tarheader_record(key: str, value: str) -> bytes:
    rest = len(f" {key}={value}\n".encode())
    length = rest
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return f"{length} {key}={value}\n".encode()


@pytest.mark.parametrize(
    "content",
    [
        b"2 " * 500_000 + b"2 a=\n",  # Python's tarfile makes 250 GB of it
        b"0 a=b\n",
        b"6 a=b",
        b"999999 a=b\n",
        b"-6 a=b\n",
        b"5 a=b\n",
        b"7 a=b\n",
        b" a=b\n",
        b"6 abc\n",
        b"5 =b\n",
        b"1" * 100_000,
        b"\n" * 512,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_broken_pax_records(layer: str, content: bytes) -> None:
    refused(extended(b"x", content) + FILE, layer, "broken archive")


def test_the_characters_of_a_header_are_as_they_are(layer: str) -> None:
    """`hdrcharset` would have names read in another way; bytes are kept whatever it says."""
    for number, charset in enumerate(("BINARY", "ISO-IR 10646 2000 UTF-8", "nonsense", "utf-16")):
        name = b"name-%d-\xff" % number
        path = b"%d path=%s\n" % (len(name) + 9, name)
        put(extended(b"x", tarheader_record("hdrcharset", charset) + path) + FILE, layer)
        assert os.path.exists(os.path.join(os.fsencode(layer), name))


def test_a_global_header_speaks_for_nobody(layer: str) -> None:
    """Docker passes over it: or else one header could name all files that follow, and be remembered for ever."""
    record = tarheader_record("path", "../../host/etc/shadow") + tarheader_record("linkpath", "/etc/passwd")
    put(extended(b"g", record) + FILE + b"", layer)
    assert os.listdir(layer) == ["f"]
    many = extended(b"g", b"".join(tarheader_record(f"key{number}", "v") for number in range(100)))
    files = b"".join(many + tar(member(f"n{number}", b"x"))[:1024] for number in range(200))
    put(files, layer)
    assert len(os.listdir(layer)) == 201


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"X"])
@pytest.mark.parametrize("size", [2**20, 2**33 - 1, -512])
def test_headers_that_claim_to_be_endless(layer: str, kind: bytes, size: int) -> None:
    refused(extended(kind, b"n" * 512, size) + FILE, layer, "a header of")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_headers_one_after_another_without_end(layer: str, kind: bytes) -> None:
    content = tarheader_record("comment", "v" * 400) if kind in b"xg" else b"n" * 400
    refused(extended(kind, content) * 5000 + FILE, layer, "a header of")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_that_speaks_of_nothing(layer: str, kind: bytes) -> None:
    refused(extended(kind, b"") + bytes(1024), layer, "what a header speaks of is missing")
    refused(extended(kind, b""), layer, "what a header speaks of is missing")


def sparse_1_0(content: bytes, size: int = 1000) -> bytes:
    records = b"".join(
        tarheader_record(key, value)
        for key, value in (
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", str(size)),
            ("GNU.sparse.name", "s"),
        )
    )
    return extended(b"x", records) + extended(b"0", content) + bytes(1024)


@pytest.mark.parametrize(
    "content",
    [
        b"1\n0\n2000\n",
        b"1\n5000\n10\n",
        b"1\n-5\n5\n",
        b"1\n0\n-5\n",
        b"rubbish\n",
        b"-4\n0\n5\n",
        b"999999999999\n" + b"0\n" * 3_000_000,
        b"",
        b"2\n0\n" + b"1" * 600,
    ],
    ids=lambda content: repr(content[:16]),
)
def test_sparse_maps_that_lie(layer: str, content: bytes) -> None:
    refused(sparse_1_0(content), layer, "broken archive|unexpected end|a header of")


def test_a_sparse_map_in_the_header_that_lies(layer: str) -> None:
    for numbers in ("0", "0,2000", "-1,1", "1,-1", "x,y", "9" * 30 + ",1", "0,5," * 200_000 + "0,5"):
        records = tarheader_record("GNU.sparse.map", numbers) + tarheader_record("GNU.sparse.size", "1000")
        refused(extended(b"x", records) + FILE, layer)


def test_gnus_first_sparse_format_without_end(layer: str) -> None:
    block = bytearray(512)
    block[:1], block[156:157], block[257:265] = b"s", b"S", b"ustar  \0"
    block[100:108] = block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = block[136:148] = b"00000000000\0"
    block[386:482] = b"00000000000\0" * 8
    block[482] = 1
    block[483:495] = b"00000000000\0"
    more = bytearray(b"00000000000\0" * 42 + bytes(8))
    more[504] = 1
    refused(sealed(block) + bytes(more) * 5000, layer, "a header of")


def test_an_entry_below_a_file_and_what_replaces_what(layer: str) -> None:
    refused(tar(member("f", b"x"), member("f/below", b"y")), layer, "is used as a folder, but is none")
    put(
        tar(
            member("a", b"file"),
            member("a", kind=DIR),
            member("a/in", b"1"),
            member("a", b"again"),
            member("a", kind=LINK, linkname=host(layer)),
            member("a", kind=DIR),
            member("a/in", b"2"),
        ),
        layer,
    )
    assert Path(layer, "a/in").read_bytes() == b"2"


def test_duplicates_the_last_one_counts(layer: str) -> None:
    put(tar(*(member("same", b"%d" % number) for number in range(1000))), layer)
    assert Path(layer, "same").read_bytes() == b"999"


def test_rubbish_after_the_end_is_digested_and_no_more(layer: str) -> None:
    hidden = tar(member("../x", b"x"), member("hidden", b"x"))
    data = FILE[:1024] + bytes(1024) + hidden
    reader = TarReader(iter([data]))
    unpack(reader, layer)
    assert reader.finish() == digest_of(data)
    assert os.listdir(layer) == ["f"]


def test_a_zip_or_anything_else_that_calls_itself_a_layer(layer: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../x", "x" * 2000)
    for data in (
        packed.getvalue(),
        b"\x7fELF" + bytes(2000),
        b"%PDF-1.4\n" * 200,
        b"\x1f\x9d\x90" + bytes(range(256)) * 9,
    ):
        refused(data, layer, "broken archive|unexpected end")


@pytest.mark.skipif(not ROOT, reason="the store keeps owners")
@pytest.mark.parametrize(
    "data",
    [
        tar(member("ok", b"1"), member("../x", b"x")),
        tar(member("ok", b"1"))[:700],
        tar(member("ok", b"1"), member("x", kind=HARD, linkname="/etc/passwd")),
        b"PK\x03\x04" + bytes(3000),
    ],
    ids=["out", "cut", "link", "zip"],
)
def test_of_a_refused_layer_nothing_is_left(tmp_path: Path, data: bytes) -> None:
    store = ImageStore(str(tmp_path / "root"))
    store.layout.create()

    def produce(write: Callable[[bytes], object]) -> int:
        write(data)
        return 0

    made = compress(store.layout, produce)
    before = snapshot(str(tmp_path))
    for diff_id in (made.diff_id, digest_of(b"another")):
        with pytest.raises((UnsafeLayer, DigestMismatch)):
            store.unpack(made.blob.digest, diff_id)
    store.unpacked.delete_leftovers()
    after = snapshot(str(tmp_path))
    for facts in (before, after):
        for name in ("root", "root/layers", "root/content.lock"):
            facts.pop(name, None)
    assert after == before


# Fuzzing: mutated archives


def varied() -> bytes:
    """Return a short archive with every kind of header."""
    first = tar(
        member("dir", kind=DIR, mode=0o755),
        member("dir/file", b"content" * 30),
        member("n" * 150, b"x", pax_headers={"SCHILY.xattr.user.a": "b", "mtime": "1.5"}),
        member("dir/hard", kind=HARD, linkname="dir/file"),
        member("soft", kind=LINK, linkname="../" * 5 + "etc"),
        member("soft/x", b"1"),
    )[:-1024].rstrip(b"\0")
    first += bytes(-len(first) % 512)
    second = tar(member("dir/" + "l" * 120, b"y"), member(".wh.gone"), form=tarfile.GNU_FORMAT)
    return first + sparse_1_0(b"1\n0\n7\n".ljust(512, b"\0") + b"content", 1000)[:-1024] + second


BASE = varied()


@pytest.mark.skipif(not ROOT, reason="an ordinary user cannot make whiteouts")
@settings(
    max_examples=150, deadline=2000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, len(BASE) - 1), st.binary(min_size=1, max_size=12), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, len(BASE)),
)
def test_fuzz_archives(layer: str, changes: list[tuple[int, bytes, bool]], cut: int) -> None:
    """Change bytes of a valid archive, with the header's checksum made right again or not."""
    data = bytearray(BASE)
    for position, new, seal in changes:
        data[position : position + len(new)] = new
        block = position - position % 512
        if seal and len(data) >= block + 512:
            data[block : block + 512] = sealed(data[block : block + 512])
    try:
        put(bytes(data[:cut] if cut % 3 == 0 else data), layer, limits=Limits(1 << 24, 1000))
    except UnsafeLayer:
        pass
    trees.delete(layer)
    os.mkdir(layer)


@settings(max_examples=300, deadline=1000, derandomize=True)
@given(st.binary(max_size=2000))
def test_fuzz_pax_records(content: bytes) -> None:
    try:
        records = tarheader.pax_records(content)
    except ValueError:
        return
    assert sum(len(key) + len(value) for key, value in records) <= len(content)


@settings(max_examples=300, deadline=1000, derandomize=True)
@given(st.integers(1, 12).flatmap(lambda size: st.binary(min_size=size, max_size=size)))
def test_fuzz_numbers(field: bytes) -> None:
    try:
        assert abs(tarheader.number(field)) < 2 ** (8 * len(field))
    except ValueError:
        pass


def test_our_numbers_are_tarfiles() -> None:
    for value in (0, 7, 8**11 - 1, 8**11, 2**62, -1, -(2**40)):
        field = tarfile.itn(value, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
        assert tarheader.number(bytes(field)) == value
