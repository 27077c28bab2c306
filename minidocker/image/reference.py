"""Image names: `[domain/]path[:tag][@digest]`, read and normalised as docker does. Pure; no files, no network.

`busybox` is short for `docker.io/library/busybox:latest`: the long form is *canonical* and is what the store and the
registry client work with, the short one is *familiar* and is what people see.
See: distribution/reference, reference.go (grammar) and normalize.go.
"""

import re
from typing import NamedTuple

from minidocker.errors import InvalidReference

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DEFAULT_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_LONGEST_NAME = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_REFERENCE = rf"({_DOMAIN})/({_COMPONENT}(?:/{_COMPONENT})*)(?::({_TAG}))?(?:@(sha256:[0-9a-f]{{64}}))?"


class Reference(NamedTuple):
    """A normalised image name. `tag` and `digest` are empty where the name has none."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """The name without tag and digest: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """The repository as people type it: `busybox`, `someone/thing`, `localhost:5000/thing`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        if self.path.startswith(_OFFICIAL) and self.path.count("/") == 1:
            return self.path.removeprefix(_OFFICIAL)
        return self.path

    @property
    def familiar(self) -> str:
        """The whole name as people type it: `busybox:latest`, `busybox@sha256:…`."""
        return self.familiar_repository + self._suffix()

    def without_digest(self) -> "Reference":
        """Return the same repository and tag."""
        return self._replace(digest="")

    def with_digest(self, digest: str) -> "Reference":
        """Return the digest reference of the same repository; it has no tag."""
        return self._replace(tag="", digest=digest)

    def __str__(self) -> str:
        return self.repository + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str, default_tag: str = DEFAULT_TAG) -> Reference:
    """Read an image name and fill in what people leave out: the domain, `library/`, the tag.

    A name with a digest gets no default tag; with `default_tag=""` none does.
    Raises `InvalidReference` in docker's words.
    """
    if re.fullmatch("[0-9a-f]{64}", text):
        raise InvalidReference(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    path = rest.partition("@")[0].partition(":")[0]
    if path != path.lower():
        raise InvalidReference(f"invalid reference format: repository name ({path}) must be lowercase")
    match = re.fullmatch(_REFERENCE, f"{domain}/{rest}")
    if match is None:
        raise InvalidReference(f'invalid reference format: "{text}" is not [domain/]name[:tag][@sha256:digest]')
    _, path, tag, digest = match.groups(default="")
    if len(path) > _LONGEST_NAME:
        raise InvalidReference(
            f"invalid reference format: repository name must not be more than {_LONGEST_NAME} characters"
        )
    return Reference(domain, path, tag or ("" if digest else default_tag), digest)


def _split_domain(text: str) -> tuple[str, str]:
    """Return the domain and the rest, both normalised.

    What stands before the first `/` is a domain only if it could not be a user's name: it has a dot or a colon, is
    `localhost`, or has capitals.
    """
    first, slash, rest = text.partition("/")
    if slash and (any(c in first for c in ".:") or first == "localhost" or first != first.lower()):
        domain = DEFAULT_DOMAIN if first == _LEGACY_DEFAULT_DOMAIN else first
    else:
        domain, rest = DEFAULT_DOMAIN, text
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest
