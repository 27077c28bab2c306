"""The pictures of the course: what they show is what is there, they say the same in words, and nothing in them runs."""

import os
import re
import shutil
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

import imagekit
from conftest import Minidocker, Roots
from minidocker.container.spec import Port
from minidocker.course import use, widgets
from minidocker.course.show import resolve
from minidocker.course.widgets import drawing, tree
from minidocker.course.widgets.building import Building
from minidocker.course.widgets.engine_map import STORIES, EngineMap, Part
from minidocker.course.widgets.layers import readable
from minidocker.course.widgets.limits import Allowed, Folders
from minidocker.course.widgets.packet import _readable, _rule
from minidocker.course.widgets.picture import VIEW, Picture, following
from minidocker.course.widgets.pulling import Pulling
from minidocker.course.widgets.terminal import MOST_COLUMNS, MOST_LINES, Screen
from minidocker.errors import BuildError, ContainerNotFound, ImageNotFound, InvalidArgument
from minidocker.image.store import ImageStore
from minidocker.progress import Progress
from ordinary import ordinary_user


def check(picture: Picture) -> str:
    """Check what holds for every picture, and return what it says in words."""
    html, text = picture.html(), picture.text()
    root = ElementTree.fromstring(f"<div>{html}</div>")  # well-formed, so everything in it is escaped
    image = next(element for element in root.iter() if element.get("role") == "img")
    assert image.get("aria-label") == picture.title
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in ("script", "iframe", "img", "link", "a", "image", "use", "object")
        assert not [name for name in element.attrib if name.startswith("on") or name.endswith(("href", "src"))]
    assert "url(" not in html
    assert "@import" not in html
    said = " ".join(text.split())
    for element in image.iter():
        for part in (element.text, element.tail):
            for word in re.findall(r"[\w.:/@-]*\d[\w.:/@-]*", part or ""):
                assert word in said, f"the picture shows {word!r}, which its words do not say:\n{text}"
    bundle = picture._repr_mimebundle_()
    assert bundle["text/plain"] == text
    assert html in bundle["text/html"]
    assert VIEW not in bundle, "there is no notebook that could show controls"
    return text


def folder_of(path: Any, **files: str | None) -> str:
    """Make a folder with these files; a name with `__` for `/`; None makes a folder."""
    for name, content in files.items():
        place = f"{path}/{name.replace('__', '/')}"
        os.makedirs(place if content is None else os.path.dirname(place), exist_ok=True)
        if content is not None:
            with open(place, "w") as file:
                file.write(content)
    os.makedirs(path, exist_ok=True)
    return str(path)


# What they are drawn with


def test_texts_are_escaped_wherever_they_stand() -> None:
    evil = """<script>alert("1")</script>&'\x1b[2J\x00\udc80"""
    for made in (drawing.figure(evil, ""), drawing.chip(evil), drawing.words(0, 0, evil, most=9), drawing.hinted(evil)):
        ElementTree.fromstring(f"<div>{made}</div>")
        assert "<script" not in made
        assert "\x1b" not in made


def test_a_long_text_is_cut_in_its_middle_and_kept_whole_beside_it() -> None:
    assert drawing.clip("abcdefghij", 5) == "ab…ij"
    assert drawing.clip("abc", 5) == "abc"
    assert "<title>abcdefghij</title>" in drawing.words(0, 0, "abcdefghij", most=5)


def test_a_picture_whose_container_has_gone_says_so_when_it_looks_again() -> None:
    pytest.importorskip("ipywidgets")

    class Gone(Picture):
        def text(self) -> str:
            return self.title

        def body(self) -> str:
            return ""

        def look(self) -> None:
            raise ContainerNotFound("No such container: web")

    gone = Gone()
    button, _ = following(gone)
    button.click()
    assert gone.text() == "No such container: web"


# Layers and stacks


