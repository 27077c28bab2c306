"""Make system calls one by one, each in a process of its own that is under a filter; print what came of them.

`python -I -S seccomp_probe.py PROGRAM FIRST LAST`: the program in hexadecimal, a range of numbers. The arguments are
all ones: no call can do anything with them. In namespaces of its own, should one do something all the same.
"""

import ctypes
import errno
import json
import os
import select
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from minidocker.linux import seccomp, syscalls

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
ALL_ONES = ctypes.c_long(-1)
SECONDS = 0.5  # enough for any call that comes back at all


def main(program: bytes, numbers: range) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWNET)
    print(json.dumps({number: outcome(program, number) for number in numbers}))


def outcome(program: bytes, number: int) -> str:
    """Return the name or number of the errno, `ok`, `silent` when the call does not come back, `died` with no word."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            seccomp.load(program)
            result = libc.syscall(ctypes.c_long(number), *[ALL_ONES] * 6)
            number = ctypes.get_errno() if result == -1 else 0
            os.write(writing, (errno.errorcode.get(number, str(number)) if number else "ok").encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = os.read(reading, 64).decode() if select.select([reading], [], [], SECONDS)[0] else "silent"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    return said or "died"


if __name__ == "__main__":
    main(bytes.fromhex(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])))
