"""The documents of an image: read with care, written without loss."""

import json
from typing import Any

import pytest

from minidocker.errors import InvalidArgument, InvalidManifest
from minidocker.image import oci
from minidocker.image.oci import Descriptor, ImageConfig, Index, Manifest, Platform

DIGEST = "sha256:" + "ab" * 32
CONFIG = {"mediaType": oci.CONFIG, "digest": DIGEST, "size": 7}
LAYER = {"mediaType": oci.LAYER_GZIP, "digest": DIGEST, "size": 9, "annotations": {"a": "b"}, "urls": ["http://x/"]}
MANIFEST = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": CONFIG, "layers": [LAYER]}


def data(fields: object) -> bytes:
    return json.dumps(fields).encode()


def entry(platform: str, **more: Any) -> dict[str, Any]:
    names = ("os", "architecture", "variant")
    described = dict(zip(names, platform.split("/"), strict=False))
    return {
        "mediaType": oci.MANIFEST,
        "digest": oci.digest_of(platform.encode()),
        "size": 1,
        "platform": described | more,
    }


def test_a_manifest_is_written_as_it_was_read() -> None:
    fields = MANIFEST | {"annotations": {"k": "v"}, "subject": CONFIG, "artifactType": "x/y"}
    manifest = Manifest.from_bytes(data(fields))
    assert manifest.config == Descriptor(oci.CONFIG, DIGEST, 7)
    assert manifest.layers[0].annotations == {"a": "b"}
    assert json.loads(manifest.to_bytes()) == fields
    assert Manifest.from_bytes(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


def test_an_index_is_written_as_it_was_read() -> None:
    entries = [entry("linux/amd64"), entry("windows/amd64", **{"os.version": "10.0"}), CONFIG | {"data": "e30="}]
    fields = {"schemaVersion": 2, "mediaType": oci.DOCKER_INDEX, "manifests": entries}
    assert json.loads(Index.from_bytes(data(fields)).to_bytes()) == fields


def test_the_media_type_may_come_from_the_transport_or_the_shape() -> None:
    bare = {key: value for key, value in MANIFEST.items() if key != "mediaType"}
    assert Manifest.from_bytes(data(bare)).media_type == oci.MANIFEST
    assert Manifest.from_bytes(data(bare), oci.DOCKER_MANIFEST).media_type == oci.DOCKER_MANIFEST
    assert Manifest.from_bytes(data(bare), "application/json").media_type == oci.MANIFEST
    assert Index.from_bytes(data({"schemaVersion": 2, "manifests": None})).manifests == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([], "not a JSON object"),
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
        ({}, "schemaVersion is None"),
        (MANIFEST | {"schemaVersion": "2"}, "expected 2"),
        (MANIFEST | {"mediaType": oci.INDEX}, "unsupported manifest"),
        (MANIFEST | {"mediaType": 3}, "unsupported manifest"),
        (MANIFEST | {"manifests": []}, "also an index"),
        (MANIFEST | {"config": None}, "missing"),
        (MANIFEST | {"layers": {}}, "not a JSON array"),
        (MANIFEST | {"layers": ["x"]}, "not a JSON object"),
        (MANIFEST | {"config": CONFIG | {"size": -1}}, "size"),
        (MANIFEST | {"config": CONFIG | {"size": True}}, "size"),
        (MANIFEST | {"config": CONFIG | {"size": "7"}}, "size"),
        (MANIFEST | {"config": CONFIG | {"digest": "sha256:../../../etc/passwd"}}, "invalid digest"),
        (MANIFEST | {"config": CONFIG | {"digest": None}}, "invalid digest"),
        (MANIFEST | {"config": CONFIG | {"digest": "sha512:" + "a" * 128}}, "invalid digest"),
        (MANIFEST | {"config": CONFIG | {"annotations": {"a": 1}}}, "not all strings"),
        (MANIFEST | {"config": CONFIG | {"mediaType": 5}}, "expected a string"),
    ],
)
def test_bad_manifests_are_refused(fields: object, words: str) -> None:
    with pytest.raises(InvalidManifest, match=words):
        Manifest.from_bytes(data(fields))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_what_is_not_json_is_refused(text: bytes) -> None:
    for read in (Manifest.from_bytes, Index.from_bytes, ImageConfig.from_bytes):
        with pytest.raises(InvalidManifest):
            read(text)


def test_the_transport_and_the_document_must_agree() -> None:
    with pytest.raises(InvalidManifest, match="was sent as"):
        Manifest.from_bytes(data(MANIFEST), oci.DOCKER_MANIFEST)
    with pytest.raises(InvalidManifest, match="also a manifest"):
        Index.from_bytes(data({"schemaVersion": 2, "manifests": [], "layers": []}))


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v5"),
        ("linux/arm/v8", "linux/arm/v7"),
    ],
)
def test_the_best_entry_is_chosen(asked: str, chosen: str) -> None:
    entries = map(entry, ("linux/arm/v5", "linux/amd64", "linux/arm/v7", "linux/arm64/v8", "unknown/unknown"))
    index = Index.from_bytes(data({"schemaVersion": 2, "manifests": list(entries)}))
    assert index.choose(Platform.parse(asked)).digest == oci.digest_of(chosen.encode())


def test_no_entry_for_a_platform() -> None:
    index = Index.from_bytes(data({"schemaVersion": 2, "manifests": [entry("linux/s390x")]}))
    words = r"no matching manifest for linux/arm/v7 in the manifest list entries \(there are: linux/s390x\)"
    with pytest.raises(InvalidManifest, match=words):
        index.choose(Platform.parse("linux/arm"))
    anything = Index.from_bytes(data({"schemaVersion": 2, "manifests": [CONFIG | {"mediaType": oci.MANIFEST}]}))
    assert anything.choose(Platform.parse("linux/arm")).digest == DIGEST


def test_platforms() -> None:
    assert str(Platform.parse("linux/aarch64/v8")) == "linux/arm64"
    assert str(Platform.parse("Linux/armhf")) == "linux/arm/v7"
    assert Platform.parse("linux") == oci.host_platform()
    for text in ("", "/", "linux/", "a/b/c/d", "linux/am d64"):
        with pytest.raises(InvalidArgument, match="invalid platform"):
            Platform.parse(text)


def test_a_configuration() -> None:
    raw = {
        "os": "linux",
        "architecture": "arm64",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    }
    config = ImageConfig.from_bytes(data(raw | {"history": [{"created_by": "x"}], "created": "2024-01-01T00:00:00Z"}))
    assert config.config == {"Cmd": ["sh"]}
    assert config.diff_ids == (DIGEST,)
    assert config.history == [{"created_by": "x"}]
    assert str(config.platform) == "linux/arm64"
    assert ImageConfig.from_bytes(config.to_bytes()) == config
    empty = ImageConfig.from_bytes(data({"config": None, "rootfs": None, "history": None}))
    assert (empty.config, empty.diff_ids, empty.history, empty.author) == ({}, (), [], "")


@pytest.mark.parametrize(
    "raw",
    [
        {"config": [1]},
        {"config": "x"},
        {"rootfs": {"diff_ids": ["sha256:x"]}},
        {"rootfs": {"diff_ids": "x"}},
        {"history": [1]},
    ],
)
def test_bad_configurations_are_refused(raw: object) -> None:
    with pytest.raises(InvalidManifest):
        ImageConfig.from_bytes(data(raw))


def test_chain_ids() -> None:
    a, b = oci.digest_of(b"a"), oci.digest_of(b"b")
    assert oci.chain_ids([]) == []
    assert oci.chain_ids([a, b]) == [a, oci.digest_of(f"{a} {b}".encode())]
