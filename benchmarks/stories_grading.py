"""Grading: a class, by `minidocker grade` and by `nbgrader autograde`; `make bench-grading` has more."""

from collections.abc import Iterator

import grading
from measure import OURS, Story
from setting import Setting

KEYS = ("grading", "grading-cores")
CLASS, THEIRS = 200, 20  # nbgrader grades one after the other: twenty say what each takes


def stories(made: Setting) -> Iterator[Story]:
    """Yield them in the order of the table, in milliseconds a submission."""
    base = made.folder("grading")
    ours = grading.Class(base, "02_images", CLASS)
    theirs = grading.Class(base, "02_images", THEIRS)
    found: dict[str, float] = {}

    def grade(workers: int) -> float:
        found[f"{workers}"] = 1000 * ours.ours(workers).each
        return found[f"{workers}"]

    tellers = {OURS: lambda: grade(2), "nbgrader": lambda: 1000 * theirs.theirs().each}
    name = f"grading a class of {CLASS}, a submission"
    yield Story("grading", name, 0.04, tellers, ("nbgrader",), 1, "ms")
    both = {OURS: lambda: found.get("2") or grade(2), "one core": lambda: grade(1)}
    yield Story("grading-cores", "the same with two cores, against one", 0.56, both, ("one core",), 1, "ms")
