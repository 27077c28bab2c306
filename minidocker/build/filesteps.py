"""The instructions that make a layer: RUN, COPY, ADD and WORKDIR. Here is what they say; `steps` carries them out.

See: Dockerfile reference; `instructions.Instruction` for the verbs.
"""

# The verbs are documented once, in `instructions.Instruction`.
# ruff: noqa: D102

import os.path
import re
from typing import NamedTuple, Self

from minidocker.build import values, words
from minidocker.build.commands import CommandLine
from minidocker.build.draft import Draft
from minidocker.build.expander import Expander
from minidocker.build.instructions import exactly_one
from minidocker.build.lines import HereDocument, Line, here_document
from minidocker.errors import DockerfileError

NETWORKS = ("default", "none", "host")


class Run(NamedTuple):
    """Run a command on the image so far; what it changes is the new layer. The network is empty for the build's own."""

    line: Line
    command: CommandLine
    documents: tuple[HereDocument, ...] = ()
    network: str = ""

    @classmethod
    def parse(cls, line: Line) -> Self:
        # No mount is asked for by a Dockerfile, so none can be raced or left behind (CVE-2024-23651 to 23653).
        if any(flag.startswith("--mount") for flag in line.flags):
            raise DockerfileError("RUN --mount is not supported: COPY the files in, or use a stage of its own")
        network = values.flags(line, "network", "security").get("network", "")
        if network and network not in NETWORKS:
            raise DockerfileError(
                f"invalid network mode {words.quote(network)}: it must be one of {', '.join(NETWORKS)}"
            )
        command = CommandLine(*line.arguments())
        if command.exec_form and not command.parts:
            raise DockerfileError("no command specified")
        return cls(line, command, line.documents, "" if network == "default" else network)

    def expanded(self, expander: Expander) -> Self:
        return self

    def configure(self, draft: Draft) -> str:
        return " ".join(self.arguments(draft.shell))

    @property
    def script(self) -> str:
        """Give the here-document that is a program of its own, because it begins with `#!`; empty for none."""
        alone = bool(self.documents) and here_document(" ".join(self.command.parts)) is not None
        return self.documents[0].text if alone and self.documents[0].content.startswith("#!") else ""

    def arguments(self, shell: list[str]) -> list[str]:
        """Return what is executed. A lone here-document is the shell's command; others the shell reads itself."""
        if not self.documents:
            return self.command.arguments(shell) or shell + [""]
        text = " ".join(self.command.parts)
        if here_document(text) is not None:
            return [*shell, self.documents[0].text]
        documents = "".join(f"\n{document.content}{document.name}" for document in self.documents)
        return [*shell, text + documents]


class Workdir(NamedTuple):
    """Go to a directory, which is made where it is missing. A relative one starts from the last."""

    line: Line
    path: str

    @classmethod
    def parse(cls, line: Line) -> Self:
        return cls(line, exactly_one(line))

    def expanded(self, expander: Expander) -> Self:
        return self._replace(path=expander.word(self.path))

    def configure(self, draft: Draft) -> str:
        if not self.path:
            raise DockerfileError("cannot normalize nothing: WORKDIR needs a directory")
        draft.config["WorkingDir"] = os.path.normpath(os.path.join("/", draft.workdir, self.path)).replace("//", "/")
        return f"WORKDIR {draft.config['WorkingDir']}"


class Sources(NamedTuple):
    """What COPY and ADD bring: paths, and here-documents, which become files of their name."""

    paths: tuple[str, ...]
    documents: tuple[HereDocument, ...]
    destination: str

    @classmethod
    def parse(cls, line: Line) -> Self:
        """Read the sources and, last, the destination."""
        found = line.arguments().words
        if len(found) < 2:
            problem = "requires at least two arguments, but only one was provided. Destination could not be determined"
            raise DockerfileError(f"{line.keyword} {problem}")
        *sources, destination = found
        if _is_document(destination, line):
            raise DockerfileError(f"{line.keyword} cannot accept a heredoc as a destination")
        by_name = {document.name: document for document in line.documents}
        openings = [here_document(source) if _is_document(source, line) else None for source in sources]
        documents = tuple(by_name[opening.name] for opening in openings if opening is not None)
        paths = tuple(path for path, opening in zip(sources, openings, strict=True) if opening is None)
        return cls(paths, documents, destination)

    def expanded(self, expander: Expander) -> Self:
        documents = (
            document._replace(content=expander.document(document.text), chomp=False) if document.expand else document
            for document in self.documents
        )
        paths = tuple(expander.word(path) for path in self.paths)
        return type(self)(paths, tuple(documents), expander.word(self.destination))


def _is_document(word: str, line: Line) -> bool:
    opening = here_document(word) if line.documents else None
    return opening is not None and any(document.name == opening.name for document in line.documents)


class Copy(NamedTuple):
    """Copy files from the build context, or `--from` a stage or image. A mode of None keeps the files' own."""

    line: Line
    sources: Sources
    chown: str = ""
    chmod: str = ""
    origin: str = ""

    @classmethod
    def parse(cls, line: Line) -> Self:
        sources = Sources.parse(line)
        given = values.flags(line, "from", "chown", "chmod", booleans=("link",))
        return cls(line, sources, given.get("chown", ""), _mode(given.get("chmod", "")), given.get("from", ""))

    def expanded(self, expander: Expander) -> Self:
        return self._replace(
            sources=self.sources.expanded(expander),
            chown=expander.word(self.chown),
            chmod=_mode(expander.word(self.chmod)),
        )

    def configure(self, draft: Draft) -> str:
        return "COPY"


class Add(NamedTuple):
    """Copy as COPY does; unpack local archives, and fetch URLs, whose bytes a checksum may pin."""

    line: Line
    sources: Sources
    chown: str = ""
    chmod: str = ""
    checksum: str = ""

    @classmethod
    def parse(cls, line: Line) -> Self:
        sources = Sources.parse(line)
        given = values.flags(line, "chown", "chmod", "checksum", booleans=("link", "keep-git-dir"))
        return cls(line, sources, given.get("chown", ""), _mode(given.get("chmod", "")), given.get("checksum", ""))

    def expanded(self, expander: Expander) -> Self:
        return self._replace(
            sources=self.sources.expanded(expander),
            chown=expander.word(self.chown),
            chmod=_mode(expander.word(self.chmod)),
            checksum=_checksum(expander.word(self.checksum)),
        )

    def configure(self, draft: Draft) -> str:
        return "ADD"


def _mode(text: str) -> str:
    """Check an octal mode; one that holds a variable is checked when that is replaced."""
    if text and "$" not in text and not re.fullmatch(r"[0-7]{1,5}", text):
        raise DockerfileError(f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
    return text


def _checksum(text: str) -> str:
    if text and not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise DockerfileError(f"invalid checksum {words.quote(text)}: it must be sha256: and 64 hexadecimal digits")
    return text
