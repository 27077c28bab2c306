"""The life of a container as a diagram, with the state lit that it is in now."""

from typing import Any, NamedTuple

from minidocker.container.records import CREATED, EXITED, RUNNING, Container
from minidocker.course.widgets import drawing
from minidocker.course.widgets.picture import Picture, following, open_engine
from minidocker.engine import Engine
from minidocker.errors import ContainerNotFound

REMOVED = "removed"


class Way(NamedTuple):
    """An arrow: what leads from one state to another; `at` is where its words stand, `points` how it is drawn."""

    origin: str
    end: str
    command: str
    points: tuple[tuple[float, float], ...]
    at: tuple[float, float]
    anchor: str = "middle"


STATES = {
    CREATED: (140.0, 104.0, "amber", "a record and a root, no process"),
    RUNNING: (410.0, 104.0, "green", "its program has process id 1"),
    EXITED: (680.0, 104.0, "blue", "changes and log are kept"),
    REMOVED: (410.0, 262.0, "grey", "nothing is left"),
}
SIZE = (204.0, 60.0)

WAYS = (
    Way("", CREATED, "create", ((2, 134), (37, 134)), (0, 122), "start"),
    Way("", RUNNING, "run", ((2, 30), (360, 30), (360, 103)), (180, 22)),
    Way(CREATED, RUNNING, "start", ((243, 134), (307, 134)), (275, 125)),
    Way(RUNNING, EXITED, "its end, stop, kill", ((460, 103), (460, 70), (630, 70), (630, 103)), (545, 61)),
    Way(EXITED, RUNNING, "start", ((577, 134), (513, 134)), (545, 125)),
    Way(RUNNING, RUNNING, "restart", ((392, 103), (392, 48), (430, 48), (430, 103)), (411, 39)),
    Way(CREATED, REMOVED, "rm", ((140, 165), (140, 292), (307, 292)), (148, 232), "start"),
    Way(RUNNING, REMOVED, "rm --force", ((410, 165), (410, 261)), (418, 217), "start"),
    Way(EXITED, REMOVED, "rm, or by itself (--rm)", ((680, 165), (680, 292), (513, 292)), (672, 232), "end"),
)


class Life(Picture):
    """A container's state among all that it could be in."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name, self.engine = name, engine
        self.look()

    def look(self) -> None:
        """Find the container; one that is not there has been removed, or never was."""
        self.container: Container | None
        try:
            self.container = self.engine.containers.get(self.name)
        except ContainerNotFound:
            self.container = None
        self.state = self.container.state.status if self.container else REMOVED
        shown = self.container.name if self.container else drawing.clip(self.name, 40)
        self.title = f"The life of {shown}: {self.state}"

    def controls(self) -> list[Any]:
        """Let the reader follow it."""
        return following(self)

    def facts(self) -> str:
        """Say what the state file and /proc tell."""
        if self.container is None:
            return f"There is no container {self.name}: it was removed, or never made."
        state = self.container.state
        if state.status == RUNNING:
            return f"Process {state.pid} runs since {state.started[:19].replace('T', ' ')} UTC."
        if state.status == CREATED:
            return "It has not run yet." + (f" It could not be started: {state.error}" if state.error else "")
        ended = f"It ended at {state.finished[:19].replace('T', ' ')} UTC" if state.finished else "It ended"
        more = ", killed for want of memory" if state.oom_killed else ""
        return f"{ended} with exit code {state.exit_code}{more}." + (f" {state.error}" if state.error else "")

    def text(self) -> str:
        """Say the state, and what leads on from it."""
        lines = [f"{self.title}.", self.facts(), ""]
        lines += [f"{name}: {meaning}" for name, (_, _, _, meaning) in STATES.items()]
        for way in WAYS:
            mark = "→ " if way.origin == self.state else "  "
            lines.append(f"{mark}{way.origin or '(nothing)'} → {way.end}: {way.command}")
        lines.append("There is no paused: minidocker leaves pause and unpause out.")
        return "\n".join(lines)

    def body(self) -> str:
        """Draw states and arrows; lit are the state it is in and the ways on from it."""
        parts = []
        for way in WAYS:
            open_now = way.origin == self.state
            parts.append(drawing.arrow(way.points, STATES[self.state][2] if open_now else "grey"))
            kind = "small strong" if open_now else "small dim"
            parts.append(drawing.words(*way.at, way.command, kind, way.anchor))
        for name, (x, y, tone, meaning) in STATES.items():
            width, height = SIZE
            here = name == self.state
            parts.append(drawing.box(x - width / 2, y, width, height, tone, "lit" if here else "empty"))
            parts.append(drawing.words(x, y + 26, name, "strong" if here else "", "middle"))
            parts.append(drawing.words(x, y + 45, meaning, "small dim", "middle"))
        parts.append(drawing.words(818, 318, "paused: not in minidocker", "small dim", "end"))
        return drawing.svg(330, *parts) + f"<div>{drawing.escape(self.facts())}</div>"


def life(container: Any) -> Life:
    """Draw the life of a container, by name or as the Python API has it. One that is unknown is shown as removed.

    Raises: AmbiguousPrefix.
    """
    engine = getattr(container, "engine", None) or open_engine()
    return Life(container if isinstance(container, str) else container.id, engine)
