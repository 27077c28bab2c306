"""The image store: names, docker's rules for removal, collection; killed, damaged, and with several at work."""

import fcntl
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from imagekit import add_image, add_layer, index_of, member, tar
from minidocker.errors import (
    AmbiguousPrefix,
    Conflict,
    DigestMismatch,
    ImageNotFound,
    InvalidManifest,
    InvalidReference,
)
from minidocker.image import archive, oci
from minidocker.image.catalog import Image
from minidocker.image.oci import Descriptor, ImageConfig, digest_of
from minidocker.image.reference import parse
from minidocker.image.store import ImageStore, Usage
from minidocker.image.unpacked import GET_FLAGS, TOP_FOLDER

BUSYBOX = "docker.io/library/busybox:latest"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path))


def content(store: ImageStore) -> set[str]:
    return {*store.layout.blobs(), *store.unpacked.all()}


def digest_ref(name: str, image: Image) -> str:
    return f"{name}@{image.manifest.digest}"


def running(image: Image, running: bool = True) -> Usage:
    return Usage("c0ffee" * 10 + "beef", image.id, running)


# Names


def test_an_empty_store_is_no_files(store: ImageStore) -> None:
    assert store.images() == []
    assert os.listdir(store.root) == []
    with pytest.raises(ImageNotFound, match="no such image: busybox:latest"):
        store.get("busybox")


def test_an_image_is_found_by_all_its_names(store: ImageStore) -> None:
    image = add_image(store, "busybox", "other/name:1")
    image = store.tag(image, parse(digest_ref("busybox", image)))
    digits = image.id.removeprefix("sha256:")
    names = [
        "busybox",
        BUSYBOX,
        "other/name:1",
        digest_ref("busybox", image),
        image.id,
        digits,
        digits[:12],
        digits[:3],
    ]
    for name in [*names, f"sha256:{digits[:7]}", f"busybox:wrong-tag@{image.manifest.digest}"]:
        assert store.get(name).id == image.id, name
    assert store.get("busybox") == image
    assert image.tags == (BUSYBOX, "docker.io/other/name:1")
    assert image.digests == (f"docker.io/library/busybox@{image.manifest.digest}",)
    for name in ("busybox:1", "other/name", "f" * 64, "sha256:" + "f" * 64):
        with pytest.raises(ImageNotFound, match="no such image"):
            store.get(name)
    with pytest.raises(InvalidReference):
        store.get("BusyBox")


def test_an_ambiguous_prefix(store: ImageStore) -> None:
    for number in range(40):
        add_image(store, str(number))
        add_image(store, f"image:{number}", Env=[str(number)])
    ids = sorted(image.id.removeprefix("sha256:") for image in store.images())
    twice = next(a[:1] for a, b in pairwise(ids) if a[0] == b[0] and not a[0].isdigit())
    with pytest.raises(AmbiguousPrefix, match=f"{twice} is the beginning of"):
        store.get(twice)


def test_the_index_holds_everything_that_a_table_shows(store: ImageStore) -> None:
    base = add_image(store, "base")
    image = add_image(store, "busybox", layers=("a", "bcd"), parent=base.id, created="2025-05-05T05:05:05.5Z")
    assert image.size == len("a") + len("bcd")
    for blob in list(store.layout.blobs()):
        store.layout.delete_blob(blob)
    assert store.images() == [image, base]
    entry = next(
        e for e in index_of(store)["manifests"] if e["annotations"].get("org.opencontainers.image.ref.name") == BUSYBOX
    )
    assert entry["annotations"] == {
        "org.opencontainers.image.ref.name": BUSYBOX,
        "io.minidocker.id": image.id,
        "io.minidocker.parent": base.id,
        "io.minidocker.created": "2025-05-05T05:05:05.5Z",
        "io.minidocker.size": "4",
    }


def test_a_tag_moves_and_leaves_its_image_without_a_name(store: ImageStore) -> None:
    old = add_image(store, "busybox")
    new = add_image(store, "busybox", layers=("b",))
    assert store.get("busybox").id == new.id
    assert store.get(old.id).references == ()
    assert [image.id for image in store.dangling()] == [old.id]
    store.tag(old, parse("busybox"))
    assert store.get("busybox").id == old.id


def test_the_newest_image_is_first(store: ImageStore) -> None:
    times = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.25Z", "2023-12-31T23:59:59.999Z", ""]
    for number, created in enumerate(times):
        add_image(store, f"image:{number}", created=created, Env=[str(number)])
    assert [image.tags[0][-1] for image in store.images()] == ["1", "0", "2", "3"]


