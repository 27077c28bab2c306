"""From a container's seccomp rules to a program that the kernel runs, by libseccomp.

See: seccomp_rule_add(3), seccomp_export_bpf(3); the kernel's Documentation/networking/filter.rst for classic BPF.
"""

import errno
import os
import struct
from typing import Any

from minidocker.container.seccomp_profile import ERRNO, Filter, refuses
from minidocker.errors import InvalidArgument, StartError

# The instructions of classic BPF that `_refuse_newer` is made of, and what it looks at: struct seccomp_data.
_LOAD, _IF_EQUAL, _IF_GREATER, _RETURN = 0x20, 0x15, 0x25, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_X32_BIT = 0x40000000  # x32's calls are made as x86_64's are, with this bit in their numbers


def compile(wanted: Filter) -> bytes:
    """Make a program of a filter. A call that libseccomp has no name for is skipped, as docker does.

    Raises: StartError without libseccomp; InvalidArgument for what it cannot express.
    """
    library = libseccomp()
    making = library.SyscallFilter(wanted.action)
    # A tree by number, not a list: the kernel tries every number once when it loads a program, and takes half as long.
    making.set_attr(library.Attr.CTL_OPTIMIZE, 2)
    besides = [getattr(library.Arch, name) for name in wanted.architectures]
    for architecture in besides:
        making.add_arch(architecture)
    for rule in wanted.rules:
        number = library.resolve_syscall(library.Arch.NATIVE, rule.name)
        if number == -1:  # known nowhere; what only other machines have is less than that
            continue
        arguments = [
            library.Arg(c.argument, getattr(library, c.operator), c.value, c.value_two) for c in rule.conditions
        ]
        try:
            making.add_rule(rule.action, number, *arguments)
        except OSError as error:
            raise InvalidArgument(f"invalid seccomp profile: {rule.name}: {error.strerror}") from None
    before = b""
    if refuses(wanted.action):
        for architecture in (library.system_arch(), *besides):
            numbers = [library.resolve_syscall(architecture, rule.name) for rule in wanted.rules]
            before += _refuse_newer(library.Arch, architecture, max(numbers, default=0))
    return before + _exported(making)


def libseccomp() -> Any:
    """Import libseccomp's binding. Raises: StartError where it or the library is missing."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError):
        raise StartError(
            "cannot compile the seccomp profile: libseccomp is missing: install Debian's package libseccomp2, "
            "or run without a filter, by --security-opt seccomp=unconfined"
        ) from None
    return pyseccomp


def _refuse_newer(arch: Any, architecture: int, highest: int) -> bytes:
    """Answer a call of this architecture above the `highest` number named with ENOSYS, as runc does; pass others on.

    Programs try what is new in the kernel and fall back when it is not there; EPERM would be the end for them. Numbers
    grow with time, so whatever lies above the last one that the profile's author knew of is newer than the profile.
    """
    last = 0xFFFFFFFF
    if architecture == arch.X32:
        architecture = arch.X86_64
    elif architecture == arch.X86_64:
        last = _X32_BIT - 1
    instructions = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 0, 4, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_GREATER, 0, 2, highest),
        (_IF_GREATER, 1, 0, last),
        (_RETURN, 0, 0, ERRNO | errno.ENOSYS),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _exported(making: Any) -> bytes:
    """Return libseccomp's filter as a program."""
    with open(os.memfd_create("seccomp"), "w+b") as file:
        making.export_bpf(file)
        file.seek(0)
        return file.read()
