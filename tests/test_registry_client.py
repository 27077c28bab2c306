"""The client against registries that are down, slow, lying, cut off, or thieves; and what it asks of good ones."""

import io
import json
import socket
import time
from pathlib import Path

import pytest

from loopback import Answer, Asked, Certificates, fault, index_of, loopback, make_certificates, sample_image, serving
from minidocker import explain
from minidocker.errors import DigestMismatch, InvalidManifest, RegistryError
from minidocker.image import oci
from minidocker.registry import transport
from minidocker.registry.auth import Credentials
from minidocker.registry.client import Registry
from minidocker.registry.transport import Patience, Temporary, Unreachable

QUICK = Patience(connect=5, idle=5, attempts=3, pause=0.01)
SAMPLE = sample_image({"a": b"1" * 100000})
BLOB = SAMPLE.layers[0]
ANNA = Credentials("anna", "secret")


def connect(host: str, patience: Patience = QUICK) -> Registry:
    return Registry(host, patience=patience)


def in_turn(*answers: Answer, then: Answer | None = None):  # type: ignore[no-untyped-def]
    """Return an answer function that gives these in turn to all but the greeting, then always the last."""
    left = list(answers)

    def answer(asked: Asked) -> Answer:
        if asked.path == "/v2/":
            return Answer()
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


MANIFEST = Answer(200, SAMPLE.manifest, {"Content-Type": SAMPLE.media_type})


# Manifests


def test_a_manifest_comes_as_it_is() -> None:
    with loopback(serving(SAMPLE)) as web:
        for reference in ("latest", SAMPLE.digest):
            found = connect(web.host).manifest("thing", reference)
            assert found == (SAMPLE.manifest, SAMPLE.media_type, SAMPLE.digest)
        accept = web.asked[-1].headers["Accept"]
    assert all(kind in accept for kind in (*oci.MANIFESTS, *oci.INDEXES))


def test_an_index_without_a_content_type_is_known_by_its_own_words() -> None:
    index = index_of((SAMPLE, "linux/amd64"))
    with loopback(in_turn(Answer(200, index, {"Content-Type": "application/json"}))) as web:
        assert connect(web.host).manifest("thing", "latest").media_type == oci.INDEX


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (MANIFEST._replace(body=SAMPLE.manifest + b" "), DigestMismatch, "not what was promised"),
        (Answer(200, b"[]", {"Content-Type": oci.MANIFEST}), DigestMismatch, "not what was promised"),
    ],
)
def test_a_lying_manifest_by_digest(answer: Answer, kind: type[Exception], words: str) -> None:
    with loopback(in_turn(answer)) as web, pytest.raises(kind, match=words):
        connect(web.host).manifest("thing", SAMPLE.digest)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            MANIFEST._replace(headers={**MANIFEST.headers, "Docker-Content-Digest": "sha256:" + "0" * 64}),
            DigestMismatch,
            "want sha256:000",
        ),
        (MANIFEST._replace(headers={"Content-Type": oci.INDEX}), InvalidManifest, "says of itself"),
        (Answer(200, b"<html>", {"Content-Type": "text/html"}), InvalidManifest, "neither an image"),
        (Answer(200, b"", {}), InvalidManifest, "neither an image"),
        (Answer(200, b"[" * 100000, {}), InvalidManifest, "neither an image"),
        (Answer(200, b'{"schemaVersion": 1}', {"Content-Type": oci.DOCKER_SCHEMA_1[1]}), InvalidManifest, "schema 1"),
        (Answer(200, b'{"schemaVersion": 1}', {"Content-Type": "application/json"}), InvalidManifest, "push it again"),
        (MANIFEST._replace(body=b" " * (transport.MAX_DOCUMENT + 1)), RegistryError, "larger than"),
    ],
)
def test_what_is_no_manifest(answer: Answer, kind: type[Exception], words: str) -> None:
    with loopback(in_turn(answer)) as web, pytest.raises(kind, match=words):
        connect(web.host).manifest("thing", "latest")


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (fault(404, "MANIFEST_UNKNOWN", "manifest unknown"), "manifest unknown", "manifest unknown: manifest unknown"),
        (fault(403, "DENIED", "no"), "denied", "denied: no"),
        (Answer(404, b"<html>"), "not found", "not found"),
        (Answer(404, b'{"errors": {}}'), "not found", "not found"),
        (Answer(404, b'{"errors": [7]}'), "not found", "not found"),
        (Answer(418, b""), "418 I'm a Teapot", "418"),
        (
            Answer(401, b"", {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/",error="insufficient_scope"'}),
            "",
            "connection refused",
        ),
    ],
)
def test_refusals_are_not_asked_again(answer: Answer, code: str, words: str) -> None:
    with loopback(in_turn(answer)) as web:
        with pytest.raises(RegistryError, match=words) as caught:
            connect(web.host).manifest("thing", "latest")
        assert getattr(caught.value, "code", "") == code
        assert len(web.paths()) == 1 or not code


