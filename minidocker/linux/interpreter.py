"""A program's file that nobody can write to through the processes that run it.

/proc/PID/exe leads to the very file that a process executes, out of every root and mount namespace. A process that a
container can see, or an image whose program is /proc/self/exe itself, would let the container write to the host's
interpreter, which then runs the container's code with all the host's power (the class of CVE-2019-5736).

See: proc_pid_exe(5); open_tree(2), mount_setattr(2), Linux 5.12; memfd_create(2), file seals in fcntl(2).
"""

import errno
import fcntl
import os

from minidocker import explain
from minidocker.linux import syscalls

_CHUNK = 1 << 30
_ABOVE_STREAMS = 3


def sealed(path: str) -> int:
    """Return a descriptor, closed on exec, by which the program at `path` is to be executed: /proc/self/fd/N.

    It leads through a read-only mount that is attached nowhere, so that no path leads to it and nobody can remount it,
    and that ends with its last process. That is as good as a copy, at no cost. An ordinary user may not make such a
    mount, and neither may anybody before Linux 5.12: then it is a copy in memory, sealed against every change.
    """
    try:
        program = _read_only_mount(path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
        program = _copy_in_memory(path)
    try:
        return fcntl.fcntl(program, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STREAMS)
    finally:
        os.close(program)


def _read_only_mount(path: str) -> int:
    tree = syscalls.open_tree(path)
    try:
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY)
    except OSError:
        os.close(tree)
        raise
    return tree


def _copy_in_memory(path: str) -> int:
    explain.step(f"memfd_create({os.path.basename(path)}), sendfile(), fcntl(F_ADD_SEALS)")
    copy = os.memfd_create(os.path.basename(path), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(path, "rb", buffering=0) as program:
        while os.sendfile(copy, program.fileno(), None, _CHUNK):
            pass
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    # A descriptor for writing keeps a file from being executed (ETXTBSY): only one for reading goes on.
    try:
        return os.open(f"/proc/self/fd/{copy}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(copy)
