"""A pull, pictured while it goes on: which layers travel side by side, and when each is unpacked."""

import time

from minidocker import engine as stories
from minidocker.build.values import human_size
from minidocker.course.widgets import drawing
from minidocker.course.widgets.picture import Picture, open_engine
from minidocker.engine import Engine
from minidocker.progress import Progress

REDRAWN = 0.15  # seconds: more often than that nobody sees
PHASES = {
    "Downloading": "blue",
    "Verifying Checksum": "violet",
    "Extracting": "green",
}


class Layer:
    """What was told of one layer: when each phase began and ended, and how far it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = ""
        self.current = self.total = self.size = 0
        self.phases: dict[str, tuple[float, float]] = {}

    def take(self, news: Progress, when: float) -> None:
        """Note one piece of news."""
        if news.status in PHASES:
            begin, _ = self.phases.get(news.status, (when, when))
            self.phases[news.status] = (begin, when)
        elif self.status in PHASES:  # what comes next ends what went on
            self.phases[self.status] = (self.phases[self.status][0], when)
        self.status, self.current, self.total = news.status, news.current, news.total
        self.size = max(self.size, news.total)


class Pulling(Picture):
    """A pull that goes on or is done."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.layers: dict[str, Layer] = {}
        self.told: list[str] = []
        self.begin = self.now = time.monotonic()
        self._drawn = 0.0
        self.problem = ""
        self.title = f"Pulling {name}"

    def report(self, news: Progress) -> None:
        """Take one piece of news; the engine calls this, one call at a time."""
        self.now = time.monotonic()
        if news.id and "ulling from" not in news.status:
            self.layers.setdefault(news.id, Layer(news.id)).take(news, self.now - self.begin)
        else:
            self.told.append(f"{news.id}: {news.status}" if news.id else news.status)
        if self.now - self._drawn > REDRAWN:
            self._drawn = self.now
            self.redraw()

    def text(self) -> str:
        """Say what the terminal would, and when each layer did what."""
        lines = [f"{self.title}: {self.now - self.begin:.2f} s.", *self.told]
        for layer in self.layers.values():
            phases = [f"{name.lower()} {a:.2f}–{b:.2f} s" for name, (a, b) in layer.phases.items()]
            size = f" ({human_size(layer.size)})" if layer.size else ""
            lines.append(f"  {layer.name}{size}: {layer.status}{': ' if phases else ''}{', '.join(phases)}")
        return "\n".join([*lines, *filter(None, [self.problem])])

    def body(self) -> str:
        """Draw a track a layer, from the pull's begin to now."""
        span = max(self.now - self.begin, 1e-6)
        shown = [drawing.row(*(drawing.chip(name.lower(), tone) for name, tone in PHASES.items()))]
        for layer in self.layers.values():
            bars = [(a / span, min(b / span, 1.0), PHASES[name]) for name, (a, b) in layer.phases.items()]
            shown.append(
                drawing.row(
                    drawing.cell(drawing.span(layer.name, "mono"), 96),
                    f'<div class="grow">{drawing.track(bars)}</div>',
                    drawing.cell(human_size(layer.size) if layer.size else "", 70, right=True),
                    drawing.cell(drawing.span(_how_far(layer), "dim"), 150),
                )
            )
        scale = f'<div class="grow row dim" style="justify-content:space-between"><span>0 s</span>{span:.2f} s</div>'
        shown.append(drawing.row(drawing.cell("", 96), scale, drawing.cell("", 70), drawing.cell("", 150)))
        said = "".join(f"<div>{drawing.escape(line)}</div>" for line in self.told)
        problem = drawing.note(self.problem, "red") if self.problem else ""
        return "".join(shown) + f'<div style="margin-top:6px">{said}</div>' + problem


def _how_far(layer: Layer) -> str:
    if layer.total and layer.current < layer.total:
        return f"{layer.status} {100 * layer.current // layer.total} %"
    return layer.status


def pulling(name: str, platform: str = "", engine: Engine | None = None) -> Pulling:
    """Pull an image, and draw the pull while it goes on and when it is done.

    Raises: what `minidocker.engine.pull` raises; the picture shows how far it was.
    """
    picture = Pulling(name)
    engine = engine or open_engine()
    picture.show_live()
    try:
        stories.pull(engine, name, platform, picture.report)
    except BaseException as error:
        picture.problem = str(error) or type(error).__name__
        raise
    finally:
        picture.now = time.monotonic()
        picture.finish()
    return picture
