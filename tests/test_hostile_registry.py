"""Registries, manifests and configurations that mean harm: each is refused in words, or harmless."""

import base64
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import Minidocker, Roots
from imagekit import add_image, add_layer, member, tar
from loopback import Answer, Asked, Sample, loopback, sample_image, serving
from minidocker.errors import DigestMismatch, InvalidManifest, InvalidReference, MinidockerError, RegistryError
from minidocker.image import documents, oci, reference
from minidocker.image.archive import load
from minidocker.image.oci import ImageConfig, Index, Manifest
from minidocker.image.store import ImageStore
from minidocker.progress import silent
from minidocker.registry import transfer
from minidocker.registry.auth import Credentials, parse_challenges, read_token
from minidocker.registry.client import Registry
from minidocker.registry.session import parse_json
from minidocker.registry.transport import Patience, resolve, retry_after
from trees import snapshot

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root")
QUICK = Patience(connect=5, idle=5, attempts=2, pause=0.01)
SAMPLE = sample_image({"a": b"1"}, {"b": b"2"})
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "beside").write_text("as it was")
    return ImageStore(str(tmp_path / "root"))


def pull(store: ImageStore, host: str, credentials: Credentials | None = None) -> transfer.Fetched:
    ref = reference.parse(f"{host}/thing:latest")
    return transfer.fetch(store, ref, None, silent, Registry(host, patience=QUICK, credentials=credentials))


def changed(sample: Sample, change: Any) -> Sample:
    """Return an image whose manifest was changed by hand, and so has another digest."""
    fields = json.loads(sample.manifest)
    change(fields)
    data = json.dumps(fields).encode()
    return sample._replace(manifest=data, digest=oci.digest_of(data))


def configured(raw: object) -> Sample:
    """Return an image with one layer whose configuration says this."""
    base = sample_image({"a": b"1"})
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    digest = oci.digest_of(data)

    def change(fields: Any) -> None:
        fields["config"] |= {"digest": digest, "size": len(data)}

    return changed(base._replace(blobs=base.blobs | {digest: data}, config=digest), change)


def whole(config: object, **more: Any) -> dict[str, Any]:
    """Return a configuration that fits the layer of `configured`, with this to say about running it."""
    return {**json.loads(sample_image({"a": b"1"}).blobs[sample_image({"a": b"1"}).config]), "config": config, **more}


def refused_pull(store: ImageStore, sample: Sample, words: str = "") -> str:
    """Pull what must be refused: no image appears, no layer, and nothing beside the store."""
    with loopback(serving(sample)) as web, pytest.raises(MinidockerError, match=words or None) as error:
        pull(store, web.host)
    beside = {
        name: facts for name, facts in snapshot(os.path.dirname(store.root)).items() if not name.startswith("root")
    }
    assert list(beside) == ["beside"]
    assert store.images() == []
    assert store.unpacked.all() == []
    assert len(str(error.value)) < 1000
    return str(error.value)


# Credentials (CVE-2020-15157: a manifest's foreign URLs, and redirects, were sent the registry's password)


@ROOT
def test_foreign_urls_of_a_layer_are_never_asked(store: ImageStore) -> None:
    with loopback(lambda asked: Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})) as thief:

        def lure(fields: Any) -> None:
            for layer in fields["layers"]:
                layer["urls"] = [f"http://{thief.host}/layer"]
                layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

        with loopback(serving(changed(SAMPLE, lure))) as web:
            pull(store, web.host, Credentials("anna", "secret"))
        assert thief.asked == []


@ROOT
def test_credentials_do_not_follow_a_redirect_to_a_strangers_token_server(store: ImageStore) -> None:
    inner = serving(SAMPLE)
    with loopback(lambda asked: Answer(401, b"", {"WWW-Authenticate": 'Basic realm="give"'})) as thief:

        def answer(asked: Asked) -> Answer:
            if "Authorization" not in asked.headers:
                return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in asked.path:
                return Answer(307, b"", {"Location": f"http://{thief.host}{asked.path}"})
            return inner(asked)

        with loopback(answer) as web, pytest.raises(RegistryError):
            pull(store, web.host, Credentials("anna", "secret"))
    secret = base64.b64encode(b"anna:secret").decode()
    assert thief.asked
    for asked in thief.asked:
        assert "Authorization" not in asked.headers
        assert secret not in str(asked)


# Manifests


@ROOT
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["layers"][0].update(size=3), "longer than the 3 bytes promised"),
        (lambda f: f["layers"][0].update(size=2**62), "ended after"),
        (lambda f: f["layers"][0].update(size=10**400), "a descriptor's size is"),
        (lambda f: f["layers"][0].update(size=-1), "a descriptor's size is"),
        (lambda f: f["layers"][0].update(size=1.5), "a descriptor's size is"),
        (lambda f: f["layers"][0].update(size=True), "a descriptor's size is"),
        (lambda f: f["layers"][0].update(digest="sha256:../../../../etc/passwd"), "invalid digest"),
        (lambda f: f["layers"][0].update(digest=DIGEST), "not found|unknown"),
        (lambda f: f["layers"][0].update(digest=DIGEST + "\n"), "invalid digest"),
        (lambda f: f["layers"][0].update(mediaType=["x"]), "mediaType is"),
        (lambda f: f["layers"].reverse(), "unpacks to"),
        (lambda f: f["layers"].pop(), "1 layers, but the configuration speaks of 2"),
        (lambda f: f["layers"].extend(f["layers"] * 10_000), "layers, but the configuration speaks of 2"),
        (lambda f: f["config"].update(size=2**40), "are sane"),
        (lambda f: f["config"].update(mediaType="application/vnd.cncf.helm.config.v1+json"), "no container image"),
        (lambda f: f.update(config=None), "missing or not a JSON object"),
        (lambda f: f.update(layers={}), "not a JSON array"),
        (lambda f: f.update(layers=[None]), "missing or not a JSON object"),
        (lambda f: f.update(manifests=[]), "two readers would see two images"),
        (lambda f: f.update(schemaVersion="2"), "schemaVersion"),
    ],
)
def test_manifests_that_lie(store: ImageStore, change: Any, words: str) -> None:
    refused_pull(store, changed(SAMPLE, change), words)


@ROOT
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a":' * 100_000, "neither an image nor|no media type|not a JSON"),
        (b"[" * 1_000_000, "neither an image nor|not a JSON"),
        (b"9" * 100_000, "neither an image nor|not a JSON"),
        (b"\xff\xfe\x00", "neither an image nor|not a JSON"),
        (SAMPLE.manifest.replace(b'"layers"', b'"layers": [], "layers"'), "twice"),
        (SAMPLE.manifest.replace(b'"schemaVersion": 2', b'"schemaVersion": 2, "x": NaN'), "NaN"),
        (SAMPLE.manifest.replace(b'"schemaVersion": 2', b'"schemaVersion": 2, "x": -Infinity'), "Infinity"),
    ],
    ids=["deep objects", "deep arrays", "long number", "not text", "twice", "nan", "infinity"],
)
def test_documents_that_two_readers_would_read_differently(store: ImageStore, data: bytes, words: str) -> None:
    refused_pull(store, SAMPLE._replace(manifest=data, digest=oci.digest_of(data)), words)


@ROOT
def test_a_hundred_megabytes_of_json(store: ImageStore) -> None:
    data = SAMPLE.manifest[:-1] + b" " * (100 << 20) + b"}"
    since = time.process_time()
    refused_pull(store, SAMPLE._replace(manifest=data), "larger than")
    assert time.process_time() - since < 20
    # The same through an archive, which has no transport to stop it.
    archive = tar(member("oci-layout", b"{}"), member("index.json", b" " * (documents.LARGEST + 1)))
    with pytest.raises(InvalidManifest, match="too long"):
        load(store, io.BytesIO(archive))


def nested(depth: int) -> list[tuple[str, bytes, str]]:
    """Return lists in lists, the innermost first: digest, document, media type."""
    found = [(SAMPLE.digest, SAMPLE.manifest, SAMPLE.media_type)]
    for _ in range(depth):
        digest, data, kind = found[-1]
        entry = {"mediaType": kind, "digest": digest, "size": len(data)}
        index = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}).encode()
        found.append((oci.digest_of(index), index, oci.INDEX))
    return found


