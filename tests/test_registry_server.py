"""The registry server, request by request: what the distribution specification asks of it, and what it must refuse."""

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from loopback import Sample, index_of, sample_image
from minidocker.errors import InvalidArgument
from minidocker.image import oci
from minidocker.registry.depot import Depot, Fault
from minidocker.registry.htpasswd import Passwords
from minidocker.registry.server import Server, serve
from minidocker.registry.wire import parse_content_range, parse_range

SAMPLE = sample_image({"a": b"1" * 1000}, {"b": b"2"})
NO_DIGEST = "sha256:" + "0" * 64


class Client:
    """A plain HTTP client that keeps its connection, so that a body left unread would show."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named, encode_chunked="Transfer-Encoding" in named)
        response = self.connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def push(self, repository: str, tag: str, sample: Sample = SAMPLE) -> None:
        for digest, blob in sample.blobs.items():
            assert self("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", blob)[0] == 201
        path = f"/v2/{repository}/manifests/{tag}"
        assert self("PUT", path, sample.manifest, Content_Type=sample.media_type)[0] == 201

    def error(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        status, _, data = self(method, path, body, **headers)
        return status, json.loads(data)["errors"][0]["code"]


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "registry")


@pytest.fixture
def server(root: str) -> Iterator[Server]:
    server = Server(root, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(server: Server) -> Client:
    return Client(server.server_port)


def test_it_says_that_it_is_a_registry(ask: Client) -> None:
    for path in ("/v2/", "/v2"):
        status, headers, _ = ask("GET", path)
        assert (status, headers["docker-distribution-api-version"]) == (200, "registry/2.0")


def test_push_and_pull(ask: Client) -> None:
    ask.push("some/thing", "1.0")
    for reference in ("1.0", SAMPLE.digest):
        status, headers, data = ask("GET", f"/v2/some/thing/manifests/{reference}")
        assert (status, data, headers["content-type"]) == (200, SAMPLE.manifest, SAMPLE.media_type)
        assert headers["docker-content-digest"] == SAMPLE.digest
        status, headers, data = ask("HEAD", f"/v2/some/thing/manifests/{reference}")
        assert (status, data, headers["content-length"]) == (200, b"", str(len(SAMPLE.manifest)))
    for digest, blob in SAMPLE.blobs.items():
        assert ask("GET", f"/v2/some/thing/blobs/{digest}")[2] == blob
        status, headers, data = ask("HEAD", f"/v2/some/thing/blobs/{digest}")
        assert (status, data, headers["content-length"]) == (200, b"", str(len(blob)))


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (SAMPLE.media_type, 200),
        (f"{oci.MANIFEST}, {SAMPLE.media_type};q=0.5", 200),
        ("*/*", 200),
        ("", 200),
        (oci.MANIFEST, 404),
    ],
)
def test_a_client_gets_only_what_it_can_read(ask: Client, accept: str, status: int) -> None:
    ask.push("thing", "1")
    assert ask("GET", "/v2/thing/manifests/1", None, Accept=accept)[0] == status


def test_an_upload_in_chunks(ask: Client) -> None:
    data = os.urandom(100_000)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    status, headers, _ = ask("POST", "/v2/thing/blobs/uploads/")
    assert (status, headers["range"]) == (202, "0-0")
    where = headers["location"]
    status, headers, _ = ask("PATCH", where, data[:40_000], Content_Range="0-39999")
    assert (status, headers["range"]) == (202, "0-39999")
    assert ask.error("PATCH", where, data[50_000:60_000], Content_Range="50000-59999") == (416, "BLOB_UPLOAD_INVALID")
    status, headers, _ = ask("GET", where)
    assert (status, headers["range"]) == (204, "0-39999")
    status, headers, _ = ask("PATCH", headers["location"], data[40_000:90_000], Content_Range="40000-89999")
    assert (status, headers["range"]) == (202, "0-89999")
    status, headers, _ = ask("PUT", f"{headers['location']}?digest={digest}", data[90_000:])
    assert (status, headers["docker-content-digest"]) == (201, digest)
    assert ask("GET", headers["location"])[2] == data
    assert ask.error("GET", where) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_as_docker_sends_it(ask: Client) -> None:
    data = os.urandom(100_000)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    where = ask("POST", "/v2/thing/blobs/uploads/")[1]["location"]
    pieces = iter([data[:10], data[10:70_000], data[70_000:]])
    status, headers, _ = ask("PATCH", where, pieces, Transfer_Encoding="chunked")
    assert (status, headers["range"]) == (202, "0-99999")
    assert ask("PUT", f"{where}?digest={digest}")[0] == 201


def test_a_cancelled_upload_is_gone(ask: Client, root: str) -> None:
    where = ask("POST", "/v2/thing/blobs/uploads/")[1]["location"]
    assert ask("DELETE", where)[0] == 204
    assert ask.error("PATCH", where, b"x") == (404, "BLOB_UPLOAD_UNKNOWN")
    assert os.listdir(f"{root}/ingest") == []


def test_an_upload_outlives_the_server(ask: Client, server: Server, root: str) -> None:
    where = ask("POST", "/v2/thing/blobs/uploads/")[1]["location"]
    ask("PATCH", where, b"hel")
    again = Depot(root)
    upload = where.rpartition("/")[2]
    assert again.append(upload, [b"lo"], 3) == 5
    again.finish_upload(upload, oci.digest_of(b"hello"))
    assert ask("GET", f"/v2/thing/blobs/{oci.digest_of(b'hello')}")[2] == b"hello"


def test_a_client_that_goes_away_in_the_middle_can_go_on(ask: Client, server: Server) -> None:
    where = ask("POST", "/v2/thing/blobs/uploads/")[1]["location"]
    with socket.create_connection(("127.0.0.1", server.server_port)) as raw:
        raw.sendall(f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhello".encode())
        time.sleep(0.2)
    time.sleep(0.2)
    assert ask("GET", where)[1]["range"] == "0-4"


@pytest.mark.parametrize("digest", [NO_DIGEST, "sha256:x", "md5:abc", "../../x", ""])
def test_a_blob_that_is_not_its_digest_is_refused(ask: Client, root: str, digest: str) -> None:
    where = ask("POST", "/v2/thing/blobs/uploads/")[1]["location"]
    assert ask.error("PUT", f"{where}?digest={digest}", b"hello") == (400, "DIGEST_INVALID")
    assert os.listdir(f"{root}/blobs/sha256") == []


def test_a_mount_takes_over_what_is_here(ask: Client) -> None:
    ask.push("thing", "1")
    digest = SAMPLE.layers[0]
    status, headers, _ = ask("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=thing")
    assert (status, headers["location"]) == (201, f"/v2/other/blobs/{digest}")
    assert ask("POST", f"/v2/other/blobs/uploads/?mount={NO_DIGEST}&from=thing")[0] == 202


@pytest.mark.parametrize(
    ("asked", "status", "span", "expected"),
    [
        ("bytes=0-0", 206, slice(0, 1), "bytes 0-0/{}"),
        ("bytes=5-", 206, slice(5, None), None),
        ("bytes=-5", 206, slice(-5, None), None),
        ("bytes=2-999999", 206, slice(2, None), None),
        ("bytes=0-", 200, slice(0, None), None),
        ("apples=1-2", 200, slice(0, None), None),
    ],
)
def test_ranges(ask: Client, asked: str, status: int, span: slice, expected: str | None) -> None:
    ask.push("thing", "1")
    blob = SAMPLE.blobs[SAMPLE.layers[0]]
    got, headers, data = ask("GET", f"/v2/thing/blobs/{SAMPLE.layers[0]}", None, Range=asked)
    assert (got, data) == (status, blob[span])
    if expected:
        assert headers["content-range"] == expected.format(len(blob))
    assert ask("GET", "/v2/")[0] == 200


def test_a_range_outside(ask: Client) -> None:
    ask.push("thing", "1")
    assert ask.error("GET", f"/v2/thing/blobs/{SAMPLE.layers[0]}", None, Range="bytes=999999-") == (
        416,
        "RANGE_INVALID",
    )


def test_range_headers_are_read_as_written() -> None:
    assert parse_range("", 10) == (0, 10)
    assert parse_range("bytes=3-5", 10) == (3, 6)
    assert parse_content_range("") == -1
    assert parse_content_range("3-5") == 3
    assert parse_content_range("bytes 3-5/*") == 3
    with pytest.raises(Fault):
        parse_content_range("x-5")


# Manifests that are refused


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        (b"", oci.MANIFEST, "MANIFEST_INVALID"),
        (b"{", oci.MANIFEST, "MANIFEST_INVALID"),
        (SAMPLE.manifest, oci.INDEX, "MANIFEST_INVALID"),
        (SAMPLE.manifest, oci.MANIFEST, "MANIFEST_INVALID"),
        (b'{"schemaVersion": 1}', oci.DOCKER_SCHEMA_1[0], "MANIFEST_INVALID"),
        (SAMPLE.manifest, SAMPLE.media_type, "MANIFEST_BLOB_UNKNOWN"),
        (index_of((SAMPLE, "linux/amd64")), oci.INDEX, "MANIFEST_BLOB_UNKNOWN"),
    ],
)
def test_manifests_that_are_refused(ask: Client, data: bytes, kind: str, code: str) -> None:
    assert ask.error("PUT", "/v2/thing/manifests/1", data, Content_Type=kind) == (400, code)
    assert ask.error("GET", "/v2/thing/manifests/1") == (404, "MANIFEST_UNKNOWN")


def test_a_manifest_under_a_wrong_digest(ask: Client) -> None:
    ask.push("thing", "1")
    refused = ask.error("PUT", f"/v2/thing/manifests/{NO_DIGEST}", SAMPLE.manifest, Content_Type=SAMPLE.media_type)
    assert refused == (400, "DIGEST_INVALID")


def test_a_manifest_that_is_too_large(ask: Client) -> None:
    assert ask.error("PUT", "/v2/thing/manifests/1", b" " * 5_000_000) == (413, "SIZE_INVALID")
    assert ask("GET", "/v2/")[0] == 200


def test_an_index_of_what_is_here(ask: Client) -> None:
    ask.push("thing", SAMPLE.digest)
    index = index_of((SAMPLE, "linux/amd64"))
    assert ask("PUT", "/v2/thing/manifests/all", index, Content_Type=oci.INDEX)[0] == 201
    assert ask("GET", "/v2/thing/manifests/all")[1]["content-type"] == oci.INDEX


@pytest.mark.parametrize("name", ["Upper", "a//b", "-a", "a/", "..", "a/../b", "%2e%2e/x", "a" * 256, "a%00b", "a b"])
def test_names_that_are_none(ask: Client, root: str, name: str) -> None:
    name = name.replace(" ", "%20")
    for path in (f"/v2/{name}/tags/list", f"/v2/{name}/manifests/x", f"/v2/{name}/blobs/{NO_DIGEST}"):
        assert ask("GET", path)[0] in (400, 404)
    assert ask("POST", f"/v2/{name}/blobs/uploads/")[0] in (400, 404)
    assert not os.path.exists(f"{root}/ingest") or os.listdir(f"{root}/ingest") == []


@pytest.mark.parametrize("path", ["/", "/v1/", "/v2/x", "/v2/thing/nonsense", "/../../etc/passwd", "/v2/_catalog/x"])
def test_paths_that_are_none(ask: Client, path: str) -> None:
    assert ask("GET", path)[0] == 404


@pytest.mark.parametrize("upload", ["../../../etc/x", "..", "upload-x", "%2e%2e%2fx", "index.json"])
def test_uploads_that_are_none(ask: Client, upload: str) -> None:
    assert ask("PATCH", f"/v2/thing/blobs/uploads/{upload}", b"x")[0] == 404


def test_verbs_that_do_not_fit(ask: Client) -> None:
    assert ask.error("DELETE", "/v2/_catalog") == (405, "UNSUPPORTED")
    assert ask.error("PUT", "/v2/thing/tags/list", b"x") == (405, "UNSUPPORTED")


@pytest.mark.parametrize("line", ["GET\r\n\r\n", "\x16\x03\x01\n", "GET /v2/ HTTP/9.9\r\n\r\n", "A" * 70000 + "\r\n"])
def test_what_is_no_http_does_not_hurt(ask: Client, server: Server, line: str) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)) as raw:
        raw.sendall(line.encode())
        raw.settimeout(5)
        raw.recv(1000)
    assert ask("GET", "/v2/")[0] == 200


def test_a_broken_chunked_body_ends_the_connection(ask: Client, server: Server) -> None:
    where = ask("POST", "/v2/thing/blobs/uploads/")[1]["location"]
    with socket.create_connection(("127.0.0.1", server.server_port)) as raw:
        raw.sendall(f"PATCH {where} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        raw.settimeout(5)
        assert raw.recv(1000) == b""
    assert ask("GET", "/v2/")[0] == 200


# Lists and deleting


def test_tags_and_catalogue_in_pages(ask: Client) -> None:
    for name, tag in (("b", "2"), ("b", "10"), ("a/x", "1"), ("c", "1")):
        ask.push(name, tag)
    assert json.loads(ask("GET", "/v2/_catalog")[2]) == {"repositories": ["a/x", "b", "c"]}
    assert json.loads(ask("GET", "/v2/b/tags/list")[2]) == {"name": "b", "tags": ["10", "2"]}
    found, path = [], "/v2/_catalog?n=2"
    while path:
        _, headers, data = ask("GET", path)
        found.append(json.loads(data)["repositories"])
        link = re.fullmatch('<(.*)>; rel="next"', headers.get("link", ""))
        path = link[1] if link else ""
    assert found == [["a/x", "b"], ["c"]]
    assert json.loads(ask("GET", "/v2/b/tags/list?n=0")[2])["tags"] == []
    for number in ("-1", "two", "9" * 5000):
        assert ask.error("GET", f"/v2/_catalog?n={number}") == (400, "PAGINATION_NUMBER_INVALID")
    assert ask.error("GET", "/v2/nobody/tags/list") == (404, "NAME_UNKNOWN")


def test_a_deleted_tag_leaves_the_others(ask: Client) -> None:
    ask.push("thing", "1")
    ask.push("thing", "2")
    ask.push("other", "1")
    assert ask("DELETE", "/v2/thing/manifests/1")[0] == 202
    assert ask.error("GET", "/v2/thing/manifests/1") == (404, "MANIFEST_UNKNOWN")
    assert ask("GET", "/v2/thing/manifests/2")[0] == 200
    assert ask("DELETE", "/v2/thing/manifests/2")[0] == 202
    assert ask("GET", f"/v2/thing/manifests/{SAMPLE.digest}")[0] == 200
    assert ask("DELETE", f"/v2/thing/manifests/{SAMPLE.digest}")[0] == 202
    assert ask.error("GET", f"/v2/thing/manifests/{SAMPLE.digest}") == (404, "MANIFEST_UNKNOWN")
    assert ask("GET", "/v2/other/manifests/1")[0] == 200
    assert ask.error("DELETE", "/v2/thing/manifests/1") == (404, "MANIFEST_UNKNOWN")


def test_what_a_tag_named_before_stays_by_digest(ask: Client) -> None:
    ask.push("thing", "1")
    other = sample_image({"z": b"z"})
    ask.push("thing", "1", other)
    assert ask("GET", "/v2/thing/manifests/1")[1]["docker-content-digest"] == other.digest
    assert ask("GET", f"/v2/thing/manifests/{SAMPLE.digest}")[0] == 200
    assert json.loads(ask("GET", "/v2/thing/tags/list")[2])["tags"] == ["1"]


def test_a_blob_is_deleted_only_when_nothing_needs_it(ask: Client) -> None:
    ask.push("thing", "1")
    path = f"/v2/thing/blobs/{SAMPLE.layers[0]}"
    assert ask.error("DELETE", path) == (405, "UNSUPPORTED")
    ask("DELETE", f"/v2/thing/manifests/{SAMPLE.digest}")
    assert ask("DELETE", path)[0] == 202
    assert ask.error("GET", path) == (404, "BLOB_UNKNOWN")
    assert ask.error("DELETE", path) == (404, "BLOB_UNKNOWN")


def test_many_push_at_once(server: Server) -> None:
    samples = [sample_image({"same": b"s"}, {f"{n}": b"x" * n}) for n in range(12)]
    threads = [
        threading.Thread(target=Client(server.server_port).push, args=("thing", f"v{n}", sample))
        for n, sample in enumerate(samples)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    ask = Client(server.server_port)
    assert len(json.loads(ask("GET", "/v2/thing/tags/list")[2])["tags"]) == 12
    for n, sample in enumerate(samples):
        assert ask("GET", f"/v2/thing/manifests/v{n}")[2] == sample.manifest


def test_the_folder_is_an_oci_layout_that_skopeo_understands(ask: Client, root: str) -> None:
    ask.push("library/thing", "latest")
    index = json.loads(Path(root, "index.json").read_text())
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]] == [
        "library/thing:latest"
    ]
    assert json.loads(Path(root, "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


# Users


def hashed(password: str, name: str = "anna") -> str:
    return f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


@pytest.fixture
def guarded(root: str, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    users = tmp_path / "htpasswd"
    users.write_text("# users\n\n" + hashed("secret"))
    server = Server(root, "127.0.0.1", 0, str(users))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server, users
    server.shutdown()
    server.server_close()


def basic(text: str) -> str:
    import base64

    return "Basic " + base64.b64encode(text.encode()).decode()


def test_only_users_come_in(guarded: tuple[Server, Path]) -> None:
    ask = Client(guarded[0].server_port)
    for _ in range(2):
        assert ask("GET", "/v2/", None, Authorization=basic("anna:secret"))[0] == 200
    for wrong in ("", basic("anna:wrong"), basic("eve:secret"), basic("anna"), "Basic ***", "Bearer x", basic(":")):
        status, headers, data = ask("GET", "/v2/", None, Authorization=wrong)
        assert (status, json.loads(data)["errors"][0]["code"]) == (401, "UNAUTHORIZED")
        assert headers["www-authenticate"].startswith("Basic realm=")
    assert ask("PUT", "/v2/thing/manifests/1", b"x" * 100_000)[0] == 401
    assert ask("GET", "/v2/", None, Authorization=basic("anna:secret"))[0] == 200


def test_a_changed_password_counts_at_once(guarded: tuple[Server, Path]) -> None:
    server, users = guarded
    ask = Client(server.server_port)
    assert ask("GET", "/v2/", None, Authorization=basic("anna:secret"))[0] == 200
    users.write_text(hashed("other") + hashed("x", "bert"))
    assert ask("GET", "/v2/", None, Authorization=basic("anna:secret"))[0] == 401
    assert ask("GET", "/v2/", None, Authorization=basic("anna:other"))[0] == 200
    assert ask("GET", "/v2/", None, Authorization=basic("bert:x"))[0] == 200


@pytest.mark.parametrize("line", ["anna:plain", "anna:{SHA}x", "anna", "anna:$apr1$x"])
def test_other_hashes_than_bcrypt_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "users").write_text(f"\n{line}\n")
    with pytest.raises(InvalidArgument, match="users, line 2: not a bcrypt hash"):
        Passwords(str(tmp_path / "users"))


# serve


def test_serve_says_when_it_is_ready_and_ends_with_a_signal(root: str) -> None:
    program = (
        "from minidocker.registry.server import serve\n"
        f"serve({root!r}, port=0, ready=lambda address: print(address, flush=True))\n"
        "print('ended')"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        host, _, port = process.stdout.readline().strip().rpartition(":")
        assert (host, Client(int(port))("GET", "/v2/")[0]) == ("127.0.0.1", 200)
        process.send_signal(number)
        assert process.stdout.read() == "ended\n"
        assert process.wait(5) == 0
        process.stdout.close()


def test_an_address_that_is_taken(root: str, server: Server) -> None:
    with pytest.raises(InvalidArgument, match="[Aa]ddress already in use"):
        serve(root, "127.0.0.1", server.server_port)


def test_a_password_file_that_is_not_there(root: str) -> None:
    with pytest.raises(InvalidArgument, match="/none"):
        serve(root, "127.0.0.1", 0, "/none")


def test_the_log_has_a_line_a_request_whatever_is_sent(root: str) -> None:
    lines: list[str] = []
    server = Server(root, "127.0.0.1", 0, log=lines.append)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    Client(server.server_port)("GET", "/v2/")
    with socket.create_connection(("127.0.0.1", server.server_port)) as raw:
        raw.sendall(b"GET /\x1b[31m HTTP/1.1\r\n\r\n")
        raw.recv(1000)
    server.shutdown()
    server.server_close()
    assert any('"GET /v2/ HTTP/1.1" 200' in line for line in lines)
    assert not any("\x1b" in line for line in lines)
