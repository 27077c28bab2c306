"""What COPY and ADD find, plan and make; above all that they never look or write outside."""

import os
import stat
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidocker.build import context, copying, ignore
from minidocker.build.context import Context, Source, find, open_context
from minidocker.build.copying import Owner, find_owner, plan
from minidocker.build.tree import Tree
from minidocker.errors import BuildError


class Folder:
    """A folder of small files."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(path)

    def file(self, name: str, text: str = "") -> None:
        os.makedirs(os.path.dirname(f"{self.path}/{name}"), exist_ok=True)
        with open(f"{self.path}/{name}", "w") as file:
            file.write(text or name)

    def link(self, name: str, target: str) -> None:
        os.makedirs(os.path.dirname(f"{self.path}/{name}"), exist_ok=True)
        os.symlink(target, f"{self.path}/{name}")

    def white_out(self, name: str) -> None:
        os.makedirs(os.path.dirname(f"{self.path}/{name}"), exist_ok=True)
        os.mknod(f"{self.path}/{name}", stat.S_IFCHR, 0)


@pytest.fixture
def folder(tmp_path: Any) -> Folder:
    return Folder(f"{tmp_path}/context")


@pytest.fixture
def layers(tmp_path: Any) -> list[Folder]:
    """Two layers, the topmost first."""
    return [Folder(f"{tmp_path}/top"), Folder(f"{tmp_path}/bottom")]


def tree(*folders: Folder, rules: str = "") -> Tree:
    return Tree(tuple(one.path for one in folders), ignore.parse(rules))


# Trees


def test_resolve_stays_inside(folder: Folder) -> None:
    folder.file("real/f")
    for name, target in (
        ("l", "real"),
        ("abs", "/real"),
        ("up", "../../../../real"),
        ("chain", "l/../l"),
        ("no", "/x/y"),
    ):
        folder.link(name, target)
    one = tree(folder)
    for name in ("l", "abs", "up", "chain", "./l/.", "real/../l", "../../l"):
        assert one.resolve(f"/{name}/f") == "/real/f", name
    assert one.resolve("/no/z") == "/x/y/z"
    assert one.resolve("/") == "/"


def test_links_in_a_circle(folder: Folder) -> None:
    folder.link("a", "b")
    folder.link("b", "a")
    with pytest.raises(BuildError, match="too many symbolic links"):
        tree(folder).resolve("/a/x")


@pytest.mark.root
def test_layers_hide_one_another(layers: list[Folder]) -> None:
    top, bottom = layers
    for name in ("a", "d/b", "d/c", "gone/x", "opaque/old", "was-folder/x"):
        bottom.file(name)
    top.file("d/c", "new")
    top.white_out("gone")
    top.file("opaque/new")
    os.setxattr(f"{top.path}/opaque", "trusted.overlay.opaque", b"y")
    top.file("was-folder")
    one = tree(top, bottom)
    assert one.names("/") == ["a", "d", "opaque", "was-folder"]
    assert one.names("/d") == ["b", "c"]
    assert one.names("/opaque") == ["new"]
    assert one.real("/d/c") == f"{top.path}/d/c"
    assert one.real("/gone/x") is None
    assert one.real("/opaque/old") is None
    assert one.real("/was-folder/x") is None
    assert [path for path, *_ in one.walk("/")] == ["/a", "/d", "/d/b", "/d/c", "/opaque", "/opaque/new", "/was-folder"]


def test_ignored_files_do_not_exist(folder: Folder) -> None:
    for name in ("a", "d/x", "d/keep/y", "e/z"):
        folder.file(name)
    one = tree(folder, rules="d\ne\n!d/keep\n")
    assert [path for path, *_ in one.walk("/")] == ["/a", "/d", "/d/keep", "/d/keep/y"]
    assert one.real("/e") is None
    assert one.real("/d/x") is None


# Sources


def names(found: list[Source]) -> list[tuple[str, str]]:
    return [(one.name, one.path) for one in found]


def test_find(folder: Folder) -> None:
    for name in ("a.txt", "b.txt", "d/f", "d/e/f", "[x]", "*"):
        folder.file(name)
    folder.link("l", "d/f")
    folder.link("dl", "d")
    one = tree(folder)

    def found(pattern: str) -> list[tuple[str, str]]:
        return names(find(one, pattern, "COPY", True))

    assert found("a.txt") == found("/a.txt") == found("./d/../a.txt") == found("a.txt/") == [("a.txt", "/a.txt")]
    assert found(".") == found("/") == [(".", "/")]
    assert found("*.txt") == [("a.txt", "/a.txt"), ("b.txt", "/b.txt")]
    assert found("*/f") == [("f", "/d/f")]
    assert found("d/**/f") == [("f", "/d/e/f")]
    assert found("[ab].txt") == [("a.txt", "/a.txt"), ("b.txt", "/b.txt")]
    assert found("\\*") == [("*", "/*")]
    assert found("\\[x\\]") == [("[x]", "/[x]")]
    assert found("l") == [("l", "/d/f")]
    assert found("dl/e") == [("e", "/d/e")]


@pytest.mark.parametrize("pattern", ["..", "../x", "/../x", "a/../../x", "../*"])
def test_no_way_out_by_dots(folder: Folder, pattern: str) -> None:
    with pytest.raises(BuildError, match="forbidden path outside the build context"):
        find(tree(folder), pattern, "COPY", True)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "../../../../../../etc/passwd", "sub/../../outside"])
def test_no_way_out_by_links(folder: Folder, target: str) -> None:
    with open(f"{folder.path}/../outside", "w") as file:
        file.write("secret")
    folder.link("l", target)
    folder.link("parent", os.path.dirname(target) or "..")
    for pattern in ("l", "parent/passwd", "parent/outside", "l*"):
        with pytest.raises(BuildError, match="file not found in build context"):
            find(tree(folder), pattern, "COPY", True)


def test_names_that_are_no_text(folder: Folder, tmp_path: Any) -> None:
    name = os.fsdecode(b"\xff\xfe")
    folder.file(name, "x")
    found = find(tree(folder), "*", "COPY", True)
    entries = plan(found, Tree(()), "/to/")
    upper = f"{tmp_path}/upper"
    os.mkdir(upper)
    copying.digest(entries)
    if os.geteuid() == 0:
        copying.apply(entries, upper)
        assert os.listdir(f"{upper}/to") == [name]


def test_context_size_is_that_of_an_archive(folder: Folder) -> None:
    assert Context("", ignore.Ignore()).size() == 1024
    assert open_context(folder.path, "").size() == 1024
    folder.file("a", "x")
    folder.file("b", "x" * 513)
    folder.file("d/c", "x")
    assert open_context(folder.path, "").size() == 1024 + 1024 + 1536 + 512 + 1024


@pytest.mark.parametrize("url", ["http://h", "http://h/", "http://h/a/", "http://h?q=/x", "https://h/.."])
def test_url_without_name(url: str) -> None:
    with pytest.raises(BuildError, match="cannot determine filename"):
        context.url_name(url)


def test_url_name() -> None:
    assert context.url_name("https://h:1/a/b.tgz?x=/y#z/w") == "b.tgz"


# Plans


def targets(entries: list[copying.Entry]) -> list[str]:
    return [entry.target for entry in entries if not entry.known]


def test_where_files_go(folder: Folder, layers: list[Folder]) -> None:
    for name in ("a", "d/x", "d/y/z"):
        folder.file(name)
    image = tree(*layers)
    layers[1].file("there/f")
    layers[0].link("l", "there")
    files = tree(folder)
    a, d = Source("a", files, "/a"), Source("d", files, "/d")
    assert targets(plan([a], image, "/n")) == ["/n"]
    assert targets(plan([a], image, "/n/")) == ["/n", "/n/a"]
    assert targets(plan([a], image, "/there")) == ["/there/a"]
    assert targets(plan([a], image, "/l")) == ["/there/a"]
    assert targets(plan([a], image, "/l/f")) == ["/there/f"]
    assert targets(plan([d], image, "/n/m")) == ["/n", "/n/m", "/n/m/x", "/n/m/y", "/n/m/y/z"]
    assert targets(plan([d], image, "/")) == ["/x", "/y", "/y/z"]
    assert targets(plan([a, d], image, "/n/", several=True)) == ["/n", "/n/a", "/n/x", "/n/y", "/n/y/z"]
    with pytest.raises(BuildError, match="must be a directory and end with a /"):
        plan([a, d], image, "/n", several=True)
    with pytest.raises(BuildError, match="cannot copy to non-directory: /there/f"):
        plan([d], image, "/there/f")


def test_digest_goes_by_content(folder: Folder) -> None:
    def digest() -> str:
        return copying.digest(plan(find(tree(folder), ".", "COPY", True), Tree(()), "/"))

    folder.file("a", "1")
    folder.file("d/b", "2")
    seen = {digest()}
    os.utime(f"{folder.path}/a", (1, 1))
    os.utime(f"{folder.path}/d", (1, 1))
    assert digest() in seen
    changes: list[Callable[[], object]] = [
        lambda: folder.file("a", "2"),
        lambda: os.chmod(f"{folder.path}/a", 0o600),
        lambda: os.chmod(f"{folder.path}/d", 0o700),
        lambda: os.rename(f"{folder.path}/a", f"{folder.path}/c"),
        lambda: folder.link("l", "x"),
        lambda: folder.file("empty/f"),
        lambda: os.mkfifo(f"{folder.path}/fifo"),
    ]
    for change in changes:
        change()
        assert digest() not in seen
        seen.add(digest())


@pytest.mark.root
def test_apply_makes_what_was_there(folder: Folder, tmp_path: Any) -> None:
    folder.file("set", "x")
    os.chown(f"{folder.path}/set", 5, 6)
    os.chmod(f"{folder.path}/set", 0o4755)
    os.setxattr(f"{folder.path}/set", "user.note", b"kept")
    folder.link("l", "/etc/passwd")
    folder.file("d/f")
    os.utime(f"{folder.path}/d", (10, 10))
    os.mknod(f"{folder.path}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    upper = f"{tmp_path}/upper"
    os.mkdir(upper)
    copying.apply(plan([Source("", tree(folder), "/", keep=True)], Tree(()), "/to"), upper)
    status = os.stat(f"{upper}/to/set")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (5, 6, 0o4755)
    assert os.getxattr(f"{upper}/to/set", "user.note") == b"kept"
    assert os.readlink(f"{upper}/to/l") == "/etc/passwd"
    assert os.stat(f"{upper}/to/d").st_mtime == 10
    assert os.stat(f"{upper}/to/null").st_rdev == os.makedev(1, 3)


@pytest.mark.root
def test_apply_never_follows_what_it_made(folder: Folder, tmp_path: Any) -> None:
    """A later source replaces the link that an earlier one brought, and what the link points at stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.link("one/x", str(outside))
    folder.file("two/x/evil")
    folder.link("one/f", f"{outside}/evil")
    folder.file("two/f", "text")
    sources = [Source("one", tree(folder), "/one"), Source("two", tree(folder), "/two")]
    upper = f"{tmp_path}/upper"
    os.mkdir(upper)
    copying.apply(plan(sources, Tree(()), "/to/", several=True), upper)
    assert os.listdir(outside) == []
    assert os.listdir(f"{upper}/to/x") == ["evil"]
    assert not os.path.islink(f"{upper}/to/f")


