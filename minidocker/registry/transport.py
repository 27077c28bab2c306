"""HTTP as a registry client needs it: TLS, time-outs, redirects that keep secrets, patience that has a limit.

Knows nothing of images. `minidocker.registry.client` says what to ask for; here is how asking can go wrong.

See: OCI distribution-spec, spec.md; RFC 9110, HTTP semantics.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from minidocker import explain
from minidocker.errors import RegistryError

if TYPE_CHECKING:
    import ssl

    from urllib3 import BaseHTTPResponse, PoolManager

REDIRECTS = (301, 302, 303, 307, 308)
OVERLOADED = (429, 500, 502, 503, 504)
MAX_REDIRECTS = 5
MAX_WAIT = 60.0
MAX_DOCUMENT = 4 * 1024 * 1024
CHUNK = 1024 * 1024
AGENT = "minidocker"
UNTRUSTED = "its certificate is not trusted"
CERTIFICATES = "/etc/docker/certs.d"

T = TypeVar("T")


class Temporary(RegistryError):
    """A failure that asking again may mend. `answered`: there was a connection; `wait`: the seconds asked for, or 0."""

    answered: bool = True
    wait: float = 0.0


class Unreachable(RegistryError):
    """Nobody answered when a registry was first spoken to: no such name, no connection, no TLS."""


class Refused(RegistryError):
    """The registry said no.

    `code` is the specification's error code in lower case, such as `manifest unknown`; `reason` adds its own words.
    """

    code: str = ""
    reason: str = ""

    def reworded(self, message: str) -> "Refused":
        """Return the same refusal under another message."""
        error = Refused(message, self.url, self.status)
        error.code, error.reason = self.code, self.reason
        return error


class Patience(NamedTuple):
    """How long to wait, in seconds, and how often to try."""

    connect: float = 5.0
    idle: float = 30.0
    attempts: int = 5
    pause: float = 0.5
    slowest: int = 1024  # bytes a second, on average over `idle` seconds


def persist(action: Callable[[], T], patience: Patience) -> T:
    """Return what `action` returns; after a `Temporary` failure try again, each time later, up to the limit."""
    for attempt in range(1, patience.attempts):
        try:
            return action()
        except Temporary as error:
            if error.wait > MAX_WAIT:
                raise
            time.sleep(error.wait or min(patience.pause * 2 ** (attempt - 1), MAX_WAIT))
    return action()


def is_loopback(host: str) -> bool:
    """Say whether `host[:port]` is this machine, where plain HTTP is nobody else's business: localhost, 127.0.0.0/8."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    parts = name.split(".")
    return name == "localhost" or (parts[0] == "127" and len(parts) == 4 and all(part.isdigit() for part in parts))


def is_insecure(host: str) -> bool:
    """Say whether `host` may be spoken to without TLS: this machine, and what MINIDOCKER_INSECURE_REGISTRIES lists."""
    named = os.environ.get("MINIDOCKER_INSECURE_REGISTRIES", "").split(",")
    return is_loopback(host) or host in (name.strip() for name in named)


class Transport:
    """The connections to one registry, and to wherever it redirects. Safe to share among threads."""

    def __init__(self, host: str, insecure: bool = False, patience: Patience | None = None) -> None:
        self.host = host
        self.insecure = insecure or is_insecure(host)
        self.patience = patience or Patience()
        self._pools: dict[tuple[bool, str], PoolManager] = {}

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> "BaseHTTPResponse":
        """Send one request and follow where it is redirected; the body of the response is still to be read.

        `Authorization` goes only to the host, port and scheme that was asked first; nothing goes from HTTPS to HTTP.
        Raises Temporary where no answer came.
        """
        response = self._send_once(method, url, headers, body)
        for _ in range(MAX_REDIRECTS):
            target = response.headers.get("Location", "")
            if response.status not in REDIRECTS or not target:
                return response
            response.drain_conn()
            target = resolve(url, target)
            if origin(target) != origin(url):  # a password is for the registry, not for whom it names (CVE-2020-15157)
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            if response.status == 303:
                method, body = "GET", None
            url = target
            response = self._send_once(method, url, headers, body)
        if response.status in REDIRECTS:
            response.close()
            raise RegistryError(f"{shown(url)}: redirected more than {MAX_REDIRECTS} times", shown(url))
        return response

    def _send_once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> "BaseHTTPResponse":
        from urllib3.exceptions import HTTPError

        if explain.listening():
            explain.step(f"{method} {shown(url)}", curl(method, url, headers))
        try:
            return self._pool(url).request(
                method, url, headers={"User-Agent": AGENT, **headers}, body=body, redirect=False, preload_content=False
            )
        except (HTTPError, OSError) as error:
            raise failure(method, url, error, self.patience) from error

    def _pool(self, url: str) -> "PoolManager":
        """Return the connections for `url`: those to an insecure registry do not verify its certificate."""
        import urllib3

        unverified = self.insecure and url.partition("://")[2].startswith(f"{self.host}/")
        kind = (unverified, proxy_for(url))
        if kind not in self._pools:
            make = functools.partial(urllib3.ProxyManager, kind[1]) if kind[1] else urllib3.PoolManager
            self._pools[kind] = make(
                retries=False,
                timeout=urllib3.Timeout(connect=self.patience.connect, read=self.patience.idle),
                maxsize=8,
                ssl_context=self._tls(unverified),
            )
        return self._pools[kind]

    def _tls(self, unverified: bool) -> "ssl.SSLContext":
        """Trust the system's authorities and those named for this registry; where one is named, verify always."""
        import ssl

        import urllib3

        named = [os.environ.get("MINIDOCKER_CA_FILE", ""), f"{CERTIFICATES}/{self.host}/ca.crt"]
        named = [path for path in named if path and os.path.exists(path)]
        if unverified and not named:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        context = ssl.create_default_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # on since 3.13, and many a company's own authority fails it
        for path in named:
            context.load_verify_locations(path)
        return context


