"""`cp`: files between a container and the host, both ways, or as an archive through standard input and output."""

import contextlib
import os
import posixpath
import stat
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from minidocker.cli.arguments import Call, Command, Option
from minidocker.container.records import Container
from minidocker.errors import InvalidArgument, MinidockerError

if TYPE_CHECKING:
    import tarfile

    from minidocker.engine import Engine
    from minidocker.image.tarstream import TarReader

_MOST_LINKS = 40


class Place(NamedTuple):
    """Where a copy is to go: a folder that exists, and the name in it; `.` puts a folder's content there."""

    folder: str
    name: str


def cp(call: Call) -> int:
    """Copy out of a container, or into one."""
    (source_container, source), (target_container, target) = map(_split, call.words)
    if source_container and target_container:
        raise InvalidArgument("copying between containers is not supported")
    if not source_container and not target_container:
        raise InvalidArgument("must specify at least one container source")
    engine = call.engine()
    container = engine.containers.get(source_container or target_container)
    if source_container:
        _copy_out(engine, container, _inside(source), target, call)
    else:
        _copy_in(engine, container, source, _inside(target), call)
    return 0


def _split(word: str) -> tuple[str, str]:
    """Split `container:path`; a path of the host is absolute, begins with a dot, or has no colon."""
    container, colon, path = word.partition(":")
    if not colon or word.startswith(("/", ".")):
        return "", word
    return container, path


def _inside(path: str) -> str:
    """Return an absolute path of a container: a relative one begins at its root."""
    return path if path.startswith("/") else f"/{path}"


def place(source: str, is_folder: bool, target: str, target_kind: str) -> Place:
    """Work out, by docker's rules, where `source` is copied to. Pure.

    `target_kind` says what is at `target` now: `missing`, `file` or `folder`.
    Raises: InvalidArgument where it does not fit.
    """
    content_only = source.endswith("/.") or posixpath.basename(source) == "."
    if target_kind == "folder":
        own = posixpath.basename(posixpath.normpath(source)) if source.strip("/.") else "."
        return Place(target, "." if is_folder and content_only else own)
    if target_kind == "file" and is_folder:
        raise InvalidArgument(f"cannot copy directory {source} to a file: {target}")
    if target.endswith("/") and (target_kind == "file" or not is_folder):
        raise InvalidArgument(f"no such directory: {target}")
    folder, name = posixpath.split(target.rstrip("/"))
    return Place(folder or ("/" if target.startswith("/") else "."), name)


# Out of a container


