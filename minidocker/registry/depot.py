"""What the registry server keeps: repositories of manifests, blobs, and uploads on their way, all in one OCI layout.

A tag is an index entry named `path:tag`; a manifest without one is named `path@digest`. So `skopeo` and the embedded
registry read the folder without a server. Blobs belong to the whole registry, not to one repository: whoever may read
one repository here may read all, so nothing is hidden by asking for them apart. Deleting a manifest deletes no blob.

See: OCI distribution-spec, spec.md; OCI image-spec, image-layout.md.
"""

import fcntl
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from minidocker.errors import DigestMismatch, InvalidManifest, MinidockerError
from minidocker.image import oci
from minidocker.image.layout import REF_NAME, Layout, ref_name

NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
UPLOAD = re.compile(r"upload-[0-9a-f]{32}")
LONGEST_NAME = 255


class Fault(MinidockerError):
    """A request that cannot be granted: the HTTP status and the specification's error code that say so."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Stored(NamedTuple):
    """A manifest as it is kept."""

    data: bytes
    media_type: str
    digest: str


class Depot:
    """The registry in the folder `root`. Safe to use from several threads and processes at once."""

    def __init__(self, root: str) -> None:
        self.layout = Layout(root)

    # Manifests

    def repositories(self) -> list[str]:
        """Return the names of the repositories that hold anything, sorted."""
        return sorted({split(ref_name(entry))[0] for entry in self.layout.index()} - {""})

    def tags(self, repository: str) -> list[str]:
        """Return the repository's tags, sorted. Raises Fault where there is no such repository."""
        check_name(repository)
        names = [split(ref_name(entry)) for entry in self.layout.index()]
        if repository not in (name for name, _ in names):
            raise Fault(404, "NAME_UNKNOWN", f"repository name not known to registry: {repository}")
        return sorted(tag for name, tag in names if name == repository and ":" not in tag)

    def manifest(self, repository: str, reference: str) -> Stored:
        """Return the manifest that a tag or digest names. Raises Fault where there is none."""
        check_name(repository)
        for entry in self.layout.index():
            name, tag = split(ref_name(entry))
            if name == repository and reference in (tag, entry.digest):
                return Stored(self.layout.read_blob(entry.digest), entry.media_type, entry.digest)
        raise Fault(404, "MANIFEST_UNKNOWN", "manifest unknown")

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """Keep a manifest under a tag or its digest, and return its digest; what the tag named before stays by digest.

        Raises Fault for what is no manifest, or names blobs that are not here.
        """
        check_name(repository)
        check_reference(reference)
        digest = oci.digest_of(data)
        if ":" in reference and reference != digest:
            raise Fault(400, "DIGEST_INVALID", f"the manifest's digest is {digest}, not {reference}")
        media_type = self._check_manifest(data, media_type)
        self.layout.create()
        self.layout.add_blob(data)
        name = join(repository, reference)
        with self.layout.update_index() as entries:
            before = [entry for entry in entries if ref_name(entry) == name]
            entries[:] = [entry for entry in entries if ref_name(entry) != name]
            entries.append(oci.Descriptor(media_type, digest, len(data), {REF_NAME: name}))
            self._keep_by_digest(repository, before, entries)
        return digest

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Forget a tag, or a digest with all its tags. Raises Fault where there is none."""
        check_name(repository)
        with self.layout.update_index() as entries:
            mine = [entry for entry in entries if split(ref_name(entry))[0] == repository]
            gone = [entry for entry in mine if reference in (split(ref_name(entry))[1], entry.digest)]
            if not gone:
                raise Fault(404, "MANIFEST_UNKNOWN", "manifest unknown")
            entries[:] = [entry for entry in entries if entry not in gone]
            if ":" not in reference:
                self._keep_by_digest(repository, gone, entries)

    def _keep_by_digest(self, repository: str, before: Iterable[oci.Descriptor], entries: list[oci.Descriptor]) -> None:
        """Let manifests that lost a tag still be found by their digest."""
        for entry in before:
            if not any(e.digest == entry.digest and split(ref_name(e))[0] == repository for e in entries):
                entries.append(entry._replace(annotations={REF_NAME: join(repository, entry.digest)}))

    def _check_manifest(self, data: bytes, media_type: str) -> str:
        """Return the manifest's media type; raise Fault unless it is one and all that it names is here."""
        try:
            if media_type in oci.INDEXES:
                index = oci.Index.from_bytes(data, media_type)
                wanted, media_type = index.manifests, index.media_type
            else:
                manifest = oci.Manifest.from_bytes(data, media_type)
                wanted, media_type = (manifest.config, *manifest.layers), manifest.media_type
        except InvalidManifest as error:
            raise Fault(400, "MANIFEST_INVALID", str(error)) from error
        for descriptor in wanted:
            if not descriptor.urls and not self.layout.has_blob(descriptor.digest, descriptor.size):
                message = f"blob unknown to registry: {descriptor.digest} of {descriptor.size} bytes"
                raise Fault(400, "MANIFEST_BLOB_UNKNOWN", message)
        return media_type

    # Blobs

    def blob(self, digest: str) -> str:
        """Return the path of a blob. Raises Fault where there is none."""
        try:
            if self.layout.has_blob(digest):
                return self.layout.blob_path(digest)
        except InvalidManifest as error:
            raise Fault(400, "DIGEST_INVALID", str(error)) from error
        raise Fault(404, "BLOB_UNKNOWN", "blob unknown to registry")

    def delete_blob(self, digest: str) -> None:
        """Delete a blob. Raises Fault where there is none, or a manifest still needs it."""
        path = self.blob(digest)
        with self.layout.update_index() as entries:
            for entry in entries:
                if digest == entry.digest or digest in self._named_by(entry):
                    raise Fault(405, "UNSUPPORTED", f"blob {digest} is needed by {ref_name(entry)}")
            os.unlink(path)

    def _named_by(self, entry: oci.Descriptor) -> set[str]:
        data = self.layout.read_blob(entry.digest)
        if entry.media_type in oci.INDEXES:
            return {child.digest for child in oci.Index.from_bytes(data, entry.media_type).manifests}
        manifest = oci.Manifest.from_bytes(data, entry.media_type)
        return {child.digest for child in (manifest.config, *manifest.layers)}

    # Uploads: a file each, whose length is what has arrived

    def start_upload(self) -> str:
        """Begin an upload and return its name."""
        self.layout.create()
        name = f"upload-{os.urandom(16).hex()}"
        with open(self._upload_path(name), "xb"):
            return name

    def upload_offset(self, name: str) -> int:
        """Return how many bytes of the upload are here. Raises Fault where there is no such upload."""
        try:
            return os.stat(self._upload_path(name)).st_size
        except FileNotFoundError:
            raise Fault(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry") from None

    def append(self, name: str, chunks: Iterable[bytes], begin: int = -1) -> int:
        """Add to the upload and return how long it is now; `begin`, where it is known, must be where it ends so far.

        Whatever comes before `chunks` raises stays, so that the client can go on from there.
        """
        self.upload_offset(name)
        with open(self._upload_path(name), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            offset = file.seek(0, os.SEEK_END)
            if begin not in (-1, offset):
                raise Fault(416, "BLOB_UPLOAD_INVALID", f"the upload is {offset} bytes long, this begins at {begin}")
            for chunk in chunks:
                file.write(chunk)
            return file.tell()

    def finish_upload(self, name: str, digest: str) -> None:
        """Make the upload a blob. Raises Fault where it is not what its digest promises; it is thrown away then."""
        self.upload_offset(name)
        try:
            with self.layout.writer(oci.check_digest(digest), partial=name) as blob:
                blob.commit()
        except (InvalidManifest, DigestMismatch) as error:
            raise Fault(400, "DIGEST_INVALID", f"provided digest did not match uploaded content: {error}") from error

    def cancel_upload(self, name: str) -> None:
        """Throw the upload away. Raises Fault where there is none."""
        self.upload_offset(name)
        os.unlink(self._upload_path(name))

    def _upload_path(self, name: str) -> str:
        if not UPLOAD.fullmatch(name):
            raise Fault(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        return f"{self.layout.ingest}/{name}.partial"


def check_name(repository: str) -> None:
    """Raise Fault for what cannot be a repository's name."""
    if len(repository) > LONGEST_NAME or not NAME.fullmatch(repository):
        raise Fault(400, "NAME_INVALID", f"invalid repository name: {repository}")


def check_reference(reference: str) -> None:
    """Raise Fault for what is neither a tag nor a digest."""
    if ":" in reference:
        try:
            oci.check_digest(reference)
        except InvalidManifest as error:
            raise Fault(400, "DIGEST_INVALID", str(error)) from error
    elif not TAG.fullmatch(reference):
        raise Fault(400, "TAG_INVALID", f"invalid tag: {reference}")


def join(repository: str, reference: str) -> str:
    """Return the name of an index entry: `path:tag` or `path@digest`."""
    return f"{repository}{'@' if ':' in reference else ':'}{reference}"


def split(name: str) -> tuple[str, str]:
    """Return repository and tag or digest of an index entry's name; a name without a colon has no repository."""
    repository, at, digest = name.partition("@")
    if at:
        return repository, digest
    repository, _, tag = name.rpartition(":")
    return repository, tag
