"""The instructions that only change an image's configuration: one small class each, with the same verbs.

`parse` makes one from a line and checks it; `expanded` replaces the variables; `configure` changes the draft and
returns the text that the history keeps. Nothing here touches a file.

See: Dockerfile reference; OCI image-spec, config.md.
"""

# The verbs are documented once, in `Instruction`.
# ruff: noqa: D102

import re
from typing import NamedTuple, Protocol, Self

from minidocker.build import values, words
from minidocker.build.draft import Draft, Json
from minidocker.build.expander import Expander
from minidocker.build.lines import Line
from minidocker.errors import DockerfileError


class Instruction(Protocol):
    """What every instruction can do."""

    @property
    def line(self) -> Line:
        """Where it is written."""

    @classmethod
    def parse(cls, line: Line) -> Self:
        """Read it; raise DockerfileError for arguments it does not take."""

    def expanded(self, expander: Expander) -> Self:
        """Return it with its variables replaced."""

    def configure(self, draft: Draft) -> str:
        """Change the draft; return the text that the history keeps."""


def at_least_one(line: Line, arguments: words.Arguments) -> tuple[str, ...]:
    """Return the words; raise DockerfileError when there are none."""
    if not arguments.words:
        raise DockerfileError(f"{line.keyword} requires at least one argument")
    return arguments.words


def exactly_one(line: Line) -> str:
    """Return the argument of an instruction that takes the whole rest of its line as one."""
    if not line.rest:
        raise DockerfileError(f"{line.keyword} requires exactly one argument")
    values.flags(line)
    return line.rest


def pairs(line: Line) -> tuple[tuple[str, str], ...]:
    """Return the `key=value` pairs of ENV and LABEL."""
    values.flags(line)
    flat = at_least_one(line, line.arguments())
    if not all(flat[::2]):
        raise DockerfileError(f"{line.keyword} names can not be blank")
    return tuple(zip(flat[::2], flat[1::2], strict=True))


class From(NamedTuple):
    """Begin a stage on an image, on an earlier stage, or on nothing (`scratch`)."""

    line: Line
    base: str
    name: str = ""
    platform: str = ""

    @classmethod
    def parse(cls, line: Line) -> Self:
        platform = values.flags(line, "platform").get("platform", "")
        base, *rest = line.arguments().words or ("",)
        if len(rest) == 2 and rest[0].lower() == "as":
            name = rest[1].lower()
            if not re.fullmatch(r"[a-z][a-z0-9-_.]*", name):
                problem = "name can't start with a number or contain symbols"
                raise DockerfileError(f"invalid name for build stage: {words.quote(rest[1])}, {problem}")
            return cls(line, base, name, platform)
        if rest or not base:
            raise DockerfileError("FROM requires either one or three arguments")
        return cls(line, base, "", platform)

    def expanded(self, expander: Expander) -> Self:
        """FROM sees only the ARGs before the first FROM."""
        base = expander.word(self.base)
        if not base:
            raise DockerfileError(f"base name ({self.base}) should not be blank")
        return self._replace(base=base, platform=expander.word(self.platform))

    def configure(self, draft: Draft) -> str:
        """Change nothing: a stage's start is the base image's configuration."""
        return ""


class Arg(NamedTuple):
    """Declare arguments that `--build-arg` may give; a default of None means there is none."""

    line: Line
    declared: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, line: Line) -> Self:
        declared: list[tuple[str, str | None]] = []
        for word in at_least_one(line, line.arguments()):
            name, equals, default = word.partition("=")
            if not name:
                raise DockerfileError("ARG names can not be blank")
            declared.append((name, default if equals else None))
        return cls(line, tuple(declared))

    def expanded(self, expander: Expander) -> Self:
        declared = (
            (expander.word(name), None if default is None else expander.word(default))
            for name, default in self.declared
        )
        return self._replace(declared=tuple(declared))

    def configure(self, draft: Draft) -> str:
        for name, default in self.declared:
            draft.arguments.declare(name, default)
        shown = (name if default is None else f"{name}={default}" for name, default in self.declared)
        return "ARG " + " ".join(shown)


