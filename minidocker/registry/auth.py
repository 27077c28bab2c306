"""Who we are, told the way the registry asks for it: the `WWW-Authenticate` header of its refusal says how.

`Basic` wants name and password with each request. `Bearer` names a token server (`realm`); its token says what may be
done with which repository (`scope`) and is asked for once a scope. No host is known beforehand.

See: distribution, docs/spec/auth/token.md and oauth.md; RFC 7617, Basic; RFC 6750, Bearer.
"""

import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from minidocker.errors import RegistryError

# Ask the token server: method, url, headers, body in; status and body out.
Ask = Callable[[str, str, Mapping[str, str], bytes | None], tuple[int, bytes]]

SHORTEST_LIFE = 60.0
LONGEST_LIFE = 86400.0
CLIENT = "minidocker"
# A parameter, `name=value` or `name="quoted value"`, or else a word alone, which is the name of a scheme. Read word by
# word: one expression for a whole challenge takes time that grows with the third power of a header's length.
WORD = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))|([A-Za-z][\w-]*)')


class Credentials(NamedTuple):
    """A user's name and password, or the identity token that a token server gave instead of the password."""

    username: str
    password: str
    identity_token: str = ""

    @property
    def basic(self) -> str:
        """Return the value of an `Authorization: Basic` header."""
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()


class Challenge(NamedTuple):
    """One way to authenticate that a registry offers; the scheme is in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """Read `WWW-Authenticate` headers: several of them, or several challenges in one, quoted strings understood."""
    found: list[Challenge] = []
    for header in headers:
        first = len(found)
        for name, quoted, plain, scheme in WORD.findall(header):
            if scheme:
                found.append(Challenge(scheme.lower(), {}))
            elif len(found) > first:
                found[-1].parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) or plain
    return found


class Authenticator:
    """How one registry wants to be authenticated to, and the tokens got so far. Safe to share among threads."""

    def __init__(self, credentials: Credentials | None, ask: Ask) -> None:
        self.credentials = credentials
        self._ask = ask
        self._challenge: Challenge | None = None
        self._tokens: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def header(self, scope: str) -> str:
        """Return the `Authorization` to send for `scope`, empty while the registry has not asked for one.

        Raises RegistryError where a token is needed and the token server does not give it.
        """
        with self._lock:
            if self._challenge is None or not (scope or self._challenge.scheme == "basic"):
                return ""
            if self._challenge.scheme == "basic":
                return self.credentials.basic if self.credentials else ""
            return self._bearer(self._challenge, scope)

    def learn(self, headers: list[str]) -> Challenge | None:
        """Choose from what the registry offers what we can do, and remember it for the requests to come."""
        offered = {challenge.scheme: challenge for challenge in parse_challenges(headers)}
        with self._lock:
            self._challenge = offered.get("bearer") or offered.get("basic")
            return self._challenge

    def answer(self, headers: list[str], scope: str) -> str:
        """Return the `Authorization` that answers a refusal, asking for the scope that the refusal names.

        Empty where we have nothing to answer with.
        """
        challenge = self.learn(headers)
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            return self.credentials.basic if self.credentials else ""
        with self._lock:
            self._tokens.pop(scope, None)
            return self._bearer(challenge, scope, challenge.parameters.get("scope", scope))

    def _bearer(self, challenge: Challenge, scope: str, asked: str = "") -> str:
        """Return a token for `scope` that still lives, got now if need be; `asked` is how the registry wrote it."""
        token, until = self._tokens.get(scope, ("", 0.0))
        if time.monotonic() >= until:
            token, life = self._request_token(challenge, asked or scope)
            self._tokens[scope] = token, time.monotonic() + life * 0.8
        return f"Bearer {token}"

    def _request_token(self, challenge: Challenge, scope: str) -> tuple[str, float]:
        """Ask the token server that the challenge names; return the token and the seconds it lives."""
        from urllib.parse import urlencode

        realm = challenge.parameters.get("realm", "")
        if not re.match("https?://[^/]", realm):
            raise RegistryError(f"the registry asks for a token but names no token server (realm {realm!r})")
        query = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        if self.credentials and self.credentials.identity_token:
            query += [("grant_type", "refresh_token"), ("refresh_token", self.credentials.identity_token)]
            query += [("client_id", CLIENT)] + ([("scope", scope)] if scope else [])
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            return read_token(realm, *self._ask("POST", realm, form, urlencode(query).encode()))
        query += [("scope", part) for part in scope.split()]
        headers = {}
        if self.credentials:
            query += [("account", self.credentials.username), ("client_id", CLIENT)]
            headers["Authorization"] = self.credentials.basic
        url = realm + ("&" if "?" in realm else "?") + urlencode(query)
        return read_token(realm, *self._ask("GET", url, headers, None))


def read_token(realm: str, status: int, body: bytes) -> tuple[str, float]:
    """Return the token and its life in seconds from a token server's answer; raise RegistryError if it refused."""
    import json

    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    if status != 200:
        raise RegistryError(f"token server {realm}: {refusal(answer, status)}", realm, status)
    token = answer.get("token") or answer.get("access_token")
    if not isinstance(token, str) or not token.isprintable():
        raise RegistryError(f"token server {realm}: its answer holds no token", realm, status)
    life = answer.get("expires_in")
    sane = isinstance(life, int | float) and SHORTEST_LIFE <= life <= LONGEST_LIFE
    return token, float(life) if sane else SHORTEST_LIFE


def refusal(answer: dict[str, Any], status: int) -> str:
    """Return a token server's own words for its refusal, `unauthorized: …` where it has none."""
    errors = answer.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict) and errors[0].get("message"):
        return f"{errors[0].get('code', 'denied')}: {errors[0]['message']}".lower()
    words = answer.get("details") or answer.get("error_description") or answer.get("error")
    fallback = "incorrect username or password" if status in (401, 403) else f"status {status}"
    return f"unauthorized: {words or fallback}" if status in (401, 403) else str(words or fallback)
