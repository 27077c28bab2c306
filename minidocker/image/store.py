"""The images of this machine: an OCI layout that `skopeo` and `jq` can read, and the unpacked layers beside it.

images/         the layout; see `minidocker.image.layout`, and `minidocker.image.catalog` for its index.json
layers/         see `minidocker.image.unpacked`
content.lock    held (flock) shared while blobs and layers are added that no image names yet, alone while swept
"""

import contextlib
import fcntl
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from minidocker.errors import DigestMismatch, ImageNotFound, InvalidManifest, UnsafeLayer
from minidocker.image import catalog, reference, removal
from minidocker.image.catalog import Image, short_id
from minidocker.image.layout import Layout
from minidocker.image.oci import CONFIG, MANIFEST, Descriptor, ImageConfig, Index, Manifest, chain_ids, digest_of
from minidocker.image.reference import Reference
from minidocker.image.removal import Usage
from minidocker.image.unpacked import UnpackedLayers
from minidocker.progress import Progress, Report, silent

if TYPE_CHECKING:
    from minidocker.image.arriving import Arriving

__all__ = ["CollectResult", "Image", "ImageStore", "Usage"]


class CollectResult(NamedTuple):
    """What a collection deleted: the digests of blobs and layers, and how many bytes they took."""

    deleted: list[str]
    size: int


