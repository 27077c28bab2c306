"""Images in one file: `save`, `load`, `import`.

What `save` writes is two formats at once: an OCI layout in a tar archive, and beside it docker's `manifest.json`, whose
paths lead to the same blobs. So docker, podman and skopeo read it, and no layer is in it twice.

See: moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format"; OCI image-spec, image-layout.md.
"""

import json
import os
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from minidocker.errors import InvalidManifest, InvalidReference
from minidocker.image import catalog, documents, oci
from minidocker.image.layers import TarReader, Write, compress, decompressed, unpack
from minidocker.image.layout import CHUNK, REF_NAME
from minidocker.image.oci import Descriptor, ImageConfig, Index, Json, Manifest, Platform, host_platform
from minidocker.image.reference import Reference, parse
from minidocker.image.store import Image, ImageStore
from minidocker.image.tarstream import BLOCK, Facts, compression, header, padding
from minidocker.linux import trees, userns
from minidocker.linux.syscalls import RESOLVE_IN_ROOT, openat2
from minidocker.progress import Report, silent

MAX_NESTING = 3  # of lists of images within lists
CONTAINERD_NAME = "io.containerd.image.name"


class Loaded(NamedTuple):
    """An image that an archive held, and the names it had there."""

    image: Image
    references: tuple[Reference, ...]


# Saving