def test_owners(layers: list[Folder]) -> None:
    image = tree(*layers)
    layers[1].file("etc/passwd", "root:x:0:0::/:\nbob:x:12:34::/:\neve:x:13:35::/:\nbroken\n#c:x:1:1\nneg:x:-1:0\n")
    layers[0].file("etc/group", "root:x:0:\nbob:x:99:\nstaff:x:50:\n")
    assert find_owner(image, "") is None
    assert find_owner(image, "bob") == Owner(12, 99)
    assert find_owner(image, "eve") == Owner(13, 35)
    assert find_owner(image, "7") == Owner(7, 7)
    assert find_owner(image, "7:staff") == Owner(7, 50)
    assert find_owner(image, "bob:8") == Owner(12, 8)
    for bad in ("nobody", "bob:nobody", ":", ":1", "1:", "1:2:3", "neg", "-1", "4294967295", "broken", "#c"):
        with pytest.raises(BuildError):
            find_owner(image, bad)


def test_the_images_passwd_is_never_the_hosts(layers: list[Folder]) -> None:
    layers[0].link("etc/passwd", "/../../../../etc/passwd")
    with pytest.raises(BuildError):
        find_owner(tree(*layers), "root")


LINKS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d/e", "d/f"]),
    st.sampled_from(["a", "/b", "../c", "d", "../../..", "/d/../../x", "e/../..", "/", "."]),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(LINKS, st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "..", "."]), max_size=5))
def test_resolve_agrees_with_chroot(links: dict[str, str], parts: list[str]) -> None:
    """What `resolve` finds is what the kernel finds when it treats the folder as its root."""
    import tempfile

    from minidocker.linux.syscalls import RESOLVE_IN_ROOT, openat2

    with tempfile.TemporaryDirectory() as base:
        os.mkdir(f"{base}/d")
        for name, target in links.items():
            os.symlink(target, f"{base}/{name}")
        root = os.open(base, os.O_PATH | os.O_DIRECTORY)
        try:
            fd = openat2(root, "/" + "/".join(parts), os.O_PATH, 0, RESOLVE_IN_ROOT)
        except OSError:
            return
        finally:
            os.close(root)
        try:
            real = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        found = Tree((base,)).resolve("/" + "/".join(parts))
        assert os.path.realpath(base) + found.rstrip("/") == real
