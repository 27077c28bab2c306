"""The documents an image is made of: descriptor, manifest, index, configuration. Values only; no files, no network.

Docker's schema 2 and OCI's documents have the same shape and differ in their media types: one set of types reads both.
What a document says beyond what minidocker understands is kept in `extra`, so that nothing is lost when it is written.

See: OCI image-spec, descriptor.md, manifest.md, image-index.md, config.md; distribution, docs/spec/manifest-v2-2.md.
"""

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple

from minidocker.errors import InvalidArgument, InvalidManifest
from minidocker.image import runconfig
from minidocker.image.documents import Json as Json
from minidocker.image.documents import as_array, as_object, as_strings, dump, load

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
INDEXES = (INDEX, DOCKER_INDEX)

_NOTHING: Json = {}  # what optional fields hold by default; nobody writes to it

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "loongarch64": ("loong64", ""),
}


def digest_of(data: bytes) -> str:
    """Return `sha256:…`, the name of a blob with this content."""
    return f"sha256:{_sha256()(data).hexdigest()}"


@functools.cache
def _sha256() -> Callable[[bytes], Any]:
    """Return Python's own implementation: `hashlib` loads OpenSSL, 4 ms, which pays for layers only."""
    for module in ("_sha2", "_sha256"):  # of Python 3.12, and before
        with contextlib.suppress(ImportError):
            own: Callable[[bytes], Any] = import_module(module).sha256
            return own
    from hashlib import sha256

    return sha256


def rfc3339(nanoseconds: int) -> str:
    """Return a moment, in nanoseconds since 1970, as documents have it: `2024-05-01T12:00:00.000000001Z`."""
    from time import gmtime, strftime

    seconds, fraction = divmod(nanoseconds, 10**9)
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds)) + f".{fraction:09}Z"


def check_digest(text: object) -> str:
    """Return `text` if it is a digest, `sha256:` and 64 small hexadecimal digits. Raises `InvalidManifest`.

    Everything that makes a path of a digest calls this first, so that a hostile one cannot name a file elsewhere.
    """
    if isinstance(text, str) and re.fullmatch("sha256:[0-9a-f]{64}", text):
        return text
    raise InvalidManifest(f"invalid digest {str(text)[:80]!r}: expected sha256: and 64 hexadecimal digits")


class Platform(NamedTuple):
    """An operating system and a processor, in Go's names."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> "Platform":
        """Read `linux/arm64/v8`, `linux/amd64`, or an architecture alone. Raises `InvalidArgument`."""
        parts = text.lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(re.fullmatch("[a-z0-9_.-]+", part) for part in parts):
            raise InvalidArgument(f'"{text}" is an invalid platform: expected os/architecture[/variant]')
        if parts == ["linux"]:
            return host_platform()
        return cls(*parts).normal() if len(parts) > 1 else cls("linux", parts[0]).normal()

    def normal(self) -> "Platform":
        """Return the platform under its usual name: `linux/aarch64/v8` is `linux/arm64`."""
        architecture, variant = _ARCHITECTURES.get(self.architecture, (self.architecture, ""))
        variant = self.variant or variant
        variant = f"v{variant}" if variant.isdigit() else variant
        if (architecture, variant) == ("arm64", "v8") or (architecture, variant) == ("amd64", "v1"):
            variant = ""
        elif (architecture, variant) == ("arm", ""):
            variant = "v7"
        return Platform(self.os, architecture, variant)

    def runs(self, other: "Platform") -> bool:
        """Say whether this platform runs what was made for the other: its own, and older variants of 32-bit arm."""
        mine, theirs = self.normal(), other.normal()
        if mine[:2] != theirs[:2]:
            return False
        return mine.variant == theirs.variant or (mine.architecture == "arm" and theirs.variant < mine.variant)

    def __str__(self) -> str:
        return "/".join(filter(None, self))


def host_platform() -> Platform:
    """Return this machine's platform."""
    return Platform("linux", os.uname().machine).normal()


