"""`course hand-out`, `collect`, `report`, `gradescope`: a teacher's way from sources to marks, with `grade` between."""

import os
import sys

from minidocker.cli.arguments import Call, Command, Option
from minidocker.errors import MinidockerError

NOT_ALL = 1
WRONG_USE = 2


def hand_out(call: Call) -> int:
    """Make a folder or an archive for learners."""
    from minidocker.course import classroom

    files = classroom.hand_out(call.word(0), call.words[1:])
    exercises = sum(name.startswith("exercises/") for name in files)
    print(f"{call.word(0)} holds the exercises of {exercises} section{'s' * (exercises != 1)}, without solutions")
    return 0


def collect(call: Call) -> int:
    """Put what was handed in into one layout, and print what came of it."""
    from minidocker.course import collecting, grade

    paths = grade.known(call.words, call["assignment"])
    wanted = os.path.basename(call["assignment"]).removesuffix(".ipynb")
    if wanted and wanted not in paths:
        raise MinidockerError(f"no assignment is called {wanted!r}: there are {', '.join(sorted(paths))}")
    course = collecting.known({name: path for name, path in paths.items() if wanted in ("", name)})
    placed, notes = collecting.collect(call.words, call["to"], course, call["due"])
    wide = max((len(each.student) for each in placed), default=0)
    for each in placed:
        late = f"  late: {each.when.astimezone():%Y-%m-%d %H:%M}" if each.late else ""
        print(f"{each.student:{wide}}  {each.assignment}{late}")
    for note in notes:
        print(note, file=sys.stderr)
    learners = len({each.student for each in placed})
    print(
        f"{len(placed)} notebook{'s' * (len(placed) != 1)} of {learners} learner{'s' * (learners != 1)} in {call['to']}"
    )
    return 0 if placed else NOT_ALL


def report(call: Call) -> int:
    """Make pages and exports of results."""
    from minidocker.course import classroom

    out = call.word(0)
    paths = classroom.report(out, call["show-hidden"])
    print(f"{len(paths)} files in {out}; begin with {out}/index.html")
    return 0


def gradescope(call: Call) -> int:
    """Make the autograder of one section for Gradescope."""
    from minidocker.course import classroom

    classroom.gradescope(call.word(1), call.word(0))
    print(f"{call.word(1)} is an autograder of {call.word(0)}; it holds the solutions: not for learners")
    return 0


def _moment(text: str) -> object:
    from minidocker.course.submission import moment

    return moment(text)


COMMANDS = {
    "course hand-out": Command(
        hand_out,
        "DIR|FILE.zip [SECTION...]",
        at_least=1,
        at_most=None,
        root=False,
        about="All sections where none is named. Needs a copy of the course with its solutions, which are left out.",
    ),
    "course collect": Command(
        collect,
        "[OPTIONS] FROM [FROM...]",
        (
            Option("to", "string", "Folder that gets STUDENT/ASSIGNMENT.ipynb", default="submissions"),
            Option("assignment", "string", "Only this one: its name, or the teacher's notebook", default=""),
            Option("due", "time", "What comes later is late: 2026-05-31, or '2026-05-31 18:00'", read=_moment),
        ),
        at_least=1,
        at_most=None,
        root=False,
        misuse=WRONG_USE,
        about="FROM is a folder or an archive of a class: a folder or an archive for each learner, nbgrader's\n"
        "'submitted', what Moodle or Canvas give to download, or notebooks named after learners.\n"
        "Of several archives, each is one learner's.",
    ),
    "course report": Command(
        report,
        "[OPTIONS] DIR",
        (Option("show-hidden", "bool", "Let learners read what hidden tests say, and what their code printed"),),
        at_least=1,
        at_most=1,
        root=False,
        about="DIR is what 'minidocker grade --out DIR' has made.",
    ),
    "course gradescope": Command(gradescope, "SECTION FILE.zip", at_least=2, at_most=2, root=False),
}
