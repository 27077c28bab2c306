"""Pull and push: an image comes from a registry into the store, or goes from the store to a registry.

Blobs travel side by side, three down or five up as docker does it; layers are unpacked in order, each while it and
later ones are still on their way. A kill at any point leaves blobs and parts of blobs that the next pull goes on from.

See: OCI distribution-spec, spec.md, Pull and Push.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from minidocker.errors import DigestMismatch, InvalidManifest, InvalidReference, UnsafeLayer
from minidocker.image import oci, reference
from minidocker.image.arriving import Arriving
from minidocker.image.catalog import Image, short_id
from minidocker.image.oci import Descriptor, ImageConfig, Index, Manifest, Platform
from minidocker.image.reference import Reference
from minidocker.image.store import ImageStore
from minidocker.progress import Progress, Report
from minidocker.registry.sidebyside import SideBySide, one_at_a_time
from minidocker.registry.transport import Patience, Refused, Temporary, persist

if TYPE_CHECKING:
    from typing import BinaryIO

    from minidocker.registry.client import Document

DOWNLOADS = 3
UPLOADS = 5
MAX_CONFIG = 4 * 1024 * 1024
MAX_NESTING = 3

Tell = Callable[[int], None]  # how many bytes of a blob have travelled


class Source(Protocol):
    """Where images come from: `client.Registry`, or `embedded.Embedded`."""

    patience: Patience

    def manifest(self, repository: str, reference: str) -> "Document":
        """Return what a tag or digest names."""

    def blob(self, repository: str, digest: str, offset: int = 0) -> tuple[int, Iterator[bytes]]:
        """Return where the bytes begin, and the bytes."""


class Destination(Protocol):
    """Where images go: the same two."""

    def has_blob(self, repository: str, digest: str) -> bool:
        """Say whether it need not be sent."""

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Take it from another repository, if that can be."""

    def upload(self, repository: str, digest: str, size: int, stream: "BinaryIO", sent: Tell) -> None:
        """Send it."""

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """Name it."""


class Fetched(NamedTuple):
    """An image that was pulled: `digest` is what the name stood for, `fresh` is False if it was here already."""

    image: Image
    digest: str
    fresh: bool


class Sent(NamedTuple):
    """A manifest that was pushed: its digest and its size in bytes."""

    digest: str
    size: int


def fetch(store: ImageStore, ref: Reference, platform: Platform | None, report: Report, source: Source) -> Fetched:
    """Pull the image that `ref` names from `source` into the store, for `platform` or for this machine.

    Raises Refused in docker's words where the registry has it not or does not give it; RegistryError, DigestMismatch,
    InvalidManifest, UnsafeLayer.
    """
    pull = _Pull(store, ref, source, one_at_a_time(report))
    with store.adding(), in_words_of_pull(ref):
        top = source.manifest(ref.path, ref.digest or ref.tag)
        report(Progress(ref.digest or ref.tag, f"Pulling from {ref.path}"))
        document = pull.choose(top, platform or oci.host_platform())
        manifest = Manifest.from_bytes(document.data, document.media_type)
        config = pull.config(manifest.config)
        check_image(ref, manifest, config, platform)
        pull.layers(manifest, config)
        names = [ref.with_digest(top.digest)] if ref.digest else [ref, ref.with_digest(top.digest)]
        before = {name for image in store.images() if image.id == manifest.config.digest for name in image.references}
        image = store.add(document.data, document.media_type, names)
    fresh = str(names[0]) not in before
    report(Progress("", f"Digest: {top.digest}"))
    report(Progress("", f"Status: {'Downloaded newer image' if fresh else 'Image is up to date'} for {ref.familiar}"))
    return Fetched(image, top.digest, fresh)


def send(store: ImageStore, image: Image, ref: Reference, report: Report, destination: Destination) -> Sent:
    """Push an image to the repository and tag that `ref` names; the store remembers the digest it has there.

    Raises Refused in docker's words, RegistryError.
    """
    if ref.digest:
        raise InvalidReference(f"cannot push {ref.familiar}: a digest names what is there already; push a tag")
    push = _Push(store, ref, destination, one_at_a_time(report))
    with store.adding(), in_words_of_push():
        report(Progress("", f"The push refers to repository [{ref.repository}]"))
        data = store.layout.read_blob(image.manifest.digest)
        manifest = Manifest.from_bytes(data, image.manifest.media_type)
        push.layers(manifest, store.config(image))
        if not destination.has_blob(ref.path, image.id):
            push.blob(manifest.config, lambda sent: None)
        digest = destination.put_manifest(ref.path, ref.tag, data, manifest.media_type)
    store.tag(image, ref.with_digest(digest))
    report(Progress("", f"{ref.tag}: digest: {digest} size: {len(data)}"))
    return Sent(digest, len(data))