class Descriptor(NamedTuple):
    """What names a blob: its media type, digest and size. `extra` holds fields that minidocker has no use for."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = _NOTHING
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    extra: Json = _NOTHING

    @property
    def hex(self) -> str:
        """The 64 digits of the digest."""
        return self.digest.removeprefix("sha256:")

    @classmethod
    def from_json(cls, value: object) -> "Descriptor":
        """Check and read a descriptor. Raises `InvalidManifest`."""
        fields = dict(as_object(value, "a descriptor"))
        media_type, size = fields.pop("mediaType", ""), fields.pop("size", None)
        if not isinstance(media_type, str):
            raise InvalidManifest(f"a descriptor's mediaType is {media_type!r}: expected a string")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
            raise InvalidManifest(f"a descriptor's size is {str(size)[:80]!r}: expected a number of bytes")
        digest = check_digest(fields.pop("digest", None))
        annotations = as_strings(fields.pop("annotations", None), "annotations")
        # Kept, but nobody is asked there: a stranger could name any server (the class of CVE-2020-15157).
        urls = tuple(str(url) for url in as_array(fields.pop("urls", None), "urls"))
        platform, keys = None, ("os", "architecture", "variant")
        if described := fields.pop("platform", None):
            described = as_object(described, "a platform")
            platform = Platform(*(str(described.get(key, "")) for key in keys))
            if described.keys() - set(keys):
                fields["platform"] = described
        return cls(media_type, digest, size, annotations, platform, urls, fields)

    def to_json(self) -> Json:
        """Return what `from_json` reads."""
        fields: Json = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform is not None:
            keys = ("os", "architecture", "variant")
            fields["platform"] = {key: value for key, value in zip(keys, self.platform, strict=True) if value}
        if self.urls:
            fields["urls"] = list(self.urls)
        if self.annotations:
            fields["annotations"] = self.annotations
        return fields | self.extra


class Manifest(NamedTuple):
    """One image for one platform: its configuration and its layers, the lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    extra: Json = _NOTHING

    @classmethod
    def from_bytes(cls, data: bytes, media_type: str = "") -> "Manifest":
        """Check and read a manifest; `media_type` is what the transport said it is. Raises `InvalidManifest`."""
        fields = _document(data)
        media_type = _media_type(fields, media_type, MANIFESTS, "config" in fields)
        if "manifests" in fields:
            raise InvalidManifest("a manifest that is also an index: refused, since two readers would see two images")
        config = Descriptor.from_json(fields.pop("config", None))
        layers = tuple(map(Descriptor.from_json, as_array(fields.pop("layers", None), "layers")))
        return cls(media_type, config, layers, fields)

    def to_bytes(self) -> bytes:
        """Return the document; equal manifests give equal bytes."""
        fields: Json = {"schemaVersion": 2, "mediaType": self.media_type, "config": self.config.to_json()}
        fields["layers"] = [layer.to_json() for layer in self.layers]
        return dump(fields | self.extra)


