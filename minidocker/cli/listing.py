"""`ps`: the containers in a table."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from minidocker.cli import filters, human
from minidocker.cli.arguments import Call, Command, Option, whole_number
from minidocker.cli.tables import render
from minidocker.container.records import CREATED, EXITED, Container
from minidocker.errors import InvalidArgument

if TYPE_CHECKING:
    from minidocker.engine import Engine

HEADERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "State": "STATE",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "Networks": "NETWORKS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Size": "SIZE",
}
SHOWN = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
STATUSES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
FILTERS = ("id", "name", "label", "status", "exited", "ancestor", "volume", "publish", "expose", "network")


def ps(call: Call) -> int:
    """List the running containers, or those that the options ask for."""
    wanted = filters.read(call["filter"], FILTERS)
    engine = call.engine()
    containers: list[Container] = engine.containers.list()
    for container_id in engine.containers.damaged(containers):
        remedy = f"remove it with 'minidocker rm -f {container_id[:12]}'"
        print(f"container {container_id[:12]} has a damaged record: {remedy}", file=sys.stderr)
    latest = 1 if call["latest"] else call["last"]
    if not (call["all"] or latest > 0 or wanted.keys() & {"status", "exited"}):
        containers = [container for container in containers if container.running]
    if wanted:
        containers = [container for container in containers if _fits(container, wanted, engine)]
    if latest > 0:
        containers = containers[:latest]
    if call["quiet"] and not call["format"]:
        width = 64 if call["no-trunc"] else 12
        sys.stdout.write("".join(f"{container.id[:width]}\n" for container in containers))
        return 0
    now = time.time()
    sizes = _sizes(engine) if call["size"] or ".Size" in call["format"] else lambda _container: ""
    rows = [fields(container, now, not call["no-trunc"], sizes(container)) for container in containers]
    shown = (*SHOWN, "Size") if call["size"] else SHOWN
    sys.stdout.write(render(HEADERS, shown, rows, call["format"]))
    return 0


def fields(container: Container, now: float, cut: bool = True, size: str = "") -> dict[str, str]:
    """Return what the columns say of a container."""
    command = human.command_line(container.spec.args)
    mounts = [mount.name or mount.source for mount in container.spec.mounts if mount.kind != "tmpfs"]
    published = container.state.ports if container.running else ()
    return {
        "ID": container.id[:12] if cut else container.id,
        "Image": human.ellipsis(container.image, 64) if cut else container.image,
        "Command": human.quoted(human.ellipsis(command, 20) if cut else command),
        "CreatedAt": human.local_time(container.created),
        "RunningFor": human.ago(container.created, now),
        "State": container.state.status,
        "Status": status(container, now),
        "Ports": human.ports(published, container.spec.exposed) if container.running else "",
        "Names": container.name,
        "Labels": ",".join(f"{name}={value}" for name, value in container.spec.labels),
        "Mounts": ",".join(human.ellipsis(mount, 15) if cut else mount for mount in mounts),
        "Networks": container.spec.network,
        "LocalVolumes": str(sum(mount.kind == "volume" for mount in container.spec.mounts)),
        "Size": size,
    }


def status(container: Container, now: float) -> str:
    """Return the STATUS column: `Up 3 seconds`, `Exited (0) 6 seconds ago`, `Created`."""
    state = container.state
    if state.status == CREATED:
        return "Created"
    if state.status != EXITED:
        return f"Up {human.duration(now - human.epoch(state.started))}"
    if not state.finished:
        return f"Exited ({state.exit_code})"
    return f"Exited ({state.exit_code}) {human.ago(state.finished, now)}"


def _sizes(engine: "Engine") -> Callable[[Container], str]:
    """Return what tells a container's size: its own changes, and those on top of its image."""
    from minidocker.upkeep import tree_size

    images = {image.id: image.size for image in engine.images.images()}

    def size(container: Container) -> str:
        own = tree_size(engine.containers.path(container.id, "upper"))
        return f"{human.size(own)} (virtual {human.size(own + images.get(container.image_id, 0))})"

    return size


def _fits(container: Container, wanted: filters.Filters, engine: "Engine") -> bool:
    """Say whether a container is what the filters ask for: one value of each name, and every label."""
    state, spec = container.state, container.spec
    for text in wanted.get("status", ()):
        if text not in STATUSES:
            raise InvalidArgument(f"Invalid filter 'status={text}': expected one of {', '.join(STATUSES)}")
    ports = {f"{port.container_port}/{port.protocol}" for port in spec.ports}
    mounts = {text for mount in spec.mounts for text in (mount.name, mount.source, mount.target)}
    tests: dict[str, Callable[[str], bool]] = {
        "id": container.id.startswith,
        "name": lambda text: _matches(text.removeprefix("/"), container.name),
        "status": lambda text: text == state.status,
        "exited": lambda text: state.status == EXITED and text == str(state.exit_code),
        "ancestor": lambda text: _descends(container, text, engine),
        "volume": lambda text: text in mounts,
        "publish": lambda text: _with_protocol(text) in ports,
        "expose": lambda text: _with_protocol(text) in ports | set(spec.exposed),
        "network": lambda text: text == spec.network,
    }
    if not filters.has_labels(dict(spec.labels), wanted.get("label", ())):
        return False
    return all(any(map(tests[name], texts)) for name, texts in wanted.items() if name in tests)


def _matches(pattern: str, name: str) -> bool:
    import re

    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise InvalidArgument(f"Invalid filter 'name={pattern}': {error}") from None


def _with_protocol(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


def _descends(container: Container, name: str, engine: "Engine") -> bool:
    """Say whether the container's image is the named one or was built on it."""
    from minidocker.errors import MinidockerError

    if name in (container.image, container.image_id):
        return True
    try:
        ancestor = engine.images.get(name)
        image = engine.images.get(container.image_id)
        layers = engine.images.config(ancestor).diff_ids
        return bool(engine.images.config(image).diff_ids[: len(layers)] == layers)
    except MinidockerError:
        return False


COMMANDS = {
    "ps": Command(
        ps,
        "[OPTIONS]",
        (
            Option("all", "bool", "Show all containers (default shows just running)", "a"),
            Option("filter", "list", "Filter output based on conditions provided", "f", read=filters.pair),
            Option("format", "string", "Pretty-print containers using a Go template", default=""),
            Option("last", "int", "Show n last created containers (includes all states)", "n", -1, whole_number),
            Option("latest", "bool", "Show the latest created container (includes all states)", "l"),
            Option("no-trunc", "bool", "Don't truncate output"),
            Option("quiet", "bool", "Only display container IDs", "q"),
            Option("size", "bool", "Display total file sizes", "s"),
        ),
        root=False,
    )
}
