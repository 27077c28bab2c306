"""The embedded registry: an OCI layout on this disk that stands in for docker.io where that cannot be reached.

It is read straight from disk, no server runs. docker.io is asked first; that it did not answer is remembered for ten
minutes in a file below the run folder, so that nobody waits twice. What docker.io answers, also a refusal, counts.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from minidocker.errors import RegistryError
from minidocker.image.layout import replace_file
from minidocker.image.reference import DEFAULT_DOMAIN, Reference, parse
from minidocker.progress import Progress, Report
from minidocker.registry.client import Document, Registry, connect
from minidocker.registry.depot import Depot, Fault
from minidocker.registry.transfer import Source
from minidocker.registry.transport import Patience, Refused

if TYPE_CHECKING:
    from typing import BinaryIO

DEFAULT = "/var/lib/minidocker/registry"
WAIT = 3.0
REMEMBERED = 600.0
CHUNK = 1024 * 1024


class Embedded:
    """The registry in the folder `path`, read and written like a remote one: a transfer's source or destination."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.patience = Patience()
        self._depot = Depot(path)

    def names(self) -> list[str]:
        """Return the images it has, as people type them: `busybox:latest`."""
        found = self._depot.repositories()
        return [parse(f"{path}:{tag}").familiar for path in found for tag in self._depot.tags(path)]

    def has(self, ref: Reference) -> bool:
        """Say whether it has the image."""
        try:
            self._depot.manifest(ref.path, ref.digest or ref.tag)
        except Fault:
            return False
        return True

    def manifest(self, repository: str, reference: str) -> Document:
        """Return the manifest or index that a tag or digest names. Raises Refused."""
        try:
            return Document(*self._depot.manifest(repository, reference))
        except Fault as fault:
            raise self._refused(fault) from fault

    def blob(self, repository: str, digest: str, offset: int = 0) -> tuple[int, Iterator[bytes]]:
        """Return a blob's bytes from `offset` on. Raises Refused."""
        try:
            return offset, read_from(self._depot.blob(digest), offset)
        except Fault as fault:
            raise self._refused(fault) from fault

    def has_blob(self, repository: str, digest: str) -> bool:
        """Say whether it has the blob."""
        return self._depot.layout.has_blob(digest)

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Say that nothing need be mounted: all repositories share their blobs."""
        return self.has_blob(repository, digest)

    def upload(self, repository: str, digest: str, size: int, stream: "BinaryIO", sent: Callable[[int], None]) -> None:
        """Take a blob in. Raises DigestMismatch."""
        self._depot.layout.create()
        with self._depot.layout.writer(digest, size) as blob:
            while chunk := stream.read(CHUNK):
                blob.write(chunk)
                sent(blob.offset)
            blob.commit()

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """Keep a manifest. Raises Refused."""
        try:
            return self._depot.put_manifest(repository, reference, data, media_type)
        except Fault as fault:
            raise self._refused(fault) from fault

    def _refused(self, fault: Fault) -> Refused:
        error = Refused(f"{self.path}: {fault}", self.path, fault.status)
        error.code = fault.code.lower().replace("_", " ")
        error.reason = f"{error.code}: {fault}"
        return error


def read_from(path: str, offset: int) -> Iterator[bytes]:
    """Yield a file's content from `offset` on."""
    with open(path, "rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK):
            yield chunk


def find(root: str) -> Embedded | None:
    """Return the embedded registry, the first there is: MINIDOCKER_EMBEDDED, `root`/registry, the default root's."""
    for path in (os.environ.get("MINIDOCKER_EMBEDDED", ""), f"{root}/registry", DEFAULT):
        if path and os.path.exists(f"{path}/index.json"):
            return Embedded(path)
    return None


def source_for(ref: Reference, root: str, run: str, report: Report, insecure: Iterable[str] = ()) -> Source:
    """Return where to pull `ref` from: its registry, or the embedded one where docker.io cannot be reached.

    Raises RegistryError, which lists what there is, where neither can give it.
    """
    if ref.domain != DEFAULT_DOMAIN:
        return connect(ref.domain, insecure)
    reason = recall(run, ref.domain)
    if not reason:
        registry = connect(ref.domain)
        reason = contact(registry, WAIT)
        if not reason:
            forget(run, ref.domain)
            return registry
        remember(run, ref.domain, reason)
    embedded = find(root)
    if embedded is None or not embedded.has(ref):
        raise RegistryError(nowhere(ref, reason, embedded), status=0)
    report(
        Progress("", f"{ref.domain} cannot be reached ({reason}): {ref.familiar} is taken from the embedded registry")
    )
    return embedded


def contact(registry: Registry, seconds: float) -> str:
    """Meet the registry; return why that failed, or nothing. Waits `seconds` at most, also for a name server.

    Looking a name up cannot be interrupted, so it is left alone in its thread.
    """
    import threading

    outcome = [f"no answer from {registry.host} within {seconds:g} seconds"]

    def greet() -> None:
        try:
            registry.session.greet()
            outcome.append("")
        except RegistryError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=greet, daemon=True, name="greet-registry")
    thread.start()
    thread.join(seconds)
    return outcome[-1]


def nowhere(ref: Reference, reason: str, embedded: Embedded | None) -> str:
    """Word the failure of a pull that nobody can serve."""
    if embedded is None:
        there = "there is no embedded registry to take it from either (`make setup` makes one)"
        instead = ""
    else:
        names = ", ".join(embedded.names())
        there = f"the embedded registry {embedded.path} does not have it; it has: {names or 'nothing'}"
        instead = "pull one of those, " if names else ""
    return (
        f"pull {ref.familiar}: {ref.domain} was asked and cannot be reached ({reason}), and {there}. "
        f"What next: {instead}name a registry that can be reached (HOST:PORT/{ref.familiar}), "
        f"or try again with a network"
    )


def note_path(run: str, host: str) -> str:
    """Return the file that remembers that `host` could not be reached."""
    return f"{run}/registry-unreachable-{host.replace(':', '_')}"


def remember(run: str, host: str, reason: str) -> None:
    """Note that `host` could not be reached just now."""
    os.makedirs(run, exist_ok=True)
    replace_file(note_path(run, host), reason.encode())


def recall(run: str, host: str) -> str:
    """Return why `host` could not be reached in the last ten minutes, or nothing."""
    try:
        with open(note_path(run, host), encoding="utf-8", errors="replace") as file:
            age = time.time() - os.fstat(file.fileno()).st_mtime
            return file.read() if 0 <= age < REMEMBERED else ""
    except FileNotFoundError:
        return ""


def forget(run: str, host: str) -> None:
    """Forget that `host` could not be reached."""
    try:
        os.unlink(note_path(run, host))
    except FileNotFoundError:
        pass
