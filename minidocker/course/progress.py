"""What a learner has done: exercises solved, hints and solutions looked at.

It is kept in `minidocker/course.json` in the user's data folder, or where MINIDOCKER_COURSE_STATE says, and written
whole, under a lock, so that a notebook and a terminal can both note something.

See: the XDG Base Directory Specification, XDG_DATA_HOME.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import NamedTuple


class Mark(NamedTuple):
    """What is noted of one exercise: the points earned at best, of how many; hints seen.

    `looked`: the solution was looked at before the exercise was solved.
    """

    earned: int = 0
    points: int = 0
    hints: int = 0
    looked: bool = False

    @property
    def solved(self) -> bool:
        """Say whether every test has passed once."""
        return 0 < self.points <= self.earned


def path() -> str:
    """Return where the notes are kept."""
    named = os.environ.get("MINIDOCKER_COURSE_STATE")
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return named or f"{data}/minidocker/course.json"


def marks() -> dict[str, Mark]:
    """Return what is noted, by the exercise's name; what cannot be read is taken for nothing."""
    try:
        with open(path()) as file:
            return {str(name): Mark(**fields) for name, fields in json.load(file)["exercises"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def mark(name: str) -> Mark:
    """Return what is noted of one exercise."""
    return marks().get(name, Mark())


def judged(name: str, earned: int, points: int) -> None:
    """Note a verdict, if it is the best so far."""
    with _noting() as notes:
        before = notes.get(name, Mark())
        if before.points != points or earned > before.earned:
            notes[name] = before._replace(earned=earned, points=points)


def reveal_hint(name: str, there_are: int) -> int:
    """Note that one more hint is looked at; return how many have been."""
    with _noting() as notes:
        before = notes.get(name, Mark())
        notes[name] = before._replace(hints=min(before.hints + 1, there_are))
        return notes[name].hints


def look(name: str) -> None:
    """Note that the solution is looked at."""
    with _noting() as notes:
        before = notes.get(name, Mark())
        notes[name] = before._replace(looked=before.looked or not before.solved)


@contextlib.contextmanager
def _noting() -> Iterator[dict[str, Mark]]:
    """Give the notes to be changed, and keep them."""
    file = path()
    os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
    with open(f"{file}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        notes = marks()
        yield notes
        temporary = f"{file}.new"
        with open(temporary, "w") as out:
            json.dump({"exercises": {name: mark._asdict() for name, mark in sorted(notes.items())}}, out, indent=1)
        os.replace(temporary, file)
