"""The embedded registry: when it stands in for docker.io, when it must not, and that nobody waits twice."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopback import Answer, Asked, Certificates, fault, loopback, make_certificates, sample_image, serving
from minidocker.errors import RegistryError
from minidocker.image import reference
from minidocker.image.store import ImageStore
from minidocker.progress import Progress, silent
from minidocker.registry import embedded, transfer
from minidocker.registry.client import Registry
from minidocker.registry.embedded import Embedded
from minidocker.registry.transport import Refused

SAMPLE = sample_image({"bin/busybox": b"box"})
HUB = "registry-1.docker.io"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return a root with an embedded registry that has busybox, and a run folder that is not there yet."""
    root, run = str(tmp_path / "root"), str(tmp_path / "run")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("MINIDOCKER_EMBEDDED", raising=False)
    monkeypatch.setattr(embedded, "DEFAULT", str(tmp_path / "none"))
    fill(f"{root}/registry")
    return root, run


def fill(path: str) -> Embedded:
    registry = Embedded(path)
    for digest, blob in SAMPLE.blobs.items():
        import io

        registry.upload("library/busybox", digest, len(blob), io.BytesIO(blob), lambda sent: None)
    registry.put_manifest("library/busybox", "latest", SAMPLE.manifest, SAMPLE.media_type)
    return registry


class Names:
    """A name server of the test's own: what docker.io's registry resolves to, after how long, and how often asked."""

    def __init__(self, port: int = 0, hang: float = 0) -> None:
        self.port, self.hang, self.asked = port, hang, 0
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host != HUB:
            return self._real(host, port, *args, **kwargs)
        self.asked += 1
        time.sleep(self.hang)
        if not self.port:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._real("127.0.0.1", self.port, *args, **kwargs)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(str(tmp_path_factory.mktemp("tls")), f"DNS:{HUB}")


@pytest.fixture
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    monkeypatch.setenv("MINIDOCKER_CA_FILE", certificates.authority)
    return certificates


def source(name: str, folders: tuple[str, str], news: list[Progress] | None = None) -> transfer.Source:
    report = news.append if news is not None else silent
    return embedded.source_for(reference.parse(name), *folders, report)


def test_an_unknown_host_gives_the_embedded_image_and_one_line_about_it(folders: tuple[str, str], names: Names) -> None:
    news: list[Progress] = []
    found = source("busybox", folders, news)
    assert isinstance(found, Embedded)
    assert len(news) == 1
    assert "docker.io cannot be reached" in news[0].status
    assert "no such host: registry-1.docker.io" in news[0].status
    assert "busybox:latest is taken from the embedded registry" in news[0].status
    assert "\n" not in news[0].status


@pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root")
def test_the_embedded_image_is_pulled_under_its_own_name(folders: tuple[str, str], names: Names) -> None:
    store, ref = ImageStore(folders[0]), reference.parse("busybox")
    done = transfer.fetch(store, ref, None, silent, source("busybox", folders))
    assert done.image.tags == ("docker.io/library/busybox:latest",)
    by_digest = f"busybox@{SAMPLE.digest}"
    again = transfer.fetch(store, reference.parse(by_digest), None, silent, source(by_digest, folders))
    assert again.image.id == done.image.id


