"""Builds beside docker's classic builder: the same words, the same files, the same history."""

import json
import os
import re
import subprocess
import tarfile

import pytest

from buildbench import Bench, bench, make_busybox, masked
from peers import Docker

__all__ = ["bench"]
pytestmark = [pytest.mark.root, pytest.mark.peers]

SEE = "find / -xdev ! -path '/dev*' ! -path '/proc*' ! -path '/sys*' ! -path '/bin/*' ! -path '/etc/host*'"
SEE += " ! -path /.dockerenv ! -path /etc/resolv.conf ! -path /etc/mtab -exec stat -c '%n %a %u:%g %F' {} + | sort;"
SEE += " find / -xdev -type f ! -path '/dev*' ! -path '/proc*' ! -path '/sys*' ! -path '/bin/*' ! -path '/etc*'"
SEE += " ! -name .dockerenv |"
SEE += ' sort | while read -r f; do busybox md5sum "$f"; done'

DOCKERFILES = {
    "directories": r"""
COPY d /new
RUN mkdir -p /old; chown 9:9 /old; chmod 750 /old
COPY d /old/
COPY d/sub /old
""",
    "files": r"""
COPY a.txt /x
COPY a.txt b.txt /y/z/
COPY a.txt /etc
COPY a.txt /tmp/
COPY ["sp ace", "/q q/"]
""",
    "wildcards": r"""
COPY *.txt l* /w/
COPY */f /v/
COPY a.?xt /u
COPY [ab].txt /t/
COPY [^a-ce]* /s/
""",
    "links": r"""
RUN mkdir /real; ln -s real /l; echo > /file; ln -s file /fl; ln -s /none/x /dl; ln -s ../../../etc /el
COPY a.txt /l/
COPY a.txt /l
COPY a.txt /fl
COPY a.txt /dl
COPY a.txt /el/
COPY d /l
""",
    "link-sources": r"""
COPY la /x
COPY ld /y
COPY ld/f /z
COPY . /all/
""",
    "clashes": r"""
RUN mkdir -p /q/real /q/f/deep; ln -s real /q/sub; echo > /r
COPY d /q
COPY --chown=7:8 a.txt /q/real/
""",
    "owners": r"""
COPY --chown=bob d /n6
COPY --chown=77 a.txt /x/y/n6
COPY --chown=bob:staff a.txt /bob
ADD --chown=1:2 b.txt /c/
""",
    "archives": r"""
ADD arc.tgz /n5
ADD arc.tgz a.txt /n6/
COPY arc.tgz /n7/
""",
    "relative": r"""
WORKDIR /w/x
COPY a.txt .
COPY d e
COPY a.txt ../up.txt
WORKDIR ..
COPY a.txt ./
RUN pwd; rm /etc/group
""",
    "shells": r"""
SHELL ["/bin/sh", "-ec"]
ENV A=1
ARG B=2
RUN echo $A $B > /r
RUN ["/bin/touch", "/a b"]
CMD x
LABEL a=b
""",
    "from-a-stage": r"""
RUN mkdir /s; echo x > /s/f; chown 5:6 /s /s/f; chmod 4711 /s/f; ln -s /s/f /lnk; rm /etc/group
FROM busybox
COPY --from=0 /s /t
COPY --from=0 /lnk /t2
COPY --from=0 /s/* /t3/
COPY --from=0 /etc /all/
""",
    "whiteouts": r"""
RUN mkdir -p /g/h; echo 1 > /g/h/i; echo 2 > /g/j
RUN rm -r /g/h /etc/group; mkdir /g/h; echo 3 > /g/h/k
COPY a.txt /g/h/i
FROM busybox
COPY --from=0 /g /g
COPY --from=0 /etc /etc2
""",
    "ignored": r"""
COPY . /all/
""",
}


@pytest.fixture(scope="session")
def docker_busybox(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Docker:
    tree = str(tmp_path_factory.mktemp("tree") / "busybox")
    make_busybox(tree)
    archive = f"{tree}.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    docker.run("import", archive, "busybox")
    return docker


def fill(context: str) -> None:
    def path(name: str) -> str:
        return f"{context}/{name}"

    os.makedirs(path("d/sub"))
    for name in ("a.txt", "b.txt", "d/f", "d/sub/deep", "sp ace"):
        with open(path(name), "w") as file:
            file.write(name)
    os.chmod(path("b.txt"), 0o640)
    os.chmod(path("d"), 0o700)
    os.chmod(path("d/sub"), 0o711)
    os.chown(path("d/f"), 55, 66)
    for link, target in (("la", "a.txt"), ("ld", "d"), ("d/link", "f"), ("d/lsub", "sub"), ("evil", "/etc/passwd")):
        os.symlink(target, path(link))
    with tarfile.open(path("arc.tgz"), "w:gz") as tar:
        tar.add(path("d"), "d")
    os.mkfifo(path("d/fifo"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_builds_what_docker_builds(
    bench: Bench, docker_busybox: Docker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    fill(bench.context)
    if name == "ignored":
        os.chmod(f"{bench.context}/d", 0o755)  # docker's client does not send this folder, and its daemon guesses
        os.chmod(f"{bench.context}/d/sub", 0o755)
        bench.file(".dockerignore", "d\n!d/sub/deep\n*.txt\n!b.*\n")
    text = "FROM busybox" + DOCKERFILES[name]
    bench.file("Dockerfile", text)
    theirs = docker_busybox.run("build", "--no-cache", "-t", f"same-{name}", bench.context).stdout
    ours = bench.build(text, tags=(f"same-{name}",))
    assert masked(ours) == masked(theirs.replace("Docker daemon", "minidocker").replace("\r", "").lstrip("\n"))
    argv = [
        "run",
        "--rm",
        "--network",
        "none",
        "-w",
        "/",
        "-u",
        "0",
        "--entrypoint",
        "/bin/sh",
        f"same-{name}",
        "-c",
        SEE,
    ]
    assert bench.see(SEE).splitlines() == docker_busybox.run(*argv).stdout.splitlines()
    shown = docker_busybox.run("history", "--no-trunc", "--format", "{{json .CreatedBy}}", f"same-{name}").stdout
    assert history(bench.config.history) == history(
        [{"created_by": json.loads(one)} for one in shown.splitlines()[::-1]][1:]
    )


def history(entries: list[dict[str, str]]) -> list[str]:
    """Mask the digests, of which each engine has its own; docker forgets the space behind --chown."""
    texts = (re.sub(r"(--chown=\S+?) ?(file|dir|multi):", r"\1 \2:", one["created_by"]) for one in entries)
    return [re.sub("(file|dir|multi):[0-9a-f]{64}", "X", text) for text in texts]
