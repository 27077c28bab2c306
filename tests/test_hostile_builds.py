"""Dockerfiles, build contexts, base images and containers that mean harm to whoever builds from them or copies."""

import json
import os
import shutil
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from buildbench import Bench, bench, leftovers
from conftest import Minidocker
from imagekit import member, tar
from loopback import Answer, loopback
from minidocker.build import dockerfile, ignore, variables
from minidocker.errors import BuildError, DockerfileError, InvalidArgument, MinidockerError, UnsafeLayer
from minidocker.image import reference
from minidocker.image.layers import compress
from minidocker.image.oci import ImageConfig
from trees import snapshot

__all__ = ["bench"]

root = pytest.mark.root
LINK = tarfile.SYMTYPE


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a folder of the host beside the build, with something to read and to write."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "secret").write_text("secret of the host")
    return folder


def add_hostile(bench: Bench, name: str, *members: tuple[tarfile.TarInfo, bytes], **config: object) -> None:
    """Add an image: busybox, and on top of it a layer with these members."""
    base = bench.store.get("busybox")
    with bench.store.adding():
        made = compress(bench.store.layout, lambda write: len(str(write(tar(*members)))))
        bench.store.unpack(made.blob.digest, made.diff_id)
    raw = json.loads(json.dumps(bench.store.config(base).raw))
    raw["rootfs"]["diff_ids"].append(made.diff_id)
    raw["config"] = {**(raw.get("config") or {}), **config}
    layers = (*bench.store.manifest(base).layers, made.blob)
    bench.store.create(ImageConfig(raw), layers, [reference.parse(name)])


# COPY and ADD through links


@root
@pytest.mark.parametrize(
    "target", ["{victim}", "{victim}/secret", "../victim/secret", "/proc/self/root{victim}/secret"]
)
@pytest.mark.parametrize("keyword", ["COPY", "ADD"])
def test_links_of_the_context_do_not_lead_out_of_it(bench: Bench, victim: Path, target: str, keyword: str) -> None:
    os.symlink(target.format(victim=victim), f"{bench.context}/link")
    for source in ("link", "link/secret", "link/../../victim/secret", "l*"):
        try:
            bench.build(f"FROM scratch\n{keyword} {source} /x\n")
        except BuildError:
            continue
        top = bench.store.layer_path(bench.config.diff_ids[-1])
        assert not any("secret of the host" in _content(path) for path in _files(top))


def _files(folder: str) -> list[str]:
    return [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]


def _content(path: str) -> str:
    return "" if os.path.islink(path) else Path(path).read_text()


@root
def test_links_of_an_image_do_not_lead_copy_from_out_of_it(bench: Bench, victim: Path) -> None:
    add_hostile(
        bench,
        "evil",
        member("direct", kind=LINK, linkname=f"{victim}/secret"),
        member("folder", kind=LINK, linkname=str(victim)),
        member("up", kind=LINK, linkname="../" * 20 + f"{victim}"[1:]),
        member("magic", kind=LINK, linkname=f"/proc/self/root{victim}"),
    )
    for source in ("/direct", "/folder/secret", "/up/secret", "/magic/secret", "/fold*/secret", "/../../victim/secret"):
        with pytest.raises(BuildError, match="file does not exist|no source files|forbidden path"):
            bench.build(f"FROM busybox\nCOPY --from=evil {source} /x\n")


@root
def test_links_of_an_image_do_not_lead_a_destination_out_of_it(bench: Bench, victim: Path) -> None:
    add_hostile(
        bench,
        "evil",
        member("out", kind=LINK, linkname=str(victim)),
        member("file", kind=LINK, linkname=f"{victim}/secret"),
        member("up", kind=LINK, linkname="../" * 20 + f"{victim}"[1:]),
    )
    bench.file("f", "mine")
    Path(bench.context, "a.tar").write_bytes(tar(member("secret", b"mine")))
    before = snapshot(str(victim))
    for line in ("COPY f /out/secret", "COPY f /file", "COPY f /up/", "ADD a.tar /out/", "WORKDIR /out/new"):
        bench.build(f"FROM evil\n{line}\n")
        assert snapshot(str(victim)) == before
    assert bench.see(f"ls -d {victim}/new") == f"{victim}/new\n"  # made in the image, where the link leads there


