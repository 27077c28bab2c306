"""A web server on 127.0.0.1 that answers as a test tells it to, also wrongly, and remembers what it was asked.

And small images to carry about: real layers, made with `tarfile`.
"""

import gzip
import io
import json
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from minidocker.image import oci


class Asked(NamedTuple):
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What to answer. `cut`: so much of the body; `stall`: seconds before it; `trickle`: seconds between its bytes."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 (nobody writes to it)
    cut: int = -1
    stall: float = 0
    trickle: float = 0


class Loopback:
    """The server; `asked` are the requests so far, in order."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(self.command, self.path, dict(self.headers.items()), body)
                outer.asked.append(asked)
                outer.reply(self, outer.answer(asked))

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.host = f"127.0.0.1:{self.port}"

    def reply(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        handler.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        time.sleep(answer.stall)
        if answer.trickle:
            for byte in answer.body:
                handler.wfile.write(bytes([byte]))
                time.sleep(answer.trickle)
        elif answer.cut >= 0:
            handler.wfile.write(answer.body[: answer.cut])
            handler.close_connection = True
        else:
            handler.wfile.write(answer.body)

    def paths(self, method: str = "GET") -> list[str]:
        """Return the paths that were asked for with this method, but not the greeting."""
        return [asked.path for asked in self.asked if asked.method == method and asked.path != "/v2/"]


@contextmanager
def loopback(answer: Callable[[Asked], Answer], tls: "Certificates | None" = None) -> Iterator[Loopback]:
    """Serve `answer` until the block ends, over TLS where certificates are given."""
    web = Loopback(answer)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        web.server.socket = context.wrap_socket(web.server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=web.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield web
    web.server.shutdown()
    web.server.server_close()


class Certificates(NamedTuple):
    """Files: an authority, and a server's certificate and key signed by it."""

    authority: str
    certificate: str
    key: str


def make_certificates(folder: str, *names: str) -> Certificates:
    """Make an authority and a certificate for `names` (`DNS:…`, `IP:…`) with openssl."""
    alternatives = ",".join(("IP:127.0.0.1", "DNS:localhost", *names))
    made = Certificates(f"{folder}/ca.crt", f"{folder}/server.crt", f"{folder}/server.key")
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subject = [*new, "-subj", "/CN=test authority", "-keyout", f"{folder}/ca.key", "-out", made.authority]
    subprocess.run(subject, check=True, capture_output=True)
    server = [*new, "-subj", "/CN=test registry", "-keyout", made.key, "-out", made.certificate]
    server += ["-CA", made.authority, "-CAkey", f"{folder}/ca.key", "-addext", f"subjectAltName={alternatives}"]
    server += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(server, check=True, capture_output=True)
    return made


class Sample(NamedTuple):
    """An image: its manifest, and all its blobs by digest."""

    manifest: bytes
    media_type: str
    digest: str
    blobs: dict[str, bytes]
    layers: tuple[str, ...]
    config: str


def layer_tar(files: dict[str, bytes]) -> bytes:
    """Return an uncompressed layer with these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def sample_image(*layers: dict[str, bytes], architecture: str = "", docker: bool = True) -> Sample:
    """Return an image with these layers, in docker's media types or OCI's."""
    tars = [layer_tar(files) for files in layers]
    packed = [gzip.compress(tar, 1, mtime=0) for tar in tars]
    config = {
        "architecture": architecture or oci.host_platform().architecture,
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [oci.digest_of(tar) for tar in tars]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "test"} for _ in tars],
    }
    raw = json.dumps(config).encode()
    kinds = (oci.DOCKER_MANIFEST, oci.DOCKER_CONFIG, oci.DOCKER_LAYER_GZIP)
    kinds = kinds if docker else (oci.MANIFEST, oci.CONFIG, oci.LAYER_GZIP)
    manifest = {
        "schemaVersion": 2,
        "mediaType": kinds[0],
        "config": {"mediaType": kinds[1], "digest": oci.digest_of(raw), "size": len(raw)},
        "layers": [{"mediaType": kinds[2], "digest": oci.digest_of(blob), "size": len(blob)} for blob in packed],
    }
    data = json.dumps(manifest, indent=1).encode()
    blobs = {oci.digest_of(blob): blob for blob in (raw, *packed)}
    digests = tuple(oci.digest_of(blob) for blob in packed)
    return Sample(data, kinds[0], oci.digest_of(data), blobs, digests, oci.digest_of(raw))


def index_of(*samples: tuple[Sample, str]) -> bytes:
    """Return an OCI index of images, each with its platform (`linux/arm64`)."""
    entries = []
    for sample, platform in samples:
        system, architecture = platform.split("/")[:2]
        entry: dict[str, Any] = {"mediaType": sample.media_type, "digest": sample.digest, "size": len(sample.manifest)}
        entries.append({**entry, "platform": {"os": system, "architecture": architecture}})
    return json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}).encode()


def serving(sample: Sample, repository: str = "thing", tag: str = "latest") -> Callable[[Asked], Answer]:
    """Return the answers of a well-behaved registry that has one image."""

    def answer(asked: Asked) -> Answer:
        path = asked.path
        if path == "/v2/":
            return Answer()
        if path in (f"/v2/{repository}/manifests/{tag}", f"/v2/{repository}/manifests/{sample.digest}"):
            return Answer(200, sample.manifest, {"Content-Type": sample.media_type})
        blob = sample.blobs.get(path.removeprefix(f"/v2/{repository}/blobs/"))
        if blob is None:
            return fault(404, "MANIFEST_UNKNOWN", "manifest unknown")
        if "Range" in asked.headers:
            begin = int(asked.headers["Range"].removeprefix("bytes=").rstrip("-"))
            span = f"bytes {begin}-{len(blob) - 1}/{len(blob)}"
            return Answer(206, blob[begin:], {"Content-Range": span})
        return Answer(200, blob)

    return answer


def fault(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Answer:
    """Return a refusal in the specification's form."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, body, {"Content-Type": "application/json", **(headers or {})})
