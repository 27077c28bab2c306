"""A submission: where it lies, whose it is, and what of it is judged.

    NAME.ipynb in a folder                   the student is NAME
    STUDENT/ASSIGNMENT.ipynb                 a folder for each student
    STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb      nbgrader's, in its folder `submitted`

It was made by a stranger: it may be anything. What is locked is taken from the teacher's notebook.
"""

import os
import stat
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from minidocker.course import generate
from minidocker.course import notebook as notebooks
from minidocker.course.assignment import FUNCTIONS, WHOLE, Assignment
from minidocker.course.notebook import Cell, Notebook
from minidocker.course.result import MISSING, NOT_WRITTEN
from minidocker.errors import MinidockerError

MOST = 32 << 20  # bytes of a notebook
_MOST_PARTS = 1_000_000  # lists and objects in its JSON, each of which takes a hundred times its size in memory
_MOST_CODE = 1 << 20  # characters of all its code


class Found(NamedTuple):
    """A file that was handed in. `assignment` is "" where its name does not say; `trouble`: there is no such file."""

    student: str
    assignment: str
    file: str
    trouble: str = ""


class Reading(NamedTuple):
    """What is judged: cells by exercise, `codes`; exercises of which there is nothing to judge, `states`.

    `whole`: the cells of the whole notebook, grade_id and source, where that is run.
    """

    codes: dict[str, str]
    states: dict[str, str]
    whole: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def find(paths: Iterable[str], known: Iterable[str], wanted: str = "") -> list[Found]:
    """Return what lies at these paths, for the assignments that are known, or only for the one that is wanted.

    Raises: MinidockerError where there is nothing at a path; OSError.
    """
    found: list[Found] = []
    names = {wanted} if wanted else set(known)
    for path in paths:
        if not os.path.lexists(path):
            raise MinidockerError(f"there is no {path}")
        if path.lower().endswith(".zip") and os.path.isfile(path):
            way = f"'minidocker course collect --to submissions {path}'"
            raise MinidockerError(f"{path} is an archive: collect it first, {way}, and grade that folder")
        found += (
            _in_folder(os.path.abspath(path), names, wanted) if os.path.isdir(path) else [_file(path, names, wanted)]
        )
    once: dict[tuple[str, str], Found] = {}
    for each in found:
        each = each._replace(student=os.fsencode(each.student).decode(errors="replace") or "unknown")
        other = once.setdefault((each.student, each.assignment), each)
        if other.file != each.file:
            problem = f"it is there twice: {other.file} and {each.file}; keep one"
            once[each.student, each.assignment] = other._replace(trouble=problem)
    return list(once.values())


def _file(path: str, names: set[str], wanted: str) -> Found:
    """Return a single file: one that has an assignment's name is of the student that the folder is named after."""
    folder, name = os.path.split(os.path.abspath(path))
    stem = name.removesuffix(".ipynb")
    if stem not in names:
        return Found(stem, wanted, path)
    above, student = os.path.split(folder)
    return Found(os.path.basename(above) if student == stem else student, stem, path)


def _in_folder(path: str, names: set[str], wanted: str) -> list[Found]:
    """Return what lies in a folder: a class, a student's, or nbgrader's course."""
    path = f"{path}/submitted" if os.path.isdir(f"{path}/submitted") else path
    files, folders = _listed(path)
    own = names & ({name.removesuffix(".ipynb") for name in files} | set(folders))
    if own:  # it belongs to one student
        above, student = os.path.split(path)
        return _of_student(os.path.basename(above) if student in names else student, path, names, wanted)
    found = [Found(name.removesuffix(".ipynb"), wanted, f"{path}/{name}") for name in files]
    for student in folders:
        theirs = _of_student(student, f"{path}/{student}", names, wanted)
        found += [each for each in theirs if not (files and each.trouble)]  # beside notebooks it may hold anything
    return found


