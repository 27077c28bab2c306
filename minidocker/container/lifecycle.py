"""A container's life: start, attach, exec, stop, kill, restart, wait, remove.

Every command that changes a container holds its lock; two at once on the same one come one after the other.
"""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from typing import Any

from minidocker.container import cleanup, etc, launch, network, options, ports, records, rootless
from minidocker.container import seccomp_program as seccomp
from minidocker.container.attach import Attachment, connect_to_shim
from minidocker.container.options import ExecOptions
from minidocker.container.records import Container, Containers
from minidocker.container.spec import Spec
from minidocker.errors import Conflict, ContainerNotFound, ContainerStateError, StartError
from minidocker.linux import capabilities, trees

Json = dict[str, Any]


def start(containers: Containers, container: Container, attach: bool = False) -> Attachment | None:
    """Run the container's program. Starting one that runs is no error, as in docker.

    Raises: StartError, NetworkError: nothing runs, what was set up is undone, and the record says why.
    """
    with containers.lock(container.id) as lock:
        container = containers.load(container.id)
        if container.running and not records.start_time(container.state.pid):  # its shim is about to write down its end
            wait_for_shim(container, None)
            container = containers.load(container.id)
        if container.running:
            return connect(containers, container) if attach else None
        cleanup.after_dead_shim(containers, container)
        with contextlib.ExitStack() as stack:
            try:
                return _start(containers, container, attach, stack, lock)
            except BaseException as error:
                _record_failure(containers, container, error)
                raise


def _start(
    containers: Containers, container: Container, attach: bool, stack: contextlib.ExitStack, lock: int
) -> Attachment | None:
    """Start under the container's lock; `stack` closes what this process need not hold any longer than that.

    The shim holds the lock, too, until the program runs or all is undone: should we be killed, nobody meets half of it.
    """
    spec, folder = container.spec, containers.path(container.id)
    if spec.remove:
        trees.delete(f"{folder}/work")  # with the mark of the overlay of the run before
    for name in ("upper", "work", "merged", "init"):
        os.makedirs(f"{folder}/{name}", exist_ok=True)
    hostname = os.uname().nodename if spec.network == "host" else spec.hostname
    name_servers = (rootless.NAME_SERVER,) if rootless.is_kept(containers.run) else etc.PUBLIC_SERVERS
    etc.prepare(folder, hostname, spec.network == "host", name_servers)
    held: list[socket.socket] = []
    ours: list[socket.socket] = []
    published = spec.ports
    if spec.network == "bridge":
        import threading

        threading.Thread(target=network.preload, daemon=True).start()
        resolved, held = ports.reserve(containers.run, container.id, container.name, spec.ports)
        published = tuple(resolved)
        stack.callback(_close_all, held)
        if rootless.is_kept(containers.run):  # slirp4netns will hold them instead of the shim
            ours, held = held, []

    def make_network(pid: int) -> Json:
        """Connect the new, empty network namespace, if the container is to have one."""
        if spec.network != "bridge":
            etc_hosts_for("", "")
            return {"address": "", "gateway": "", "mac": "", "ports": []}
        endpoint = network.connect(containers.run, container.id, pid, published, container.state.address, ours)
        etc_hosts_for(endpoint.address, endpoint.gateway)
        shown = [port._asdict() for port in published]
        return {"address": endpoint.address, "gateway": endpoint.gateway, "mac": endpoint.mac, "ports": shown}

    def etc_hosts_for(address: str, gateway: str) -> None:
        if spec.network != "host" or spec.extra_hosts:
            etc.write(f"{folder}/hosts", etc.hosts(address, hostname, spec.extra_hosts, gateway))

    process = _process(containers, container, spec, attach)
    return launch.launch(process, [lock, *(each.fileno() for each in held)], make_network)


def _process(
    containers: Containers, container: Container, spec: Spec, attach: bool, join: Json | None = None
) -> launch.Process:
    """Describe a process that is to run `spec` in a container.

    It comes under the container's filter even if it gets more capabilities: in docker, too, `exec --privileged` does.
    """
    own, folders = container.spec, (containers.root, containers.run, containers.layers)
    program = seccomp.program(containers.root, own.seccomp, own.capabilities)
    return launch.Process(container.id, *folders, spec, program.hex(), attach, join)


def _close_all(sockets: list[socket.socket]) -> None:
    for held in sockets:
        held.close()


def _record_failure(containers: Containers, container: Container, error: BaseException) -> None:
    """Write down why the container did not start: `ps -a` and `inspect` show it.

    One that had begun when its start was interrupted runs.
    """
    if containers.state(container.id).status == records.RUNNING:
        return
    code = error.exit_code if isinstance(error, StartError) else 128
    state = container.state._replace(exit_code=code, error=str(error), finished="")
    with contextlib.suppress(OSError):
        containers.write_state(container.id, state)


def connect(containers: Containers, container: Container) -> Attachment:
    """Attach to a running container.

    Raises: ContainerStateError when it does not run.
    """
    try:
        connection = connect_to_shim(containers.run_path(container.id))
    except (FileNotFoundError, ConnectionRefusedError):
        raise ContainerStateError("You cannot attach to a stopped container, start it first") from None
    return Attachment(connection, container.spec.terminal)


