"""Undoing: what a shim does when its container ends, and what others do for a shim that was killed."""

import contextlib
import os

from minidocker.container import cgroups, records
from minidocker.container.records import Container, Containers
from minidocker.container.spec import Spec
from minidocker.linux import trees

_RESTARTING = "restarting"


def disconnect(containers: Containers, container_id: str) -> None:
    """Give back the container's address and ports."""
    from minidocker.container import network

    network.disconnect(containers.run, container_id)


def remove_run_folder(containers: Containers, container_id: str) -> None:
    """Remove what the container had at run time."""
    folder = containers.run_path(container_id)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)


def keep_over_restart(containers: Containers, container_id: str) -> None:
    """Have a container that runs, and that is to be removed at its end, not be removed at this one."""
    with contextlib.suppress(FileNotFoundError), open(containers.run_path(container_id, _RESTARTING), "w"):
        return


def is_restarting(containers: Containers, container_id: str) -> bool:
    """Say whether `keep_over_restart` was called for this run of the container."""
    return os.path.exists(containers.run_path(container_id, _RESTARTING))


def remove_container(containers: Containers, container_id: str, spec: Spec, volumes: bool) -> None:
    """Remove the container's folder, and with `volumes` the volumes that never had a name of their own."""
    remove_folder(containers, container_id)
    if volumes:
        for mount in spec.mounts:
            if mount.kind == "volume" and not mount.name:
                with contextlib.suppress(FileNotFoundError):
                    trees.delete(os.path.dirname(mount.source))


def remove_folder(containers: Containers, container_id: str) -> None:
    """Remove the container's folder: out of sight first, so that no command finds a half of it."""
    with contextlib.suppress(FileNotFoundError):
        trees.delete(containers.forget(container_id))


def after_dead_shim(containers: Containers, container: Container) -> None:
    """Undo what the shim of `container` would have undone, had it not been killed. Holding the container's lock.

    Its process has ended: see `records`. Does nothing to a container whose shim is alive, or that ended as it should.
    """
    if container.running or not os.path.isdir(containers.run_path(container.id)):
        return
    state = container.state
    disconnect(containers, container.id)
    left = cgroups.existing(container.id)
    cgroups.freeze(left, still=False)  # it may have been killed in the middle of a commit
    cgroups.remove(left)
    remove_run_folder(containers, container.id)
    if state.status == records.EXITED:
        containers.write_state(container.id, state._replace(finished=state.finished or records.now()))
    if container.spec.remove and state.status == records.EXITED:
        remove_container(containers, container.id, container.spec, volumes=True)