def test_a_path_is_asked_for_in_one_layer(tmp_path: Any) -> None:
    layer = folder_of(tmp_path, etc__passwd="x", opt="a file")
    os.symlink("etc", f"{layer}/link")
    assert tree.look(layer, "/etc/passwd").kind == "file"
    assert tree.look(layer, "/etc").kind == "directory"
    assert tree.look(layer, "/link") == tree.Place("link", target="etc")
    assert tree.look(layer, "/usr/bin") == tree.Place("absent")
    beneath = tree.look(layer, "/opt/x")
    assert beneath.stops and "no directory" in beneath.hides
    assert not tree.look(layer, "/etc/shadow").stops


def test_links_on_the_way_lead_where_they_lead_in_the_container(tmp_path: Any) -> None:
    lower = folder_of(tmp_path / "lower", usr__bin__ls="x")
    upper = folder_of(tmp_path / "upper")
    os.symlink("/usr/bin", f"{upper}/bin")
    os.symlink("../../../usr", f"{upper}/up")
    os.symlink("ls", f"{lower}/usr/bin/dir")
    assert tree.follow("/bin/ls", [upper, lower]) == ("/usr/bin/ls", ["/bin is a link to /usr/bin"])
    assert tree.follow("/up/bin/ls", [upper, lower])[0] == "/usr/bin/ls"
    assert tree.follow("/usr/bin/dir", [upper, lower]) == ("/usr/bin/dir", [])
    assert tree.follow("/../../etc", [upper, lower])[0] == "/etc"


def test_links_in_a_circle_are_refused(tmp_path: Any) -> None:
    os.symlink("/b", tmp_path / "a")
    os.symlink("/a", tmp_path / "b")
    with pytest.raises(InvalidArgument, match="more than 40 symbolic links"):
        tree.follow("/a/x", [str(tmp_path)])
    with pytest.raises(InvalidArgument, match="NUL"):
        tree.clean("/a\0b")


@pytest.mark.parametrize(
    ("created_by", "shown"),
    [
        ("/bin/sh -c apt-get   update", "RUN apt-get update"),
        ('/bin/sh -c #(nop)  CMD ["sh"]', 'CMD ["sh"]'),
        ("|1 VERSION=1 /bin/sh -c echo $VERSION", "RUN echo $VERSION"),
        (f"COPY file:{'a1' * 32} in ./", "COPY file:a1a1a1a1a1a1… in ./"),
        ("COPY app /app # buildkit", "COPY app /app # buildkit"),
    ],
)
def test_a_history_reads_as_the_instructions_that_made_it(created_by: str, shown: str) -> None:
    assert readable(created_by) == shown


@pytest.fixture
def layered(roots: Roots) -> str:
    """Put an image of three layers into the test's store: brought, changed, and deleted."""
    store = ImageStore(roots.root)
    member, tar = imagekit.member, imagekit.tar
    archives = [
        tar(
            member("etc", kind=b"5"),
            member("etc/motd", b"one"),
            member("a", b"a"),
            member("bin", kind=b"2", linkname="etc"),
        ),
        tar(member("etc", kind=b"5"), member("etc/motd", b"other"), member("b", b"b")),
        tar(member("etc", kind=b"5"), member("etc/.wh.motd"), member("a", kind=b"5"), member("a/x", b"x")),
    ]
    made = [imagekit.add_layer(store, archive) for archive in archives]
    history = [
        {"created_by": "/bin/sh -c echo '<script>' > /etc/motd"},
        {"created_by": "ENV A=1", "empty_layer": True},
        {"created_by": "COPY b /"},
        {"created_by": "RUN rm /etc/motd"},
    ]
    from minidocker.image.oci import ImageConfig, host_platform
    from minidocker.image.reference import parse

    raw = {
        "os": "linux",
        "architecture": host_platform().architecture,
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
        "history": history,
    }
    store.create(ImageConfig(raw), [blob for blob, _ in made], [parse("layered")])
    return "layered"