def test_intermediate_images_are_hidden(store: ImageStore) -> None:
    base = add_image(store, "base")
    step = add_image(store, parent=base.id, Env=["1"])
    final = add_image(store, "final", parent=step.id, Env=["2"])
    orphan = add_image(store, parent=step.id, Env=["3"])
    assert {image.id for image in store.images()} == {base.id, step.id, final.id, orphan.id}
    assert {image.id for image in store.images(intermediate=False)} == {base.id, final.id, orphan.id}
    assert [image.id for image in store.dangling()] == [orphan.id]
    assert {image.id for image in store.children(step.id)} == {final.id, orphan.id}
    assert add_image(store, "again", parent="", Env=["2"]).parent == step.id


def test_adding_checks_what_an_image_needs(store: ImageStore) -> None:
    blob, diff_id = add_layer(store, tar(member("x", b"x")))
    missing = Descriptor(oci.LAYER_GZIP, digest_of(b"missing"), 7)
    raw = {"rootfs": {"diff_ids": [diff_id]}}
    with pytest.raises(InvalidManifest, match="has 0 layers but describes 1"):
        store.create(ImageConfig(raw), [])
    with pytest.raises(InvalidManifest, match="is not in the store"):
        store.create(ImageConfig(raw), [missing])
    with pytest.raises(InvalidManifest, match="is not unpacked"):
        store.create(ImageConfig({"rootfs": {"diff_ids": [digest_of(b"missing")]}}), [blob])
    assert store.images() == []


def test_a_thousand_images_are_listed_fast(store: ImageStore) -> None:
    image = add_image(store, "one")
    with store.layout.update_index() as entries:
        for number in range(1000):
            facts = {"org.opencontainers.image.ref.name": f"docker.io/library/i:{number}"}
            facts |= {
                "io.minidocker.id": digest_of(str(number).encode()),
                "io.minidocker.created": "2024-01-01T00:00:00Z",
            }
            entries.append(image.manifest._replace(annotations=facts))
    started = time.process_time()  # not by the clock on the wall: other tests run beside
    assert len(store.images()) == 1001
    assert time.process_time() - started < 0.5


def test_entries_of_others_are_kept(store: ImageStore) -> None:
    add_image(store, "busybox")
    theirs = Descriptor(oci.MANIFEST, store.layout.add_blob(b"{}"), 2, {"org.opencontainers.image.ref.name": "theirs"})
    with store.layout.update_index() as entries:
        entries.append(theirs)
    add_image(store, "other")
    store.remove("busybox")
    store.collect()
    assert theirs in store.layout.index()
    assert store.layout.has_blob(theirs.digest)


# Removing


def test_removing_the_last_name_deletes_the_image(store: ImageStore) -> None:
    image = add_image(store, "busybox", layers=("a", "b"))
    image = store.tag(image, parse(digest_ref("busybox", image)))
    diff_ids = store.config(image).diff_ids
    chain = oci.chain_ids(diff_ids)
    assert store.remove("busybox") == [
        "Untagged: busybox:latest",
        f"Untagged: busybox@{image.manifest.digest}",
        f"Deleted: {image.id}",
        f"Deleted: {chain[1]}",
        f"Deleted: {chain[0]}",
    ]
    assert content(store) == set()
    assert store.images() == []
    assert os.listdir(store.unpacked.path) == []


def test_removing_one_of_two_names_only_untags(store: ImageStore) -> None:
    image = add_image(store, "busybox", "busybox:1", "other")
    store.tag(image, parse(digest_ref("busybox", image)))
    assert store.remove("busybox") == ["Untagged: busybox:latest"]
    assert store.remove("busybox:1") == ["Untagged: busybox:1", f"Untagged: busybox@{image.manifest.digest}"]
    assert store.get("other").references == ("docker.io/library/other:latest",)


def test_removing_by_id(store: ImageStore) -> None:
    image = add_image(store, "busybox")
    store.tag(image, parse(digest_ref("busybox", image)))
    lines = store.remove(image.short_id)
    assert lines[:3] == [
        "Untagged: busybox:latest",
        f"Untagged: busybox@{image.manifest.digest}",
        f"Deleted: {image.id}",
    ]


def test_removing_by_id_what_has_several_names_needs_force(store: ImageStore) -> None:
    image = add_image(store, "busybox", "busybox:1")
    words = rf"^conflict: unable to delete {image.short_id} \(must be forced\) - image is referenced in multiple repos"
    with pytest.raises(Conflict, match=words):
        store.remove(image.short_id)
    assert store.remove(image.short_id, force=True)[:2] == ["Untagged: busybox:latest", "Untagged: busybox:1"]
    assert store.images() == []