@root
def test_an_archive_that_add_unpacks_stays_inside(bench: Bench, victim: Path) -> None:
    for number, members in enumerate(
        (
            [member("../victim/secret", b"mine")],
            [member("out", kind=LINK, linkname=str(victim)), member("out/secret", b"mine")],
            [member("x", kind=tarfile.LNKTYPE, linkname=f"{victim}/secret")],
        )
    ):
        Path(bench.context, f"a{number}.tar").write_bytes(tar(*members))
        with pytest.raises(UnsafeLayer):
            bench.build(f"FROM busybox\nADD a{number}.tar /x/\n")
        assert (victim / "secret").read_text() == "secret of the host"
        assert os.stat(victim / "secret").st_nlink == 1


@root
def test_what_one_source_made_a_link_another_does_not_write_through(bench: Bench, victim: Path) -> None:
    os.makedirs(f"{bench.context}/one")
    os.symlink(victim, f"{bench.context}/one/d")
    bench.file("two/d/secret", "mine")
    Path(bench.context, "three.tar").write_bytes(tar(member("d/secret", b"mine")))
    for line in ("COPY one two /x/", "COPY two one /x/", "ADD one three.tar /x/"):
        try:
            bench.build(f"FROM busybox\n{line}\n")
        except (MinidockerError, OSError):
            pass
        assert (victim / "secret").read_text() == "secret of the host"


@root
def test_a_build_has_no_mounts_of_its_own_to_attack(bench: Bench) -> None:
    """CVE-2024-23651 to 23653 were in RUN --mount and in what cleaned up after it: here there is none."""
    for flag in ("--mount=type=cache,target=/x", "--mount=type=bind,source=/,target=/x", "--mount"):
        with pytest.raises(DockerfileError, match="--mount is not supported"):
            bench.build(f"FROM busybox\nRUN {flag} true\n")
    bench.build("FROM busybox\nRUN --security=insecure true\n")  # a RunStep has nothing that could be less secure
    assert [step.mounts for step in bench.runs] == [()]


@root
def test_a_trigger_of_a_base_image_cannot_mount_or_copy_from_the_host(bench: Bench, victim: Path) -> None:
    for trigger in (
        "RUN --mount=type=bind,source=/,target=/x true",
        f"COPY {victim}/secret /x",
        "FROM busybox",
        "\n\0",
    ):
        add_hostile(bench, "evil", member("x", b""), OnBuild=[trigger]) if "\0" not in trigger else None
        with pytest.raises(MinidockerError):
            bench.build("FROM evil\n")


# Cache poisoning (CVE-2024-24557): an image whose history says it is our own next step


@root
def test_a_crafted_history_is_never_taken_for_ones_own_work(bench: Bench) -> None:
    text = "FROM busybox\nRUN echo good > /result\n"
    bench.build(text)
    good = bench.config
    # The same history, parent and configuration, as a stranger would send it, with another layer.
    base = bench.store.get("busybox")
    with bench.store.adding():
        made = compress(bench.store.layout, lambda write: len(str(write(tar(member("result", b"evil\n"))))))
        bench.store.unpack(made.blob.digest, made.diff_id)
    raw = json.loads(json.dumps(good.raw))
    raw["rootfs"]["diff_ids"][-1] = made.diff_id
    layers = (*bench.store.manifest(base).layers, made.blob)
    bench.store.remove(bench.id, force=True)
    bench.store.create(ImageConfig(raw), layers, [reference.parse("evil")], parent=base.id)
    assert "Using cache" not in bench.build(text)
    assert bench.see("cat /result") == "good\n"


# Floods


def test_variables_that_double_have_an_end() -> None:
    value = "x"
    with pytest.raises(DockerfileError, match="variables become more than"):
        for _ in range(64):
            value = variables.expand("$a$a", {"a": value})
    with pytest.raises(DockerfileError, match="variables become more than"):
        variables.expand("$a" * 30_000, {"a": "x" * 100_000})
    with pytest.raises(DockerfileError, match="variables become more than"):
        variables.expand("${a//x/$a}", {"a": "x" * 100_000})


