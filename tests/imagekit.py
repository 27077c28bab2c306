"""Makes small images and archives for the tests of the image store."""

import io
import json
import tarfile
from typing import Any

from minidocker.image import oci
from minidocker.image.layers import Write, compress
from minidocker.image.oci import Descriptor, ImageConfig
from minidocker.image.reference import parse
from minidocker.image.store import Image, ImageStore


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of an archive, for `tar`."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive of these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def add_layer(store: ImageStore, archive: bytes) -> tuple[Descriptor, str]:
    """Store and unpack a layer; return its blob and diff id."""

    def produce(write: Write) -> int:
        write(archive)
        return 0

    store.layout.create()
    layer = compress(store.layout, produce)
    store.unpack(layer.blob.digest, layer.diff_id)
    return layer.blob, layer.diff_id


def add_image(
    store: ImageStore, *names: str, layers: tuple[str, ...] = ("a",), parent: str = "", **config: Any
) -> Image:
    """Add an image with one small file per layer; equal arguments make the same image."""
    made = [add_layer(store, tar(member(f"file-{text}", text.encode()))) for text in layers]
    raw = {
        "os": "linux",
        "architecture": oci.host_platform().architecture,
        "created": config.pop("created", "2024-01-01T00:00:00Z"),
        "config": {"Cmd": ["sh"]} | config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
    }
    return store.create(ImageConfig(raw), [blob for blob, _ in made], map(parse, names), parent)


def index_of(store: ImageStore) -> Any:
    """Return the store's index.json."""
    with open(f"{store.root}/images/index.json", "rb") as file:
        return json.load(file)
