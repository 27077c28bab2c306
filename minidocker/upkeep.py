"""Keeping house: what there is on the disk, and clearing away what killed commands and shims have left.

`system prune` decides what is unused; `tidy` removes only what nobody can be using.
"""

import contextlib
import os
from typing import NamedTuple

from minidocker.container import cgroups, cleanup, files, network, rootless
from minidocker.engine import Engine, usages
from minidocker.errors import ContainerNotFound
from minidocker.linux import trees


class DiskUsage(NamedTuple):
    """Bytes on the disk: the unpacked layers, each counted once, and what the containers have changed."""

    layers_size: int
    containers_size: int


def usage(engine: Engine) -> DiskUsage:
    """Add up what the images and the containers take."""
    diff_ids = {diff_id for image in engine.images.images() for diff_id in _diff_ids(engine, image.id)}
    own = [engine.containers.path(container.id, "upper") for container in engine.containers.list()]
    return DiskUsage(sum(map(engine.images.layer_size, diff_ids)), sum(map(tree_size, own)))


def _diff_ids(engine: Engine, image_id: str) -> list[str]:
    return list(engine.images.config(engine.images.get(image_id)).diff_ids)


def tree_size(path: str) -> int:
    """Return the bytes in a tree's files."""
    total = 0
    for folder, _, found in os.walk(path):
        for name in found:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(f"{folder}/{name}").st_size
    return total


def collect(engine: Engine) -> None:
    """Delete the blobs, layers and notes of the build cache that no image and no container needs any more."""
    from minidocker.build.cache import Cache

    engine.images.collect(lambda: usages(engine))
    Cache(f"{engine.root}/build/cache", engine.images).forget_missing()


def tidy(engine: Engine) -> None:
    """Undo what shims that were killed could not, and delete what other commands that were killed have left.

    When nothing runs or starts, the bridge, its rules and the empty cgroups go as well, and the holder of a user's
    namespace.
    """
    from minidocker.build import workspace

    containers = engine.containers
    containers.delete_unfinished()
    workspace.delete_leftovers(f"{engine.root}/build/tmp")
    for container in containers.list():
        with contextlib.suppress(ContainerNotFound), containers.lock(container.id):
            cleanup.after_dead_shim(containers, containers.load(container.id))
    if os.path.isdir(containers.folder):
        for name in os.listdir(containers.folder):
            folder = f"{containers.folder}/{name}"
            if name.endswith(".removed") and not files.is_locked(f"{folder}/lock"):  # a build still needs that one
                trees.delete(folder)
    if not any(os.path.isdir(containers.run_path(container_id)) for container_id in containers.ids()):
        network.remove_all(engine.run)
        for place in set(cgroups.mounted().values()):
            with contextlib.suppress(OSError):  # another root's containers may live there
                os.rmdir(f"{place}/{cgroups.PARENT}")
        rootless.end(engine.run)
