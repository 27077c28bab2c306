"""The parent of a container's process: a small program of its own that outlives the command which started it.

One shim a container (and one an `exec`). It makes the process, holds its terminal or its pipes, writes the log, serves
those who attach, waits, writes down how it ended, and undoes what was set up. There is no daemon: a command may be
killed without hurting a container, and a shim's death ends only its own.

It is forked by a server, a fresh interpreter with few imports (`python -I -S`; see `minidocker.container.shims`): so
starting from a threaded process is safe and a hundred of them cost little. It speaks with the engine by a socket: see
`minidocker.container.stream`.
"""

import contextlib
import functools
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from minidocker import explain
from minidocker.container import cgroups, cleanup, grants, namespaces, records, rootfs, shims, stream, view
from minidocker.container.births import Child, Control
from minidocker.container.relay import Relay
from minidocker.container.spec import Port, Spec
from minidocker.errors import MinidockerError, StartError
from minidocker.linux import syscalls, userns
from minidocker.linux.title import set_title

Json = dict[str, Any]
VIEW = b"minidocker-view"


def main() -> None:
    """Fork a shim, or a view, for each connection that arrives on standard input, until that closes: see `shims`."""
    leave_callers_world()
    server = socket.socket(fileno=os.dup(0))
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a shim
    while True:
        title, fds, _, _ = socket.recv_fds(server, shims.WIDTH, 1)
        if not title:
            return
        if os.fork() == 0:
            server.close()
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            set_title(title)
            connection = socket.socket(fileno=fds[0])
            if title.startswith(VIEW):
                view.serve(connection)
            else:
                serve(Control(connection))
            return
        os.close(fds[0])


def serve(control: Control) -> None:
    """Run one container, or one more process in a running one, as the engine's first frame says."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        request = control.expect(stream.BEGIN)
    except StartError:  # the engine has gone before it said anything
        return
    if request["explain"]:
        explain.listen(lambda kernel, shell: control.send(stream.EXPLAIN, [kernel, shell]))
    spec = Spec.from_json(request["spec"])
    try:
        if request["join"]:
            run_beside(control, request, spec)
        else:
            run(control, request, spec)
    except StartError as error:
        control.send(stream.FAILED, {"error": str(error), "exit_code": error.exit_code})
    except (MinidockerError, OSError) as error:
        control.send(stream.FAILED, {"error": str(error), "exit_code": 125})


def leave_callers_world() -> None:
    """Keep nothing of the process that started us: whatever waits for it to end must not wait for the container.

    A pipe that it had open to others, the folder it was in, which could not be unmounted, its mask for new files.
    """
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    os.umask(0o022)


def run(control: Control, request: Json, spec: Spec) -> None:
    """Make a container, look after it until it ends, and undo everything in reverse."""
    container_id = request["id"]
    containers = records.Containers(request["root"], request["run"])
    layout = rootfs.Layout(request["layers"], containers.path(container_id))
    seccomp = bytes.fromhex(request["seccomp"])
    with contextlib.ExitStack() as at_last, contextlib.ExitStack() as undo:
        undo.callback(cleanup.remove_run_folder, containers, container_id)
        if spec.network == "bridge":
            undo.callback(cleanup.disconnect, containers, container_id)
        os.makedirs(containers.run_path(container_id), 0o700, exist_ok=True)
        limits = cgroups.prepare(container_id, spec.limits, spec.privileged, grants.rules(spec.devices))
        undo.callback(cgroups.remove, limits)
        cgroups.create(limits)

        pipes = Pipes(spec)
        child = Child()
        if spec.userns:
            from minidocker.container import remap

            home = remap.go_aside()
        pid = syscalls.clone(syscalls.CLONE_NEWPID | (syscalls.CLONE_NEWUSER if spec.userns else 0))
        if pid == 0:
            be = functools.partial(namespaces.be_born, spec, layout, pipes.for_child, seccomp=seccomp)
            _become(child, be, request, limits)
        mounted = undo.enter_context(contextlib.ExitStack())
        undo.callback(kill, pid)
        child.theirs.close()
        if spec.userns:
            child.listen(control, b"nobody")
            remap.lay_out(pid, spec, layout, pipes.for_child)
            child.proceed()
        pipes.close_childs()
        cgroups.enter(limits, pid)
        child.listen(control, b"apart")  # before that, its network namespace would be the host's
        if spec.userns:
            remap.come_back(home)
        child.proceed()
        control.send(stream.CREATED, {"pid": pid})
        terminal = child.listen(control, b"ready")
        mounted.callback(os.close, hold_root(pid))
        network = control.expect(stream.GO)
        state = running(pid, network)
        log, freeze = containers.path(container_id, "log.json"), functools.partial(cgroups.freeze, limits)
        relay = Relay(pipes.for_relay(terminal), freeze, log, spec.stdin_once)
        relay.listen(containers.run_path(container_id))
        child.proceed()
        child.listen(control, b"")
        containers.write_state(container_id, state)
        os.close(control.descriptors.pop(0))  # the container's lock: from here on others may stop and remove it
        control.send(stream.STARTED)
        relay.adopt(control.connection, request["attach"], spec.tied)
        exit_code = relay.serve(pid, holder(containers.run))
        oom_killed = cgroups.oom_kills(limits) > 0
        state = state._replace(oom_killed=oom_killed, exit_code=exit_code)
        if cleanup.is_restarting(containers, container_id):
            spec = spec._replace(remove=False)
        at_last.callback(finish, containers, container_id, state, spec, relay)


def holder(run: str) -> int:
    """Return a descriptor that becomes readable when what holds this user's network ends; -1 where nothing does."""
    if not userns.is_mapped():
        return -1
    from minidocker.container import rootless

    return rootless.watch(run)


