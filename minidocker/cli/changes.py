"""What a container changed, and what can be made of it: `diff`, `commit`, `export`."""

import os
import sys

from minidocker.cli.arguments import Call, Command, Option
from minidocker.errors import InvalidArgument


def diff(call: Call) -> int:
    """Print what was added (A), changed (C) and deleted (D)."""
    from minidocker import engine as stories

    engine = call.engine()
    for change in stories.diff(engine, engine.containers.get(call.word(0))):
        print(change.kind, change.path)
    return 0


def commit(call: Call) -> int:
    """Make an image of a container; print the image's id."""
    from minidocker import engine as stories

    engine = call.engine()
    container = engine.containers.get(call.word(0))
    chosen = (call["message"], call["author"], call["change"], call["pause"])
    image = stories.commit(engine, container, call.word(1), *chosen)
    print(image.id)
    return 0


def export(call: Call) -> int:
    """Write all of a container's files as an archive."""
    from minidocker import engine as stories
    from minidocker.cli.output import writing

    engine = call.engine()
    container = engine.containers.get(call.word(0))
    if not call["output"] and os.isatty(sys.stdout.fileno()):
        raise InvalidArgument("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    with writing(call["output"]) as out:
        stories.export(engine, container, out)
    return 0


COMMANDS = {
    "diff": Command(diff, "CONTAINER", at_least=1, at_most=1),
    "commit": Command(
        commit,
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        (
            Option("author", "string", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")', "a", ""),
            Option("change", "list", "Apply Dockerfile instruction to the created image", "c"),
            Option("message", "string", "Commit message", "m", ""),
            Option("pause", "bool", "Pause container during commit", "p", default=True),
        ),
        at_least=1,
        at_most=2,
    ),
    "export": Command(
        export,
        "[OPTIONS] CONTAINER",
        (Option("output", "string", "Write to a file, instead of STDOUT", "o", ""),),
        at_least=1,
        at_most=1,
    ),
}