@pytest.mark.root
def test_layers_say_which_brought_changed_and_hid_a_file(layered: str) -> None:
    picture = widgets.layers(layered, "/bin/motd")
    text = check(picture)
    assert [word for word, _ in picture.fates()[1]] == ["brought", "changed", "hid"]
    assert "/bin is a link to etc" in text
    assert "Layer 3 hides it" in text
    assert "a whiteout at /etc/motd" in text
    assert "(no layer) ENV A=1" in text
    assert [row.command for row in picture.rows][1:] == ["COPY b /", "RUN rm /etc/motd"]
    assert picture.rows[2].kinds["D"] == 1


@pytest.mark.root
@pytest.mark.parametrize(
    ("path", "fates"),
    [
        ("/b", ["", "brought", ""]),
        ("/a", ["brought", "", "changed"]),  # a file becomes a directory
        ("/a/x", ["", "", "brought"]),
        ("/etc", ["brought", "changed", "changed"]),
        ("/nothing", ["", "", ""]),
    ],
)
def test_each_layer_says_what_it_does_to_a_path(layered: str, path: str, fates: list[str]) -> None:
    picture = widgets.layers(layered, path)
    check(picture)
    assert [word for word, _ in picture.fates()[1]] == fates


@pytest.mark.root
def test_the_layers_field_asks_for_another_file(layered: str) -> None:
    pytest.importorskip("ipywidgets")
    picture = widgets.layers(layered)
    box = picture.widget()
    field, view = box.children[0].children[0], box.children[1]
    assert "/b" in field.options
    field.value = "/b"
    assert "brought /b" in view.value
    field.value = "/a\0"
    assert "NUL" in view.value


def test_an_unknown_image_is_the_engines_error(roots: Roots) -> None:
    with pytest.raises(ImageNotFound, match="no such image: nonesuch"):
        widgets.layers("nonesuch")


@pytest.mark.parametrize(
    "picture", [widgets.stack, widgets.namespaces, widgets.limits, widgets.packet, widgets.terminal]
)
def test_an_unknown_container_is_the_engines_error(roots: Roots, picture: Callable[[str], Picture]) -> None:
    with pytest.raises(ContainerNotFound, match="No such container: nonesuch"):
        picture("nonesuch")


# Progress


def test_a_pull_shows_when_each_layer_was_downloaded_and_unpacked() -> None:
    picture = Pulling("debian")
    for news in (
        Progress("bookworm", "Pulling from library/debian"),
        Progress("aaaaaaaaaaaa", "Pulling fs layer"),
        Progress("bbbbbbbbbbbb", "Already exists"),
        Progress("aaaaaaaaaaaa", "Downloading", 10, 2000),
        Progress("aaaaaaaaaaaa", "Downloading", 1000, 2000),
    ):
        picture.report(news)
        time.sleep(0.002)
    assert "Downloading 50 %" in picture.body()
    for status in ("Download complete", "Extracting", "Pull complete"):
        picture.report(Progress("aaaaaaaaaaaa", status, total=2000 if status == "Extracting" else 0))
        time.sleep(0.002)
    text = check(picture)
    layer = picture.layers["aaaaaaaaaaaa"]
    (begin, end), (unpack, done) = layer.phases["Downloading"], layer.phases["Extracting"]
    assert 0 < begin < end <= unpack < done
    assert "aaaaaaaaaaaa (2kB): Pull complete" in text
    assert "bbbbbbbbbbbb: Already exists" in text
    assert "bookworm: Pulling from library/debian" in text


LINES = """\
Sending build context to minidocker  2.048kB
Step 1/3 : FROM debian
 ---> aaaaaaaaaaaa
Step 2/3 : RUN echo one
 ---> Using cache
 ---> bbbbbbbbbbbb
Step 3/3 : RUN echo <b>two</b>; exit 3
 ---> Running in cccccccccccc
two
"""


