"""How things are measured: the same story told by each engine in turn, several times after a warm-up, and its medians.

A *teller* is a function that tells a story once and returns what came of it: seconds, mostly. What has to be done
before or after, it does without counting it.
"""

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

OURS = "minidocker"
Teller = Callable[[], float]


class Story(NamedTuple):
    """One row of the table.

    `goal` is what the ratio of our median to that of the `against` is asked to be: at most, or with `more_is_better` at
    least. `against` is the best of the tellers named, so that where docker has two ways it is the faster one; where
    there is nobody to compare with, the goal is for our median itself. `why` is said where the goal is not met.
    """

    key: str
    name: str
    goal: float
    tellers: Mapping[str, Teller]
    against: Sequence[str] = ("docker",)
    rounds: int = 10
    unit: str = "s"
    more_is_better: bool = False
    why: str = ""


class Result(NamedTuple):
    """What a story's tellers took, a figure for each round, in the story's unit."""

    story: Story
    figures: dict[str, list[float]]

    @property
    def medians(self) -> dict[str, float]:
        """Return each teller's median."""
        return {who: statistics.median(found) for who, found in self.figures.items()}

    @property
    def ratio(self) -> float:
        """Say how much of the best peer's figure is ours, or our figure where there is no peer."""
        if not self.story.against:
            return self.medians[OURS]
        best = max if self.story.more_is_better else min
        return self.medians[OURS] / best(self.medians[who] for who in self.story.against)

    @property
    def met(self) -> bool:
        """Say whether the goal is met, as it is shown."""
        ratio = round(self.ratio, 2)
        return ratio >= self.story.goal if self.story.more_is_better else ratio <= self.story.goal

    def written(self) -> dict[str, Any]:
        """Return it as it is written down."""
        figures = {who: [round(figure, 4) for figure in found] for who, found in self.figures.items()}
        about = {"key": self.story.key, "name": self.story.name, "unit": self.story.unit, "against": self.story.against}
        more = {"more is better": self.story.more_is_better, "why": self.story.why}
        return {**about, **more, "goal": self.story.goal, "ratio": round(self.ratio, 3), "figures": figures}

    @staticmethod
    def read(written: Mapping[str, Any]) -> "Result":
        """Return what `written` has written; its tellers cannot tell again."""
        figures = {who: list(map(float, found)) for who, found in written["figures"].items()}
        silent: dict[str, Teller] = {}
        against = tuple(written["against"])
        story = Story(written["key"], written["name"], written["goal"], silent, against, unit=written["unit"])
        return Result(story._replace(more_is_better=written["more is better"], why=written["why"]), figures)


def measure(story: Story) -> Result:
    """Let everybody tell the story in turn, each round in the other order; the first round is not counted."""
    figures: dict[str, list[float]] = {who: [] for who in story.tellers}
    for number in range(story.rounds + (story.rounds > 1)):
        tellers = list(story.tellers.items())
        for who, tell in tellers if number % 2 else reversed(tellers):
            figure = tell()
            if number or story.rounds == 1:
                figures[who].append(figure)
    return Result(story, figures)


class Failed(Exception):
    """A command that is measured has failed; the message is what it said."""


def run(argv: Sequence[str], env: Mapping[str, str] | None = None, check: bool = True, cwd: str | None = None) -> str:
    """Run a command to its end and return its output; raise Failed if it does not succeed."""
    done = subprocess.run(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise Failed(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds of wall time it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
