"""What changed in a container: read from a real overlay, from a full copy, and by docker."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from minidocker.image.layers import TarReader, decompressed, pack, unpack
from minidocker.image.overlay import Change, changes, changes_between, lookup, write_upper
from trees import make_everything, snapshot

# What is done to a tree, as a shell script, and what docker says about it.
SCRIPT = r"""
echo new > etc/new
echo changed > etc/changed
rm etc/deleted
mkdir -p fresh/deep && echo x > fresh/deep/file
rm -rf gone
rm -rf remade && mkdir remade && echo y > remade/other
rm swapped-file && mkdir swapped-file && echo z > swapped-file/in
rm -rf swapped-folder && echo z > swapped-folder
chmod 600 modes/file
chmod 700 quiet/folder
chown 7:8 modes/owned
ln links/one links/two
mv move/from move/to
rm symlink && ln -s elsewhere symlink
touch -d '2001-09-09 01:46:40' touched/same
echo temporary > temporary; rm temporary
mkdir bin2; mknod etc/device c 1 3; mkfifo etc/fifo
"""
EXPECTED = """
A /bin2
C /etc
C /etc/changed
D /etc/deleted
A /etc/device
A /etc/fifo
A /etc/new
A /fresh
A /fresh/deep
A /fresh/deep/file
D /gone
C /links
A /links/two
C /modes
C /modes/file
C /modes/owned
C /move
D /move/from
A /move/to
A /move/to/a
A /move/to/b
C /quiet
C /quiet/folder
C /remade
D /remade/inside
D /remade/lower
A /remade/other
C /swapped-file
A /swapped-file/in
C /swapped-folder
C /symlink
"""


def listed(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line)


def shown(found: list[Change]) -> list[str]:
    return sorted(f"{change.kind} {change.path}" for change in found)


def make_base(root: str) -> None:
    """Make the tree that SCRIPT changes."""
    for name in (
        "etc/changed etc/deleted etc/kept gone/a/b remade/inside remade/lower swapped-file swapped-folder/x modes/file "
        "modes/owned quiet/folder/file links/one move/from/a move/from/b touched/same untouched/file"
    ).split():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    os.symlink("etc/kept", f"{root}/symlink")
    for folder, folders, files in os.walk(root, topdown=False):
        for name in [*folders, *files]:
            os.utime(os.path.join(folder, name), (10**9, 10**9), follow_symlinks=False)


@contextmanager
def mounted(tmp_path: Path, lowers: list[str]) -> Iterator[tuple[str, str]]:
    """Mount an overlay; yield its upper directory and where it is mounted."""
    upper, work, merged = (str(tmp_path / name) for name in ("upper", "work", "merged"))
    for path in (upper, work, merged):
        os.mkdir(path)
    options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        yield upper, merged
    finally:
        subprocess.run(["umount", merged], check=True)


def sh(script: str, folder: str) -> None:
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True)


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    """The base tree in two layers, the topmost first, with a whiteout and an opaque folder between them."""
    bottom, top = tmp_path / "bottom", tmp_path / "top"
    make_base(str(bottom))
    (top / "hidden").mkdir(parents=True)
    (bottom / "hidden" / "below").mkdir(parents=True)
    (bottom / "whited-out").write_text("")
    (top / "remade").mkdir()
    shutil.move(bottom / "remade" / "inside", top / "remade" / "inside")
    if os.geteuid() == 0:
        os.mknod(top / "whited-out", stat.S_IFCHR, 0)
        os.setxattr(top / "hidden", "trusted.overlay.opaque", b"y")
    for folder in (top / "remade", bottom / "remade", top / "hidden"):
        os.utime(folder, (10**9, 10**9))
    return [str(top), str(bottom)]


@pytest.mark.root
def test_lookup_goes_down_the_stack(base: list[str]) -> None:
    top, bottom = base
    assert lookup("/etc/kept", base) == f"{bottom}/etc/kept"
    assert lookup("remade/inside", base) == f"{top}/remade/inside"
    assert lookup("remade/lower", base) == f"{bottom}/remade/lower"
    assert lookup("hidden", base) == f"{top}/hidden"
    for path in ("hidden/below", "whited-out", "nothing", "etc/kept/below", "symlink/x"):
        assert lookup(path, base) is None, path
    assert lookup("/", base) == top
    assert lookup("x", []) is None


@pytest.mark.root
def test_an_overlay_as_docker_would_list_it(base: list[str], tmp_path: Path) -> None:
    with mounted(tmp_path, base) as (upper, merged):
        sh(SCRIPT, merged)
        found = changes(upper, base)
        assert shown(found) == listed(EXPECTED)
        paths = [change.path for change in found]
        for change in found:
            parent = os.path.dirname(change.path)
            assert parent == "/" or paths.index(parent) < paths.index(change.path)


@pytest.mark.root
def test_nothing_changed(base: list[str], tmp_path: Path) -> None:
    with mounted(tmp_path, base) as (upper, merged):
        assert changes(upper, base) == []
        sh("chmod 600 etc/kept; chmod 644 etc/kept", merged)
        assert os.path.exists(f"{upper}/etc/kept")
        assert changes(upper, base) == []
        sh("echo > /dev/null; mkdir etc/x; rmdir etc/x", merged)
        assert changes(upper, base) == []


@pytest.mark.root
def test_what_was_hidden_and_comes_again_is_added(base: list[str], tmp_path: Path) -> None:
    with mounted(tmp_path, base) as (upper, merged):
        sh("mkdir hidden/below; echo > whited-out; rm -rf hidden; mkdir hidden", merged)
        assert shown(changes(upper, base)) == ["A /whited-out"]


@pytest.mark.root
def test_two_full_copies_differ_as_an_overlay_does(tmp_path: Path) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    make_base(old)
    shutil.copytree(old, new, symlinks=True)
    assert changes_between(old, new) == []
    sh(SCRIPT, new)
    assert shown(changes_between(old, new)) == listed(EXPECTED)


@pytest.mark.root
def test_the_layer_of_a_full_copy_is_that_of_an_overlay(tmp_path: Path) -> None:
    """The comparison becomes an upper directory; packed, and unpacked on the old tree, it gives the new one."""
    old, new, upper = (str(tmp_path / name) for name in ("old", "new", "made"))
    make_base(old)
    shutil.copytree(old, new, symlinks=True)
    sh(SCRIPT.replace("ln links/one links/two", ""), new)  # one more name is no change of the file itself
    os.mkdir(f"{new}/everything")
    make_everything(f"{new}/everything")
    os.mkdir(upper)
    write_upper(upper, new, changes_between(old, new))
    out = io.BytesIO()
    pack(upper, out.write)
    layer = tmp_path / "layer"
    layer.mkdir()
    unpack(TarReader(decompressed(io.BytesIO(out.getvalue()))), str(layer))
    with mounted(tmp_path, [str(layer), old]) as (_, merged):
        assert {**snapshot(merged)} == {**snapshot(new)}


@pytest.mark.root
def test_a_packed_overlay_is_the_same_on_the_next_machine(base: list[str], tmp_path: Path) -> None:
    with mounted(tmp_path, base) as (upper, merged):
        sh(SCRIPT, merged)
        os.mkdir(f"{merged}/everything")
        make_everything(f"{merged}/everything")
        before = snapshot(merged)
    out = io.BytesIO()
    pack(upper, out.write)
    layer, second = tmp_path / "layer", tmp_path / "second"
    layer.mkdir()
    second.mkdir()
    unpack(TarReader(decompressed(io.BytesIO(out.getvalue()))), str(layer))
    with mounted(second, [str(layer), *base]) as (_, merged):
        assert snapshot(merged) == before
    again = io.BytesIO()
    pack(str(layer), again.write)
    assert again.getvalue() == out.getvalue()


@pytest.mark.peers
def test_docker_says_the_same(docker: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_base(str(root))
    (root / "bin").mkdir()
    shutil.copy2("/bin/busybox", root / "bin" / "sh")
    for applet in "rm mkdir chmod chown ln mv touch mknod mkfifo".split():
        os.symlink("sh", root / "bin" / applet)
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.add(root, ".")
    name = f"differs-{os.getpid()}"
    docker.run("import", str(tmp_path / "root.tar"), name)
    try:
        container = docker.run("create", "--network=none", "-w", "/", name, "/bin/sh", "-ec", SCRIPT).stdout.strip()
        docker.run("start", "-a", container)
        told = docker.run("diff", container).stdout
        docker.run("rm", container)
    finally:
        docker.run("rmi", name)
    assert listed(told) == listed(EXPECTED)
