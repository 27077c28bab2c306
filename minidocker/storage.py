"""A container's root on disk, between the images' layers and the container's namespaces.

    containers/ID/init     the mount points that the image lacks, as one more layer on top of it
    containers/ID/upper    what the container has changed
    containers/ID/rootfs   a copy of everything, where overlayfs cannot be had

The one diff of the house is taken here: it is `diff`, `commit`, and the layer of every RUN.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from minidocker.container import remap
from minidocker.container.records import Container
from minidocker.container.view import mounted, view
from minidocker.engine import Engine
from minidocker.errors import InvalidArgument, InvalidManifest
from minidocker.image import overlay
from minidocker.image.layout import replace_file
from minidocker.linux import syscalls, trees
from minidocker.progress import Progress, Report

# What is mounted in every container, and so has to be there to be mounted upon.
MOUNT_POINTS = ("/dev", "/proc", "/sys", "/etc")
MOUNTED_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def lowers(engine: Engine, container: Container) -> list[str]:
    """Return the folders that a container's root is made of, the topmost first."""
    own = engine.containers.path(container.id, "init")
    return [own, *(engine.images.layer_path(diff_id) for diff_id in reversed(container.spec.layers))]


def prepare(engine: Engine, container: Container, report: Report) -> None:
    """Make the folders that a new container's root needs, and those of the host that it mounts and that are missing."""
    _check_layers(engine, container)
    _make_sources(container)
    folder = engine.containers.path(container.id)
    for name in ("init", "upper", "work", "merged"):
        os.mkdir(f"{folder}/{name}", 0o755)
    _make_init_layer(f"{folder}/init", lowers(engine, container)[1:])
    root = overlay.lookup("/", lowers(engine, container)[1:])
    if root:
        for name in ("init", "upper"):
            trees.copy_attributes(root, f"{folder}/{name}", os.stat(root))
    if not overlay_works(engine, report):
        os.mkdir(f"{folder}/rootfs")
        flatten(lowers(engine, container), f"{folder}/rootfs")


def _check_layers(engine: Engine, container: Container) -> None:
    """Raise InvalidManifest where a layer of the image has been deleted by hand."""
    for diff_id in container.spec.layers:
        if not engine.images.has_layer(diff_id):
            raise InvalidManifest(
                f"{engine.images.layer_path(diff_id)} is gone, which {container.image} needs: "
                f"pull, load or build the image again"
            )


def _make_sources(container: Container) -> None:
    """Make the folders of its volumes, and what else of the host it mounts and is missing, as docker does."""
    for mount in container.spec.mounts:
        if mount.kind != "tmpfs" and not os.path.lexists(mount.source):
            if mount.kind == "volume":  # no other user of the host is to reach what a container puts there
                os.makedirs(os.path.dirname(mount.source), 0o700, exist_ok=True)
            os.makedirs(mount.source, exist_ok=True)  # another container may make it now
            os.chmod(mount.source, 0o755)


