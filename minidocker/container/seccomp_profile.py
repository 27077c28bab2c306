"""Which system calls a container may make: profiles as docker and OCI write them, resolved to plain rules.

A profile speaks for all containers: "mount, for those that have CAP_SYS_ADMIN". `resolve` makes of it the rules for
one: no conditions are left but on the arguments of a call. Nothing here touches the system.

See: docker's "Seccomp security profiles"; OCI runtime-spec, config-linux.md, Seccomp; seccomp(2).
"""

import errno
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from minidocker.errors import InvalidArgument

Json = dict[str, Any]

# What the kernel does with a call, in the upper half of what a filter returns; the lower half is data, such as errno.
ALLOW = 0x7FFF0000
LOG = 0x7FFC0000
TRACE = 0x7FF00000
ERRNO = 0x00050000
_ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
}
OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
ARCHITECTURES = (
    *("X86", "X86_64", "X32", "ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32"),
    *("PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC", "PARISC64", "RISCV64"),
)
# What docker and seccomp call the machines that uname(2) names.
_MACHINES = {
    "x86_64": ("amd64", "X86_64"),
    "aarch64": ("arm64", "AARCH64"),
    "armv7l": ("arm", "ARM"),
    "ppc64le": ("ppc64le", "PPC64LE"),
    "s390x": ("s390x", "S390X"),
    "riscv64": ("riscv64", "RISCV64"),
}
_LARGEST_ERRNO = 4095  # the kernel takes no larger one: MAX_ERRNO


class Condition(NamedTuple):
    """A comparison that a call's argument, 0 to 5, has to pass, unsigned, in 64 bits.

    MASKED_EQ: the argument's bits under the mask `value` are `value_two`.
    """

    argument: int
    operator: str
    value: int
    value_two: int = 0


class Rule(NamedTuple):
    """What to do with a call of this `name` when all conditions hold. `action` as the kernel has it from a filter."""

    name: str
    action: int
    conditions: tuple[Condition, ...] = ()


class Filter(NamedTuple):
    """A profile resolved: the rules, the `action` for what they do not name, further `architectures` that may call."""

    action: int
    architectures: tuple[str, ...]
    rules: tuple[Rule, ...]


class Host(NamedTuple):
    """What a profile may ask about: uname's machine and the kernel's version, (6, 1)."""

    machine: str
    kernel: tuple[int, int]


def resolve(text: str, capabilities: Iterable[str], host: Host) -> Filter:
    """Return the rules that a profile, as JSON, means for a container with these capabilities (without `CAP_`).

    Take docker's form, OCI's `linux.seccomp`, or a whole OCI configuration. The whole profile has to be valid, also
    what does not concern this container. OCI's `flags` are not used: they only ease what the kernel does by itself.

    Raises: InvalidArgument. One that says nothing about the calls it does not name is invalid, too: docker takes it
    and then runs the container without any filter.
    """
    try:
        profile = _lower(json.loads(text))
        if "seccomp" in _lower(profile.get("linux")):
            profile = _lower(_lower(profile["linux"])["seccomp"])
        action = _action(profile, "defaultaction", "defaulterrnoret")
        architectures = _architectures(profile, host)
        rules = [rule for call in _list(profile, "syscalls", dict) for rule in _rules(_lower(call), capabilities, host)]
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"invalid seccomp profile: {error}") from None
    return Filter(action, architectures, tuple(rule for rule in rules if rule.action != action))


def refuses(action: int) -> bool:
    """Say whether the call is not made. One that is traced may be: the tracer decides."""
    return action & 0xFFFF0000 not in (ALLOW, LOG, TRACE)


