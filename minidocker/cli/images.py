"""`images`, `history`, `tag`, `rmi`: what is in the store, and under which names."""

import sys
import time
from typing import Any

from minidocker.cli import filters, human
from minidocker.cli.arguments import Call, Command, Option
from minidocker.cli.tables import render

NONE = "<none>"
HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
}
SHOWN = ("Repository", "Tag", "ID", "CreatedSince", "Size")
FILTERS = ("dangling", "label", "reference", "before", "since")

HISTORY_HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
HISTORY_SHOWN = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")


def images(call: Call) -> int:
    """List the images; a line for each name of each."""
    wanted = filters.read(call["filter"], FILTERS)
    store = call.engine().images
    found = store.dangling() if _only_dangling(wanted) else store.images(intermediate=call["all"])
    found = [image for image in found if _fits(store, image, wanted)]
    now = time.time()
    rows = []
    patterns = [*call.words, *wanted.get("reference", ())]
    for image in found:
        facts = fields(image, now, not call["no-trunc"])
        for repository, tag, digest in names(image, call["digests"]):
            if _is_named(repository, tag, patterns):
                rows.append({**facts, "Repository": repository, "Tag": tag, "Digest": digest})
    if call["quiet"] and not call["format"]:
        sys.stdout.write("".join(f"{row['ID']}\n" for row in rows))
        return 0
    shown = (*SHOWN[:2], "Digest", *SHOWN[2:]) if call["digests"] else SHOWN
    sys.stdout.write(render(HEADERS, shown, rows, call["format"]))
    return 0


def fields(image: Any, now: float, cut: bool) -> dict[str, str]:
    """Return what the columns say of an image, whatever its name."""
    size = human.size(image.size)
    return {
        "ID": image.short_id if cut else image.id,
        "CreatedSince": human.ago(image.created, now),
        "CreatedAt": human.local_time(image.created),
        "Size": size,
        "VirtualSize": size,
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "Containers": "N/A",
    }


def names(image: Any, with_digests: bool = True) -> list[tuple[str, str, str]]:
    """Return the names of an image as repository, tag and digest; one of `<none>` where there is none.

    A digest stands beside the tags of its own repository, and in a line of its own where that has no tag.
    """
    digests: dict[str, list[str]] = {}
    for text in image.digests:
        repository, _, digest = text.partition("@")
        digests.setdefault(_familiar(repository), []).append(digest)
    rows = []
    for text in image.tags:
        repository, _, tag = text.rpartition(":")
        repository = _familiar(repository)
        for digest in digests.get(repository, [NONE]) if with_digests else [NONE]:
            rows.append((repository, tag, digest))
    tagged = {row[0] for row in rows}
    rows += [
        (repository, NONE, digest)
        for repository, listed in digests.items()
        if repository not in tagged
        for digest in (listed if with_digests else listed[:1])
    ]
    return rows or [(NONE, NONE, NONE)]


def _familiar(repository: str) -> str:
    """Return a canonical repository name as people type it."""
    return repository.removeprefix("docker.io/").removeprefix("library/")


def _only_dangling(wanted: filters.Filters) -> bool:
    return any(map(filters.truth, wanted.get("dangling", ())))


def _fits(store: Any, image: Any, wanted: filters.Filters) -> bool:
    """Say whether an image is what the filters ask for."""
    if "dangling" in wanted and not _only_dangling(wanted) and not image.references:
        return False
    if "label" in wanted:
        labels = store.config(image).config.get("Labels") or {}
        if not filters.has_labels(labels, wanted["label"]):
            return False
    created = human.epoch(image.created)
    if any(created >= human.epoch(store.get(name).created) for name in wanted.get("before", ())):
        return False
    return all(created > human.epoch(store.get(name).created) for name in wanted.get("since", ()))


