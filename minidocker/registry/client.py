"""One registry's repositories: ask for manifests and blobs, put them there, list what there is.

The distribution specification in seven verbs. Every manifest is checked against its digest before it is returned; blobs
are only streamed, whoever keeps them checks them.

See: OCI distribution-spec, spec.md; distribution, docs/spec/api.md (Docker Registry HTTP API V2).
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from minidocker.errors import DigestMismatch, InvalidManifest, RegistryError
from minidocker.image import oci
from minidocker.registry import credentials as credentials_file
from minidocker.registry import transport
from minidocker.registry.auth import Credentials
from minidocker.registry.session import Session, parse_json, refused
from minidocker.registry.transport import Patience, Refused, shown

if TYPE_CHECKING:
    from typing import BinaryIO

    from urllib3 import BaseHTTPResponse

ENDPOINTS = {"docker.io": "registry-1.docker.io"}
ACCEPT = ", ".join((*oci.INDEXES, *oci.MANIFESTS, *oci.DOCKER_SCHEMA_1))
MAX_PAGES = 1000
MAX_NAMES = 1_000_000
UPLOAD_CHUNK = 4 * 1024 * 1024


class Document(NamedTuple):
    """A manifest or index as a registry gave it, verified: `digest` is that of `data`."""

    data: bytes
    media_type: str
    digest: str


class Registry:
    """One registry. Safe to share among threads; nothing is sent before the first question."""

    def __init__(
        self,
        host: str,
        *,
        credentials: Credentials | None = None,
        insecure: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.name = host
        self.host = ENDPOINTS.get(host, host)
        self.session = Session(self.host, credentials, insecure, patience)
        self.patience = self.session.patience

    # Reading

    def manifest(self, repository: str, reference: str) -> Document:
        """Return the manifest or index that a tag or digest names.

        Raises Refused (`manifest unknown`, `denied`, …), DigestMismatch, InvalidManifest for what is none.
        """
        path = f"/v2/{repository}/manifests/{reference}"

        def get() -> Document:
            with self.session.open("GET", path, pull(repository), {"Accept": ACCEPT}) as response:
                data = transport.read_document(response, path, self.patience)
                media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
                promised = reference if ":" in reference else response.headers.get("Docker-Content-Digest", "")
            return check_manifest(f"{self.host}{path}", data, media_type, promised)

        return self.session.persist(get)

    def blob(self, repository: str, digest: str, offset: int = 0) -> tuple[int, Iterator[bytes]]:
        """Return where a blob's bytes begin and the bytes as they come: `offset`, or 0 if the registry has no ranges.

        The iterator raises Temporary when the stream is cut off; call again with what has arrived as `offset`.
        """
        path = f"/v2/{repository}/blobs/{digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self.session.open("GET", path, pull(repository), headers, expected=(200, 206))
        begin = offset if offset and response.status == 206 else 0
        if begin and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            response.close()
            raise RegistryError(f"{self.host}{path}: answered with another range than was asked for")
        return begin, transport.chunks(response, self.session.url(path), self.patience)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Say whether the repository has the blob already."""
        path = f"/v2/{repository}/blobs/{digest}"
        head = functools.partial(self.session.status, "HEAD", path, push(repository), expected=(200, 404))
        return self.session.persist(head) == 200

    def tags(self, repository: str) -> list[str]:
        """Return the repository's tags, all pages of them."""
        return self._pages(f"/v2/{repository}/tags/list", "tags", pull(repository))

    def catalog(self) -> list[str]:
        """Return the names of the repositories; many public registries refuse that."""
        return self._pages("/v2/_catalog", "repositories", "registry:catalog:*")

    def _pages(self, path: str, key: str, scope: str) -> list[str]:
        """Collect a list that comes in pages, each naming the next in its `Link` header."""
        names: list[str] = []
        for _ in range(MAX_PAGES):
            with self.session.open("GET", path, scope) as response:
                url = self.session.url(path)
                page = parse_json(transport.read_document(response, url, self.patience))
                link = response.headers.get("Link", "")
            names += [name for name in page.get(key) or [] if isinstance(name, str)]
            if 'rel="next"' not in link or len(names) > MAX_NAMES:
                break
            path = transport.resolve(url, link.partition("<")[2].partition(">")[0])
        return names

    # Writing

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Let the registry take a blob over from its repository `source`; False where it wants it uploaded instead."""
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={source}"
        scope = f"{push(repository)} {pull(source)}"
        with self.session.open("POST", path, scope, expected=(201, 202)) as response:
            response.drain_conn()
            if response.status == 202 and "Location" in response.headers:
                location = transport.resolve(self.session.url(path), response.headers["Location"])
                self.session.status("DELETE", location, push(repository), expected=(200, 202, 204, 404, 405))
            return response.status == 201

    def upload(
        self,
        repository: str,
        digest: str,
        size: int,
        stream: "BinaryIO",
        sent: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Upload a blob: in one piece where it is small, in chunks where it is not. `sent` hears how much has arrived.

        See: distribution-spec, Pushing blobs: POST for an address, PATCH for each chunk, PUT with the digest to finish.
        """

        def once() -> None:
            stream.seek(0)
            location, minimum = self._start_upload(repository)
            offset, length = 0, max(UPLOAD_CHUNK, minimum)
            while size - offset > length:
                location = self._send_chunk(repository, location, stream.read(length), offset)
                offset += length
                sent(offset)
            joined = f"{location}{'&' if '?' in location else '?'}digest={digest}"
            binary = {"Content-Type": "application/octet-stream"}
            self.session.status("PUT", joined, push(repository), binary, stream.read(), expected=(201, 204))
            sent(size)

        self.session.persist(once)

    def _start_upload(self, repository: str) -> tuple[str, int]:
        """Begin an upload; return where its bytes go and the smallest chunk that the registry takes."""
        path = f"/v2/{repository}/blobs/uploads/"
        with self.session.open("POST", path, push(repository), expected=(202,)) as response:
            response.drain_conn()
            minimum = response.headers.get("OCI-Chunk-Min-Length", "")
            return self._location(path, response), int(minimum) if re.fullmatch("[0-9]{1,10}", minimum) else 0

    def _send_chunk(self, repository: str, location: str, data: bytes, offset: int) -> str:
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{offset}-{offset + len(data) - 1}"}
        with self.session.open("PATCH", location, push(repository), headers, data, expected=(202, 204)) as response:
            response.drain_conn()
            return self._location(location, response)

    def _location(self, path: str, response: "BaseHTTPResponse") -> str:
        asked = self.session.url(path)
        if "Location" not in response.headers:
            raise RegistryError(f"{shown(asked)}: the registry accepts an upload but does not say where to")
        return transport.resolve(asked, response.headers["Location"])

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """Put a manifest under a tag or its digest; return its digest."""
        path = f"/v2/{repository}/manifests/{reference}"
        headers = {"Content-Type": media_type}
        put = functools.partial(self.session.status, "PUT", path, push(repository), headers, data, expected=(201, 202))
        self.session.persist(put)
        return oci.digest_of(data)