class Index(NamedTuple):
    """Several manifests, as a rule one for each platform."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    extra: Json = _NOTHING

    @classmethod
    def from_bytes(cls, data: bytes, media_type: str = "") -> "Index":
        """Check and read an index. Raises `InvalidManifest`."""
        fields = _document(data)
        media_type = _media_type(fields, media_type, INDEXES, "manifests" in fields)
        if "layers" in fields or "config" in fields:
            raise InvalidManifest("an index that is also a manifest: refused, since two readers would see two images")
        return cls(
            media_type, tuple(map(Descriptor.from_json, as_array(fields.pop("manifests", None), "manifests"))), fields
        )

    def to_bytes(self) -> bytes:
        """Return the document; equal indexes give equal bytes."""
        fields: Json = {"schemaVersion": 2, "mediaType": self.media_type}
        fields["manifests"] = [manifest.to_json() for manifest in self.manifests]
        return dump(fields | self.extra)

    def choose(self, platform: Platform) -> Descriptor:
        """Return the entry that suits `platform` best: its own variant, else the newest older one, else one for any.

        Raises `InvalidManifest` when there is none.
        """
        images = [entry for entry in self.manifests if entry.media_type in (*MANIFESTS, *INDEXES)]
        fitting = [entry for entry in images if entry.platform and platform.runs(entry.platform)]
        if fitting:
            return max(fitting, key=lambda entry: entry.platform.normal().variant if entry.platform else "")
        for entry in images:
            if entry.platform is None:
                return entry
        offered = ", ".join(sorted({str(entry.platform) for entry in self.manifests})) or "none"
        raise InvalidManifest(
            f"no matching manifest for {platform} in the manifest list entries (there are: {offered})"
        )


class ImageConfig(NamedTuple):
    """An image's configuration: how to run it, what its layers are, how it came about. `raw` is the whole document."""

    raw: Json

    @classmethod
    def from_bytes(cls, data: bytes) -> "ImageConfig":
        """Check and read a configuration. Raises `InvalidManifest`."""
        raw = as_object(load(data), "an image configuration")
        rootfs = as_object(raw.get("rootfs") or {}, "rootfs")
        diff_ids = as_array(rootfs.get("diff_ids"), "diff_ids")
        if len(diff_ids) > runconfig.MOST_LAYERS:
            raise InvalidManifest(f"max depth exceeded: {len(diff_ids)} layers, {runconfig.MOST_LAYERS} can be stacked")
        for diff_id in diff_ids:
            check_digest(diff_id)
        runconfig.check(raw)
        return cls(raw)

    def to_bytes(self) -> bytes:
        """Return the document in one canonical form, so that equal configurations are one image."""
        return json.dumps(self.raw, sort_keys=True, separators=(",", ":")).encode()

    @property
    def config(self) -> Json:
        """How to run it: User, Env, Cmd, Entrypoint, WorkingDir, ExposedPorts, Volumes, Labels and so on."""
        return self.raw.get("config") or {}

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The digests of the layers' uncompressed archives, the lowest first."""
        return tuple((self.raw.get("rootfs") or {}).get("diff_ids") or ())

    @property
    def history(self) -> list[Json]:
        """The steps that made it, the first first: created, created_by, comment, empty_layer."""
        return self.raw.get("history") or []

    @property
    def created(self) -> str:
        """When it was made (RFC 3339), or empty."""
        return str(self.raw.get("created") or "")

    @property
    def architecture(self) -> str:
        """The processor it is for, in Go's name."""
        return str(self.raw.get("architecture") or "")

    @property
    def os(self) -> str:
        """The operating system it is for."""
        return str(self.raw.get("os") or "")

    @property
    def author(self) -> str:
        """Who made it, or empty."""
        return str(self.raw.get("author") or "")

    @property
    def platform(self) -> Platform:
        """What it is for."""
        return Platform(self.os or "linux", self.architecture, str(self.raw.get("variant") or ""))


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """Return the name of each layer *on top of those below it*.

    See: OCI image-spec, config.md, Layer ChainID.
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def _document(data: bytes) -> Json:
    """Read a manifest or an index as far as both are the same, and take its version out."""
    fields = as_object(load(data), "a manifest")
    version = fields.pop("schemaVersion", None)
    if version == 1 or fields.get("mediaType") in DOCKER_SCHEMA_1:
        raise InvalidManifest(
            "the manifest is of docker's schema 1, which nobody has written since 2017: push it again"
        )
    if version != 2:
        raise InvalidManifest(f"the manifest's schemaVersion is {version!r}: expected 2")
    return fields


def _media_type(fields: Json, told: str, expected: tuple[str, ...], looks_right: bool) -> str:
    """Return a document's media type and take it out; the document, the transport and its looks must agree."""
    written = fields.pop("mediaType", None) or ""
    if written and told in (*MANIFESTS, *INDEXES) and written != told:
        raise InvalidManifest(f"the manifest says it is {written!r} but was sent as {told!r}")
    media_type = written or (told if told in (*MANIFESTS, *INDEXES) else "")
    if not media_type and looks_right:
        media_type = expected[0]
    if media_type not in expected:
        raise InvalidManifest(f"unsupported manifest {media_type or told!r}: expected {' or '.join(expected)}")
    return str(media_type)