def _is_named(repository: str, tag: str, patterns: list[str]) -> bool:
    """Say whether a name fits `busybox`, `busybox:latest` or `deb*:book*`; every name fits where nothing is asked."""
    if not patterns:
        return True
    from fnmatch import fnmatchcase

    for pattern in patterns:
        pattern = _familiar(pattern)
        if fnmatchcase(repository, pattern) or fnmatchcase(f"{repository}:{tag}", pattern):
            return True
    return False


def history(call: Call) -> int:
    """List the steps that made an image, the last first."""
    store = call.engine().images
    rows = _history_rows(store, store.get(call.word(0)), call)
    if call["quiet"] and not call["format"]:
        sys.stdout.write("".join(f"{row['ID']}\n" for row in rows))
    else:
        sys.stdout.write(render(HISTORY_HEADERS, HISTORY_SHOWN, rows, call["format"]))
    return 0


def _history_rows(store: Any, image: Any, call: Call) -> list[dict[str, str]]:
    config = store.config(image)
    sizes = iter([store.layer_size(diff_id) for diff_id in config.diff_ids])
    steps = [(step, 0 if step.get("empty_layer") else next(sizes, 0)) for step in config.history]
    parents = {other.id: other.parent for other in store.images()}
    now, cut = time.time(), not call["no-trunc"]
    rows, image_id = [], image.id
    for step, size in reversed(steps):
        created, by = str(step.get("created") or ""), str(step.get("created_by") or "").replace("\t", " ")
        shown_id = image_id.removeprefix("sha256:")[:12] if cut else image_id
        rows.append(
            {
                "ID": shown_id or "<missing>",
                "CreatedSince": human.ago(created, now) if call["human"] else human.local_iso(created),
                "CreatedAt": human.local_iso(created),
                "CreatedBy": human.ellipsis(by, 45) if cut else by,
                "Size": human.size(size) if call["human"] else str(size),
                "Comment": str(step.get("comment") or ""),
            }
        )
        image_id = parents.get(image_id, "")
    return rows


def tag(call: Call) -> int:
    """Give an image one more name."""
    from minidocker.errors import InvalidReference
    from minidocker.image import reference

    store = call.engine().images
    name = reference.parse(call.word(1))
    if name.digest:
        raise InvalidReference("refusing to create a tag with a digest reference")
    store.tag(store.get(call.word(0)), name)
    return 0


def rmi(call: Call) -> int:
    """Remove names, and images that have none left."""
    from minidocker.cli.output import each
    from minidocker.engine import remove_image

    engine = call.engine()

    def remove(name: str) -> None:
        for line in remove_image(engine, name, call["force"]):
            print(line)

    return each(call.words, remove)


_FORMAT = Option("format", "string", "Pretty-print images using a Go template", default="")
_NO_TRUNC = Option("no-trunc", "bool", "Don't truncate output")
_QUIET = Option("quiet", "bool", "Only show image IDs", "q")

COMMANDS = {
    "images": Command(
        images,
        "[OPTIONS] [REPOSITORY[:TAG]]",
        (
            Option("all", "bool", "Show all images (default hides intermediate images)", "a"),
            Option("digests", "bool", "Show digests"),
            Option("filter", "list", "Filter output based on conditions provided", "f", read=filters.pair),
            _FORMAT,
            _NO_TRUNC,
            _QUIET,
        ),
        at_most=1,
        root=False,
    ),
    "history": Command(
        history,
        "[OPTIONS] IMAGE",
        (
            _FORMAT,
            Option("human", "bool", "Print sizes and dates in human readable format", "H", default=True),
            _NO_TRUNC,
            _QUIET,
        ),
        at_least=1,
        at_most=1,
        root=False,
    ),
    "tag": Command(tag, "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", at_least=2, at_most=2),
    "rmi": Command(
        rmi,
        "[OPTIONS] IMAGE [IMAGE...]",
        (Option("force", "bool", "Force removal of the image", "f"),),
        at_least=1,
        at_most=None,
    ),
}
