"""Images that go from hand to hand: what one engine builds, the others run, and the tree inside is the same everywhere.

Built, committed, saved and pushed by minidocker, docker and podman, through two registries, files and skopeo.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import Minidocker
from imagekit import member, tar
from peers import Docker, DockerRegistry, Podman, free_port
from trees import CAPABILITY

pytestmark = [pytest.mark.root, pytest.mark.peers, pytest.mark.timeout(240)]

BASE = "peers-base:1"

# In two layers: a tree with one of everything, then a second that deletes, replaces and changes some of it.
DOCKERFILE = f"""\
FROM {BASE}
ADD tree.tar /tree/
COPY --chown=7:8 context /context/
RUN cd /tree \\
 && echo linked > one && ln one two && mkdir far && ln one far/three \\
 && echo run > set-id && chmod 6751 set-id && mkdir sticky && chmod 3777 sticky \\
 && echo owned > owned && chown 1234:4321 owned && ln -s owned link && chown -h 12:34 link && ln -s /nowhere dangling \\
 && mkfifo -m 620 fifo && mkdir -m 700 locked && chown 5:6 locked && mkdir -p gone/with/all replaced became \\
 && echo old | tee gone/with/all/this replaced/old became/old > file && echo y > dir \\
 && touch -d '2001-02-03 04:05:06' old && echo > 'a name with spaces and ä ✓'
RUN cd /tree \\
 && rm -r gone replaced became && mkdir -m 751 replaced && echo new > replaced/new && echo f > became && rm dir \\
 && mkdir dir && echo in > dir/in && rm file && ln -s dir file && echo more >> two && chmod 4750 capable \\
 && rm /etc/shadow && chown 9:9 attributed && mv owned moved
ENV GREETING="hello there" DEPTH=2
WORKDIR /tree
USER 1234:4321
LABEL kind=everything
EXPOSE 8080/tcp 53/udp
VOLUME /data
STOPSIGNAL SIGQUIT
ENTRYPOINT ["/bin/sh", "-c", "echo $GREETING $(id -u) $(pwd) $0 $1"]
CMD ["word", "another"]
"""
SAID = "hello there 1234 /tree word another"
CONFIG = ("User", "Env", "Cmd", "Entrypoint", "WorkingDir", "Labels", "ExposedPorts", "Volumes", "StopSignal")

# What an engine mounts over an image's tree, or makes to mount upon.
NOT_THE_IMAGES = (
    *("dev", "proc", "sys", "tools", "out", "data", ".dockerenv", "run", "run/.containerenv"),
    *("etc/mtab", "etc/hosts", "etc/hostname", "etc/resolv.conf"),
)


class Facts(NamedTuple):
    """What one name is, as tar says it from inside a container."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    size: int
    link: str
    content: str
    attributes: dict[str, str]
    mtime: int  # in seconds: docker and podman keep no more when they unpack a layer


Tree = dict[str, Facts]


def read_tree(path: str) -> Tree:
    """Return the facts of every name in an archive that GNU tar made of a whole root."""
    found = {}
    with tarfile.open(path) as archive:
        for info in archive:
            name = info.name.removeprefix("./")
            if name in NOT_THE_IMAGES or name.startswith(("run/", "tools/")):
                continue
            attributes = {key: text for key, text in info.pax_headers.items() if key.startswith("SCHILY.xattr.")}
            file = archive.extractfile(info) if info.isreg() else None
            content = hashlib.sha256(file.read()).hexdigest() if file else ""
            changed = name in ("", ".", "etc")  # mount points are made in there
            found[name] = Facts(
                info.type, info.mode, (info.uid, info.gid), info.size, info.linkname, content, attributes,
                0 if changed else int(info.mtime),
            )  # fmt: skip
    return found


def as_built(tree: Tree) -> Tree:
    """Leave out what two builds of the same Dockerfile need not have in common.

    Docker's own layers keep one attribute of a file, its capability; ours keep all.
    """
    kept = {}
    for name, facts in tree.items():
        attributes = {key: text for key, text in facts.attributes.items() if key.endswith("security.capability")}
        kept[name] = facts._replace(mtime=0, attributes=attributes)
    return kept