def test_removing_by_digest(store: ImageStore) -> None:
    image = add_image(store, "busybox")
    store.tag(image, parse(digest_ref("busybox", image)))
    assert store.remove(digest_ref("busybox", image)) == [f"Untagged: busybox@{image.manifest.digest}"]
    assert store.get("busybox").digests == ()


def test_a_shared_layer_stays(store: ImageStore) -> None:
    add_image(store, "one", layers=("a", "b"))
    two = add_image(store, "two", layers=("a", "c"))
    lines = store.remove("one")
    assert len([line for line in lines if line.startswith("Deleted")]) == 2
    assert {*store.config(two).diff_ids} == {*store.unpacked.all()}
    assert all(store.layout.has_blob(layer.digest) for layer in store.manifest(two).layers)


@pytest.mark.parametrize("is_running", [True, False])
def test_an_image_that_a_container_uses_is_kept(store: ImageStore, is_running: bool) -> None:
    image = add_image(store, "busybox")
    usage = running(image, is_running)
    words = (
        r'^conflict: unable to remove repository reference "busybox" \(must force\) - '
        rf"container c0ffeec0ffee is using its referenced image {image.short_id}$"
    )
    with pytest.raises(Conflict, match=words):
        store.remove("busybox", usages=lambda: [usage])
    forced = "cannot be forced" if is_running else "must be forced"
    state = "running" if is_running else "stopped"
    words = rf"^conflict: unable to delete {image.short_id} \({forced}\) - "
    words += f"image is being used by {state} container c0ffeec0ffee$"
    with pytest.raises(Conflict, match=words):
        store.remove(image.short_id, usages=lambda: [usage])
    assert store.get("busybox").id == image.id


def test_force_against_containers(store: ImageStore) -> None:
    image = add_image(store, "busybox")
    diff_id = store.config(image).diff_ids[0]
    assert store.remove("busybox", force=True, usages=lambda: [running(image)]) == ["Untagged: busybox:latest"]
    assert store.get(image.id).tags == ()
    stopped = running(image, False)._replace(layers=(diff_id,))
    assert store.remove(image.id, force=True, usages=lambda: [stopped]) == [f"Deleted: {image.id}"]
    assert store.unpacked.all() == [diff_id]
    assert store.collect(lambda: [stopped]).deleted == []
    assert store.collect().deleted == [diff_id]


def test_parents_that_nothing_needs_go_too(store: ImageStore) -> None:
    base = add_image(store, "base")
    step = add_image(store, layers=("a", "b"), parent=base.id)
    final = add_image(store, "final", layers=("a", "b", "c"), parent=step.id)
    deleted = [line for line in store.remove("final") if line.startswith("Deleted")]
    chain = oci.chain_ids([*_diff_ids("a", "b", "c")])
    assert deleted == [f"Deleted: {final.id}", f"Deleted: {chain[2]}", f"Deleted: {step.id}", f"Deleted: {chain[1]}"]
    assert [image.id for image in store.images()] == [base.id]


def _diff_ids(*texts: str) -> list[str]:
    return [digest_of(tar(member(f"file-{text}", text.encode()))) for text in texts]


def test_an_image_with_children_is_kept(store: ImageStore) -> None:
    base = add_image(store, "base")
    child = add_image(store, "child", parent=base.id, Env=["1"])
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image has dependent child images"):
        store.remove(base.short_id, force=True)
    assert store.remove("base") == ["Untagged: base:latest"]
    assert [image.id for image in store.images(intermediate=False)] == [child.id]
    assert store.remove("child")[-3:-1] == [f"Deleted: {child.id}", f"Deleted: {base.id}"]


def test_removing_what_is_not_there(store: ImageStore) -> None:
    add_image(store, "busybox")
    with pytest.raises(ImageNotFound, match="no such image: other:latest"):
        store.remove("other")


# Collecting


def test_collecting_keeps_what_images_need(store: ImageStore) -> None:
    add_image(store, "busybox", layers=("a", "b"))
    before = content(store)
    garbage = store.layout.add_blob(b"garbage")
    blob, diff_id = add_layer(store, tar(member("x", b"12345")))
    result = store.collect()
    assert set(result.deleted) == {garbage, blob.digest, diff_id}
    assert result.size == len(b"garbage") + blob.size + 5
    assert content(store) == before