# Trouble on the way


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_overloaded_registry_is_asked_again(status: int) -> None:
    with loopback(in_turn(Answer(status), Answer(status), MANIFEST)) as web:
        assert connect(web.host).manifest("thing", "latest").digest == SAMPLE.digest
        assert len(web.paths()) == 3


def test_but_not_for_ever() -> None:
    with loopback(in_turn(Answer(503))) as web:
        with pytest.raises(RegistryError, match="answers 503"):
            connect(web.host).manifest("thing", "latest")
        assert len(web.paths()) == QUICK.attempts


def test_retry_after_is_waited_for_but_only_if_it_is_short() -> None:
    with loopback(in_turn(Answer(429, b"", {"Retry-After": "1"}), MANIFEST)) as web:
        begin = time.monotonic()
        connect(web.host).manifest("thing", "latest")
        assert time.monotonic() - begin >= 1
    with loopback(in_turn(Answer(429, b"", {"Retry-After": "3600"}))) as web:
        with pytest.raises(RegistryError, match="429"):
            connect(web.host).manifest("thing", "latest")
        assert len(web.paths()) == 1


def test_a_greeting_that_fails_for_a_moment_is_repeated() -> None:
    answers = [Answer(503), Answer()]
    with loopback(lambda asked: answers.pop(0) if asked.path == "/v2/" else MANIFEST) as web:
        assert connect(web.host).manifest("thing", "latest").digest == SAMPLE.digest


def test_a_manifest_that_is_cut_off_is_asked_for_again() -> None:
    with loopback(in_turn(MANIFEST._replace(cut=50), MANIFEST)) as web:
        assert connect(web.host).manifest("thing", "latest").digest == SAMPLE.digest


def test_a_registry_that_is_down_is_said_to_be_down_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(Unreachable, match=f"http://{host}/v2/: connection refused"):
        connect(host, Patience()).manifest("thing", "latest")
    assert time.monotonic() - begin < 1


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(Unreachable, match="no such host: registry.invalid"):
        connect("registry.invalid").manifest("thing", "latest")


def test_a_registry_that_stalls_is_said_to_stall() -> None:
    patience = Patience(idle=0.3, attempts=2, pause=0.01)
    with (
        loopback(in_turn(MANIFEST._replace(stall=2))) as web,
        pytest.raises(RegistryError, match="stalled: nothing came"),
    ):
        connect(web.host, patience).manifest("thing", "latest")


def test_a_registry_that_trickles_is_too_slow() -> None:
    patience = Patience(idle=0.5, attempts=1, pause=0.01)
    slow = MANIFEST._replace(trickle=0.02)
    with loopback(in_turn(slow)) as web, pytest.raises(RegistryError, match="too slow: .* bytes in"):
        connect(web.host, patience).manifest("thing", "latest")


def test_a_web_server_that_is_no_registry() -> None:
    with loopback(lambda asked: Answer(404, b"<html>")) as web, pytest.raises(RegistryError, match="it is no registry"):
        connect(web.host).manifest("thing", "latest")


def test_something_that_does_not_speak_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def babble() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                client.sendall(b"SSH-2.0-hello\r\n\r\n")
                client.close()

        threading.Thread(target=babble, daemon=True).start()
        with pytest.raises(RegistryError, match="cut off"):
            connect(f"127.0.0.1:{server.getsockname()[1]}").manifest("thing", "latest")
        server.shutdown(socket.SHUT_RDWR)


# Blobs


