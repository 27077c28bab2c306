"""Who the container's process is, and what it may still do: the last steps before its program takes over.

The caller is in the container's root already: names are looked up in the image's own files, which are read as text
and never through the C library, whose plug-ins would be the image's code (the class of CVE-2019-14271).
"""

import os
from typing import NamedTuple

from minidocker import explain
from minidocker.errors import StartError
from minidocker.linux import capabilities, seccomp, syscalls, userns

_LARGEST_ID = 2**31 - 1
_TO_LOAD_A_FILTER = capabilities.bits(("SYS_ADMIN",))


class Identity(NamedTuple):
    """Numbers that a `user[:group]` stands for, and the home directory that goes with it."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def _entries(path: str, fields: int) -> list[list[str]]:
    """Read the lines of a passwd(5) or group(5) file that have enough fields; none where there is no such file."""
    try:
        with open(path, errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":") for line in file]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [line for line in lines if len(line) >= fields]


def identify(user: str, passwd: str = "/etc/passwd", group: str = "/etc/group") -> Identity:
    """Look up docker's `user[:group]`: each a name or a number; a number needs no entry.

    Without a group, the user's own groups from group(5) are supplementary ones.

    Raises: StartError, in docker's words, for a name that is not in the files.
    """
    name, _, group_name = user.partition(":")
    uid, gid, home, login = 0, 0, "/", ""
    for entry in _entries(passwd, 6):
        if entry[2].isdecimal() and (entry[0] == name or entry[2] == (name or "0")):
            login, uid, gid, home = entry[0], int(entry[2]), int(entry[3] or 0), entry[5] or "/"
            break
    else:
        if name and not name.isdecimal():
            raise StartError(f"unable to find user {name}: no matching entries in passwd file")
        uid = _number(name or "0")
    groups = [entry for entry in _entries(group, 4) if entry[2].isdecimal()]
    if not group_name:
        return Identity(uid, gid, tuple(int(g[2]) for g in groups if login and login in g[3].split(",")), home)
    for entry in groups:
        if group_name in (entry[0], entry[2]):
            return Identity(uid, int(entry[2]), (), home)
    if not group_name.isdecimal():
        raise StartError(f"unable to find group {group_name}: no matching entries in group file")
    return Identity(uid, _number(group_name), (), home)


def _number(text: str) -> int:
    """Read a user's or group's number. Raises: StartError, in docker's words, for one that no file can belong to."""
    number = int(text)
    if number > _LARGEST_ID:
        raise StartError(f"uids and gids must be in range 0-{_LARGEST_ID}")
    return number


def require(identity: Identity) -> None:
    """Check that a user is among those that this user namespace has.

    Raises: StartError, which says so: the kernel would only say EINVAL.
    """
    if not userns.has_id(identity.uid):
        only = "only user 0 does, as its owner has no subordinate ids" if not userns.has_id(1) else "it is not mapped"
        raise StartError(f"user {identity.uid} does not exist here: in this user namespace {only} (subuid(5))")


def drop(identity: Identity, keep: tuple[str, ...]) -> int:
    """Become `identity` with no more capabilities than `keep`; return those that are left to it, as a bit set.

    In this order: the bounding set can only be cut by one who has CAP_SETPCAP, and the groups only be set by one who
    has CAP_SETGID; setuid(2) from root to another user takes the rest away, but for what `confine` needs.
    """
    capabilities.limit_bounding_set(capabilities.bits(keep))
    # Its own group is among the others, too: a process that takes another one must not lose what this one forbids it
    # (CVE-2022-36109).
    groups = tuple(dict.fromkeys((identity.gid, *identity.groups)))
    if _may_set_groups():
        explain.step(f"setgroups({list(groups)})")
        os.setgroups(groups)
    explain.step(f"setresgid({identity.gid})", f"setpriv --regid {identity.gid}")
    os.setresgid(identity.gid, identity.gid, identity.gid)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    explain.step(f"setresuid({identity.uid})", f"setpriv --reuid {identity.uid}")
    os.setresuid(identity.uid, identity.uid, identity.uid)
    own = capabilities.bits(keep) & capabilities.available() if identity.uid == 0 else 0
    capabilities.set_own(own | _TO_LOAD_A_FILTER)
    return own


def confine(own: int, no_new_privileges: bool, program: bytes) -> None:
    """Put this process under the filter `program`, if there is one, with no capabilities but `own`: the last step.

    Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it has to be given up under the filter, which must
    allow capset(2). runc loads the filter first and then changes user, groups and capabilities, all of which its
    filters must allow; here that is done before, and a profile need not know of it. With no_new_privs nothing comes
    after the filter but execve(2), as with runc.

    Raises: StartError where the kernel does not take the filter: what was to have one does not run without.
    """
    if no_new_privileges:
        explain.step("prctl(PR_SET_NO_NEW_PRIVS, 1)", "setpriv --no-new-privs")
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        capabilities.set_own(own)
    if program:
        try:
            seccomp.load(program)
        except OSError as error:
            raise StartError(
                f"the kernel does not take the seccomp filter: {error.strerror}; "
                "--security-opt seccomp=unconfined runs without one"
            ) from error
    if not no_new_privileges:
        capabilities.set_own(own)


def _may_set_groups() -> bool:
    """Say whether groups may be set: not in a user namespace that its user mapped alone. See: user_namespaces(7)."""
    with open("/proc/self/setgroups") as file:
        return file.read() != "deny\n"


def program(args: tuple[str, ...], environment: dict[str, str]) -> str:
    """Find the program that `args` names, as a shell would: by PATH unless the name has a slash.

    Raises: StartError with docker's words and exit code: 127 where there is none, 126 where it cannot be run.
    """
    name = args[0]
    if "/" in name:
        candidates = [name]
    else:
        candidates = [f"{folder or '.'}/{name}" for folder in environment.get("PATH", "").split(":")]
    found_but = None
    for candidate in candidates:
        if os.path.isdir(candidate):
            found_but = found_but or f'exec: "{name}": is a directory'
        elif os.access(candidate, os.X_OK):
            return candidate
        elif os.path.exists(candidate):
            found_but = f'exec: "{name}": permission denied'
    if found_but:
        raise StartError(found_but, exit_code=126)
    if "/" in name:
        raise StartError(f'exec: "{name}": stat {name}: no such file or directory', exit_code=127)
    raise StartError(f'exec: "{name}": executable file not found in $PATH', exit_code=127)
