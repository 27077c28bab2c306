"""A container's root, seen from the engine: for `cp` and `export`.

A running container's is /proc/PID/root. A stopped one has no mounts; a small process makes them in a mount namespace
of its own and keeps them for as long as it is asked to, so that the host's namespace never has them.

Whoever works in a view follows no path of its own accord: the container decides what its links point to. Every path is
opened by openat2(2) with RESOLVE_IN_ROOT (the class of CVE-2018-15664). Nor does anybody go into the root to work
there, where libraries would be the container's (the class of CVE-2019-14271).
"""

import contextlib
import json
import os
import select
import socket
from collections.abc import Iterator

from minidocker.container import mounting, records, rootfs, shims, stream
from minidocker.container.records import Container, Containers
from minidocker.container.spec import Spec
from minidocker.errors import ContainerStateError, StartError
from minidocker.linux import syscalls


@contextlib.contextmanager
def view(containers: Containers, container: Container, read_only: bool = False) -> Iterator[str]:
    """Yield a path at which the container's root can be opened while in the block.

    `read_only` gives the root alone, without anything that is mounted in it, whether the container runs or not.
    """
    with contextlib.ExitStack() as stack:
        if not read_only and not container.running:
            # Nor may it be started while we look: two would have mounted one upper folder.
            stack.enter_context(containers.lock(container.id))
            container = containers.load(container.id)
        if read_only or not container.running:
            yield stack.enter_context(mounted(containers, container, read_only))
        else:
            yield stack.enter_context(_root_of(container))


@contextlib.contextmanager
def _root_of(container: Container) -> Iterator[str]:
    """Yield a running container's root: by a descriptor, for its process may end, and another get the same number."""
    state = container.state
    try:
        root = os.open(f"/proc/{state.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ContainerStateError(f"Container {container.id} is not running any more") from None
    try:
        if records.start_time(state.pid) != state.pid_start:
            raise ContainerStateError(f"Container {container.id} is not running any more")
        yield f"/proc/self/fd/{root}"
    finally:
        os.close(root)


@contextlib.contextmanager
def mounted(containers: Containers, container: Container, read_only: bool) -> Iterator[str]:
    """Yield a container's root, which a process of ours mounts out of sight."""
    folder = containers.path(container.id)
    for name in ("upper", "work", "merged", "init"):
        os.makedirs(f"{folder}/{name}", exist_ok=True)
    connection = shims.new(f"minidocker-view {container.short_id}")
    pidfd = -1
    try:
        request = {"layers": containers.layers, "folder": folder, "spec": container.spec.to_json(), "only": read_only}
        connection.sendall(stream.pack(stream.BEGIN, json.dumps(request).encode()))
        for kind, payload in stream.receive(connection):
            if kind == stream.FAILED:
                raise StartError(json.loads(payload)["error"])
            pid = json.loads(payload)["pid"]
            pidfd = os.pidfd_open(pid)
            yield f"/proc/{pid}/root{folder}/merged"
            return
        raise StartError(f"the root of container {container.short_id} cannot be mounted")
    finally:
        connection.close()  # it ends, and its mounts with it
        if pidfd >= 0:
            select.select([pidfd], [], [])
            os.close(pidfd)


def serve(connection: socket.socket) -> None:
    """Mount a root as the first frame says, and keep it until the other side closes: what a fork of `shims` does."""
    request = json.loads(next(stream.receive(connection))[1])
    spec = Spec.from_json(request["spec"])
    layout = rootfs.Layout(request["layers"], request["folder"])
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        rootfs.mount_layers(spec.layers, layout, read_only=request["only"])
        if not request["only"]:
            root = os.open(layout.merged, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            for mount in spec.mounts:
                for attach in rootfs.user_mount(mount):
                    mounting.attach_inside(root, attach)
        connection.sendall(stream.pack(stream.CREATED, json.dumps({"pid": os.getpid()}).encode()))
    except (OSError, StartError) as error:
        connection.sendall(stream.pack(stream.FAILED, json.dumps({"error": str(error)}).encode()))
    connection.recv(1)
