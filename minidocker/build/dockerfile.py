"""A Dockerfile's text as typed instructions in their stages. Pure: nothing is read, run or looked up.

The grammar is BuildKit's (`docker/dockerfile:1`), and so are the messages, to which the line is added.
"""

from collections.abc import Sequence
from typing import NamedTuple

from minidocker.build import commands, filesteps, instructions, lines, words
from minidocker.build.instructions import Arg, From, Instruction
from minidocker.build.lines import Line
from minidocker.errors import DockerfileError

KEYWORDS: dict[str, type[Instruction]] = {
    "ADD": filesteps.Add,
    "ARG": instructions.Arg,
    "CMD": commands.Cmd,
    "COPY": filesteps.Copy,
    "ENTRYPOINT": commands.Entrypoint,
    "ENV": instructions.Env,
    "EXPOSE": instructions.Expose,
    "FROM": instructions.From,
    "HEALTHCHECK": commands.HealthCheck,
    "LABEL": instructions.Label,
    "MAINTAINER": instructions.Maintainer,
    "ONBUILD": commands.OnBuild,
    "RUN": filesteps.Run,
    "SHELL": commands.Shell,
    "STOPSIGNAL": instructions.StopSignal,
    "USER": instructions.User,
    "VOLUME": instructions.Volume,
    "WORKDIR": filesteps.Workdir,
}


class Stage(NamedTuple):
    """One FROM and what follows it."""

    start: From
    instructions: tuple[Instruction, ...]


class Dockerfile(NamedTuple):
    """A whole file: the ARGs before the first FROM, then the stages."""

    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str
    warnings: tuple[str, ...] = ()

    @property
    def instructions(self) -> list[Instruction]:
        """All instructions in the order of the file."""
        found: list[Instruction] = [*self.arguments]
        for stage in self.stages:
            found += [stage.start, *stage.instructions]
        return found

    def stage_number(self, name: str, before: int | None = None) -> int | None:
        """Find a stage by its name or its number, counted from 0, among all or those `before` another.

        Of several with one name the last counts.
        """
        stages = self.stages[:before]
        named = [number for number, stage in enumerate(stages) if name and stage.start.name == name.lower()]
        if named:
            return named[-1]
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 6 else len(stages)
        return number if number < len(stages) else None

    def base_stage(self, name: str, number: int) -> int | None:
        """Find the earlier stage, by name only, that the FROM of stage `number` means; None when it is an image."""
        return None if name.isdigit() else self.stage_number(name, number)

    def needed(self, target: int, bases: Sequence[str]) -> list[int]:
        """Return, in order, the stages that the stage `target` is built from, and itself.

        `bases` are what the stages start FROM, variables replaced.
        """
        found: set[int] = set()
        waiting = [target]
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                copies = [one.origin for one in self.stages[number].instructions if isinstance(one, filesteps.Copy)]
                uses = [self.stage_number(name, number) for name in copies]
                uses.append(self.base_stage(bases[number], number))
                waiting += [one for one in uses if one is not None]
        return sorted(found)


def parse(text: str, name: str = "Dockerfile") -> Dockerfile:
    """Parse a whole Dockerfile; `name` is what messages call it.

    Raises DockerfileError, whose message names the line and shows it.
    """
    try:
        if not text:
            raise DockerfileError(f"the Dockerfile ({name}) cannot be empty")
        return _parse(text)
    except DockerfileError as error:
        raise DockerfileError(located(str(error), text, error.line, name), error.line) from None


def _parse(text: str) -> Dockerfile:
    read = lines.read(text)
    arguments: list[Arg] = []
    stages: list[Stage] = []
    for line in read.lines:
        instruction = parse_line(line)
        if isinstance(instruction, From):
            stages.append(Stage(instruction, ()))
        elif stages:
            stages[-1] = stages[-1]._replace(instructions=(*stages[-1].instructions, instruction))
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise DockerfileError("no build stage in current context: the first instruction must be FROM", line.first)
    if not stages:
        problem = "no build stage in current context: there is no FROM" if arguments else "file with no instructions"
        raise DockerfileError(problem)
    return Dockerfile(tuple(arguments), tuple(stages), read.escape, read.warnings)


def parse_line(line: Line) -> Instruction:
    """Make the typed instruction of one logical line. Raises DockerfileError with the line's number."""
    kind = KEYWORDS.get(line.keyword)
    try:
        if kind is None:
            raise DockerfileError(f"unknown instruction: {line.keyword}{_suggestion(line.keyword)}")
        return kind.parse(line)
    except DockerfileError as error:
        raise DockerfileError(str(error), error.line or line.first) from None


def parse_trigger(text: str) -> Instruction:
    """Parse what ONBUILD kept in an image. Raises DockerfileError."""
    instruction = parse_instruction(text)
    if instruction.line.keyword in ("FROM", "ONBUILD", "MAINTAINER"):
        raise DockerfileError(f"{instruction.line.keyword} isn't allowed as an ONBUILD trigger")
    return instruction


def parse_instruction(text: str) -> Instruction:
    """Parse a single instruction. Raises DockerfileError."""
    found = lines.read(text).lines
    if len(found) != 1:
        raise DockerfileError(f"this is not one instruction: {words.quote(text)}")
    return parse_line(found[0])


def located(message: str, text: str, line: int, name: str) -> str:
    """Put the place in front of a message and the line itself below it."""
    if not line:
        return f"{name}: {message}"
    shown = text.removeprefix("\ufeff").split("\n")[line - 1].rstrip("\r")
    return f"{name}:{line}: {message}\n{line:3} | {shown if len(shown) < 200 else shown[:200] + '…'}"


def _suggestion(keyword: str) -> str:
    """Name the instruction that was probably meant."""
    import difflib

    near = difflib.get_close_matches(keyword[:20], KEYWORDS, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""