@pytest.mark.parametrize("modifier", ["#", "##", "%", "%%", "/", "//"])
@pytest.mark.parametrize("pattern", ["*a" * 30 + "b", "a*" * 30 + "b", "*" * 1000 + "b", "?*" * 30 + "b"])
def test_patterns_of_variables_take_bounded_time(modifier: str, pattern: str) -> None:
    since = time.process_time()
    word = "${x" + modifier + "$p" + ("/y}" if "/" in modifier else "}")
    assert variables.expand(word, {"x": "a" * 2000, "p": pattern}) == "a" * 2000
    with pytest.raises(DockerfileError, match="too long to be searched"):
        variables.expand(word, {"x": "a" * 100_000, "p": pattern})
    assert time.process_time() - since < 10


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a*" * 30 + "b", "a" * 250),
        ("*a" * 20 + "/" + "*a" * 20, "a" * 200 + "/" + "a" * 200 + "b"),
        ("[ab]*" * 30 + "c", "ab" * 120),
        ("**/a/" * 6 + "b", "a/" * 1000 + "a"),
        ("**a" * 6 + "b", "a" * 250),
    ],
)
def test_patterns_of_dockerignore_take_bounded_time(pattern: str, path: str) -> None:
    since = time.process_time()
    try:
        assert not ignore.parse(pattern).excludes(path)
    except InvalidArgument as error:
        assert "in the middle of names" in str(error)
    assert time.process_time() - since < 5


def test_a_pipe_for_dockerignore_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".dockerignore")
    assert ignore.read(str(tmp_path), "").rules == ()
    os.unlink(tmp_path / ".dockerignore")
    os.symlink("/dev/zero", tmp_path / ".dockerignore")
    assert ignore.read(str(tmp_path), "").rules == ()


