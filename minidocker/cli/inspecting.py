"""`inspect`: everything that is known of containers, images and volumes, as JSON or through a template."""

import json
import sys
from typing import TYPE_CHECKING, Any

from minidocker.cli.arguments import Call, Command, Option, UsageError
from minidocker.errors import AmbiguousPrefix, ContainerNotFound, ImageNotFound, InvalidArgument, InvalidReference

if TYPE_CHECKING:
    from minidocker.engine import Engine

BAD_TEMPLATE = 64
KINDS = ("container", "image", "volume")


def inspect(call: Call) -> int:
    """Print the documents of what is named; those that cannot be found are told after the others."""
    kind = call["type"] or (call.path.partition(" ")[0] if " " in call.path else "")
    if kind and kind not in KINDS:
        raise InvalidArgument(f'"{kind}" is not a valid value for --type: there are {", ".join(KINDS)}')
    engine = call.engine()
    documents, errors = [], []
    for name in call.words:
        try:
            documents.append(find(engine, name, kind, call["size"]))
        except (ContainerNotFound, ImageNotFound, AmbiguousPrefix, InvalidReference) as error:
            errors.append(str(error))
    sys.stdout.write(_shown(documents, call["format"]))
    sys.stdout.flush()
    for message in errors:
        print(f"Error: {message}", file=sys.stderr)
    return 1 if errors else 0


def _shown(documents: list[dict[str, Any]], shape: str) -> str:
    if shape in ("", "json"):
        return json.dumps(documents, indent=4 if not shape else None, ensure_ascii=False) + "\n"
    from minidocker.cli.template import Template

    try:
        template = Template(shape.replace("\\t", "\t").replace("\\n", "\n"))
    except InvalidArgument as error:
        raise UsageError(str(error), BAD_TEMPLATE) from None
    return "".join(template.fill(document) + "\n" for document in documents)


def find(engine: "Engine", name: str, kind: str = "", with_size: bool = False) -> dict[str, Any]:
    """Return the document of the container, else the image, else the volume of that name.

    Raises: ContainerNotFound, ImageNotFound, AmbiguousPrefix, InvalidReference.
    """
    from minidocker import inspect as documents

    if kind in ("", "container"):
        try:
            container = engine.containers.get(name)
        except ContainerNotFound:
            if kind:
                raise
        else:
            document = documents.container_json(engine, container)
            if with_size:
                from minidocker.upkeep import tree_size

                own = tree_size(engine.containers.path(container.id, "upper"))
                whole = sum(engine.images.layer_size(diff_id) for diff_id in container.spec.layers)
                document |= {"SizeRw": own, "SizeRootFs": own + whole}
            return document
    if kind in ("", "image"):
        try:
            return documents.image_json(engine, engine.images.get(name))
        except (ImageNotFound, InvalidReference):
            if kind:
                raise
    from minidocker.cli.volumes import volume_json

    found = volume_json(engine, name)
    if found is None:
        raise ImageNotFound(f"No such {'volume' if kind else 'object'}: {name}")
    return found


def inspect_volume(call: Call) -> int:
    """Print the documents of volumes."""
    return inspect(Call("volume inspect", call.settings, call.words, {**DEFAULTS, "format": call["format"]}))


FORMAT = Option("format", "string", "Format the output using the given Go template", "f", "")
DEFAULTS = {"type": "", "size": False, "format": ""}

COMMANDS = {
    "inspect": Command(
        inspect,
        "[OPTIONS] NAME|ID [NAME|ID...]",
        (
            FORMAT,
            Option("size", "bool", "Display total file sizes if the type is container", "s"),
            Option("type", "string", "Return JSON for specified type (container|image|volume)", default=""),
        ),
        at_least=1,
        at_most=None,
        root=False,
    )
}