@ROOT
def test_lists_of_images_in_lists_end(store: ImageStore) -> None:
    chain = nested(1500)
    blobs = {**SAMPLE.blobs, **{digest: data for digest, data, _ in chain}}

    def answer(asked: Asked) -> Answer:
        wanted = asked.path.rpartition("/")[2]
        for digest, data, kind in chain:
            if wanted == digest or (wanted == "latest" and digest == chain[-1][0]):
                return Answer(200, data, {"Content-Type": kind})
        return Answer()

    with loopback(answer) as web, pytest.raises(InvalidManifest, match="lists of images within lists"):
        pull(store, web.host)
    files = [member(f"blobs/sha256/{digest[7:]}", data) for digest, data in blobs.items()]
    archive = tar(member("oci-layout", b"{}"), member("index.json", chain[-1][1]), *files)
    with pytest.raises(InvalidManifest):
        load(store, io.BytesIO(archive))


@ROOT
def test_a_list_that_names_itself(store: ImageStore) -> None:
    """A circle would need a digest known before what it is the digest of: the registry has to lie, and is caught."""
    entry = {"mediaType": oci.INDEX, "digest": DIGEST, "size": 1}
    circle = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}).encode()

    def answer(asked: Asked) -> Answer:
        return Answer(200, circle, {"Content-Type": oci.INDEX}) if asked.path != "/v2/" else Answer()

    with loopback(answer) as web, pytest.raises(DigestMismatch):
        pull(store, web.host)
    files = (member("oci-layout", b"{}"), member("index.json", circle), member(f"blobs/sha256/{'a' * 64}", circle))
    with pytest.raises(DigestMismatch):
        load(store, io.BytesIO(tar(*files)))


# What a registry says in its headers