def test_a_blob_streams_and_goes_on_from_the_middle() -> None:
    with loopback(serving(SAMPLE)) as web:
        registry = connect(web.host)
        begin, chunks = registry.blob("thing", BLOB)
        assert (begin, b"".join(chunks)) == (0, SAMPLE.blobs[BLOB])
        begin, chunks = registry.blob("thing", BLOB, 7)
        assert (begin, b"".join(chunks)) == (7, SAMPLE.blobs[BLOB][7:])


def test_a_registry_without_ranges_begins_again() -> None:
    with loopback(in_turn(Answer(200, SAMPLE.blobs[BLOB]))) as web:
        begin, chunks = connect(web.host).blob("thing", BLOB, 7)
        assert (begin, b"".join(chunks)) == (0, SAMPLE.blobs[BLOB])


@pytest.mark.parametrize("span", ["bytes 8-9/10", "", "nonsense"])
def test_a_registry_that_answers_with_another_range(span: str) -> None:
    with loopback(in_turn(Answer(206, b"xx", {"Content-Range": span}))) as web:
        with pytest.raises(RegistryError, match="another range"):
            connect(web.host).blob("thing", BLOB, 7)


def test_a_blob_that_is_cut_off_raises_after_what_has_come() -> None:
    body = SAMPLE.blobs[BLOB]
    got = b""
    with loopback(in_turn(Answer(200, body, cut=60))) as web:
        _, chunks = connect(web.host).blob("thing", BLOB)
        with pytest.raises(Temporary, match="cut off"):
            for chunk in chunks:
                got += chunk
    assert got == body[:60]


def test_a_blob_that_claims_to_be_encoded_is_left_as_it_is() -> None:
    with loopback(in_turn(Answer(200, SAMPLE.blobs[BLOB], {"Content-Encoding": "gzip"}))) as web:
        _, chunks = connect(web.host).blob("thing", BLOB)
        assert b"".join(chunks) == SAMPLE.blobs[BLOB]


def test_connections_are_used_again() -> None:
    connections = set()
    with loopback(serving(SAMPLE)) as web:
        real = web.server.process_request

        def count(request: socket.socket, address: tuple[str, int]) -> None:
            connections.add(address)
            real(request, address)

        web.server.process_request = count  # type: ignore[method-assign, assignment]
        registry = connect(web.host)
        for _ in range(5):
            registry.manifest("thing", "latest")
            _, chunks = registry.blob("thing", BLOB)
            assert b"".join(chunks)
            assert registry.has_blob("thing", BLOB)
    assert len(connections) == 2  # the first tried TLS


# Redirects


def to(location: str, status: int = 307) -> Answer:
    return Answer(status, b"moved", {"Location": location})


def guarded(then: Answer):  # type: ignore[no-untyped-def]
    """Return a registry that lets anna in and then answers so."""

    def answer(asked: Asked) -> Answer:
        if asked.headers.get("Authorization") != ANNA.basic:
            return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="r"'})
        return then

    return answer


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_credentials_to_another_host(name: str, status: int) -> None:
    def thief_answer(asked: Asked) -> Answer:
        return Answer(200, SAMPLE.blobs[BLOB], {"WWW-Authenticate": 'Basic realm="give me"'})

    with loopback(thief_answer) as thief:
        with loopback(guarded(to(f"http://{name}:{thief.port}/loot?signature=x", status))) as web:
            _, chunks = Registry(web.host, credentials=ANNA, patience=QUICK).blob("thing", BLOB)
            assert b"".join(chunks) == SAMPLE.blobs[BLOB]
        assert [asked.headers.get("Authorization") for asked in thief.asked] == [None]


def test_a_stranger_that_asks_for_credentials_gets_none() -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="give me"'}
    with loopback(lambda asked: Answer(401, b"", challenge)) as thief:
        with loopback(guarded(to(f"http://{thief.host}/loot"))) as web, pytest.raises(RegistryError):
            Registry(web.host, credentials=ANNA, patience=QUICK).blob("thing", BLOB)
        assert all("Authorization" not in asked.headers for asked in thief.asked)


def test_a_redirect_within_the_registry_keeps_the_credentials() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.headers.get("Authorization") != ANNA.basic:
            return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="r"'})
        return Answer(200, b"here") if asked.path == "/elsewhere" else to("/elsewhere")

    with loopback(answer) as web:
        _, chunks = Registry(web.host, credentials=ANNA, patience=QUICK).blob("thing", BLOB)
        assert b"".join(chunks) == b"here"