@contextlib.contextmanager
def paused(containers: Containers, container: Container) -> Iterator[None]:
    """Have what runs in the container, if it runs, stand still while in the block.

    Its shim sees to it for as long as we are connected: should we be killed, everything goes on.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ContainerStateError, OSError):
            attachment = connect(containers, container)
            stack.callback(attachment.close)
            attachment.pause()
        yield


def execute(containers: Containers, container: Container, asked: ExecOptions) -> Attachment | None:
    """Run one more program in a running container; return a connection to it unless it is detached.

    Raises: ContainerStateError when the container does not run, StartError when the program cannot be.
    """
    if not container.running:
        raise ContainerStateError(f"Container {container.id} is not running")
    spec = container.spec._replace(
        args=asked.command,
        env=merge_env(container.spec.env, (*(("TERM=xterm",) if asked.terminal else ()), *asked.env)),
        user=asked.user or container.spec.user,
        workdir=asked.workdir or container.spec.workdir,
        terminal=asked.terminal,
        open_stdin=asked.interactive,
        init=False,
        capabilities=capabilities.NAMES if asked.privileged else container.spec.capabilities,
    )
    join = {"pid": container.state.pid, "start": container.state.pid_start}
    process = _process(containers, container, spec, not asked.detach, join)
    return launch.launch(process, [], lambda pid: {})


def merge_env(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Return the variables of both; where both have one, the second's value, at the first's place."""
    merged = dict(variable.partition("=")[::2] for variable in first)
    merged.update(dict(variable.partition("=")[::2] for variable in second))
    return tuple(f"{name}={value}" for name, value in merged.items())


def send_signal(container: Container, number: int) -> None:
    """Send a signal to the container's first process, and to no other that has come to have its number.

    See: pidfd_open(2): a descriptor stands for one process, a number for whoever has it.

    Raises: ContainerStateError when the container does not run.
    """
    try:
        pidfd = os.pidfd_open(container.state.pid) if container.running else -1
    except ProcessLookupError:
        pidfd = -1
    if pidfd < 0:
        raise ContainerStateError(f"Container {container.id} is not running")
    try:
        if records.start_time(container.state.pid) == container.state.pid_start:
            signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def kill(container: Container, name: str = "KILL") -> None:
    """Send the container a signal, SIGKILL where nothing else is said.

    Raises: InvalidArgument, ContainerStateError.
    """
    number = options.parse_signal(name)
    try:
        send_signal(container, number)
    except ContainerStateError as error:
        raise ContainerStateError(f"Cannot kill container: {container.name}: {error}") from None


def stop(containers: Containers, container: Container, timeout: float = 10.0, name: str = "") -> None:
    """Ask the container to end by its stop signal; kill it when it has not after `timeout` seconds (-1: never).

    One that does not run is stopped already; one that is just being started is stopped when it has been.
    """
    number = options.parse_signal(name or container.spec.stop_signal)
    with containers.lock(container.id):
        container = containers.load(container.id)
    with contextlib.suppress(ContainerStateError):
        send_signal(container, number)
        if not wait_for_shim(container, timeout if timeout >= 0 else None):
            send_signal(container, signal.SIGKILL)
            wait_for_shim(container, None)
    _settle(containers, container)


def wait_for_shim(container: Container, timeout: float | None) -> bool:
    """Wait until the container has ended and its shim has undone and written down everything; say whether it has."""
    state = container.state
    try:
        pidfd = os.pidfd_open(state.shim)
    except ProcessLookupError:
        return True
    try:
        if records.start_time(state.shim) != state.shim_start:
            return True
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    finally:
        os.close(pidfd)


def _settle(containers: Containers, container: Container) -> None:
    """Clean up after a shim that was killed, if it was."""
    if os.path.isdir(containers.path(container.id)):
        with containers.lock(container.id):
            cleanup.after_dead_shim(containers, containers.load(container.id))


def restart(containers: Containers, container: Container, timeout: float = 10.0) -> None:
    """Stop the container, if it runs, and start it; it is not removed in between, if it was to be at its end."""
    cleanup.keep_over_restart(containers, container.id)
    stop(containers, container, timeout)
    start(containers, container)


def wait(containers: Containers, container: Container) -> int:
    """Wait until the container ends; return its exit code. One that does not run has ended already.

    Raises: ContainerNotFound for one that was removed at its end, before we could ask.
    """
    container = containers.load(container.id)
    if not container.running:
        return container.state.exit_code
    with contextlib.suppress(ContainerStateError):
        attachment = connect(containers, container)
        for _ in attachment.frames():
            pass
        attachment.close()
        if attachment.exit_code is not None:
            return attachment.exit_code
    wait_for_shim(container, None)
    return containers.load(container.id).state.exit_code


def remove(containers: Containers, container: Container, force: bool = False, volumes: bool = False) -> None:
    """Remove the container, its changes and its log; with `volumes` also those of its volumes that have no name.

    Raises: Conflict when it runs and is not to be killed by `force`.
    """
    try:
        with containers.lock(container.id):
            container = containers.load(container.id)
            if container.running:
                if not force:
                    raise Conflict(
                        f"You cannot remove a running container {container.id}. "
                        "Stop the container before attempting removal or force remove"
                    )
                with contextlib.suppress(ContainerStateError):
                    send_signal(container, signal.SIGKILL)
                wait_for_shim(container, None)
                container = container._replace(state=containers.state(container.id))
            cleanup.after_dead_shim(containers, container)
            cleanup.remove_container(containers, container.id, container.spec, volumes)
    except ContainerNotFound:
        if not force:  # a --rm container may have been removed by its shim
            raise


def remove_damaged(containers: Containers, container_id: str) -> None:
    """Remove a container whose record cannot be read: its process, if it runs, what that was given, and its folder."""
    nameless = Container(container_id, "", "", "", "", Spec(args=()), containers.state(container_id))
    with contextlib.suppress(ContainerStateError):
        send_signal(nameless, signal.SIGKILL)
        wait_for_shim(nameless, None)
    cleanup.disconnect(containers, container_id)
    cleanup.remove_run_folder(containers, container_id)
    cleanup.remove_folder(containers, container_id)
