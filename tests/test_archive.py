"""save, load and import: with docker, podman and skopeo on the other side; hostile and broken archives."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from imagekit import add_image, member, tar
from minidocker.errors import DigestMismatch, ImageNotFound, InvalidManifest, MinidockerError, UnsafeLayer
from minidocker.image import oci
from minidocker.image.archive import Loaded, import_rootfs, load, save
from minidocker.image.layers import TarReader, decompressed, unpack
from minidocker.image.oci import Platform, digest_of
from minidocker.image.reference import parse
from minidocker.image.store import Image, ImageStore
from minidocker.progress import Progress
from test_overlay import SCRIPT, make_base, mounted
from trees import make_everything, snapshot


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "store"))


@pytest.fixture
def other(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "other"))


def saved(store: ImageStore, *names: str) -> bytes:
    out = io.BytesIO()
    save(store, names, out)
    return out.getvalue()


def loaded(store: ImageStore, data: bytes) -> list[Loaded]:
    return load(store, io.BytesIO(data))


def files(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {info.name: archive.extractfile(info) for info in archive}
        return {name: file.read() for name, file in found.items() if file}


def left(store: ImageStore) -> list[str]:
    """Return what an unfinished command has left in the store."""
    folders = [folder for folder in (store.layout.ingest, store.unpacked.path) if os.path.isdir(folder)]
    names = [name for folder in folders for name in os.listdir(folder)]
    return [name for name in names if len(name.partition(".")[0]) != 64 or name.endswith(".tmp")]


# Saving and loading our own


def test_an_image_comes_back_as_it_was(store: ImageStore, other: ImageStore) -> None:
    image = add_image(store, "busybox", "busybox:1", layers=("a", "b"), Env=["X=ä"])
    data = saved(store, "busybox:latest", "busybox:1")
    assert saved(store, "busybox") == data
    [result] = loaded(other, data)
    assert result.image == image
    assert {reference.familiar for reference in result.references} == {"busybox:latest", "busybox:1"}
    assert other.config(result.image) == store.config(image)
    assert other.get("busybox:1").id == image.id
    assert left(other) == []


def test_several_images_and_none_twice(store: ImageStore, other: ImageStore) -> None:
    one = add_image(store, "one", layers=("a", "b"))
    two = add_image(store, "two", "two:also", layers=("a", "c"))
    data = saved(store, "one", "two:also", "two:also")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))
    assert {result.image.id for result in loaded(other, data)} == {one.id, two.id}
    assert sorted(tag for image in other.images() for tag in image.tags) == [
        "docker.io/library/one:latest",
        "docker.io/library/two:also",
    ]


def test_an_id_is_saved_without_names(store: ImageStore, other: ImageStore) -> None:
    image = add_image(store, "busybox")
    for name in (image.short_id, image.id, image.id.removeprefix("sha256:")):
        data = saved(store, name)
        assert json.loads(files(data)["manifest.json"])[0]["RepoTags"] is None
        assert loaded(other, data) == [Loaded(image._replace(tags=()), ())]
    with pytest.raises(ImageNotFound):
        saved(store, "nothing")


@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_compressed_archive(store: ImageStore, other: ImageStore, squeeze: Callable[[bytes], bytes]) -> None:
    image = add_image(store, "busybox")
    assert loaded(other, squeeze(saved(store, "busybox")))[0].image.id == image.id


def test_progress_is_told(store: ImageStore, other: ImageStore) -> None:
    image = add_image(store, "busybox")
    told: list[Progress] = []
    load(other, io.BytesIO(saved(store, "busybox")), told.append)
    diff_id = store.config(image).diff_ids[0]
    assert {(news.id, news.status) for news in told} == {(diff_id[7:19], "Loading layer")}


# Docker's format alone


def docker_archive(
    *tags: str, layers: tuple[bytes, ...] = (tar(member("x", b"x")),), **changes: Any
) -> dict[str, bytes]:
    """Return the files of an archive as docker 20.10 writes it: every layer in a folder with two more files."""
    config = {"os": "linux", "architecture": "amd64", "config": {}, "history": []}
    config["rootfs"] = {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}
    data = json.dumps(config).encode()
    name = digest_of(data).removeprefix("sha256:") + ".json"
    folders = [digest_of(layer)[7:] for layer in layers]
    found = {f"{folder}/layer.tar": layer for folder, layer in zip(folders, layers, strict=True)}
    found |= {f"{folder}/VERSION": b"1.0" for folder in folders} | {"repositories": b"{}", name: data}
    entry = {"Config": name, "RepoTags": list(tags) or None, "Layers": [f"{folder}/layer.tar" for folder in folders]}
    return found | {"manifest.json": json.dumps([entry | changes]).encode()}


def as_tar(found: dict[str, bytes]) -> bytes:
    return tar(*(member(name, data) for name, data in found.items()))


def test_dockers_archive(other: ImageStore) -> None:
    found = docker_archive("busybox:latest", "localhost:5000/x:y")
    [result] = loaded(other, as_tar(found))
    assert [reference.familiar for reference in result.references] == ["busybox:latest", "localhost:5000/x:y"]
    assert f"{result.image.id[7:]}.json" in found
    assert Path(other.layer_path(other.config(result.image).diff_ids[0]), "x").read_text() == "x"


def test_layers_that_are_links_or_compressed(other: ImageStore) -> None:
    layers = (tar(member("x", b"x")), tar(member("y", b"y")), tar(member("x", b"x")))
    found = docker_archive(layers=layers)
    paths = ["one/layer.tar", "two.tar.gz", "three/layer.tar"]
    entry = json.loads(found["manifest.json"])[0] | {"Layers": paths}
    archive = tar(
        member(entry["Config"], found[entry["Config"]]),
        member("one/layer.tar", layers[0]),
        member("two.tar.gz", gzip.compress(layers[1])),
        member("three/layer.tar", kind=tarfile.SYMTYPE, linkname="../one/layer.tar"),
        member("manifest.json", json.dumps([entry]).encode()),
    )
    [result] = loaded(other, archive)
    manifest = other.manifest(result.image)
    assert {layer.media_type for layer in manifest.layers} == {oci.LAYER_GZIP}
    assert manifest.layers[0] == manifest.layers[2]


@pytest.mark.parametrize(
    ("found", "error", "words"),
    [
        ({"x": b"x"}, InvalidManifest, "neither docker's manifest.json nor an OCI layout"),
        ({}, InvalidManifest, "use import"),
        ({"manifest.json": b"{"}, InvalidManifest, "manifest.json is broken"),
        ({"manifest.json": b"[{}]"}, InvalidManifest, "manifest.json is broken"),
        ({"manifest.json": b"3"}, InvalidManifest, "manifest.json is broken"),
        (docker_archive(Config="nothing.json"), InvalidManifest, "cannot give 'nothing.json', which it names itself"),
        (docker_archive(Config="../../../../../etc/passwd"), InvalidManifest, "cannot give"),
        (docker_archive(Config="a\0b"), InvalidManifest, "cannot give"),
        (docker_archive(Config="repositories"), InvalidManifest, "describes 0 layers"),
        (docker_archive(Config="manifest.json"), InvalidManifest, "not a JSON object"),
        (docker_archive(Layers=["nothing"]), InvalidManifest, "cannot give 'nothing'"),
        (docker_archive(Layers=["."]), InvalidManifest, "cannot give '.'"),
        (docker_archive(Layers=["repositories"]), UnsafeLayer, "unexpected end of layer"),
        (docker_archive(Layers=[]), InvalidManifest, "describes 1 layers"),
        (docker_archive("Bad Name"), MinidockerError, "invalid reference format"),
        ({"oci-layout": b"{}", "index.json": b"{}"}, InvalidManifest, "schemaVersion"),
    ],
)
def test_bad_archives(other: ImageStore, found: dict[str, bytes], error: type[MinidockerError], words: str) -> None:
    with pytest.raises(error, match=words):
        loaded(other, as_tar(found))
    assert other.images() == []
    assert left(other) == []


def test_a_layer_that_is_not_what_the_configuration_says(other: ImageStore) -> None:
    found = docker_archive()
    name = next(name for name in found if name.endswith("layer.tar"))
    found[name] = tar(member("other", b"other"))
    with pytest.raises(DigestMismatch, match="but its image says"):
        loaded(other, as_tar(found))
    assert other.images() == []


def test_a_blob_that_is_not_its_name(store: ImageStore, other: ImageStore) -> None:
    image = add_image(store, "busybox")
    found = files(saved(store, "busybox"))
    layer = store.manifest(image).layers[0]
    found[f"blobs/sha256/{layer.hex}"] = b"x" * layer.size
    with pytest.raises(DigestMismatch):
        loaded(other, as_tar(found))


def test_no_archive(other: ImageStore) -> None:
    with pytest.raises(UnsafeLayer, match="broken archive"):
        loaded(other, b"this is a text" * 100)
    with pytest.raises(UnsafeLayer, match="unexpected end of layer"):
        loaded(other, gzip.compress(as_tar(docker_archive()))[:-20])
    with pytest.raises(UnsafeLayer, match="leads out"):
        loaded(other, tar(member("../x", b"x")))


# Importing


def test_importing_a_root_file_system(store: ImageStore) -> None:
    archive = tar(member("bin", kind=tarfile.DIRTYPE), member("bin/sh", b"#!", mode=0o755))
    config = {"Cmd": ["sh"], "Env": ["A=b"]}
    image = import_rootfs(
        store, io.BytesIO(archive), parse("mine"), config, "made by hand", Platform("linux", "arm", "v7")
    )
    assert image.tags == ("docker.io/library/mine:latest",)
    assert image.size == 2
    found = store.config(image)
    assert found.config == config
    assert found.diff_ids == (digest_of(archive),)
    assert found.history[0]["comment"] == "made by hand"
    assert str(found.platform) == "linux/arm/v7"
    assert Path(store.layer_path(found.diff_ids[0]), "bin/sh").read_text() == "#!"
    blob = store.manifest(image).layers[0]
    assert gzip.decompress(store.layout.read_blob(blob.digest)) == archive


def test_importing_from_a_pipe_whatever_the_compression(store: ImageStore) -> None:
    archive = tar(member("x", os.urandom(300_000)))
    for squeeze in (bytes, gzip.compress, zstandard.compress):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
            assert cat.stdin is not None
            assert isinstance(cat.stdout, io.BufferedReader)
            sender = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=cat.stdin)
            cat.stdin.close()
            assert sender.stdin is not None
            reader_pid = os.fork()
            if reader_pid == 0:
                try:
                    sender.stdin.write(squeeze(archive))
                    sender.stdin.close()
                finally:
                    os._exit(0)
            sender.stdin.close()
            image = import_rootfs(store, cat.stdout)
            os.waitpid(reader_pid, 0)
            sender.wait()
        assert store.config(image).diff_ids == (digest_of(archive),)
        assert image.tags == ()


@pytest.mark.parametrize("data", [b"rubbish" * 500, tar(member("x", bytes(9000)))[:5000], tar(member("../x"))])
def test_a_bad_import_leaves_nothing(store: ImageStore, data: bytes) -> None:
    with pytest.raises(UnsafeLayer):
        import_rootfs(store, io.BytesIO(data), parse("x"))
    assert store.images() == []
    assert left(store) == []
    assert list(store.layout.blobs()) == []


def test_a_full_disk(store: ImageStore) -> None:
    """A file size limit stands in for a full disk: both fail in write(2)."""
    program = (
        "import io, os, resource, signal, sys, tarfile\n"
        "from minidocker.image.archive import import_rootfs\n"
        "from minidocker.image.store import ImageStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "info = tarfile.TarInfo('x'); info.size = 3 << 20\n"
        "data = info.tobuf() + os.urandom(3 << 20) + bytes(1024)\n"
        "try: import_rootfs(ImageStore(sys.argv[1]), io.BytesIO(data))\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, store.root], capture_output=True, text=True, check=False)
    assert done.stdout == "File too large\n", done.stderr
    assert left(store) == []
    assert list(store.layout.blobs()) == []


# With the others


def make_image(store: ImageStore, tmp_path: Path, name: str) -> Image:
    """Add an image of two layers to the store: a system that runs, and a layer with whiteouts and everything."""
    root, upper_parent = tmp_path / "root", tmp_path / "second"
    make_base(str(root))
    (root / "bin").mkdir()
    shutil.copy2("/bin/busybox", root / "bin" / "sh")
    for applet in "rm mkdir chmod chown ln mv touch mknod mkfifo".split():
        os.symlink("sh", root / "bin" / applet)
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.add(root, ".")
    with open(tmp_path / "root.tar", "rb") as file:
        base = import_rootfs(store, file, parse(f"{name}-base"), {"Cmd": ["/bin/sh"]})
    upper_parent.mkdir()
    config = store.config(base)
    with mounted(upper_parent, [store.layer_path(config.diff_ids[0])]) as (upper, merged):
        subprocess.run(["sh", "-ec", SCRIPT], cwd=merged, check=True)
        os.mkdir(f"{merged}/everything")
        make_everything(f"{merged}/everything", user_attributes=False)
        os.utime(f"{merged}/everything/empty", (0, 0))
    from minidocker.image.layers import write_layer

    layer = write_layer(store.layout, upper)
    store.adopt(upper, layer.diff_id, layer.size)
    raw = config.raw | {"rootfs": {"type": "layers", "diff_ids": [*config.diff_ids, layer.diff_id]}}
    raw["history"] = [*config.history, {"created": config.created, "created_by": "SCRIPT"}]
    blobs = [*store.manifest(base).layers, layer.blob]
    return store.create(oci.ImageConfig(raw), blobs, [parse(name)], base.id)


def tree_of(store: ImageStore, image: Image, folder: Path) -> Any:
    """Return the facts of an image's whole tree, as a container would see it."""
    folder.mkdir()
    lowers = [store.layer_path(diff_id) for diff_id in reversed(store.config(image).diff_ids)]
    with mounted(folder, lowers) as (_, merged):
        return snapshot(merged)