def test_a_build_shows_what_came_from_the_cache_and_what_failed() -> None:
    picture = Building("web")
    for piece in re.findall(r".{1,7}", LINES, re.DOTALL):  # as it comes, in any pieces
        picture.out(piece)
    assert [step.state for step in picture.steps] == ["done", "cached", "at work"]
    picture.end("The command returned a non-zero code: 3")
    text = check(picture)
    assert [step.state for step in picture.steps] == ["done", "cached", "failed"]
    assert [step.image for step in picture.steps] == ["aaaaaaaaaaaa", "bbbbbbbbbbbb", ""]
    assert "| two" in text
    assert "1 of 3 steps came from the cache." in text
    assert "non-zero code: 3" in text


def test_a_build_that_works_is_done() -> None:
    picture = Building("web")
    picture.out("Step 1/1 : FROM debian\n ---> aaaaaaaaaaaa\nSuccessfully built aaaaaaaaaaaa\n")
    picture.end()
    assert [step.state for step in picture.steps] == ["done"]
    assert "Successfully built aaaaaaaaaaaa" in check(picture)


# Limits


def test_limits_are_read_of_either_version_of_cgroups(tmp_path: Any) -> None:
    one = Folders(1, (folder_of(tmp_path / "memory"), folder_of(tmp_path / "pids"), folder_of(tmp_path / "cpu")))
    folder_of(
        tmp_path / "memory",
        **{
            "memory.limit_in_bytes": "67108864\n",
            "memory.usage_in_bytes": "4096\n",
            "memory.max_usage_in_bytes": "8192\n",
        },
    )
    folder_of(tmp_path / "pids", **{"pids.max": "20\n", "pids.current": "3\n", "pids.events": "max 7\n"})
    cpu = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n", "cpuacct.usage": "2500000000\n"}
    folder_of(tmp_path / "cpu", **cpu)
    assert one.allowed() == Allowed(67108864, 20, 0.5)
    assert one.sample()[1:] == (4096, 3, 2.5)
    assert one.entry("pids.events", "max") == 7
    assert one.most() == (8192, 0)
    files = {"memory.max": "67108864\n", "memory.current": "4096\n", "pids.max": "20\n", "pids.current": "3\n"}
    stat = {"cpu.max": "50000 100000\n", "cpu.stat": "usage_usec 2500000\nuser_usec 1\n"}
    two = Folders(2, (folder_of(tmp_path / "two", **files, **stat),))
    assert two.allowed() == one.allowed()
    assert two.sample()[1:] == one.sample()[1:]


def test_no_limit_is_said_as_none(tmp_path: Any) -> None:
    two = {"memory.max": "max\n", "pids.max": "max\n", "cpu.max": "max 100000\n"}
    assert Folders(2, (folder_of(tmp_path / "two", **two),)).allowed() == Allowed(0, 0, 0.0)
    one = {"memory.limit_in_bytes": f"{2**63 - 4096}\n", "pids.max": "max\n", "cpu.cfs_quota_us": "-1\n"}
    assert Folders(1, (folder_of(tmp_path / "one", **one),)).allowed() == Allowed(0, 0, 0.0)


def test_a_time_that_is_none_is_refused(roots: Roots) -> None:
    with pytest.raises(InvalidArgument, match="cannot watch"):
        widgets.limits("web", seconds=-1)


# A packet's way

LISTING = """\
table ip minidocker {
    map everywhere {
        type inet_proto . inet_service : ipv4_addr . inet_service
        elements = { tcp . 8080 : 172.18.0.2 . 80, tcp . 8081 : 172.18.0.3 . 80,
                     udp . 53 : 172.18.0.2 . 53 }
    }

    map somewhere {
        type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
        elements = { tcp . 127.0.0.1 . 8082 : 172.18.0.2 . 80 }
    }

    chain publish {
        dnat ip to meta l4proto . ip daddr . th dport map @somewhere
        dnat ip to meta l4proto . th dport map @everywhere
    }
}
""".replace("    ", "\t")  # as nft writes it


