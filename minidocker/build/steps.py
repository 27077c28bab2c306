"""What each instruction does, as a step: what the history says, what the cache goes by, and how to make the layer.

Nothing here knows the cache: a step says what it is made of, and the builder decides whether to carry it out.
"""

import os
import stat
from collections.abc import Callable
from typing import NamedTuple, Protocol

from minidocker.build import context as sources
from minidocker.build import copying
from minidocker.build.context import Context, Source
from minidocker.build.draft import Draft
from minidocker.build.filesteps import Add, Copy, Run, Workdir
from minidocker.build.instructions import Instruction
from minidocker.build.tree import Tree
from minidocker.build.workspace import Workspace
from minidocker.errors import BuildError


class RunStep(NamedTuple):
    """All that is needed to run one command on an image.

    `layers` are diff ids, the lowest first; `env` holds `NAME=value`; `network` is `bridge`, `none` or `host`; `mounts`
    are files of this machine to bind read-only, and where; `output` gets what the command writes, as it writes it.
    """

    container_id: str
    layers: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    workdir: str
    network: str
    mounts: tuple[tuple[str, str], ...]
    output: Callable[[bytes], None]
    image: str = ""  # the id of the image it runs on; none on `FROM scratch`


class RunResult(Protocol):
    """How a command ended, and the overlay's upper directory with what it changed."""

    @property
    def exit_code(self) -> int:
        """Return the command's exit code."""

    @property
    def upper(self) -> str:
        """Return the folder of the changes; it may be moved away."""

    def discard(self) -> None:
        """Delete whatever is left of the container."""


class Made(NamedTuple):
    """A layer's folder, and what to call when it is no longer needed."""

    upper: str
    discard: Callable[[], None]


class Step(NamedTuple):
    """One instruction, ready. `make` is None where no file changes; `container` says that docker would use one."""

    created_by: str
    identity: tuple[str, ...] = ()
    make: Callable[[], Made] | None = None
    container: bool = True


class Site(NamedTuple):
    """Where a step is carried out: the image so far, and what the build lends it. On a `fresh` one all is made anew."""

    draft: Draft
    image: Tree
    layers: tuple[str, ...]
    context: Context
    workspace: Workspace
    origin: Callable[[str], Tree]
    run: Callable[[RunStep], RunResult]
    network: str
    output: Callable[[bytes], None]
    container_id: str
    base: str = ""
    fresh: bool = False


def prepare(instruction: Instruction, site: Site) -> Step:
    """Turn an instruction, its variables replaced, into a step; the draft's configuration is changed here.

    Raises DockerfileError, BuildError.
    """
    shell = " ".join(site.draft.shell)
    comment = instruction.configure(site.draft)
    if isinstance(instruction, Run):
        return _run(instruction, site, comment)
    if isinstance(instruction, Copy | Add):
        return _copy(instruction, site, shell)
    if isinstance(instruction, Workdir):
        return _workdir(site, f"{shell} #(nop) {comment}")
    return Step(f"{' '.join(site.draft.shell)} #(nop)  {comment}")


def _run(instruction: Run, site: Site, command: str) -> Step:
    """RUN: the layer is what the command changed. The ARGs in force are part of what it is."""
    draft = site.draft
    shown = draft.shown_arguments()
    created_by = f"|{len(shown)} {' '.join(shown)} {command}" if shown else command

    def make() -> Made:
        args = tuple(instruction.arguments(draft.shell))
        mounts: tuple[tuple[str, str], ...] = ()
        if instruction.script:
            args, mounts = _script(instruction, site.workspace)
        variables = draft.environment() | draft.run_arguments()
        env = tuple(f"{name}={value}" for name, value in variables.items())
        user = str(draft.config.get("User") or "")
        network = instruction.network or site.network
        step = RunStep(
            site.container_id, site.layers, args, env, user, draft.workdir, network, mounts, site.output, site.base
        )
        result = site.run(step)
        if result.exit_code:
            result.discard()
            raise BuildError(f"The command '{command}' returned a non-zero code: {result.exit_code}", result.exit_code)
        return Made(result.upper, result.discard)

    return Step(created_by, (*shown, instruction.network), make)