def connect(host: str, insecure: Iterable[str] = ()) -> Registry:
    """Return the registry `host` with the credentials that `login` kept; one of the `insecure` may speak plain HTTP."""
    return Registry(host, credentials=credentials_file.load(host), insecure=host in insecure)


def login(host: str, username: str, password: str, patience: Patience | None = None) -> None:
    """Let the registry confirm name and password, then keep them. Raises Refused where it does not."""
    credentials = Credentials(username, password)
    registry = Registry(host, credentials=credentials, patience=patience)
    try:
        registry.session.status("GET", "/v2/", "")
    except Refused as error:
        url = f"{registry.session.base}/v2/"
        if error.status == 401:
            raise refused(f"login attempt to {url} failed with status", "401 Unauthorized", "", 401, url) from error
        raise
    credentials_file.store(host, credentials)


def logout(host: str) -> bool:
    """Forget the credentials kept for `host`; say whether there were any."""
    return credentials_file.erase(host)


def pull(repository: str) -> str:
    """Return the scope of a token that lets read `repository`."""
    return f"repository:{repository}:pull"


def push(repository: str) -> str:
    """Return the scope of a token that lets read and write `repository`."""
    return f"repository:{repository}:pull,push"


def check_manifest(source: str, data: bytes, media_type: str, promised: str) -> Document:
    """Return the manifest as a Document if it is what it says it is.

    Its digest must be the promised one. Its media type is the one in the document, else that of the `Content-Type`
    header; where both are given they must agree, or one party could be shown another image than the other.
    See: OCI image-spec, manifest.md, mediaType; CVE-2021-41190.
    """
    digest = oci.digest_of(data)
    if promised and digest != promised:
        raise DigestMismatch(f"{source}: what came is not what was promised: want {promised}, got {digest}")
    document = parse_json(data)
    if media_type in oci.DOCKER_SCHEMA_1 or document.get("schemaVersion") == 1:
        raise InvalidManifest(
            f"{source}: this image uses the old image format (schema 1), which is not supported any more; "
            f"ask its owner to push it again with a current tool"
        )
    known = (*oci.MANIFESTS, *oci.INDEXES)
    inside = document.get("mediaType")
    if inside and media_type in known and inside != media_type:
        raise InvalidManifest(f"{source}: sent as {media_type}, but says of itself that it is {inside}")
    actual = inside or media_type
    if actual not in known:
        raise InvalidManifest(f"{source}: {actual or 'no media type'}: neither an image nor a list of images")
    return Document(data, actual, digest)
