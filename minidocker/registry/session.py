"""A conversation with one registry: which scheme it speaks, who we are, and what its refusals mean.

`minidocker.registry.transport` moves the bytes and `minidocker.registry.auth` knows the passwords; here the two meet.

See: OCI distribution-spec, spec.md, Error Codes; distribution, docs/spec/api.md, Authentication.
"""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from minidocker.errors import RegistryError
from minidocker.registry import transport
from minidocker.registry.auth import Authenticator, Credentials
from minidocker.registry.transport import Patience, Refused, Temporary, Transport, Unreachable, shown

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

T = TypeVar("T")

STATUS_CODES = {401: "unauthorized", 403: "denied", 404: "not found", 405: "unsupported"}


class Session:
    """What has been found out about one registry. Safe to share among threads; nothing is sent before it must be."""

    def __init__(
        self,
        host: str,
        credentials: Credentials | None = None,
        insecure: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.host = host
        self.transport = Transport(host, insecure, patience)
        self.patience = self.transport.patience
        self.auth = Authenticator(credentials, self._ask_token_server)
        self.base = ""  # https://host or http://host, once it has answered
        self._lock = threading.Lock()

    def greet(self) -> None:
        """Meet the registry: find out whether it speaks HTTPS, and how it wants us to authenticate.

        Plain HTTP is tried only where the registry may be insecure. Nothing secret is sent.
        Raises Unreachable, or RegistryError where what answers is no registry.
        """
        with self._lock:
            if self.base:
                return
            schemes = ("https", "http") if self.transport.insecure else ("https",)
            for scheme in schemes:
                try:
                    response = self.transport.send("GET", f"{scheme}://{self.host}/v2/", {})
                except Temporary as error:
                    if error.answered:
                        raise
                    if scheme == schemes[-1] or transport.UNTRUSTED in str(error):
                        raise Unreachable(str(error), error.url) from error
                else:
                    self._meet(f"{scheme}://{self.host}", response)
                    return

    def _meet(self, base: str, response: "BaseHTTPResponse") -> None:
        challenges = response.headers.getlist("WWW-Authenticate")
        if response.status in transport.OVERLOADED:
            raise overloaded(response, f"{base}/v2/")
        response.drain_conn()
        if response.status == 401:
            self.auth.learn(challenges)
        elif response.status != 200:
            raise RegistryError(
                f"{base}/v2/ answers {response.status} {response.reason}: it is no registry, or one without the "
                f"version 2 interface; is the name right?",
                f"{base}/v2/",
                response.status,
            )
        self.base = base

    def open(
        self,
        method: str,
        path: str,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expected: tuple[int, ...] = (200,),
    ) -> "BaseHTTPResponse":
        """Ask, authenticating as the registry wants it; return the response with its body unread.

        Raises Temporary for an overloaded registry, Refused for any status that was not `expected`.
        """
        self.greet()
        url = self.url(path)
        ours = transport.origin(url) == transport.origin(self.base)
        sent = self.auth.header(scope) if ours else ""
        response = self.transport.send(method, url, with_authorization(headers, sent), body)
        if response.status == 401 and "WWW-Authenticate" in response.headers and ours:
            answer = self.auth.answer(response.headers.getlist("WWW-Authenticate"), scope)
            if answer and answer != sent:
                response.drain_conn()
                response = self.transport.send(method, url, with_authorization(headers, answer), body)
            elif not answer:
                response.close()
                raise refused(f"{method} {shown(url)}", "no basic auth credentials", "", 401, url)
        if response.status in expected:
            return response
        if response.status in transport.OVERLOADED:
            raise overloaded(response, url)
        raise self._refusal(method, url, response)

    def status(
        self,
        method: str,
        path: str,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expected: tuple[int, ...] = (200,),
    ) -> int:
        """Ask where only the answer's status matters."""
        with self.open(method, path, scope, headers, body, expected) as response:
            response.drain_conn()
            return response.status

    def persist(self, action: Callable[[], T]) -> T:
        """Try `action` with patience; a registry that cannot be reached to begin with is down and is tried once."""
        transport.persist(self.greet, self.patience)
        return transport.persist(action, self.patience)

    def url(self, path: str) -> str:
        """Return the address of a path; what is an address already stays one."""
        return path if "://" in path else f"{self.base}{path}"

    def _refusal(self, method: str, url: str, response: "BaseHTTPResponse") -> Refused:
        """Read the reasons out of a refusal, in the registry's own words where it gives any."""
        status = response.status
        try:
            data = transport.read_document(response, url, self.patience)
        except RegistryError:
            data = b""
        errors = parse_json(data).get("errors")
        first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
        if status == 401 and 'error="insufficient_scope"' in response.headers.get("WWW-Authenticate", ""):
            first = {"code": "denied", "message": "requested access to the resource is denied"}
        code = str(first.get("code") or STATUS_CODES.get(status, "")).lower().replace("_", " ")
        return refused(
            f"{method} {shown(url)}",
            code or f"{status} {response.reason}",
            str(first.get("message") or ""),
            status,
            url,
        )

    def _ask_token_server(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        """Speak to the token server that the registry named; what is secret goes there only over HTTPS, or at home."""
        secret = "Authorization" in headers or body is not None
        host = url.split("/")[2]
        if secret and url.startswith("http:") and self.base.startswith("https:") and not transport.is_loopback(host):
            raise RegistryError(f"refused to send credentials to the token server {shown(url)}, which is not HTTPS")

        def ask() -> tuple[int, bytes]:
            response = self.transport.send(method, url, headers, body)
            if response.status in transport.OVERLOADED:
                raise overloaded(response, url)
            return response.status, transport.read_document(response, url, self.patience)

        return transport.persist(ask, self.patience)


def with_authorization(headers: Mapping[str, str] | None, authorization: str) -> dict[str, str]:
    """Return `headers` with `Authorization` where there is one to send."""
    return {**(headers or {}), **({"Authorization": authorization} if authorization else {})}


def refused(asked: str, code: str, message: str, status: int, url: str) -> Refused:
    """Make a Refused that reads as docker words it: `manifest unknown: manifest unknown`."""
    reason = f"{code}: {message}" if message else code
    error = Refused(f"{asked}: {reason}", shown(url), status)
    error.code, error.reason = code, reason
    return error


def overloaded(response: "BaseHTTPResponse", url: str) -> Temporary:
    """Make a Temporary of a status that says: not now."""
    error = Temporary(
        f"{shown(url)}: the registry answers {response.status} {response.reason}", shown(url), response.status
    )
    error.wait = transport.retry_after(response)
    response.close()
    return error


def parse_json(data: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one where `data` is none."""
    import json

    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