def test_the_rule_is_the_one_that_leads_to_this_container() -> None:
    rule, element = _rule(LISTING, Port(80, host_port=8080), "172.18.0.2")
    assert rule == "dnat ip to meta l4proto . th dport map @everywhere"
    assert element == "@everywhere: tcp . 8080 : 172.18.0.2 . 80"
    assert _rule(LISTING, Port(80, host_port=8081), "172.18.0.2") == ("", "")
    assert _rule(LISTING, Port(53, "udp", host_port=53), "172.18.0.2")[1] == "@everywhere: udp . 53 : 172.18.0.2 . 53"
    here = _rule(LISTING, Port(80, host_ip="127.0.0.1", host_port=8082), "172.18.0.2")
    assert here[1] == "@somewhere: tcp . 127.0.0.1 . 8082 : 172.18.0.2 . 80"
    assert _rule("", Port(80, host_port=8080), "172.18.0.2") == ("", "")


def test_the_kernels_addresses_are_read() -> None:
    assert _readable("0100007F") == "127.0.0.1"
    assert _readable("00000000000000000000000001000000") == "[::1]"


# A terminal


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("one\r\ntwo\r\n", "one\ntwo"),
        ("50 %\r100 %", "100 %"),
        ("abc\b\bX", "aXc"),
        ("abc\b\b\x1b[K", "a"),
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07text\x1b(B", "red text"),
        ("old\r\n\x1b[H\x1b[2Jnew", "new"),
        ("a\tb", "a       b"),
        ("bell\x07\x00", "bell"),
        ("\x1b[?2004hon", "on"),
        ("ab\x1b[2Dc\x1b[Cd", "cbd"),
        ("한글", "한글"),
    ],
)
def test_a_screen_shows_what_a_terminal_would(written: str, shown: str) -> None:
    whole, pieces = Screen(), Screen()
    whole.write(written)
    for letter in written:
        pieces.write(letter)
    assert whole.text() == shown
    assert pieces.text() == shown


def test_a_screen_does_not_grow_without_end() -> None:
    screen = Screen()
    screen.write("\x1b[999999999C" + "x" * 5000 + "\x1b[" + "9" * 5000 + "C" + "y")
    assert max(map(len, screen.lines)) <= MOST_COLUMNS
    screen.write("line\r\n" * (2 * MOST_LINES))
    assert len(screen.lines) <= MOST_LINES


# The engine's map


def test_every_function_on_the_map_is_the_engines() -> None:
    for names in STORIES.values():
        for name in names:
            assert callable(resolve(f"minidocker.{name}")), name


def test_the_map_marks_what_is_the_learners(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        Part("minidocker.image.reference.parse", "parse_reference", True, 12),
        Part("minidocker.build.cache.key", "cache_key"),
        Part("minidocker.image.unpack._Unpacking._resolve", "refuse", True, 1),
        Part("minidocker.build.steps.prepare", "step"),
    ]
    monkeypatch.setattr(use, "parts", lambda: parts)
    picture = EngineMap()
    text = check(picture)
    assert picture.title == "The engine: 2 of 4 functions that the exercises ask for are yours"
    assert "image.reference.parse: exercise parse_reference, yours, called 12 times" in text
    assert "image.unpack.unpack\n  image.unpack._Unpacking._resolve: exercise refuse, yours, called once\n" in text
    assert text.index("build.recording.record") < text.index("build.steps.prepare: exercise step") < text.index("run:")
    assert "build.cache.key: exercise cache_key\n" in text
    assert "build.recording.record\n" in text


# Real containers


def test_this_process_is_in_its_own_namespaces() -> None:
    picture = widgets.namespaces()
    text = check(picture)
    assert [row.kind for row in picture.rows] == ["mnt", "uts", "ipc", "pid", "net", "user", "cgroup", "time"]
    assert picture.rows[0].own == os.readlink("/proc/self/ns/mnt")[5:-1]
    assert picture.rows[0].own in text
    with pytest.raises(InvalidArgument, match="no process 999999999"):
        widgets.namespaces(999999999)