@root
def test_add_sends_no_credentials_anywhere(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = {"auths": {"127.0.0.1": {"auth": "YW5uYTpzZWNyZXQ="}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with loopback(lambda asked: Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})) as web:
        with pytest.raises(BuildError, match="status 401"):
            bench.build(f"FROM busybox\nADD http://{web.host}/f /x\n")
    assert all("Authorization" not in asked.headers for asked in web.asked)
    assert leftovers(bench.store.root) == []


# cp


@pytest.fixture
def box(minidocker: Minidocker, busybox_image: str) -> str:
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", busybox_image, "sleep", "1000")
    return "box"


SWAP = """
mkdir -p /w/real /w/keep; echo mine > /w/real/secret
while :; do
    mv /w/real /w/x; ln -s {victim} /w/real; rm /w/real; mv /w/x /w/real
done
"""


@root
def test_cp_while_a_folder_is_swapped_for_a_link(minidocker: Minidocker, box: str, victim: Path) -> None:
    """CVE-2018-15664: between looking at a path and using it the container makes a link to the host of it."""
    minidocker.ok("exec", "-d", box, "sh", "-c", SWAP.format(victim=victim))
    mine = victim.parent / "mine"
    mine.write_text("from outside")
    got = victim.parent / "got"
    before = snapshot(str(victim))
    for _ in range(6):
        minidocker("cp", f"{box}:/w/real/secret", str(got))
        assert not got.exists() or got.read_text() in ("mine\n", "from outside")
        minidocker("cp", str(mine), f"{box}:/w/real/secret")
        minidocker("cp", str(mine), f"{box}:/w/real/new")
        assert snapshot(str(victim)) == before


@root
def test_cp_through_links_of_the_container(minidocker: Minidocker, box: str, victim: Path) -> None:
    minidocker.ok("exec", box, "sh", "-c", f"ln -s {victim} /out; ln -s {victim}/secret /file; ln -s / /top")
    mine = victim.parent / "mine"
    mine.write_text("from outside")
    before = snapshot(str(victim))
    for path in ("/out/secret", "/file", "/out/", "/top/../../../.." + str(victim), "/proc/self/root" + str(victim)):
        for options in ((), ("-L",), ("-a",)):
            got = victim.parent / "got"
            minidocker("cp", *options, f"{box}:{path}", str(got))
            for found in [str(got)] + _files(str(got)):
                assert not os.path.isfile(found) or os.path.islink(found) or "of the host" not in _content(found)
            trees_delete(str(got))
            minidocker("cp", *options, str(mine), f"{box}:{path}")
            assert snapshot(str(victim)) == before


def trees_delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


HELPER = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void run(void) { FILE *f = fopen("%s", "a"); if (f) fclose(f); }
"""


@root
def test_cp_loads_nothing_of_the_container(minidocker: Minidocker, box: str, victim: Path, tmp_path: Path) -> None:
    """CVE-2019-14271: docker's helper went into the container's root and loaded its libnss as root of the host.

    Nobody here goes there: the root is opened, and read and written by descriptor, by the process that is outside.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a hostile library")
    marker = tmp_path / "loaded"
    (tmp_path / "evil.c").write_text(HELPER % marker)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(tmp_path / "evil.so"), str(tmp_path / "evil.c")], check=True
    )
    probe = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    subprocess.run(["python3", "-c", probe, str(tmp_path / "evil.so")], check=True)
    assert marker.exists(), "the library does nothing"
    marker.unlink()
    names = ["libnss_files.so.2", "libnss_compat.so.2", "libnss_dns.so.2", "libc.so.6", "libgcc_s.so.1"]
    for folder in ("lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        minidocker.ok("exec", box, "mkdir", "-p", f"/{folder}")
        for name in names:
            minidocker.ok("cp", str(tmp_path / "evil.so"), f"{box}:/{folder}/{name}")
    minidocker.ok(
        "exec", box, "sh", "-c", "echo 'passwd: files evil' > /etc/nsswitch.conf; mkdir /data; echo 1 > /data/f"
    )
    for command in (
        ("cp", f"{box}:/data", "there"),
        ("cp", "-a", f"{box}:/data", "too"),
        ("cp", "evil.c", f"{box}:/data/"),
    ):
        moved = [str(tmp_path / word) if word in ("there", "too", "evil.c") else word for word in command]
        minidocker.ok(*moved)
    minidocker.ok("stop", "-t", "0", box)
    minidocker.ok("cp", f"{box}:/data/evil.c", str(tmp_path / "back.c"))
    minidocker.ok("export", "-o", str(tmp_path / "all.tar"), box)
    assert (tmp_path / "back.c").read_text() == (tmp_path / "evil.c").read_text()
    assert not marker.exists()


@root
def test_cp_lends_no_power_of_the_host_to_a_strangers_program(minidocker: Minidocker, box: str, tmp_path: Path) -> None:
    """A file that is copied belongs to whoever copies: a set-id bit would make it a way to become root."""
    minidocker.ok("exec", box, "sh", "-c", "mkdir /d; cp /bin/busybox /d/su; chmod 6755 /d/su")
    minidocker.ok("cp", f"{box}:/d/su", str(tmp_path / "su"))
    assert stat.S_IMODE(os.stat(tmp_path / "su").st_mode) == 0o755
    minidocker.ok("cp", f"{box}:/d", str(tmp_path / "d"))
    assert stat.S_IMODE(os.stat(tmp_path / "d/su").st_mode) == 0o755


# Fuzzing: never anything but our own errors


KEYWORDS = sorted(dockerfile.KEYWORDS)


@settings(max_examples=300, deadline=2000, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(KEYWORDS), st.text(alphabet="ab =[]\"'\\${}:-/<\n\t#*?%\0é", max_size=30)), max_size=5
    )
)
@example([("RUN", "<<" * 5000)])
@example([("ENV", "a=" + "\\" * 20_000)])
@example([("COPY", "[" * 50_000)])
def test_fuzz_dockerfiles(lines: list[tuple[str, str]]) -> None:
    text = "FROM scratch\n" + "\n".join(f"{keyword} {rest}" for keyword, rest in lines)
    since = time.process_time()
    try:
        dockerfile.parse(text)
    except DockerfileError as error:
        assert len(str(error)) < 1 << 18
    assert time.process_time() - since < 2


@settings(max_examples=300, deadline=1000, derandomize=True)
@given(
    st.text(alphabet="$ab{}:-+?#%/\\'\" *<", max_size=60),
    st.dictionaries(st.sampled_from("ab"), st.text(max_size=20)),
)
@example("${a:-" * 20_000, {})
@example('"$a' * 20_000, {"a": "x"})
def test_fuzz_variables(word: str, values: dict[str, str]) -> None:
    try:
        variables.expand(word, values)
        variables.expand_words(word, values)
    except DockerfileError:
        pass


@settings(max_examples=300, deadline=1000, derandomize=True)
@given(st.text(alphabet="ab*?[]^-!\\/.# \n\0é", max_size=60), st.text(alphabet="ab/.é", min_size=1, max_size=40))
def test_fuzz_dockerignore(text: str, path: str) -> None:
    try:
        ignore.parse(text).excludes(path)
    except InvalidArgument:
        pass
