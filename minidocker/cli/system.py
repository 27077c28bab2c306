"""What this minidocker is and holds: `version`, `info`, `system df`."""

import os
import sys
from typing import TYPE_CHECKING, Any

from minidocker import __version__
from minidocker.cli import human
from minidocker.cli.arguments import Call, Command, Option
from minidocker.cli.tables import render

if TYPE_CHECKING:
    from minidocker.engine import Engine

DF_HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


def version(call: Call) -> int:
    """Print the version, and those of what minidocker stands on."""
    machine = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    facts = {
        "Version": __version__,
        "Python": python,
        "Kernel": machine.release,
        "Os": "linux",
        "Arch": _architecture(),
    }
    if call["format"]:
        sys.stdout.write(_filled(call["format"], {"Client": facts, "Server": facts, **facts}))
        return 0
    print(f"minidocker:\n Version:   {__version__}\n Python:    {python}\n Kernel:    {machine.release}")
    print(f" OS/Arch:   linux/{_architecture()}")
    return 0


def _architecture() -> str:
    from minidocker.image.oci import host_platform

    return host_platform().architecture


def _filled(shape: str, facts: dict[str, Any]) -> str:
    from minidocker.cli.template import Template

    return Template("{{json .}}" if shape == "json" else shape).fill(facts) + "\n"


def info(call: Call) -> int:
    """Print what this minidocker holds and what machine it is on."""
    facts = _facts(call)
    if call["format"]:
        sys.stdout.write(_filled(call["format"], facts))
        return 0
    for title, name in _INFO:
        value = facts[name]
        if isinstance(value, list):
            value = " ".join(value) or "none"
        print(f"{title}: {human.binary_size(value) if name == 'MemTotal' else value}")
    return 0


_INFO = (
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    (" Backing Filesystem", "BackingFilesystem"),
    ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"),
    ("Cgroup Controllers", "CgroupControllers"),
    ("Networks", "Networks"),
    ("Security Options", "SecurityOptions"),
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Total Memory", "MemTotal"),
    ("Name", "Name"),
    ("Root Dir", "DockerRootDir"),
    ("Run Dir", "RunDir"),
    ("Insecure Registries", "InsecureRegistries"),
    ("Embedded Registry", "EmbeddedRegistry"),
)


SECCOMP = "/proc/sys/kernel/seccomp/actions_avail"


def _facts(call: Call) -> dict[str, Any]:
    from minidocker.cli import machine
    from minidocker.registry import embedded

    engine = call.engine()
    containers = engine.containers.list()
    running = sum(container.running for container in containers)
    here = embedded.find(engine.root)
    groups = machine.cgroups()
    return {
        "Containers": len(containers),
        "ContainersRunning": running,
        "ContainersStopped": len(containers) - running,
        "Images": len(engine.images.images()),
        "ServerVersion": __version__,
        "Driver": "overlay2",
        "BackingFilesystem": machine.filesystem(engine.root),
        "LoggingDriver": "json-file",
        "CgroupDriver": groups.driver,
        "CgroupVersion": str(groups.version),
        "CgroupControllers": groups.controllers,
        "Networks": ["bridge", "host", "none"],
        "SecurityOptions": ["capabilities", "namespaces", *(["seccomp"] if machine.first_line(SECCOMP) else [])],
        "KernelVersion": os.uname().release,
        "OperatingSystem": machine.distribution(),
        "OSType": "linux",
        "Architecture": os.uname().machine,
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "Name": os.uname().nodename,
        "DockerRootDir": engine.root,
        "RunDir": engine.run,
        "InsecureRegistries": ["127.0.0.0/8", "localhost", *engine.insecure],
        "EmbeddedRegistry": f"{here.path} ({', '.join(here.names())})" if here else "none",
    }


