"""An image for each step of a build: its configuration, one line of history, perhaps one layer more."""

import os
import time
from typing import NamedTuple

from minidocker.build.draft import Draft, Json
from minidocker.image.oci import (
    CONFIG,
    DOCKER_LAYER_GZIP,
    LAYER_GZIP,
    MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    digest_of,
)
from minidocker.image.store import Image, ImageStore

# What only this machine's containers were concerned with, in images that docker built.
_LEFT_OUT = ("id", "parent", "container", "container_config", "docker_version", "comment")


class Base(NamedTuple):
    """What the next image is made from. An `image` of None is the empty start of `FROM scratch`."""

    image: Image | None
    config: ImageConfig
    blobs: tuple[Descriptor, ...] = ()

    @property
    def id(self) -> str:
        """Return the image's id; empty for none."""
        return self.image.id if self.image is not None else ""


def scratch(platform: Platform) -> Base:
    """Return the empty start."""
    raw: Json = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        raw["variant"] = platform.variant
    return Base(None, ImageConfig(raw))


def base_of(store: ImageStore, image: Image) -> Base:
    """Read what a stage needs of the image it starts from."""
    return Base(image, store.config(image), store.manifest(image).layers)


def record(store: ImageStore, base: Base, draft: Draft, created_by: str, upper: str = "") -> Base:
    """Add the image that a step made; `upper` is the folder of its layer, which becomes the store's.

    Blobs, layer and image appear in the store together or, after a crash, as leftovers that no image names.
    """
    from minidocker.image import layers

    with store.adding():
        layer = layers.write_layer(store.layout, upper) if upper and os.listdir(upper) else None
        if layer is not None:
            store.adopt(upper, layer.diff_id, layer.size)
        config = _config(base, draft, created_by, layer.diff_id if layer is not None else "")
        data = config.to_bytes()
        store.layout.add_blob(data)
        blobs = (*map(_as_oci, base.blobs), *([layer.blob] if layer is not None else []))
        manifest = Manifest(MANIFEST, Descriptor(CONFIG, digest_of(data), len(data)), blobs)
        return Base(store.add(manifest.to_bytes(), MANIFEST, (), parent=base.id), config, blobs)


def _config(base: Base, draft: Draft, created_by: str, diff_id: str) -> ImageConfig:
    """Return the new configuration. Pure but for the time."""
    now = created()
    entry: Json = {"created": now, "created_by": created_by}
    if draft.author:
        entry["author"] = draft.author
    if not diff_id:
        entry["empty_layer"] = True
    raw: Json = {key: value for key, value in base.config.raw.items() if key not in _LEFT_OUT}
    raw |= {
        "created": now,
        "config": draft.config,
        "rootfs": {"type": "layers", "diff_ids": [*base.config.diff_ids, *([diff_id] if diff_id else [])]},
        "history": [*base.config.history, entry],
    }
    if draft.author:
        raw["author"] = draft.author
    return ImageConfig(raw)


def created() -> str:
    """Return the time in RFC 3339 with nanoseconds."""
    seconds, fraction = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09}Z"


def _as_oci(blob: Descriptor) -> Descriptor:
    """Name a docker layer as OCI does: it is the same archive, and one manifest speaks one language."""
    return blob._replace(media_type=LAYER_GZIP) if blob.media_type == DOCKER_LAYER_GZIP else blob