class Env(NamedTuple):
    """Set environment variables. Values on one line all see the environment from before the line."""

    line: Line
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, line: Line) -> Self:
        return cls(line, pairs(line))

    def expanded(self, expander: Expander) -> Self:
        return self._replace(pairs=tuple((expander.word(key), expander.word(value)) for key, value in self.pairs))

    def configure(self, draft: Draft) -> str:
        for name, value in self.pairs:
            draft.set_environment(name, value)
        return "ENV " + " ".join(f"{name}={value}" for name, value in self.pairs)


class Label(NamedTuple):
    """Attach labels."""

    line: Line
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, line: Line) -> Self:
        return cls(line, pairs(line))

    def expanded(self, expander: Expander) -> Self:
        return self._replace(pairs=tuple((expander.word(key), expander.word(value)) for key, value in self.pairs))

    def configure(self, draft: Draft) -> str:
        draft.config["Labels"] = (draft.config.get("Labels") or {}) | dict(self.pairs)
        return "LABEL " + " ".join(f"{key}={value}" for key, value in self.pairs)


class Maintainer(NamedTuple):
    """Name the author. Deprecated in favour of a label, and still everywhere."""

    line: Line
    author: str

    @classmethod
    def parse(cls, line: Line) -> Self:
        return cls(line, exactly_one(line))

    def expanded(self, expander: Expander) -> Self:
        return self

    def configure(self, draft: Draft) -> str:
        draft.author = self.author
        return f"MAINTAINER {self.author}"


class Expose(NamedTuple):
    """Document the ports that the application listens on."""

    line: Line
    ports: tuple[str, ...]

    @classmethod
    def parse(cls, line: Line) -> Self:
        ports = at_least_one(line, line.arguments())
        values.flags(line)
        return cls(line, tuple(sorted(ports)))

    def expanded(self, expander: Expander) -> Self:
        """Split into words what a variable brings; EXPOSE alone does, for a variable may hold several ports."""
        return self._replace(ports=tuple(port for text in self.ports for port in expander.words(text)))

    def configure(self, draft: Draft) -> str:
        ports: Json = {port: {} for text in self.ports for port in values.container_ports(text)}
        draft.config["ExposedPorts"] = (draft.config.get("ExposedPorts") or {}) | ports
        return "EXPOSE " + " ".join(self.ports)


class Volume(NamedTuple):
    """Name the directories that hold data of their own."""

    line: Line
    paths: tuple[str, ...]

    @classmethod
    def parse(cls, line: Line) -> Self:
        paths = at_least_one(line, line.arguments())
        values.flags(line)
        return cls(line, tuple(paths))._checked()

    def expanded(self, expander: Expander) -> Self:
        return self._replace(paths=tuple(expander.word(path) for path in self.paths))._checked()

    def _checked(self) -> Self:
        paths = tuple(path.strip(words.SPACES) for path in self.paths)
        if not all(paths):
            raise DockerfileError("VOLUME specified can not be an empty string")
        return self._replace(paths=paths)

    def configure(self, draft: Draft) -> str:
        volumes: Json = {path: {} for path in self.paths}
        draft.config["Volumes"] = (draft.config.get("Volumes") or {}) | volumes
        return f"VOLUME [{' '.join(self.paths)}]"


class User(NamedTuple):
    """Run what follows, and the container, as this user."""

    line: Line
    user: str

    @classmethod
    def parse(cls, line: Line) -> Self:
        return cls(line, exactly_one(line))

    def expanded(self, expander: Expander) -> Self:
        return self._replace(user=expander.word(self.user))

    def configure(self, draft: Draft) -> str:
        draft.config["User"] = self.user
        return f"USER {self.user}"


class StopSignal(NamedTuple):
    """Choose the signal that asks the container to end."""

    line: Line
    signal: str

    @classmethod
    def parse(cls, line: Line) -> Self:
        return cls(line, exactly_one(line))

    def expanded(self, expander: Expander) -> Self:
        return self._replace(signal=expander.word(self.signal))

    def configure(self, draft: Draft) -> str:
        draft.config["StopSignal"] = values.signal_name(self.signal)
        return f"STOPSIGNAL {self.signal}"
