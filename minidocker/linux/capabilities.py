"""The parts that root's power is cut into, and taking them away.

See: capabilities(7); `/usr/include/linux/capability.h` for the numbers.
"""

from collections.abc import Iterable

from minidocker.errors import InvalidArgument
from minidocker.linux import syscalls

# In the order of their numbers: CAP_CHOWN is bit 0.
NAMES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)

# What docker leaves to a container's root. See: docker's "Runtime privilege and Linux capabilities".
DEFAULT = frozenset(
    ("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID")
    + ("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE")
)


def choose(add: Iterable[str], drop: Iterable[str], privileged: bool = False) -> tuple[str, ...]:
    """Work out which capabilities a container keeps, in the order of their numbers.

    `ALL` stands for all of them; names may be written with or without `CAP_`. A name that is added and dropped is
    kept, unless all are added: then it is dropped, as docker does.

    Raises: InvalidArgument for a name that is none.
    """
    if privileged:
        return NAMES
    added, dropped = _names(add), _names(drop)
    if added >= set(NAMES):
        kept = set(NAMES) - dropped
    elif dropped >= set(NAMES):
        kept = added
    else:
        kept = set(DEFAULT - dropped | added)
    return tuple(name for name in NAMES if name in kept)


def _names(words: Iterable[str]) -> set[str]:
    """Read capability names as docker's options give them."""
    names: set[str] = set()
    for word in words:
        name = word.upper().removeprefix("CAP_")
        if name == "ALL":
            names |= set(NAMES)
        elif name in NAMES:
            names.add(name)
        else:
            raise InvalidArgument(f'invalid capability: "{word}": not one of {", ".join(NAMES)}')
    return names


def bits(names: Iterable[str]) -> int:
    """Return the bit set of `names`."""
    return sum(1 << NAMES.index(name) for name in names)


def available() -> int:
    """Return the bounding set of this process: what it can hand on at most.

    The kernel is asked itself: in a container, /proc/self/status may be a file of the image's.
    """
    known = range(len(NAMES))
    return sum(1 << number for number in known if syscalls.prctl(syscalls.PR_CAPBSET_READ, number) == 1)


def limit_bounding_set(keep: int) -> None:
    """Take every capability outside `keep` from what this process and its children can ever have.

    Needs CAP_SETPCAP, so it comes before `set_own`. Also clears the ambient set.
    """
    now = available()
    for number in range(now.bit_length()):
        if now >> number & 1 and not keep >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)


def set_own(keep: int) -> None:
    """Reduce this process's own capabilities to `keep`.

    None is inheritable: across execve(2), root has what the bounding set lets it have, and everybody else nothing.
    """
    syscalls.capset(keep, keep, 0)