def _make_init_layer(init: str, below: list[str]) -> None:
    """Put into `init` what the image lacks; /etc is as it is in the image.

    Where that is a symbolic link, the files in it are made when they are mounted, wherever it leads in the container.
    """
    for path in MOUNT_POINTS:
        if not overlay.lookup(path, below):
            os.mkdir(f"{init}{path}")
            os.chmod(f"{init}{path}", 0o755)
    etc = overlay.lookup("/etc", below)
    if etc and (os.path.islink(etc) or not os.path.isdir(etc)):
        return
    os.makedirs(f"{init}/etc", exist_ok=True)
    for path in MOUNTED_FILES:
        if not overlay.lookup(path, below):
            os.close(os.open(f"{init}{path}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    if etc:
        trees.copy_attributes(etc, f"{init}/etc", os.stat(etc))


def overlay_works(engine: Engine, report: Report) -> bool:
    """Say whether this kernel mounts an overlay on this disk; tried once a boot, and told when not.

    MINIDOCKER_STORAGE=copy asks for the copies all the same.
    """
    if os.environ.get("MINIDOCKER_STORAGE") == "copy":
        return False
    note = f"{engine.run}/storage"
    with contextlib.suppress(FileNotFoundError), open(note) as file:
        if known := file.read():  # another command may just be writing it
            return known == "overlay"
    works = _try_overlay(engine)
    os.makedirs(engine.run, exist_ok=True)
    replace_file(note, b"overlay" if works else b"copy")
    if not works:
        report(Progress("", f"overlayfs cannot be used below {engine.root}: each container copies its whole image"))
    return works


def _try_overlay(engine: Engine) -> bool:
    """Mount an overlay in a container that is never recorded, so no command sees it, and say whether that went well."""
    from minidocker.container.spec import Spec
    from minidocker.errors import StartError

    os.makedirs(engine.containers.layers, 0o700, exist_ok=True)
    works = False
    with contextlib.suppress(StartError), engine.containers.making("", "", "", Spec(args=())) as trial:
        with mounted(engine.containers, trial, read_only=False):
            works = True
        raise StartError("it was only a trial")
    return works


def flatten(stack: list[str], target: str) -> None:
    """Copy a stack of layers, the topmost first, into one tree, whiteouts and opaque directories carried out."""
    for layer in reversed(stack):
        _lay_over(layer, target)


def _lay_over(layer: str, target: str) -> None:
    """Copy one layer over what the layers below it have left."""
    for entry in os.scandir(layer):
        place = f"{target}/{entry.name}"
        status = entry.stat(follow_symlinks=False)
        is_folder = entry.is_dir(follow_symlinks=False)
        hides = not is_folder or overlay.is_opaque(entry.path) or not os.path.isdir(place) or os.path.islink(place)
        if hides and os.path.lexists(place):
            trees.delete(place)
        if overlay.is_whiteout(status):
            continue
        if is_folder:
            os.makedirs(place, exist_ok=True)
            _lay_over(entry.path, place)
        else:
            trees.copy_one(entry.path, place, status)
    trees.copy_attributes(layer, target, os.stat(layer))


def changes(engine: Engine, container: Container) -> list[overlay.Change]:
    """Return what a container has changed in its root, sorted by path."""
    folder = engine.containers.path(container.id)
    if not os.path.isdir(f"{folder}/rootfs"):
        return overlay.changes(f"{folder}/upper", lowers(engine, container))
    with _original(engine, container) as original:
        return overlay.changes_between(original, f"{folder}/rootfs")


@contextlib.contextmanager
def upper(engine: Engine, container: Container) -> Iterator[str]:
    """Yield a folder that holds a container's changes as an overlay's upper directory does, to be packed as a layer."""
    folder = engine.containers.path(container.id)
    if not os.path.isdir(f"{folder}/rootfs"):
        yield f"{folder}/upper"
        return
    made = f"{folder}/changes"
    os.mkdir(made)
    try:
        with _original(engine, container) as original:
            found = overlay.changes_between(original, f"{folder}/rootfs")
        overlay.write_upper(made, f"{folder}/rootfs", found)
        yield made
    finally:
        trees.delete(made)


@contextlib.contextmanager
def _original(engine: Engine, container: Container) -> Iterator[str]:
    """Yield a copy of the container's root as it was before it started."""
    original = engine.containers.path(container.id, "original")
    os.mkdir(original)
    try:
        flatten(lowers(engine, container), original)
        yield original
    finally:
        trees.delete(original)


def export(engine: Engine, container: Container, out: BinaryIO) -> None:
    """Write a container's whole root as a tar archive: the files themselves, nothing that is mounted over them."""
    from minidocker.image import layers

    with view(engine.containers, container, read_only=True) as root:
        layers.pack(root, out.write, whiteouts=False)


def copy_out(engine: Engine, container: Container, path: str, out: BinaryIO) -> None:
    """Write a file, or a directory and what is in it, as a tar archive whose first name is the path's last.

    A path that ends in `/` or `/.` follows a link to a directory; any other is what it names, be it a link.

    Raises: FileNotFoundError.
    """
    from minidocker.image import layers

    first_ids = _first_ids(container)
    with view(engine.containers, container) as root, _opened(root) as top:
        wanted = path.rstrip("/").removesuffix("/.") or "/"
        name = os.path.basename(os.path.normpath(wanted)) or "."
        if path != wanted or name in (".", ".."):
            inside = _open_inside(top, wanted, os.O_RDONLY | os.O_DIRECTORY)
            layers.pack_path(f"/proc/self/fd/{inside}/.", name, out.write, first_ids)
        else:
            inside = _open_inside(top, os.path.dirname(wanted) or "/", os.O_RDONLY | os.O_DIRECTORY)
            layers.pack_path(f"/proc/self/fd/{inside}/{name}", name, out.write, first_ids)
        os.close(inside)


def copy_in(engine: Engine, container: Container, path: str, archive: BinaryIO) -> None:
    """Unpack a tar archive in an existing directory of a container.

    Raises: FileNotFoundError, NotADirectoryError; UnsafeLayer for an archive that is broken or leads out.
    """
    from minidocker.image import layers

    if container.spec.read_only:
        raise InvalidArgument("container rootfs is marked read-only")
    with view(engine.containers, container) as root:
        with _opened(root) as top:
            os.close(_open_inside(top, path, os.O_RDONLY | os.O_DIRECTORY))
        tar = layers.TarReader(layers.decompressed(archive))
        with contextlib.ExitStack() as stack:
            tar.first_ids = _first_ids(container)
            if any(tar.first_ids):
                from minidocker.linux import idmap

                stack.enter_context(idmap.files_made_by(*tar.first_ids))
            layers.unpack(tar, root, path, whiteouts=False)


def _first_ids(container: Container) -> tuple[int, int]:
    """Return the user and the group of the host that are 0 in a container's root, as `view` shows it."""
    if not container.running or not container.spec.userns:
        return 0, 0
    own = remap.of(container.state.pid)
    return own.uids.outside, own.gids.outside


def status(engine: Engine, container: Container, path: str) -> os.stat_result:
    """Return what is at a path of a container; a link at its end is followed, inside the container.

    Raises: FileNotFoundError.
    """
    with view(engine.containers, container) as root, _opened(root) as top:
        inside = _open_inside(top, path, os.O_PATH)
        try:
            return os.fstat(inside)
        finally:
            os.close(inside)


@contextlib.contextmanager
def _opened(root: str) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_inside(top: int, path: str, flags: int) -> int:
    """Open a path of a container as the container would, and nothing outside it."""
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    return syscalls.openat2(top, path or "/", flags, resolve=resolve)