class ImageStore:
    """The images and layers below `root`. Making the object touches nothing."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.layout = Layout(f"{root}/images")
        self.unpacked = UnpackedLayers(f"{root}/layers")

    # What there is

    def images(self, intermediate: bool = True) -> list[Image]:
        """Return the images, the newest first; without `intermediate` not those that only serve as a parent.

        Reads index.json and nothing else.
        """
        images = catalog.read(self.layout.index())
        if intermediate:
            return images
        parents = {image.parent for image in images}
        return [image for image in images if image.references or image.id not in parents]

    def dangling(self) -> list[Image]:
        """Return the images that no name leads to and no other image was built on."""
        return [image for image in self.images(intermediate=False) if not image.references]

    def children(self, image_id: str) -> list[Image]:
        """Return the images that were built on this one."""
        return [image for image in self.images() if image.parent == image_id]

    def get(self, name: str) -> Image:
        """Return the image of this tag, digest reference, id or unique beginning of an id.

        Raises `InvalidReference`, `ImageNotFound`, `AmbiguousPrefix`.
        """
        return catalog.find(self.images(), name)

    def manifest(self, image: Image) -> Manifest:
        """Return the image's manifest."""
        return Manifest.from_bytes(self.layout.read_blob(image.manifest.digest), image.manifest.media_type)

    def config(self, image: Image) -> ImageConfig:
        """Return the image's configuration."""
        return ImageConfig.from_bytes(self.layout.read_blob(image.id))

    # Adding and naming

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Keep blobs and layers that no image names yet from being collected until the block ends."""
        with self._content_lock(fcntl.LOCK_SH):
            os.makedirs(self.layout.path, 0o700, exist_ok=True)  # other users of the host need not know what is in them
            self.layout.create()
            yield

    def add(self, manifest: bytes, media_type: str, references: Iterable[Reference] = (), parent: str = "") -> Image:
        """Record an image under these names. Its blobs must be stored and its layers unpacked.

        A name that another image has moves here; an image known already keeps its names and its parent.
        Raises `InvalidManifest` when something of it is missing.
        """
        parsed = Manifest.from_bytes(manifest, media_type)
        config = ImageConfig.from_bytes(self.layout.read_blob(parsed.config.digest))
        if len(parsed.layers) != len(config.diff_ids):
            raise InvalidManifest(f"the image has {len(parsed.layers)} layers but describes {len(config.diff_ids)}")
        for layer in parsed.layers:
            if not self.layout.has_blob(layer.digest, layer.size):
                raise InvalidManifest(f"layer {layer.digest} of the image is not in the store: pull or load it again")
        size = sum(map(self.layer_size, config.diff_ids))
        with self.adding():
            self.layout.add_blob(manifest)
            descriptor = Descriptor(parsed.media_type, digest_of(manifest), len(manifest))
            image = Image(parsed.config.digest, descriptor, parent=parent, created=config.created, size=size)
            return self._name(image, references, known=False)

    def create(
        self, config: ImageConfig, layers: Iterable[Descriptor], references: Iterable[Reference] = (), parent: str = ""
    ) -> Image:
        """Make an image of a configuration and the blobs of its layers, and record it as `add` does."""
        with self.adding():
            data = config.to_bytes()
            described = Descriptor(CONFIG, self.layout.add_blob(data), len(data))
            manifest = Manifest(MANIFEST, described, tuple(layers))
            return self.add(manifest.to_bytes(), MANIFEST, references, parent)

    def tag(self, image: Image, name: Reference) -> Image:
        """Give the image one more name, a tag or a digest reference; a name that another image has moves here.

        Raises `ImageNotFound` when the image was removed meanwhile.
        """
        return self._name(image, [name], known=True)

    def _name(self, image: Image, references: Iterable[Reference], known: bool) -> Image:
        names = [str(name) for name in references]
        with self.layout.update_index() as entries:
            images = {other.id: other.without(names) for other in catalog.read(entries)}
            if there := images.get(image.id):
                image = image.named((*there.references, *names))._replace(parent=image.parent or there.parent)
            elif known:
                raise ImageNotFound(f"no such image: {image.id}")
            else:
                image = image.named(names)
            images[image.id] = image
            catalog.write(entries, images.values())
        return image

    # Removing

    def remove(self, name: str, force: bool = False, usages: Callable[[], list[Usage]] = list) -> list[str]:
        """Remove a name, or an image with all its names; return docker's lines, `Untagged: …` and `Deleted: …`.

        `usages` tells which containers there are. Parents that nothing else needs go too.
        Raises `ImageNotFound`, `AmbiguousPrefix`, `Conflict`.
        """
        with self.layout.update_index() as entries:
            images, users = catalog.read(entries), usages()
            done = removal.plan(images, catalog.find(images, name), name, force, users)
            gone = {image.id for image in done.deleted}
            left = [image.without(done.untagged) for image in images if image.id not in gone]
            lines = [f"Untagged: {reference.parse(text).familiar}" for text in done.untagged]
            lines += self._deleted_lines(done.deleted, left, users)
            candidates = set[str]().union(*(self._reachable(image.manifest) for image in done.deleted))
            catalog.write(entries, left)
        self._sweep(candidates, usages)
        return lines

    def _deleted_lines(self, deleted: list[Image], left: list[Image], usages: Iterable[Usage]) -> Iterator[str]:
        """Yield a line for each image, and one for each layer that no other image has in the same place (chain id)."""
        if not deleted:
            return
        chains = {image.id: self._chain(image) for image in (*left, *deleted)}
        used = {chain for usage in usages for chain in chain_ids(usage.layers)}
        for image in deleted:
            yield f"Deleted: {image.id}"
            own = chains.pop(image.id)
            needed = used.union(*chains.values())
            yield from (f"Deleted: {chain}" for chain in reversed(own) if chain not in needed)

    def _chain(self, image: Image) -> list[str]:
        try:
            return chain_ids(self.config(image).diff_ids)
        except (FileNotFoundError, DigestMismatch, InvalidManifest):
            return []

    # Collecting what nothing needs

    def collect(self, usages: Callable[[], list[Usage]] = list) -> CollectResult:
        """Delete the blobs and layers that no image and none of the containers needs, and what killed commands left.

        Waits until nobody is adding anything.
        """
        with self._content_lock(fcntl.LOCK_EX):
            result = self._delete({*self.layout.blobs(), *self.unpacked.all()}, usages)
            self.unpacked.delete_leftovers()
            self.layout.delete_leftovers()
        return result

    def _sweep(self, candidates: set[str], usages: Callable[[], list[Usage]]) -> None:
        """Delete those of the candidates that nothing needs; while somebody is adding, leave them to `collect`."""
        try:
            with self._content_lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._delete(candidates, usages)
        except BlockingIOError:
            return

    def _delete(self, candidates: set[str], usages: Callable[[], list[Usage]]) -> CollectResult:
        """Delete those of the candidates that nothing needs: under the lock, so that nothing comes to need them."""
        if not candidates:
            return CollectResult([], 0)
        kept = {diff_id for usage in usages() for diff_id in usage.layers}
        needed = kept.union(*map(self._reachable, self.layout.index()))
        doomed, size = sorted(candidates - needed), 0
        for digest in doomed:
            if self.layout.has_blob(digest):
                size += self.layout.delete_blob(digest)
            if self.unpacked.has(digest):
                size += self.unpacked.delete(digest)
        return CollectResult(doomed, size)

    def _reachable(self, entry: Descriptor) -> set[str]:
        """Return what an entry leads to, as far as it can be read: what is damaged has to be pulled again anyway."""
        digests = {entry.digest}
        try:
            data = self.layout.read_blob(entry.digest)
            if b'"manifests"' in data:
                return digests.union(*map(self._reachable, Index.from_bytes(data).manifests))
            manifest = Manifest.from_bytes(data, entry.media_type)
            digests |= {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
            digests |= set(ImageConfig.from_bytes(self.layout.read_blob(manifest.config.digest)).diff_ids)
        except (FileNotFoundError, DigestMismatch, InvalidManifest):
            pass
        return digests

    @contextmanager
    def _content_lock(self, kind: int) -> Iterator[None]:
        os.makedirs(self.root, exist_ok=True)
        with open(f"{self.root}/content.lock", "ab") as lock:
            fcntl.flock(lock, kind)
            yield

    # Layers

    def layer_path(self, diff_id: str) -> str:
        """Return where the layer's tree is, or would be."""
        return self.unpacked.layer(diff_id)

    def has_layer(self, diff_id: str) -> bool:
        """Say whether the layer is unpacked, which is all or nothing."""
        return self.unpacked.has(diff_id)

    def layer_size(self, diff_id: str) -> int:
        """Return the size of the layer's files in bytes. Raises `InvalidManifest` when the layer is not here."""
        return self.unpacked.size(diff_id)

    def unpack(self, digest: str, diff_id: str, report: Report = silent, arriving: "Arriving | None" = None) -> str:
        """Unpack the layer in blob `digest`, verify that it is `diff_id`, and return its path.

        A blob that is `arriving` is not in the store yet, and has to be there before the layer is.
        Raises `UnsafeLayer`, `DigestMismatch`; nothing is left behind then, nor a blob that was damaged on this disk.
        """
        from minidocker.image import layers

        def fill(folder: str) -> int:
            with contextlib.closing(arriving or self.layout.open_blob(digest)) as blob:
                # Not `blob.tell`, which waits while the other thread reads.
                position = functools.partial(os.lseek, blob.fileno(), 0, os.SEEK_CUR)
                news = Progress(
                    short_id(digest), "Extracting", 0, arriving.size if arriving else self.layout.blob_size(digest)
                )
                pieces = layers.decompressed(blob)
                reader = layers.TarReader(pieces, lambda: report(news._replace(current=position())))
                with reader.reading_ahead(blob.close):
                    size = layers.unpack(reader, folder)
                    found = reader.finish()
            if found != diff_id:
                raise DigestMismatch(f"layer {digest} unpacks to {found}, but its image says {diff_id}")
            if arriving:
                arriving.wait()
            return size

        if self.has_layer(diff_id):
            return self.layer_path(diff_id)
        with self.adding():
            try:
                return self.unpacked.make(diff_id, fill)
            except (UnsafeLayer, DigestMismatch):
                if arriving is None:
                    self.layout.check_blob(digest)
                raise

    def adopt(self, folder: str, diff_id: str, size: int) -> str:
        """Make `folder`, on the same filesystem, the layer `diff_id` by renaming it; return its new path.

        A layer that is here already stays, and the folder is deleted.
        """
        with self.adding():
            return self.unpacked.adopt(folder, diff_id, size)
