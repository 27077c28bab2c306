"""`build`: an image from a Dockerfile and the files around it."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator

from minidocker.cli.arguments import Call, Command, Option, labels
from minidocker.errors import BuildError, InvalidArgument

_TAR_MAGIC_AT = 257
_LONGEST_DOCKERFILE = 16 * 1024 * 1024


def build(call: Call) -> int:
    """Build an image, telling each step."""
    if call["no-cache"]:  # something will have to be run
        from minidocker.container import shims

        shims.prepare()
    from minidocker import engine as stories
    from minidocker.build.builder import BuildOptions

    if call["file"] == "-" and call.word(0) == "-":
        raise InvalidArgument("invalid argument: can't use stdin for both build context and dockerfile")
    engine = call.engine()
    with _context(call.word(0)) as (folder, piped):
        text, file = _dockerfile(folder, call["file"], piped)
        options = BuildOptions(
            dockerfile=text,
            file=file,
            tags=tuple(call["tag"]),
            build_args=_build_arguments(call["build-arg"]),
            target=call["target"],
            no_cache=call["no-cache"],
            pull=call["pull"],
            labels=labels(call["label"]),
            network=call["network"].replace("default", "bridge"),
            quiet=call["quiet"],
            platform=call["platform"],
        )
        image_id = stories.build(engine, folder, options, _print)
    if call["iidfile"]:
        with open(call["iidfile"], "w") as out:
            out.write(image_id)
    return 0


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def _context(word: str) -> Iterator[tuple[str, bytes | None]]:
    """Yield the folder that a word names, and what was read from standard input.

    `-` is an archive, which is unpacked, or a Dockerfile, which has no files around it: the folder is empty then.
    """
    if word.startswith(("http://", "https://", "git://", "git@")):
        raise BuildError(f"unable to prepare context: {word}: only folders, and archives on standard input, are built")
    if word != "-":
        if not os.path.lexists(word):
            raise BuildError(f'unable to prepare context: path "{word}" not found')
        yield word, None
        return
    if sys.stdin.isatty():
        raise InvalidArgument("build - reads an archive or a Dockerfile from standard input: redirect one to it")
    stdin = open(0, "rb", closefd=False)  # noqa: SIM115, it was open before and stays so
    if not _is_archive(stdin.peek(_TAR_MAGIC_AT + 5)):
        yield "", stdin.read(_LONGEST_DOCKERFILE)
        return
    import tempfile

    from minidocker.image.tarstream import TarReader, decompressed
    from minidocker.image.unpack import unpack

    with tempfile.TemporaryDirectory(prefix="minidocker-context-") as folder:
        unpack(TarReader(decompressed(stdin)), folder, whiteouts=False)
        yield folder, None


def _is_archive(head: bytes) -> bool:
    """Tell an archive, compressed or not, from the text of a Dockerfile by its first bytes."""
    from minidocker.image.tarstream import compression

    return bool(compression(head)) or head[_TAR_MAGIC_AT:].startswith(b"ustar") or b"\0" in head


def _dockerfile(folder: str, name: str, piped: bytes | None) -> tuple[str, str]:
    """Return the Dockerfile's text and the path it was read from, `-` for standard input."""
    if name == "-":
        piped = sys.stdin.buffer.read(_LONGEST_DOCKERFILE)
    if piped is not None:
        return _text(piped), "-"
    path = name or f"{folder}/Dockerfile"
    if name and not os.path.isabs(name) and not os.path.lexists(name) and os.path.lexists(f"{folder}/{name}"):
        path = f"{folder}/{name}"  # an archive's, or relative to the context
    try:
        with open(path, "rb") as file:
            text = _text(file.read(_LONGEST_DOCKERFILE))
    except FileNotFoundError:
        message = f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {path}"
        raise BuildError(f"{message}: no such file or directory") from None
    except IsADirectoryError:
        raise BuildError(f"unable to prepare context: the Dockerfile {path} is a directory") from None
    return text, path


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", "surrogateescape")


def _build_arguments(given: Iterable[str]) -> dict[str, str | None]:
    """Return the build arguments; a bare name takes its value from our own environment, or has none."""
    found: dict[str, str | None] = {}
    for text in given:
        name, equals, value = text.partition("=")
        found[name] = value if equals else os.environ.get(name)
    return found


COMMANDS = {
    "build": Command(
        build,
        "[OPTIONS] PATH | -",
        (
            Option("build-arg", "list", "Set build-time variables"),
            Option("file", "string", "Name of the Dockerfile (Default is 'PATH/Dockerfile')", "f", ""),
            Option("force-rm", "bool", "Always remove intermediate containers (they always are)"),
            Option("iidfile", "string", "Write the image ID to the file", default=""),
            Option("label", "list", "Set metadata for an image"),
            Option(
                "network",
                "string",
                "Set the networking mode for the RUN instructions during build (bridge|none|host)",
                default="default",
            ),
            Option("no-cache", "bool", "Do not use cache when building the image"),
            Option("platform", "string", "Set the platform that FROM chooses images for", default=""),
            Option("pull", "bool", "Always attempt to pull a newer version of the image"),
            Option("quiet", "bool", "Suppress the build output and print image ID on success", "q"),
            Option("rm", "bool", "Remove intermediate containers after a successful build", default=True),
            Option("tag", "list", "Name and optionally a tag in the 'name:tag' format", "t"),
            Option("target", "string", "Set the target build stage to build.", default=""),
        ),
        at_least=1,
        at_most=1,
    )
}
