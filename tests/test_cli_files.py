"""Files and archives through the command line: `cp`, `save`, `load`, `import`, `export`, `build`, `volume`, `login`."""

import io
import os
import stat
import tarfile

import pytest

from conftest import Minidocker, Roots
from minidocker.cli.arguments import labels
from minidocker.cli.copy import Place, place
from minidocker.cli.run_options import environment, parse_mount
from minidocker.cli.streams import moment
from minidocker.cli.terminal import Detached, KeyFilter, parse_keys
from minidocker.container.spec import Mount
from minidocker.errors import InvalidArgument


@pytest.mark.parametrize(
    ("source", "is_folder", "target", "kind", "expected"),
    [
        ("/a/file", False, "/b/new", "missing", Place("/b", "new")),
        ("/a/file", False, "new", "missing", Place(".", "new")),
        ("/a/file", False, "/b/old", "file", Place("/b", "old")),
        ("/a/file", False, "/b", "folder", Place("/b", "file")),
        ("/a/file", False, "/b/", "folder", Place("/b/", "file")),
        ("/a/dir", True, "/b/new", "missing", Place("/b", "new")),
        ("/a/dir", True, "/b/new/", "missing", Place("/b", "new")),
        ("/a/dir/.", True, "/b/new", "missing", Place("/b", "new")),
        ("/a/dir", True, "/b", "folder", Place("/b", "dir")),
        ("/a/dir/", True, "/b", "folder", Place("/b", "dir")),
        ("/a/dir/.", True, "/b", "folder", Place("/b", ".")),
        (".", True, "/b", "folder", Place("/b", ".")),
        ("/", True, "/b", "folder", Place("/b", ".")),
        ("/a/file", False, "/new", "missing", Place("/", "new")),
    ],
)
def test_where_a_copy_goes(source: str, is_folder: bool, target: str, kind: str, expected: Place) -> None:
    assert place(source, is_folder, target, kind) == expected


@pytest.mark.parametrize(
    ("source", "is_folder", "target", "kind", "message"),
    [
        ("/a/dir", True, "/b/old", "file", "cannot copy directory"),
        ("/a/file", False, "/b/new/", "missing", "no such directory"),
        ("/a/file", False, "/b/old/", "file", "no such directory"),
    ],
)
def test_where_no_copy_can_go(source: str, is_folder: bool, target: str, kind: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        place(source, is_folder, target, kind)


def test_detach_keys_are_found_across_reads() -> None:
    keys = KeyFilter(parse_keys("ctrl-p,ctrl-q"))
    assert keys.feed(b"ls\r") == b"ls\r"
    assert keys.feed(b"a\x10") == b"a"  # might be the beginning
    assert keys.feed(b"b") == b"\x10b"
    assert keys.feed(b"\x10") == b""
    with pytest.raises(Detached) as left:
        keys.feed(b"\x11rest")
    assert left.value.typed == b""
    with pytest.raises(Detached) as left:
        KeyFilter(b"\x10\x11").feed(b"all at once\r\x10\x11rest")
    assert left.value.typed == b"all at once\r"


@pytest.mark.parametrize(("text", "keys"), [("ctrl-a,d", b"\x01d"), ("ctrl-@", b"\0"), ("x", b"x"), ("", b"")])
def test_detach_keys_are_read(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "shift-a", "ctrl-p,"])
def test_detach_keys_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_keys(text)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=volume,source=data,target=/in", Mount("volume", "", "/in", name="data")),
        ("dst=/in", Mount("volume", "", "/in")),
        ("type=bind,src=/tmp,dst=/in,readonly", Mount("bind", "/tmp", "/in", read_only=True)),
        ("type=tmpfs,target=/in,tmpfs-size=1m", Mount("tmpfs", "tmpfs", "/in", options="size=1m")),
    ],
)
def test_mounts_in_the_long_form(text: str, mount: Mount) -> None:
    assert parse_mount(text) == mount


@pytest.mark.parametrize(
    "text", ["type=bind,source=/no/such,target=/in", "type=nfs,target=/in", "source=data", "target=/in,colour=red"]
)
def test_mounts_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_mount(text)


def test_labels_and_variables() -> None:
    assert labels(["a=1", "b", "c=x=y"]) == {"a": "1", "b": "", "c": "x=y"}
    with pytest.raises(InvalidArgument):
        labels(["=x"])
    with pytest.raises(InvalidArgument, match="poorly formatted environment"):
        environment(["A B=1"], [])