def test_redirects_in_a_circle_end() -> None:
    with loopback(in_turn(to("/round/and/round"))) as web, pytest.raises(RegistryError, match="more than 5 times"):
        connect(web.host).blob("thing", BLOB)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://[/", "gopher:x"])
def test_a_redirect_to_what_is_not_http(target: str) -> None:
    with loopback(in_turn(to(target))) as web, pytest.raises(RegistryError):
        connect(web.host).blob("thing", BLOB)


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(str(tmp_path_factory.mktemp("tls")))


def test_https_with_an_authority_of_ones_own(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_CA_FILE", certificates.authority)
    with loopback(serving(SAMPLE), certificates) as web:
        registry = connect(web.host)
        assert registry.manifest("thing", "latest").digest == SAMPLE.digest
        assert registry.session.base.startswith("https://")


def test_an_authority_in_dockers_folder(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transport, "CERTIFICATES", str(tmp_path))
    monkeypatch.setattr(transport, "is_loopback", lambda host: False)
    with loopback(serving(SAMPLE), certificates) as web:
        (tmp_path / web.host).mkdir()
        (tmp_path / web.host / "ca.crt").write_text(Path(certificates.authority).read_text())
        assert connect(web.host).manifest("thing", "latest").digest == SAMPLE.digest


def test_a_certificate_that_nobody_vouches_for(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "is_loopback", lambda host: False)
    with loopback(serving(SAMPLE), certificates) as web:
        with pytest.raises(Unreachable, match=r"certificate is not trusted .*certs.d/127"):
            connect(web.host).manifest("thing", "latest")


def test_a_wrong_authority_is_not_overridden_by_being_on_loopback(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINIDOCKER_CA_FILE", make_certificates(str(tmp_path)).authority)
    with loopback(serving(SAMPLE), certificates) as web:
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            connect(web.host).manifest("thing", "latest")
        assert not web.asked


def test_on_loopback_any_certificate_does_as_for_docker(certificates: Certificates) -> None:
    with loopback(serving(SAMPLE), certificates) as web:
        assert connect(web.host).manifest("thing", "latest").digest == SAMPLE.digest


def test_a_remote_registry_that_speaks_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "is_loopback", lambda host: False)
    with loopback(serving(SAMPLE)) as web:
        with pytest.raises(Unreachable, match=f"speaks plain HTTP.*--insecure-registry {web.host}"):
            connect(web.host).manifest("thing", "latest")
        assert not web.asked
        monkeypatch.setenv("MINIDOCKER_INSECURE_REGISTRIES", f"other:1, {web.host}")
        assert connect(web.host).manifest("thing", "latest").digest == SAMPLE.digest


def test_nothing_goes_from_https_to_http(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_CA_FILE", certificates.authority)
    with loopback(serving(SAMPLE)) as plain, loopback(in_turn(to(f"http://{plain.host}/x")), certificates) as web:
        with pytest.raises(RegistryError, match="refused to go on to http://.*not HTTPS"):
            connect(web.host).blob("thing", BLOB)
        assert not plain.asked


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.8.7:80", True),
        ("127.0.0.1.example.com", False),
        ("127.example.com:5000", False),
        ("localhost.example.com", False),
        ("docker.io", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, expected: bool) -> None:
    assert transport.is_loopback(host) is expected


# Writing


class Uploads:
    """A registry that takes uploads; `broken` is how many chunks fail first."""

    def __init__(self, broken: int = 0, minimum: str = "") -> None:
        self.broken, self.minimum, self.data, self.started = broken, minimum, b"", 0

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/v2/":
            return Answer()
        if asked.method == "POST":
            self.started += 1
            self.data = b""
            return Answer(202, b"", {"Location": "/upload/1?state=a", "OCI-Chunk-Min-Length": self.minimum})
        if asked.method == "PATCH":
            if self.broken:
                self.broken -= 1
                return Answer(502)
            begin, end = asked.headers["Content-Range"].split("-")
            assert (int(begin), int(end)) == (len(self.data), len(self.data) + len(asked.body) - 1)
            self.data += asked.body
            return Answer(202, b"", {"Location": f"/upload/1?state={len(self.data)}"})
        self.data += asked.body
        return Answer(201 if asked.method == "PUT" else 404)


def test_a_small_blob_goes_in_one_piece() -> None:
    uploads = Uploads()
    sent: list[int] = []
    with loopback(uploads) as web:
        connect(web.host).upload("thing", BLOB, 5, io.BytesIO(b"hello"), sent.append)
        assert web.paths("PUT") == [f"/upload/1?state=a&digest={BLOB}"]
        assert not web.paths("PATCH")
    assert (uploads.data, sent) == (b"hello", [5])


@pytest.mark.parametrize("minimum", ["", "6000000", "nonsense"])
def test_a_large_blob_goes_in_chunks(minimum: str) -> None:
    data = bytes(range(256)) * 40000
    uploads = Uploads(minimum=minimum)
    sent: list[int] = []
    with loopback(uploads) as web:
        connect(web.host).upload("thing", BLOB, len(data), io.BytesIO(data), sent.append)
        assert len(web.paths("PATCH")) == (1 if minimum == "6000000" else 2)
    assert uploads.data == data
    assert sent[-1] == len(data)


def test_an_upload_that_fails_begins_again() -> None:
    data = b"x" * 9_000_000
    uploads = Uploads(broken=2)
    with loopback(uploads) as web:
        connect(web.host).upload("thing", BLOB, len(data), io.BytesIO(data))
    assert (uploads.data, uploads.started) == (data, 3)


def test_an_upload_that_is_never_taken_ends() -> None:
    with loopback(Uploads(broken=99)) as web, pytest.raises(RegistryError, match="502"):
        connect(web.host).upload("thing", BLOB, 9_000_000, io.BytesIO(b"x" * 9_000_000))


def test_an_upload_address_elsewhere_gets_no_credentials() -> None:
    with loopback(Uploads()) as store:
        with loopback(guarded(Answer(202, b"", {"Location": f"http://{store.host}/u"}))) as web:
            Registry(web.host, credentials=ANNA, patience=QUICK).upload("thing", BLOB, 1, io.BytesIO(b"x"))
        assert all("Authorization" not in asked.headers for asked in store.asked)


def test_a_registry_that_does_not_say_where_to() -> None:
    with loopback(in_turn(Answer(202))) as web, pytest.raises(RegistryError, match="does not say where to"):
        connect(web.host).upload("thing", BLOB, 1, io.BytesIO(b"x"))


def test_a_mount_that_is_not_granted_is_cancelled() -> None:
    with loopback(in_turn(Answer(202, b"", {"Location": "/upload/9"}), Answer(204))) as web:
        assert not connect(web.host).mount("thing", BLOB, "other")
        assert web.paths("DELETE") == ["/upload/9"]
        assert web.paths("POST") == [f"/v2/thing/blobs/uploads/?mount={BLOB}&from=other"]
    with loopback(in_turn(Answer(201))) as web:
        assert connect(web.host).mount("thing", BLOB, "other")


# Lists


def test_tags_come_in_pages() -> None:
    def answer(asked: Asked) -> Answer:
        if "last=" in asked.path:
            return Answer(200, b'{"tags": ["c"]}')
        link = {"Link": '</v2/thing/tags/list?last=b&n=2>; rel="next"'}
        return Answer(200, json.dumps({"tags": ["a", "b", 7]}).encode(), link)

    with loopback(answer) as web:
        assert connect(web.host).tags("thing") == ["a", "b", "c"]


def test_an_empty_repository_and_nonsense_have_no_tags() -> None:
    for body in (b'{"tags": null}', b"{}", b"x"):
        with loopback(in_turn(Answer(200, body))) as web:
            assert connect(web.host).tags("thing") == []


# Explaining


def test_every_request_is_explained_and_no_secret_told() -> None:
    told: list[str] = []
    explain.listen(lambda kernel, shell: told.append(f"{kernel} | {shell}"))
    try:
        with loopback(guarded(MANIFEST)) as web:
            Registry(web.host, credentials=ANNA, patience=QUICK).manifest("thing", "latest")
    finally:
        explain.listen(None)
    assert any(f"GET http://{web.host}/v2/thing/manifests/latest | curl" in line for line in told)
    assert not any(ANNA.basic.split()[1] in line for line in told)
