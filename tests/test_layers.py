"""Layers: archive to folder and back, compared with GNU tar and docker; hostile and broken archives."""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from imagekit import member, tar
from minidocker.errors import UnsafeLayer
from minidocker.image.layers import TarReader, compress, decompressed, pack, pack_path, unpack, write_layer
from minidocker.image.layout import BlobWriter, Layout
from minidocker.image.oci import digest_of
from minidocker.linux import userns
from minidocker.linux.syscalls import RESOLVE_IN_ROOT, openat2
from trees import CAPABILITY, LONG, make_everything, snapshot

ROOT = os.geteuid() == 0


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "target").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return str(tmp_path / "target")


@pytest.fixture(autouse=True)
def nothing_outside(tmp_path: Path) -> Iterator[None]:
    """Whatever a test unpacks, the folder beside its target stays as it was."""
    yield
    if (tmp_path / "outside").exists():
        assert os.listdir(tmp_path / "outside") == ["secret"]
        assert (tmp_path / "outside" / "secret").read_text() == "secret"
        assert (tmp_path / "outside" / "secret").stat().st_nlink == 1


def put(data: bytes, folder: str, **how: Any) -> int:
    reader = TarReader(decompressed(io.BytesIO(data)))
    size = unpack(reader, folder, **how)
    if data.startswith(b"\x1f\x8b") is False and not data.startswith((b"BZh", b"\xfd7z", b"\x28\xb5")):
        assert reader.finish() == digest_of(data)
    return size


def packed(folder: str, whiteouts: bool = True) -> bytes:
    out = io.BytesIO()
    pack(folder, out.write, whiteouts=whiteouts)
    return out.getvalue()


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        return archive.getnames()


# Hostile archives

LINK = tarfile.SYMTYPE
HARD = tarfile.LNKTYPE
DIR = tarfile.DIRTYPE


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside/x", b"x")],
        [member("a/../../outside/x", b"x")],
        [member("..", kind=DIR)],
        [member("a/..", kind=DIR)],
        [member(".wh...")],
        [member(".wh..")],
        [member(".wh.")],
        [member("a/.wh...")],
        [member("x", kind=HARD, linkname="../outside/secret")],
        [member("x", kind=HARD, linkname="a/../../outside/secret")],
        [member("x", kind=HARD, linkname=".")],
        [member("x", kind=HARD, linkname="nothing")],
        [member("d", kind=DIR), member("x", kind=HARD, linkname="d")],
        [member("x", pax_headers={"path": "a\0b"})],
        [member(".", b"x")],
        [member("./", kind=LINK, linkname="/")],
        [member("x", kind=LINK, linkname="")],
        [member("file"), member("file/below")],
        [member("link", kind=LINK, linkname="nowhere"), member("link/below")],
        [member("loop", kind=LINK, linkname="loop"), member("loop/below")],
        [member("x", kind=b"Q")],
        [member("x", pax_headers={"mtime": "yesterday"})],
        [member("x", pax_headers={"uid": str(2**70)})],
    ],
    ids=lambda members: members[-1][0].name[:20],
)
def test_what_would_lead_out_or_is_nonsense_is_refused(folder: str, members: Any) -> None:
    if not ROOT and "uid" in members[-1][0].pax_headers:
        pytest.skip("an ordinary user sets no owners")
    with pytest.raises(UnsafeLayer):
        put(tar(*members), folder)


@pytest.mark.parametrize("target", ["../outside", "/outside", "../../../../outside", "ABSOLUTE"])
def test_a_symbolic_link_is_followed_inside_only(folder: str, tmp_path: Path, target: str) -> None:
    target = target.replace("ABSOLUTE", str(tmp_path / "outside"))
    archive = tar(member("link", kind=LINK, linkname=target), member("outside", kind=DIR), member("link/x", b"x"))
    try:
        put(archive, folder)
    except UnsafeLayer:
        assert target == str(tmp_path / "outside")
    else:
        assert Path(folder, "outside", "x").read_text() == "x"


def test_links_within_the_layer_work(folder: str) -> None:
    put(
        tar(
            member("usr/lib", kind=DIR),
            member("lib", kind=LINK, linkname="/usr/lib"),
            member("lib/x", b"x"),
            member("again", kind=LINK, linkname="usr/../lib"),
            member("again/y", b"y"),
            member("hard", kind=HARD, linkname="lib/x"),
        ),
        folder,
    )
    assert sorted(os.listdir(f"{folder}/usr/lib")) == ["x", "y"]
    assert os.path.samefile(f"{folder}/hard", f"{folder}/usr/lib/x")