@pytest.mark.root
def test_a_containers_namespaces_are_those_of_its_process(minidocker: Minidocker, busybox_image: str) -> None:
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", busybox_image, "sleep", "1000")
    pid = int(minidocker.ok("inspect", "-f", "{{.State.Pid}}", "box"))
    picture = widgets.namespaces("box")
    check(picture)
    assert {row.kind: row.own for row in picture.rows}["net"] == os.readlink(f"/proc/{pid}/ns/net")[5:-1]
    own = {row.kind for row in picture.rows if row.differs}
    assert {"mnt", "uts", "ipc", "pid", "net"} <= own
    assert "user" not in own
    assert {row.kind for row in widgets.namespaces(pid).rows if row.differs} == own
    minidocker.ok("rm", "-f", "box")
    minidocker.ok("create", "--name", "box", busybox_image)
    assert "box is not running" in check(widgets.namespaces("box"))


@pytest.mark.root
def test_a_life_follows_the_container(minidocker: Minidocker, busybox_image: str) -> None:
    picture = widgets.life("box")
    assert picture.state == "removed" and "was removed, or never made" in check(picture)
    for command, state, fact in (
        (
            ("create", "--name", "box", busybox_image, "sh", "-c", "trap 'exit 3' TERM; sleep 1000 & wait"),
            "created",
            "not run",
        ),
        (("start", "box"), "running", "runs since"),
        (("stop", "box"), "exited", "exit code"),
        (("start", "box"), "running", "runs since"),
        (("rm", "-f", "box"), "removed", "There is no container box"),
    ):
        minidocker.ok(*command)
        picture.look()
        assert picture.state == state
        assert fact in check(picture)
        assert picture.body().count(" lit") == 1


@pytest.mark.root
def test_a_stack_shows_copies_whiteouts_opaque_folders_and_mounts(minidocker: Minidocker, busybox_image: str) -> None:
    script = "echo x >> /etc/passwd; rm /etc/group; rm -r /var; mkdir /var; sleep 1000"
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", busybox_image, "sh", "-c", script)
    deadline = time.monotonic() + 10
    while "is opaque" not in widgets.stack("box", "/var").text() and time.monotonic() < deadline:
        time.sleep(0.05)

    def said(path: str) -> str:
        return check(widgets.stack("box", path)).splitlines()[-1]

    assert said("/etc/passwd") == "Found in upper, a file: the container's own copy. The original is still in layer 1."
    assert said("/etc/group") == "Not there. In upper: a whiteout at /etc/group. What is below is hidden."
    assert said("/var") == "A directory, of upper alone."
    assert said("/bin/busybox").startswith("Found in layer 1, ")
    assert said("/nothing") == "Not there: no directory of the stack has it."
    assert "a mount lies over it" in said("/etc/hosts") and "mounted at /etc/hosts" in said("/etc/hosts")
    assert "mounted at /proc" in said("/proc/self")
    minidocker.ok("stop", "-t", "0", "box")
    assert "box is not running" in check(widgets.stack("box", "/etc/passwd"))
    assert said("/etc/passwd").startswith("Found in upper")


@pytest.mark.root
def test_limits_show_what_the_kernel_counts(minidocker: Minidocker, busybox_image: str) -> None:
    limits = ("-m", "32m", "--pids-limit", "10", "--cpus", "0.5")
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", *limits, busybox_image, "sleep", "1000")
    picture = widgets.limits(
        "box", seconds=0.5, every=0.1, doing="for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done"
    )
    text = check(picture)
    assert picture.allowed == Allowed(32 * 1024 * 1024, 10, 0.5)
    assert len(picture.samples) >= 4
    assert max(sample.pids for sample in picture.samples) in (9, 10)  # a shell that cannot fork ends
    assert picture.refused > 0 and "has refused it" in text
    assert "at most 33.55MB" in text
    minidocker.ok("stop", "-t", "0", "box")
    picture.look()
    assert picture.ended == "box has ended."
    assert "box is not running" in check(widgets.limits("box", seconds=0))


@pytest.mark.root
def test_limits_say_when_the_kernel_killed_for_memory(minidocker: Minidocker, busybox_image: str) -> None:
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", "-m", "16m", busybox_image, "sleep", "1000")
    picture = widgets.limits("box", seconds=2, every=0.05, doing="head -c 100000000 /dev/zero | tail")
    assert picture.oom_kills > 0
    assert "for want of memory" in check(picture)