def test_moments_are_read() -> None:
    assert moment("2013-01-02T13:23:37Z") == "2013-01-02T13:23:37.000000Z"
    assert moment("2013-01-02T13:23:37+01:00") == "2013-01-02T12:23:37.000000Z"
    assert moment("1357133017") == "2013-01-02T13:23:37.000000Z"
    assert moment("1h30m") < moment("10s")


@pytest.fixture
def box(minidocker: Minidocker, busybox_image: str) -> str:
    """Return the name of a container that runs and waits."""
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", busybox_image, "sleep", "1000")
    return "box"


@pytest.mark.root
def test_files_are_copied_both_ways(minidocker: Minidocker, box: str, roots: Roots) -> None:
    here = f"{roots.root}/here"
    os.makedirs(f"{here}/dir/sub")
    with open(f"{here}/dir/sub/file", "w") as file:
        file.write("hello")
    os.symlink("sub/file", f"{here}/dir/link")
    minidocker.ok("cp", f"{here}/dir", "box:/new")
    assert minidocker.ok("exec", box, "cat", "/new/sub/file", "/new/link") == "hellohello"
    minidocker.ok("cp", f"{here}/dir/.", "box:/etc")
    assert minidocker.ok("exec", box, "ls", "/etc/sub") == "file"
    minidocker.ok("cp", "box:/new/sub", f"{here}/back")
    with open(f"{here}/back/file") as file:
        assert file.read() == "hello"
    minidocker.ok("cp", "box:/new/link", f"{here}/link")
    assert os.readlink(f"{here}/link") == "sub/file"
    minidocker.ok("cp", "-L", "box:new/link", f"{here}/followed")
    assert stat.S_ISREG(os.lstat(f"{here}/followed").st_mode)
    minidocker.ok("stop", "-t", "0", box)
    minidocker.ok("cp", "box:/new/.", f"{here}/stopped")
    assert sorted(os.listdir(f"{here}/stopped")) == ["link", "sub"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("box:/nope /tmp/x", "Error: No such container:path: box:/nope"),
        ("nope:/etc /tmp/x", "Error: No such container: nope"),
        ("box:/bin /no/such/folder/x", 'Error: invalid output path: directory "/no/such/folder" does not exist'),
        ("/no/such/file box:/", "Error: lstat /no/such/file: no such file or directory"),
        ("/etc/hosts box:/nope/x", "Error: No such container:path: box:/nope"),
        ("/etc box:/bin/busybox", "Error: cannot copy directory"),
        ("box:/etc box:/tmp", "Error: copying between containers is not supported"),
        ("/etc /tmp", "Error: must specify at least one container source"),
        ("- box:/bin/busybox", 'Error: destination "box:/bin/busybox" must be a directory'),
    ],
)
def test_copies_that_fail(line: str, error: str, minidocker: Minidocker, box: str) -> None:
    done = minidocker("cp", *line.split())
    assert done.returncode == 1
    assert done.stderr.startswith(error)


@pytest.mark.root
def test_a_hostile_container_cannot_write_outside_of_where_it_is_copied(
    minidocker: Minidocker, box: str, roots: Roots
) -> None:
    os.mkdir(f"{roots.root}/victim")
    os.mkdir(f"{roots.root}/target")
    os.symlink(f"{roots.root}/victim", f"{roots.root}/target/trap")
    minidocker.ok("exec", box, "sh", "-c", "mkdir -p /out/trap && echo bad > /out/trap/file")
    minidocker("cp", "box:/out/.", f"{roots.root}/target")
    assert os.listdir(f"{roots.root}/victim") == []


@pytest.mark.root
def test_archives_through_the_pipe(minidocker: Minidocker, box: str, roots: Roots) -> None:
    path = f"{roots.root}/box.tar"
    minidocker.ok("export", "-o", path, box)
    with tarfile.open(path) as tar:
        assert {"bin", "bin/busybox", "etc"} <= {name.rstrip("/") for name in tar.getnames()}
    image_id = minidocker.ok("import", "-c", 'CMD ["sh"]', "-m", "from a test", path, "imported:1")
    assert image_id.startswith("sha256:")
    assert "from a test" in minidocker.ok("history", "imported:1")
    assert minidocker.ok("inspect", "-f", "{{json .Config.Cmd}}", "imported:1") == '["sh"]'
    saved = f"{roots.root}/saved.tar"
    minidocker.ok("save", "-o", saved, "imported:1")
    assert "untagged: imported:1".lower() in minidocker.ok("rmi", "imported:1").lower()
    assert minidocker.ok("load", "-i", saved).splitlines()[-1] == "Loaded image: imported:1"
    assert minidocker.ok("images", "-q", "--no-trunc", "imported") == image_id
    assert not os.path.exists(f"{saved}x")
    assert minidocker("save", "-o", f"{saved}x", "nope").returncode == 1
    assert not os.path.exists(f"{saved}x")


