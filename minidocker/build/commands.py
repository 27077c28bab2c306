"""The instructions that hold a command line: CMD, ENTRYPOINT, SHELL, HEALTHCHECK, and ONBUILD, which holds a line.

Variables in them are not replaced here: the shell does that when the command runs.

See: Dockerfile reference, Shell and exec form.
"""

# The verbs are documented once, in `instructions.Instruction`.
# ruff: noqa: D102

import re
from typing import NamedTuple, Self

from minidocker.build import values, words
from minidocker.build.draft import Draft, Json
from minidocker.build.expander import Expander
from minidocker.build.instructions import at_least_one
from minidocker.build.lines import Line
from minidocker.errors import DockerfileError


class CommandLine(NamedTuple):
    """A command as exec form (`["a", "b"]`: run as it is) or shell form (run by the image's shell)."""

    parts: tuple[str, ...]
    exec_form: bool

    def arguments(self, shell: list[str]) -> list[str]:
        """Return what is executed; empty for no command at all."""
        if self.exec_form or not self.parts:
            return list(self.parts)
        return [*shell, " ".join(self.parts)]


class Cmd(NamedTuple):
    """Choose the default command, or the default arguments of the entry point."""

    line: Line
    command: CommandLine

    @classmethod
    def parse(cls, line: Line) -> Self:
        values.flags(line)
        return cls(line, CommandLine(*line.arguments()))

    def expanded(self, expander: Expander) -> Self:
        return self

    def configure(self, draft: Draft) -> str:
        arguments = self.command.arguments(draft.shell)
        draft.config["Cmd"] = arguments
        draft.command_set = bool(arguments)
        return f"CMD {values.go_strings(arguments)}"


class Entrypoint(NamedTuple):
    """Choose the program that is always run. A CMD from the base image no longer makes sense then."""

    line: Line
    command: CommandLine

    @classmethod
    def parse(cls, line: Line) -> Self:
        values.flags(line)
        return cls(line, CommandLine(*line.arguments()))

    def expanded(self, expander: Expander) -> Self:
        return self

    def configure(self, draft: Draft) -> str:
        arguments = self.command.arguments(draft.shell)
        draft.config["Entrypoint"] = arguments
        if not draft.command_set:
            draft.config.pop("Cmd", None)
        return f"ENTRYPOINT {values.go_strings(arguments)}"


class Shell(NamedTuple):
    """Choose the shell of all later commands in shell form."""

    line: Line
    shell: tuple[str, ...]

    @classmethod
    def parse(cls, line: Line) -> Self:
        values.flags(line)
        arguments = line.arguments()
        shell = at_least_one(line, arguments)
        if not arguments.json:
            raise DockerfileError("SHELL requires the arguments to be in JSON form")
        return cls(line, shell)

    def expanded(self, expander: Expander) -> Self:
        return self

    def configure(self, draft: Draft) -> str:
        draft.config["Shell"] = list(self.shell)
        return f"SHELL [{' '.join(self.shell)}]"


class HealthCheck(NamedTuple):
    """Say how to find out whether the application is well. Times are nanoseconds, 0 where not given."""

    line: Line
    kind: str
    command: CommandLine
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    @classmethod
    def parse(cls, line: Line) -> Self:
        arguments = line.arguments()
        kind = at_least_one(line, arguments)[0].upper()
        command = CommandLine(arguments.words[1:], arguments.json)
        if kind == "NONE":
            if command.parts:
                raise DockerfileError("HEALTHCHECK NONE takes no arguments")
            return cls(line, kind, command)
        times = ("interval", "timeout", "start-period", "start-interval")
        given = values.flags(line, *times, "retries")
        if kind != "CMD":
            raise DockerfileError(f"Unknown type {words.quote(kind)} in HEALTHCHECK (try CMD)")
        if not command.parts:
            raise DockerfileError("Missing command after HEALTHCHECK CMD")
        interval, timeout, start, start_interval = (
            values.optional_duration(name, given.get(name, "")) for name in times
        )
        retries = _retries(given.get("retries") or "0")
        return cls(line, kind, command, interval, timeout, start, start_interval, retries)

    def expanded(self, expander: Expander) -> Self:
        return self

    def configure(self, draft: Draft) -> str:
        kind = "CMD-SHELL" if self.kind == "CMD" and not self.command.exec_form else self.kind
        test = [kind, *self.command.parts]
        check: Json = {"Test": test}
        times = {
            "Interval": self.interval,
            "Timeout": self.timeout,
            "StartPeriod": self.start_period,
            "StartInterval": self.start_interval,
            "Retries": self.retries,
        }
        draft.config["Healthcheck"] = check | {name: value for name, value in times.items() if value}
        shown = " ".join(
            words.quote(values.go_duration(time)) for time in (self.interval, self.timeout, self.start_period)
        )
        return f"HEALTHCHECK &{{{values.go_strings(test)} {shown} '\\x{self.retries:02x}'}}"


def _retries(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        raise DockerfileError(f"HEALTHCHECK --retries={text} is not a number")
    if int(text) < 0:
        raise DockerfileError(f"--retries cannot be negative ({int(text)})")
    return int(text)


class OnBuild(NamedTuple):
    """Keep a line for the builds that start FROM this image."""

    line: Line
    trigger: str

    @classmethod
    def parse(cls, line: Line) -> Self:
        if not line.rest:
            raise DockerfileError("ONBUILD requires at least one argument")
        values.flags(line)
        name, _, rest = words.split_command(line.rest)
        keyword = name.upper()
        if keyword == "ONBUILD":
            raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
        if keyword in ("MAINTAINER", "FROM"):
            raise DockerfileError(f"{keyword} isn't allowed as an ONBUILD trigger")
        words.arguments(keyword, rest, line.escape)  # what cannot be read is refused here, what is wrong when it runs
        documents = "".join(f"\n{document.content}{document.name}" for document in line.documents)
        return cls(line, re.sub(r"(?i)^\s*ONBUILD\s*", "", line.text) + documents)

    def expanded(self, expander: Expander) -> Self:
        return self

    def configure(self, draft: Draft) -> str:
        draft.config["OnBuild"] = [*(draft.config.get("OnBuild") or []), self.trigger]
        return f"ONBUILD {self.trigger}"
