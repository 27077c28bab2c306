"""How a container's file is looked up: through the overlay's upper directory and then the layers below it.

See: the kernel's filesystems/overlayfs.rst, Upper and Lower, whiteouts and opaque directories.
"""

import os
from typing import Any, NamedTuple

from minidocker import storage
from minidocker.container import rootfs
from minidocker.course.widgets import drawing, tree
from minidocker.course.widgets.picture import Picture, find, mounts
from minidocker.errors import MinidockerError

WHAT = {
    "upper": "what this container has changed",
    "init": "mount points that the image lacks",
}


class Level(NamedTuple):
    """One directory of the stack: what it is called, where it lies, what it says, and whether it was asked at all."""

    name: str
    folder: str
    place: tree.Place
    asked: bool


class Stack(Picture):
    """A container's stack, and the way of one path through it."""

    def __init__(self, what: Any, path: str) -> None:
        self.what, self.asked_for = what, path
        self.look()

    def look(self) -> None:
        """Ask every directory of the stack for the path."""
        self.engine, self.container = find(self.what)
        folder = self.engine.containers.path(self.container.id)
        self.copied = os.path.isdir(f"{folder}/rootfs")
        folders = {"upper": f"{folder}/upper", **self._lowers()}
        if self.copied:
            folders = {"rootfs": f"{folder}/rootfs"}
        self.path, self.links = tree.follow(tree.clean(self.asked_for), list(folders.values()))
        self.levels: list[Level] = []
        self.mount = self._mount_over()
        going = not (self.mount and self.container.running)
        for name, where in folders.items():
            place = tree.look(where, self.path)
            self.levels.append(Level(name, where, place, going))
            going = going and not place.stops
        self.title = f"{self.asked_for} in the stack of {self.container.name}"

    def _lowers(self) -> dict[str, str]:
        own, *below = storage.lowers(self.engine, self.container)
        distinct = list(dict.fromkeys(below))
        return {"init": own} | {f"layer {len(distinct) - number}": path for number, path in enumerate(distinct)}

    def _mount_over(self) -> str:
        """Return what is mounted at the path or above it, which hides the whole stack there; "" for nothing."""
        if self.container.running:
            targets = {target: kind for target, kind, _ in mounts(self.container.state.pid) if target != "/"}
        else:
            planned = rootfs.plan(self.container.spec, self.engine.containers.path(self.container.id))
            targets = {attach.target: attach.fstype or "bind" for attach in planned}
        over = [target for target in targets if f"{self.path}/".startswith(f"{target.rstrip('/')}/")]
        target = max(over, key=len, default="")
        return f"{targets[target]} mounted at {target}" if target else ""

    def controls(self) -> list[Any]:
        """Let the reader ask for another path."""
        import ipywidgets

        field = ipywidgets.Text(value=self.asked_for, description="path", continuous_update=False)

        def ask(_change: Any) -> None:
            before = self.asked_for
            self.asked_for = field.value
            try:
                self.look()
            except MinidockerError as error:
                self.asked_for, self.title = before, str(error)
            self.redraw()

        field.observe(ask, "value")
        again = ipywidgets.Button(description="Look again", icon="refresh")
        again.on_click(ask)
        return [field, again]

    # What it comes to

    def found(self) -> list[Level]:
        """Return the levels that make up what the container sees: one for a file, several for a merged directory."""
        asked = [level for level in self.levels if level.asked and level.place.kind not in ("absent", "whiteout")]
        if asked and asked[0].place.kind == "directory":
            return [level for level in asked if level.place.kind == "directory"]
        return asked[:1]

    def verdict(self) -> str:
        """Say where the lookup ends."""
        found = self.found()
        if self.mount and self.container.running:
            return f"The stack is not asked: a mount lies over it ({self.mount})."
        if not found:
            by = next((level for level in self.levels if level.asked and level.place.stops), None)
            if by:
                return f"Not there. In {by.name}: {by.place.hides}. What is below is hidden."
            return "Not there: no directory of the stack has it."
        first, kind = found[0], found[0].place.kind
        if kind == "directory":
            names = ", ".join(level.name for level in found)
            return f"A directory, merged from {names}." if len(found) > 1 else f"A directory, of {names} alone."
        what = f"a link to {first.place.target}" if kind == "link" else f"a {kind}"
        below = [level for level in self.levels if not level.asked and level.place.kind not in ("absent", "whiteout")]
        if first.name == "upper" and below:
            return f"Found in upper, {what}: the container's own copy. The original is still in {below[0].name}."
        hidden = f" It hides the one in {below[0].name}." if below else ""
        return f"Found in {first.name}, {what}.{hidden}"

    def says(self, level: Level) -> str:
        """Say in words what one directory has."""
        kind, hides = level.place.kind, level.place.hides
        words = {"absent": "does not have it", "whiteout": "a whiteout: it is deleted here", "directory": "a directory"}
        said = words.get(kind, f"has it: a {kind}") + (f" to {level.place.target}" if kind == "link" else "")
        if hides and kind != "whiteout":
            said += f"; {hides}: what is below is hidden"
        if not level.asked:
            said = "not asked" + (f" (a {kind} of that name is here, hidden)" if kind != "absent" else "")
        return said

    def _description(self, level: Level) -> str:
        if level.name in WHAT:
            return WHAT[level.name]
        if level.name == "rootfs":
            return "a full copy of the image: overlayfs cannot be used here"
        return os.path.basename(level.folder)[:12]

    def text(self) -> str:
        """Say each level from the top."""
        lines = [f"{self.title}.", *self.links]
        if self.mount:
            lines.append(f"  over it: {self.mount}" + ("" if self.container.running else ", once it runs"))
        lines += [f"  {level.name} ({self._description(level)}): {self.says(level)}" for level in self.levels]
        if not self.container.running:
            lines.append(f"{self.container.name} is not running: nothing is mounted now, the directories are there.")
        return "\n".join([*lines, self.verdict()])

    def body(self) -> str:
        """Draw the levels as cards, the topmost first, and say where the lookup ends."""
        cards = [drawing.note(text) for text in self.links]
        if self.mount:
            later = "" if self.container.running else ", once it runs"
            cards.append(drawing.card(drawing.escape(f"over it: {self.mount}{later}"), "violet"))
        cards.append(drawing.span("asked from the top down ↓", "dim"))
        found = self.found()
        for level in self.levels:
            tone = "grey"
            if level in found:
                tone = "green"
            elif level.asked and level.place.stops:
                tone = "red"
            name = drawing.cell(drawing.span(level.name, "strong"), 70)
            about = drawing.cell(drawing.span(self._description(level), "dim"))
            says = drawing.cell(drawing.span(self.says(level), "" if level.asked else "dim"))
            cards.append(drawing.card(drawing.row(name, about, says), tone, quiet=not level.asked))
        if not self.container.running:
            cards.append(drawing.note("not running: nothing is mounted now, the directories are there"))
        return "".join(cards) + f'<div class="strong">{drawing.escape(self.verdict())}</div>'


def stack(container: Any, path: str = "/etc/passwd") -> Stack:
    """Draw how a path is looked up in a container's stack of directories.

    Raises: ContainerNotFound, InvalidArgument for what is no path.
    """
    return Stack(container, path)
