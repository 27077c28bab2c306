"""The OCI image layout: blobs named by their digest, and an index that names the images. Used for every store there is.

    oci-layout                  which version of the layout this is
    index.json                  a descriptor for each image, with its name in an annotation
    index.json.lock             held (flock) by whoever changes index.json
    blobs/sha256/<64 digits>    the content: manifests, configurations, layers
    ingest/                     blobs on their way in; not part of the specification

A blob appears under its name by `rename`, whole and verified, and never changes afterwards.
See: OCI image-spec, image-layout.md.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from minidocker.errors import DigestMismatch, InvalidManifest
from minidocker.image import documents
from minidocker.image.oci import INDEX, Descriptor, Index, check_digest, digest_of
from minidocker.linux import trees

if TYPE_CHECKING:
    from hashlib import _Hash

REF_NAME = "org.opencontainers.image.ref.name"
CHUNK = 1 << 20


class Blob(NamedTuple):
    """What was written: the content's digest and its size in bytes."""

    digest: str
    size: int


class Layout:
    """An OCI image layout at `path`. Making the object touches nothing; `create` makes the folder."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._blobs = f"{path}/blobs/sha256"
        self._index = f"{path}/index.json"
        self.ingest = f"{path}/ingest"

    def create(self) -> None:
        """Make an empty layout, or finish one that was begun. Leaves what exists alone."""
        if os.path.exists(self._index) and os.path.isdir(self.ingest):
            return
        os.makedirs(self._blobs, exist_ok=True)
        os.makedirs(self.ingest, exist_ok=True)
        replace_file(f"{self.path}/oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        with self._locked():
            if not os.path.exists(self._index):
                replace_file(self._index, Index(INDEX, ()).to_bytes())

    def blob_path(self, digest: str) -> str:
        """Return where the blob is, or would be. Raises `InvalidManifest` for what is not a digest."""
        return f"{self._blobs}/{check_digest(digest).removeprefix('sha256:')}"

    def has_blob(self, digest: str, size: int = -1) -> bool:
        """Say whether the blob is here; with `size`, whether it is that long."""
        try:
            found = os.stat(self.blob_path(digest))
        except FileNotFoundError:
            return False
        return size in (-1, found.st_size)

    def blob_size(self, digest: str) -> int:
        """Return the blob's size in bytes."""
        return os.stat(self.blob_path(digest)).st_size

    def open_blob(self, digest: str) -> BinaryIO:
        """Open the blob, unverified: for layers, whose content is checked while it is unpacked."""
        return open(self.blob_path(digest), "rb")

    def read_blob(self, digest: str) -> bytes:
        """Return the blob, verified: for documents.

        Raises `DigestMismatch` when the file was damaged, `InvalidManifest` when it is too long to be a document.
        """
        with self.open_blob(digest) as file:
            data = file.read(documents.LARGEST + 1)
        if len(data) > documents.LARGEST:
            raise InvalidManifest(f"{digest} is too long to be a document: over {documents.LARGEST} bytes")
        if digest_of(data) != digest:
            raise DigestMismatch(
                f"{self.blob_path(digest)} is damaged: its content is {digest_of(data)}; pull or load it again"
            )
        return data

    def check_blob(self, digest: str) -> None:
        """Read a blob of any size through. Raises `DigestMismatch` when it was damaged, and deletes it then."""
        self.copy_blob(digest, lambda data: None)

    def copy_blob(self, digest: str, write: Callable[[bytes], object]) -> None:
        """Hand on a blob of any size, chunk by chunk, and check it the while: see `check_blob`."""
        found = _sha256()
        with self.open_blob(digest) as file:
            while data := file.read(CHUNK):
                found.update(data)
                write(data)
        if digest != f"sha256:{found.hexdigest()}":
            self.delete_blob(digest)
            raise DigestMismatch(f"blob {digest} was damaged on disk and is deleted: pull or load its image again")

    def blobs(self) -> Iterator[str]:
        """Yield the digest of every blob."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self._blobs):
                yield f"sha256:{name}"

    def delete_leftovers(self) -> None:
        """Delete what killed commands left. Nobody may be adding anything."""
        with self._locked():
            for folder in (self.path, self.ingest):
                for name in os.listdir(folder) if os.path.isdir(folder) else ():
                    if folder == self.ingest or name.endswith(".tmp"):
                        trees.delete(f"{folder}/{name}")

    def add_blob(self, data: bytes) -> str:
        """Store a small blob and return its digest."""
        digest = digest_of(data)
        if not self.has_blob(digest, len(data)):
            with self.writer(digest, len(data)) as blob:
                blob.write(data)
                blob.commit()
        return digest

    def delete_blob(self, digest: str) -> int:
        """Delete the blob and return its size. Raises `FileNotFoundError`."""
        size = self.blob_size(digest)
        os.unlink(self.blob_path(digest))
        return size

    def writer(self, digest: str = "", size: int = -1, *, resume: bool = False, partial: str = "") -> "BlobWriter":
        """Return a `BlobWriter`, to be used in a `with` statement, for a blob of this digest and size, where known.

        With `resume`, what a failed attempt has written stays and the next attempt goes on from there; `partial` names
        the unfinished blob where the digest is not known yet (an upload's id).
        """
        if resume and not partial:
            partial = check_digest(digest).removeprefix("sha256:")
        return BlobWriter(self, digest, size, partial)

    def index(self) -> list[Descriptor]:
        """Return the index's entries; none where there is no layout yet. Raises `InvalidManifest` when it is broken."""
        return list(self._read_index().manifests)

    @contextmanager
    def update_index(self) -> Iterator[list[Descriptor]]:
        """Yield the index's entries to be changed, alone; they are written when the block ends without an exception."""
        with self._locked():
            index = self._read_index()
            entries = list(index.manifests)
            yield entries
            if tuple(entries) != index.manifests:
                replace_file(self._index, index._replace(manifests=tuple(entries)).to_bytes())

    def _read_index(self) -> Index:
        try:
            with open(self._index, "rb") as file:
                return Index.from_bytes(file.read(), INDEX)
        except FileNotFoundError:
            return Index(INDEX, ())
        except InvalidManifest as error:
            raise InvalidManifest(
                f"the list of images, {self._index}, is broken: {error}; put a copy of it back, or move it away and "
                f"pull or load the images again (the blobs beside it are whole and will be used)"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the index alone, against threads too: a lock belongs to one opening of the file."""
        os.makedirs(self.path, exist_ok=True)
        with open(f"{self._index}.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class BlobWriter:
    """A blob on its way into a layout: write chunks, then `commit`. Leaving the block without that throws it away, or
    keeps it for the next attempt where it has a `partial` name. Two writers of one partial blob take turns.
    """

    def __init__(self, layout: Layout, digest: str, size: int, partial: str) -> None:
        self._layout = layout
        self._digest = digest
        self._size = size
        name = partial or f"{os.urandom(8).hex()}.tmp"
        if "/" in name or name.startswith("."):
            raise InvalidManifest(f"invalid upload name {name!r}")
        self._path = f"{layout.ingest}/{name}.partial" if partial else f"{layout.ingest}/{name}"
        self._keep = bool(partial)
        self._hash = _sha256()
        self.offset = 0

    @property
    def complete(self) -> bool:
        """Whether the blob is in the layout: committed here, or by another writer that this one has waited for."""
        return self._file.closed

    def __enter__(self) -> Self:
        os.makedirs(self._layout.ingest, exist_ok=True)
        self._file = self._open_locked()
        if self._keep and self._digest and self._layout.has_blob(self._digest, self._size):
            self._discard()
            self.offset = self._layout.blob_size(self._digest)
            return self
        while chunk := self._file.read(CHUNK):
            self._hash.update(chunk)
            self.offset += len(chunk)
        if 0 <= self._size < self.offset:
            self.restart()
        return self

    def fileno(self) -> int:
        """Return the file's descriptor, for whoever reads what has been written so far."""
        return self._file.fileno()

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises `DigestMismatch` as soon as there is more than was promised."""
        self._file.write(data)
        self._hash.update(data)
        self.offset += len(data)
        if 0 <= self._size < self.offset:
            self._discard()
            raise DigestMismatch(f"blob {self._digest} is longer than the {self._size} bytes promised")

    def restart(self) -> None:
        """Forget what is written, for a sender that cannot go on in the middle."""
        self._file.seek(0)
        self._file.truncate()
        self._hash, self.offset = _sha256(), 0

    def commit(self, digest: str = "") -> Blob:
        """Verify and put the blob in its place. Raises `DigestMismatch`, after which nothing of it is kept."""
        digest = digest or self._digest
        if self._file.closed:
            return Blob(digest, self.offset)
        if 0 <= self._size != self.offset:
            if self.offset > self._size or not self._keep:
                self._discard()
            raise DigestMismatch(f"blob {digest} ended after {self.offset} of {self._size} bytes")
        found = f"sha256:{self._hash.hexdigest()}"
        if digest and digest != found:
            self._discard()
            raise DigestMismatch(f"blob {digest} is not what was sent: its content is {found}")
        self._file.flush()
        os.fsync(self._file.fileno())
        os.makedirs(os.path.dirname(self._layout.blob_path(found)), exist_ok=True)
        os.rename(self._path, self._layout.blob_path(found))
        self._file.close()
        return Blob(found, self.offset)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file.closed:
            return
        if self._keep:
            self._file.close()
        else:
            self._discard()

    def _open_locked(self) -> BinaryIO:
        """Open the temporary file and lock it; begin again when the one before has renamed or deleted it meanwhile."""
        while True:
            file = open(self._path, "a+b", buffering=CHUNK)  # noqa: SIM115 (returned open)
            fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == os.fstat(file.fileno()).st_ino:
                    file.seek(0)
                    return file
            file.close()

    def _discard(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        with suppress(OSError):  # a full disk: what is still in the buffer cannot be written, and need not be
            self._file.close()


def _sha256() -> "_Hash":
    from hashlib import sha256  # it loads OpenSSL, which not every command needs

    return sha256()


def replace_file(path: str, data: bytes, lasting: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, whole; if `lasting`, after a crash, too."""
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def ref_name(entry: Descriptor) -> str:
    """Return the name an index entry gives its image, or empty."""
    return entry.annotations.get(REF_NAME, "")
