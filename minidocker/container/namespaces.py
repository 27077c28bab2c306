"""The birth of a container's process, in the kernel's order; and the way into a running container.

`be_born` is the story: read it from top to bottom. It runs in a child of the shim that is process 1 of a new pid
namespace. The child that fails at any step tells the shim why and exits: it never goes on with half its isolation.
"""

import contextlib
import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import Callable
from typing import NamedTuple

from minidocker import explain
from minidocker.container import grants, init, loopback, rootfs, security
from minidocker.container.spec import SECCOMP_UNCONFINED, Spec
from minidocker.errors import StartError
from minidocker.linux import syscalls
from minidocker.linux.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)

TIOCGPTN = 0x80045430  # see: ioctl_tty(2)
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


class Parent(NamedTuple):
    """How the child speaks with its shim: each is called by the child, and the last three wait for the shim's word."""

    give_terminal: Callable[[int], None]
    wait_until_mapped: Callable[[], None]
    wait_until_limited: Callable[[], None]
    wait_for_go: Callable[[], None]


class Streams(NamedTuple):
    """The descriptors that become the process's standard input, output and error; -1 is /dev/null."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1


def be_born(spec: Spec, layout: rootfs.Layout, streams: Streams, parent: Parent, seccomp: bytes) -> None:
    """Become the container: from a process that is only alone in its pid namespace to the program it runs.

    `seccomp` is the filter, compiled. Does not return. Raises: OSError with the call that failed, StartError.
    """
    # If the shim dies, so do we: a container that nobody watches must not go on.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    # What the image contains must not be able to look at this process, or write to its program, before it is gone.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.setsid()
    if spec.userns:
        parent.wait_until_mapped()
        become_root()
        from minidocker.container import remap

        spec, layout = remap.staged(spec), remap.aside(layout)
    own_network = spec.network != "host"
    syscalls.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | (CLONE_NEWNET if own_network else 0))
    # The cgroup namespace's root is the cgroup that we are in now: the shim has to have put us there.
    parent.wait_until_limited()
    syscalls.unshare(CLONE_NEWCGROUP)
    if own_network:
        loopback.bring_up()
        loopback.let_users_serve()
    grants.set_sysctls(spec.sysctls)
    if spec.hostname and own_network:
        syscalls.sethostname(spec.hostname)
    rootfs.refuse_chroot()
    rootfs.build(spec, layout)
    forget_how_to_import()
    rootfs.pivot(layout.merged, rootfs.without_devices(spec) | (syscalls.MS_RDONLY if spec.read_only else 0))
    if spec.terminal:
        streams = open_terminal(parent, console=True)
    parent.wait_for_go()
    take_over(spec, streams, seccomp, make_workdir=True)


def join(spec: Spec, pidfd: int, streams: Streams, parent: Parent, seccomp: bytes) -> None:
    """Enter a running container beside its process: `exec`. The caller is in its pid namespace already.

    Does not return. Raises as `be_born`.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    # From setns on, the container's processes can see this one: they must not reach its memory or its program.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.setsid()
    parent.wait_until_limited()
    kinds = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP
    forget_how_to_import()
    kinds |= (0 if spec.network == "host" else CLONE_NEWNET) | (CLONE_NEWUSER if spec.userns else 0)
    syscalls.setns(pidfd, kinds)
    if spec.userns:
        become_root()
    os.chdir("/")
    if spec.terminal:
        streams = open_terminal(parent, console=False)
    parent.wait_for_go()
    take_over(spec, streams, seccomp, make_workdir=False)


def become_root() -> None:
    """Become user and group 0 of a user namespace that this process has entered as nobody.

    Whoever changes ids is no longer killed with its parent, and has to ask for it again.
    """
    os.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def forget_how_to_import() -> None:
    """Keep this interpreter from reading code in the container's root: a module not imported by now never will be.

    An image that has a file where the host has this package, or Python's library, would run it with our power (the
    class of CVE-2019-14271).
    """
    sys.meta_path.clear()


