"""Where the files of COPY and ADD come from: the build context, another image's tree, an archive, a URL."""

import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

from minidocker import explain
from minidocker.build import ignore
from minidocker.build.tree import Tree
from minidocker.errors import BuildError, UnsafeLayer

_BLOCK = 512
_SECONDS = 60.0


class Context(NamedTuple):
    """The folder that a build may take files from; an empty `folder` is a context without files."""

    folder: str
    rules: ignore.Ignore

    @property
    def tree(self) -> Tree:
        """The context as a tree in which what `.dockerignore` leaves out does not exist."""
        return Tree((self.folder,) if self.folder else (), self.rules)

    def size(self) -> int:
        """Return the size of the archive that docker's client would send, in bytes."""
        total = 2 * _BLOCK
        for path, _, status in self.tree.walk("/"):
            if self.rules.excludes(path[1:]):
                continue  # a folder that is only there for what is taken back in it
            content = status.st_size if stat.S_ISREG(status.st_mode) else 0
            total += _BLOCK + -(-content // _BLOCK) * _BLOCK
        return total


def open_context(folder: str, dockerfile: str) -> Context:
    """Open the context in `folder`, with the rules that belong to this Dockerfile.

    Raises NotADirectoryError or FileNotFoundError, InvalidArgument for a broken `.dockerignore`.
    """
    if not folder:
        return Context("", ignore.Ignore())
    if not stat.S_ISDIR(os.stat(folder).st_mode):
        raise BuildError(f"unable to prepare context: context must be a directory: {folder}")
    return Context(os.path.realpath(folder), ignore.read(folder, dockerfile))


class Source(NamedTuple):
    """One file or directory to copy: `path` in `tree`, which arrives under `name`.

    `keep` keeps owners and attributes; `content` is a file that exists nowhere yet; `temporary` files may be linked.
    """

    name: str
    tree: Tree
    path: str = "/"
    keep: bool = False
    temporary: bool = False
    content: str | None = None


def find(tree: Tree, pattern: str, keyword: str, in_context: bool) -> list[Source]:
    """Find what a source of COPY or ADD means, wildcards replaced, links to it followed within the tree.

    Raises BuildError when there is nothing, or when it would lead out of the context.
    """
    relative = os.path.normpath(pattern.lstrip("/")) if pattern.strip("/") else "."
    if relative == ".." or relative.startswith("../"):
        where = "build context" if in_context else "image"
        raise BuildError(f"{keyword} failed: forbidden path outside the {where}: {pattern}")
    wild = re.search(r"(?<!\\)[*?\[]", relative) is not None
    paths = sorted(_expand(tree, relative.split("/"))) if wild else ["/" + re.sub(r"\\(.)", r"\1", relative)]
    if not paths:
        raise BuildError(f"{keyword} failed: no source files were specified: nothing matches {pattern}")
    found: list[Source] = []
    for path in paths:
        resolved = tree.resolve(path)
        if tree.real(resolved) is None:
            where = "file not found in build context or excluded by .dockerignore: " if in_context else ""
            raise BuildError(f"{keyword} failed: {where}stat {path[1:]}: file does not exist")
        found.append(Source(os.path.basename(path), tree, resolved, keep=not in_context))
    return found


def _expand(tree: Tree, parts: list[str], folder: str = "") -> Iterator[str]:
    """Yield the paths that match a pattern, which is matched name by name: `*` never crosses a slash.

    See: Go, filepath.Match.
    """
    first, *rest = parts
    matcher = re.compile(ignore.translate(re.sub(r"\*+", "*", first)), re.DOTALL)
    for name in tree.names(folder or "/"):
        if not matcher.fullmatch(name):
            continue
        path = f"{folder}/{name}"
        if not rest:
            yield path
        elif tree.is_directory(path):
            yield from _expand(tree, rest, path)


def is_archive(path: str) -> bool:
    """Say whether a file is a tar archive, compressed or not: its content decides, not its name."""
    from minidocker.image.layers import TarReader, decompressed

    with open(path, "rb") as file:
        try:
            return next(TarReader(decompressed(file)).members(), None) is not None
        except UnsafeLayer:
            return False


def unpack_archive(path: str, folder: str) -> None:
    """Unpack an archive into `folder`, and never outside it. Raises UnsafeLayer for one that breaks off."""
    from minidocker.image.layers import TarReader, decompressed, unpack

    with open(path, "rb") as file:
        unpack(TarReader(decompressed(file)), folder, whiteouts=False)


def is_git(source: str) -> bool:
    """Say whether a source is a git repository, which BuildKit would clone."""
    return re.match(r"git@|git://|https?://[^#]*\.git(#|$)", source) is not None


def is_url(source: str) -> bool:
    """Say whether ADD has to fetch a source."""
    return source.startswith(("http://", "https://"))


def fetch(url: str, folder: str, checksum: str = "") -> str:
    """Download a URL into `folder`, with mode 0600 and the time of its `Last-Modified`; return the file's path.

    Raises BuildError when it cannot be had, or is not what `checksum` (`sha256:…`) says.
    """
    from email.utils import parsedate_to_datetime
    from hashlib import sha256

    import urllib3

    explain.step(f"GET {url}", f"curl -fsSLO {url}")
    path = f"{folder}/download"
    digest = sha256()
    try:
        with urllib3.PoolManager() as pool, open(path, "wb") as out:
            answer = pool.request("GET", url, preload_content=False, timeout=_SECONDS)
            if answer.status >= 400:
                raise BuildError(f"ADD failed: failed to GET {url} with status {answer.status} {answer.reason or ''}")
            for chunk in answer.stream(1 << 18, decode_content=False):
                digest.update(chunk)
                out.write(chunk)
            modified = answer.headers.get("Last-Modified", "")
    except urllib3.exceptions.HTTPError as error:
        raise BuildError(f'ADD failed: Get "{url}": {error}') from error
    if checksum and checksum != f"sha256:{digest.hexdigest()}":
        raise BuildError(f"ADD failed: digest mismatch of {url}: sha256:{digest.hexdigest()}, expected {checksum}")
    os.chmod(path, 0o600)
    try:
        seconds = parsedate_to_datetime(modified).timestamp()
    except (ValueError, TypeError):
        seconds = 0.0
    os.utime(path, (seconds, seconds))
    return path


def url_name(url: str) -> str:
    """Return the file name in a URL's path.

    Raises BuildError when there is none.
    """
    path = url.partition("://")[2].partition("?")[0].partition("#")[0].partition("/")[2]
    name = path.rpartition("/")[2]
    if name in ("", ".", ".."):
        raise BuildError(f"ADD failed: cannot determine filename for source {url}")
    return name
