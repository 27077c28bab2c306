"""Images as files: `save`, `load`, `import`."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from minidocker.cli.arguments import Call, Command, Option
from minidocker.cli.output import writing
from minidocker.cli.progress import printer
from minidocker.errors import InvalidArgument


def save(call: Call) -> int:
    """Write images with all their layers as one archive."""
    from minidocker.image import archive

    if not call["output"] and os.isatty(sys.stdout.fileno()):
        raise InvalidArgument("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    store = call.engine().images
    for name in call.words:
        store.get(name)  # before anything is written
    with writing(call["output"]) as out:
        archive.save(store, call.words, out)
    return 0


def load(call: Call) -> int:
    """Take in the images of an archive."""
    from minidocker.image import archive

    if not call["input"] and os.isatty(0):
        raise InvalidArgument("requested load from stdin, but stdin is empty")
    store = call.engine().images
    with _reading(call["input"]) as stream, printer(sys.stdout, call["quiet"]) as report:
        for image, references in archive.load(store, stream, report):
            for name in references:
                print(f"Loaded image: {name.familiar}")
            if not references:
                print(f"Loaded image ID: {image.id}")
    return 0


def import_(call: Call) -> int:
    """Make an image with one layer of an archive of files; print its id."""
    from minidocker.build.builder import apply_changes
    from minidocker.image import archive, reference
    from minidocker.image.oci import ImageConfig

    store = call.engine().images
    name = reference.parse(call.word(1)) if call.word(1) else None
    config = apply_changes(ImageConfig({}), call["change"]).config if call["change"] else {}
    with _reading("" if call.word(0) == "-" else call.word(0)) as stream:
        image = archive.import_rootfs(store, stream, name, config, call["message"])
    print(image.id)
    return 0


@contextlib.contextmanager
def _reading(source: str) -> Iterator[BinaryIO]:
    """Yield standard input where `source` is empty, else the file."""
    if not source:
        yield sys.stdin.buffer
        return
    with open(source, "rb") as file:
        yield file


COMMANDS = {
    "save": Command(
        save,
        "[OPTIONS] IMAGE [IMAGE...]",
        (Option("output", "string", "Write to a file, instead of STDOUT", "o", ""),),
        at_least=1,
        at_most=None,
    ),
    "load": Command(
        load,
        "[OPTIONS]",
        (
            Option("input", "string", "Read from tar archive file, instead of STDIN", "i", ""),
            Option("quiet", "bool", "Suppress the load output", "q"),
        ),
    ),
    "import": Command(
        import_,
        "[OPTIONS] file|- [REPOSITORY[:TAG]]",
        (
            Option("change", "list", "Apply Dockerfile instruction to the created image", "c"),
            Option("message", "string", "Set commit message for imported image", "m", ""),
        ),
        at_least=1,
        at_most=2,
    ),
}
