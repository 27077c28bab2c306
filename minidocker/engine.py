"""The stories: pull, push, build, create, run, commit. Each reads from top to bottom and only calls downwards.

The command line and the Python API speak with the engine through this module alone.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from minidocker import progress
from minidocker.errors import ContainerNotFound, ImageNotFound, InvalidArgument, MinidockerError
from minidocker.progress import Progress, Report

if TYPE_CHECKING:
    from minidocker.build.builder import BuildOptions
    from minidocker.container.attach import Attachment
    from minidocker.container.logs import LogLine
    from minidocker.container.options import ExecOptions, RunOptions
    from minidocker.container.records import Container, Containers
    from minidocker.image.overlay import Change
    from minidocker.image.store import Image, ImageStore, Usage
    from minidocker.registry.transfer import Fetched, Sent
    from minidocker.upkeep import DiskUsage

DEFAULT_ROOT = "/var/lib/minidocker"
DEFAULT_RUN = "/run/minidocker"


class Engine(NamedTuple):
    """Where everything is: `root` keeps what must last, `run` what ends with the machine's boot.

    `insecure` names the registries that may speak plain HTTP, beside those on the loopback.
    """

    root: str
    run: str
    insecure: tuple[str, ...] = ()

    @property
    def images(self) -> "ImageStore":
        """The images: what a list of containers does without is not imported for it."""
        return _image_store(self.root)

    @property
    def containers(self) -> "Containers":
        """The containers."""
        return _containers(self.root, self.run)


@functools.cache
def _image_store(root: str) -> "ImageStore":
    from minidocker.image.store import ImageStore

    return ImageStore(root)


@functools.cache
def _containers(root: str, run: str) -> "Containers":
    from minidocker.container.records import Containers

    return Containers(root, run)


def open_engine(root: str = "", run: str = "") -> Engine:
    """Return the engine on these folders, or on those that MINIDOCKER_ROOT and MINIDOCKER_RUN name. Touches nothing."""
    root = os.path.abspath(root or os.environ.get("MINIDOCKER_ROOT") or DEFAULT_ROOT)
    run = os.path.abspath(run or os.environ.get("MINIDOCKER_RUN") or DEFAULT_RUN)
    insecure = tuple(filter(None, os.environ.get("MINIDOCKER_INSECURE_REGISTRIES", "").split(",")))
    return Engine(root, run, insecure)


# Images


def pull(engine: Engine, name: str, platform: str = "", report: Report = progress.silent) -> "Fetched":
    """Fetch an image from its registry, or from the embedded one where docker.io cannot be reached.

    Raises: RegistryError, DigestMismatch, InvalidManifest, UnsafeLayer; the store is as it was then.
    """
    from minidocker.image import reference
    from minidocker.image.oci import Platform
    from minidocker.registry import embedded, transfer

    ref = reference.parse(name)
    source = embedded.source_for(ref, engine.root, engine.run, report, engine.insecure)
    wanted = Platform.parse(platform) if platform else None
    return transfer.fetch(engine.images, ref, wanted, report, source)


def push(engine: Engine, name: str, report: Report = progress.silent) -> "Sent":
    """Send an image to the registry that its name says.

    Raises: ImageNotFound, RegistryError.
    """
    from minidocker.image import reference
    from minidocker.registry import client, transfer

    ref = reference.parse(name)
    try:
        image = engine.images.get(str(ref))
    except ImageNotFound:
        raise ImageNotFound(f"An image does not exist locally with the tag: {ref.familiar_repository}") from None
    registry = client.connect(ref.domain, engine.insecure)
    return transfer.send(engine.images, image, ref, report, registry)


def remove_image(engine: Engine, name: str, force: bool = False) -> list[str]:
    """Remove an image, or one of its names; return docker's lines about what was done.

    Raises: ImageNotFound, Conflict when a container needs it.
    """
    return engine.images.remove(name, force, lambda: usages(engine))


def usages(engine: Engine) -> "list[Usage]":
    """Return which images and layers the containers stand on."""
    from minidocker.image.store import Usage

    return [Usage(c.id, c.image_id, c.running, c.spec.layers) for c in engine.containers.list()]


def build(engine: Engine, context: str, options: "BuildOptions", out: Callable[[str], None]) -> str:
    """Build an image from a Dockerfile and its context; return its id.

    Raises: DockerfileError, BuildError with the exit code of the command that failed.
    """
    from minidocker import buildsteps

    return buildsteps.build(engine, context, options, out)


def commit(
    engine: Engine,
    container: "Container",
    reference_text: str = "",
    message: str = "",
    author: str = "",
    changes: Iterable[str] = (),
    pause: bool = True,
) -> "Image":
    """Make an image of a container: its image's layers and, as one more, what it has changed.

    With `pause`, what runs in it stands still meanwhile.

    Raises: InvalidReference, DockerfileError for a change that is no instruction.
    """
    from minidocker import versions

    return versions.commit(engine, container, reference_text, message, author, changes, pause)


# Containers


def create(
    engine: Engine, image_name: str, options: "RunOptions", report: Report = progress.silent, container_id: str = ""
) -> "Container":
    """Make a container of an image, which is pulled when it is not here. It does not run yet.

    Raises: what `pull` raises; InvalidArgument, Conflict for a name that is taken.
    """
    from minidocker import assemble, storage

    image = find_or_pull(engine, image_name, options.platform, report)
    container_id = container_id or os.urandom(32).hex()
    with engine.images.adding():  # the image's layers stay until the container's record keeps them
        image = engine.images.get(image.id)  # it may have been removed just before
        spec = assemble.specify(container_id, engine.images.config(image), options, engine.root)
        with engine.containers.making(options.name, image_name, image.id, spec, container_id) as container:
            storage.prepare(engine, container, report)
    return engine.containers.load(container_id)


def find_or_pull(engine: Engine, name: str, platform: str = "", report: Report = progress.silent) -> "Image":
    """Return the image, pulling it when it is not here."""
    with contextlib.suppress(ImageNotFound):
        return engine.images.get(name)
    from minidocker.image import reference

    report(Progress("", f"Unable to find image '{reference.parse(name).familiar}' locally"))
    return pull(engine, name, platform, report).image


def run(
    engine: Engine, image_name: str, options: "RunOptions", report: Report = progress.silent, container_id: str = ""
) -> "tuple[Container, Attachment | None]":
    """Create a container and start it; stay attached unless it is to be detached.

    Raises: what `create` and `start` raise. Nothing runs then, not even when it was an interrupt that came too late for
    `start`; a container that was to be removed at its end is removed.
    """
    container = create(engine, image_name, options, report, container_id)
    try:
        attachment = start(engine, container, attach=not options.detach)
    except BaseException:
        with contextlib.suppress(MinidockerError, OSError):
            if options.remove:
                remove(engine, container, force=True, volumes=True)
            else:
                kill(engine, engine.containers.load(container.id))
        raise
    with contextlib.suppress(ContainerNotFound):  # one that is removed at its end may have ended already
        container = engine.containers.load(container.id)
    return container, attachment


def start(engine: Engine, container: "Container", attach: bool = False) -> "Attachment | None":
    """Run a container's program; see `minidocker.container.lifecycle.start`."""
    from minidocker.container import lifecycle

    return lifecycle.start(engine.containers, container, attach)


