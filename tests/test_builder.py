"""Builds, with RUN carried out by a simple chroot on an overlay."""

import fcntl
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from http.server import HTTPServer, SimpleHTTPRequestHandler
from typing import Any

import pytest

from buildbench import Bench, Chroot, bench, leftovers, masked
from minidocker import engine as stories
from minidocker.build.builder import BuildOptions, RunStep, apply_changes, build
from minidocker.build.workspace import workspace
from minidocker.engine import Engine
from minidocker.errors import BuildError, DockerfileError, ImageNotFound, InvalidReference
from minidocker.image.oci import ImageConfig
from minidocker.progress import Progress, Report

__all__ = ["bench"]
pytestmark = pytest.mark.root


def test_a_pull_within_a_build_counts_no_bytes(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(engine: Engine, name: str, platform: str, report: Report) -> Any:
        for news in (Progress("5be3", "Downloading", 1, 9), Progress("5be3", "Pull complete"), Progress("", "Done")):
            report(news)
        raise ImageNotFound(name)

    monkeypatch.setattr(stories, "pull", pull)
    printed: list[str] = []
    with pytest.raises(ImageNotFound):
        stories.build(
            stories.open_engine(f"{tmp_path}", f"{tmp_path}"), "", BuildOptions("FROM nowhere\n"), printed.append
        )
    assert "".join(printed).endswith("Step 1/1 : FROM nowhere\n5be3: Pull complete\nDone\n")


def test_prints_what_docker_prints(bench: Bench) -> None:
    bench.file("a.txt", "hi\n")
    text = "FROM busybox\nENV a=1\nRUN echo out\nCOPY a.txt /\nWORKDIR /w\n"
    printed = bench.build(text, tags=("x", "y:2"))
    assert masked(printed) == (
        "Sending build context to minidocker  2.048kB\n"
        "Step 1/5 : FROM busybox\n ---> ID\n"
        "Step 2/5 : ENV a=1\n ---> Running in ID\nRemoving intermediate container ID\n ---> ID\n"
        "Step 3/5 : RUN echo out\n ---> Running in ID\nout\nRemoving intermediate container ID\n ---> ID\n"
        "Step 4/5 : COPY a.txt /\n ---> ID\n"
        "Step 5/5 : WORKDIR /w\n ---> Running in ID\nRemoving intermediate container ID\n ---> ID\n"
        "Successfully built ID\nSuccessfully tagged x:latest\nSuccessfully tagged y:2\n"
    )
    assert bench.store.get("x").id == bench.store.get("y:2").id == bench.id
    assert [one.get("empty_layer", False) for one in bench.config.history] == [True, True, False, False]
    assert len(bench.config.diff_ids) == 3
    again = bench.build(text)
    assert again.count(" ---> Using cache\n") == 4
    assert "Running in" not in again


def test_a_failed_step_shows_its_code_and_the_next_build_resumes(bench: Bench) -> None:
    text = "FROM busybox\nRUN echo one > /one\nRUN echo bad; exit {}\nRUN echo three\n"
    message = "^The command '/bin/sh -c echo bad; exit 3' returned a non-zero code: 3$"
    with pytest.raises(BuildError, match=message) as error:
        bench.build(text.format(3))
    assert error.value.exit_code == 3
    assert "\nbad\n" in bench.printed
    assert len(bench.store.images()) == 2
    assert bench.build(text.format(0)).count("Using cache") == 1
    assert bench.see("cat /one") == "one\n"


def test_what_looks_alike_in_the_history_is_not_the_same(bench: Bench) -> None:
    bench.build("FROM busybox\nENV A='1 B=2'\n")
    assert "Using cache" not in bench.build("FROM busybox\nENV A=1 B=2\n")


def test_arguments(bench: Bench) -> None:
    text = "ARG base=nope\nFROM ${base}\nARG base\nARG x=1 y\nENV x=env\nRUN echo $base $x $y > /r; echo $HTTP_PROXY\n"
    printed = bench.build(text, build_args={"base": "busybox", "y": "2", "HTTP_PROXY": "p", "z": "3", "a": None})
    assert bench.see("cat /r") == "busybox env 2\n"
    assert "\np\n" in printed
    assert "[Warning] One or more build-args [a z] were not consumed\n" in printed
    assert bench.config.history[-1]["created_by"].startswith("|2 base=busybox y=2 /bin/sh -c echo")
    again = bench.build(text, build_args={"base": "busybox", "y": "2", "HTTP_PROXY": "other"})
    assert again.count("Using cache") == 4
    assert bench.build(text, build_args={"base": "busybox", "y": "4"}).count("Using cache") == 3


def test_a_stage_inherits_the_arguments_of_the_stage_it_starts_from(bench: Bench) -> None:
    bench.build("FROM busybox AS a\nARG x=1\nFROM a\nENV y=$x\nFROM busybox AS b\nENV z=$x\n", target="1")
    assert "y=1" in bench.config.config["Env"]
    bench.build("FROM busybox AS a\nARG x=1\nFROM busybox AS b\nENV z=$x\n")
    assert "z=" in bench.config.config["Env"]


def test_nothing_has_a_platform_too(bench: Bench) -> None:
    bench.build("FROM --platform=linux/arm64 scratch\nENV a=1\n")
    assert bench.config.architecture == "arm64"
    bench.build("FROM --platform=linux/amd64 scratch\nENV a=1\n")
    assert bench.config.architecture == "amd64"


def test_platform_arguments(bench: Bench) -> None:
    bench.build(
        "FROM busybox\nARG TARGETARCH\nARG TARGETPLATFORM\nRUN echo $TARGETARCH $TARGETPLATFORM-$BUILDOS > /r\n"
    )
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    assert bench.see("cat /r") == f"{machine} linux/{machine}-\n"


def test_stages(bench: Bench) -> None:
    text = """ARG start=one
FROM busybox AS one
RUN mkdir /s && echo 1 > /s/f && chown 5:6 /s/f && ln -s /s/f /link
FROM busybox AS unneeded
RUN false
FROM $start AS two
ENV two=2
FROM busybox
COPY --from=one /s /t
COPY --from=0 /link /copied
COPY --from=two /s/* /u/
COPY --from=busybox /etc/passwd /p
"""
    printed = bench.build(text)
    assert "Step 2/10 : FROM busybox AS one" in printed
    assert "unneeded" not in printed
    assert bench.see("stat -c '%n %u:%g' /t /t/f /copied /u/f") == "/t 0:0\n/t/f 5:6\n/copied 5:6\n/u/f 5:6\n"
    bench.build(text, target="two", labels={"x": "$y 'q'"})
    assert bench.config.config["Labels"] == {"x": "$y 'q'"}
    assert "two=2" in bench.config.config["Env"]
    with pytest.raises(BuildError, match="failed to reach build target nope"):
        bench.build(text, target="nope")


FAILING = [
    ("COPY nope /x", "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does"),
    ("COPY ../x /x", "COPY failed: forbidden path outside the build context: ../x"),
    ("COPY up /x", "COPY failed: file not found in build context"),
    ("ADD evil /x", "ADD failed: file not found in build context"),
    ("COPY zz* /x/", "COPY failed: no source files were specified"),
    ("COPY a b /x", "When using COPY with more than one source file, the destination must be a directory and end with"),
    ("COPY d /etc/passwd", "cannot copy to non-directory: /etc/passwd"),
    ("COPY a /etc/passwd/x", "cannot copy to non-directory: /etc/passwd"),
    ("COPY --chown=nobodyx a /x", "can't find uid for user nobodyx"),
    ("COPY --chown=bob:nobodyx a /x", "can't find gid for group nobodyx"),
    ("COPY --chown=: a /x", "invalid chown string format"),
    ("COPY --from=nope /x /x", "invalid from flag value nope: no such image"),
    ("COPY --from=1 /x /x\nFROM busybox\nCOPY --from=0 /x /x", "invalid from flag value 1: index out of bounds"),
    ("COPY --from=0 /x /x", "invalid from flag value 0: refers to current build stage"),
    ("FROM busybox\nCOPY --from=0 /nope /x", "COPY failed: stat nope: file does not exist"),
    ("FROM scratch", "No image was generated. Is your Dockerfile empty?"),
    (f"ADD --checksum=sha256:{'0' * 64} a /x", "--checksum is for what is fetched, and a is not a URL"),
    ("ADD https://example.org/a.git#main /x", "git repositories are not supported"),
    ("COPY circle /x", "too many symbolic links"),
]


@pytest.mark.parametrize(("text", "message"), FAILING, ids=[text for text, _ in FAILING])
def test_build_errors(bench: Bench, text: str, message: str) -> None:
    bench.write(a="1", b="2", d__f="3")
    os.symlink("/etc/hostname", f"{bench.context}/evil")
    os.symlink("../../../etc/hostname", f"{bench.context}/up")
    os.symlink("circle", f"{bench.context}/circle")
    with pytest.raises(BuildError) as error:
        bench.build(f"FROM busybox\n{text}\n")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("FROM ${x}\n", "base name (${x}) should not be blank", 1),
        ("FROM busybox\nEXPOSE abc\n", "Invalid containerPort: abc", 2),
        ("FROM busybox\nEXPOSE 99999\n", "Invalid containerPort: 99999", 2),
        ("FROM busybox\nEXPOSE 80/foo\n", "Invalid proto: foo", 2),
        ("FROM busybox\nEXPOSE 90-80\n", "Invalid containerPort: 90-80", 2),
        ("FROM busybox\n\nSTOPSIGNAL FOO\n", "Invalid signal: FOO", 3),
        ('FROM busybox\nENV x="abc\n', 'failed to process "\\"abc": unexpected end of statement', 2),
        ("FROM busybox\nENV x=${y:?}\n", "y: is not allowed to be unset", 2),
        ("FROM busybox\nARG m=9\nCOPY --chmod=$m x /\n", "invalid chmod parameter", 3),
    ],
)
def test_errors_name_the_line(bench: Bench, text: str, message: str, line: int) -> None:
    with pytest.raises(DockerfileError) as error:
        bench.build(text)
    assert f"Dockerfile:{line}: " in str(error.value)
    assert message in str(error.value)
    assert text.split("\n")[line - 1] in str(error.value)
    assert error.value.line == line
    assert str(error.value).count("Dockerfile") == 1