@pytest.mark.parametrize("text", ["²", "9" * 5000, "-1", "nan", "1e9", ""])
def test_retry_after_that_is_no_number(text: str) -> None:
    class Response:
        headers = {"Retry-After": text}  # noqa: RUF012

    assert retry_after(Response()) in (0.0, float("inf"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"token": "x", "expires_in": 1' + b"0" * 400 + b"}",
        b'{"token": "x", "expires_in": NaN}',
        b'{"token": "x", "expires_in": -5}',
        b'{"token": "x\\r\\nHost: y"}',
        b'{"token": ["x"]}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_tokens_that_cannot_be(body: bytes) -> None:
    try:
        token, life = read_token("http://t", 200, body)
    except RegistryError:
        return
    assert token == "x"
    assert 60 <= life <= 86400


@pytest.mark.parametrize(
    "text", ["Basic," + " " * 65000 + "1", ", " * 32000, "a " * 32000, "a b=" + "x=" * 32000, 'a b="' + '\\"' * 32000]
)
def test_a_long_challenge_takes_no_time(text: str) -> None:
    since = time.process_time()
    parse_challenges([text] * 10)
    assert time.process_time() - since < 5


def test_pages_of_tags_in_a_circle_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minidocker.registry.client.MAX_PAGES", 20)

    def answer(asked: Asked) -> Answer:
        return Answer(200, b'{"tags": ["a"]}', {"Link": '</v2/thing/tags/list?again>; rel="next"'})

    with loopback(answer) as web:
        assert len(Registry(web.host, patience=QUICK).tags("thing")) == 20


# Configurations


BAD_CONFIGS: list[tuple[object, str]] = [
    ({"Env": ["A=1\0B=2"]}, "NUL"),
    ({"Env": ["=x"]}, "without a name"),
    ({"Env": [""]}, "without a name"),
    ({"Env": "A=1"}, "not a JSON array"),
    ({"Env": {"A": "1"}}, "not a JSON array"),
    ({"Env": [1]}, "not a string"),
    ({"Env": [None]}, "not a string"),
    ({"Entrypoint": "/bin/sh"}, "not a JSON array"),
    ({"Cmd": "sh"}, "not a JSON array"),
    ({"Cmd": [["sh"]]}, "not a string"),
    ({"Cmd": ["a\0b"]}, "NUL"),
    ({"Cmd": ["\ud800"]}, "half a character"),
    ({"User": ["root"]}, "not a string"),
    ({"User": "root\0"}, "NUL"),
    ({"WorkingDir": 5}, "not a string"),
    ({"WorkingDir": "/\0"}, "NUL"),
    ({"StopSignal": 9}, "not a string"),
    ({"Labels": ["a"]}, "not a JSON object"),
    ({"Labels": {"a": 1}}, "not all strings"),
    ({"ExposedPorts": ["80"]}, "not a JSON object"),
    ({"ExposedPorts": {"99999/tcp": {}}}, "exposed port"),
    ({"ExposedPorts": {"../x": {}}}, "exposed port"),
    ({"ExposedPorts": {"80/tcp\n": {}}}, "exposed port"),
    ({"ExposedPorts": {"²/tcp": {}}}, "exposed port"),
    ({"Volumes": {"/": {}}}, "the volume at"),
    ({"Volumes": {"": {}}}, "the volume at"),
    ({"Volumes": {"/../../etc": {}}}, "the volume at"),
    ({"Volumes": {"/a/..": {}}}, "the volume at"),
    ({"Volumes": {"/a\0": {}}}, "NUL"),
    ({"Volumes": ["/a"]}, "not a JSON object"),
    ("sh", "not a JSON object"),
]


@ROOT
@pytest.mark.parametrize(("config", "words"), BAD_CONFIGS, ids=[str(config)[:40] for config, _ in BAD_CONFIGS])
def test_what_an_image_says_of_running_it_is_checked_when_it_comes(
    store: ImageStore, config: object, words: str
) -> None:
    refused_pull(store, configured(whole(config)), words)


@ROOT
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rootfs": {"diff_ids": ["sha256:../../etc"]}}, "invalid digest"),
        ({"rootfs": {"diff_ids": [DIGEST]}}, "unpacks to"),
        ({"rootfs": {"diff_ids": [DIGEST] * 126}}, "max depth exceeded: 126 layers"),
        ({"rootfs": []}, "layers, but|not a JSON"),
        ({"history": [{"created_by": ["x"]}]}, "not a string"),
        ({"history": {"a": 1}}, "not a JSON array"),
        ({"created": 5}, "not a string"),
        ({"architecture": ["x"]}, "not a string"),
    ],
)
def test_the_rest_of_a_configuration(store: ImageStore, more: dict[str, Any], words: str) -> None:
    refused_pull(store, configured(whole({}, **more)), words)


@ROOT
def test_a_deep_configuration(store: ImageStore) -> None:
    refused_pull(store, configured(b'{"config":' * 50_000), "not a JSON document")