class _Pull(NamedTuple):
    """What all steps of one pull need."""

    store: ImageStore
    ref: Reference
    source: Source
    report: Report

    def choose(self, document: "Document", platform: Platform) -> "Document":
        """Return the manifest for `platform`; an index is followed to it, and an index in an index too."""
        for _ in range(MAX_NESTING):
            if document.media_type not in oci.INDEXES:
                return document
            index = Index.from_bytes(document.data, document.media_type)
            document = self.source.manifest(self.ref.path, index.choose(platform).digest)
        raise InvalidManifest(f"{self.ref.familiar}: lists of images within lists, more than {MAX_NESTING} deep")

    def config(self, blob: Descriptor) -> ImageConfig:
        """Return the image's configuration, which is in the store from now on."""
        if blob.media_type not in (oci.CONFIG, oci.DOCKER_CONFIG):
            raise InvalidManifest(f"{self.ref.familiar} is no container image: its configuration is {blob.media_type}")
        if blob.size > MAX_CONFIG:
            raise InvalidManifest(
                f"{self.ref.familiar}: its configuration has {blob.size} bytes, {MAX_CONFIG} are sane"
            )
        if not self.store.layout.has_blob(blob.digest, blob.size):
            self.download(blob, lambda received: None, lambda file: None)
        return ImageConfig.from_bytes(self.store.layout.read_blob(blob.digest))

    def layers(self, manifest: Manifest, config: ImageConfig) -> None:
        """Download the layers that are missing, several at once, and unpack them in order."""
        layers = list(zip(manifest.layers, config.diff_ids, strict=True))
        missing: dict[str, Descriptor] = {}
        for layer, diff_id in layers:
            here = self.store.layout.has_blob(layer.digest, layer.size) and self.store.has_layer(diff_id)
            self.report(Progress(short_id(layer.digest), "Already exists" if here else "Pulling fs layer"))
            if not here:
                missing[layer.digest] = layer
        for digest in list(missing)[DOWNLOADS:]:
            self.report(Progress(short_id(digest), "Waiting"))
        with SideBySide(DOWNLOADS) as downloads:
            arriving = {digest: self.start(layer, downloads) for digest, layer in missing.items()}
            for layer, diff_id in layers:
                if layer.digest in missing:
                    self.unpack(layer, diff_id, arriving[layer.digest])
                    self.report(Progress(short_id(layer.digest), "Pull complete"))

    def start(self, layer: Descriptor, downloads: SideBySide) -> Arriving:
        """Have a layer downloaded; return what has come of it at any time."""
        ended = threading.Event()
        arriving = Arriving(layer.size, ended, functools.partial(downloads.wait, layer.digest))
        downloads.start(layer.digest, functools.partial(self.layer, layer, downloads, arriving.begin), ended)
        return arriving

    def unpack(self, layer: Descriptor, diff_id: str, arriving: Arriving) -> None:
        """Unpack a layer while it arrives, and where that fails, once more when it is here, verified."""

        def report(news: Progress) -> None:
            if arriving.ended:  # until then the line in the table is the download's
                self.report(news)

        if arriving.begun():
            try:
                self.store.unpack(layer.digest, diff_id, report, arriving)
            except (UnsafeLayer, DigestMismatch):
                pass  # a download that began anew, or one that fails: it says itself why, or this is said again
            else:
                arriving.wait()  # where the layer was unpacked already, its blob may still be on its way
                report(Progress(short_id(layer.digest), "Extracting", layer.size, layer.size))
                return
        arriving.wait()
        self.store.unpack(layer.digest, diff_id, self.report)

    def layer(self, layer: Descriptor, downloads: SideBySide, begin: Tell) -> None:
        """Download one layer, unless it is here, telling how far it is."""
        told = Progress(short_id(layer.digest), "Downloading", 0, layer.size)

        def tell(received: int) -> None:
            downloads.check()
            self.report(told._replace(current=received))

        if not self.store.layout.has_blob(layer.digest, layer.size):
            self.download(layer, tell, begin)
            self.report(Progress(told.id, "Verifying Checksum"))
        self.report(Progress(told.id, "Download complete"))

    def download(self, blob: Descriptor, tell: Tell, begin: Tell) -> None:
        """Bring a blob into the store, verified against digest and size as it comes; go on where it was cut off.

        `begin` is given the descriptor of the file that it is written to.
        """

        def once() -> None:
            with self.store.layout.writer(blob.digest, blob.size, resume=True) as writer:
                first = resumed = writer.offset
                if not writer.complete and resumed < blob.size:
                    begin(writer.fileno())
                    first, chunks = self.source.blob(self.ref.path, blob.digest, resumed)
                    if first != resumed:
                        writer.restart()
                    for chunk in chunks:
                        writer.write(chunk)
                        tell(writer.offset)
                try:
                    writer.commit()
                except DigestMismatch as error:
                    if resumed and first == resumed:  # the part from an earlier attempt may be what is wrong
                        raise Temporary(str(error)) from error
                    raise

        persist(once, self.source.patience)