@pytest.mark.root
def test_a_terminal_gets_no_archive(minidocker: Minidocker, busybox_image: str) -> None:
    with minidocker.pty("save", busybox_image) as screen:
        screen.expect("cowardly refusing to save to a terminal")
        assert screen.wait() == 1


@pytest.mark.root
def test_a_build_from_a_folder_a_pipe_and_an_archive(minidocker: Minidocker, busybox_image: str, roots: Roots) -> None:
    context = f"{roots.root}/context"
    os.mkdir(context)
    text = "FROM busybox\nARG WHO=none\nCOPY hello /\nLABEL who=$WHO\n"
    for name, content in (("Dockerfile", text), ("hello", "hi\n")):
        with open(f"{context}/{name}", "w") as file:
            file.write(content)
    output = minidocker.ok("build", "-t", "one", "--build-arg", "WHO=me", "--label", "x=y", context)
    assert "Step 1/" in output
    assert output.endswith("Successfully tagged one:latest")
    assert minidocker.ok("inspect", "-f", "{{.Config.Labels.who}} {{.Config.Labels.x}}", "one") == "me y"
    image_id = minidocker.ok("build", "-q", "-", input="FROM busybox\nENV A=1\n")
    assert image_id.startswith("sha256:")
    assert minidocker.ok("build", "-q", "-f", "-", context, input="FROM busybox\nCOPY hello /h\n").startswith("sha256:")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(f"{context}/Dockerfile", "Dockerfile")
        tar.add(f"{context}/hello", "hello")
    archive = packed.getvalue().decode("utf-8", "surrogateescape")
    assert "Successfully built" in minidocker.ok("build", "-", input=archive)


@pytest.mark.root
@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("build /no/such", 1, 'unable to prepare context: path "/no/such" not found'),
        ("build /dev", 1, "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat"),
        ("build -f - -", 1, "Error: invalid argument: can't use stdin for both build context and dockerfile"),
        ("build https://example.org/x.git", 1, "unable to prepare context: https://example.org/x.git: only"),
    ],
)
def test_builds_that_cannot_begin(line: str, code: int, error: str, minidocker: Minidocker) -> None:
    done = minidocker(*line.split())
    assert done.returncode == code
    assert done.stderr.startswith(error)


@pytest.mark.root
def test_a_failed_run_gives_its_exit_code(minidocker: Minidocker, busybox_image: str) -> None:
    done = minidocker("build", "--network", "none", "-", input="FROM busybox\nRUN echo seen; exit 7\n")
    assert done.returncode == 7
    assert "seen" in done.stdout
    assert "The command '/bin/sh -c echo seen; exit 7' returned a non-zero code: 7" in done.stderr


@pytest.mark.root
def test_volumes(minidocker: Minidocker, busybox_image: str) -> None:
    assert minidocker.ok("volume", "create", "data") == "data"
    line = ("run", "-d", "--name", "user", "--network", "none", "-v", "data:/d", busybox_image, "sleep", "99")
    minidocker.ok(*line)
    assert minidocker.ok("volume", "ls") == "DRIVER    VOLUME NAME\nlocal     data"
    assert "/_data" in minidocker.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "data")
    assert minidocker("volume", "rm", "data").stderr.startswith("Error: remove data: volume is in use - [")
    assert minidocker.ok("volume", "prune", "-f") == "Total reclaimed space: 0B"
    minidocker.ok("rm", "-f", "user")
    assert minidocker.ok("volume", "rm", "data") == "data"
    assert minidocker("volume", "rm", "data").stderr == "Error: No such volume: data\n"
    assert minidocker("volume", "inspect", "data").returncode == 1


@pytest.mark.root
def test_login_asks_only_at_a_terminal(minidocker: Minidocker) -> None:
    assert "non TTY device" in minidocker("login", "127.0.0.1:1").stderr
    assert "Must provide --username" in minidocker("login", "--password-stdin", input="x").stderr
    refused = minidocker("login", "-u", "me", "-p", "secret", "127.0.0.1:1")
    assert refused.returncode == 1
    assert "WARNING! Using --password via the CLI is insecure. Use --password-stdin." in refused.stderr


@pytest.mark.root
def test_doctor_finds_what_containers_need(minidocker: Minidocker) -> None:
    text = minidocker.ok("doctor")
    assert text.endswith("This machine runs containers.")
    for check in ("root", "kernel", "namespaces", "overlayfs", "cgroups", "nftables", "disk", "embedded registry"):
        assert f"ok       {check}: " in text
    assert minidocker.ok("info", "-f", "{{.Driver}}") == "overlay2"
