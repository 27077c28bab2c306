"""`course`: the exercises at the terminal: which is next, whether it is solved, a hint, and how far one is."""

import os
import sys
import time
from typing import TYPE_CHECKING

from minidocker.cli.arguments import Call, Command, Option, UsageError
from minidocker.errors import MinidockerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidocker.course.catalogue import Course, Exercise
    from minidocker.course.judge import Verdict
    from minidocker.course.progress import Mark

NOT_PASSED = 1
WRONG_USE = 2
_POLL = 0.3  # seconds between two looks at a file
_BAR = 20
_GREEN, _RED, _YELLOW, _BOLD, _DIM = "32", "31", "33", "1", "2"


def listing(call: Call) -> int:
    """Print every exercise, and what has been done of it."""
    from minidocker.course import catalogue, progress

    course, marks = catalogue.load(), progress.marks()
    section = ""
    for exercise in course.exercises:
        if exercise.section != section:
            section = exercise.section
            print(_coloured(section, _BOLD))
        mark = marks.get(exercise.name, progress.Mark())
        sign = "✓" if mark.solved else "·"
        notes = [f"{mark.earned} of {exercise.points} points"] if mark.earned and not mark.solved else []
        notes += [f"{mark.hints} hint{'s' * (mark.hints > 1)}"] if mark.hints else []
        notes += ["solution seen"] if mark.looked else []
        line = f"  {sign} {exercise.name:18} {exercise.title:44} {exercise.points:2} pt {exercise.minutes:3} min"
        print(_coloured(line, _GREEN if mark.solved else "") + (f"  ({', '.join(notes)})" if notes else ""))
    return 0


def next_one(call: Call) -> int:
    """Print the first exercise that is not solved: its file and its task."""
    from minidocker.course import catalogue

    course = catalogue.load()
    exercise = _current(course)
    if exercise is None:
        _celebrate(course)
        return 0
    course.written(exercise)  # or it says that the notebook is missing
    print(_coloured(f"{exercise.name} in {_short(course.path(exercise))}", _BOLD))
    print(f"\n{exercise.task}\n")
    print(f"Write it there, save, then: minidocker course check {exercise.name}")
    return 0