def open_terminal(parent: Parent, console: bool) -> Streams:
    """Make a pseudo-terminal in the container's own devpts, hand its master to the shim, and keep its other end.

    It becomes this session's controlling terminal: by it, ctrl-c reaches the foreground job. As `console` it is also
    bound to /dev/console.

    See: pts(4), ioctl_tty(2).
    """
    explain.step("open(/dev/pts/ptmx) -> a master", "script /dev/null  # a new pseudo-terminal")
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, struct.pack("i", 0)))[0]
    path = f"/dev/pts/{number}"
    # Of the master itself and not by its path, which could lead elsewhere in a container that runs already.
    slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if console:
        show_console(slave)
    parent.give_terminal(master)
    os.close(master)
    explain.step(f"ioctl({path}, TIOCSCTTY)", f"setsid --ctty sh <{path} >{path} 2>&1")
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    return Streams(slave, slave, slave)


def show_console(slave: int) -> None:
    """Bind the terminal's container end to /dev/console, where a program that has no other place writes to."""
    with contextlib.suppress(FileExistsError):  # the user or the image has mounted a /dev of their own
        os.mknod("/dev/console", 0o620)
    # Upon what is there, be it a link, and not where it leads (the class of CVE-2025-52565).
    place = os.open("/dev/console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    syscalls.mount(f"/proc/self/fd/{slave}", f"/proc/self/fd/{place}", flags=syscalls.MS_BIND)
    os.close(place)


def take_over(spec: Spec, streams: Streams, seccomp: bytes, make_workdir: bool) -> None:
    """Become the program: its directory, streams, user, capabilities, environment, filter; then execve(2)."""
    if not seccomp and spec.seccomp != SECCOMP_UNCONFINED:
        raise StartError("there is no seccomp filter for a container that is to have one")
    identity = security.identify(spec.user)
    security.require(identity)
    connect_streams(streams, identity)
    os.umask(0o022)
    environment = dict(variable.partition("=")[::2] for variable in spec.env)
    environment.setdefault("HOME", identity.home)
    enter_workdir(spec.workdir, make_workdir)
    if spec.ulimits:
        grants.set_ulimits(spec.ulimits)
    own = security.drop(identity, spec.capabilities)
    # The kernel forgets this wish when credentials change: say it again.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    path = security.program(spec.args, environment)
    restore_signals()
    security.confine(own, spec.no_new_privileges, seccomp)
    if spec.init:
        init.run_beneath(spec.terminal)
        restore_signals()
    explain.step(f"execve({path}, {list(spec.args)})", f"exec {' '.join(spec.args)}")
    try:
        os.execve(path, spec.args, environment)
    except OSError as error:
        raise StartError(f'exec: "{spec.args[0]}": {(error.strerror or "failed").lower()}', exit_code=126) from error


def enter_workdir(path: str, make: bool) -> None:
    """Go to the working directory; `make` it where the image has none.

    It is reached by its path in the container's root and must lie there: a directory that is reached some other way,
    as through /proc/self/fd, has no path that begins with `/` (the class of CVE-2024-21626).
    """
    try:
        if make:
            os.makedirs(path, exist_ok=True)
        os.chdir(path)
    except OSError as error:
        raise StartError(
            f"cannot enter the working directory {path}: {(error.strerror or 'failed').lower()}"
        ) from error
    if not os.getcwd().startswith("/"):
        raise StartError(f"the working directory {path} lies outside the container")


def connect_streams(streams: Streams, identity: security.Identity) -> None:
    """Make `streams` descriptors 0, 1 and 2, owned by the user, and close every other one on exec.

    The owner matters to programs that open /dev/stdout again. The container's own /dev/null it has to be, for what is
    done to a descriptor is done to the file; and no other file, for its root may put anything in that place, and we
    can open more than it can.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(null).st_rdev != os.makedev(*rootfs.DEVICES["null"]):
        raise StartError("the container's /dev/null is another file")
    for number, fd in enumerate(streams):
        if fd >= 0:
            os.fchown(fd, identity.uid, -1)
        os.dup2(fd if fd >= 0 else null, number, inheritable=True)
    close_on_exec()


def close_on_exec() -> None:
    """Let no descriptor but the first three reach the program, whoever opened it."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the listing's own descriptor, closed since


def restore_signals() -> None:
    """Give every signal its default meaning and block none: Python ignores SIGPIPE, and the program must not."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