def test_bases(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        bench.build("FROM nope:1\n")
    with pytest.raises(InvalidReference):
        bench.build("FROM busybox\n", tags=("Bad",))
    with pytest.raises(InvalidReference, match="refusing to create a tag with a digest reference"):
        bench.build("FROM busybox\n", tags=(f"a@sha256:{'0' * 64}",))
    assert bench.pulls == [("nope:1", "", False)]
    bench.build("FROM --platform=linux/amd64 busybox\n", pull=True)
    assert bench.pulls[-1] == ("busybox", "linux/amd64", True)


def test_a_stage_cannot_start_from_itself_or_from_a_later_one(bench: Bench) -> None:
    for text in ("FROM own AS own\n", "FROM later AS own\nFROM busybox AS later\nFROM own\n"):
        with pytest.raises(ImageNotFound):
            bench.build(text)


def test_what_killed_builds_left_goes_and_what_others_build_stays(bench: Bench) -> None:
    folder = f"{bench.store.root}/build/tmp"
    os.makedirs(f"{folder}/dead/1")
    os.makedirs(f"{folder}/alive/1")
    lock = os.open(f"{folder}/alive", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with workspace(folder) as own:
        assert sorted(os.listdir(folder)) == sorted(["alive", os.path.basename(own.folder)])
    os.close(lock)
    with workspace(folder):
        assert len(os.listdir(folder)) == 1


def test_several_at_once(bench: Bench) -> None:
    bench.write(a="1")
    text = "FROM busybox\nENV a=1\nCOPY a /a\nWORKDIR /w\nLABEL x=y\n"

    def one(number: int) -> str:
        options = BuildOptions(text, tags=(f"t{number}",))
        return build(bench.store, bench.context, options, lambda _: None, bench.run, bench.resolve)

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(one, range(8)))
    assert [bench.store.get(f"t{number}").id for number in range(8)] == ids
    assert leftovers(bench.store.root) == []


def test_on_build(bench: Bench) -> None:
    bench.write(a="1")
    bench.build("FROM busybox\nONBUILD COPY a /a\nONBUILD RUN echo $(cat /a) > /b\n", tags=("parent",))
    printed = bench.build("FROM parent\nENV x=1\n")
    assert "Step 1/2 : FROM parent\n# Executing 2 build triggers\n" in printed
    assert bench.see("cat /b") == "1\n"
    assert "OnBuild" not in bench.config.config


def test_broken_trigger_of_a_base_image(bench: Bench) -> None:
    bench.build("FROM busybox\nONBUILD RNU x\n", tags=("parent",))
    with pytest.raises(DockerfileError, match="ONBUILD RNU x, which the base image asks for: unknown instruction: RNU"):
        bench.build("FROM parent\n")


def test_quiet(bench: Bench) -> None:
    assert bench.build("FROM busybox\nRUN echo hi\n", quiet=True) == f"{bench.id}\n"
    with pytest.raises(BuildError):
        bench.build("FROM busybox\nRUN echo why; false\n", quiet=True)
    assert "why" in bench.printed


def test_interrupt_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(step: RunStep) -> Chroot:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.build("FROM busybox\nENV a=1\nRUN true\n")
    assert len(bench.store.images()) == 2


HERE_DOCUMENTS = r"""FROM busybox
ENV x=value
COPY <<a <<-"b" /to/
$x \$x "q"
a
	$x
b
COPY <<EOF /named
one
EOF
RUN <<EOF
echo one > /r
echo $x >> /r
EOF
RUN cat <<A > /s && cat <<'B' >> /s
$x
A
$x
B
RUN <<EOF
#!/bin/cat
script
EOF
"""


def test_here_documents(bench: Bench) -> None:
    bench.build(HERE_DOCUMENTS)
    expected = 'value $x "q"\n$x\none\none\nvalue\nvalue\n$x\n'
    assert bench.see("cat /to/a /to/b /named /r /s") == expected
    assert "#!/bin/cat\nscript\n" in bench.printed
    assert bench.see("stat -c %a:%u /to/a") == "644:0\n"


def test_workdir_and_user_reach_run(bench: Bench) -> None:
    bench.build("FROM busybox\nUSER bob\nWORKDIR /w/x\nRUN --network=none pwd\nWORKDIR /etc\n", network="host")
    (step,) = bench.runs
    assert (step.user, step.workdir, step.network) == ("bob", "/w/x", "none")
    assert len(bench.config.diff_ids) == 2  # the RUN changed nothing, /etc was there


def test_add_unpacks_archives(bench: Bench) -> None:
    bench.file("d/f", "1")
    os.link(f"{bench.context}/d/f", f"{bench.context}/d/g")
    for name, mode in (("a.tar", "w"), ("b.data", "w:gz"), ("c.bz2", "w:bz2"), ("d.xz", "w:xz")):
        with tarfile.open(f"{bench.context}/{name}", mode) as tar:  # type: ignore[call-overload]
            tar.add(f"{bench.context}/d", "d")
    bench.file("not.tar.gz", "text")
    text = (
        "FROM busybox\nADD a.tar /a\nADD b.data c.bz2 /b/\nADD --chown=bob d.xz /d\nCOPY a.tar /e\nADD not.tar.gz /\n"
    )
    bench.build(text)
    assert bench.see("stat -c '%h %u' /a/d/f /a/d/g /b/d/f /d/d/f") == "2 0\n2 0\n2 0\n2 1234\n"
    assert bench.see("cat /not.tar.gz; stat -c %F /e") == "textregular file\n"
    assert bench.build(text).count("Using cache") == 5


def test_add_url(bench: Bench, tmp_path: Any) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "x.bin").write_text("hello")
    os.utime(served / "x.bin", (1000000000, 1000000000))
    server = HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    good = f"sha256:{sha256(b'hello').hexdigest()}"
    try:
        bench.build(f"FROM busybox\nADD {url}/x.bin /u\nADD --checksum={good} --chmod=755 {url}/x.bin?q=1 /v/\n")
        assert bench.see("stat -c '%n %a %u %Y' /u /v/x.bin") == "/u 600 0 1000000000\n/v/x.bin 755 0 1000000000\n"
        with pytest.raises(BuildError, match="digest mismatch"):
            bench.build(f"FROM busybox\nADD --checksum=sha256:{'0' * 64} {url}/x.bin /u\n")
        with pytest.raises(BuildError, match=f"ADD failed: failed to GET {url}/nope with status 404"):
            bench.build(f"FROM busybox\nADD {url}/nope /u\n")
        with pytest.raises(BuildError, match="cannot determine filename"):
            bench.build(f"FROM busybox\nADD {url}/ /u/\n")
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(BuildError, match=f'ADD failed: Get "{url}/x.bin"'):
        bench.build(f"FROM busybox\nADD {url}/x.bin /u\n", no_cache=True)


