"""Volumes, the folders that outlive containers: `volume create`, `ls`, `inspect`, `rm`, `prune`."""

import os
import re
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

from minidocker.cli import human
from minidocker.cli.arguments import Call, Command, Option
from minidocker.cli.output import confirmed, each
from minidocker.cli.tables import render
from minidocker.errors import Conflict, InvalidArgument, MinidockerError

if TYPE_CHECKING:
    from minidocker.engine import Engine

HEADERS = {"Driver": "DRIVER", "Name": "VOLUME NAME", "Mountpoint": "MOUNTPOINT", "Size": "SIZE"}


def folder(engine: "Engine") -> str:
    """Return where the volumes are: each is `<name>/_data`."""
    return f"{engine.root}/volumes"


def names(engine: "Engine") -> list[str]:
    """Return the names of all volumes."""
    try:
        return sorted(name for name in os.listdir(folder(engine)) if "." not in name[:1])
    except FileNotFoundError:
        return []


def users(engine: "Engine") -> dict[str, list[str]]:
    """Return for each volume in use the ids of the containers that mount it."""
    found: dict[str, list[str]] = {}
    for container in engine.containers.list():
        for mount in container.spec.mounts:
            if mount.kind == "volume":
                name = mount.name or os.path.basename(os.path.dirname(mount.source))
                found.setdefault(name, []).append(container.id)
    return found


def volume_json(engine: "Engine", name: str) -> dict[str, Any] | None:
    """Return docker's document of a volume, or None where there is none of that name."""
    if name not in names(engine):
        return None
    path = f"{folder(engine)}/{name}/_data"
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.stat(f"{folder(engine)}/{name}").st_mtime))
    return {
        "CreatedAt": created,
        "Driver": "local",
        "Labels": {},
        "Mountpoint": path,
        "Name": name,
        "Options": {},
        "Scope": "local",
    }


def create(call: Call) -> int:
    """Make a volume and print its name."""
    engine = call.engine()
    name = call.word(0) or secrets.token_hex(32)
    if not re.fullmatch("[a-zA-Z0-9][a-zA-Z0-9_.-]+", name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
        )
    os.makedirs(f"{folder(engine)}/{name}", 0o700, exist_ok=True)
    os.makedirs(f"{folder(engine)}/{name}/_data", 0o755, exist_ok=True)
    print(name)
    return 0


def ls(call: Call) -> int:
    """List the volumes."""
    engine = call.engine()
    found = names(engine)
    if call["quiet"] and not call["format"]:
        sys.stdout.write("".join(f"{name}\n" for name in found))
        return 0
    rows = [
        {"Driver": "local", "Name": name, "Mountpoint": f"{folder(engine)}/{name}/_data", "Size": "N/A"}
        for name in found
    ]
    sys.stdout.write(render(HEADERS, ("Driver", "Name"), rows, call["format"]))
    return 0


def rm(call: Call) -> int:
    """Remove volumes that no container mounts."""
    engine = call.engine()
    in_use = users(engine)

    def remove(name: str) -> None:
        if name in in_use:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(in_use[name])}]")
        if name not in names(engine):
            if call["force"]:
                return
            raise MinidockerError(f"No such volume: {name}")
        _delete(engine, name)
        print(name)

    return each(call.words, remove)


def prune(call: Call) -> int:
    """Remove all volumes that no container mounts."""
    warning = "WARNING! This will remove all local volumes not used by at least one container."
    if not (call["force"] or confirmed(warning)):
        return 0
    print(f"Total reclaimed space: {human.size(remove_unused(call.engine()), 4)}")
    return 0


def remove_unused(engine: "Engine") -> int:
    """Remove all volumes that no container mounts, print their names, and return the bytes that were freed."""
    from minidocker.upkeep import tree_size

    in_use = users(engine)
    unused = [name for name in names(engine) if name not in in_use]
    freed = 0
    for name in unused:
        freed += tree_size(f"{folder(engine)}/{name}")
        _delete(engine, name)
    if unused:
        print("Deleted Volumes:", *unused, "", sep="\n")
    return freed


def _delete(engine: "Engine", name: str) -> None:
    from minidocker.linux import trees

    trees.delete(f"{folder(engine)}/{name}")


def _inspect(call: Call) -> int:
    from minidocker.cli.inspecting import inspect_volume

    return inspect_volume(call)


_FORCE = Option("force", "bool", "Do not prompt for confirmation", "f")
_FORMAT = Option("format", "string", "Format the output using the given Go template", "f", "")

COMMANDS = {
    "volume create": Command(create, "[VOLUME]", at_most=1),
    "volume inspect": Command(_inspect, "[OPTIONS] VOLUME [VOLUME...]", (_FORMAT,), at_least=1, at_most=None),
    "volume ls": Command(
        ls,
        "[OPTIONS]",
        (
            Option("format", "string", "Pretty-print volumes using a Go template", default=""),
            Option("quiet", "bool", "Only display volume names", "q"),
        ),
        root=False,
    ),
    "volume prune": Command(prune, "[OPTIONS]", (_FORCE,)),
    "volume rm": Command(
        rm,
        "[OPTIONS] VOLUME [VOLUME...]",
        (Option("force", "bool", "Force the removal of one or more volumes", "f"),),
        at_least=1,
        at_most=None,
    ),
}