def _of_student(student: str, folder: str, names: set[str], wanted: str) -> list[Found]:
    """Return the assignments in a student's folder; at least one entry, with the trouble where there is none."""
    try:
        files, folders = _listed(folder)
        found = [(name.removesuffix(".ipynb"), f"{folder}/{name}") for name in files]
        for inner in folders:
            for name in _listed(f"{folder}/{inner}")[0]:
                stem = name.removesuffix(".ipynb")
                full = stem if stem == inner or stem in names else f"{inner}-{stem}"
                found.append((full, f"{folder}/{inner}/{name}"))
    except OSError as error:
        return [Found(student, wanted, folder, f"its folder cannot be read: {error.strerror}")]
    fitting = [Found(student, stem, file) for stem, file in found if stem in names]
    if fitting:
        return fitting
    if len(found) == 1:
        return [Found(student, wanted, found[0][1])]
    what = wanted or "an assignment"
    seen = f"none of the {len(found)} notebooks is {what}'s" if found else "there is no notebook"
    return [Found(student, wanted, folder, f"{seen}: {what if wanted else 'NAME'}.ipynb is looked for")]


def _listed(path: str) -> tuple[list[str], list[str]]:
    """Return the notebooks and the folders in a folder, by name; links to folders are not followed."""
    with os.scandir(path) as entries:
        shown = [entry for entry in entries if not entry.name.startswith((".", "__"))]
    files = sorted(entry.name for entry in shown if entry.name.endswith(".ipynb"))
    return files, sorted(entry.name for entry in shown if entry.is_dir(follow_symlinks=False))


def content(path: str) -> bytes:
    """Return the content of a file that a stranger has made. Raises: MinidockerError in words, OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MinidockerError("it is a link" if os.path.islink(path) else f"{error.strerror}".lower()) from None
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise MinidockerError("it is no file")
        if about.st_size > MOST:
            raise MinidockerError(
                f"{about.st_size >> 20} MB are too much for a notebook ({MOST >> 20} are the most): clear its outputs"
            )
        data = file.read(MOST)
    if not data.strip():
        raise MinidockerError("the file is empty")
    return data


def parsed(data: bytes) -> Notebook:
    """Return the notebook in a file's content. Raises: MinidockerError in words."""
    if data.count(b"{") + data.count(b"[") > _MOST_PARTS:
        raise MinidockerError(f"it has more than {_MOST_PARTS} parts: clear its outputs")
    book = notebooks.from_bytes(data, "it")
    if not any(cell.source.strip() for cell in book.cells):
        raise MinidockerError("the notebook is empty")
    if sum(len(cell.source) for cell in book.cells if cell.kind == "code") > _MOST_CODE:
        raise MinidockerError(f"its code has more than {_MOST_CODE} characters")
    clean = (cell._replace(source=cell.source.encode(errors="replace").decode()) for cell in book.cells)
    return book._replace(cells=tuple(clean))


def belongs_to(book: Notebook, assignments: Iterable[Assignment]) -> str:
    """Return the name of the assignment whose cells a notebook has, "" where it has none."""
    ids = {cell.grade_id for cell in book.cells}
    best = max(assignments, key=lambda each: len(ids & each.grade_ids), default=None)
    return best.name if best and ids & best.grade_ids else ""


def take(book: Notebook, assignment: Assignment) -> Reading:
    """Return what is judged of a notebook, with what is locked restored."""
    notes, codes, states = list[str](), dict[str, str](), dict[str, str]()
    by_id: dict[str, list[Cell]] = {}
    for cell in book.cells:
        if cell.kind == "code" and cell.grade_id:
            by_id.setdefault(cell.grade_id, []).append(cell)
    for part in assignment.parts:
        cells = by_id.get(part.solution, [])
        if part.solution and not cells:
            states[part.name] = MISSING
            continue
        code = _solution(cells, part.stub, notes)
        if part.solution and code.strip() in ("", part.stub.strip()):
            states[part.name] = NOT_WRITTEN
        elif assignment.mode == FUNCTIONS:
            codes[part.name] = code
    notes += _changed(by_id, assignment, states)
    notes += [f"a person gives the points of {each}: they are not counted here" for each in assignment.by_hand]
    whole = () if assignment.mode == FUNCTIONS else _restored(book, assignment)
    return Reading(codes, states, whole, tuple(notes))


def _solution(cells: list[Cell], stub: str, notes: list[str]) -> str:
    """Return the code that counts: where there are several cells of one name, the last that was written in."""
    if len({cell.source.strip() for cell in cells}) > 1:
        notes.append(f"there are {len(cells)} cells {cells[0].grade_id}: the last one that is written in counts")
    written = [cell.source for cell in cells if cell.source.strip() not in ("", stub.strip())]
    return (written or [cell.source for cell in cells] or [""])[-1].replace("\r\n", "\n")


