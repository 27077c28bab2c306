"""Pull and push with a store of our own: what is fetched, told, refused, and left for the next time."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from loopback import Answer, Asked, Sample, fault, index_of, layer_tar, loopback, sample_image, serving
from minidocker.errors import DigestMismatch, InvalidManifest, InvalidReference, MinidockerError, RegistryError
from minidocker.image import oci, reference
from minidocker.image.arriving import Arriving
from minidocker.image.catalog import Image
from minidocker.image.layout import BlobWriter
from minidocker.image.oci import Platform
from minidocker.image.store import ImageStore
from minidocker.progress import Progress, silent
from minidocker.registry import transfer
from minidocker.registry.client import Registry
from minidocker.registry.server import Server
from minidocker.registry.sidebyside import SideBySide, Stopped
from minidocker.registry.transport import Patience, Refused

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root")

QUICK = Patience(connect=5, idle=5, attempts=3, pause=0.01)
NOISE = os.urandom(300_000)
SAMPLE = sample_image({"a": NOISE}, {"b": b"2"}, {"c": b"3"}, {"d": b"4"}, {"e": b"5"})
LAYER = SAMPLE.layers[0]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"))


def name(host: str, rest: str = "thing:latest") -> reference.Reference:
    return reference.parse(f"{host}/{rest}")


def pull(
    store: ImageStore, host: str, rest: str = "thing:latest", platform: Platform | None = None
) -> transfer.Fetched:
    ref = name(host, rest)
    return transfer.fetch(store, ref, platform, silent, Registry(host, patience=QUICK))


def hold(store: ImageStore, sample: Sample) -> None:
    """Check that the store has the whole image, under its names."""
    for digest, blob in sample.blobs.items():
        assert Path(store.layout.blob_path(digest)).read_bytes() == blob


def lines(news: list[Progress]) -> list[str]:
    """Return the news as plain lines, each status of an id once."""
    return list(dict.fromkeys(f"{item.id}: {item.status}" if item.id else item.status for item in news))


def test_a_pull_brings_everything_and_tells_it_in_dockers_words(store: ImageStore) -> None:
    news: list[Progress] = []
    with loopback(serving(SAMPLE)) as web:
        ref = name(web.host)
        done = transfer.fetch(store, ref, None, news.append, Registry(web.host, patience=QUICK))
    hold(store, SAMPLE)
    assert done.fresh
    assert (done.digest, done.image.id) == (SAMPLE.digest, SAMPLE.config)
    assert done.image.references == (f"{web.host}/thing:latest", f"{web.host}/thing@{SAMPLE.digest}")
    assert store.get(f"{web.host}/thing").id == SAMPLE.config
    said = lines(news)
    short = [digest[7:19] for digest in SAMPLE.layers]
    assert said[0] == "latest: Pulling from thing"
    assert said[1:8] == [*(f"{id}: Pulling fs layer" for id in short), *(f"{id}: Waiting" for id in short[3:])]
    assert said[-2:] == [f"Digest: {SAMPLE.digest}", f"Status: Downloaded newer image for {web.host}/thing:latest"]
    for id in short:
        own = [line.partition(": ")[2] for line in said if line.startswith(id)]
        steps = ["Downloading", "Verifying Checksum", "Download complete", "Extracting", "Pull complete"]
        assert [step for step in own if step in steps] == steps
    complete = [line for line in said if line.endswith("Pull complete")]
    assert complete == [f"{id}: Pull complete" for id in short]


def test_a_second_pull_asks_for_the_manifest_alone(store: ImageStore) -> None:
    with loopback(serving(SAMPLE)) as web:
        pull(store, web.host)
        web.asked.clear()
        news: list[Progress] = []
        done = transfer.fetch(store, name(web.host), None, news.append, Registry(web.host, patience=QUICK))
        assert web.paths() == ["/v2/thing/manifests/latest"]
    assert not done.fresh
    assert f"Status: Image is up to date for {web.host}/thing:latest" in lines(news)
    assert f"{LAYER[7:19]}: Already exists" in lines(news)


def test_a_pull_by_digest_gives_no_tag(store: ImageStore) -> None:
    with loopback(serving(SAMPLE)) as web:
        done = pull(store, web.host, f"thing@{SAMPLE.digest}")
    assert done.image.references == (f"{web.host}/thing@{SAMPLE.digest}",)


def test_a_tag_that_moved_on_is_fresh(store: ImageStore) -> None:
    other = sample_image({"new": b"1"})
    now = [serving(SAMPLE)]
    with loopback(lambda asked: now[0](asked)) as web:
        pull(store, web.host)
        now[0] = serving(other)
        assert pull(store, web.host).fresh
        assert store.get(f"{web.host}/thing").id == other.config


def several(*samples: tuple[Sample, str]):  # type: ignore[no-untyped-def]
    """Return a registry with an index of several platforms."""
    index = index_of(*samples)

    def answer(asked: Asked) -> Answer:
        if asked.path == "/v2/thing/manifests/latest":
            return Answer(200, index, {"Content-Type": oci.INDEX})
        for sample, _ in samples:
            if sample.digest in asked.path or any(digest in asked.path for digest in sample.blobs):
                return serving(sample)(asked)
        return serving(samples[0][0])(asked)

    return answer, oci.digest_of(index)


def test_the_right_platform_is_chosen_and_the_digest_is_the_lists(store: ImageStore) -> None:
    mine = str(oci.host_platform())
    here, there = sample_image({"h": b"h"}), sample_image({"t": b"t"}, architecture="riscv64")
    answer, digest = several((there, "linux/riscv64"), (here, mine))
    with loopback(answer) as web:
        done = pull(store, web.host)
        assert (done.image.id, done.digest) == (here.config, digest)
        assert pull(store, web.host, platform=Platform.parse("linux/riscv64")).image.id == there.config
        with pytest.raises(InvalidManifest, match="no matching manifest for linux/s390x"):
            pull(store, web.host, platform=Platform.parse("linux/s390x"))


def test_a_platform_that_a_single_image_has_not(store: ImageStore) -> None:
    with loopback(serving(SAMPLE)) as web:
        with pytest.raises(InvalidManifest, match="does not match the specified platform: wanted linux/s390x, actual"):
            pull(store, web.host, platform=Platform.parse("linux/s390x"))


def test_lists_in_lists_end(store: ImageStore) -> None:
    entry = {
        "mediaType": oci.INDEX,
        "digest": "",
        "size": 1,
        "platform": {"os": "linux", "architecture": oci.host_platform().architecture},
    }

    def answer(asked: Asked) -> Answer:
        # each answer names another list, by a digest that the client will ask for and find right
        if asked.path == "/v2/":
            return Answer()
        for depth in range(9, -1, -1):
            if oci.digest_of(documents[depth]) in asked.path:
                return Answer(200, documents[depth], {"Content-Type": oci.INDEX})
        return Answer(200, documents[9], {"Content-Type": oci.INDEX})

    documents = [b"{}"]
    for _ in range(9):
        inner = {**entry, "digest": oci.digest_of(documents[-1])}
        documents.append(json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [inner]}).encode())
    with loopback(answer) as web, pytest.raises(InvalidManifest, match="lists of images within lists"):
        pull(store, web.host)


# Refusals, in docker's words


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            fault(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            "manifest for {}/thing:latest not found: manifest unknown: manifest unknown",
        ),
        (
            fault(403, "DENIED", "requested access to the resource is denied"),
            "pull access denied for {}/thing, repository does not exist or may require 'minidocker login': "
            "denied: requested access to the resource is denied",
        ),
        (
            fault(404, "NAME_UNKNOWN", "repository name not known to registry"),
            "repository {}/thing not found: name unknown: ",
        ),
        (fault(401, "UNAUTHORIZED", "authentication required"), "unauthorized: authentication required"),
    ],
)
def test_refusals_are_worded_as_docker_words_them(store: ImageStore, answer: Answer, words: str) -> None:
    with loopback(lambda asked: Answer() if asked.path == "/v2/" else answer) as web:
        with pytest.raises(Refused) as caught:
            pull(store, web.host)
    assert words.format(web.host) in str(caught.value)
    assert store.images() == []


# Lies


def with_blob(change: Callable[[Asked, Answer], Answer]) -> Callable[[Asked], Answer]:
    """Return a registry that does something to the first layer."""
    honest = serving(SAMPLE)
    return lambda asked: change(asked, honest(asked)) if LAYER in asked.path else honest(asked)


def test_a_layer_that_is_not_its_digest_is_thrown_away(store: ImageStore) -> None:
    evil = with_blob(lambda asked, answer: answer._replace(body=answer.body[:-1] + b"!"))
    with loopback(evil) as web, pytest.raises(DigestMismatch, match="not what was sent|content is"):
        pull(store, web.host)
    assert not store.layout.has_blob(LAYER)
    assert store.images() == []
    with loopback(serving(SAMPLE)) as web:
        pull(store, web.host)


def test_a_layer_with_the_right_content_under_a_wrong_digest_is_not_made(store: ImageStore) -> None:
    """Its gzip header has a time: the same archive, another blob. Unpacked while it came, it is thrown away."""
    other = with_blob(lambda asked, answer: answer._replace(body=answer.body[:4] + b"!" + answer.body[5:]))
    assert SAMPLE.blobs[LAYER][:2] == b"\x1f\x8b"
    with loopback(other) as web, pytest.raises(DigestMismatch, match="not what was sent"):
        pull(store, web.host)
    assert not store.layout.has_blob(LAYER)
    assert store.unpacked.all() == []
    assert not list(Path(store.unpacked.path).glob("*.tmp"))


def test_a_layer_that_is_longer_than_it_says_is_stopped_early(store: ImageStore) -> None:
    endless = with_blob(lambda asked, answer: answer._replace(body=answer.body + b"x" * 50_000_000))
    with loopback(endless) as web, pytest.raises(DigestMismatch, match="longer than"):
        pull(store, web.host)
    assert not any(
        os.path.getsize(f"{store.layout.ingest}/{file}") > 10_000_000 for file in os.listdir(store.layout.ingest)
    )


def test_a_layer_that_is_shorter_than_it_says(store: ImageStore) -> None:
    short = with_blob(lambda asked, answer: Answer(200, answer.body[:100]))
    with loopback(short) as web, pytest.raises(MinidockerError, match="ended after 100 of"):
        pull(store, web.host)


def altered(change) -> Sample:  # type: ignore[no-untyped-def]
    """Return the sample with another manifest."""
    manifest = json.loads(SAMPLE.manifest)
    change(manifest)
    data = json.dumps(manifest).encode()
    return SAMPLE._replace(manifest=data, digest=oci.digest_of(data))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["config"].update(size=10**9), "are sane"),
        (lambda m: m["config"].update(mediaType="application/vnd.cncf.helm.config.v1+json"), "is no container image"),
        (lambda m: m["layers"].pop(), "4 layers, but the configuration speaks of 5"),
        (lambda m: m["layers"][0].update(digest="sha256:../../etc/passwd"), "digest"),
        (lambda m: m["layers"][0].update(size=-1), "size"),
        (lambda m: m.update(layers={}), "layers"),
        (lambda m: m["layers"].reverse(), "unpacks to"),
    ],
)
def test_manifests_that_do_not_hold_together(store: ImageStore, change, words: str) -> None:  # type: ignore[no-untyped-def]
    with loopback(serving(altered(change))) as web, pytest.raises((InvalidManifest, DigestMismatch), match=words):
        pull(store, web.host)
    assert store.images() == []


# Trouble on the way


def test_a_download_that_is_cut_off_goes_on_where_it_was(store: ImageStore) -> None:
    cuts = [1000, 70_000]

    def cut(asked: Asked, answer: Answer) -> Answer:
        return answer._replace(cut=cuts.pop(0)) if cuts else answer

    with loopback(with_blob(cut)) as web:
        pull(store, web.host)
        ranges = [asked.headers.get("Range") for asked in web.asked if LAYER in asked.path]
    assert ranges == [None, "bytes=1000-", "bytes=71000-"]
    hold(store, SAMPLE)


def test_the_next_pull_goes_on_where_the_last_gave_up(store: ImageStore) -> None:
    with loopback(with_blob(lambda asked, answer: answer._replace(cut=1000))) as web:
        with pytest.raises(RegistryError, match="cut off"):
            pull(store, web.host)
    with loopback(serving(SAMPLE)) as web:
        pull(store, web.host)
        assert [asked.headers.get("Range") for asked in web.asked if LAYER in asked.path] == ["bytes=3000-"]
    hold(store, SAMPLE)


def test_a_registry_without_ranges_sends_all_again(store: ImageStore) -> None:
    cuts = [1000]

    def cut(asked: Asked, answer: Answer) -> Answer:
        return Answer(200, SAMPLE.blobs[LAYER], cut=cuts.pop(0) if cuts else -1)

    with loopback(with_blob(cut)) as web:
        pull(store, web.host)
    hold(store, SAMPLE)


def test_a_part_that_was_spoilt_on_disk_is_fetched_again(store: ImageStore) -> None:
    store.layout.create()
    Path(store.layout.ingest, f"{LAYER[7:]}.partial").write_bytes(b"spoilt")
    with loopback(serving(SAMPLE)) as web:
        pull(store, web.host)
    hold(store, SAMPLE)


def test_a_download_that_always_fails_ends_and_ends_the_others(store: ImageStore) -> None:
    slow = threading.Event()

    def answer(asked: Asked) -> Answer:
        if SAMPLE.layers[1] in asked.path:
            return Answer(500)
        if LAYER in asked.path:
            return serving(SAMPLE)(asked)._replace(trickle=0.01)
        return serving(SAMPLE)(asked)

    with loopback(answer) as web, pytest.raises(RegistryError, match="answers 500"):
        pull(store, web.host)
    slow.set()


def test_two_pulls_of_the_same_image_at_once(store: ImageStore) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            pull(ImageStore(store.root), web.host)
        except Exception as error:  # noqa: BLE001 (looked at below)
            failures.append(error)

    with loopback(serving(SAMPLE)) as web:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sum(LAYER in path for path in web.paths()) == 1
    assert failures == []
    hold(store, SAMPLE)


def test_a_report_that_raises_ends_the_pull(store: ImageStore) -> None:
    def report(news: Progress) -> None:
        if news.status == "Downloading":
            raise KeyboardInterrupt

    with loopback(serving(SAMPLE)) as web, pytest.raises(KeyboardInterrupt):
        transfer.fetch(store, name(web.host), None, report, Registry(web.host, patience=QUICK))
    assert store.images() == []


def test_an_interrupt_ends_a_pull_soon_and_the_next_goes_on(store: ImageStore) -> None:
    stalling = with_blob(lambda asked, answer: answer._replace(trickle=0.001))
    with loopback(stalling) as web:
        program = (
            "from minidocker.image import reference, store\n"
            "from minidocker.progress import silent\n"
            "from minidocker.registry import client, transfer\n"
            f"ref = reference.parse('{web.host}/thing')\n"
            f"images = store.ImageStore('{store.root}')\n"
            f"transfer.fetch(images, ref, None, silent, client.connect('{web.host}'))\n"
        )
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 20
        while not any(LAYER in path for path in web.paths()) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert b"KeyboardInterrupt" in errors
        assert time.monotonic() - begin < 5
    with loopback(serving(SAMPLE)) as web:
        pull(store, web.host)
        assert [asked.headers.get("Range", "") for asked in web.asked if LAYER in asked.path] != [""]
    hold(store, SAMPLE)


def test_a_full_disk_is_said_to_be_full_and_loses_nothing(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")

    def write(self: BlobWriter, data: bytes) -> None:
        raise full

    with loopback(serving(SAMPLE)) as web:
        with monkeypatch.context() as patch:
            patch.setattr(BlobWriter, "write", write)
            with pytest.raises(OSError, match="No space left on device"):
                pull(store, web.host)
        assert sum(SAMPLE.config in path for path in web.paths()) == 1
        pull(store, web.host)
    hold(store, SAMPLE)


class Download(NamedTuple):
    """A download of the first layer that does what a test says, step by step, while the layer is unpacked."""

    writer: BlobWriter
    ended: threading.Event
    failures: list[Exception]
    arriving: Arriving

    @classmethod
    def of(cls, writer: BlobWriter) -> "Download":
        """Begin it."""
        ended, failures = threading.Event(), list[Exception]()

        def wait() -> None:
            ended.wait()
            for failure in failures:
                raise failure

        return cls(writer, ended, failures, Arriving(len(SAMPLE.blobs[LAYER]), ended, wait))

    def write(self, data: bytes) -> None:
        """Let some of it arrive."""
        os.write(self.writer.fileno(), data)
        self.arriving.begin(self.writer.fileno())


@pytest.mark.parametrize("fails", [False, True])
def test_a_layer_is_unpacked_while_it_arrives_and_is_there_when_the_blob_is(store: ImageStore, fails: bool) -> None:
    diff_id, blob = json.loads(SAMPLE.blobs[SAMPLE.config])["rootfs"]["diff_ids"][0], SAMPLE.blobs[LAYER]
    with store.adding(), store.layout.writer(LAYER) as writer, ThreadPoolExecutor(1) as pool:
        download = Download.of(writer)
        download.write(blob[:3])
        unpacking = pool.submit(store.unpack, LAYER, diff_id, silent, download.arriving)
        download.write(blob[3:-1000])
        deadline = time.monotonic() + 20
        while not (begun := list(Path(store.unpacked.path).glob("*.tmp/a"))) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert begun, "unpacked before all of it has arrived"
        download.write(blob[-1000:])
        time.sleep(0.1)
        assert not unpacking.done()
        assert not store.has_layer(diff_id)
        if fails:
            download.failures.append(DigestMismatch("the blob is not what was sent"))
        download.ended.set()
        if fails:
            with pytest.raises(DigestMismatch, match="not what was sent"):
                unpacking.result(10)
            assert os.listdir(store.unpacked.path) == [f"{diff_id[7:]}.lock"]
        else:
            assert Path(unpacking.result(10), "a").read_bytes() == NOISE


def test_the_same_layer_twice(store: ImageStore) -> None:
    twice = sample_image({"a": b"1"}, {"a": b"1"}, {"b": b"2"})
    with loopback(serving(twice)) as web:
        assert pull(store, web.host).image.id == twice.config


def test_an_image_without_layers(store: ImageStore) -> None:
    empty = sample_image()
    with loopback(serving(empty)) as web:
        assert pull(store, web.host).image.id == empty.config


# Push, to our own server


@pytest.fixture
def own(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Serve a registry of our own; the host is what names begin with."""
    server = Server(str(tmp_path / "registry"), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def push(store: ImageStore, image: Image, host: str, rest: str, news: list[Progress] | None = None) -> transfer.Sent:
    report = news.append if news is not None else silent
    return transfer.send(store, image, name(host, rest), report, Registry(host, patience=QUICK))


def test_what_is_pushed_can_be_pulled_again(store: ImageStore, own: str, tmp_path: Path) -> None:
    with loopback(serving(SAMPLE)) as web:
        image = pull(store, web.host).image
    news: list[Progress] = []
    sent = push(store, image, own, "mine/thing:1.0", news)
    assert sent == (SAMPLE.digest, len(SAMPLE.manifest))
    said = lines(news)
    diff_ids = [digest[7:19] for digest in reversed(store.config(image).diff_ids)]
    assert said[0] == f"The push refers to repository [{own}/mine/thing]"
    assert said[1:6] == [f"{id}: Preparing" for id in diff_ids]
    assert {f"{id}: Pushed" for id in diff_ids} <= set(said)
    assert said[-1] == f"1.0: digest: {SAMPLE.digest} size: {len(SAMPLE.manifest)}"
    assert f"{own}/mine/thing@{SAMPLE.digest}" in store.get(image.id).digests
    other = ImageStore(str(tmp_path / "other"))
    assert pull(other, own, "mine/thing:1.0").image.id == image.id
    hold(other, SAMPLE)


def test_a_second_push_sends_nothing(store: ImageStore, own: str) -> None:
    with loopback(serving(SAMPLE)) as web:
        image = pull(store, web.host).image
    push(store, image, own, "thing:1")
    news: list[Progress] = []
    push(store, image, own, "thing:2", news)
    assert not any(item.status == "Pushing" for item in news)
    assert sum(item.status == "Layer already exists" for item in news) == 5


def test_layers_are_mounted_from_where_they_are_known_to_be(store: ImageStore) -> None:
    held: dict[str, set[str]] = {"thing": set(SAMPLE.blobs)}
    honest = serving(SAMPLE)

    def answer(asked: Asked) -> Answer:
        if asked.method in ("GET", "PUT"):
            return Answer(201) if asked.method == "PUT" else honest(asked)
        if asked.method == "HEAD":
            return Answer(404)
        if "mount=" in asked.path:
            digest, _, source = asked.path.partition("mount=")[2].partition("&from=")
            return Answer(201 if digest in held.get(source, ()) else 202, b"", {"Location": "/u"})
        return Answer(202, b"", {"Location": "/u"})

    news: list[Progress] = []
    with loopback(answer) as web:
        image = pull(store, web.host).image
        push(store, image, web.host, "fork:1", news)
    assert [item.status for item in news].count("Mounted from thing") == 5
    assert not any(item.status == "Pushing" for item in news)


def test_a_refused_push_is_worded_as_docker_words_it(store: ImageStore) -> None:
    denied = fault(403, "DENIED", "requested access to the resource is denied")
    honest = serving(SAMPLE)
    with loopback(lambda asked: honest(asked) if asked.method == "GET" else denied) as web:
        image = pull(store, web.host).image
        with pytest.raises(Refused) as caught:
            push(store, image, web.host, "thing:2")
    assert str(caught.value).startswith("denied")


def test_a_push_by_digest_is_refused(store: ImageStore) -> None:
    with loopback(serving(SAMPLE)) as web:
        image = pull(store, web.host).image
        with pytest.raises(InvalidReference, match="push a tag"):
            push(store, image, web.host, f"thing@{SAMPLE.digest}")


def test_a_damaged_blob_is_not_pushed(store: ImageStore, own: str) -> None:
    with loopback(serving(SAMPLE)) as web:
        image = pull(store, web.host).image
    os.truncate(store.layout.blob_path(LAYER), 5)
    with pytest.raises(DigestMismatch, match="damaged"):
        push(store, image, own, "thing:1")


# Side by side


def test_no_more_than_so_many_at_once() -> None:
    running, most, lock = [0], [0], threading.Lock()
    barrier = threading.Event()

    def task() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        barrier.wait(0.05)
        with lock:
            running[0] -= 1

    with SideBySide(3) as together:
        for n in range(9):
            together.start(str(n), task)
        for n in range(9):
            together.wait(str(n))
    assert most[0] == 3


def test_tasks_that_end_at_once_do_not_strand_those_that_follow() -> None:
    done: list[int] = []
    with SideBySide(3) as together:
        for n in range(500):
            together.start(str(n), functools.partial(done.append, n))
            if n % 50 == 0:
                time.sleep(0.005)
        for n in range(500):
            together.wait(str(n))
    assert sorted(done) == list(range(500))


def test_the_first_failure_wakes_whoever_waits_and_stops_the_rest() -> None:
    stopped = threading.Event()

    def fail() -> None:
        raise ValueError("first")

    def work(together: SideBySide) -> None:
        while True:
            try:
                together.check()
            except Stopped:
                stopped.set()
                raise

    with pytest.raises(ValueError, match="first"), SideBySide(2) as together:
        together.start("slow", lambda: work(together))
        together.start("bad", fail)
        together.wait("slow")
    assert stopped.wait(1)


def test_the_samples_are_what_they_say() -> None:
    assert layer_tar({"x": b"y"}) == layer_tar({"x": b"y"})