@pytest.mark.root
def test_a_packets_way_has_the_machines_own_names(minidocker: Minidocker, busybox_image: str) -> None:
    serve = ("sh", "-c", "while :; do nc -l -p 80; done")
    minidocker.ok("run", "-d", "--name", "box", "-p", "127.0.0.1::80", busybox_image, *serve)
    port = minidocker.ok("port", "box", "80").splitlines()[0]
    address = minidocker.ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "box")
    deadline = time.monotonic() + 10
    while not widgets.packet("box").listens and time.monotonic() < deadline:
        time.sleep(0.05)
    picture = widgets.packet("box")
    text = check(picture)
    assert f"to {port}" in text and f"to {address}:80" in text
    assert f"@somewhere: tcp . 127.0.0.1 . {port.rpartition(':')[2]} : {address} . 80" in text
    cable = next(stop.name for stop in picture.stops if stop.facts == "the cable's end at the bridge")
    assert os.path.isdir(f"/sys/class/net/{cable}")
    assert os.path.basename(os.readlink(f"/sys/class/net/{cable}/master")) == picture.names.bridge
    assert not any(stop.broken for stop in picture.stops)
    closed = check(widgets.packet("box", 81))
    assert "81/tcp is not published" in closed and "no program listens on port 81/tcp" in closed
    for wrong in ("x", "80/icmp", "70000", -1):
        with pytest.raises(InvalidArgument, match="is no port"):
            widgets.packet("box", wrong)
    minidocker.ok("stop", "-t", "0", "box")
    assert "it has no network now" in check(widgets.packet("box"))


@pytest.mark.root
def test_a_packet_finds_no_way_or_no_border(minidocker: Minidocker, busybox_image: str) -> None:
    for network, said in (("none", "no cable leads to this container"), ("host", "has no network of its own")):
        minidocker.ok("run", "-d", "--name", network, "--network", network, busybox_image, "sleep", "1000")
        assert said in check(widgets.packet(network, 80))


@pytest.mark.root
def test_a_script_is_typed_to_a_shell(minidocker: Minidocker, busybox_image: str) -> None:
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", busybox_image, "sleep", "1000")
    picture = widgets.terminal("box", script="cd /tmp\npwd\necho $((6 * 7))\nexit 4\n")
    assert picture.exit_code == 4
    assert picture.screen.text().partition("# ")[2] == "cd /tmp\n# pwd\n/tmp\n# echo $((6 * 7))\n42\n# exit 4"
    assert "ended with exit code 4" in check(picture)
    assert picture.controls() == []


@pytest.mark.root
def test_to_close_a_terminal_ends_its_shell_and_no_other(minidocker: Minidocker, busybox_image: str) -> None:
    minidocker.ok("run", "-d", "--init", "--name", "box", "--network", "none", busybox_image, "sleep", "1000")
    with widgets.terminal("box") as one, widgets.terminal("box") as other:
        one.type("trap '' HUP; sleep 2000\n")
        deadline = time.monotonic() + 10
        while "sleep 2000" not in minidocker.ok("top", "box") and time.monotonic() < deadline:
            time.sleep(0.05)
        one.close()
        assert "ended" in one.state()
        assert "sleep 2000" not in minidocker.ok("top", "box")
        assert other.state() == "The shell runs."
        other.run("echo still here")
        deadline = time.monotonic() + 10
        while "still here" not in other.screen.text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "still here" in other.screen.text()
    assert minidocker.ok("top", "box").count("\n") == 2  # init and sleep
    minidocker.ok("stop", "-t", "0", "box")
    assert "box is not running: start it" in check(widgets.terminal("box", script="ls"))