@pytest.mark.root
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"WorkingDir": "../../../../etc", "Cmd": ["pwd"]}, "/etc"),
        ({"Env": ["A=1\nB=2", "LD_PRELOAD=/x"], "Cmd": ["/bin/busybox", "env"]}, "A=1"),
        ({"User": "0:0:0"}, "unable to find group 0:0"),
        ({"User": "root\nx:y"}, "unable to find"),
        ({"User": "4294967295"}, "must be in range"),
        ({"Env": ["A=" + "x" * 1_000_000]}, "rgument list too long"),
        ({"Volumes": {"/etc/passwd/x": {}}, "Cmd": ["true"]}, ""),
        ({"Volumes": {"/proc/self/root": {}}, "Cmd": ["true"]}, ""),
        ({"Cmd": ["../../../../../bin/sh"]}, ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_hostile_configuration_is_harmless_when_it_is_run(
    minidocker: Minidocker, busybox_image: str, roots: Roots, config: dict[str, Any], words: str
) -> None:
    store = ImageStore(roots.root)
    base = store.get(busybox_image)
    raw = json.loads(json.dumps(store.config(base).raw)) | {"config": {"Cmd": ["true"], **config}}
    store.create(ImageConfig(raw), store.manifest(base).layers, [reference.parse("hostile")])
    before = os.listdir("/")
    done = minidocker("run", "--rm", "--network", "none", "hostile")
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "bug in minidocker" not in done.stderr
    assert os.listdir("/") == before
    assert not os.path.exists("/etc/passwd/x")
    assert minidocker.ok("ps", "-aq") == ""


@ROOT
def test_an_image_cannot_poison_what_others_are_built_on(store: ImageStore) -> None:
    """Two images that name one layer's digest share its blob only after its bytes were that digest (CVE-2024-24557)."""
    blob, diff_id = add_layer(store, tar(member("good", b"1")))
    evil = configured(whole({}, rootfs={"type": "layers", "diff_ids": [diff_id]}))
    with loopback(serving(evil)) as web:
        fetched = pull(store, web.host)
    # It claimed to be the layer that is here already: then it is that one, and nothing of its own was unpacked.
    assert os.listdir(store.layer_path(diff_id)) == ["good"]
    assert fetched.image.id != blob.digest
    assert add_image(store, "other").id != fetched.image.id


@ROOT
def test_a_layer_that_is_unpacked_already_waits_for_its_blob(store: ImageStore) -> None:
    _, diff_id = add_layer(store, tar(member("good", b"1")))
    answer = serving(configured(whole({}, rootfs={"type": "layers", "diff_ids": [diff_id]})))

    def late(asked: Asked) -> Answer:
        time.sleep(0.3 if "/blobs/" in asked.path else 0)
        return answer(asked)

    with loopback(late) as web:
        image = pull(store, web.host).image
    for layer in store.manifest(image).layers:
        assert store.layout.has_blob(layer.digest, layer.size)


# Fuzzing


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(DIGEST),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "annotations", "platform",
        "urls", "os", "architecture", "rootfs", "diff_ids", "history", "Env", "Cmd", "Labels", "Volumes",
    ]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=400, deadline=1000, derandomize=True)
@given(JSON, st.sampled_from(["", oci.MANIFEST, oci.INDEX, "text/html"]))
def test_fuzz_documents(value: Any, media_type: str) -> None:
    if isinstance(value, dict):
        value = {"schemaVersion": 2, **value}
    read_document(json.dumps(value).encode(), media_type)


@settings(max_examples=300, deadline=1000, derandomize=True)
@given(st.integers(0, len(SAMPLE.manifest) - 1), st.binary(max_size=6))
def test_fuzz_manifests(position: int, new: bytes) -> None:
    read_document(SAMPLE.manifest[:position] + new + SAMPLE.manifest[position + len(new) :], oci.DOCKER_MANIFEST)


def read_document(data: bytes, media_type: str) -> None:
    """Read a document in every way there is: it is refused, or can be written and read again."""
    parse_json(data)
    for read in (Manifest.from_bytes, Index.from_bytes):
        try:
            found = read(data, media_type)
        except InvalidManifest:
            continue
        assert read(found.to_bytes()) == found
    try:
        config = ImageConfig.from_bytes(data)
    except InvalidManifest:
        return
    assert ImageConfig.from_bytes(config.to_bytes()) == config
    assert all(isinstance(text, str) for text in (config.created, config.os, config.author, *config.diff_ids))


@settings(max_examples=400, deadline=1000, derandomize=True)
@given(st.text(max_size=40) | st.text(alphabet="ab/:.@-_[]5A", max_size=30))
@example("a" * 100_000 + "!")
@example("a-" * 50_000 + "/")
def test_fuzz_references(text: str) -> None:
    try:
        found = reference.parse(text)
    except InvalidReference:
        return
    assert reference.parse(str(found)) == found
    assert ".." not in found.path.split("/") and "\0" not in str(found) and len(found.path) <= 255


@settings(max_examples=400, deadline=1000, derandomize=True)
@given(st.lists(st.text(alphabet='Basic realm="x",=\\\t é1', max_size=60), max_size=3))
def test_fuzz_challenges(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()


@settings(max_examples=400, deadline=1000, derandomize=True)
@given(st.text(alphabet='<>/?;="rel next:http[]@%\\é', max_size=60))
def test_fuzz_links(text: str) -> None:
    for base in ("https://r.example/v2/", "http://127.0.0.1:5000/v2/"):
        try:
            target = resolve(base, text.partition("<")[2].partition(">")[0])
        except RegistryError:
            continue
        assert target.startswith("https://" if base.startswith("https:") else ("http://", "https://"))
