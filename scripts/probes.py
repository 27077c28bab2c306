"""Look around inside docker's default container and inside ours, and write down what differs: `make probes`.

The same program (probe_inside.py) looks in both, of the same image, on this machine. `docs/probes.md` is written by
this script and never by hand. Every difference is on the safe side or has its reason here; else the script fails.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, f"{PROJECT}/tests")

from peers import running_docker  # noqa: E402

COMMAND = os.path.join(os.path.dirname(sys.executable), "minidocker")
PAGE = f"{PROJECT}/docs/probes.md"
IMAGE = "busybox:latest"
Sections = dict[str, dict[str, str]]
Run = Callable[..., str]

REFUSED = ("EPERM", "EACCES", "ENOSYS", "EROFS", "ENOENT", "ENXIO")
NOTHING = "—"

# Where something may differ: section, pattern of the name, why.
REASONS = (
    (
        "namespaces",
        "cgroup",
        "we give a cgroup namespace, docker does so under version 2 only: it hides the host's paths",
    ),
    ("surroundings", "cgroups", "so it is seen from the cgroup namespace"),
    ("mounts", "/", "our root passes on no mounts at all, in neither direction"),
    ("mounts", "/sys/fs/cgroup", "there is nothing to write in that folder of folders"),
    (
        "mounts",
        r"/sys|/proc/(acpi|scsi|asound)|/sys/(firmware|devices/virtual/powercap)",
        "the mount is read-only in both; docker has the superblock read-only, too, of which no other mount is reached",
    ),
    (
        "calls",
        r"pkey_\w+|process_vm_\w+|name_to_handle_at|cachestat|fchmodat2|map_shadow_stack|futex_(wake|wait|requeue)|mseal"
        r"|statmount|listmount|uretprobe|(set|get|list|remove)xattrat",
        "docker 20.10 is older than what it refuses; the profile that docker documents allows it now",
    ),
    (
        "calls",
        "set_mempolicy_home_node",
        "refused by both: to docker 20.10 the call is unknown",
    ),
)


class Difference(NamedTuple):
    """What docker's container and ours have under one name, and why that is well; "" where nobody knows."""

    section: str
    name: str
    docker: str
    ours: str
    reason: str


def look(run: Run) -> Sections:
    """Have `run`, which takes the arguments of docker's command and returns what it printed, run the probe."""
    hosts = {name: os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))}
    hosts = {name: link for name, link in hosts.items() if not name.endswith("_for_children")}
    options = ["-e", f"PYTHONHOME={sys.base_prefix}", "-v", f"{PROJECT}/scripts/probe_inside.py:/probe.py:ro"]
    for folder in libraries():
        options += ["-v", f"{folder}:{folder}:ro"]
    found: Sections = json.loads(
        run("run", "--rm", *options, IMAGE, os.path.realpath(sys.executable), "/probe.py", json.dumps(hosts))
    )
    found["calls"] = {call(int(number)): outcome for number, outcome in found["calls"].items()}
    for folder in (*libraries(), "/probe.py"):
        found["mounts"].pop(folder, None)
    del found["surroundings"]["$PYTHONHOME"]
    return found


def libraries() -> list[str]:
    """Return the folders that the host's Python needs."""
    folders = dict.fromkeys(("/usr", "/lib", "/lib64", sys.base_prefix))
    return [f for f in folders if os.path.isdir(f) and (f == "/usr" or not f.startswith("/usr/"))]


def call(number: int) -> str:
    """Return the name of a system call, or its number where libseccomp does not know it."""
    import pyseccomp

    try:
        name = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, number)
    except (ValueError, RuntimeError, OSError):
        return str(number)
    return name.decode() if isinstance(name, bytes) else str(name)


def differences(docker: Sections, ours: Sections) -> list[Difference]:
    """Return what differs, each with its reason if it has one."""
    found = []
    for section in ours:
        for name in sorted({*docker[section], *ours[section]}):
            pair = docker[section].get(name, NOTHING), ours[section].get(name, NOTHING)
            if pair[0] != pair[1]:
                found.append(Difference(section, name, *pair, reason(section, name, *pair)))
    return found


def reason(section: str, name: str, docker: str, ours: str) -> str:
    """Say why a difference is well: because we do not give what docker gives, or as REASONS has it."""
    if section == "calls" and ours in ("EPERM", "ENOSYS") and docker not in ("EPERM", "ENOSYS"):
        return "safe side: refused here"
    if section in ("writable", "devices", "processes") and ours == NOTHING:
        return "safe side: not there"
    if section == "read" and ours in (*REFUSED, NOTHING, "folder of nothing", "empty"):
        return "safe side: nothing to read"
    return next((why for where, names, why in REASONS if where == section and re.fullmatch(names, name)), "")