def attach(engine: Engine, container: "Container") -> "Attachment":
    """Join those who see a running container's output and give it input."""
    from minidocker.container import lifecycle

    return lifecycle.connect(engine.containers, container)


def execute(engine: Engine, container: "Container", options: "ExecOptions") -> "Attachment | None":
    """Run one more program in a running container."""
    from minidocker.container import lifecycle

    return lifecycle.execute(engine.containers, container, options)


def stop(engine: Engine, container: "Container", timeout: float = 10.0, signal: str = "") -> None:
    """Ask a container to end; after `timeout` seconds, end it."""
    from minidocker.container import lifecycle

    lifecycle.stop(engine.containers, container, timeout, signal)


def kill(engine: Engine, container: "Container", signal: str = "KILL") -> None:
    """Send a container a signal."""
    from minidocker.container import lifecycle

    lifecycle.kill(container, signal)


def restart(engine: Engine, container: "Container", timeout: float = 10.0) -> None:
    """Stop a container and start it."""
    from minidocker.container import lifecycle

    lifecycle.restart(engine.containers, container, timeout)


def wait(engine: Engine, container: "Container") -> int:
    """Wait until a container ends; return its exit code."""
    from minidocker.container import lifecycle

    return lifecycle.wait(engine.containers, container)


def remove(engine: Engine, container: "Container", force: bool = False, volumes: bool = False) -> None:
    """Remove a container and what it changed."""
    from minidocker.container import lifecycle

    lifecycle.remove(engine.containers, container, force, volumes)