def test_what_is_being_added_is_not_collected(store: ImageStore) -> None:
    other = add_image(store, "other")
    with ThreadPoolExecutor() as pool:
        with store.adding():
            blob, diff_id = add_layer(store, tar(member("x", b"12345")))
            collecting = pool.submit(store.collect)
            assert store.remove("other")[0] == "Untagged: other:latest"
            time.sleep(0.1)
            assert not collecting.done()
            assert store.layout.has_blob(other.manifest.digest), "left to the next collection"
            store.create(ImageConfig({"rootfs": {"diff_ids": [diff_id]}}), [blob], [parse("new")])
        assert other.id in collecting.result(10).deleted
    assert store.has_layer(diff_id)


def test_leftovers_of_killed_commands_are_swept(store: ImageStore) -> None:
    image = add_image(store, "busybox")
    folder = Path(store.unpacked.path)
    (folder / ("0" * 64 + ".tmp") / "deep").mkdir(parents=True)
    (folder / ("1" * 64 + ".size")).write_text("5")
    (folder / ("2" * 64 + ".lock")).touch()
    (folder / "import-x.tmp").mkdir()
    (Path(store.layout.ingest) / "x.tmp").touch()
    (Path(store.layout.ingest) / "load-x").mkdir()
    store.collect()
    digits = store.config(image).diff_ids[0].removeprefix("sha256:")
    assert sorted(os.listdir(folder)) == [digits, f"{digits}.size"]
    assert os.listdir(store.layout.ingest) == []


def test_a_damaged_image_can_be_removed_and_stops_nobody(store: ImageStore) -> None:
    whole = add_image(store, "whole", layers=("a",))
    damaged = add_image(store, "damaged", layers=("b",))
    Path(store.layout.blob_path(damaged.id)).write_bytes(b"{")
    with pytest.raises(DigestMismatch, match="is damaged"):
        store.config(damaged)
    assert store.remove("damaged") == ["Untagged: damaged:latest", f"Deleted: {damaged.id}"]
    store.collect()
    assert content(store) == {
        whole.id,
        whole.manifest.digest,
        store.manifest(whole).layers[0].digest,
        *store.config(whole).diff_ids,
    }


# Layers


def test_a_layer_that_is_not_what_the_image_says(store: ImageStore) -> None:
    blob, diff_id = add_layer(store, tar(member("x")))
    store.unpacked.delete(diff_id)
    with pytest.raises(DigestMismatch, match="but its image says sha256:0000"):
        store.unpack(blob.digest, "sha256:" + "0" * 64)
    assert [name for name in os.listdir(store.unpacked.path) if not name.endswith(".lock")] == []


def test_a_blob_that_was_damaged_on_disk_is_fetched_anew(store: ImageStore) -> None:
    blob, diff_id = add_layer(store, tar(member("x", bytes(5000))))
    store.unpacked.delete(diff_id)
    Path(store.layout.blob_path(blob.digest)).write_bytes(os.urandom(blob.size))
    with pytest.raises(DigestMismatch, match="damaged on disk and is deleted"):
        store.unpack(blob.digest, diff_id)
    assert not store.layout.has_blob(blob.digest, blob.size)


def test_two_unpackings_do_the_work_once(store: ImageStore) -> None:
    blob, diff_id = add_layer(store, tar(*(member(f"f{n}") for n in range(500))))
    store.unpacked.delete(diff_id)
    told: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: store.unpack(blob.digest, diff_id, lambda p: told.append(p.current)), range(4)))
    assert set(paths) == {store.layer_path(diff_id)}
    assert len(os.listdir(paths[0])) == 500
    assert told == sorted(told)


def test_a_killed_unpacking_leaves_no_layer(store: ImageStore) -> None:
    blob, diff_id = add_layer(store, tar(*(member(f"f{n}") for n in range(20_000))))
    store.unpacked.delete(diff_id)
    program = "import sys; from minidocker.image.store import ImageStore; ImageStore(sys.argv[1]).unpack(*sys.argv[2:])"
    with subprocess.Popen([sys.executable, "-c", program, store.root, blob.digest, diff_id]) as process:
        while not list(Path(store.unpacked.path).glob("*.tmp/f9")):
            time.sleep(0.005)
        process.kill()
    assert not store.has_layer(diff_id)
    assert len(os.listdir(store.unpack(blob.digest, diff_id))) == 20_000
    assert len(store.unpacked.all()) == len(os.listdir(store.unpacked.path)) - 1, "the layer and its size, no leftovers"


def test_ext4_is_told_that_layers_may_lie_apart(store: ImageStore, tmp_path: Path) -> None:
    add_layer(store, tar(member("file")))
    found = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    if not found.startswith("ext"):
        pytest.skip(f"no ext4: {found}")
    folder = os.open(store.unpacked.path, os.O_RDONLY)
    flags = int.from_bytes(fcntl.ioctl(folder, GET_FLAGS, bytes(4)), sys.byteorder)
    os.close(folder)
    assert flags & TOP_FOLDER