def test_without_context(bench: Bench) -> None:
    assert "Sending build context to minidocker  1.024kB\n" in bench.build("FROM busybox\nENV a=1\n", context="")
    with pytest.raises(BuildError, match="file not found in build context"):
        bench.build("FROM busybox\nCOPY x /\n", context="")


def test_context_that_is_none(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError):
        bench.build("FROM busybox\n", context=f"{bench.context}/nope")
    bench.write(file="x")
    with pytest.raises(BuildError, match="context must be a directory"):
        bench.build("FROM busybox\n", context=f"{bench.context}/file")


def test_apply_changes() -> None:
    config = ImageConfig({"config": {"Cmd": ["a"], "Env": ["PATH=/x"]}})
    changed = apply_changes(config, ["ENV b=1 c=$PATH", 'ENTRYPOINT ["e"]', "ONBUILD RUN x", "workdir /w"]).config
    assert changed["Env"] == ["PATH=/x", "b=1", "c=/x"]
    assert (changed["Entrypoint"], changed["OnBuild"], changed["WorkingDir"]) == (["e"], ["RUN x"], "/w")
    assert "Cmd" not in changed
    assert apply_changes(config, []) is config
    for bad in ("RUN x", "nonsense", "", "EXPOSE x", "FROM a", "ENV a=1\nENV b=1"):
        with pytest.raises(DockerfileError):
            apply_changes(config, [bad])