def chunks(response: "BaseHTTPResponse", url: str, patience: Patience) -> Iterator[bytes]:
    """Yield the body of `response` as it comes; raise Temporary if it is cut off, stalls, or only trickles.

    Read to the end the connection serves again; it is closed when the caller stops early.
    """
    from urllib3.exceptions import HTTPError

    since, received = time.monotonic(), 0
    try:
        while chunk := response.read1(CHUNK, decode_content=False):
            yield chunk
            received += len(chunk)
            seconds = time.monotonic() - since
            if seconds > patience.idle:
                if received < patience.slowest * seconds:
                    raise Temporary(f"{shown(url)}: too slow: {received} bytes in {seconds:.0f} seconds", shown(url))
                since, received = time.monotonic(), 0
    except (HTTPError, OSError) as error:
        raise failure("GET", url, error, patience) from error
    finally:
        response.close()  # read to its end it has given its connection back already


def read_document(response: "BaseHTTPResponse", url: str, patience: Patience, limit: int = MAX_DOCUMENT) -> bytes:
    """Return the whole body; raise RegistryError if it is longer than `limit` bytes."""
    data = bytearray()
    for chunk in chunks(response, url, patience):
        data += chunk
        if len(data) > limit:
            raise RegistryError(f"{shown(url)}: the answer is larger than {limit} bytes, no manifest is", shown(url))
    return bytes(data)


def failure(method: str, url: str, error: Exception, patience: Patience) -> Temporary:
    """Put a failed exchange into words, and say whether there was a connection at all."""
    from urllib3 import exceptions

    answered = False
    if isinstance(error, exceptions.NameResolutionError):
        reason = f"no such host: {origin(url)[1]}"
    elif isinstance(error, exceptions.NewConnectionError):
        reason = cause(error)
    elif isinstance(error, exceptions.ConnectTimeoutError):
        reason = f"no connection within {patience.connect:g} seconds"
    elif isinstance(error, exceptions.SSLError):
        reason = tls_failure(url, str(error))
    elif isinstance(error, exceptions.ProxyError):
        reason = f"the proxy does not let it through: {cause(error)}"
    elif isinstance(error, exceptions.TimeoutError):
        reason, answered = f"the registry stalled: nothing came for {patience.idle:g} seconds", True
    else:
        reason, answered = f"the connection was cut off: {cause(error)}", True
    temporary = Temporary(f"{method} {shown(url)}: {reason}", shown(url))
    temporary.answered = answered
    return temporary


def cause(error: Exception) -> str:
    """Return the innermost reason, as the operating system words it: `connection refused`."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return (getattr(root, "strerror", None) or str(root)).lower()


def tls_failure(url: str, text: str) -> str:
    """Tell a registry that speaks plain HTTP from one whose certificate is not trusted, and what to do about either."""
    host = url.split("/")[2]
    if any(
        sign in text for sign in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
    ):
        return (
            "the server speaks plain HTTP, where only HTTPS is trusted; "
            f"if the network between is yours, allow it with --insecure-registry {host}"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("verify failed: ")[2].partition(" (_ssl")[0]
        return f"{UNTRUSTED} ({reason}); put its authority into {CERTIFICATES}/{host}/ca.crt"
    return f"no TLS connection: {text}"


def retry_after(response: "BaseHTTPResponse") -> float:
    """Return the seconds that a `Retry-After` header asks for; a date or nonsense counts as not said."""
    value = response.headers.get("Retry-After", "").strip()
    return float(value) if value.isdecimal() else 0.0


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: URLs with the same origin are the same server, all others are strangers.

    Raises RegistryError for what is no URL.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError as error:
        raise RegistryError(f"{shown(url)} is no address: {error}", shown(url)) from error


def resolve(url: str, target: str) -> str:
    """Return the address that a `Location` header at `url` means; raise RegistryError where it must not be followed."""
    from urllib.parse import urljoin

    origin(target)
    target = urljoin(url, target)
    scheme, host, _port = origin(target)
    if not host or scheme not in (("https",) if url.startswith("https:") else ("https", "http")):
        raise RegistryError(f"{shown(url)}: refused to go on to {shown(target)}, which is not HTTPS", shown(url))
    return target


def shown(url: str) -> str:
    """Return `url` without its query, in which storage services put signatures."""
    return url.partition("?")[0]


def curl(method: str, url: str, headers: Mapping[str, str]) -> str:
    """Return the command line that sends the same request, with the secret left for the reader to fill in."""
    options = {"GET": "", "HEAD": " --head"}.get(method, f" -X {method}")
    for name, value in headers.items():
        options += f" -H '{name}: {'$TOKEN' if name == 'Authorization' else value}'"
    return f"curl{options} '{shown(url)}'"


def proxy_for(url: str) -> str:
    """Return the proxy that the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) names for `url`, or nothing."""
    from urllib.request import getproxies, proxy_bypass

    scheme, host, _port = origin(url)
    return "" if is_loopback(host) or proxy_bypass(host) else getproxies().get(scheme, "")