def df(call: Call) -> int:
    """Print how much disk is used by what, and how much of it could be freed."""
    from minidocker.cli import volumes
    from minidocker.upkeep import tree_size

    engine = call.engine()
    images = engine.images.images(intermediate=False)
    containers = engine.containers.list()
    sizes = {container.id: tree_size(engine.containers.path(container.id, "upper")) for container in containers}
    stopped = [sizes[container.id] for container in containers if not container.running]
    used = {container.image_id for container in containers}
    free_images = [image for image in images if image.id not in used]
    total, freeable = _image_sizes(engine, images, free_images)
    places = {name: tree_size(f"{volumes.folder(engine)}/{name}") for name in volumes.names(engine)}
    in_use = volumes.users(engine)
    loose = sum(size for name, size in places.items() if name not in in_use)
    running = sum(container.running for container in containers)
    rows = [
        _df_row("Images", len(images), len(images) - len(free_images), total, freeable),
        _df_row("Containers", len(containers), running, sum(sizes.values()), sum(stopped)),
        _df_row("Local Volumes", len(places), len(places.keys() & in_use), sum(places.values()), loose),
    ]
    sys.stdout.write(render(DF_HEADERS, tuple(DF_HEADERS), rows, call["format"]))
    if call["verbose"]:
        _print_details(engine, images, containers, sizes, places)
    return 0


def _df_row(kind: str, count: int, active: int, size: int, free: int) -> dict[str, str]:
    share = f" ({100 * free // size if size else 0}%)" if kind == "Images" or free else ""
    return {
        "Type": kind,
        "TotalCount": str(count),
        "Active": str(active),
        "Size": human.size(size, 4),
        "Reclaimable": human.size(free, 4) + share,
    }


def _image_sizes(engine: "Engine", images: list[Any], unused: list[Any]) -> tuple[int, int]:
    """Return the size of all layers, each counted once, and of those that only unused images have."""
    free_ids = {image.id for image in unused}
    needed: set[str] = set()
    every: set[str] = set()
    for image in images:
        layers = set(engine.images.config(image).diff_ids)
        every |= layers
        if image.id not in free_ids:
            needed |= layers
    sizes = {diff_id: engine.images.layer_size(diff_id) for diff_id in every}
    return sum(sizes.values()), sum(size for diff_id, size in sizes.items() if diff_id not in needed)


def _print_details(
    engine: "Engine", images: list[Any], containers: list[Any], sizes: dict[str, int], places: dict[str, int]
) -> None:
    """Print a table of the images, one of the containers and one of the volumes."""
    import time

    from minidocker.cli import images as pictures
    from minidocker.cli import listing, tables, volumes

    now = time.time()
    used = [container.image_id for container in containers]
    lines = []
    for image in images:
        facts = pictures.fields(image, now, cut=True)
        for name in pictures.names(image, with_digests=False):
            row = {**facts, "Repository": name[0], "Tag": name[1]}
            lines.append([*(row[column] for column in pictures.SHOWN), str(used.count(image.id))])
    titles = [pictures.HEADERS[column] for column in pictures.SHOWN]
    print(f"\nImages space usage:\n\n{tables.columns([[*titles, 'CONTAINERS'], *lines])}")
    shown = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
    rows = [listing.fields(container, now, size=human.size(sizes[container.id])) for container in containers]
    print(f"Containers space usage:\n\n{tables.table(listing.HEADERS, shown, rows)}")
    users = volumes.users(engine)
    lines = [[name, str(len(users.get(name, ()))), human.size(size)] for name, size in places.items()]
    print(f"Local Volumes space usage:\n\n{tables.columns([['VOLUME NAME', 'LINKS', 'SIZE'], *lines])}", end="")


_FORMAT = Option("format", "string", "Format the output using the given Go template", "f", "")

COMMANDS = {
    "version": Command(version, "[OPTIONS]", (_FORMAT,), root=False),
    "info": Command(info, "[OPTIONS]", (_FORMAT,), root=False),
    "system df": Command(
        df,
        "[OPTIONS]",
        (
            Option("format", "string", "Pretty-print using a Go template", default=""),
            Option("verbose", "bool", "Show detailed information on space usage", "v"),
        ),
    ),
}
