"""One HTTP connection as the registry server sees it: bodies of both kinds read, answers written, parts understood.

See: RFC 9112, HTTP/1.1; RFC 9110, 14, Range Requests; RFC 8288, the Link header.
"""

import re
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import quote, urlencode

from minidocker.registry.depot import Fault

CHUNK = 1024 * 1024
MAX_DRAINED = 64 * 1024 * 1024
IDLE_SECONDS = 60.0


class Connection(BaseHTTPRequestHandler):
    """A client's connection that stays open from request to request."""

    protocol_version = "HTTP/1.1"
    server_version = "minidocker"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    body: Iterator[bytes]

    def reply(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send a whole response, or only its head where the request is HEAD or `headers` give a length."""
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            if status != 204 or name != "Content-Length":
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def read_body(self) -> Iterator[bytes]:
        """Yield the request's body. See: RFC 9112, 7.1, Chunked Transfer Coding."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            length = self.headers.get("Content-Length", "0")
            yield from self._read_exactly(int(length) if length.isdecimal() else 0)
            return
        while size := self._chunk_size():
            yield from self._read_exactly(size)
            self.rfile.readline(8)
        while self.rfile.readline(CHUNK).strip():
            pass

    def _chunk_size(self) -> int:
        line = self.rfile.readline(1024).partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", line):
            self.close_connection = True
            raise ConnectionAbortedError("the chunked body is broken")
        return int(line, 16)

    def _read_exactly(self, count: int) -> Iterator[bytes]:
        while count:
            chunk = self.rfile.read1(min(count, CHUNK)) if hasattr(self.rfile, "read1") else self.rfile.read(count)
            if not chunk:
                raise ConnectionAbortedError("the client went away")
            yield chunk
            count -= len(chunk)

    def drain(self) -> None:
        """Read what an answer left unread, so that the next request is found; hang up if it is too much."""
        count = 0
        try:
            for chunk in self.body:
                count += len(chunk)
                if count > MAX_DRAINED:
                    self.close_connection = True
                    return
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log(self, line: str) -> None:
        """Take a line for the log; here, nobody reads it."""

    def log_error(self, format: str, *args: Any) -> None:
        """Leave it at the one line that every request gets."""

    def log_message(self, format: str, *args: Any) -> None:
        """Hand http.server's line for a request to `log`, on one line whatever the client sent."""
        line = format % args
        if "\x16\x03" in line:  # how TLS begins: docker and podman try that first
            line = "TLS was tried; this registry speaks plain HTTP"
        self.log(f"{self.client_address[0]} " + "".join(c if c.isprintable() else "?" for c in line))


def parse_range(text: str, size: int) -> tuple[int, int]:
    """Return the first byte and the one after the last that a `Range` header asks for; all where it asks for none.

    Raises Fault for a range outside. See: RFC 9110, 14.1.2, Byte Ranges.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    if not match or not (match[1] or match[2]):
        return 0, size
    begin = int(match[1]) if match[1] else max(size - int(match[2]), 0)
    end = min(int(match[2]) + 1, size) if match[1] and match[2] else size
    if begin >= end:
        raise Fault(416, "RANGE_INVALID", f"the blob has {size} bytes")
    return begin, end


def parse_content_range(text: str) -> int:
    """Return where a chunk begins, -1 where the client does not say. See: distribution-spec, Pushing Blobs."""
    if not text:
        return -1
    match = re.fullmatch(r"(?:bytes[ =])?(\d+)-(\d+)(?:/.*)?", text.strip())
    if not match:
        raise Fault(416, "BLOB_UPLOAD_INVALID", f"invalid Content-Range: {text}")
    return int(match[1])


def page_of(path: str, names: list[str], query: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the part of a sorted list that `n` and `last` of a query ask for, and the `Link` header to the next part.

    `path` is what was asked; the header is empty where nothing follows. Raises Fault for a number that is none.
    See: distribution-spec, Listing Tags.
    """
    count = query.get("n", "")
    if count and not re.fullmatch("[0-9]{1,9}", count):
        raise Fault(400, "PAGINATION_NUMBER_INVALID", f"invalid number of results requested: {count:.20}")
    rest = [name for name in names if name > query.get("last", "")]
    page = rest[: int(count)] if count else rest
    if not page or len(page) == len(rest):
        return page, ""
    return page, f'<{quote(path)}?{urlencode({"n": count, "last": page[-1]})}>; rel="next"'
