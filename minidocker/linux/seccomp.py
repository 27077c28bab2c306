"""Loading a filter that the kernel asks before every system call of a process, and of all that come from it.

See: seccomp(2); Documentation/userspace-api/seccomp_filter.rst.
"""

import ctypes
import errno

from minidocker import explain
from minidocker.linux import syscalls

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

INSTRUCTION_SIZE = 8  # struct sock_filter: __u16 code, __u8 jt, __u8 jf, __u32 k
MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class _Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def load(program: bytes) -> None:
    """Put the calling thread under `program`, instructions of classic BPF. Nothing can take it off again.

    Needs CAP_SYS_ADMIN, or no_new_privs: a set-id program must not run under a filter that its user made to fool it.
    The kernel checks the program before it takes it: every jump leads forward and within, every path ends.

    Raises: OSError, EINVAL also where the kernel was built without seccomp.
    """
    length, rest = divmod(len(program), INSTRUCTION_SIZE)
    call = f"prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, {length} instructions)"
    if rest or not 0 < length <= MOST_INSTRUCTIONS:
        raise OSError(errno.EINVAL, f"{call}: EINVAL (a filter of {len(program)} bytes is none)")
    explain.step(call, "setpriv --seccomp-filter FILE …")
    instructions = ctypes.create_string_buffer(program, len(program))
    described = _Program(length, ctypes.addressof(instructions))
    try:
        syscalls.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(described))
    except OSError as error:
        raise OSError(error.errno, str(error.strerror).replace("prctl(22, 2)", call)) from None