def _script(instruction: Run, workspace: Workspace) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Write a here-document that begins with `#!` into a file, and say how to run it."""
    inside = f"/dev/pipes/{os.path.basename(instruction.documents[0].name)}"
    path = f"{workspace.new()}/script"
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(instruction.script)
    os.chmod(path, 0o755)
    return (inside,), ((path, inside),)


def _workdir(site: Site, created_by: str) -> Step:
    """WORKDIR: a layer is needed only where the directory is missing."""
    path = site.image.resolve(site.draft.workdir)
    if path == "/" or site.image.is_directory(path):
        return Step(created_by)
    entries = list(copying.parents(site.image, path, copying.ROOT))
    return Step(created_by, (), lambda: _made(site, entries)[0])


def _copy(instruction: Copy | Add, site: Site, shell: str) -> Step:
    """COPY and ADD: find the files, plan, and let the plan's digest be what the step is.

    Where the layer is made in any case, it is made at once, so that the files are read only once.
    """
    keyword = instruction.line.keyword
    destination = os.path.normpath(os.path.join("/", site.draft.workdir, instruction.sources.destination))
    destination = "/" + destination.lstrip("/")
    if instruction.sources.destination.endswith("/") and destination != "/":
        destination += "/"
    owner = copying.find_owner(site.image, instruction.chown)
    mode = int(instruction.chmod, 8) if instruction.chmod else None
    found, archives = _find(instruction, site, keyword)
    files = copying.plan(found, site.image, destination, owner, mode, several=len(found) + len(archives) > 1)
    packed = copying.plan(archives, site.image, "/archive/", owner, mode)
    early: Made | None = None
    if site.fresh and not archives:
        early, digest = _made(site, files)
    else:
        digest = copying.digest([*files, *packed])

    def make() -> Made:
        if early:
            return early
        unpacked = [_unpack(archive, site) for archive in archives]
        more = copying.plan(unpacked, site.image, destination, owner, mode, several=False)
        made, found = _made(site, files + more)
        if not archives and found != digest:  # else the cache would know it as what it is not
            raise BuildError(f"{keyword} failed: its files were changed while they were copied: build again")
        return made

    kind = "multi" if len(found) + len(archives) > 1 else "dir" if found and _is_folder(found[0]) else "file"
    flags = f"--chown={instruction.chown} " if instruction.chown else ""
    shown = f"{shell} #(nop) {keyword} {flags}{kind}:{digest} in {instruction.sources.destination} "
    return Step(shown, (instruction.chown, instruction.chmod, digest), make, container=False)


def _is_folder(source: Source) -> bool:
    return source.content is None and source.tree.is_directory(source.path)


def _find(instruction: Copy | Add, site: Site, keyword: str) -> tuple[list[Source], list[Source]]:
    """Find the sources; return those to copy, and the local archives that ADD unpacks."""
    origin = instruction.origin if isinstance(instruction, Copy) else ""
    tree = site.origin(origin) if origin else site.context.tree
    found = [Source(one.name, Tree(()), content=one.text) for one in instruction.sources.documents]
    archives: list[Source] = []
    for path in instruction.sources.paths:
        if isinstance(instruction, Add) and sources.is_git(path):
            raise BuildError(f"ADD failed: git repositories are not supported: clone {path} into the context instead")
        if isinstance(instruction, Add) and sources.is_url(path):
            found.append(_fetch(path, instruction, site))
            continue
        if isinstance(instruction, Add) and instruction.checksum:
            raise BuildError(f"ADD failed: --checksum is for what is fetched, and {path} is not a URL")
        for source in sources.find(tree, path, keyword, in_context=not origin):
            real = source.tree.real(source.path) or ""
            is_file = isinstance(instruction, Add) and stat.S_ISREG(os.lstat(real).st_mode)
            (archives if is_file and sources.is_archive(real) else found).append(source)
    return found, archives


def _fetch(url: str, instruction: Add, site: Site) -> Source:
    name = "" if not instruction.sources.destination.endswith("/") else sources.url_name(url)
    folder = site.workspace.new()
    path = sources.fetch(url, folder, instruction.checksum)
    return Source(name, Tree((folder,)), "/" + os.path.basename(path), temporary=True)


def _unpack(archive: Source, site: Site) -> Source:
    folder = site.workspace.new()
    sources.unpack_archive(archive.tree.real(archive.path) or "", folder)
    return Source(archive.name, Tree((folder,)), keep=True, temporary=True)


def _made(site: Site, entries: list[copying.Entry]) -> tuple[Made, str]:
    """Make a layer's folder of the entries, as the root of the image is; return their digest, too."""
    upper = site.workspace.new()
    root = site.image.status("/")
    if root is not None:
        os.chown(upper, root.st_uid, root.st_gid)
        os.chmod(upper, stat.S_IMODE(root.st_mode))
    digest = copying.apply(entries, upper)
    return Made(upper, lambda: None), digest