TITLES = {
    "status": "Identity and power (`/proc/self/status`, as `capsh --print` shows it)",
    "namespaces": "Namespaces",
    "surroundings": "What the program finds around it",
    "limits": "Resource limits (soft:hard)",
    "mounts": "Mounts: filesystem, options; the superblock's; propagation",
    "devices": "`/dev`: mode, number, and whether it opens for reading and writing",
    "processes": "Processes that are visible",
    "read": "Kernel files that tell of the host: what there is to read",
    "writable": "Files below `/proc` and `/sys` that open for writing",
    "calls": "System calls, one by one, with arguments that mean nothing",
}


def page(docker: Sections, ours: Sections) -> str:
    """Write both side by side."""
    found = {(each.section, each.name): each.reason for each in differences(docker, ours)}
    version = ".".join(os.uname().release.split(".")[:2])
    lines = [
        "# The same probes in docker's default container and in ours",
        "",
        f"Made by `make probes` (`scripts/probes.py`) with Debian's docker 20.10, on Linux {version}; never typed.",
        f"{len(found)} differences: each is on the safe side or has its reason beside it."
        " `tests/test_probes.py` fails on any other.",
    ]
    for section, title in TITLES.items():
        lines += ["", f"## {title}", ""]
        rows = sorted({*docker[section], *ours[section]})
        shown = [name for name in rows if (section, name) in found or section not in ("calls", "writable")]
        if section == "calls":
            lines += [*alike(rows, ours[section], {name for name in rows if (section, name) not in found}), ""]
        elif section == "writable":
            same = [name for name in rows if name not in shown]
            lines += [f"The same {len(same)} in both: " + ", ".join(f"`{name}`" for name in same) + ".", ""]
        if shown:
            lines += ["| | docker | minidocker | |", "|---|---|---|---|"]
            for name in shown:
                cells = (docker[section].get(name, NOTHING), ours[section].get(name, NOTHING))
                lines.append(f"| `{name}` | {cells[0]} | {cells[1]} | {found.get((section, name), '=')} |")
    return "\n".join(lines).rstrip() + "\n"


def alike(calls: list[str], outcomes: dict[str, str], same: set[str]) -> list[str]:
    """Write the calls with which the same happens in both, by what happens."""
    lines = []
    for outcome in sorted(set(outcomes.values())):
        names = [name for name in calls if name in same and outcomes[name] == outcome]
        shown = ", ".join(f"`{name}`" for name in names) if outcome in ("EPERM", "ENOSYS") else f"{len(names)} calls"
        lines += [f"- **{outcome}** in both ({len(names)}): {shown}."] if names else []
    return lines


def main() -> None:
    """Probe both, write the page, and fail if a difference has no reason."""
    with tempfile.TemporaryDirectory(prefix="mdprobes", dir="/tmp") as base, running_docker("probes") as docker:
        folders = {"MINIDOCKER_ROOT": f"{base}/root", "MINIDOCKER_RUN": f"{base}/run"}
        embedded = os.environ.get("MINIDOCKER_EMBEDDED", "/var/lib/minidocker/registry")

        def minidocker(*arguments: str) -> str:
            env = {**os.environ, "MINIDOCKER_EMBEDDED": embedded, **folders}
            return subprocess.run([COMMAND, *arguments], env=env, check=True, stdout=subprocess.PIPE, text=True).stdout

        os.makedirs(folders["MINIDOCKER_RUN"])
        try:
            minidocker("pull", "-q", IMAGE)
            minidocker("save", "-o", f"{base}/image.tar", IMAGE)
            docker.run("load", "-i", f"{base}/image.tar")
            theirs, ours = look(lambda *arguments: docker.run(*arguments).stdout), look(minidocker)
        finally:
            minidocker("system", "prune", "-af")
    with open(f"{PAGE}.new", "w", encoding="utf-8") as file:
        file.write(page(theirs, ours))
    os.replace(f"{PAGE}.new", PAGE)
    unexplained = [each for each in differences(theirs, ours) if not each.reason]
    for each in unexplained:
        print(f"{each.section}: {each.name}: docker {each.docker}, minidocker {each.ours}: why?", file=sys.stderr)
    print(f"wrote {PAGE}")
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
