"""Making room: `container prune`, `image prune`, `system prune`."""

from typing import TYPE_CHECKING

from minidocker.cli import filters, human
from minidocker.cli.arguments import Call, Command, Option
from minidocker.cli.output import confirmed
from minidocker.errors import MinidockerError

if TYPE_CHECKING:
    from minidocker.engine import Engine

_STOPPED = "all stopped containers"


def prune_containers(call: Call) -> int:
    """Remove the containers that do not run."""
    if not (call["force"] or confirmed(f"WARNING! This will remove {_STOPPED}.")):
        return 0
    engine = call.engine()
    freed = _remove_stopped(engine, _filters(call))
    print(f"Total reclaimed space: {human.size(freed, 4)}")
    return 0


def _filters(call: Call) -> filters.Filters:
    return filters.read(call["filter"], ("label", "until"))


def _remove_stopped(engine: "Engine", wanted: filters.Filters) -> int:
    """Remove what does not run and fits the filters, print the ids, and return the bytes that were freed."""
    from minidocker import engine as stories
    from minidocker.upkeep import tree_size

    freed = 0
    removed = []
    for container in engine.containers.list():
        if container.running or not _fits(dict(container.spec.labels), container.created, wanted):
            continue
        size = tree_size(engine.containers.path(container.id, "upper"))
        try:
            stories.remove(engine, container)
        except MinidockerError:
            continue  # started or removed by somebody else meanwhile
        freed += size
        removed.append(container.id)
    if removed:
        print("Deleted Containers:", *removed, "", sep="\n")
    return freed


def _fits(labels: dict[str, str], created: str, wanted: filters.Filters) -> bool:
    from minidocker.cli.streams import moment

    if not filters.has_labels(labels, wanted.get("label", ())):
        return False
    return all(human.epoch(created) < human.epoch(moment(text)) for text in wanted.get("until", ()))


def prune_images(call: Call) -> int:
    """Remove the images that nothing needs."""
    unused = "all images without at least one container associated to them" if call["all"] else "all dangling images"
    if not (call["force"] or confirmed(f"WARNING! This will remove {unused}.")):
        return 0
    freed = _remove_images(call.engine(), call["all"], _filters(call))
    print(f"Total reclaimed space: {human.size(freed, 4)}")
    return 0


def _remove_images(engine: "Engine", every: bool, wanted: filters.Filters) -> int:
    """Remove images, print what happened to each, and return the bytes that were freed.

    An image is used when a container stands on it; one that others were built on stays with them.
    """
    from minidocker import engine as stories
    from minidocker.upkeep import usage

    store = engine.images
    used = {container.image_id for container in engine.containers.list()}
    before = usage(engine).layers_size
    lines: list[str] = []
    for image in store.images(intermediate=False) if every else store.dangling():
        labels = store.config(image).config.get("Labels") or {} if wanted.get("label") else {}
        if image.id in used or not _fits(labels, image.created, wanted):
            continue
        for name in image.references or (image.id,):
            try:
                lines += stories.remove_image(engine, name, False)
            except MinidockerError:
                continue  # used by somebody else meanwhile
    stories.collect(engine)
    if lines:
        print("Deleted Images:", *(line[0].lower() + line[1:] for line in lines), "", sep="\n")
    return max(0, before - usage(engine).layers_size)


def prune_system(call: Call) -> int:
    """Remove stopped containers and unused images, and with `--volumes` unused volumes."""
    images = "all images without at least one container associated to them" if call["all"] else "all dangling images"
    doomed = [_STOPPED, *(["all volumes not used by at least one container"] if call["volumes"] else []), images]
    warning = "WARNING! This will remove:\n" + "".join(f"  - {what}\n" for what in doomed)
    if not (call["force"] or confirmed(warning)):
        return 0
    from minidocker import engine as stories

    engine, wanted = call.engine(), _filters(call)
    stories.tidy(engine)
    freed = _remove_stopped(engine, wanted)
    if call["volumes"]:
        from minidocker.cli.volumes import remove_unused

        freed += remove_unused(engine)
    freed += _remove_images(engine, call["all"], wanted)
    print(f"Total reclaimed space: {human.size(freed, 4)}")
    return 0


_FORCE = Option("force", "bool", "Do not prompt for confirmation", "f")
_FILTER = Option("filter", "list", "Provide filter values (e.g. 'until=24h', 'label=<key>=<value>')", read=filters.pair)

COMMANDS = {
    "container prune": Command(prune_containers, "[OPTIONS]", (_FILTER, _FORCE)),
    "image prune": Command(
        prune_images,
        "[OPTIONS]",
        (Option("all", "bool", "Remove all unused images, not just dangling ones", "a"), _FILTER, _FORCE),
    ),
    "system prune": Command(
        prune_system,
        "[OPTIONS]",
        (
            Option("all", "bool", "Remove all unused images not just dangling ones", "a"),
            _FILTER,
            _FORCE,
            Option("volumes", "bool", "Prune volumes"),
        ),
    ),
}