def save(store: ImageStore, names: Iterable[str], out: BinaryIO) -> None:
    """Write images to one archive. A repository without a tag means all its tags; an id, the image without names.

    Nothing in it tells when it was written: the same images give the same archive.

    Raises `ImageNotFound`, `DigestMismatch` for a blob that was damaged on disk: the archive is no good then.
    """
    entries: list[Descriptor] = []
    described: list[Json] = []
    blobs: dict[str, int] = {}
    for image, tags in _choose(store.images(), names):
        manifest = store.manifest(image)
        for name in tags or ("",):
            notes = {CONTAINERD_NAME: name, REF_NAME: name} if name else {}
            entries.append(image.manifest._replace(annotations=notes))
        layers = [_blob_name(layer.digest) for layer in manifest.layers]
        familiar = [parse(name).familiar for name in tags] or None
        described.append({"Config": _blob_name(image.id), "RepoTags": familiar, "Layers": layers})
        for blob in (image.manifest, manifest.config, *manifest.layers):
            blobs[blob.digest] = store.layout.blob_size(blob.digest)
    _write_folders(out.write)
    for digest, size in sorted(blobs.items()):
        out.write(_file_header(_blob_name(digest), size))
        store.layout.copy_blob(digest, out.write)
        out.write(padding(size))
    _write_file(out.write, "index.json", Index(oci.INDEX, tuple(entries)).to_bytes())
    _write_file(out.write, "manifest.json", json.dumps(described).encode())
    _write_file(out.write, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    out.write(bytes(2 * BLOCK))


def _choose(images: list[Image], names: Iterable[str]) -> list[tuple[Image, list[str]]]:
    """Return the images that names mean, each with the tags it is to have in the archive."""
    chosen: dict[str, tuple[Image, list[str]]] = {}
    for name in names:
        for image, tag in _meant(images, name):
            tags = chosen.setdefault(image.id, (image, []))[1]
            if tag and tag not in tags:
                tags.append(tag)
    return list(chosen.values())


def _meant(images: list[Image], name: str) -> list[tuple[Image, str]]:
    """Return the images a name means, each with its tag: all tags of a repository, one tag, or an id with none."""
    try:
        named = parse(name, default_tag="")
    except InvalidReference:  # 64 digits are no name, but may be an id
        return [(catalog.find(images, name), "")]
    if not named.tag and not named.digest:
        tagged = [(image, tag) for image in images for tag in image.tags if parse(tag).repository == named.repository]
        if tagged:
            return tagged
    image = catalog.find(images, name)
    return [(image, str(named) if str(named) in image.tags else "")]


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _write_folders(write: Write) -> None:
    for name in ("blobs", "blobs/sha256"):
        write(header(name, tarfile.DIRTYPE, Facts(0o755)))


def _write_file(write: Write, name: str, data: bytes) -> None:
    write(_file_header(name, len(data)) + data + padding(len(data)))


def _file_header(name: str, size: int) -> bytes:
    return header(name, tarfile.REGTYPE, Facts(0o644, size=size))


# Loading


def load(store: ImageStore, stream: BinaryIO, report: Report = silent) -> list[Loaded]:
    """Add the images of an archive, docker's or an OCI layout, compressed or not.

    It is unpacked beside the store first: what names the images may be the last thing in it.
    Raises `InvalidManifest`, `DigestMismatch`, `UnsafeLayer`; what was loaded before that stays.
    """
    with store.adding():
        folder = f"{store.layout.ingest}/load-{os.urandom(8).hex()}"
        os.mkdir(folder, 0o700)
        try:
            tar = TarReader(decompressed(stream))
            unpack(tar, folder, whiteouts=False, powers=userns.NONE)
            tar.finish()
            archive = _Archive(store, folder, report)
            if archive.has("oci-layout") and archive.has("index.json"):
                return list(archive.load_layout())
            if archive.has("manifest.json"):
                return list(archive.load_docker())
        finally:
            trees.delete(folder)
    raise InvalidManifest(
        "the archive holds no images: it has neither docker's manifest.json nor an OCI layout's index.json; "
        "for the archive of a root file system use import"
    )


class _Archive:
    """An unpacked archive of images. Its own links are followed inside of it only."""

    def __init__(self, store: ImageStore, folder: str, report: Report) -> None:
        self.store = store
        self.folder = folder
        self.report = report

    def has(self, path: str) -> bool:
        """Say whether the archive has this file."""
        return os.path.isfile(f"{self.folder}/{path}")

    def open(self, path: str) -> BinaryIO:
        """Open a file of the archive. Raises `InvalidManifest` when it is not there."""
        root = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.fdopen(openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, resolve=RESOLVE_IN_ROOT), "rb")
        except (OSError, ValueError) as error:
            raise InvalidManifest(f"the archive cannot give {path[:200]!r}, which it names itself: {error}") from error
        finally:
            os.close(root)

    def read(self, path: str) -> bytes:
        """Return a document of the archive. Raises `InvalidManifest` when it is too long to be one."""
        with self.open(path) as file:
            data = file.read(documents.LARGEST + 1)
        if len(data) > documents.LARGEST:
            raise InvalidManifest(f"the archive's {path[:80]} is too long: over {documents.LARGEST} bytes")
        return data

    # Docker's archive

    def load_docker(self) -> Iterator[Loaded]:
        """Load what manifest.json lists. Raises `InvalidManifest`."""
        try:
            listed: Any = documents.load(self.read("manifest.json"))
            described = [
                (entry["Config"], list(entry["Layers"] or ()), list(entry["RepoTags"] or ())) for entry in listed
            ]
        except (InvalidManifest, KeyError, TypeError) as error:
            raise InvalidManifest(f"the archive's manifest.json is broken: {error!r}") from error
        for config_path, layer_paths, tags in described:
            references = tuple(parse(str(tag)) for tag in tags)
            data = self.read(str(config_path))
            config = ImageConfig.from_bytes(data)
            if len(layer_paths) != len(config.diff_ids):
                raise InvalidManifest(
                    f"{config_path} describes {len(config.diff_ids)} layers, manifest.json {len(layer_paths)}"
                )
            pairs = zip(layer_paths, config.diff_ids, strict=True)
            layers = tuple(self._docker_layer(str(path), diff_id) for path, diff_id in pairs)
            described_config = Descriptor(oci.CONFIG, self.store.layout.add_blob(data), len(data))
            manifest = Manifest(oci.MANIFEST, described_config, layers).to_bytes()
            yield Loaded(self.store.add(manifest, oci.MANIFEST, references), references)

    def _docker_layer(self, path: str, diff_id: str) -> Descriptor:
        """Store and unpack a layer: as it is when it is compressed, else compressed as our own are."""
        with self.open(path) as file:
            media_type = _media_type(file)
            if media_type == oci.LAYER:
                blob = compress(self.store.layout, lambda write: _copy(file, write)).blob
            else:
                with self.store.layout.writer() as writer:
                    _copy(file, writer.write)
                    blob = Descriptor(media_type, *writer.commit())
        self._unpack(blob.digest, diff_id)
        return blob

    # An OCI layout

    def load_layout(self) -> Iterator[Loaded]:
        """Load what index.json lists; entries that are one image are loaded once, with all its names."""
        index = Index.from_bytes(self.read("index.json"), oci.INDEX)
        names: dict[str, tuple[Descriptor, list[Reference]]] = {}
        for entry in index.manifests:
            names.setdefault(entry.digest, (entry, []))[1].extend(_names(entry))
        for entry, references in names.values():
            image = self._load_manifest(entry, tuple(references))
            yield Loaded(image, tuple(references))

    def _load_manifest(self, entry: Descriptor, references: Sequence[Reference]) -> Image:
        data = self._blob(entry)
        for _ in range(MAX_NESTING):
            if entry.media_type not in oci.INDEXES:
                break
            entry = Index.from_bytes(data, entry.media_type).choose(host_platform())
            data = self._blob(entry)
        manifest = Manifest.from_bytes(data, entry.media_type)
        self._blob(manifest.config)
        config = ImageConfig.from_bytes(self.store.layout.read_blob(manifest.config.digest))
        if len(manifest.layers) != len(config.diff_ids):
            raise InvalidManifest(
                f"{entry.digest} has {len(manifest.layers)} layers and describes {len(config.diff_ids)}"
            )
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            self._store_blob(layer)
            self._unpack(layer.digest, diff_id)
        return self.store.add(data, manifest.media_type, references)

    def _blob(self, descriptor: Descriptor) -> bytes:
        """Store a document of the archive and return it, verified."""
        self._store_blob(descriptor)
        return self.store.layout.read_blob(descriptor.digest)

    def _store_blob(self, descriptor: Descriptor) -> None:
        if self.store.layout.has_blob(descriptor.digest, descriptor.size):
            return
        with (
            self.open(_blob_name(descriptor.digest)) as file,
            self.store.layout.writer(descriptor.digest, descriptor.size) as writer,
        ):
            _copy(file, writer.write)
            writer.commit()

    def _unpack(self, digest: str, diff_id: str) -> None:
        name = diff_id.removeprefix("sha256:")[:12]
        self.store.unpack(digest, diff_id, lambda news: self.report(news._replace(id=name, status="Loading layer")))