@pytest.mark.root
def test_a_terminals_field_types_and_remembers(minidocker: Minidocker, busybox_image: str) -> None:
    pytest.importorskip("ipywidgets")
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", busybox_image, "sleep", "1000")
    with widgets.terminal("box") as shell:
        box = shell.widget()
        field, close = box.children[0].children[0], box.children[0].children[-1]
        field.value = "echo from the field"
        field._handle_custom_msg({"event": "submit"}, [])
        deadline = time.monotonic() + 10
        while "\nfrom the field" not in box.children[1].value and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "\nfrom the field" in box.children[1].value
        assert field.value == "" and field.options == ("echo from the field",)
        close.click()
        assert "ended" in shell.state()


@pytest.mark.root
def test_a_pull_and_a_build_are_carried_out(roots: Roots, busybox_image: str, tmp_path: Any) -> None:
    pulled = widgets.pulling(busybox_image)
    assert "Image is up to date" in check(pulled)
    with pytest.raises(ImageNotFound):
        widgets.layers("built")
    (tmp_path / "Dockerfile").write_text(f'FROM {busybox_image}\nRUN echo hello > /hello\nCMD ["cat", "/hello"]\n')
    first = widgets.building(str(tmp_path), tag="built")
    assert [step.state for step in first.steps] == ["done"] * 3
    again = widgets.building(str(tmp_path), tag="built")
    assert [step.state for step in again.steps] == ["done", "cached", "cached"]
    assert "Successfully tagged built:latest" in check(again)
    assert widgets.layers("built", "/hello").fates()[1][-1][0] == "brought"
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox_image}\nRUN exit 3\n")
    with pytest.raises(BuildError, match="non-zero code: 3"):
        widgets.building(str(tmp_path))


AS_A_USER = """
from minidocker.course import widgets
for picture in (widgets.packet("box"), widgets.namespaces("box"), widgets.stack("box"), widgets.limits("box", 0.2)):
    print(picture.page() and picture.text())
print(widgets.terminal("box", script="id -u").text())
"""


@pytest.mark.root
def test_an_ordinary_user_sees_the_way_through_slirp4netns(embedded: str) -> None:
    missing = [tool for tool in ("newuidmap", "slirp4netns", "setpriv", "useradd") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: run `make test`, which installs them")
    with ordinary_user(True) as user:
        user.env["MINIDOCKER_EMBEDDED"] = embedded
        user.ok("run", "-d", "--name", "box", "-P", "--expose", "80", "busybox", "httpd", "-f", "-p", "80")
        port = user.ok("port", "box", "80").splitlines()[0].rpartition(":")[2]
        said = user.ok("unshare", sys.executable, "-c", AS_A_USER)
        user.ok("rm", "-f", "box")
    assert f"0.0.0.0:{port}/tcp" in said
    assert "slirp4netns (on the host)" in said
    assert f"to 10.0.2.100:{port}" in said
    assert f"@everywhere: tcp . {port} : " in said
    assert re.search(r"veth[0-9a-f]{8} \(in the user's own network\)", said)
    assert "a program (in the container): listens on " in said
    assert "box has 6 of 8 kinds of namespaces to itself" in said
    assert "# id -u\n0\n" in said


@pytest.mark.root
@pytest.mark.timeout(120)
def test_a_notebook_without_a_browser_keeps_the_picture(roots: Roots, busybox_image: str) -> None:
    """Controls are offered beside the HTML; a picture that grew in its cell stands there once, and again later."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    cells = ["from minidocker.course.widgets import *", "life('box')", f"p = pulling({busybox_image!r})\np", "p"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    outputs = [[output["data"] for output in cell["outputs"]] for cell in notebook["cells"]]
    assert [len(each) for each in outputs] == [0, 1, 1, 1]
    assert set(outputs[1][0]) == {"text/plain", "text/html", VIEW}
    assert set(outputs[2][0]) == {"text/plain", "text/html"}
    for output in (outputs[1][0], outputs[2][0], outputs[3][0]):
        assert 'role="img"' in output["text/html"] and "<details" in output["text/html"]
    assert "Image is up to date" in outputs[2][0]["text/plain"]
    assert outputs[3][0]["text/plain"] == outputs[2][0]["text/plain"]