def unlike(one: Tree, other: Tree) -> list[str]:
    """Return how two trees differ: nothing, when all is well."""
    names = sorted({*one, *other})
    return [f"{name}: {one.get(name)} and {other.get(name)}" for name in names if one.get(name) != other.get(name)]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with GNU tar and all that it needs, to be mounted in any container."""
    folder = tmp_path_factory.mktemp("tools")
    linked = subprocess.run(["ldd", "/usr/bin/tar"], capture_output=True, text=True, check=True).stdout
    for word in linked.split():
        if word.startswith("/"):
            shutil.copy(word, folder)
            if "/ld-" in word:
                shutil.copy(word, folder / "loader")
    shutil.copy("/usr/bin/tar", folder)
    folder.chmod(0o755)
    return str(folder)


class Lister:
    """Lists the tree of an image by running the same command in a container of any engine."""

    def __init__(self, tools: str, out: Path) -> None:
        self.tools, self.out = tools, out
        self.count = 0

    def __call__(self, run: Callable[..., Any], image: str) -> Tree:
        self.count += 1
        name = f"{self.count}.tar"
        command = ["/tools/loader", "--library-path", "/tools", "/tools/tar", "--create", f"--file=/out/{name}"]
        command += ["--sort=name", "--numeric-owner", "--format=posix", "--xattrs", "--xattrs-include=*"]
        command += ["--one-file-system", "--exclude=./sys", "--exclude=./proc", "--exclude=./dev", "--directory=/", "."]
        mounts = ["-v", f"{self.tools}:/tools:ro", "-v", f"{self.out}:/out"]
        run("run", "--rm", "--network=none", "-u", "0", *mounts, "--entrypoint", command[0], image, *command[1:])
        return read_tree(f"{self.out}/{name}")


@pytest.fixture
def listing(tools: str, tmp_path: Path) -> Lister:
    (tmp_path / "out").mkdir()
    return Lister(tools, tmp_path / "out")


@pytest.fixture
def context(tmp_path: Path) -> str:
    """Return a build context: the Dockerfile, an archive with attributes, a folder."""
    folder = tmp_path / "build"
    (folder / "context/sub").mkdir(parents=True)
    (folder / "context/sub/file").write_text("from the context")
    (folder / "context/sub").chmod(0o711)
    (folder / "context/script").write_text("#!/bin/sh\n")
    (folder / "context/script").chmod(0o755)
    os.symlink("sub/file", folder / "context/link")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    capability = {"SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape")}
    odd = {"SCHILY.xattr.user.odd": "yes=\n"}
    root: dict[str, Any] = {"uid": 0, "gid": 0, "mtime": 1_000_000_000}
    (folder / "tree.tar").write_bytes(
        tar(
            member("./", kind=tarfile.DIRTYPE, **root),
            member("capable", b"\x7fELF", pax_headers=capability, mode=0o755, **root),
            member("also-capable", b"\x7fELF", pax_headers=capability, mode=0o711, **root),
            member("attributed", b"data", pax_headers=odd, **root),
            member("great-owner", b"", uid=300_000, gid=400_000, mode=0o600, mtime=1_000_000_000),
            member("early", b"", uid=3, gid=4, mtime=1),
        )
    )
    return str(folder)


@pytest.fixture
def base(minidocker: Minidocker, busybox_image: str, tmp_path: Path) -> str:
    """Return the archive of the base image, which minidocker has by the name of BASE."""
    minidocker.ok("tag", busybox_image, BASE)
    minidocker.ok("save", "-o", f"{tmp_path}/base.tar", BASE)
    return f"{tmp_path}/base.tar"


@pytest.fixture
def served(minidocker: Minidocker, tmp_path: Path) -> Iterator[str]:
    """Serve a registry with the command, and return its host."""
    host = f"127.0.0.1:{free_port()}"
    server = minidocker.start("registry", "serve", "--root", f"{tmp_path}/served", "--addr", host, stdout=-3, stderr=-3)
    deadline = time.monotonic() + 20
    while subprocess.run(["curl", "-fs", f"http://{host}/v2/"], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline and server.poll() is None, "the registry does not answer"
        time.sleep(0.05)
    yield host
    server.terminate()
    server.wait(10)


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))


def expected(tree: Tree) -> None:
    """Check what the Dockerfile asks for, so that being equal everywhere cannot mean being wrong everywhere."""
    assert (tree["tree/set-id"].mode, tree["tree/sticky"].mode) == (0o6751, 0o3777)
    assert {tree[f"tree/{name}"].owner for name in ("moved", "link")} == {(1234, 4321), (12, 34)}
    assert (tree["tree/one"].link, tree["tree/two"].link) == ("./tree/far/three", ""), "writing to a name parts it"
    assert tree["tree/fifo"].kind == tarfile.FIFOTYPE
    assert [name for name in tree if name.startswith("tree/replaced/")] == ["tree/replaced/new"]
    assert [name for name in tree if name.startswith(("tree/gone", "tree/became"))] == ["tree/became"]
    assert "etc/shadow" not in tree
    for name in ("capable", "also-capable"):
        assert "SCHILY.xattr.security.capability" in tree[f"tree/{name}"].attributes
    assert tree["tree/capable"].mode == 0o4750
    assert (tree["tree/old"].mtime, tree["tree/early"].mtime) == (981173106, 1)
    assert tree["context/sub/file"].owner == tree["context/link"].owner == (7, 8)


def config_of(document: str) -> dict[str, Any]:
    found = json.loads(document)[0]["Config"]
    return {key: found.get(key) for key in CONFIG}


def test_what_we_build_the_others_run(
    minidocker: Minidocker,
    docker: Docker,
    podman: Podman,
    docker_registry: Callable[..., DockerRegistry],
    served: str,
    base: str,
    context: str,
    listing: Lister,
    tmp_path: Path,
) -> None:
    theirs = f"{docker_registry().host}/all:1"
    ours = f"{served}/deep/path/all:1"
    minidocker.ok("build", "-t", theirs, "-t", ours, context, timeout=120)
    tree = listing(minidocker.ok, theirs)
    expected(tree)
    assert tree["tree/attributed"].attributes == {"SCHILY.xattr.user.odd": "yes=\n"}
    assert minidocker.ok("run", "--rm", theirs) == SAID
    config = config_of(minidocker.ok("inspect", theirs))
    image_id = minidocker.ok("inspect", "-f", "{{.Id}}", theirs)

    # read in place
    looked = subprocess.run(
        ["skopeo", "inspect", f"oci:{minidocker.env['MINIDOCKER_ROOT']}/images:{theirs}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(looked)["Labels"] == {"kind": "everything"}

    # pushed to both registries; each is pulled from by docker and by podman
    for name in (theirs, ours):
        assert "digest: sha256:" in minidocker.ok("push", name)
        try:
            docker.run("pull", name)
            assert docker.run("inspect", "-f", "{{.Id}}", name).stdout.strip() == image_id
            podman.run("pull", "--tls-verify=false", name)
            if name == theirs:
                assert docker.run("run", "--rm", name).stdout.strip() == SAID
                assert podman.run("run", "--rm", name).stdout.strip() == SAID
                assert config_of(docker.run("image", "inspect", name).stdout) == config
                assert unlike(listing(docker.run, name), tree) == []
                assert unlike(listing(podman.run, name) | {".": tree["."]}, tree) == []
        finally:
            docker.run("rmi", name, check=False)
            podman.run("rmi", "-f", name, check=False)

    # saved to a file that docker loads
    minidocker.ok("save", "-o", f"{tmp_path}/saved.tar", theirs)
    assert f"Loaded image: {theirs}" in docker.run("load", "-i", f"{tmp_path}/saved.tar").stdout
    try:
        assert docker.run("run", "--rm", theirs).stdout.strip() == SAID
        assert unlike(listing(docker.run, theirs), tree) == []
        docker.run("save", "-o", f"{tmp_path}/back.tar", theirs)
    finally:
        docker.run("rmi", theirs, check=False)
    minidocker.ok("rmi", theirs, ours)
    assert f"Loaded image: {theirs}" in minidocker.ok("load", "-i", f"{tmp_path}/back.tar")
    assert minidocker.ok("inspect", "-f", "{{.Id}}", theirs) == image_id
    assert unlike(listing(minidocker.ok, theirs), tree) == []


def test_what_docker_makes_we_run(
    minidocker: Minidocker, docker: Docker, served: str, base: str, context: str, listing: Lister, tmp_path: Path
) -> None:
    built, committed = f"{served}/built:1", f"{served}/committed:1"
    container = f"peers-{os.getpid()}"
    docker.run("load", "-i", base)
    try:
        docker.run("build", "-t", built, context)
        docker.run("run", "--name", container, "-u", "0", "--entrypoint", "sh", built, "-c", "rm -r dir; chmod 711 .")
        docker.run("commit", "-c", 'ENTRYPOINT ["ls","-ld"]', "-c", 'CMD ["/tree"]', container, committed)
        docker.run("push", built)
        docker.run("push", committed)
        trees = [listing(docker.run, name) for name in (built, committed)]
        docker.run("save", "-o", f"{tmp_path}/saved.tar", built, committed)
        config = config_of(docker.run("image", "inspect", built).stdout)
    finally:
        docker.run("rm", "-f", container, check=False)
        docker.run("rmi", built, committed, check=False)
    expected(trees[0])

    minidocker.ok("pull", built)
    minidocker.ok("pull", committed)
    assert minidocker.ok("run", "--rm", built) == SAID
    assert minidocker.ok("run", "--rm", committed).startswith("drwx--x--x")
    for name, tree in zip((built, committed), trees, strict=True):
        assert unlike(listing(minidocker.ok, name), tree) == []
    assert config_of(minidocker.ok("inspect", built)) == config
    minidocker.ok("rmi", built, committed)
    minidocker.ok("load", "-i", f"{tmp_path}/saved.tar")
    for name, tree in zip((built, committed), trees, strict=True):
        assert unlike(listing(minidocker.ok, name), tree) == []

    # the same Dockerfile, built here: the same tree and configuration
    minidocker.ok("build", "-t", "here", context, timeout=120)
    here, there = (as_built(tree) for tree in (listing(minidocker.ok, "here"), trees[0]))
    assert unlike(here, there) == []
    assert config_of(minidocker.ok("inspect", "here")) == config


def test_what_podman_makes_we_run(
    minidocker: Minidocker, podman: Podman, served: str, base: str, context: str, listing: Lister, tmp_path: Path
) -> None:
    name, committed = f"{served}/by/podman:1", f"{served}/by/podman:2"
    podman.run("load", "-i", base)
    podman.run("build", "--network=none", "--layers", "-t", name, context, timeout=200)
    podman.run("push", "--tls-verify=false", name)
    tree = listing(podman.run, name)
    tree["."] = tree["."]._replace(mode=0o755)  # podman takes away the right to write to a container's root folder
    expected(tree)
    podman.run("run", "--name", "changed", "--network=none", "-u", "0", "--entrypoint", "rm", name, "-r", "/tree/dir")
    podman.run("commit", "changed", committed)
    podman.run("push", "--tls-verify=false", committed)
    podman.run("rm", "changed")
    podman.run("save", "--format", "oci-archive", "-o", f"{tmp_path}/oci.tar", name)
    podman.run("save", "--format", "docker-archive", "-o", f"{tmp_path}/docker.tar", name)
    podman.run("rmi", name, committed)

    minidocker.ok("pull", committed)
    assert tree.keys() - listing(minidocker.ok, committed).keys() == {"tree/dir", "tree/dir/in"}
    minidocker.ok("pull", name)
    assert minidocker.ok("run", "--rm", name) == SAID
    assert unlike(listing(minidocker.ok, name), tree) == []
    for form in ("oci", "docker"):
        minidocker.ok("rmi", name)
        assert f"Loaded image: {name}" in minidocker.ok("load", "-i", f"{tmp_path}/{form}.tar")
        assert minidocker.ok("run", "--rm", name) == SAID
        assert unlike(listing(minidocker.ok, name), tree) == []


def test_an_image_for_several_platforms(
    minidocker: Minidocker, podman: Podman, docker: Docker, served: str, tmp_path: Path
) -> None:
    name = f"{served}/many:1"
    podman.run("manifest", "create", "many")
    for platform in ("amd64", "arm64", "arm/v7"):
        architecture, _, variant = platform.partition("/")
        (tmp_path / "one.tar").write_bytes(tar(member("platform", platform.encode())))
        more = ["--variant", variant] if variant else []
        podman.run("import", "--arch", architecture, *more, f"{tmp_path}/one.tar", f"localhost/{architecture}")
        image = f"containers-storage:localhost/{architecture}"
        podman.run("manifest", "add", "--arch", architecture, *more, "many", image)
    podman.run("manifest", "push", "--all", "--tls-verify=false", "many", f"docker://{name}")
    podman.run("manifest", "rm", "many")

    def file_of(container: str) -> str:
        minidocker.ok("cp", f"{container}:/platform", f"{tmp_path}/platform")
        minidocker.ok("rm", container)
        return (tmp_path / "platform").read_text()

    own = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    ids = set()
    for platform in ("", "linux/arm64", "linux/arm/v7", "linux/amd64"):
        option = ["--platform", platform] if platform else []
        minidocker.ok("pull", *option, name)
        wanted = platform.removeprefix("linux/") or own
        shown = minidocker.ok("inspect", "-f", "{{.Os}}/{{.Architecture}} {{.Id}}", name).split()
        assert shown[0] == f"linux/{wanted.partition('/')[0]}"
        ids.add(shown[1])
        assert file_of(minidocker.ok("create", name, "x")) == wanted
    assert len(ids) == 3
    theirs = docker.run("pull", "--platform", "linux/s390x", name, check=False)
    ours = minidocker("pull", "--platform", "linux/s390x", name)
    assert theirs.returncode == ours.returncode == 1
    assert "no matching manifest for linux/s390x in the manifest list entries" in ours.stderr
    assert "no matching manifest for linux/s390x in the manifest list entries" in theirs.stderr
    assert minidocker.ok("inspect", "-f", "{{.Architecture}}", name) == "amd64", "a failed pull takes nothing away"

    # by skopeo, into our registry and out of it, whole
    plain = ("--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "--all")
    subprocess.run(["skopeo", "copy", *plain, f"docker://{name}", f"docker://{served}/copied:1"], check=True)
    minidocker.ok("pull", "--platform", "linux/arm64", f"{served}/copied:1")
    assert file_of(minidocker.ok("create", f"{served}/copied:1", "x")) == "arm64"


def test_exports_and_imports_go_round(
    minidocker: Minidocker, docker: Docker, base: str, listing: Lister, tmp_path: Path
) -> None:
    """A container of ours exported, imported by docker, exported again and imported here: the tree stays as it is."""
    script = "mkdir /e; cd /e; echo x > a; ln a b; chmod 4711 a; mkfifo p; chown 3:4 p; rm -r /home /etc/group"
    minidocker.ok("run", "--name", "first", BASE, "sh", "-c", script)
    minidocker.ok("export", "-o", f"{tmp_path}/first.tar", "first")
    name = f"exported-{os.getpid()}"
    try:
        docker.run("import", f"{tmp_path}/first.tar", name)
        theirs = listing(docker.run, name)
        container = docker.run("create", name, "x").stdout.strip()
        docker.run("export", "-o", f"{tmp_path}/second.tar", container)
        docker.run("rm", container)
    finally:
        docker.run("rmi", name, check=False)
    with open(f"{tmp_path}/second.tar", "rb") as file:
        done = minidocker.start("import", "-", name, stdin=file, stdout=subprocess.DEVNULL)
        assert done.wait(60) == 0
    minidocker.ok("commit", "first", "committed")
    assert unlike(listing(minidocker.ok, name), theirs) == []
    assert unlike(listing(minidocker.ok, "committed"), theirs) == []
    assert theirs["e/b"].link == "./e/a"
    assert (theirs["e/a"].mode, theirs["e/p"].owner) == (0o4711, (3, 4))
    assert "etc/group" not in theirs and "home" not in theirs