def test_the_last_component_is_never_followed(folder: str, tmp_path: Path) -> None:
    secret = str(tmp_path / "outside" / "secret")
    put(tar(member("x", kind=LINK, linkname=secret), member("x", b"mine")), folder)
    assert Path(folder, "x").read_text() == "mine"
    put(tar(member("d", kind=LINK, linkname=str(tmp_path / "outside")), member("d", kind=DIR, mode=0o700)), folder)
    assert not os.path.islink(f"{folder}/d")
    put(tar(member("l", kind=LINK, linkname=secret), member("h", kind=HARD, linkname="l")), folder)
    assert os.readlink(f"{folder}/h") == secret
    put(tar(member("f", kind=LINK, linkname=secret), member("f", kind=tarfile.FIFOTYPE)), folder)
    assert stat.S_ISFIFO(os.lstat(f"{folder}/f").st_mode)


def test_a_leading_slash_is_dropped(folder: str) -> None:
    put(tar(member("/etc/x", b"x"), member("//etc//./y", b"y"), member("/z", kind=HARD, linkname="/etc/x")), folder)
    assert sorted(os.listdir(f"{folder}/etc")) == ["x", "y"]
    assert os.path.samefile(f"{folder}/z", f"{folder}/etc/x")


@pytest.mark.parametrize("first", [b"0", DIR, LINK, tarfile.FIFOTYPE])
@pytest.mark.parametrize("second", [b"0", DIR, LINK, tarfile.FIFOTYPE, HARD])
def test_an_entry_replaces_another_of_any_kind(folder: str, first: bytes, second: bytes) -> None:
    below = [member("x/below", b"z")] if first == DIR else []
    put(
        tar(
            member("target", b"hard"),
            member("x", kind=first, linkname="nowhere"),
            *below,
            member("x", kind=second, linkname="target"),
        ),
        folder,
    )
    kinds = {
        b"0": stat.S_ISREG,
        DIR: stat.S_ISDIR,
        LINK: stat.S_ISLNK,
        tarfile.FIFOTYPE: stat.S_ISFIFO,
        HARD: stat.S_ISREG,
    }
    assert kinds[second](os.lstat(f"{folder}/x").st_mode)
    assert (os.listdir(f"{folder}/x") == ["below"]) if first == second == DIR else True


def test_a_hard_link_to_itself_changes_nothing(folder: str) -> None:
    put(tar(member("x", b"x"), member("x", kind=HARD, linkname="./x")), folder)
    assert Path(folder, "x").read_text() == "x"


def test_rewriting_a_hard_linked_file_leaves_the_other_name_alone(folder: str) -> None:
    put(tar(member("a", b"1"), member("b", kind=HARD, linkname="a"), member("a", b"2")), folder)
    assert (Path(folder, "a").read_text(), Path(folder, "b").read_text()) == ("2", "1")


def test_an_attribute_of_overlayfs_is_not_an_archives_to_set(folder: str) -> None:
    headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y"}
    put(tar(member("d", kind=DIR, pax_headers=headers)), folder)
    assert os.listxattr(f"{folder}/d") == []


# Broken archives

WHOLE = tar(member("a", b"a" * 2000), member("b" * 150, b"b" * 2000), member("c", b"c"))


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 1024, 2559, 2600, 3072 + 100, 3584 + 300])
def test_an_archive_that_was_cut_off(folder: str, cut: int) -> None:
    with pytest.raises(UnsafeLayer, match="unexpected end of layer|broken archive"):
        put(WHOLE[:cut], folder)


def test_an_archive_without_its_end_mark_is_taken_as_it_is(folder: str) -> None:
    """Go's and GNU's readers do so too; a layer that was cut off between members is found out by its digest."""
    put(WHOLE[:2560], folder)
    assert os.listdir(folder) == ["a"]


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_every_compression(folder: str, kind: str) -> None:
    reader = TarReader(decompressed(io.BytesIO(COMPRESSORS[kind](WHOLE))))
    unpack(reader, folder)
    assert reader.finish() == digest_of(WHOLE)
    two = COMPRESSORS[kind](WHOLE[:3000]) + COMPRESSORS[kind](WHOLE[3000:])
    assert b"".join(decompressed(io.BytesIO(two))) == WHOLE


