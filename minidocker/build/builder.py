"""The build: parse, then for each instruction look it up or carry it out, and record an image.

What is printed is what docker's classic builder prints.
"""

import codecs
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from minidocker.build import dockerfile, recording
from minidocker.build.cache import Cache, key
from minidocker.build.changes import apply_changes
from minidocker.build.context import Context, open_context
from minidocker.build.dockerfile import Dockerfile, Stage
from minidocker.build.draft import PREDEFINED, Arguments, Draft, platform_arguments
from minidocker.build.expander import Expander
from minidocker.build.instructions import Instruction, Label
from minidocker.build.lines import Line
from minidocker.build.recording import Base
from minidocker.build.steps import Made, RunResult, RunStep, Site, Step, prepare
from minidocker.build.tree import Tree
from minidocker.build.values import human_size
from minidocker.build.workspace import Workspace, workspace
from minidocker.errors import BuildError, DockerfileError, InvalidReference, MinidockerError
from minidocker.image import reference
from minidocker.image.oci import Platform, host_platform
from minidocker.image.store import Image, ImageStore

__all__ = ["BuildOptions", "RunResult", "RunStep", "apply_changes", "build"]

_Any = TypeVar("_Any", bound=Instruction)
_Given = TypeVar("_Given")
_Ready = TypeVar("_Ready")
_Result = TypeVar("_Result")
Resolve = Callable[[str, str, bool], Image]
Run = Callable[[RunStep], RunResult]


class BuildOptions(NamedTuple):
    """What `build` was asked for. `dockerfile` is the Dockerfile's text, `file` where it came from (`-` for stdin)."""

    dockerfile: str
    file: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str | None] = {}
    target: str = ""
    no_cache: bool = False
    pull: bool = False
    labels: Mapping[str, str] = {}
    network: str = "bridge"
    quiet: bool = False
    platform: str = ""

    @property
    def name(self) -> str:
        """What messages call the Dockerfile."""
        return "Dockerfile" if self.file == "-" else os.path.basename(self.file)


def build(
    store: ImageStore, context: str, options: BuildOptions, out: Callable[[str], None], run: Run, resolve: Resolve
) -> str:
    """Build an image from a Dockerfile and the folder `context` (empty for none); return the image's id.

    `run` carries out RUN; `resolve(name, platform, pull)` finds the image of a FROM, fetching it where needed.
    Whatever happens, nothing is left behind but the images of the steps that succeeded.
    Raises DockerfileError, BuildError (with the exit code of the command that failed), InvalidReference, and what
    `run` and `resolve` raise.
    """
    tags = [reference.parse(tag) for tag in options.tags]
    for tag in tags:
        if tag.digest:
            raise InvalidReference(f"refusing to create a tag with a digest reference: {tag.familiar}")
    parsed = dockerfile.parse(options.dockerfile, options.name)
    opened = open_context(context, "" if options.file == "-" else options.file)
    kept: list[str] = []
    with workspace(f"{store.root}/build/tmp") as folder:
        builder = _Builder(store, parsed, opened, options, folder, kept.append if options.quiet else out, run, resolve)
        try:
            image = builder.build()
        except MinidockerError:
            out("".join(kept))
            raise
    for tag in tags:
        store.tag(image, tag)
    if options.quiet:
        out(f"{image.id}\n")
    else:
        out(f"Successfully built {image.short_id}\n")
        out("".join(f"Successfully tagged {tag.familiar}\n" for tag in tags))
    return image.id


def carry_out(
    instructions: Iterable[_Given],
    base: _Result,
    prepare: Callable[[_Given, _Result], _Ready],
    find: Callable[[_Ready], _Result | None],
    make: Callable[[_Ready], _Result],
    record: Callable[[_Ready, _Result], None],
) -> _Result:
    """Carry instructions out in turn, each on the image that the one before made; return the last image.

    `prepare` makes an instruction ready for the image so far. What `find` still knows is not made again; what `make`
    made is recorded, and only when it is whole: an exception ends the loop, and the next build resumes at that step.
    """
    for instruction in instructions:
        work = prepare(instruction, base)
        found = find(work)
        if found is None:
            found = make(work)
            record(work, found)
        base = found
    return base


class _Work(NamedTuple):
    """One instruction, ready to be carried out on `base`. What a base image's trigger does is not `shown`."""

    step: Step
    site: Site
    base: Base
    key: str
    shown: bool