class _Push(NamedTuple):
    """What all steps of one push need."""

    store: ImageStore
    ref: Reference
    destination: Destination
    report: Report

    def layers(self, manifest: Manifest, config: ImageConfig) -> None:
        """Push the layers that the registry has not, several at once, the topmost first."""
        layers = list(zip(manifest.layers, config.diff_ids, strict=True))
        order = {layer.digest: (layer, diff_id) for layer, diff_id in reversed(layers)}
        ids = [short_id(diff_id) for _, diff_id in order.values()]
        for id in ids:
            self.report(Progress(id, "Preparing"))
        for id in ids[UPLOADS:]:
            self.report(Progress(id, "Waiting"))
        relatives = self.relatives()
        with SideBySide(UPLOADS) as uploads:
            for layer, diff_id in order.values():
                told = Progress(short_id(diff_id), "Pushing", 0, layer.size)
                task = functools.partial(self.layer, layer, told, relatives.get(layer.digest, []), uploads)
                uploads.start(layer.digest, task)
            for digest in order:
                uploads.wait(digest)

    def layer(self, layer: Descriptor, told: Progress, relatives: list[str], uploads: SideBySide) -> None:
        """Push one layer the cheapest way: not at all, by a mount from another repository, or by an upload."""

        def tell(sent: int) -> None:
            uploads.check()
            self.report(told._replace(current=sent))

        if self.destination.has_blob(self.ref.path, layer.digest):
            self.report(Progress(told.id, "Layer already exists"))
            return
        for path in relatives:
            with contextlib.suppress(Refused):
                if self.destination.mount(self.ref.path, layer.digest, path):
                    self.report(Progress(told.id, f"Mounted from {path}"))
                    return
        tell(0)
        self.blob(layer, tell)
        self.report(Progress(told.id, "Pushed"))

    def blob(self, blob: Descriptor, tell: Tell) -> None:
        """Upload one blob of the store. Raises DigestMismatch where the store's copy is cut off."""
        with self.store.layout.open_blob(blob.digest) as file:
            if os.fstat(file.fileno()).st_size != blob.size:
                raise DigestMismatch(f"{file.name} is damaged: it should have {blob.size} bytes; pull or load it again")
            self.destination.upload(self.ref.path, blob.digest, blob.size, file, tell)

    def relatives(self) -> dict[str, list[str]]:
        """Return for each blob the other repositories of the same registry that should have it.

        They are known from the digest references of what was pulled and pushed before.
        """
        found: dict[str, list[str]] = {}
        for image in self.store.images():
            names = map(reference.parse, image.digests)
            paths = {name.path for name in names if name.domain == self.ref.domain and name.path != self.ref.path}
            for layer in self.store.manifest(image).layers if paths else ():
                found.setdefault(layer.digest, []).extend(sorted(paths))
        return found


def check_image(ref: Reference, manifest: Manifest, config: ImageConfig, platform: Platform | None) -> None:
    """Raise InvalidManifest unless layers and configuration fit together, and the platform that was asked for."""
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidManifest(
            f"{ref.familiar}: {len(manifest.layers)} layers, but the configuration speaks of {len(config.diff_ids)}"
        )
    if platform and not platform.runs(config.platform):
        raise InvalidManifest(
            f"image with reference {ref.familiar} was found but does not match the specified platform: "
            f"wanted {platform}, actual: {config.platform}"
        )


@contextlib.contextmanager
def in_words_of_pull(ref: Reference) -> Iterator[None]:
    """Word a registry's refusal as docker's pull does, and say of a document that is none what it was asked for."""
    name = ref.familiar_repository
    try:
        yield
    except InvalidManifest as error:
        raise InvalidManifest(f"pull {ref.familiar}: {error}") from error
    except Refused as error:
        what = {
            "denied": f"pull access denied for {name}, repository does not exist or may require 'minidocker login'",
            "name unknown": f"repository {name} not found",
            "manifest unknown": f"manifest for {ref.familiar} not found",
            "not found": f"manifest for {ref.familiar} not found",
        }.get(error.code)
        raise (error.reworded(f"{what}: {error.reason}") if what else error) from error


@contextlib.contextmanager
def in_words_of_push() -> Iterator[None]:
    """Word a registry's refusal as docker's push does: the reason alone."""
    try:
        yield
    except Refused as error:
        raise error.reworded(error.reason) from error