def _lower(value: Any) -> Json:
    """Return an object with its names in small letters, which is how docker's reader compares them."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"expected an object and found {json.dumps(value)[:40]}")
    return {name.lower(): content for name, content in value.items()}


def _list(holder: Json, name: str, kind: type) -> list[Any]:
    """Return a list of `kind`, empty where it is missing or null."""
    found = holder.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        raise ValueError(f"{name} is not a list of {'objects' if kind is dict else 'strings'}")
    return found


def _number(holder: Json, name: str, most: int, missing: int | None = None) -> int:
    """Return a whole number from 0 to `most`; `missing` where there is none, if it need not be there."""
    found = holder.get(name)
    if found is None and missing is not None:
        return missing
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= most:
        raise ValueError(f"{name} is {json.dumps(found)}, and has to be a number from 0 to {most}")
    return found


def _action(holder: Json, name: str, errno_name: str) -> int:
    """Return the action that is named, with the errno that is asked for; EPERM is the usual one."""
    found = holder.get(name)
    if found == "SCMP_ACT_NOTIFY":
        raise ValueError("SCMP_ACT_NOTIFY needs somebody who listens, and there is nobody")
    if not isinstance(found, str) or found not in _ACTIONS:
        raise ValueError(f"string {found or ''} is not a valid action for seccomp")
    data = _number(holder, errno_name, _LARGEST_ERRNO, errno.EPERM)
    return _ACTIONS[found] | (data if _ACTIONS[found] in (ERRNO, TRACE) else 0)


def _architectures(profile: Json, host: Host) -> tuple[str, ...]:
    """Return the architectures whose calls are filtered, too: those docker maps to this machine, or OCI's list.

    The machine's own is always one. A call by any other architecture ends the process.
    """
    listed = _list(profile, "architectures", str)
    mapped = [_lower(entry) for entry in _list(profile, "archmap", dict)]
    if listed and mapped:
        raise ValueError("'architectures' and 'archMap' were specified, use either 'architectures' or 'archMap'")
    own = _own_names(host)[1]
    found = [_architecture(name) for name in listed]
    for entry in mapped:
        besides = [_architecture(name) for name in _list(entry, "subarchitectures", str)]
        if _architecture(entry.get("architecture")) == own:
            found += besides
    return tuple(name for name in dict.fromkeys(found) if name != own)


def _architecture(name: Any) -> str:
    short = str(name).removeprefix("SCMP_ARCH_")
    if short == name or short not in ARCHITECTURES:
        raise ValueError(f"string {name} is not a valid arch for seccomp")
    return short


def _own_names(host: Host) -> tuple[str, str]:
    """Return what docker and seccomp call this machine."""
    if host.machine not in _MACHINES:
        raise ValueError(f"not known what seccomp calls the machine {host.machine}")
    return _MACHINES[host.machine]


def _rules(call: Json, capabilities: Iterable[str], host: Host) -> list[Rule]:
    """Return what one entry means for this container: nothing, or a rule for each name in it."""
    names = _list(call, "names", str)
    if call.get("name"):
        if names:
            raise ValueError("'name' and 'names' were specified, use either 'name' or 'names'")
        names = [str(call["name"])]
    action = _action(call, "action", "errnoret")
    conditions = [_condition(_lower(argument)) for argument in _list(call, "args", dict)]
    included = _matches(_lower(call.get("includes")), capabilities, host, all)
    excluded = _matches(_lower(call.get("excludes")), capabilities, host, any)
    if False in included or True in excluded:
        return []
    return [Rule(name, action, together) for name in names for together in _alternatives(conditions)]


def _condition(argument: Json) -> Condition:
    """Read one condition on an argument; a call has six."""
    found = argument.get("op")
    operator = str(found).removeprefix("SCMP_CMP_")
    if operator == found or operator not in OPERATORS:
        raise ValueError(f"string {found or ''} is not a valid operator for seccomp")
    index = _number(argument, "index", 5)
    value, value_two = (_number(argument, name, 2**64 - 1, 0) for name in ("value", "valuetwo"))
    return Condition(index, operator, value, value_two)


def _alternatives(conditions: list[Condition]) -> list[tuple[Condition, ...]]:
    """Return the sets of conditions of which one has to hold: all of them together is one set.

    But if one argument is compared twice, each condition is a set of its own, as runc does: libseccomp knows only one
    comparison for an argument in a rule.
    """
    if len({condition.argument for condition in conditions}) == len(conditions):
        return [tuple(conditions)]
    return [(condition,) for condition in conditions]


def _matches(when: Json, capabilities: Iterable[str], host: Host, of_them: Any) -> list[bool]:
    """Return the answer to each question that `includes` or `excludes` asks.

    An entry is included if the container has all the capabilities, and excluded if it has any of them.
    """
    answers = []
    if wanted := _list(when, "caps", str):
        answers.append(of_them(name.removeprefix("CAP_") in capabilities for name in wanted))
    if arches := _list(when, "arches", str):
        answers.append(_own_names(host)[0] in arches)
    if version := when.get("minkernel"):
        answers.append(host.kernel >= parse_version(version))
    return answers


def parse_version(text: Any) -> tuple[int, int]:
    """Return the first two numbers of a kernel's version: `4.8`, or `6.1.0-18-amd64`."""
    found = re.match(r"(\d+)\.(\d+)", str(text))
    if not found:
        raise ValueError(f'invalid kernel version: "{text}", expected "<kernel>.<major>"')
    return int(found[1]), int(found[2])
