"""What people and machines do wrong: each gets a clear message and docker's exit code, and nothing is lost by it.

By the command line only. After every mishap what was there before is there still, and works.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import Minidocker, Roots
from imagekit import member, tar
from loopback import Answer, Asked, fault, loopback, sample_image, serving
from peers import free_port

pytestmark = pytest.mark.root

IMAGES = ("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
NOWHERE = f"{'0' * 64}"


class Refusals:
    """Runs commands that must be refused, and checks how."""

    def __init__(self, minidocker: Minidocker) -> None:
        self.minidocker = minidocker

    def __call__(self, words: str | list[str], exit_code: int, message: str, timeout: float = 60) -> str:
        """Require the exit code and that `message`, a regular expression, is in what is said; return that."""
        argv = words.split() if isinstance(words, str) else words
        done = self.minidocker(*argv, timeout=timeout)
        said = done.stderr
        shown = f"minidocker {' '.join(argv)}: exit {done.returncode}\n{done.stdout}{said}"
        assert done.returncode == exit_code, shown
        assert re.search(message, said), f"{message!r} is not in what was said: {shown}"
        assert "Traceback" not in said and "bug in minidocker" not in said, shown
        return said


@pytest.fixture
def refused(minidocker: Minidocker) -> Refusals:
    return Refusals(minidocker)


@pytest.fixture
def box(minidocker: Minidocker, busybox_image: str) -> str:
    """Return the name of a running container."""
    minidocker.ok("run", "-d", "--name", "box", "--network", "none", busybox_image, "sleep", "1000")
    return "box"


def until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def state_of(minidocker: Minidocker, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(minidocker.ok("inspect", "-f", "{{json .State}}", name))
    return found


def works(minidocker: Minidocker, image: str = "busybox") -> bool:
    """Say whether containers can be made and run."""
    return minidocker.ok("run", "--rm", "--network", "none", image, "echo", "works") == "works"


# Names


NO_SUCH_IMAGE = "(?i)no such image: nosuch"
TO_A_CONTAINER = "start stop restart kill rm wait logs top port diff attach export commit".split()
REFUSED = (
    ("run --pull never nosuch true", 125, NO_SUCH_IMAGE),
    ("rmi nosuch", 1, NO_SUCH_IMAGE),
    ("rmi busybox:nosuch", 1, "(?i)no such image: busybox:nosuch"),
    (f"rmi busybox@sha256:{NOWHERE}", 1, f"(?i)no such image: busybox@sha256:{NOWHERE}"),
    (f"rmi sha256:{NOWHERE}", 1, "(?i)no such image: sha256:0000"),
    (f"run --pull never busybox@sha256:{NOWHERE} true", 125, "(?i)no such image"),
    ("run --pull never busybox@sha256:12 true", 125, "invalid reference format"),
    ("tag nosuch other", 1, NO_SUCH_IMAGE),
    ("history nosuch", 1, NO_SUCH_IMAGE),
    ("save nosuch", 1, NO_SUCH_IMAGE),
    ("save busybox nosuch", 1, NO_SUCH_IMAGE),
    ("push nosuch", 1, "An image does not exist locally with the tag: nosuch"),
    ("inspect nosuch", 1, "No such object: nosuch"),
    ("image inspect nosuch", 1, "(?i)no such image: nosuch"),
    ("run BusyBox true", 125, "invalid reference format: .*must be lowercase"),
    ("run a:b:c true", 125, "invalid reference format"),
    ("tag busybox UPPER", 1, "must be lowercase"),
    ("pull busy/../box", 1, "invalid reference format"),
    ("run --nosuch busybox", 125, r"unknown flag: --nosuch\nSee 'minidocker run --help'"),
    ("run -rm busybox", 125, "did you mean --rm?"),
    ("run --itneractive busybox", 125, "did you mean --interactive?"),
    ("run -zz busybox", 125, "unknown shorthand flag: 'z' in -zz"),
    ("run -m 1x busybox", 125, 'invalid argument "1x" for "-m, --memory" flag'),
    ("run -m 1m busybox", 125, "(?i)minimum memory limit allowed is 6MB"),
    ("run --cpus 1000 busybox", 125, "(?i)range of CPUs is from 0.01 to"),
    ("run --pids-limit many busybox", 125, "invalid argument"),
    ("run --cap-add NOSUCH busybox", 125, "(?i)capability"),
    ("run --network moon busybox", 125, "network moon not found"),
    ("run -p 1:2:3:4:5 busybox", 125, "(?i)invalid"),
    ("run -v a:b:c:d busybox", 125, "invalid volume specification"),
    ("run --env-file /nosuch busybox", 125, "(?i)/nosuch: no such file or directory"),
    ("run busybox nosuch", 127, r'exec: "nosuch": executable file not found in \$PATH'),
    ("run busybox /etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ("images --nosuch", 125, "unknown flag: --nosuch"),
    ("ps -a --filter color=red", 1, "(?i)invalid filter 'color"),
    ("nosuch", 1, "'nosuch' is not a minidocker command"),
    ("run", 1, "requires at least 1 argument"),
    ("rename box", 1, "requires exactly 2 arguments"),
    ("network ls", 1, "."),
    *((f"{command} nosuch", 1, "No such container: nosuch") for command in TO_A_CONTAINER),
    ("exec nosuch true", 1, "No such container: nosuch"),
    ("rename nosuch other", 1, "No such container: nosuch"),
    ("cp nosuch:/etc /tmp/x", 1, "No such container"),
    ("cp box:/nosuch /tmp/x", 1, "/nosuch"),
    ("cp /nosuch box:/tmp", 1, "/nosuch"),
    ("cp box:/etc box:/tmp", 1, "copying between containers is not supported"),
    ("exec box nosuch", 126, 'exec: "nosuch": executable file not found'),
    ("exec -u nosuch box true", 126, "unable to find user nosuch"),
    ("exec -w /nosuch box true", 126, "/nosuch"),
    ("kill -s NOSUCH box", 1, "(?i)invalid signal: NOSUCH"),
    ("stop -t soon box", 125, "invalid argument"),
    ("rm box", 1, "You cannot remove a running container .* Stop the container before attempting removal"),
    ("port box 80", 1, "No public port '80/tcp' published for box"),
    ("logs --tail -x box", 1, "."),
    ("rmi busybox", 1, "conflict: unable to remove repository reference"),
    ("run --name box busybox", 125, 'The container name "/box" is already in use by container "[0-9a-f]{64}"'),
    ("create --name box busybox", 1, 'The container name "/box" is already in use by container'),
    ("run --name b@d busybox", 125, r"Invalid container name \(b@d\)"),
    ("load -i /nosuch", 1, "(?i)/nosuch: no such file"),
    ("import /nosuch", 1, "(?i)/nosuch: no such file"),
    ("load -i /etc/passwd", 1, "."),
    ("build /nosuch", 1, 'path "/nosuch" not found'),
    ("commit box UPPER", 1, "must be lowercase"),
    ("commit -c FLY box", 1, "(?i)fly"),
    ("inspect -f {{.Nosuch}} box", 1, "."),
    ("inspect -f {{ box", 64, "."),
)


def test_each_refusal_says_what_and_why(refused: Refusals, minidocker: Minidocker, box: str) -> None:
    before = (minidocker.ok(*IMAGES), minidocker.ok("ps", "-q", "--no-trunc"))
    wrong = []

    def check(row: tuple[str, int, str]) -> None:
        try:
            refused(*row)
        except AssertionError as error:
            wrong.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, REFUSED))
    assert not wrong, "\n".join(wrong)
    minidocker("rm", *minidocker.ok("ps", "-aq", "--filter", "status=created").split())
    assert (minidocker.ok(*IMAGES), minidocker.ok("ps", "-q", "--no-trunc")) == before


def test_the_beginning_of_several_ids(refused: Refusals, minidocker: Minidocker, busybox_image: str) -> None:
    """Of seventeen ids two begin alike."""
    containers = [minidocker.ok("create", busybox_image, f"{number}") for number in range(17)]
    for number in range(16):
        minidocker.ok("import", "-", f"made:{number}", input=tar(member(f"{number}")).decode())
    images = minidocker.ok("images", "-aq", "--no-trunc").split()
    for ids, command, message in (
        (containers, "inspect", "Multiple IDs found with provided prefix: {}"),
        (containers, "rm", "Multiple IDs found with provided prefix: {}"),
        ([image.removeprefix("sha256:") for image in images], "rmi", "{} is the beginning of .* image ids"),
        ([image.removeprefix("sha256:") for image in images], "history", "{} is the beginning of .* image ids"),
    ):
        first = [identity[0] for identity in ids]
        shared = next(digit for digit in first if first.count(digit) > 1)
        refused(f"{command} {shared}", 1, message.format(shared))
    assert len(minidocker.ok("ps", "-aq").split()) == 17
    assert minidocker.ok("images", "-aq", "--no-trunc").split() == images


def test_a_port_in_use(refused: Refusals, minidocker: Minidocker, busybox_image: str) -> None:
    port = free_port()
    minidocker.ok("run", "-d", "--name", "first", "-p", f"127.0.0.1:{port}:80", busybox_image, "sleep", "1000")
    run = f"run -d --name second -p {port}:80 {busybox_image} sleep 1000"
    refused(run, 125, f"{port}.*(port is already allocated|address already in use)")
    assert state_of(minidocker, "second")["Status"] == "created"
    refused("start second", 1, "already")
    minidocker.ok("rm", "-f", "first")
    minidocker.ok("start", "second")
    assert minidocker.ok("port", "second") == f"80/tcp -> 0.0.0.0:{port}"
    minidocker.ok("rm", "-f", "second")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        refused(f"run --rm -p 127.0.0.1:{port}:80 {busybox_image} true", 125, f"{port}.*in use")
        assert minidocker.ok("ps", "-aq") == "", "--rm keeps nothing that did not start"
    minidocker.ok("run", "--rm", "-p", f"127.0.0.1:{port}:80", busybox_image, "true")


# Registries


SAMPLE = sample_image({"a": os.urandom(400_000)}, {"b": b"2"})
Respond = Callable[[Asked], Answer]


def on_layer(change: Callable[[Answer], Answer]) -> Respond:
    """Return a registry that answers well, but for the first layer."""
    well = serving(SAMPLE)
    return lambda asked: change(well(asked)) if SAMPLE.layers[0] in asked.path else well(asked)


def on_manifest(body: bytes, kind: str = "") -> Respond:
    well = serving(SAMPLE)
    headers = {"Content-Type": kind or SAMPLE.media_type}
    return lambda asked: Answer(200, body, headers) if "/manifests/" in asked.path else well(asked)


LIES = {
    "the layer is another": (on_layer(lambda a: a._replace(body=b"x" * len(a.body))), "(?i)content is sha256"),
    "the layer is longer": (on_layer(lambda a: a._replace(body=a.body + b"x")), "longer than"),
    "the layer is shorter": (on_layer(lambda a: a._replace(body=a.body[:-1])), "(ended|end|short|cut)"),
    "the layer is a page": (on_layer(lambda a: Answer(200, b"<html>", {"Content-Type": "text/html"})), "."),
    "the manifest is a page": (on_manifest(b"<html>welcome</html>", "text/html"), "(?i)(json|manifest)"),
    "the manifest is cut": (on_manifest(SAMPLE.manifest[:-20]), "(?i)(json|manifest)"),
    "the manifest is a list": (on_manifest(b"[]"), "(?i)(json|manifest)"),
    "the manifest is of version 1": (
        on_manifest(b'{"schemaVersion": 1}', "application/vnd.docker.distribution.manifest.v1+json"),
        "(?i)schema",
    ),
    "nothing is there": (lambda asked: Answer(404, b"not here"), "."),
    "all but the greeting is refused": (
        lambda asked: Answer() if asked.path == "/v2/" else fault(403, "DENIED", "not for you"),
        "pull access denied for .*/thing, .* may require 'minidocker login': .*not for you",
    ),
    "credentials are wanted": (
        lambda asked: fault(401, "UNAUTHORIZED", "who?", {"WWW-Authenticate": 'Basic realm="x"'}),
        "no basic auth credentials",
    ),
}


@pytest.fixture
def kept(minidocker: Minidocker, busybox_image: str) -> Iterator[None]:
    """Check at the end that the image that was there is there still and works."""
    before = minidocker.ok(*IMAGES)
    yield
    assert minidocker.ok(*IMAGES) == before
    assert works(minidocker)


def test_registries_that_lie(refused: Refusals, minidocker: Minidocker, kept: None) -> None:
    wrong = []

    def check(name: str) -> None:
        answer, message = LIES[name]
        with loopback(answer) as web:
            try:
                said = refused(f"pull {web.host}/thing", 1, message)
                assert web.host in said or "sha256" in said, said
                refused(f"run {web.host}/thing true", 125, message)
            except AssertionError as error:
                wrong.append(f"{name}: {error}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(check, LIES))
    assert not wrong, "\n".join(wrong)
    with loopback(serving(SAMPLE)) as web:
        minidocker.ok("pull", f"{web.host}/thing")
        minidocker.ok("rmi", f"{web.host}/thing")


def test_registries_that_are_down_or_cut_off(refused: Refusals, minidocker: Minidocker, kept: None) -> None:
    host = f"127.0.0.1:{free_port()}"
    begun = time.monotonic()
    refused(f"pull {host}/thing", 1, f"{host}.*connection refused")
    refused(f"run {host}/thing true", 125, f"{host}.*connection refused")
    refused(f"login -u me -p secret {host}", 1, f"{host}.*connection refused")
    minidocker.ok("tag", "busybox", f"{host}/thing")
    refused(f"push {host}/thing", 1, f"{host}.*connection refused")
    minidocker.ok("rmi", f"{host}/thing")
    refused("pull no-such-host.invalid/thing", 1, "no-such-host.invalid.*(no such host|not known|resolve)")
    assert time.monotonic() - begun < 20, "what is down is not asked again and again"

    with loopback(on_layer(lambda answer: answer._replace(cut=1000))) as web:
        refused(f"pull {web.host}/thing", 1, "(ended|closed|broken|cut)")
        asked = [request for request in web.asked if SAMPLE.layers[0] in request.path]
        assert 2 <= len(asked) <= 10, "tried again, but not for ever"
        assert any("Range" in request.headers for request in asked), "each attempt goes on where the last ended"
        web.answer = serving(SAMPLE)
        minidocker.ok("pull", f"{web.host}/thing")
        minidocker.ok("rmi", f"{web.host}/thing")


def test_a_registry_that_never_answers(refused: Refusals, minidocker: Minidocker, kept: None) -> None:
    """The kernel takes the connection, nobody says a word: the wait has an end, and ctrl-c ends it at once."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = minidocker.start("pull", f"127.0.0.1:{silent.getsockname()[1]}/thing", stderr=subprocess.PIPE)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=5)
        assert process.returncode == 130
        assert b"Traceback" not in said


