"""What the grader says of one submission: the same facts for a spreadsheet, a teacher's page and a learner's.

One JSON file a submission, OUT/results/STUDENT/ASSIGNMENT.json; docs/grading.md explains every field. A reader refuses
a file whose `schema` it does not know; new fields may be added without a new number.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from minidocker.errors import MinidockerError

SCHEMA = 1
GRADED = "graded"
NOT_WRITTEN = "not written"
MISSING = "missing"  # the exercise's cell is not in the notebook
DOES_NOT_RUN = "does not run"  # a syntax error, or an error before any test could begin
Json = dict[str, Any]


class NotAResult(MinidockerError):
    """A file that was to be a result is none, or one of a schema that is not known."""


class Test(NamedTuple):
    """How one test went. `hidden`: what learners may not read stands in `message`; name and points they may know."""

    name: str
    points: float
    earned: float
    message: str = ""
    where: str = ""
    hidden: bool = False


class Exercise(NamedTuple):
    """How one exercise went. `printed`: the beginning of what the learner's code printed meanwhile."""

    name: str
    title: str
    points: float
    earned: float
    state: str
    printed: str
    tests: tuple[Test, ...]


class GradedBy(NamedTuple):
    """By what it was graded, to be able to say later why the marks are what they are.

    `mode` "functions": the tests ran in another process than the learner's code. "cells" and "notebook": in the same
    one, so that the code could have seen them. `seconds` is what judging took, also where it was kept from before.
    """

    minidocker: str
    assignment_sha256: str
    mode: str
    seconds: float


class Result(NamedTuple):
    """What is said of one submission. `trouble`: why it could not be graded, "" where it was.

    `sha256` is that of the file that was handed in, "" where it could not be read.
    """

    student: str
    assignment: str
    file: str
    sha256: str
    late: bool
    points: float
    earned: float
    exercises: tuple[Exercise, ...]
    notes: tuple[str, ...]
    trouble: str
    graded_by: GradedBy

    def to_json(self) -> Json:
        """Return the result as JSON can carry it."""
        exercises = [exercise_to_json(exercise) for exercise in self.exercises]
        more = {"exercises": exercises, "notes": list(self.notes), "graded_by": self.graded_by._asdict()}
        return {"schema": SCHEMA, **self._asdict(), **more}


def exercise_to_json(exercise: Exercise) -> Json:
    """Return one exercise as JSON can carry it."""
    return {**exercise._asdict(), "tests": [test._asdict() for test in exercise.tests]}


def exercise_from_json(fields: Json) -> Exercise:
    """Return one exercise. Raises: KeyError, TypeError, AttributeError."""
    tests = tuple(Test(**_only(Test, test)) for test in fields["tests"])
    return Exercise(**{**_only(Exercise, fields), "tests": tests})


def from_json(fields: Json) -> Result:
    """Return the result that `to_json` made. Raises: NotAResult."""
    try:
        if fields["schema"] != SCHEMA:
            raise NotAResult(f"a result of schema {fields['schema']}, not {SCHEMA}: grade again with this minidocker")
        more = {
            "exercises": tuple(exercise_from_json(exercise) for exercise in fields["exercises"]),
            "notes": tuple(fields["notes"]),
            "graded_by": GradedBy(**_only(GradedBy, fields["graded_by"])),
        }
        return Result(**{**_only(Result, fields), **more})
    except (KeyError, TypeError, AttributeError) as problem:
        raise NotAResult(f"this is no result of 'minidocker grade': {problem or type(problem).__name__}") from problem


def _only(kind: Any, fields: Json) -> Json:
    """Return the fields that a NamedTuple has; others are of a later version."""
    return {name: fields[name] for name in fields if name in kind._fields}


def path(out: str, student: str, assignment: str) -> str:
    """Return where a result is kept."""
    return f"{out}/results/{student}/{assignment}.json"


def read(file: str) -> Result:
    """Read one result. Raises: NotAResult, OSError."""
    try:
        with open(file, encoding="utf-8") as stream:
            return from_json(json.load(stream))
    except (NotAResult, ValueError) as problem:
        raise NotAResult(f"{file}: {problem}") from problem


def read_all(out: str) -> Iterator[Result]:
    """Yield all results of a class, by student and assignment. Raises: NotAResult, OSError."""
    folder = f"{out}/results"
    for student in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        for name in sorted(os.listdir(f"{folder}/{student}")):
            if name.endswith(".json") and not name.startswith("."):
                yield read(f"{folder}/{student}/{name}")


def write(out: str, result: Result) -> None:
    """Keep a result where `path` says."""
    write_json(path(out, result.student, result.assignment), result.to_json())


def forget_others(out: str, result: Result) -> None:
    """Remove what was said before of the same file as of another assignment. Raises: OSError."""
    mine = path(out, result.student, result.assignment)
    folder = os.path.dirname(mine)
    for name in os.listdir(folder):
        other = f"{folder}/{name}"
        if other != mine and name.endswith(".json") and not name.startswith("."):
            with contextlib.suppress(NotAResult):
                if read(other).file == result.file:
                    os.unlink(other)


def write_json(file: str, fields: Json) -> None:
    """Write a file in one step: whoever reads it, or kills the writer, finds all of it or nothing.

    What strangers have made may hold halves of characters, which UTF-8 cannot say: a question mark stands for each.
    """
    folder, name = os.path.split(file)
    os.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.new"
    with open(temporary, "wb") as stream:
        stream.write(f"{json.dumps(fields, indent=1, ensure_ascii=False)}\n".encode(errors="replace"))
    os.replace(temporary, file)
