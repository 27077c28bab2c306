"""From a seccomp profile to a program that the kernel runs: compiled by libseccomp, once, and kept.

See: seccomp_rule_add(3), seccomp_export_bpf(3); the kernel's Documentation/networking/filter.rst for classic BPF.
"""

import errno
import hashlib
import os
import struct
from typing import Any

from minidocker.container import seccomp_profile
from minidocker.container.seccomp_profile import Filter, Host
from minidocker.errors import InvalidArgument, StartError

DEFAULT = "default"
UNCONFINED = "unconfined"

_FORMAT = "1"  # of the kept files; a new one whenever `compile` makes other programs of the same profiles

# The instructions of classic BPF that `_newer_calls` is made of, and what it looks at: struct seccomp_data.
_LOAD, _IF_EQUAL, _IF_GREATER, _RETURN = 0x20, 0x15, 0x25, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_X32_BIT = 0x40000000  # x32's calls are made as x86_64's are, with this bit in their numbers


def program(root: str, profile: str, capabilities: tuple[str, ...]) -> bytes:
    """Return the filter for a container with these capabilities; none (`b""`) for an unconfined one.

    `profile` is a profile's text, DEFAULT or UNCONFINED. Compiling takes some 30 ms; the result is kept in
    `root`/seccomp, under the digest of all it depends on, so that this is done once. It may be deleted at any time.

    Raises: InvalidArgument for a profile that is none, StartError without libseccomp.
    """
    if profile == UNCONFINED:
        return b""
    text = default_profile() if profile == DEFAULT else profile
    system = os.uname()
    depends_on = "\0".join((_FORMAT, text, ",".join(capabilities), system.machine, system.release))
    path = f"{root}/seccomp/{hashlib.sha256(depends_on.encode()).hexdigest()}.bpf"
    found = _read(path)
    if not found:
        host = Host(system.machine, seccomp_profile.parse_version(system.release))
        found = compile(seccomp_profile.resolve(text, capabilities, host))
        _write(path, found)
    return found


def default_profile() -> str:
    """Return the profile of a container for which nothing else is said."""
    with open(f"{os.path.dirname(__file__)}/seccomp_default.json", encoding="utf-8") as file:
        return file.read()


def _read(path: str) -> bytes:
    """Return a kept program; nothing where there is none, or not all of it: it begins with the digest of the rest."""
    try:
        with open(path, "rb") as file:
            digest, kept = file.read(32), file.read()
    except FileNotFoundError:
        return b""
    return kept if hashlib.sha256(kept).digest() == digest else b""


def _write(path: str, made: bytes) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(hashlib.sha256(made).digest() + made)
    os.replace(temporary, path)


def compile(wanted: Filter) -> bytes:
    """Make a program of a filter. A call that libseccomp has no name for is skipped, as docker does.

    Raises: StartError without libseccomp; InvalidArgument for what it cannot express.
    """
    library = _libseccomp()
    making = library.SyscallFilter(wanted.action)
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
    if seccomp_profile.refuses(wanted.action):
        for architecture in (library.system_arch(), *besides):
            numbers = [library.resolve_syscall(architecture, rule.name) for rule in wanted.rules]
            before += _refuse_newer(library.Arch, architecture, max(numbers, default=0))
    return before + _exported(making)


def _libseccomp() -> Any:
    """Import libseccomp's binding: 20 ms, which is why only a profile that is new here is compiled."""
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
        (_RETURN, 0, 0, seccomp_profile.ERRNO | errno.ENOSYS),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _exported(making: Any) -> bytes:
    """Return libseccomp's filter as a program."""
    with open(os.memfd_create("seccomp"), "w+b") as file:
        making.export_bpf(file)
        file.seek(0)
        return file.read()