# Builds


def dockerfile(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(text)
    return str(folder)


SEVEN = "FROM busybox\nENV A=1\n\n# a comment\nRUN true && \\\n    true\nRUM echo hello\nCMD sh\n"
BAD_BUILDS = (
    (SEVEN, 1, r"(?s)Dockerfile:7: unknown instruction: RUM \(did you mean RUN\?\)\n +7 \| RUM echo hello"),
    (
        "FROM busybox\nCOPY nosuch /x\n",
        1,
        "COPY failed: file not found in build context .*: stat nosuch: file does not exist",
    ),
    ("FROM busybox\nCOPY ../secret /x\n", 1, r"(?i)forbidden path outside the build context|\.\./secret"),
    ("FROM busybox\nCOPY link /x\n", 1, "(?i)(outside|no such file|not found|link)"),
    ("FROM busybox\nCOPY ignored /x\n", 1, "(?i)ignored"),
    ("FROM nosuch\n", 1, "nosuch"),
    ("FROM busybox\nCOPY --from=nosuch /a /b\n", 1, "nosuch"),
    ("RUN true\n", 1, "(?i)(no build stage|FROM)"),
    ("", 1, "(?i)empty"),
    ("FROM busybox\nRUN exit 7\n", 7, "returned a non-zero code: 7"),
    ("FROM busybox\nRUN nosuch\n", 127, "returned a non-zero code: 127"),
    ("FROM busybox\nUSER nosuch\nRUN true\n", 1, "unable to find user nosuch"),
    ("FROM busybox\nENV A\n", 1, "(?i)ENV"),
    ("FROM busybox\nEXPOSE nosuch\n", 1, "(?i)nosuch"),
    ("FROM busybox\nHEALTHCHECK CMD\n", 1, "(?i)HEALTHCHECK"),
)


def test_builds_that_cannot_be(refused: Refusals, minidocker: Minidocker, kept: None, tmp_path: Path) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    (tmp_path / "secret").write_text("of the host")
    os.symlink("../secret", folder / "link")
    (folder / "ignored").touch()
    (folder / ".dockerignore").write_text("ignored\n")
    for text, exit_code, message in BAD_BUILDS:
        refused(["build", "-t", "built", dockerfile(folder, text)], exit_code, message)
    refused(["build", "-f", str(tmp_path / "secret"), str(folder)], 1, ".")
    refused(["build", "-f", "nosuch", str(folder)], 1, "nosuch.*no such file")
    refused(["build", "--target", "nosuch", dockerfile(folder, "FROM busybox\n")], 1, "nosuch")
    refused(["build", "-t", "UPPER", str(folder)], 1, "(?i)must be lowercase|invalid")
    assert "built" not in minidocker.ok("images")
    minidocker.ok("image", "prune", "-f")


# A full disk


class Disk:
    """The root folder on a small file system of its own, that can be filled to the last byte."""

    def __init__(self, root: str) -> None:
        self.root, self.filler = root, f"{root}/filler"

    def fill(self, leave: int = 0) -> None:
        with open(self.filler, "ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(1 << 16))
        os.truncate(self.filler, max(0, os.path.getsize(self.filler) - leave))

    def free(self) -> None:
        os.unlink(self.filler)

    @contextmanager
    def full(self, leave: int = 0) -> Iterator[None]:
        self.fill(leave)
        yield
        self.free()


@pytest.fixture
def disk(roots: Roots) -> Iterator[Disk]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", roots.root], check=True)
    yield Disk(roots.root)
    minidocker = Minidocker(roots)
    minidocker("rm", "-f", *minidocker("ps", "-aq").stdout.split())
    subprocess.run(["umount", roots.root], check=True)


FULL = "(?i)no space left on device"


def test_a_full_disk_in_pull(disk: Disk, refused: Refusals, minidocker: Minidocker) -> None:
    sample = sample_image({"a": os.urandom(1_000_000)}, {"b": os.urandom(1_000_000)})
    with loopback(serving(sample)) as web:
        for leave in (0, 100_000, 1_200_000, 2_100_000):
            with disk.full(leave):
                refused(f"pull {web.host}/thing", 1, FULL)
                assert minidocker("images", "-q").stdout == ""
        minidocker.ok("pull", f"{web.host}/thing")
        minidocker.ok("rmi", f"{web.host}/thing")
    assert [name for name in os.listdir(f"{disk.root}/layers") if not name.endswith(".lock")] == []


def test_a_full_disk_in_build_commit_and_run(
    disk: Disk, refused: Refusals, minidocker: Minidocker, busybox_image: str, tmp_path: Path
) -> None:
    folder = tmp_path / "context"
    context = dockerfile(folder, "FROM busybox\nENV A=1\nCOPY large /large\nRUN cat /large /large > /larger\n")
    (folder / "large").write_bytes(os.urandom(600_000))
    images = minidocker.ok(*IMAGES)
    for leave in (0, 20_000, 500_000, 1_000_000, 1_500_000, 2_500_000, 3_500_000):
        with disk.full(leave):
            done = minidocker("build", "-t", "built", context)
            assert done.returncode == 1, (leave, done)
            assert re.search(FULL, done.stdout + done.stderr), (leave, done)
            assert "Traceback" not in done.stderr
        minidocker.ok("image", "prune", "-f")  # the steps that were done before it was full, as after any failure
        assert minidocker.ok(*IMAGES) == images
    minidocker.ok("build", "-t", "built", context)
    assert minidocker.ok("run", "--rm", "built", "wc", "-c", "/larger").split()[0] == "1200000"
    minidocker.ok("rmi", "built")

    minidocker.ok("run", "--name", "changed", busybox_image, "sh", "-c", "head -c 900000 /dev/urandom > /new")
    for leave in (0, 20_000, 500_000, 1_000_000):
        with disk.full(leave):
            refused("commit changed committed", 1, FULL)
            assert minidocker.ok(*IMAGES) == images
    minidocker.ok("commit", "changed", "committed")
    assert minidocker.ok("run", "--rm", "committed", "wc", "-c", "/new").split()[0] == "900000"
    minidocker.ok("rmi", "committed")
    minidocker.ok("rm", "changed")

    with disk.full():
        refused(f"run --name one {busybox_image} true", 125, FULL)
        refused(f"run -d --name two {busybox_image} true", 125, FULL)
        refused(f"tag {busybox_image} other", 1, FULL)
        assert minidocker.ok("ps", "-aq") == ""
    assert minidocker.ok(*IMAGES) == images
    for name in ("one", "two"):
        minidocker.ok("run", "--name", name, busybox_image, "true")
    with disk.full():
        minidocker.ok("rm", "one", "two")
        assert minidocker.ok("rmi", "-f", busybox_image).startswith("Untagged")
    assert minidocker.ok("images", "-q") == ""


def test_a_disk_that_fills_under_a_container(disk: Disk, minidocker: Minidocker, busybox_image: str) -> None:
    script = (
        "i=0; while :; do i=$((i+1)); echo line $i; echo $i > /dev/shm/i; sleep 0.02; [ -e /dev/shm/s ] && exit 5; done"
    )
    minidocker.ok("run", "-d", "--name", "speaker", busybox_image, "sh", "-c", script)
    attached = minidocker.start("attach", "--no-stdin", "speaker", stdout=subprocess.PIPE)
    with disk.full():
        time.sleep(0.5)
        assert state_of(minidocker, "speaker")["Running"]
        assert minidocker.ok("exec", "speaker", "echo", "in") == "in"
    reached = int(minidocker.ok("exec", "speaker", "cat", "/dev/shm/i"))
    until(lambda: f"line {reached + 20}" in minidocker.ok("logs", "speaker"))
    assert "line 1\n" in minidocker.ok("logs", "speaker"), "what was written before is there still"
    with disk.full():
        minidocker.ok("exec", "speaker", "touch", "/dev/shm/s")
        out, _ = attached.communicate(timeout=10)
        assert attached.returncode == 5, "its exit code is told, though it cannot be written down"
    assert f"line {reached}\n".encode() in out
    until(lambda: not state_of(minidocker, "speaker")["Running"])
    minidocker.ok("start", "speaker")
    minidocker.ok("rm", "-f", "speaker")
    assert works(minidocker)
    done = minidocker("run", "--rm", busybox_image, "sh", "-c", "cat /dev/zero > /x; echo $?; exit 4")
    assert (done.returncode, done.stdout, "No space left on device" in done.stderr) == (4, "1\n", True)


# Damaged files


def halve(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


@pytest.fixture
def other(minidocker: Minidocker, busybox_image: str) -> Iterator[str]:
    """Return another running container, which must not suffer."""
    minidocker.ok("run", "-d", "--name", "other", "--network", "none", busybox_image, "sleep", "1000")
    yield "other"
    assert state_of(minidocker, "other")["Running"]
    assert minidocker.ok("exec", "other", "echo", "well") == "well"
    assert works(minidocker)


def folder_of(roots: Roots, minidocker: Minidocker, name: str) -> str:
    return f"{roots.root}/containers/{minidocker.ok('inspect', '-f', '{{.Id}}', name)}"


def test_a_state_file_cut_in_half(roots: Roots, minidocker: Minidocker, box: str, other: str) -> None:
    """What runs is found again by its processes; what has ended is known to have ended."""
    state_file = f"{folder_of(roots, minidocker, box)}/state.json"
    pid = state_of(minidocker, box)["Pid"]
    halve(state_file)
    assert "Up " in minidocker.ok("ps", "--filter", f"name={box}")
    state = state_of(minidocker, box)
    assert (state["Pid"], state["Running"], state["Error"]) == (pid, True, "its state file is damaged")
    assert minidocker.ok("exec", box, "echo", "still") == "still"
    minidocker.ok("start", box)
    assert state_of(minidocker, box)["Pid"] == pid, "there are never two on one root"
    minidocker.ok("stop", "-t", "0", box)
    assert not os.path.exists(f"/proc/{pid}")
    assert "Exited (137)" in minidocker.ok("ps", "-a", "--filter", f"name={box}")
    assert state_of(minidocker, box)["Error"] == ""
    halve(state_file)
    assert "Exited (137)" in minidocker.ok("ps", "-a", "--filter", f"name={box}")
    assert state_of(minidocker, box)["Error"] == "its state file is damaged"
    minidocker.ok("start", box)
    pid = state_of(minidocker, box)["Pid"]
    halve(state_file)
    minidocker.ok("rm", "-f", box)
    assert not os.path.exists(f"/proc/{pid}")
    assert minidocker.ok("ps", "-a", "--format", "{{.Names}}") == other


def test_a_record_cut_in_half(roots: Roots, minidocker: Minidocker, refused: Refusals, box: str, other: str) -> None:
    folder = folder_of(roots, minidocker, box)
    pid = state_of(minidocker, box)["Pid"]
    container_id = os.path.basename(folder)
    halve(f"{folder}/record.json")
    for listing in (minidocker("ps"), minidocker("ps", "-a")):
        assert listing.returncode == 0
        assert other in listing.stdout
        assert f"container {container_id[:12]} has a damaged record: remove it with" in listing.stderr
    refused(f"start {container_id[:12]}", 1, f"(?s)damaged record.*rm -f {container_id[:12]}")
    refused(f"logs {container_id[:12]}", 1, "damaged record")
    refused(f"start {box}", 1, "damaged record")
    minidocker.ok("rm", "-f", container_id[:12])
    assert not os.path.exists(folder)
    assert not os.path.exists(f"/proc/{pid}"), "it has been ended"
    minidocker.ok("run", "-d", "--name", box, "--network", "none", "busybox", "sleep", "1000")


def test_a_list_of_images_cut_in_half(roots: Roots, minidocker: Minidocker, refused: Refusals, other: str) -> None:
    index = f"{roots.root}/images/index.json"
    whole = Path(index).read_bytes()
    halve(index)
    for command, code in (("images", 1), ("run busybox true", 125), ("tag busybox x", 1), ("rmi busybox", 1)):
        refused(command, code, "(?s)index.json, is broken.*(put a copy of it back|pull)")
    refused("image prune -af", 1, "is broken")
    assert other in minidocker.ok("ps")
    assert minidocker.ok("exec", other, "echo", "well") == "well"
    os.rename(index, f"{index}.broken")
    assert minidocker.ok("images", "-q") == ""
    Path(index).write_bytes(whole)
    assert "busybox" in minidocker.ok("images")


def test_a_blob_cut_in_half(roots: Roots, minidocker: Minidocker, refused: Refusals, other: str) -> None:
    image = minidocker.ok("inspect", "-f", "{{.Id}}", "busybox").removeprefix("sha256:")
    halve(f"{roots.root}/images/blobs/sha256/{image}")
    refused("run busybox true", 125, "damaged.*(pull|load)")
    assert "busybox" in minidocker.ok("images")
    minidocker.ok("pull", "-q", "busybox")
    assert works(minidocker)


def test_a_layer_cut_in_half(
    roots: Roots, minidocker: Minidocker, refused: Refusals, other: str, tmp_path: Path
) -> None:
    blobs = f"{roots.root}/images/blobs/sha256"
    layer = max(os.listdir(blobs), key=lambda name: os.path.getsize(f"{blobs}/{name}"))
    halve(f"{blobs}/{layer}")
    refused(f"save -o {tmp_path}/saved.tar busybox", 1, f"blob sha256:{layer} was damaged on disk .*pull or load")
    assert not (tmp_path / "saved.tar").exists()
    assert works(minidocker), "what is unpacked is whole"
    minidocker.ok("pull", "-q", "busybox")
    minidocker.ok("save", "-o", f"{tmp_path}/saved.tar", "busybox")
    [folder] = [name for name in os.listdir(f"{roots.root}/layers") if os.path.isdir(f"{roots.root}/layers/{name}")]
    os.rename(f"{roots.root}/layers/{folder}", f"{roots.root}/layers/{folder}.away")
    refused("run busybox true", 125, f"{folder} is gone, which busybox needs: pull, load or build the image again")
    assert minidocker.ok("ps", "-a", "--format", "{{.Names}}") == other
    minidocker.ok("pull", "-q", "busybox")


def test_the_networks_note_cut_in_half(roots: Roots, minidocker: Minidocker, busybox_image: str) -> None:
    """The bridge itself tells its subnet; those who are on it notice nothing."""
    run = ("run", "-d", "--network", "bridge", busybox_image, "sleep", "1000")
    first = minidocker.ok(*run)
    address = minidocker.ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", first)
    halve(f"{roots.run}/network/subnet")
    second = minidocker.ok(*run)
    assert minidocker.ok("exec", second, "ping", "-c", "1", "-W", "5", address).count("1 packets received") == 1
    halve(f"{roots.run}/network/subnet")
    minidocker.ok("rm", "-f", first, second)
    minidocker.ok("run", "--rm", busybox_image, "true")


# A shim that was killed


def shim_of(minidocker: Minidocker, name: str) -> int:
    return parent_of(state_of(minidocker, name)["Pid"])


def parent_of(pid: int) -> int:
    return int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def test_a_killed_shim(minidocker: Minidocker, refused: Refusals, busybox_image: str, other: str) -> None:
    port = free_port()
    run = ("run", "-d", "--name", "box", "-p", f"127.0.0.1:{port}:80", busybox_image, "sleep", "1000")
    minidocker.ok(*run)
    pid = state_of(minidocker, "box")["Pid"]
    attached = minidocker.start("attach", "--no-stdin", "box", stdin=subprocess.DEVNULL)
    waiting = minidocker.start("wait", "box", stdout=subprocess.PIPE)
    time.sleep(0.5)
    os.kill(shim_of(minidocker, "box"), signal.SIGKILL)
    assert attached.wait(10) == 137
    assert waiting.communicate(timeout=10)[0] == b"137\n"
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert "Exited (137)" in minidocker.ok("ps", "-a", "--filter", "name=box")
    assert state_of(minidocker, "box")["Error"] == "its shim was killed"
    refused("exec box true", 1, "is not running")
    minidocker.ok("run", "--rm", "-p", f"127.0.0.1:{port}:80", busybox_image, "true")  # its port is free
    minidocker.ok("start", "box")
    assert minidocker.ok("port", "box") == f"80/tcp -> 127.0.0.1:{port}"
    os.kill(shim_of(minidocker, "box"), signal.SIGKILL)
    minidocker.ok("rm", "-f", "box")
    minidocker.ok(*run)
    minidocker.ok("rm", "-f", "box")

    # that of an exec: its program goes, the container stays
    inside = minidocker.start("exec", "other", "sleep", "77")
    until(lambda: "sleep 77" in minidocker.ok("top", "other"))
    row = next(line for line in minidocker.ok("top", "other").splitlines() if line.endswith("sleep 77"))
    os.kill(parent_of(int(row.split()[1])), signal.SIGKILL)
    assert inside.wait(10) == 137
    until(lambda: "sleep 77" not in minidocker.ok("top", "other"))

    front = minidocker.start("run", "--name", "front", "--network", "none", busybox_image, "sleep", "1000")
    until(lambda: "front" in minidocker.ok("ps"))
    os.kill(shim_of(minidocker, "front"), signal.SIGKILL)
    assert front.wait(10) == 137
    minidocker.ok("rm", "front")


# Two commands at once


def at_once(minidocker: Minidocker, *commands: str, codes: tuple[int, ...] = (0,)) -> list[tuple[int, str]]:
    """Start commands together; require that each ends in one of these ways and without a word about a bug."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [minidocker.start(*command.split(), **pipes) for command in commands]
    ends = []
    for command, process in zip(commands, processes, strict=True):
        out, err = (data.decode() for data in process.communicate(timeout=60))
        assert process.returncode in codes, f"{command}: exit {process.returncode}: {out}{err}"
        assert "Traceback" not in err and "bug in minidocker" not in err and "Errno" not in err, f"{command}: {err}"
        ends.append((process.returncode, out + err))
    return ends


def test_two_commands_on_one_container(minidocker: Minidocker, busybox_image: str) -> None:
    create = f"create --network none {busybox_image} sleep 1000".split()
    minidocker.ok(*create[:1], "--name", "cc", *create[1:])
    at_once(minidocker, "start cc", "start cc", "start cc")
    assert minidocker.ok("top", "cc").count("sleep") == 1
    at_once(minidocker, "restart -t 0 cc", "restart -t 0 cc", "stop -t 0 cc", "start cc")
    minidocker.ok("start", "cc")
    assert minidocker.ok("top", "cc").count("sleep") == 1
    at_once(minidocker, "stop -t 0 cc", "kill cc", "stop -t 0 cc", "wait cc", codes=(0, 1))
    assert not state_of(minidocker, "cc")["Running"]
    at_once(
        minidocker, "start cc", "rm -f cc", "exec cc true", "start cc", codes=(0, 1, 126)
    )  # docker, too, says 126 of one that ends meanwhile
    at_once(minidocker, "rm -f cc", "rm -f cc", "rm -f cc")
    assert minidocker.ok("ps", "-aq") == ""
    run = f"run -d --name cc --network none {busybox_image} sleep 1000"
    ends = at_once(minidocker, run, run, run, run, codes=(0, 125))
    assert sorted(code for code, _ in ends) == [0, 125, 125, 125]
    assert all("is already in use by container" in said for code, said in ends if code)
    ends = at_once(
        minidocker, "rm -f cc", "rename cc dd", "commit cc made", "diff cc", "logs cc", "inspect cc", codes=(0, 1)
    )
    minidocker("rm", "-f", "cc", "dd")
    assert minidocker.ok("ps", "-aq") == ""
    assert works(minidocker)


def test_two_commands_on_one_image(minidocker: Minidocker, busybox_image: str, tmp_path: Path) -> None:
    context = dockerfile(tmp_path / "context", "FROM busybox\nCOPY Dockerfile /\nRUN echo x > /x\nRUN echo y > /y\n")
    ends = at_once(minidocker, *[f"build -t built:{n} {context}" for n in range(4)])
    assert all("Successfully built" in said for _, said in ends)
    for number in range(4):
        assert minidocker.ok("run", "--rm", "--network", "none", f"built:{number}", "cat", "/x", "/y") == "x\ny"
    at_once(minidocker, *[f"tag busybox tag:{n}" for n in range(8)])
    assert len(minidocker.ok("images", "-q", "tag").split()) == 8
    at_once(minidocker, *[f"rmi tag:{n}" for n in range(8)])
    at_once(minidocker, "rmi -f built:0", "rmi built:0", "rmi built:1", "rmi built:1", codes=(0, 1))
    removals = ("rmi built:2", "rmi built:3", "image prune -af", "tag built:2 a:1")
    at_once(minidocker, *removals, f"build -t built:4 {context}", "run --rm built:3 cat /x", codes=(0, 1, 125))
    minidocker.ok("pull", "-q", "busybox")
    minidocker.ok("build", "-t", "built:5", context)
    assert minidocker.ok("run", "--rm", "--network", "none", "built:5", "cat", "/x", "/y") == "x\ny"
    assert works(minidocker)


def test_pulls_and_removals_of_one_image(minidocker: Minidocker, busybox_image: str) -> None:
    with loopback(serving(SAMPLE)) as web:
        name = f"{web.host}/thing"
        at_once(minidocker, *[f"pull -q {name}"] * 4)
        for _ in range(3):
            pull = f"pull -q {name}"
            at_once(minidocker, pull, f"rmi {name}", pull, "image prune -f", f"create {name} x", codes=(0, 1))
            minidocker("rm", "-f", *minidocker.ok("ps", "-aq").split())
        at_once(minidocker, pull, "system prune -af", pull, f"create {name} x", "pull -q busybox", codes=(0, 1))
        minidocker("rm", "-f", *minidocker.ok("ps", "-aq").split())
        minidocker.ok("pull", "-q", "busybox")
        minidocker.ok("pull", "-q", name)
        container = minidocker.ok("create", name, "x")
        assert minidocker.ok("diff", container) == ""
        minidocker.ok("rm", container)
        minidocker.ok("rmi", name)
        minidocker.ok("pull", "-q", name)
    assert works(minidocker)
