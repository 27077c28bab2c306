"""Looking at seccomp filters from outside: run one without the kernel, read one back from a process, try one out."""

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import pyseccomp

from minidocker.container import seccomp_profile, seccomp_program
from minidocker.container.seccomp_profile import Filter, Host

TESTS = os.path.dirname(os.path.abspath(__file__))
HOST = Host("x86_64", (6, 1))
NUMBERS = range(600)

# What the kernel calls the architectures (linux/audit.h), and where the numbers of their calls begin.
AUDIT = {"x86_64": (0xC000003E, 0), "x86": (0x40000003, 0), "x32": (0xC000003E, 0x40000000)}
_BINDING = {"x86_64": pyseccomp.Arch.X86_64, "x86": pyseccomp.Arch.X86, "x32": pyseccomp.Arch.X32}

# Arguments that make a difference: small and large numbers, every flag of clone that makes a namespace, every family
# of sockets around those that are refused, the personalities.
_CLONE = [1 << bit for bit in range(34)] + [0x7E020000, 0x3D0F00, 0x11, 0x4111]
_FAMILIES = list(range(48))
_PERSONALITIES = [0, 8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF, 0x100000000, 0x2000000000008]
CASES = sorted({0, 1, 2**32 - 1, 2**63, 2**64 - 1, *_CLONE, *_FAMILIES, *_PERSONALITIES})


def interpret(program: bytes, number: int, architecture: str, arguments: tuple[int, ...]) -> int:
    """Return what a filter says of a call, as the kernel would.

    See: the kernel's Documentation/networking/filter.rst; struct seccomp_data.

    Raises: struct.error when it looks at an argument and there are none.
    """
    audit, first = AUDIT[architecture]
    data = struct.pack(f"<IIQ{len(arguments)}Q", number + first, audit, 0, *arguments)
    counter, accumulator = 0, 0
    while True:
        code, true, false, k = struct.unpack_from("=HBBI", program, counter * 8)
        counter += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == 0x05:
            counter += k
        elif code in (0x15, 0x25, 0x35, 0x45):
            holds = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[code]
            counter += true if holds else false
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return int(k)
        else:
            raise ValueError(f"instruction {code:#x}")


def verdicts(program: bytes, architecture: str) -> dict[tuple[str, int], int]:
    """Return what a filter says of every call, for each of CASES as the first and as the second argument."""
    found = {}
    for number in NUMBERS:
        name = call_name(architecture, number)
        try:
            whatever = interpret(program, number, architecture, ())
            found.update({(name, case): whatever for case in CASES})
        except struct.error:
            for case in CASES:
                found[name, case] = interpret(program, number, architecture, (case, case, 0, 0, 0, 0))
    return found


def call_name(architecture: str, number: int) -> str:
    """Return a call's name, or its number where libseccomp does not know it."""
    try:
        return str(pyseccomp.resolve_syscall(_BINDING[architecture], number + AUDIT[architecture][1]), "ascii")
    except ValueError:
        return str(number)


def number_of(name: str, architecture: str = "x86_64") -> int:
    """Return a call's number. 32-bit x86 has a call for sockets beside socketcall, but libseccomp names only that."""
    if (name, architecture) == ("socket", "x86"):
        return 359
    return int(pyseccomp.resolve_syscall(_BINDING[architecture], name)) - AUDIT[architecture][1]


def default_filter(capabilities: frozenset[str], host: Host = HOST) -> Filter:
    return seccomp_profile.resolve(seccomp_program.default_profile(), capabilities, host)


def loaded_filters(pid: int) -> Iterator[bytes]:
    """Read the filters of a process back from the kernel, the latest first. Needs root.

    See: ptrace(2), PTRACE_SECCOMP_GET_FILTER.
    """
    attach, detach, get_filter = 16, 17, 0x420C
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(attach, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace(PTRACE_ATTACH)")
    os.waitpid(pid, 0x40000000)  # __WALL
    try:
        index = 0
        while (length := libc.ptrace(get_filter, pid, index, None)) > 0:
            buffer = ctypes.create_string_buffer(length * 8)
            libc.ptrace(get_filter, pid, index, ctypes.addressof(buffer))
            yield buffer.raw
            index += 1
    finally:
        libc.ptrace(detach, pid, None, None)


def probe(program: bytes, numbers: range) -> dict[int, str]:
    """Make every call once in a process under `program`; return what came of each: see seccomp_probe.py. Needs root."""
    argv = [
        sys.executable,
        "-I",
        "-S",
        f"{TESTS}/seccomp_probe.py",
        program.hex(),
        str(numbers.start),
        str(numbers.stop),
    ]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=100)
    return {int(number): outcome for number, outcome in json.loads(done.stdout).items()}