def check(call: Call) -> int:
    """Judge an exercise, all of a section, or the current one."""
    from minidocker.course import catalogue

    if len(call.words) > 1:
        print("\"minidocker course check\" takes one name: see 'minidocker course list'", file=sys.stderr)
        return WRONG_USE
    try:
        course = catalogue.load()
        if inside := course.section(call.word(0)) if call.words else ():
            return 0 if _judge_all(course, inside) else NOT_PASSED
        exercise = course.get(call.word(0)) if call.words else _current(course)
        if exercise is None:
            _celebrate(course)
            return 0
        return 0 if _judge(course, exercise) else NOT_PASSED
    except (MinidockerError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return WRONG_USE


def _judge_all(course: "Course", exercises: "Sequence[Exercise]") -> bool:
    """Judge the exercises of a section; print the verdicts and how many have passed. Return whether all have."""
    passed = sum(_verdict(course, exercise).passed for exercise in exercises)
    print(f"\n{exercises[0].section}: {passed} of {len(exercises)} exercises passed")
    return passed == len(exercises)


def _verdict(course: "Course", exercise: "Exercise") -> "Verdict":
    """Judge what is written in the notebook; note and print the verdict. Raises: Lost."""
    from minidocker.course import judge, progress, report

    verdict = judge.judge(exercise, course.written(exercise), after_hang=judge.AFTER_HANG)
    progress.judged(exercise.name, verdict.earned, verdict.points)
    for line in report.lines(exercise, verdict):
        sign = line.strip()[:1]
        print(_coloured(line, {report.PASSED: _GREEN, report.FAILED: _RED}.get(sign, "")))
    return verdict


def _judge(course: "Course", exercise: "Exercise") -> bool:
    """Judge one exercise; print the verdict and what to do next. Return whether it has passed."""
    before = all(mark.solved for mark in _marks(course))
    if not _verdict(course, exercise).passed:
        if exercise.hints:
            print(f"\nA hint: minidocker course hint {exercise.name}")
        return False
    if exercise.replaces:
        print(f"\n{exercise.replaces} is yours: minidocker --with {_short(course.path(exercise))} run …")
    following = _current(course)
    if following:
        print(f"\nNext: {following.name} in {_short(course.path(following))}")
    elif not before:
        _celebrate(course)
    return True


def hint(call: Call) -> int:
    """Print the hints so far, and one more."""
    from minidocker.course import catalogue, progress, report

    course = catalogue.load()
    exercise = _named(course, call) if call.words else _current(course)
    if exercise is None:
        raise MinidockerError("every exercise is solved: name one, see 'minidocker course list'")
    before = progress.mark(exercise.name).hints
    print(report.hints(exercise, progress.reveal_hint(exercise.name, len(exercise.hints)) if exercise.hints else 0))
    if exercise.hints and before >= len(exercise.hints):
        way = f"; 'minidocker course solution {exercise.name} --anyway' shows the solution" if course.complete else ""
        print(f"\nThat was the last hint{way}.")
    return 0


def reset(call: Call) -> int:
    """Put the stub back into the notebook, or the whole notebook where it is missing; keep what was there."""
    from minidocker.course import catalogue, use

    course = catalogue.load()
    inside = course.section(call.word(0))
    exercise = inside[0] if inside else _named(course, call)
    try:
        written = course.written(exercise)
    except catalogue.Lost:
        if os.path.exists(course.path(exercise)) and not call["force"]:
            raise
        _restore(course, exercise)
        return 0
    exercise = _named(course, call)
    if written.strip() == exercise.stub.strip():
        print(f"{exercise.name} is as it was")
        return 0
    if not call["force"]:
        raise MinidockerError(
            f"you have written something for {exercise.name}: 'minidocker course reset --force {exercise.name}' puts "
            "the stub in its place, and keeps yours in a file"
        )
    kept = _place_to_keep(exercise.name, "py")
    with open(kept, "w", encoding="utf-8") as file:
        file.write(f"{written.rstrip()}\n")
    course.write(exercise, exercise.stub)
    use.forget(exercise.name)
    print(f"{exercise.name} is as it was; what you wrote is in {kept}\nReload the notebook if it is open")
    return 0


def _restore(course: "Course", exercise: "Exercise") -> None:
    """Make a notebook anew that is missing or broken; a broken one is kept."""
    import shutil

    from minidocker.course import use

    path = course.path(exercise)
    if os.path.exists(path):
        kept = _place_to_keep(exercise.section, "ipynb")
        shutil.copyfile(path, kept)
        print(f"the broken notebook is in {kept}")
    course.restore(exercise)
    for each in course.section(exercise.section):
        use.forget(each.name)
    print(f"{_short(path)} is as it was handed out")


def _place_to_keep(name: str, kind: str) -> str:
    """Return the path for something that a learner has written, beside the notes on the course."""
    from minidocker.course import progress

    folder = f"{os.path.dirname(progress.path())}/course-kept"
    os.makedirs(folder, exist_ok=True)
    return f"{folder}/{name}-{time.strftime('%Y%m%d-%H%M%S')}.{kind}"


def watch(call: Call) -> int:
    """Judge again whenever the notebook is saved, and go on to the next exercise after a pass; ctrl-c ends it."""
    from minidocker.course import catalogue

    course = catalogue.load()
    try:
        exercise = course.get(call.word(0)) if call.words else _current(course)
        while exercise is not None:
            if sys.stdout.isatty():
                print("\033[2J\033[H", end="")
            saved = _saved(course.path(exercise))
            print(_coloured(f"{exercise.name} in {_short(course.path(exercise))}", _BOLD), flush=True)
            try:
                passed = _judge(course, exercise)
            except catalogue.Lost as error:  # it is being saved, or will be once more
                print(error)
                passed = False
            if passed and not call.words:
                exercise = _current(course)
                continue
            print(_coloured("\nWaiting for the notebook to be saved; ctrl-c ends this.", _DIM), flush=True)
            while _saved(course.path(exercise)) == saved:
                time.sleep(_POLL)
    except KeyboardInterrupt:
        print()
        return 0
    _celebrate(course)
    return 0


def _saved(path: str) -> int:
    """Return when a file was last written, 0 while it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def progress_bars(call: Call) -> int:
    """Print a bar for every section, and one for all."""
    from minidocker.course import catalogue, progress

    course, marks = catalogue.load(), progress.marks()
    sections = dict.fromkeys(exercise.section for exercise in course.exercises)
    for section in [*sections, ""]:
        chosen = [exercise for exercise in course.exercises if section in ("", exercise.section)]
        done = [marks.get(exercise.name, progress.Mark()) for exercise in chosen]
        solved = sum(mark.solved for mark in done)
        points = sum(min(mark.earned, each.points) for mark, each in zip(done, chosen, strict=True))
        full = _BAR * solved // max(1, len(chosen))
        bar = _coloured("█" * full, _GREEN) + _coloured("░" * (_BAR - full), _DIM)
        looked = sum(mark.looked for mark in done)
        note = f"  ({looked} after a look at the solution)" if looked else ""
        total = f"{points}/{sum(each.points for each in chosen)} points"
        print(f"{section or 'all':26} {bar} {solved:2}/{len(chosen):<2} solved  {total}{note}")
    if chosen and solved == len(chosen):
        _celebrate(course)
    return 0


def solution(call: Call) -> int:
    """Print the course's own solution: after a pass, or --anyway, which is remembered."""
    from minidocker.course import catalogue, progress

    course = catalogue.load()
    exercise = _named(course, call)
    if not course.complete:
        raise MinidockerError("this copy of the course comes without solutions")
    if not progress.mark(exercise.name).solved and not call["anyway"]:
        raise MinidockerError(
            f"{exercise.name} is not solved yet: 'minidocker course hint {exercise.name}' gives a hint, "
            "'--anyway' the solution, and notes that you looked"
        )
    progress.look(exercise.name)
    print("\n".join(line for line in exercise.solution.splitlines() if not line.strip().startswith("### ")))
    return 0


def _named(course: "Course", call: Call) -> "Exercise":
    """Return the exercise that is named. Raises: UsageError."""
    from minidocker.course.catalogue import NoSuchExercise

    try:
        return course.get(call.word(0))
    except NoSuchExercise as error:
        raise UsageError(f"Error: {error}", WRONG_USE) from None


def _current(course: "Course") -> "Exercise | None":
    """Return the first exercise that is not solved."""
    marks = _marks(course)
    pairs = zip(course.exercises, marks, strict=True)
    return next((exercise for exercise, mark in pairs if not mark.solved), None)


def _marks(course: "Course") -> list["Mark"]:
    from minidocker.course import progress

    marks = progress.marks()
    return [marks.get(exercise.name, progress.Mark()) for exercise in course.exercises]


def _celebrate(course: "Course") -> None:
    """Say that all is done."""
    if not course.exercises:
        print("There is no exercise yet.")
        return
    parts = len({exercise.replaces for exercise in course.exercises if exercise.replaces})
    wide = 58
    middle = [
        "All exercises of the course are solved.",
        f"{parts} parts of this container engine are yours now." if parts > 1 else "A part of the engine is yours now.",
        "Run a container on them:",
        "minidocker --with exercises run -it debian:bookworm",
    ]
    print(_coloured("┏" + "━" * wide + "┓", _GREEN))
    for line in middle:
        print(_coloured(f"┃{line:^{wide}}┃", _GREEN))
    print(_coloured("┗" + "━" * wide + "┛", _GREEN))


def _short(path: str) -> str:
    """Return a path as seen from here, where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path


def _coloured(text: str, colour: str) -> str:
    """Return a text in a colour, at a terminal only. See: https://no-color.org."""
    plain = not colour or not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))
    return text if plain else f"\033[{colour}m{text}\033[0m"


COMMANDS = {
    "course list": Command(listing, root=False),
    "course next": Command(next_one, root=False),
    "course check": Command(
        check,
        "[NAME|SECTION]",
        at_most=None,
        root=False,
        about="Without NAME, that is the first exercise that is not solved.\n"
        "Exits with 0 when every test has passed, 1 when not, 2 when there is nothing to judge.",
    ),
    "course hint": Command(hint, "[NAME]", at_most=1, root=False, about="Each time, one hint more is shown."),
    "course reset": Command(
        reset,
        "[OPTIONS] NAME|SECTION",
        (Option("force", "bool", "Also when something was written there; it is kept in a file", "f"),),
        at_least=1,
        at_most=1,
        root=False,
    ),
    "course watch": Command(
        watch, "[NAME]", at_most=1, root=False, about="Goes on to the next exercise after a pass. Ctrl-c ends it."
    ),
    "course progress": Command(progress_bars, root=False),
    "course solution": Command(
        solution,
        "[OPTIONS] NAME",
        (Option("anyway", "bool", "Also before the exercise is solved; it is remembered"),),
        at_least=1,
        at_most=1,
        root=False,
    ),
}