def test_a_name_server_that_hangs_is_waited_for_three_seconds_and_only_once(
    folders: tuple[str, str], names: Names
) -> None:
    names.hang = 30
    begin = time.monotonic()
    news: list[Progress] = []
    assert isinstance(source("busybox", folders, news), Embedded)
    assert 2.5 < time.monotonic() - begin < 5
    assert "no answer from registry-1.docker.io within 3 seconds" in news[0].status
    begin = time.monotonic()
    assert isinstance(source("busybox", folders), Embedded)
    assert time.monotonic() - begin < 0.5
    assert names.asked == 1


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_registry_that_takes_the_call_and_says_nothing(
    folders: tuple[str, str], names: Names, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.port = silent_port
    monkeypatch.setattr(embedded, "WAIT", 0.5)
    assert isinstance(source("busybox", folders), Embedded)


def test_after_ten_minutes_it_is_tried_again(folders: tuple[str, str], names: Names) -> None:
    source("busybox", folders)
    source("busybox", folders)
    assert names.asked == 1
    note = embedded.note_path(folders[1], "docker.io")
    assert embedded.recall(folders[1], "docker.io")
    old = time.time() - embedded.REMEMBERED - 1
    os.utime(note, (old, old))
    assert not embedded.recall(folders[1], "docker.io")
    source("busybox", folders)
    assert names.asked == 2


def test_a_note_from_the_future_does_not_count(folders: tuple[str, str], names: Names) -> None:
    embedded.remember(folders[1], "docker.io", "x")
    os.utime(embedded.note_path(folders[1], "docker.io"), (time.time() + 9999,) * 2)
    assert not embedded.recall(folders[1], "docker.io")


def test_docker_io_is_used_when_it_answers_and_the_note_is_forgotten(
    folders: tuple[str, str], names: Names, trusted: Certificates
) -> None:
    embedded.remember(folders[1], "docker.io", "x")
    old = time.time() - embedded.REMEMBERED - 1
    os.utime(embedded.note_path(folders[1], "docker.io"), (old, old))
    with loopback(serving(SAMPLE, "library/busybox"), trusted) as hub:
        names.port = hub.port
        found = source("busybox", folders)
        assert isinstance(found, Registry)
        assert found.manifest("library/busybox", "latest").digest == SAMPLE.digest
    assert not os.path.exists(embedded.note_path(folders[1], "docker.io"))


@pytest.mark.parametrize(
    "answer", [fault(404, "MANIFEST_UNKNOWN", "manifest unknown"), fault(403, "DENIED", "requested access is denied")]
)
def test_a_no_of_docker_io_is_an_answer(
    folders: tuple[str, str], names: Names, trusted: Certificates, answer: Answer
) -> None:
    def hub_answer(asked: Asked) -> Answer:
        return Answer() if asked.path == "/v2/" else answer

    with loopback(hub_answer, trusted) as hub:
        names.port = hub.port
        found = source("busybox", folders)
        with pytest.raises(Refused):
            transfer.fetch(ImageStore(folders[0]), reference.parse("busybox"), None, silent, found)


def test_what_neither_has_is_told_with_what_there_is(folders: tuple[str, str], names: Names) -> None:
    with pytest.raises(RegistryError) as caught:
        source("ubuntu:14.04", folders)
    message = str(caught.value)
    assert message.startswith("pull ubuntu:14.04: docker.io was asked and cannot be reached (")
    for part in (HUB, "no such host", f"{folders[0]}/registry does not have it", "it has: busybox:latest", "What next"):
        assert part in message


def test_without_an_embedded_registry(tmp_path: Path, folders: tuple[str, str], names: Names) -> None:
    with pytest.raises(RegistryError, match="no embedded registry.*make setup"):
        source("busybox", (str(tmp_path / "elsewhere"), folders[1]))


def test_only_docker_io_has_a_stand_in(folders: tuple[str, str], names: Names) -> None:
    found = source("registry.invalid/library/busybox", folders)
    with pytest.raises(RegistryError, match="no such host: registry.invalid"):
        found.manifest("library/busybox", "latest")


def test_where_the_embedded_registry_is(
    tmp_path: Path, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = embedded.find(folders[0])
    assert found
    assert found.path == f"{folders[0]}/registry"
    fill(str(tmp_path / "named"))
    monkeypatch.setenv("MINIDOCKER_EMBEDDED", str(tmp_path / "named"))
    found = embedded.find(folders[0])
    assert found
    assert (found.path, found.names()) == (str(tmp_path / "named"), ["busybox:latest"])
    assert embedded.find(str(tmp_path / "x")) is not None
    monkeypatch.delenv("MINIDOCKER_EMBEDDED")
    assert embedded.find(str(tmp_path / "x")) is None


def test_two_at_once_are_not_confused(folders: tuple[str, str], names: Names) -> None:
    found: list[transfer.Source] = []
    threads = [threading.Thread(target=lambda: found.append(source("busybox", folders))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(isinstance(one, Embedded) for one in found)