def _copy_out(engine: "Engine", container: Container, source: str, target: str, call: Call) -> None:
    from minidocker.engine import copy_out
    from minidocker.image.unpack import unpack
    from minidocker.linux import userns

    member = _first_member(engine, container, source)
    links = 0
    while call["follow-link"] and member.issym():
        links += 1
        if links > _MOST_LINKS:
            raise InvalidArgument(f"too many levels of symbolic links: {source}")
        source = posixpath.normpath(posixpath.join("/", posixpath.dirname(source), member.linkname))
        member = _first_member(engine, container, source)
    if target == "-":
        copy_out(engine, container, source, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    kind = "folder" if os.path.isdir(target) else ("file" if os.path.lexists(target) else "missing")
    to = place(source, member.isdir(), target, kind)
    if not os.path.isdir(to.folder):
        raise InvalidArgument(f'invalid output path: directory "{to.folder}" does not exist')
    powers = userns.powers() if call["archive"] else userns.NONE
    with flowing(lambda out: copy_out(engine, container, source, out)) as archive:
        reader = renaming_reader(archive, to.name, set_id=bool(call["archive"]))
        unpack(reader, to.folder, whiteouts=False, powers=powers)


def _first_member(engine: "Engine", container: Container, path: str) -> "tarfile.TarInfo":
    """Return what is at a path of a container, as the archive of it begins."""
    from minidocker.engine import copy_out
    from minidocker.image.tarstream import TarReader, decompressed

    try:
        with flowing(lambda out: copy_out(engine, container, path, out)) as archive:
            member = next(TarReader(decompressed(archive)).members(), None)
    except (FileNotFoundError, NotADirectoryError):
        member = None
    if member is None:
        raise MinidockerError(f"No such container:path: {container.name}:{path}")
    return member


def renaming_reader(archive: BinaryIO, name: str, set_id: bool = True) -> "TarReader":
    """Return a reader of `archive` that gives all members' first folder another name, `.` for none.

    Without `set_id` the bits that lend their owner's power are dropped: the owner here is whoever copies, root perhaps.

    The archive comes out of a container, which may have made it to harm us: that nothing is written outside of the
    folder it is unpacked in is seen to by `minidocker.image.unpack`, after the names were changed here.
    """
    from minidocker.image import tarstream

    class Renaming(tarstream.TarReader):
        """Changes the names as the members go by."""

        def members(self) -> Iterator["tarfile.TarInfo"]:
            for member in super().members():
                member.name = self.renamed(member.name)
                if member.islnk():
                    member.linkname = self.renamed(member.linkname)
                if not set_id and not member.isdir():
                    member.mode &= ~(stat.S_ISUID | stat.S_ISGID)
                yield member

        def renamed(self, path: str) -> str:
            return name + "".join(path.removeprefix("./").partition("/")[1:])

    return Renaming(tarstream.decompressed(archive))


@contextlib.contextmanager
def flowing(produce: Callable[[BinaryIO], object]) -> Iterator[BinaryIO]:
    """Yield what `produce` writes while it writes it, in a thread of its own. Its failure is raised here."""
    import threading

    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with os.fdopen(writing, "wb") as out:
                produce(out)
        except BrokenPipeError:
            return  # enough was read
        except BaseException as error:  # noqa: BLE001, raised in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        with os.fdopen(reading, "rb") as archive:
            yield archive
    finally:
        thread.join()
        if failures:
            raise failures[0]


# Into a container


def _copy_in(engine: "Engine", container: Container, source: str, target: str, call: Call) -> None:
    from minidocker.engine import copy_in
    from minidocker.image.layers import pack_path

    kind = _kind_inside(engine, container, target)
    if source == "-":
        if kind != "folder":
            raise InvalidArgument(f'destination "{container.name}:{target}" must be a directory')
        copy_in(engine, container, target, sys.stdin.buffer)
        return
    path = os.path.realpath(source) if call["follow-link"] else source
    if not os.path.lexists(path):
        raise FileNotFoundError(f"lstat {source}: no such file or directory")
    is_folder = os.path.isdir(path) and (not os.path.islink(path) or path.endswith(("/", "/.")))
    to = place(source, is_folder, target, kind)
    if _kind_inside(engine, container, to.folder) != "folder":
        raise MinidockerError(f"No such container:path: {container.name}:{to.folder}")
    packed = f"{path}/." if is_folder else path
    with flowing(lambda out: pack_path(packed, to.name, out.write)) as archive:
        copy_in(engine, container, to.folder, archive)


def _kind_inside(engine: "Engine", container: Container, path: str) -> str:
    """Say what is at a path of a container: `missing`, `file` or `folder`."""
    from minidocker.storage import status

    try:
        return "folder" if stat.S_ISDIR(status(engine, container, path).st_mode) else "file"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"


COMMANDS = {
    "cp": Command(
        cp,
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        (
            Option("archive", "bool", "Archive mode (copy all uid/gid information)", "a"),
            Option("follow-link", "bool", "Always follow symbol link in SRC_PATH", "L"),
        ),
        at_least=2,
        at_most=2,
        about="Use '-' as the source to read a tar archive from stdin\n"
        "and extract it to a directory destination in a container.\n"
        "Use '-' as the destination to stream a tar archive of a\ncontainer source to stdout.",
    )
}