class _Builder:
    """One build under way: the stages that are done, and the number of the step."""

    def __init__(
        self,
        store: ImageStore,
        parsed: Dockerfile,
        context: Context,
        options: BuildOptions,
        folder: Workspace,
        out: Callable[[str], None],
        run: Run,
        resolve: Resolve,
    ) -> None:
        self.store = store
        self.parsed = parsed
        self.context = context
        self.options = options
        self.folder = folder
        self.out = out
        self.run = run
        self.resolve = resolve
        self.cache = Cache(f"{store.root}/build/cache", store)
        self.outside = platform_arguments(options.platform)
        self.consumed: set[str] = set()
        self.new: set[str] = set()
        self.done: dict[int, Base] = {}
        self.declared: dict[int, dict[str, str | None]] = {}
        self.number = 0
        self.total = 0

    def build(self) -> Image:
        """Carry out what the target needs, stage by stage; return the target's image."""
        target = self._target()
        self._declare_outside()
        bases = [self._expanded(stage.start, self.outside).base for stage in self.parsed.stages]
        needed = self.parsed.needed(target, bases)
        stages = {number: self._instructions(number, target) for number in needed}
        self.total = len(self.parsed.arguments) + sum(1 + len(each) for each in stages.values())
        if not self.options.quiet:
            self.out(f"Sending build context to minidocker {human_size(self.context.size()):>8}\n")
        for argument in self.parsed.arguments:
            self._announce(argument)
        for number in needed:
            self.done[number] = self._stage(number, self.parsed.stages[number], stages[number])
        image = self.done[target].image
        if image is None:
            raise BuildError("No image was generated. Is your Dockerfile empty?")
        unused = sorted(self.options.build_args.keys() - self.consumed - PREDEFINED)
        if unused:
            self.out(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        return image

    def _declare_outside(self) -> None:
        """Carry out the ARGs before the first FROM: only FROM sees them, and a later ARG of the same name."""
        for argument in self.parsed.arguments:
            for name, default in self._expanded(argument, self.outside).declared:
                given = self.options.build_args.get(name)
                self.consumed.add(name)
                if given is not None or default is not None:
                    self.outside[name] = given if given is not None else default or ""

    def _target(self) -> int:
        if not self.options.target:
            return len(self.parsed.stages) - 1
        number = self.parsed.stage_number(self.options.target)
        if number is None:
            raise BuildError(f"failed to reach build target {self.options.target} in Dockerfile")
        return number

    def _instructions(self, number: int, target: int) -> tuple[Instruction, ...]:
        """Return a stage's instructions, and at the target's end the labels of the command line."""
        written = self.parsed.stages[number].instructions
        if number != target or not self.options.labels:
            return written
        given = sorted(self.options.labels.items())
        text = "LABEL " + " ".join(f"{name}={value}" for name, value in given)
        pairs = tuple((_protected(name), _protected(value)) for name, value in given)
        return (*written, Label(Line(0, 0, text, "LABEL", (), "", "\\"), pairs))

    # One stage

    def _stage(self, number: int, stage: Stage, instructions: tuple[Instruction, ...]) -> Base:
        self._announce(stage.start)
        start = self._expanded(stage.start, self.outside)
        base = self._start(start.base, start.platform or self.options.platform, number)
        parent = self.parsed.base_stage(start.base, number)
        arguments = Arguments(self.options.build_args, self.outside, {} if parent is None else self.declared[parent])
        draft = Draft(base.config.config, base.config.author, arguments)
        triggers = draft.config.pop("OnBuild", None) or []
        if triggers:
            self.out(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n")
        asked = map(self._trigger, triggers)
        prepare = partial(self._prepare, draft, number)
        base = carry_out(asked, base, partial(prepare, False), self._find, self._make, self._record)
        self._show(base)
        base = carry_out(instructions, base, partial(prepare, True), self._find, self._make, self._record)
        self.consumed |= arguments.consumed
        self.declared[number] = arguments.declared
        return base

    def _start(self, name: str, platform: str, number: int) -> Base:
        """Find what a stage starts from: nothing, an earlier stage, or an image."""
        if name == "scratch":
            return recording.scratch(Platform.parse(platform) if platform else host_platform())
        earlier = self.parsed.base_stage(name, number)
        if earlier is not None:
            return self.done[earlier]
        image = self.resolve(name, platform, self.options.pull)
        return recording.base_of(self.store, image)

    def _prepare(self, draft: Draft, number: int, shown: bool, instruction: Instruction, base: Base) -> _Work:
        """Make an instruction ready to be carried out on `base`, and say by which key the cache knows it."""
        if shown:
            self._announce(instruction)
        site = self._site(base, draft, number)
        expanded = self._expanded(instruction, draft.variables())
        try:
            step = prepare(expanded, site)
        except DockerfileError as error:
            raise self._located(error, instruction) from None
        return _Work(step, site, base, key(base.id, (str(base.config.platform), *self._identity(step, draft))), shown)

    def _find(self, work: _Work) -> Base | None:
        found = None if self.options.no_cache else self.cache.find(work.key)
        if found is None:
            return None
        self.out(" ---> Using cache\n")
        return self._made(work, recording.base_of(self.store, found))

    def _make(self, work: _Work) -> Base:
        step, site = work.step, work.site
        if step.container:
            self.out(f" ---> Running in {site.container_id[:12]}\n")
        made = step.make() if step.make is not None else Made("", lambda: None)
        try:
            base = recording.record(self.store, work.base, site.draft, step.created_by, made.upper)
        finally:
            made.discard()
        self.new.add(base.id)  # nobody can have built on it before
        if step.container:
            self.out(f"Removing intermediate container {site.container_id[:12]}\n")
        return self._made(work, base)

    def _made(self, work: _Work, base: Base) -> Base:
        if work.shown:
            self._show(base)
        return base

    def _record(self, work: _Work, base: Base) -> None:
        if base.image is not None:
            self.cache.record(work.key, base.image)

    def _site(self, base: Base, draft: Draft, number: int) -> Site:
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        layers = base.config.diff_ids
        return Site(
            draft,
            self._tree(base),
            layers,
            self.context,
            self.folder,
            lambda name: self._origin(name, number),
            self.run,
            self.options.network or "bridge",
            lambda data: self.out(decoder.decode(data)),
            os.urandom(32).hex(),
            base.id,
            self.options.no_cache or base.id in self.new,
        )

    def _identity(self, step: Step, draft: Draft) -> tuple[str, ...]:
        """Return all that a step's result depends on beside the image below it."""
        import json

        config = json.dumps(draft.config, sort_keys=True)
        return (step.created_by, config, draft.author, *step.identity)

    def _tree(self, base: Base) -> Tree:
        return Tree(tuple(self.store.layer_path(diff_id) for diff_id in reversed(base.config.diff_ids)))

    def _origin(self, name: str, number: int) -> Tree:
        """Find what COPY --from names: an earlier stage by name or number, or an image."""
        stage = self.parsed.stage_number(name, number)
        if stage in self.done:
            return self._tree(self.done[stage])
        if name.isdigit():
            problem = "refers to current build stage" if int(name) == number else "index out of bounds"
            raise BuildError(f"invalid from flag value {name}: {problem}")
        try:
            image = self.resolve(name, self.options.platform, False)
        except MinidockerError as error:
            raise BuildError(f"invalid from flag value {name}: {error}") from error
        return self._tree(recording.base_of(self.store, image))

    # What is said

    def _announce(self, instruction: Instruction) -> None:
        self.number += 1
        self.out(f"Step {self.number}/{self.total} : {instruction.line.text}\n")

    def _show(self, base: Base) -> None:
        self.out(f" ---> {base.image.short_id if base.image is not None else ''}\n")

    def _expanded(self, instruction: _Any, variables: Mapping[str, str]) -> _Any:
        try:
            return instruction.expanded(Expander(variables, self.parsed.escape))
        except DockerfileError as error:
            raise self._located(error, instruction) from None

    def _trigger(self, text: str) -> Instruction:
        try:
            return dockerfile.parse_trigger(text)
        except DockerfileError as error:
            raise DockerfileError(f"ONBUILD {text}, which the base image asks for: {error}") from None

    def _located(self, error: DockerfileError, instruction: Instruction) -> DockerfileError:
        """Add the line to an error that an instruction of this file, not of a base image's trigger, has met."""
        own = any(instruction.line is one.line for one in self.parsed.instructions)
        line = instruction.line.first if own else 0
        return DockerfileError(dockerfile.located(str(error), self.options.dockerfile, line, self.options.name), line)


def _protected(text: str) -> str:
    """Quote a text so that replacing variables gives it back."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
