"""The engine's stories as chains of functions, with those marked that a learner's code stands in for."""

from typing import Any, NamedTuple

from minidocker.course.widgets import drawing
from minidocker.course.widgets.picture import Picture, following

STORIES = {
    "pull": (
        "image.reference.parse",
        "registry.auth.parse_challenges",
        "image.oci.Index.choose",
        "image.layout.BlobWriter.write",
        "image.unpack.unpack",
        "image.store.ImageStore.add",
    ),
    "build": (
        "build.lines.read",
        "build.words.split_words",
        "build.dockerfile.parse",
        "build.dockerfile.Dockerfile.needed",
        "build.ignore.translate",
        "build.variables.expand",
        "build.cache.key",
        "buildsteps.run_step",
        "build.recording.record",
    ),
    "run": (
        "engine.create",
        "container.ports.parse",
        "storage.prepare",
        "container.lifecycle.start",
        "container.cgroups.plan",
        "linux.userns.map_one",
        "container.leases.take",
        "container.network_links.cable",
        "container.firewall.publish",
        "container.namespaces.be_born",
        "container.rootfs.build",
        "container.rootfs.pivot",
        "container.init.reap",
        "container.records.start_time",
    ),
    "commit": (
        "image.overlay.changes",
        "image.layers.pack",
        "image.oci.chain_ids",
        "versions.after_commit",
    ),
    "push": (
        "registry.credentials.load",
        "registry.client.Registry.has_blob",
        "registry.client.Registry.upload",
        "registry.client.Registry.put_manifest",
        "registry.depot.Depot.upload_offset",
    ),
}

HOME = {"image": "pull", "registry": "push", "build": "build", "versions": "commit"}  # of folders; the rest is `run`'s


class Part(NamedTuple):
    """A function of the engine: the exercise that asks for it, whether the learner's stands in, how often it ran."""

    name: str
    exercise: str = ""
    mine: bool = False
    called: int = 0

    @property
    def short(self) -> str:
        """Its module and its own name."""
        return ".".join(self.name.removeprefix("minidocker.").split(".")[1:]) or self.name


class EngineMap(Picture):
    """The stories, each function marked as the engine's, as one that an exercise asks for, or as the learner's."""

    def __init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Ask which functions are the learner's, and how often they were called."""
        known = {part.name: part for part in _parts()}
        self.stories: dict[str, list[Part]] = {}
        for story, names in STORIES.items():
            self.stories[story] = [known.pop(f"minidocker.{n}", Part(f"minidocker.{n}")) for n in names]
        for part in known.values():
            self._place(part)
        every = [part for parts in self.stories.values() for part in parts]
        self.mine = sum(part.mine for part in every)
        self.asked = sum(bool(part.exercise) for part in every)
        self.title = f"The engine: {self.mine} of {self.asked} functions that the exercises ask for are yours"

    def _place(self, part: Part) -> None:
        """Put a function that an exercise asks for behind those of its module, or at the end of its folder's story."""
        module = part.name.rpartition(".")[0]
        for parts in self.stories.values():
            beside = [at for at, other in enumerate(parts, 1) if f"{other.name}.".startswith(f"{_module(module)}.")]
            if beside:
                parts.insert(beside[-1], part)
                return
        self.stories[HOME.get(part.name.split(".")[1], "run")].append(part)

    def controls(self) -> list[Any]:
        """Let the reader follow the calls."""
        return following(self)

    def text(self) -> str:
        """Say each story, a function a line."""
        lines = [f"{self.title}."]
        for story, parts in self.stories.items():
            lines.append(f"{story}:")
            lines += [f"  {part.name.removeprefix('minidocker.')}{_words(part)}" for part in parts]
        return "\n".join(lines)

    def body(self) -> str:
        """Draw a line of functions a story."""
        legend = drawing.row(drawing.chip("yours", "green"), drawing.chip("an exercise", "blue"), drawing.chip("given"))
        shown = [legend]
        for story, parts in self.stories.items():
            chain = '<span class="dim">→</span>'.join(_draw(part) for part in parts)
            style = "display:flex;flex-wrap:wrap;gap:6px;align-items:center"
            name = drawing.cell(drawing.span(story, "strong"), 96)
            shown.append(
                f'<div class="row" style="margin-top:10px">{name}<div class="grow" style="{style}">{chain}</div></div>'
            )
        return "".join(shown)


def _module(name: str) -> str:
    """Return the module's name of a class in it: a module's name is in small letters, and a class's is not."""
    return ".".join(part for part in name.split(".") if part == part.lower())


def _words(part: Part) -> str:
    said = [f"exercise {part.exercise}"] if part.exercise else []
    said += ["yours"] if part.mine else []
    said += [f"called {part.called} times" if part.called != 1 else "called once"] if part.called or part.mine else []
    return f": {', '.join(said)}" if said else ""


def _draw(part: Part) -> str:
    tone = "green" if part.mine else "blue" if part.exercise else "grey"
    calls = f" {part.called}×" if part.called else ""
    hint = drawing.escape(f"{part.name}{_words(part)}")
    quiet = " dim" if tone == "grey" else ""
    inside = f'<span class="mono">{drawing.escape(part.short)}</span><span class="strong">{calls}</span>'
    return f'<span class="chip {tone}{quiet}" title="{hint}">{inside}</span>'


def _parts() -> list[Part]:
    """Return what is known of the functions that exercises ask for."""
    from minidocker.course import use

    return [Part(*part) for part in use.parts()]


def engine_map() -> EngineMap:
    """Draw which of the engine's functions are the learner's, along its stories, and how often they were called."""
    return EngineMap()
