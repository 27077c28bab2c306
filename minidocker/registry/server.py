"""`minidocker registry serve`: a small registry that docker, podman and skopeo push to and pull from.

One function for each thing that the distribution specification lets a client ask; the table ROUTES says which is which.
What they keep is in `minidocker.registry.depot`.
It speaks plain HTTP: put it on 127.0.0.1, or behind a proxy that speaks HTTPS.

See: OCI distribution-spec, spec.md, Endpoints; distribution, docs/spec/api.md.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

from minidocker.errors import InvalidArgument, MinidockerError
from minidocker.registry.depot import Depot, Fault, check_name
from minidocker.registry.htpasswd import Passwords
from minidocker.registry.wire import Connection, page_of, parse_content_range, parse_range

Log = Callable[[str], None]

MAX_MANIFEST = 4 * 1024 * 1024


class Server(ThreadingHTTPServer):
    """A thread for each connection; all share the depot."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: str, host: str, port: int, htpasswd: str | None = None, log: Log | None = None) -> None:
        self.depot = Depot(root)
        self.depot.layout.create()
        self.passwords = Passwords(htpasswd) if htpasswd else None
        self.log: Log = log or (lambda line: None)
        super().__init__((host, port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a connection; the server goes on."""
        self.log(f"{client_address[0]}: {sys.exc_info()[1]!r}")


class Handler(Connection):
    """One client's requests, one after the other."""

    server: Server

    def answer(self) -> None:
        """Find the function for a request and call it; tell what went wrong as the specification wants it told."""
        path, _, query = self.path.partition("?")
        self.query = dict(parse_qsl(query))
        self.body = self.read_body()
        try:
            self._check_user()
            verb, arguments = route(self.command, unquote(path))
            verb(self, *arguments)
        except Fault as fault:
            self.fail(fault)
        except MinidockerError as error:
            self.fail(Fault(500, "UNKNOWN", str(error)))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except OSError as error:
            self.log(f"{self.command} {path}: {error}")
            self.fail(Fault(500, "UNKNOWN", f"the registry cannot keep or read that: {error.strerror}"))
        self.drain()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log(self, line: str) -> None:
        """Hand a line to the server's log."""
        self.server.log(line)

    # What can be asked

    def get_version(self) -> None:
        """Say that this is a registry."""
        self.reply(200, b"{}", {"Content-Type": "application/json"})

    def get_catalog(self) -> None:
        """List the repositories."""
        self._reply_page("/v2/_catalog", {}, "repositories", self.server.depot.repositories())

    def get_tags(self, name: str) -> None:
        """List a repository's tags."""
        self._reply_page(f"/v2/{name}/tags/list", {"name": name}, "tags", self.server.depot.tags(name))

    def get_manifest(self, name: str, reference: str) -> None:
        """Send a manifest, if the client can read its kind."""
        found = self.server.depot.manifest(name, reference)
        accepted = [kind.partition(";")[0].strip() for kind in ",".join(self.headers.get_all("Accept", [])).split(",")]
        if any(accepted) and not {found.media_type, "*/*", "application/*"} & set(accepted):
            message = f"the manifest is {found.media_type}, which the Accept header does not name"
            raise Fault(404, "MANIFEST_UNKNOWN", message)
        headers = {"Content-Type": found.media_type, "Docker-Content-Digest": found.digest, "ETag": f'"{found.digest}"'}
        self.reply(200, found.data, headers)

    def put_manifest(self, name: str, reference: str) -> None:
        """Keep a manifest."""
        data = bytearray()
        for chunk in self.body:
            data += chunk
            if len(data) > MAX_MANIFEST:
                raise Fault(413, "SIZE_INVALID", f"a manifest has at most {MAX_MANIFEST} bytes")
        media_type = self.headers.get("Content-Type", "").partition(";")[0].strip()
        digest = self.server.depot.put_manifest(name, reference, bytes(data), media_type)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        self.reply(201, headers=headers)

    def delete_manifest(self, name: str, reference: str) -> None:
        """Forget a tag or a manifest."""
        self.server.depot.delete_manifest(name, reference)
        self.reply(202)

    def get_blob(self, name: str, digest: str) -> None:
        """Send a blob, or the range of it that is asked for."""
        check_name(name)
        with open(self.server.depot.blob(digest), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin, end = parse_range(self.headers.get("Range", ""), size)
            headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
            headers |= {"Accept-Ranges": "bytes", "ETag": f'"{digest}"', "Content-Length": str(end - begin)}
            if (begin, end) != (0, size):
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
            self.reply(206 if "Content-Range" in headers else 200, headers=headers)
            if self.command != "HEAD" and end > begin:
                self.connection.sendfile(file, begin, end - begin)

    def delete_blob(self, name: str, digest: str) -> None:
        """Delete a blob that nothing needs."""
        check_name(name)
        self.server.depot.delete_blob(digest)
        self.reply(202)

    def start_upload(self, name: str) -> None:
        """Begin an upload; or take the blob over from another repository; or take it whole, at once."""
        check_name(name)
        if "mount" in self.query and self._has_blob(self.query["mount"]):
            return self._reply_created(name, self.query["mount"])
        upload = self.server.depot.start_upload()
        if "digest" in self.query:
            self.server.depot.append(upload, self.body)
            self.server.depot.finish_upload(upload, self.query["digest"])
            return self._reply_created(name, self.query["digest"])
        return self._reply_upload(202, name, upload, 0)

    def get_upload(self, name: str, upload: str) -> None:
        """Say how much of an upload has arrived."""
        self._reply_upload(204, name, upload, self.server.depot.upload_offset(upload))

    def patch_upload(self, name: str, upload: str) -> None:
        """Add to an upload."""
        begin = parse_content_range(self.headers.get("Content-Range", ""))
        self._reply_upload(202, name, upload, self.server.depot.append(upload, self.body, begin))

    def put_upload(self, name: str, upload: str) -> None:
        """Add what is left, and make the upload a blob."""
        check_name(name)
        if "digest" not in self.query:
            raise Fault(400, "DIGEST_INVALID", "the request names no digest")
        begin = parse_content_range(self.headers.get("Content-Range", ""))
        self.server.depot.append(upload, self.body, begin)
        self.server.depot.finish_upload(upload, self.query["digest"])
        self._reply_created(name, self.query["digest"])

    def delete_upload(self, _name: str, upload: str) -> None:
        """Throw an upload away."""
        self.server.depot.cancel_upload(upload)
        self.reply(204)

    # How it is answered

    def fail(self, fault: Fault) -> None:
        """Send a refusal. See: distribution-spec, Error Codes."""
        import json

        body = {"errors": [{"code": fault.code, "message": str(fault), "detail": None}]}
        headers = {"Content-Type": "application/json"}
        if fault.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="minidocker registry"'
        self.reply(fault.status, json.dumps(body).encode(), headers)

    def _has_blob(self, digest: str) -> bool:
        try:
            self.server.depot.blob(digest)
        except Fault:
            return False
        return True

    def _reply_created(self, name: str, digest: str) -> None:
        self.reply(201, headers={"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _reply_upload(self, status: int, name: str, upload: str, offset: int) -> None:
        headers = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Docker-Upload-UUID": upload}
        self.reply(status, headers={**headers, "Range": f"0-{max(offset - 1, 0)}"})

    def _reply_page(self, path: str, fields: dict[str, Any], key: str, names: list[str]) -> None:
        """Send the part of a list that the query asks for."""
        import json

        page, link = page_of(path, names, self.query)
        headers = {"Content-Type": "application/json", **({"Link": link} if link else {})}
        self.reply(200, json.dumps({**fields, key: page}).encode(), headers)

    def _check_user(self) -> None:
        """Raise Fault unless name and password are right, where there is a password file."""
        from base64 import b64decode

        if self.server.passwords is None:
            return
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        try:
            username, _, password = b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            username = password = ""
        if scheme.lower() != "basic" or not self.server.passwords.allow(username, password):
            raise Fault(401, "UNAUTHORIZED", "authentication required")


Verb = Callable[..., None]

ROUTES: tuple[tuple[str, dict[str, Verb]], ...] = (
    (r"/v2/?", {"GET": Handler.get_version}),
    (r"/v2/_catalog", {"GET": Handler.get_catalog}),
    (r"/v2/(.+)/tags/list", {"GET": Handler.get_tags}),
    (
        r"/v2/(.+)/manifests/([^/]+)",
        {"GET": Handler.get_manifest, "PUT": Handler.put_manifest, "DELETE": Handler.delete_manifest},
    ),
    (r"/v2/(.+)/blobs/uploads/?", {"POST": Handler.start_upload}),
    (
        r"/v2/(.+)/blobs/uploads/([^/]+)",
        {
            "GET": Handler.get_upload,
            "PATCH": Handler.patch_upload,
            "PUT": Handler.put_upload,
            "DELETE": Handler.delete_upload,
        },
    ),
    (r"/v2/(.+)/blobs/([^/]+)", {"GET": Handler.get_blob, "DELETE": Handler.delete_blob}),
)


def route(method: str, path: str) -> tuple[Verb, tuple[str, ...]]:
    """Return the function that answers a request, and its arguments. Raises Fault where there is none."""
    for pattern, verbs in ROUTES:
        if match := re.fullmatch(pattern, path):
            verb = verbs.get("GET" if method == "HEAD" else method)
            if verb is None:
                raise Fault(405, "UNSUPPORTED", f"{method} is not possible here")
            return verb, match.groups()
    raise Fault(404, "UNSUPPORTED", f"not a path of the registry interface: {path}")


def serve(
    root: str,
    host: str = "127.0.0.1",
    port: int = 5000,
    htpasswd: str | None = None,
    ready: Callable[[str], None] | None = None,
    log: Log | None = None,
) -> None:
    """Serve the registry in the folder `root` until SIGINT or SIGTERM; `ready` hears the address when it listens.

    Raises InvalidArgument where the address is taken or the password file cannot be read.
    """
    try:
        server = Server(root, host, port, htpasswd, log)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        raise InvalidArgument(f"registry serve on {host}:{port}: {reason}") from error
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if main else None
    try:
        if ready:
            ready(f"{host}:{server.server_address[1]}")
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        if main:
            signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
