"""The part of `doctor` about ordinary users: what their containers need, which root has without asking.

See: docs/decisions/0007-rootless.md.
"""

import os
import shutil
from collections.abc import Iterator

from minidocker.cli import machine
from minidocker.cli.doctor import Finding

_DELEGATED = "/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers"


def findings(uid: int) -> Iterator[Finding]:
    """Check for the user who asks, by the machine's number; for root, what can be said of everybody."""
    if uid:
        yield _subordinate_ids(uid)
    yield _tool("newuidmap", "uidmap", "an ordinary user's containers have one user only")
    network = "an ordinary user's containers have no network but --network none and host"
    yield _tool("slirp4netns", "slirp4netns", network)
    yield _tun(network)
    if uid:
        yield _delegation(uid)


def _subordinate_ids(uid: int) -> Finding:
    import pwd

    from minidocker.container import rootless

    user = pwd.getpwuid(uid).pw_name
    counts = [rootless.subordinate(f"/etc/{name}", user, uid)[1] for name in ("subuid", "subgid")]
    fact = f"{min(counts)} for {user}" if min(counts) else f"{user} has none in /etc/subuid and /etc/subgid"
    cost = "a container has one user only: all files are that user's; run --user and many packages do not work"
    cure = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    return Finding("subordinate ids", min(counts) > 0, fact, cost, cure)


def _tool(name: str, package: str, cost: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, path or f"no {name} command", cost, f"apt-get install {package}")


def _tun(cost: str) -> Finding:
    path = "/dev/net/tun"
    there = os.path.exists(path)
    good = there and os.access(path, os.R_OK | os.W_OK) and os.stat(path).st_mode & 0o006 == 0o006
    fact = "anybody may open it" if good else ("only root may open it" if there else "not there")
    cure = f"chmod 666 {path}, as udev does" if there else "modprobe tun"
    return Finding(path, good, fact, cost, cure)


def _delegation(uid: int) -> Finding:
    """Look what this user's own systemd was handed down. See: systemd.resource-control(5), Delegate=."""
    handed = machine.first_line(_DELEGATED.format(uid=uid)).split()
    lacking = [name for name in ("memory", "pids", "cpu") if name not in handed]
    fact = f"systemd lets this user limit {', '.join(handed)}" if handed else "nobody lets this user set limits"
    if lacking and handed:
        fact += f"; not {', '.join(lacking)}"
    cure = (
        "log in where systemd runs with cgroup version 2; as root: systemctl edit user@.service, [Service] Delegate=yes"
    )
    return Finding("limits", not lacking, fact, "-m, --cpus and --pids-limit are refused", cure)