def hold_root(pid: int) -> int:
    """Keep the container's root mounted when its last process ends, so that it is unmounted by us, who have no limits.

    An overlay that is unmounted has the whole disk below it written out, with what others have written (sync(2)). Under
    a limit of writes a container could not end for minutes: its process did that, and took no SIGKILL meanwhile.
    """
    return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)


def running(pid: int, network: Json) -> records.State:
    """Return the state of a container whose first process is `pid`, and whose shim is this one."""
    return records.State(
        records.RUNNING,
        pid,
        records.start_time(pid),
        os.getpid(),
        records.start_time(os.getpid()),
        records.boot_id(),
        started=records.now(),
        address=network["address"],
        gateway=network["gateway"],
        mac=network["mac"],
        ports=tuple(Port(**port) for port in network["ports"]),
    )


def finish(containers: records.Containers, container_id: str, state: records.State, spec: Spec, relay: Relay) -> None:
    """Write down how the container ended, after everything was undone, and tell those who are attached.

    They are told, come what may: of a full disk, say.
    """
    ended = state._replace(status=records.EXITED, finished=records.now(), ports=())
    try:
        if spec.remove:
            cleanup.remove_container(containers, container_id, spec, volumes=True)
        else:
            containers.write_state(container_id, ended)
    finally:
        relay.say_goodbye({"exit_code": state.exit_code, "oom_killed": state.oom_killed})


def run_beside(control: Control, request: Json, spec: Spec) -> None:
    """Run one more process in a container: `exec`.

    Raises: as `run`; whatever goes wrong because the container ends meanwhile, is said to be that.
    """
    pid, start = request["join"]["pid"], request["join"]["start"]
    gone = StartError(f"Container {request['id']} is not running", exit_code=1)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise gone from None
    if records.start_time(pid) != start:
        raise gone
    try:
        _join(control, request, spec, pidfd)
    except OSError as error:
        if select.select([pidfd], [], [], 0.1)[0]:
            raise gone from error
        raise


def _join(control: Control, request: Json, spec: Spec, pidfd: int) -> None:
    seccomp = bytes.fromhex(request["seccomp"])
    limits = cgroups.of(request["id"], request["join"]["pid"])
    if limits.folders and userns.is_mapped():
        cgroups.settle(request["id"])  # only from there may an ordinary user move a process to the container's cgroup
    pipes = Pipes(spec)
    child = Child()
    # The container sees our child from its first moment, before it could say so itself.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.setns(pidfd, syscalls.CLONE_NEWPID)  # for our children; we stay
    pid = os.fork()
    if pid == 0:
        be = functools.partial(namespaces.join, spec, pidfd, pipes.for_child, seccomp=seccomp)
        _become(child, be, request, limits)
    with contextlib.ExitStack() as undo:
        undo.callback(kill, pid)
        child.theirs.close()
        if spec.userns:
            from minidocker.container import remap

            remap.give(pipes.for_child, remap.of(request["join"]["pid"]))
        pipes.close_childs()
        cgroups.enter(limits, pid)
        child.listen(control, b"apart")
        child.proceed()
        terminal = child.listen(control, b"ready")
        relay = Relay(pipes.for_relay(terminal), lambda _still: None)
        child.proceed()
        child.listen(control, b"")
        control.send(stream.STARTED)
        relay.adopt(control.connection, request["attach"])
        exit_code = relay.serve(pid)
    relay.say_goodbye({"exit_code": exit_code})


def _become(child: Child, be: Callable[..., None], request: Json, limits: cgroups.Plan) -> NoReturn:
    """In the child: go through the birth; whatever goes wrong is reported, and nothing else runs."""
    if request["explain"]:
        explain.listen(child.tell_step)
    try:
        cgroups.go_into(limits)
        be(parent=child.parent())
    except BaseException as error:  # noqa: BLE001, whatever it is: the shim must hear of it, and nothing may go on
        child.fail(error)
    os._exit(1)


def kill(pid: int) -> None:
    """End the container's process if it lives (with process 1 goes the whole pid namespace) and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


class Pipes:
    """The pipes between the shim and a process that has no terminal."""

    def __init__(self, spec: Spec) -> None:
        self.stdin = os.pipe() if spec.open_stdin and not spec.terminal else (-1, -1)
        self.stdout = (-1, -1) if spec.terminal else os.pipe()
        self.stderr = (-1, -1) if spec.terminal else os.pipe()

    @property
    def for_child(self) -> namespaces.Streams:
        """The ends that the process reads its input from and writes its output to."""
        return namespaces.Streams(self.stdin[0], self.stdout[1], self.stderr[1])

    def close_childs(self) -> None:
        """Close the child's ends here: we would never see the end of its output while we hold them."""
        for fd in self.for_child:
            if fd >= 0:
                os.close(fd)

    def for_relay(self, terminal: int) -> namespaces.Streams:
        """Return our ends; a terminal is input and output at once."""
        if terminal >= 0:
            return namespaces.Streams(terminal, terminal, -1)
        return namespaces.Streams(self.stdin[1], self.stdout[0], self.stderr[0])


if __name__ == "__main__":
    main()