def _changed(by_id: dict[str, list[Cell]], assignment: Assignment, states: dict[str, str]) -> list[str]:
    """Return a note on what is locked and was changed, and one on what is not there any more.

    In mode "functions", cells that are not judged by do not matter; nor do those of an exercise that is missing.
    """
    changed, missing = [], []
    gone = {test.grade_id for part in assignment.parts if states.get(part.name) == MISSING for test in part.tests}
    for grade_id, cell in assignment.locked.items():
        if grade_id in gone or (assignment.mode == FUNCTIONS and grade_id.endswith("-check")):
            continue
        fine = (_plain(generate.visible(cell.source)), _plain(cell.source))
        found = by_id.get(grade_id, [])
        if not found:
            missing.append(grade_id)
        elif any(_plain(each.source) not in fine for each in found):
            changed.append(grade_id)
    return [
        f"the locked cell{'s' * (len(ids) > 1)} {', '.join(ids)} {have} {how} and {were} restored"
        for ids, how in ((changed, "been changed"), (missing, "been deleted"))
        for have, were in [("had", "were" if len(ids) > 1 else "was")]
        if ids
    ]


def _plain(source: str) -> str:
    """Return a cell's text without what an editor may change by itself: line ends and blanks before them."""
    return "\n".join(line.rstrip() for line in source.strip().splitlines())


def _restored(book: Notebook, assignment: Assignment) -> tuple[tuple[str, str], ...]:
    """Return all code of a notebook, in its order, with the teacher's locked cells, each once."""
    locked = assignment.locked
    cells: list[tuple[str, str]] = []
    for cell in book.cells:
        if cell.kind == "code" and not (cell.grade_id in locked and any(cell.grade_id == each for each, _ in cells)):
            source = locked[cell.grade_id].source if cell.grade_id in locked else cell.source
            cells.append((cell.grade_id, source.replace("\r\n", "\n")))
    place = 0  # behind the cell that stands before it in the teacher's notebook
    for cell in assignment.cells:
        at = [number for number, (grade_id, _) in enumerate(cells) if cell.grade_id and grade_id == cell.grade_id]
        if not at and cell.grade_id in locked:
            cells.insert(place, (cell.grade_id, cell.source))
            place += 1
        elif at:
            place = at[-1] + 1
    return tuple(cells)


def code_of(reading: Reading, seconds: float) -> dict[str, str]:
    """Return the cells to judge by exercise, also of a notebook that is run as a whole."""
    if not reading.whole:
        return reading.codes
    return {WHOLE: f"__cells__ = ({[list(cell) for cell in reading.whole]!r}, {seconds!r})"}


def moment(text: str) -> datetime:
    """Read a time: 2026-05-31, which is its end, '2026-05-31 18:00', with or without a zone. Raises: ValueError."""
    words = text.strip().split()
    zone = None
    if len(words) == 3:  # as nbgrader's timestamp.txt ends
        from zoneinfo import ZoneInfo

        try:
            zone = UTC if words[2] in ("UTC", "GMT") else ZoneInfo(words[2])
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{words[2]!r} is no time zone that is known here") from None
        words = words[:2]
    try:
        when = datetime.fromisoformat(" ".join(words))
    except ValueError:
        raise ValueError("not a time such as 2026-05-31 or '2026-05-31 18:00'") from None
    if len(words) == 1 and len(words[0]) <= len("2026-05-31"):
        when += timedelta(days=1, microseconds=-1)
    return when.replace(tzinfo=zone) if zone else when if when.tzinfo else when.astimezone()


def is_late(file: str, due: datetime | None) -> bool:
    """Say whether a file came late: ASSIGNMENT.late lies beside it, or it came after `due`.

    It came when timestamp.txt beside it says, as nbgrader writes it, else when it was last written.
    """
    folder = os.path.dirname(file)
    if os.path.exists(f"{file.removesuffix('.ipynb')}.late"):
        return True
    if due is None:
        return False
    try:
        return moment(content(f"{folder}/timestamp.txt")[:200].decode()) > due
    except (MinidockerError, OSError, ValueError):
        pass
    try:
        return datetime.fromtimestamp(os.stat(file).st_mtime, UTC) > due
    except OSError:
        return False