def remove_damaged(engine: Engine, name: str) -> bool:
    """Remove a container that only its folder is left of, by the beginning of its id; say whether there was one."""
    from minidocker.container import lifecycle

    damaged = engine.containers.damaged(engine.containers.list())
    found = [container_id for container_id in damaged if name and container_id.startswith(name)]
    for container_id in found:
        lifecycle.remove_damaged(engine.containers, container_id)
    return bool(found)


def logs(
    engine: Engine, container: "Container", follow: bool = False, tail: int = -1, since: str = ""
) -> "Iterator[LogLine]":
    """Yield what a container wrote, since an RFC 3339 time where one is given."""
    from minidocker.container import logs as reading

    def running() -> bool:
        return engine.containers.state(container.id).status == "running"

    for line in reading.read(engine.containers.path(container.id, "log.json"), running, follow, tail):
        if line.time >= since:
            yield line


def top(engine: Engine, container: "Container", arguments: Iterable[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Return the titles and rows of a container's process table, as `ps -ef` shows them.

    Raises: InvalidArgument for other options of ps, which is not asked; ContainerStateError.
    """
    if unknown := [word for word in arguments if word not in ("-ef", "-e", "-f")]:
        raise InvalidArgument(f"ps {' '.join(unknown)}: top shows what 'ps -ef' does and takes no other option")
    from minidocker.container import processes

    return list(processes.TITLES), [processes.row(process) for process in processes.listing(container)]


def diff(engine: Engine, container: "Container") -> "list[Change]":
    """Return what a container has changed in its root."""
    from minidocker import storage

    return storage.changes(engine, container)


def export(engine: Engine, container: "Container", out: BinaryIO) -> None:
    """Write a container's whole root as a tar archive."""
    from minidocker import storage

    storage.export(engine, container, out)


def copy_out(engine: Engine, container: "Container", path: str, out: BinaryIO) -> None:
    """Write a file or directory of a container as a tar archive."""
    from minidocker import storage

    storage.copy_out(engine, container, path, out)


def copy_in(engine: Engine, container: "Container", path: str, archive: BinaryIO) -> None:
    """Unpack a tar archive in a directory of a container."""
    from minidocker import storage

    storage.copy_in(engine, container, path, archive)


def usage(engine: Engine) -> "DiskUsage":
    """Return what images and containers take on the disk."""
    from minidocker import upkeep

    return upkeep.usage(engine)


def collect(engine: Engine) -> None:
    """Delete the content that no image and no container needs; see `minidocker.upkeep.collect`."""
    from minidocker import upkeep

    upkeep.collect(engine)


def tidy(engine: Engine) -> None:
    """Clear away what killed commands have left; see `minidocker.upkeep.tidy`."""
    from minidocker import upkeep

    upkeep.tidy(engine)