def test_adopting_a_folder(store: ImageStore, tmp_path: Path) -> None:
    store.layout.create()
    diff_id = digest_of(b"whatever")
    for number in range(2):
        folder = tmp_path / f"upper{number}"
        folder.mkdir()
        (folder / "file").write_text("x")
        assert store.adopt(str(folder), diff_id, 1) == store.layer_path(diff_id)
        assert not folder.exists()
    assert store.layer_size(diff_id) == 1
    assert os.listdir(store.layer_path(diff_id)) == ["file"]


# Several at once


def test_threads_and_processes_tag_at_once(store: ImageStore) -> None:
    image = add_image(store, "one")
    program = (
        "import sys; from minidocker.image.store import ImageStore; from minidocker.image.reference import parse\n"
        "store = ImageStore(sys.argv[1]); image = store.get('one')\n"
        "for n in range(10): store.tag(image, parse(f'process{sys.argv[2]}:{n}'))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, store.root, str(n)]) for n in range(2)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.tag(image, parse(f"thread:{n}")), range(20)))
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(store.get("one").tags) == 41


def test_two_removals_of_one_image(store: ImageStore) -> None:
    add_image(store, "busybox", "busybox:1")

    def remove(name: str) -> list[str]:
        try:
            return store.remove(name)
        except ImageNotFound:
            return []

    with ThreadPoolExecutor(4) as pool:
        lines = [line for done in pool.map(remove, ["busybox", "busybox:1"] * 2) for line in done]
    assert sorted(line for line in lines if line.startswith("Untagged")) == [
        "Untagged: busybox:1",
        "Untagged: busybox:latest",
    ]
    assert len([line for line in lines if line.startswith("Deleted")]) == 2
    assert content(store) == set()


def test_tagging_what_was_removed_meanwhile(store: ImageStore) -> None:
    image = add_image(store, "busybox")
    store.remove("busybox")
    with pytest.raises(ImageNotFound):
        store.tag(image, parse("other"))


# The real skopeo


@pytest.mark.peers
def test_skopeo_reads_the_store_in_place(store: ImageStore) -> None:
    image = add_image(store, "busybox", "localhost:5000/a/b:c", layers=("a", "b"), Env=["A=b"])
    image = store.tag(image, parse(digest_ref("busybox", image)))
    for name in image.references:
        argv = ["skopeo", "inspect", f"oci:{store.layout.path}:{name}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["Digest"] == image.manifest.digest
        assert told["Layers"] == [layer.digest for layer in store.manifest(image).layers]
        assert told["Env"] == ["A=b"]


# The real docker


@pytest.mark.peers
def test_docker_removes_in_the_same_words(store: ImageStore, docker: Any, tmp_path: Path) -> None:
    """The same images in both, the same names and ids removed one after the other: the same lines."""
    mark = f"rmi{os.getpid()}"
    one = add_image(store, f"{mark}:1", f"{mark}:2", f"{mark}/other", layers=("a", mark), Env=[mark])
    two = add_image(store, f"{mark}-two", layers=("a", mark, "c"), Env=[mark])
    three = add_image(store, f"{mark}-three", layers=("a", mark, "d"), Env=[mark])
    with open(tmp_path / "images.tar", "wb") as file:
        archive.save(store, [mark, f"{mark}/other", f"{mark}-two", f"{mark}-three"], file)
    docker.run("load", "-i", str(tmp_path / "images.tar"))
    container = docker.run("create", f"{mark}-three").stdout.strip()
    usage = Usage(container, three.id, False, store.config(three).diff_ids)

    def ours(name: str, force: bool) -> list[str]:
        try:
            return store.remove(name, force, lambda: [usage])
        except ImageNotFound:
            return [f"Error: No such image: {name}"]  # docker's client says it with the name as it was typed
        except Conflict as error:
            return [str(error)]

    def theirs(name: str, force: bool) -> list[str]:
        done = docker.run("rmi", *["-f"][:force], name, check=False)
        text: str = done.stdout + done.stderr.replace("Error response from daemon: ", "")
        return text.splitlines()

    try:
        for name, force in (
            (one.short_id, False),
            (f"{mark}:1", False),
            (f"{mark}:1", False),
            (two.id, False),
            (f"{mark}-three", False),
            (three.short_id, False),
            (f"{mark}-three", True),
            (three.short_id, False),
            (three.short_id, True),
            (mark, True),
            (one.short_id, True),
        ):
            assert ours(name, force) == theirs(name, force), (name, force)
    finally:
        docker.run("rm", container)
