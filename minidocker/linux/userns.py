"""Which user namespace this process is in, and what it may therefore do with files.

See: user_namespaces(7): root of a namespace has every capability over what belongs to the namespace, and over nothing
else. Device nodes belong to the machine; attributes in `trusted.` to its real root.
"""

import os
from typing import NamedTuple

from minidocker import explain


class Powers(NamedTuple):
    """What may be done with files: give them owners, make device nodes, set `security.` and `trusted.` attributes.

    `overlay` is where overlayfs keeps its own attributes for us.
    """

    owners: bool
    nodes: bool
    security: bool
    trusted: bool
    overlay: str


ALL = Powers(True, True, True, True, "trusted.overlay.")
NONE = Powers(False, False, False, False, "user.overlay.")


def id_map() -> list[tuple[int, int, int]]:
    """Return the user ids of this namespace: (the first inside, the first outside, how many)."""
    with open("/proc/self/uid_map") as file:
        return [(int(inside), int(outside), int(count)) for inside, outside, count in map(str.split, file)]


def is_mapped() -> bool:
    """Say whether this process is in a user namespace that is not the machine's own."""
    return id_map() != [(0, 0, 2**32 - 1)]


def has_id(number: int) -> bool:
    """Say whether a user id exists in this namespace."""
    return any(first <= number < first + count for first, _, count in id_map())


def last_id() -> int:
    """Return the highest user id of this namespace."""
    return max(first + count - 1 for first, _, count in id_map())


def map_one(pid: int | str, uid: int, gid: int) -> None:
    """Make a user of the host, who needs no leave for it, the only user of the user namespace of process `pid`: its 0.

    Groups can then not be set any more, or a user could leave a group that forbids something.

    See: user_namespaces(7), "Interaction with system calls that change process UIDs or GIDs".
    """
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        explain.step(f"write(/proc/{pid}/{name}, {text!r})", f"echo '{text}' > /proc/{pid}/{name}")
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def powers() -> Powers:
    """Return what this process may do."""
    if os.geteuid() != 0:
        return NONE
    if not is_mapped():
        return ALL
    return Powers(owners=has_id(1), nodes=False, security=True, trusted=False, overlay="user.overlay.")