def _names(entry: Descriptor) -> list[Reference]:
    """Return what an index entry calls its image; a mere tag, without a repository, is no name."""
    text = entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(REF_NAME, "")
    try:
        named = parse(text)
    except InvalidReference:
        return []
    return [named] if any(mark in text for mark in ":/@") else []


def _media_type(file: BinaryIO) -> str:
    """Tell a layer's media type by its first bytes."""
    kind = compression(file.read(6))
    file.seek(0)
    types = {"": oci.LAYER, "gzip": oci.LAYER_GZIP, "zstd": oci.LAYER_ZSTD}
    if kind not in types:
        raise InvalidManifest(
            f"a layer of the archive is compressed with {kind}: only gzip and zstd are images' formats"
        )
    return types[kind]


def _copy(file: BinaryIO, write: Write) -> int:
    size = 0
    while data := file.read(CHUNK):
        write(data)
        size += len(data)
    return size


# Importing


def import_rootfs(
    store: ImageStore,
    stream: BinaryIO,
    reference: Reference | None = None,
    config: Json | None = None,
    message: str = "",
    platform: Platform | None = None,
) -> Image:
    """Make an image of one layer from the archive of a root file system, compressed or not, in one pass.

    `config` is how to run it (Cmd, Env, …), `message` goes into its history. Raises `UnsafeLayer`.
    """
    with store.adding():
        folder = f"{store.unpacked.path}/import-{os.urandom(8).hex()}.tmp"
        os.makedirs(folder)

        def unpack_while_compressing(write: Write) -> int:
            tar = TarReader(_tee(decompressed(stream), write))
            size = unpack(tar, folder)
            tar.finish()
            return size

        try:
            layer = compress(store.layout, unpack_while_compressing)
            store.adopt(folder, layer.diff_id, layer.size)
        finally:
            trees.delete(folder)
        raw = _imported_config(layer.diff_id, config or {}, message, platform or host_platform())
        return store.create(ImageConfig(raw), [layer.blob], [reference] if reference else [])


def _imported_config(diff_id: str, config: Json, message: str, platform: Platform) -> Json:
    created = oci.rfc3339(time.time_ns())
    raw: Json = {"architecture": platform.architecture, "os": platform.os, "created": created, "config": config}
    if platform.variant:
        raw["variant"] = platform.variant
    raw["rootfs"] = {"type": "layers", "diff_ids": [diff_id]}
    return raw | {"history": [{"created": created, "comment": message or "Imported from -"}]}


def _tee(pieces: Iterator[bytes], write: Write) -> Iterator[bytes]:
    """Yield the pieces, each written first."""
    for piece in pieces:
        write(piece)
        yield piece