def test_padding_after_a_compressed_stream() -> None:
    assert b"".join(decompressed(io.BytesIO(gzip.compress(WHOLE) + bytes(1000)))) == WHOLE


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_compressed_archive_that_was_cut_off_or_damaged(kind: str) -> None:
    whole = COMPRESSORS[kind](os.urandom(50_000))
    for cut in (7, 20, len(whole) // 2, len(whole) - 1):
        with pytest.raises(UnsafeLayer, match="unexpected end of layer"):
            list(decompressed(io.BytesIO(whole[:cut])))
    for damaged in (whole[:30] + b"rubbish" + whole[37:], whole + b"rubbish after the end"):
        with pytest.raises(UnsafeLayer):
            if b"".join(decompressed(io.BytesIO(damaged))) and kind == "zstd":
                raise UnsafeLayer("zstd frames need not have a checksum; the layer's digest finds it out")


def test_a_bomb_of_a_header(folder: str) -> None:
    bomb, _ = member("x", kind=tarfile.XHDTYPE)
    bomb.size = 1 << 40
    with pytest.raises(UnsafeLayer, match="a header of"):
        put(bomb.tobuf(tarfile.GNU_FORMAT) + bytes(10_000), folder)


def test_headers_nested_without_end(folder: str) -> None:
    header, _ = member("x", kind=tarfile.GNUTYPE_LONGNAME)
    with pytest.raises(UnsafeLayer, match="broken archive"):
        put(header.tobuf(tarfile.GNU_FORMAT) * 20_000, folder)


def test_a_damaged_header_in_the_middle_is_no_end(folder: str) -> None:
    damaged = bytearray(WHOLE)
    damaged[2560 + 3] ^= 1
    with pytest.raises(UnsafeLayer, match="broken archive"):
        put(bytes(damaged), folder)


def test_no_archive_at_all(folder: str) -> None:
    assert put(b"", folder) == 0
    assert put(bytes(1024), folder) == 0
    with pytest.raises(UnsafeLayer):
        put(b"this is a text" * 100, folder)


# What an ordinary user gets


def test_without_privileges_owners_and_devices_are_left_out(folder: str) -> None:
    archive = tar(
        member("x", b"x", uid=5, gid=6, mode=0o4755),
        member("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("closed", kind=DIR, mode=0o500),
        member("closed/file", b"y"),
        member("implied/folder/file", b"zz"),
    )
    reader = TarReader(decompressed(io.BytesIO(archive)))
    assert unpack(reader, folder, powers=userns.NONE) == 4
    status = os.stat(f"{folder}/x")
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o4755)
    assert sorted(os.listdir(folder)) == ["closed", "implied", "x"]
    assert stat.S_IMODE(os.stat(f"{folder}/closed").st_mode) == 0o500
    os.chmod(f"{folder}/closed", 0o700)


def test_unpacking_below_a_folder_of_the_tree(folder: str) -> None:
    os.mkdir(f"{folder}/real")
    os.symlink("/real", f"{folder}/link")
    put(
        tar(member("a/.wh.x", b"1"), member("b", kind=HARD, linkname="a/.wh.x")),
        folder,
        below="/link/new",
        whiteouts=False,
    )
    assert Path(folder, "real/new/a/.wh.x").read_text() == "1"
    assert os.path.samefile(f"{folder}/real/new/b", f"{folder}/real/new/a/.wh.x")


# Packing


def test_packing_is_deterministic_and_sorted(folder: str, tmp_path: Path) -> None:
    for name in ("b", "a", "a-", "a0", "d/y", "d/x"):
        path = Path(folder, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert names(packed(folder)) == ["a", "a-", "a0", "b", "d", "d/x", "d/y"]
    layout = Layout(str(tmp_path / "layout"))
    layout.create()
    first, second = write_layer(layout, folder), write_layer(layout, folder)
    assert first == second
    assert first.size == len("baa-a0d/yd/x")
    assert first.diff_id == digest_of(packed(folder))
    assert b"".join(decompressed(layout.open_blob(first.blob.digest))) == packed(folder)
    assert layout.read_blob(first.blob.digest)[4:8] == bytes(4), "no time in gzip's header"


def test_packing_one_path(folder: str) -> None:
    Path(folder, "d").mkdir()
    Path(folder, "d", "f").write_text("x")
    out = io.BytesIO()
    assert pack_path(f"{folder}/d", "renamed", out.write) == 1
    assert names(out.getvalue()) == ["renamed", "renamed/f"]
    with pytest.raises(FileNotFoundError):
        pack_path(f"{folder}/nothing", "x", out.write)


def test_a_file_that_shrinks_while_it_is_read(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(folder, "log").write_bytes(b"x" * 1000)
    Path(folder, "next").write_bytes(b"next")
    monkeypatch.setattr("minidocker.image.layers.os.read", lambda fd, size: b"")
    data = packed(folder)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["log", "next"]


# With root: whiteouts, and everything


@pytest.mark.root
def test_whiteouts_become_overlayfss_marks_and_come_back(folder: str) -> None:
    archive = tar(
        member("d", kind=DIR),
        member("d/.wh..wh..opq"),
        member("d/kept", b"x"),
        member("e/.wh.gone"),
        member(".wh.top"),
        member(".wh..wh.plnk", kind=DIR),
        member(".wh..wh.aufs", b"x"),
    )
    put(archive, folder)
    assert os.getxattr(f"{folder}/d", "trusted.overlay.opaque") == b"y"
    for path in ("e/gone", "top"):
        status = os.lstat(f"{folder}/{path}")
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == 0
    assert sorted(os.listdir(folder)) == ["d", "e", "top"]
    assert names(packed(folder)) == ["d", "d/.wh..wh..opq", "d/kept", "e", "e/.wh.gone", ".wh.top"]


@pytest.mark.root
@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_and_its_name_in_one_layer(folder: str, order: int) -> None:
    """A whiteout is about the layers below; what the same layer has under that name stays, whatever the order."""
    members = [
        [member(".wh.f")],
        [member("f", b"new")],
        [member(".wh.d")],
        [member("d", kind=DIR), member("d/x", b"x")],
    ]
    put(tar(*(m for group in members[::order] for m in group)), folder)
    assert Path(folder, "f").read_text() == "new"
    assert os.getxattr(f"{folder}/d", "trusted.overlay.opaque") == b"y"
    assert os.listdir(f"{folder}/d") == ["x"]


@pytest.mark.root
def test_a_half_copied_upper_directory_is_refused(folder: str) -> None:
    os.mkdir(f"{folder}/d")
    os.setxattr(f"{folder}/d", "trusted.overlay.redirect", b"/elsewhere")
    with pytest.raises(UnsafeLayer, match="redirect_dir=off"):
        packed(folder)


@pytest.mark.root
def test_everything_survives_packing_and_unpacking(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make_everything(str(source))
    data = packed(str(source), whiteouts=False)
    put(data, folder)
    assert snapshot(folder) == snapshot(str(source))
    assert packed(folder, whiteouts=False) == data
    assert not os.path.exists(f"{folder}/socket")


GNU = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls"]


@pytest.mark.root
@pytest.mark.parametrize(
    "options", [["--format=pax"], ["--format=gnu"], ["--format=pax", "--sparse"], ["--format=gnu", "-S"]]
)
def test_what_gnu_tar_packs_is_unpacked(folder: str, tmp_path: Path, options: list[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make_everything(str(source))
    pax = options[0] == "--format=pax"
    argv = ["tar", "-C", str(source), *options, *(GNU if pax else GNU[:1]), "-cf", "-", "."]
    done = subprocess.run(argv, capture_output=True, check=False)
    put(done.stdout, folder)
    unit = 1 if pax else 10**9
    assert snapshot(folder, unit, xattrs=pax) == snapshot(str(source), unit, xattrs=pax)
    if "--format=gnu" not in options:
        assert os.getxattr(f"{folder}/bin/capable", "security.capability") == CAPABILITY


@pytest.mark.root
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_every_sparse_format(folder: str, tmp_path: Path, version: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make_everything(str(source))
    argv = ["tar", "-C", str(source), "--format=pax", "--sparse", f"--sparse-version={version}", "-cf", "-", "sparse"]
    put(subprocess.run(argv, capture_output=True, check=True).stdout, folder)
    assert snapshot(folder)["sparse"] == snapshot(str(source))["sparse"]
    assert os.stat(f"{folder}/sparse").st_blocks * 512 < 1 << 20


@pytest.mark.root
def test_gnu_tar_unpacks_what_we_pack(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make_everything(str(source))
    argv = ["tar", "-C", folder, *GNU, "--same-owner", "-pxf", "-"]
    done = subprocess.run(argv, input=packed(str(source), whiteouts=False), capture_output=True, check=False)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if b"implausibly old" not in line] == []
    assert snapshot(folder) == snapshot(str(source))


# With docker


@pytest.mark.peers
def test_docker_sees_the_same_tree(docker: Any, tmp_path: Path) -> None:
    """One archive, unpacked by docker and by us; what docker exports and packs again is what we have."""
    source, ours, theirs = tmp_path / "source", tmp_path / "ours", tmp_path / "theirs"
    for made in (source, ours, theirs):
        made.mkdir()
    make_everything(str(source), user_attributes=False)
    os.utime(source / "empty", (0, 0))  # docker sets what is older than 1970 to 1970
    data = packed(str(source), whiteouts=False)
    put(data, str(ours))
    (tmp_path / "in.tar").write_bytes(data)
    name = f"everything-{os.getpid()}"
    docker.run("import", str(tmp_path / "in.tar"), name)
    try:
        container = docker.run("create", name, "x").stdout.strip()
        docker.run("export", "-o", str(tmp_path / "out.tar"), container)
        docker.run("rm", container)
    finally:
        docker.run("rmi", name)
    with open(tmp_path / "out.tar", "rb") as file:
        unpack(TarReader(decompressed(file)), str(theirs))
    mine, their = snapshot(str(ours)), snapshot(str(theirs))
    for added in (".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "etc", "proc", "sys"):
        their.pop(added, None)
    their = {path: facts for path, facts in their.items() if not path.startswith(("etc/", "dev/"))}
    assert their.keys() == mine.keys()
    for path, facts in mine.items():
        assert their[path] == facts, path
    assert LONG in " ".join(mine)


@pytest.mark.root
def test_a_path_is_opened_whatever_moves_meanwhile(tmp_path: Path) -> None:
    """The kernel cannot vouch for `..` while anything is renamed or mounted anywhere, and asks for another try."""
    os.makedirs(tmp_path / "root/a/b")
    os.makedirs(tmp_path / "one")
    root = os.open(tmp_path / "root", os.O_PATH)
    move = "import os, sys\nwhile True: os.rename('one', 'two'); os.rename('two', 'one')"
    mover = subprocess.Popen([sys.executable, "-c", move], cwd=tmp_path)
    try:
        for _ in range(20_000):
            os.close(openat2(root, "a/b/../../a/../a/b", os.O_PATH, resolve=RESOLVE_IN_ROOT))
    finally:
        mover.kill()
        mover.wait()
        os.close(root)


def test_reading_ahead_gives_the_same_pieces_and_their_digest() -> None:
    reader = TarReader(iter([WHOLE[:700], WHOLE[700:]]))
    with reader.reading_ahead():
        assert [found.name for found in reader.members()] == ["a", "b" * 150, "c"]
        assert reader.finish() == digest_of(WHOLE)


def test_what_goes_wrong_ahead_is_raised_where_the_pieces_are_used() -> None:
    def broken() -> Iterator[bytes]:
        yield WHOLE[:512]
        raise UnsafeLayer("cut off")

    reader = TarReader(broken())
    with pytest.raises(UnsafeLayer, match="cut off"), reader.reading_ahead():
        reader.finish()


def test_reading_ahead_stops_with_who_reads() -> None:
    before = threading.active_count()
    used = 0

    def endless() -> Iterator[bytes]:
        nonlocal used
        while True:
            used += 1
            yield bytes(512)

    reader = TarReader(endless())
    with reader.reading_ahead():
        reader.read(512)
    assert threading.active_count() == before
    assert used < 100


def test_what_goes_wrong_while_a_layer_is_compressed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(blob: BlobWriter, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    layout = Layout(str(tmp_path / "layout"))
    layout.create()
    monkeypatch.setattr(BlobWriter, "write", full)
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="No space left"):
        compress(layout, lambda write: sum(bool(write(os.urandom(1 << 20))) for _ in range(20)))
    assert not list(layout.blobs()) and not os.listdir(layout.ingest)
    assert set(threading.enumerate()) <= before