def exported(peer: Any, image: str, tmp_path: Path) -> Any:
    """Return the facts of the tree that docker or podman has for an image."""
    container = peer.run("create", image, "/bin/sh").stdout.strip()
    out = tmp_path / f"export-{container[:8]}"
    peer.run("export", "-o", f"{out}.tar", container)
    peer.run("rm", container)
    out.mkdir()
    with open(f"{out}.tar", "rb") as file:
        unpack(TarReader(decompressed(file)), str(out))
    return snapshot(str(out))


def without_what_docker_adds(tree: Any) -> Any:
    added = {".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "proc", "sys", "run", "etc"}
    added |= {"etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"}
    return {path: facts for path, facts in tree.items() if path not in added}


@pytest.mark.peers
def test_docker_loads_what_we_save_and_we_load_what_docker_saves(
    store: ImageStore, other: ImageStore, docker: Any, tmp_path: Path
) -> None:
    name = f"whole-{os.getpid()}"
    image = make_image(store, tmp_path, name)
    tree = without_what_docker_adds(tree_of(store, image, tmp_path / "ours"))
    with open(tmp_path / "ours.tar", "wb") as file:
        save(store, [name, f"{name}-base"], file)
    told = docker.run("load", "-i", str(tmp_path / "ours.tar")).stdout
    assert sorted(told.splitlines()) == [f"Loaded image: {name}-base:latest", f"Loaded image: {name}:latest"]
    try:
        assert docker.run("inspect", "-f", "{{.Id}}", name).stdout.strip() == image.id
        assert without_what_docker_adds(exported(docker, name, tmp_path)) == tree
        docker.run("save", "-o", str(tmp_path / "theirs.tar"), name, f"{name}-base")
    finally:
        docker.run("rmi", name, f"{name}-base")
    with open(tmp_path / "theirs.tar", "rb") as file:
        results = load(other, file)
    assert {result.image.id for result in results} == {image.id, store.get(f"{name}-base").id}
    assert other.get(name).manifest == image.manifest, "the same layers, compressed again, are the same blobs"
    assert without_what_docker_adds(tree_of(other, other.get(name), tmp_path / "loaded")) == tree


@pytest.mark.peers
def test_what_docker_commits_is_loaded(store: ImageStore, docker: Any, tmp_path: Path) -> None:
    name = f"commit-{os.getpid()}"
    make_image(store, tmp_path, name)
    with open(tmp_path / "base.tar", "wb") as file:
        save(store, [f"{name}-base"], file)
    docker.run("load", "-i", str(tmp_path / "base.tar"))
    try:
        create = ["create", "--network=none", "-w", "/", f"{name}-base", "/bin/sh", "-ec", SCRIPT]
        container = docker.run(*create).stdout.strip()
        docker.run("start", "-a", container)
        docker.run("commit", container, f"{name}-committed")
        docker.run("rm", container)
        docker.run("save", "-o", str(tmp_path / "theirs.tar"), f"{name}-committed")
        tree = without_what_docker_adds(exported(docker, f"{name}-committed", tmp_path))
    finally:
        docker.run("rmi", "-f", f"{name}-committed", f"{name}-base")
    with open(tmp_path / "theirs.tar", "rb") as file:
        [result] = load(store, file)
    assert without_what_docker_adds(tree_of(store, result.image, tmp_path / "committed")) == tree


@pytest.mark.peers
def test_podman_loads_what_we_save_and_we_load_what_podman_saves(
    store: ImageStore, other: ImageStore, podman: Any, tmp_path: Path
) -> None:
    name = "localhost/whole:v1"
    image = make_image(store, tmp_path, name)
    tree = without_what_docker_adds(tree_of(store, image, tmp_path / "ours"))
    with open(tmp_path / "ours.tar", "wb") as file:
        save(store, [name], file)
    podman.run("load", "-i", str(tmp_path / "ours.tar"))
    assert podman.run("inspect", "-f", "{{.Id}}", name).stdout.strip() == image.id.removeprefix("sha256:")
    assert without_what_docker_adds(exported(podman, name, tmp_path)) == tree
    for form in ("docker-archive", "oci-archive"):
        target = tmp_path / f"{form}.tar"
        podman.run("save", "--format", form, "-o", str(target), name)
        with open(target, "rb") as file:
            [result] = load(other, file)
        assert [reference.familiar for reference in result.references] == [name]
        assert without_what_docker_adds(tree_of(other, result.image, tmp_path / form)) == tree
    podman.run("rmi", name)


@pytest.mark.peers
def test_skopeo_reads_what_we_save_both_ways(store: ImageStore, tmp_path: Path) -> None:
    image = add_image(store, "busybox", layers=("a", "b"))
    (tmp_path / "ours.tar").write_bytes(saved(store, "busybox"))
    for place in ("docker-archive", "oci-archive"):
        name = "busybox:latest" if place == "docker-archive" else image.tags[0]
        argv = ["skopeo", "inspect", "--config", "--raw", f"{place}:{tmp_path}/ours.tar:{name}"]
        done = subprocess.run(argv, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert digest_of(done.stdout) == image.id
