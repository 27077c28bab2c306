"""A build, pictured while it goes on: each step, how long it took, and which came from the cache."""

import re
import time
from typing import Any

from minidocker import engine as stories
from minidocker.course.widgets import drawing
from minidocker.course.widgets.picture import Picture, open_engine, project_folder
from minidocker.engine import Engine

LAST_LINES = 4  # of a step's output that the picture shows
_TONES = {"cached": "green", "done": "blue", "at work": "amber", "failed": "red"}


class Step:
    """One step: its instruction, when it began, how it did, and what it wrote."""

    def __init__(self, number: int, text: str, begin: float) -> None:
        self.number, self.text, self.begin = number, text, begin
        self.end = begin
        self.state = "at work"
        self.image = ""
        self.output: list[str] = []


class Building(Picture):
    """A build that goes on or is done, read from the lines that the builder writes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: list[Step] = []
        self.total = 0
        self.told: list[str] = []
        self.problem = ""
        self.begin = self.now = time.monotonic()
        self._rest = ""
        self._drawn = 0.0
        self.title = f"Building {name}"

    def out(self, text: str) -> None:
        """Take what the builder writes, in pieces of any size."""
        self.now = time.monotonic()
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line.rstrip("\r"))
        if lines and self.now - self._drawn > 0.15:
            self._drawn = self.now
            self.redraw()

    def _take(self, line: str) -> None:
        step = self.steps[-1] if self.steps else None
        if begun := re.fullmatch(r"Step (\d+)/(\d+) : (.*)", line):
            self._end_step("done")
            self.total = int(begun[2])
            self.steps.append(Step(int(begun[1]), " ".join(begun[3].split()), self.now - self.begin))
        elif line == " ---> Using cache" and step:
            step.state = "cached"
        elif (image := re.fullmatch(r" ---> ([0-9a-f]{12})?", line)) and step:
            step.image = image[1] or ""
            self._end_step("done")
        elif line.startswith("Success") or not step:
            self.told.append(line)
        elif line and not line.startswith((" ---> Running in ", "Removing intermediate container ")):
            step.output.append(line)

    def _end_step(self, state: str) -> None:
        """Note that the last step is over, unless that is known already."""
        if self.steps and not (self.steps[-1].image and self.steps[-1].state != "at work"):
            self.steps[-1].state = "cached" if self.steps[-1].state == "cached" else state
        if self.steps:
            self.steps[-1].end = max(self.steps[-1].end, self.now - self.begin)

    def end(self, problem: str = "") -> None:
        """Note that the build is over, and why it failed if it did."""
        self.now, self.problem = time.monotonic(), problem
        if self.steps and self.steps[-1].state == "at work":
            self._end_step("failed" if problem else "done")

    def text(self) -> str:
        """Say each step with its state and its time."""
        lines = [f"{self.title}: {self.now - self.begin:.2f} s.", *self.told[:1]]
        for step in self.steps:
            lines.append(f"  {step.number}/{self.total} {step.text}")
            lines.append(f"      {step.state}, {step.end - step.begin:.2f} s{f' → {step.image}' if step.image else ''}")
            if step.state == "failed":
                lines += [f"      | {line}" for line in step.output[-LAST_LINES:]]
        cached = sum(step.state == "cached" for step in self.steps)
        lines.append(f"{cached} of {len(self.steps)} steps came from the cache.")
        return "\n".join([*lines, *self.told[1:], *filter(None, [self.problem])])

    def body(self) -> str:
        """Draw a card a step, its time as a bar on the build's time."""
        span = max(self.now - self.begin, 1e-6)
        shown = []
        for step in self.steps:
            tone = _TONES[step.state]
            end = step.end if step.state != "at work" else span
            top = drawing.row(
                drawing.cell(drawing.span(f"{step.number}/{self.total}", "dim"), 38),
                drawing.cell(drawing.hinted(step.text, "mono")),
                drawing.chip(step.state, tone),
                drawing.cell(f"{end - step.begin:.2f} s", 58, right=True),
                drawing.cell(drawing.span(step.image, "mono dim"), 92, right=True),
            )
            bar = drawing.track([(step.begin / span, min(end / span, 1.0), tone)])
            tail = step.output[-LAST_LINES:] if step.state in ("failed", "at work") else []
            said = "".join(f'<div class="clip mono dim">{drawing.escape(line)}</div>' for line in tail)
            shown.append(drawing.card(top + bar + said, tone, quiet=step.state == "cached"))
        told = "".join(f"<div>{drawing.escape(line)}</div>" for line in self.told)
        return "".join(shown) + told + (drawing.note(self.problem, "red") if self.problem else "")


def building(
    context: str, tag: str = "", dockerfile: str = "", engine: Engine | None = None, **options: Any
) -> Building:
    """Build an image of the folder `context`, and draw the build while it goes on and when it is done.

    `options` are those of `minidocker.build.builder.BuildOptions`: `no_cache`, `target`, `build_args` and so on.
    Raises: what `minidocker.engine.build` raises; the picture shows the step that failed.
    """
    import os

    from minidocker.build.builder import BuildOptions

    folder = project_folder(context)
    file = dockerfile or os.path.join(folder, "Dockerfile")
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as opened:
        asked = BuildOptions(opened.read(), file, tags=(tag,) if tag else (), **options)
    picture = Building(tag or context)
    engine = engine or open_engine()
    picture.show_live()
    problem = ""
    try:
        stories.build(engine, folder, asked, picture.out)
    except BaseException as error:
        problem = str(error) or type(error).__name__
        raise
    finally:
        picture.end(problem)
        picture.finish()
    return picture
