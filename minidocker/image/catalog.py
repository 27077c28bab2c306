"""The list of images as it is kept in index.json: entries to images and back, and finding one by name. Pure.

An image has an entry for each of its names, `org.opencontainers.image.ref.name`, or one without where it has none. What
a table of images shows is repeated in annotations of our own, so that it is read from this one file. Entries without
them were written by somebody else (`skopeo copy … oci:…`); they are no images of ours, and are kept as they are.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from minidocker.errors import AmbiguousPrefix, ImageNotFound
from minidocker.image import reference
from minidocker.image.layout import REF_NAME, ref_name
from minidocker.image.oci import Descriptor

_ID = "io.minidocker.id"
_PARENT = "io.minidocker.parent"
_CREATED = "io.minidocker.created"
_SIZE = "io.minidocker.size"


class Image(NamedTuple):
    """An image of the store.

    `id` is the digest of its configuration, `manifest` the document that names its blobs, `tags` and `digests` are
    canonical references, `parent` is the id of the image it was built on (empty for one that was pulled), `created`
    is in RFC 3339, `size` is in bytes, unpacked.
    """

    id: str
    manifest: Descriptor
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    parent: str = ""
    created: str = ""
    size: int = 0

    @property
    def short_id(self) -> str:
        """The first 12 digits of the id, as tables and messages show it."""
        return short_id(self.id)

    @property
    def references(self) -> tuple[str, ...]:
        """All names, the tags first."""
        return self.tags + self.digests

    def named(self, names: Iterable[str]) -> "Image":
        """Return the same image with these names only."""
        names = dict.fromkeys(names)
        tags = tuple(name for name in names if "@" not in name)
        return self._replace(tags=tags, digests=tuple(name for name in names if "@" in name))

    def without(self, names: Iterable[str]) -> "Image":
        """Return the same image without these names."""
        gone = set(names)
        return self.named(name for name in self.references if name not in gone)


def short_id(digest: str) -> str:
    """Return the first 12 digits of an image's, layer's or container's id."""
    return digest.removeprefix("sha256:")[:12]


def read(entries: Iterable[Descriptor]) -> list[Image]:
    """Return the images of an index, the newest first."""
    images: dict[str, Image] = {}
    names: dict[str, list[str]] = {}
    for entry in entries:
        notes = entry.annotations
        if image_id := notes.get(_ID):
            if image_id not in images:
                size = int(notes.get(_SIZE) or 0)
                manifest = entry._replace(annotations={})
                parent, created = notes.get(_PARENT, ""), notes.get(_CREATED, "")
                images[image_id] = Image(image_id, manifest, parent=parent, created=created, size=size)
            names.setdefault(image_id, []).extend(filter(None, [ref_name(entry)]))
    found = [image.named(names[image.id]) for image in images.values()]
    return sorted(found, key=lambda image: _moment(image.created), reverse=True)


def write(entries: list[Descriptor], images: Iterable[Image]) -> None:
    """Make the entries say that these are the images; other people's entries stay unless an image took their name."""
    ours: list[Descriptor] = []
    for image in images:
        facts = {_ID: image.id, _PARENT: image.parent, _CREATED: image.created, _SIZE: str(image.size)}
        for name in image.references or ("",):
            notes = {REF_NAME: name, **facts}
            ours.append(image.manifest._replace(annotations={key: text for key, text in notes.items() if text}))
    taken = {ref_name(entry) for entry in ours} - {""}
    theirs = [entry for entry in entries if _ID not in entry.annotations and ref_name(entry) not in taken]
    entries[:] = theirs + ours


def find(images: Iterable[Image], name: str) -> Image:
    """Return the image that `name` means: an id, else a tag or digest reference, else the beginning of one id.

    Raises `InvalidReference`, `ImageNotFound`, `AmbiguousPrefix`.
    """
    images = list(images)
    digits = name.removeprefix("sha256:")
    if re.fullmatch("[0-9a-f]{64}", digits):
        wanted, shown = "", name
    else:
        named = reference.parse(name)
        shown = named.familiar
        wanted = str(named.with_digest(named.digest) if named.digest else named)
    for image in images:
        if wanted in image.references or image.id == f"sha256:{digits}":
            return image
    begun = [image for image in images if digits and image.id.startswith(f"sha256:{digits}")]
    if len(begun) > 1:
        ids = ", ".join(image.id.removeprefix("sha256:")[: len(digits) + 4] for image in begun[:4])
        raise AmbiguousPrefix(f"{name} is the beginning of {len(begun)} image ids ({ids}, …): give more digits")
    if not begun:
        raise ImageNotFound(f"no such image: {shown}")
    return begun[0]


def _moment(created: str) -> tuple[str, str]:
    """Return a key that sorts RFC 3339 times: seconds, then the fraction without its `Z`."""
    return created[:19], created[19:].rstrip("Z")
