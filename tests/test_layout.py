"""The OCI image layout: whole blobs or none, an index that survives two writers and a crash."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minidocker.errors import DigestMismatch, InvalidManifest
from minidocker.image import oci
from minidocker.image.layout import REF_NAME, Blob, Layout, ref_name
from minidocker.image.oci import Descriptor, digest_of

DATA = b"content" * 1000
DIGEST = digest_of(DATA)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(str(tmp_path / "images"))
    made.create()
    return made


def leftovers(layout: Layout) -> list[str]:
    return os.listdir(layout.ingest)


def entry(name: str) -> Descriptor:
    return Descriptor(oci.MANIFEST, digest_of(name.encode()), 1, {REF_NAME: name})


def test_a_new_layout_is_what_the_specification_says(layout: Layout) -> None:
    root = Path(layout.path)
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((root / "index.json").read_bytes()) == {
        "schemaVersion": 2,
        "mediaType": oci.INDEX,
        "manifests": [],
    }
    assert (root / "blobs" / "sha256").is_dir()


def test_creating_twice_keeps_the_images(layout: Layout) -> None:
    with layout.update_index() as entries:
        entries.append(entry("a"))
    layout.create()
    assert list(map(ref_name, layout.index())) == ["a"]


def test_no_layout_is_an_empty_one(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "none"))
    assert layout.index() == []
    assert list(layout.blobs()) == []
    assert not layout.has_blob(DIGEST)
    assert not os.path.exists(layout.path)


def test_blobs(layout: Layout) -> None:
    assert layout.add_blob(DATA) == layout.add_blob(DATA) == DIGEST
    assert layout.read_blob(DIGEST) == DATA
    assert layout.has_blob(DIGEST, len(DATA))
    assert not layout.has_blob(DIGEST, 1)
    assert list(layout.blobs()) == [DIGEST]
    assert layout.delete_blob(DIGEST) == len(DATA)
    assert not layout.has_blob(DIGEST)
    assert leftovers(layout) == []


@pytest.mark.parametrize("digest", ["sha256:../../x", "../x", "", "sha256:" + "A" * 64, "sha512:" + "a" * 128])
def test_a_hostile_digest_names_no_file(layout: Layout, digest: str) -> None:
    with pytest.raises(InvalidManifest, match="invalid digest"):
        layout.blob_path(digest)


def test_a_damaged_blob_is_found_out(layout: Layout) -> None:
    layout.add_blob(DATA)
    Path(layout.blob_path(DIGEST)).write_bytes(b"other")
    with pytest.raises(DigestMismatch, match="is damaged"):
        layout.read_blob(DIGEST)
    assert layout.add_blob(DATA) == DIGEST
    assert layout.read_blob(DIGEST) == DATA


def test_writing_without_knowing_the_digest(layout: Layout) -> None:
    with layout.writer() as blob:
        blob.write(DATA[:10])
        blob.write(memoryview(DATA)[10:])
        assert blob.commit() == Blob(DIGEST, len(DATA))
        assert blob.complete
    assert layout.read_blob(DIGEST) == DATA


@pytest.mark.parametrize("resume", [False, True])
def test_wrong_content_leaves_nothing(layout: Layout, resume: bool) -> None:
    with layout.writer(DIGEST, len(DATA), resume=resume) as blob:
        blob.write(b"x" * len(DATA))
        with pytest.raises(DigestMismatch, match="is not what was sent"):
            blob.commit()
    assert not layout.has_blob(DIGEST)
    assert leftovers(layout) == []


@pytest.mark.parametrize("resume", [False, True])
def test_too_much_content_is_stopped_at_once(layout: Layout, resume: bool) -> None:
    with (
        pytest.raises(DigestMismatch, match="longer than the 10 bytes promised"),
        layout.writer(DIGEST, 10, resume=resume) as blob,
    ):
        blob.write(DATA)
    assert leftovers(layout) == []


def test_too_little_content_is_refused(layout: Layout) -> None:
    with layout.writer(DIGEST, len(DATA)) as blob:
        blob.write(DATA[:10])
        with pytest.raises(DigestMismatch, match="ended after 10 of 7000 bytes"):
            blob.commit()
    assert leftovers(layout) == []


def test_a_broken_download_goes_on_where_it_stopped(layout: Layout) -> None:
    with pytest.raises(ConnectionError), layout.writer(DIGEST, len(DATA), resume=True) as blob:
        blob.write(DATA[:3000])
        raise ConnectionError
    with layout.writer(DIGEST, len(DATA), resume=True) as blob:
        assert blob.offset == 3000
        with pytest.raises(DigestMismatch, match="ended after 3000"):
            blob.commit()
    with layout.writer(DIGEST, len(DATA), resume=True) as blob:
        blob.write(DATA[3000:])
        blob.commit()
    assert layout.read_blob(DIGEST) == DATA
    assert leftovers(layout) == []


def test_a_sender_that_cannot_resume(layout: Layout) -> None:
    with pytest.raises(ConnectionError), layout.writer(DIGEST, resume=True) as blob:
        blob.write(b"rubbish")
        raise ConnectionError
    with layout.writer(DIGEST, resume=True) as blob:
        blob.restart()
        blob.write(DATA)
        assert blob.commit().digest == DIGEST


def test_an_upload_in_pieces(layout: Layout) -> None:
    with layout.writer(partial="upload-1") as blob:
        blob.write(DATA[:5])
    with layout.writer(partial="upload-1") as blob:
        assert blob.offset == 5
        blob.write(DATA[5:])
        assert blob.commit(DIGEST).size == len(DATA)
    for name in ("../x", "a/b", ".hidden"):
        with pytest.raises(InvalidManifest, match="invalid upload name"):
            layout.writer(partial=name)


def test_two_downloads_of_one_blob_take_turns(layout: Layout) -> None:
    started = threading.Event()

    def second() -> tuple[bool, int]:
        started.set()
        with layout.writer(DIGEST, len(DATA), resume=True) as blob:
            done = blob.complete, blob.offset
            blob.commit()
            return done

    with ThreadPoolExecutor() as pool:
        with layout.writer(DIGEST, len(DATA), resume=True) as blob:
            waiting = pool.submit(second)
            started.wait()
            blob.write(DATA)
            blob.commit()
        assert waiting.result(10) == (True, len(DATA))
    assert layout.read_blob(DIGEST) == DATA
    assert leftovers(layout) == []


def test_threads_and_processes_lose_no_entry(layout: Layout) -> None:
    program = (
        "import sys; from minidocker.image.layout import *; from minidocker.image.oci import *\n"
        "for n in range(10):\n"
        "    with Layout(sys.argv[1]).update_index() as entries:\n"
        "        entries.append(Descriptor(MANIFEST, digest_of(b''), 1, {REF_NAME: f'{sys.argv[2]}-{n}'}))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, layout.path, str(n)]) for n in range(3)]

    def append(number: int) -> None:
        with layout.update_index() as entries:
            entries.append(entry(f"thread-{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(30)))
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len({ref_name(e) for e in layout.index()}) == 60


def test_a_failed_change_changes_nothing(layout: Layout) -> None:
    with pytest.raises(KeyError), layout.update_index() as entries:
        entries.append(entry("a"))
        raise KeyError
    assert layout.index() == []


def test_what_others_wrote_into_the_index_is_kept(layout: Layout) -> None:
    path = Path(layout.path, "index.json")
    path.write_text(json.dumps({"schemaVersion": 2, "manifests": [], "annotations": {"theirs": "yes"}}))
    with layout.update_index() as entries:
        entries.append(entry("a"))
    assert json.loads(path.read_bytes())["annotations"] == {"theirs": "yes"}


@pytest.mark.parametrize("keep", [0, 1, 60])
def test_a_cut_index_says_what_to_do(layout: Layout, keep: int) -> None:
    with layout.update_index() as entries:
        entries.append(entry("a"))
    path = Path(layout.path, "index.json")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidManifest, match=r"index\.json, is broken: .*pull or load the images again"):
        layout.index()
    with pytest.raises(InvalidManifest), layout.update_index():
        pass
    assert len(path.read_bytes()) == keep


def test_a_killed_writer_leaves_the_layout_as_it_was(layout: Layout) -> None:
    program = (
        "import sys, time; from minidocker.image.layout import Layout\n"
        "with Layout(sys.argv[1]).writer() as blob:\n"
        "    blob.write(bytes(5 << 20)); print('written', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, layout.path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert list(layout.blobs()) == []
    assert len(leftovers(layout)) == 1


def test_a_full_disk_is_an_oserror_and_leaves_nothing(layout: Layout) -> None:
    """A file size limit stands in for a full disk: both fail in write(2)."""
    program = (
        "import resource, signal, sys; from minidocker.image.layout import Layout\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    with Layout(sys.argv[1]).writer() as blob:\n"
        "        for _ in range(4): blob.write(bytes(1 << 20))\n"
        "        blob.commit()\n"
        "except OSError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, layout.path], capture_output=True, text=True, check=False)
    assert "File too large" in done.stdout, done.stderr
    assert leftovers(layout) == []
    assert list(layout.blobs()) == []
