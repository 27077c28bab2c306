"""Notebooks as they are handed in, in many shapes, put into one: TO/STUDENT/ASSIGNMENT.ipynb.

A folder or an archive for each learner, nbgrader's `submitted`, what Moodle and Canvas give to download, or one folder
of files with names in their names. What a notebook is of is told by its cells, and only where these are gone by its
name. Whose it is is told by the outermost folder alone: what a learner has packed says nothing of whose it is.
Everything was made by strangers: links are not followed, archives are read in memory, within limits.
"""

import contextlib
import io
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import IO, NamedTuple

from minidocker.course import notebook as notebooks
from minidocker.course import submission
from minidocker.course.exports import file_name
from minidocker.errors import MinidockerError

_LONGEST = 100  # characters of a learner's name
_DEEPEST = 3  # archives in archives
_MOST_ENTRIES = 20_000  # of one archive
_MOST_ARCHIVE = 1 << 30  # bytes of one archive
_MOODLE = re.compile(r"(?P<name>.+?)(?P<late>)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?.*")
_CANVAS = re.compile(r"(?P<name>[^_]+)(?P<late>_LATE)?_(?P<id>\d+)_\d+_.*")
_GENERAL = {"submitted", "submissions", "exercises", "notebooks", "course", "handins", "minidocker-course"}
_BESIDE = (".ipynb", ".zip", ".late")  # files that are looked at, and what `collect` itself puts beside them
_COPY = re.compile(r"(?: ?\(\d+\)|-\d+)+$")  # what a browser or Canvas adds to the second of one name


class Handed(NamedTuple):
    """One notebook that was found: the words of its path below what was named, its content, when it came."""

    words: tuple[str, ...]
    data: bytes
    when: datetime
    late: bool = False


class Placed(NamedTuple):
    """One notebook that was put in its place. `origin` is where it was found, `number` the learner's, if it has one."""

    student: str
    assignment: str
    origin: str
    when: datetime
    late: bool
    data: bytes = b""
    number: str = ""


class Known(NamedTuple):
    """An assignment, and the grade_ids by which its notebook is known."""

    name: str
    grade_ids: frozenset[str]


def known(paths: dict[str, str]) -> list[Known]:
    """Return the assignments of teachers' notebooks, by name. Raises: NotANotebook, OSError."""
    found = []
    for name, path in paths.items():
        cells = notebooks.read(path).cells
        ids = (cell.grade_id for cell in cells if cell.nbgrader.get("solution") or cell.nbgrader.get("grade"))
        found.append(Known(name, frozenset(ids)))
    return found


def collect(
    sources: Sequence[str], to: str, course: list[Known], due: datetime | None = None
) -> tuple[list[Placed], list[str]]:
    """Put everything that was handed in into `to`; return what was placed, and what has to be said about the rest.

    A source is a folder or an archive of a class; of several archives, each is one learner's. Of two notebooks of one
    learner for one assignment, the one that came last is taken. A late one gets a file ASSIGNMENT.late beside it.
    Raises: MinidockerError where nothing is at a source; OSError.
    """
    notes: list[str] = []
    own = sum(source.lower().endswith(".zip") for source in sources) > 1
    best: dict[tuple[str, str, str], Placed] = {}
    for source in sources:
        if not os.path.lexists(source):
            raise MinidockerError(f"there is no {source}")
        handed = list(_handed(os.path.abspath(source), os.path.abspath(to), own, notes))
        notes += _without(os.path.abspath(source), "", os.path.abspath(to), handed, course, notes)
        inside = not own and not os.path.isdir(source)
        for each in _placed(handed, source, inside, course, due, notes):
            key = (each.student, each.assignment, each.number)
            best[key] = _last(each, best.get(key, each), notes)
    placed = _told_apart(list(best.values()))
    for each in placed:
        _keep(to, each)
    return sorted(each._replace(data=b"") for each in placed), notes


def _last(one: Placed, other: Placed, notes: list[str]) -> Placed:
    """Return which of two notebooks came last."""
    taken, left = (one, other) if one.when >= other.when else (other, one)
    if one.data != other.data:
        notes.append(f"{one.student} handed in {one.assignment} more than once: {left.origin} is not taken")
    return taken


def _told_apart(placed: list[Placed]) -> list[Placed]:
    """Return the same with the numbers of those learners of whom two have one name."""
    numbers: dict[str, set[str]] = {}
    for each in placed:
        numbers.setdefault(each.student, set()).add(each.number)
    several = {name for name, found in numbers.items() if len(found) > 1}
    return [
        each._replace(student=f"{each.student} {each.number}".strip()) if each.student in several else each
        for each in placed
    ]


def _keep(to: str, placed: Placed) -> None:
    """Write a notebook, with the time at which it came, and the file that says that it was late."""
    path = f"{to}/{placed.student}/{placed.assignment}.ipynb"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "wb") as file:
        file.write(placed.data)
    os.utime(f"{path}.new", (placed.when.timestamp(),) * 2)
    os.replace(f"{path}.new", path)
    late = f"{to}/{placed.student}/{placed.assignment}.late"
    if placed.late:
        with open(late, "w"):
            pass
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(late)


def _handed(source: str, to: str, own: bool, notes: list[str]) -> Iterator[Handed]:
    """Yield the notebooks below a path, those in archives, too. `own`: an archive is a single learner's."""
    if not os.path.isdir(source):
        whole = source.lower().endswith(".zip") and not own
        yield from _file(source, () if whole else (os.path.basename(source),), notes)
        return
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(f for f in folders if not _passed_over(f) and f"{folder}/{f}" != to)
        words = tuple(os.path.relpath(folder, source).split("/")) if folder != source else ()
        for name in sorted(names):
            if not _passed_over(name):
                yield from _file(f"{folder}/{name}", (*words, name), notes)


def _without(
    source: str, inner: str, to: str, handed: list[Handed], course: list[Known], notes: list[str]
) -> list[str]:
    """Return what has to be said of a class's folder: whose folder holds no notebook, which file is none."""
    if not os.path.isdir(source):
        return []
    found = []
    for name in sorted(os.listdir(f"{source}/{inner}")):
        words = (*inner.split("/")[:-1], name)
        path = f"{source}/{inner}{name}"
        if _passed_over(name) or path == to:
            continue
        if not os.path.isdir(path) or os.path.islink(path):
            if not name.lower().endswith(_BESIDE) and name != "timestamp.txt":
                found.append(f"{path} is passed over: it is neither a notebook nor an archive")
        elif not _folders([name], {each.name for each in course}):
            found += _without(source, f"{inner}{name}/", to, handed, course, notes)
        elif not any(each.words[: len(words)] == words for each in handed) and f"{path}/" not in "\n".join(notes):
            found.append(f"there is no notebook in {path}")
    return found


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _file(path: str, words: tuple[str, ...], notes: list[str]) -> Iterator[Handed]:
    """Yield what one file holds: a notebook, or those in an archive."""
    kind = os.path.splitext(path)[1].lower()
    try:
        if kind == ".ipynb":
            yield Handed(words, submission.content(path), _came(path), os.path.exists(f"{path[:-6]}.late"))
        elif kind == ".zip":
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                yield from _archive(file, words, notes, path, 1)
    except (MinidockerError, OSError) as problem:
        notes.append(f"{path} is passed over: {problem}")


def _came(path: str) -> datetime:
    """Return when a file came: as nbgrader's timestamp.txt beside it says, else when it was last written."""
    try:
        return submission.moment(submission.content(f"{os.path.dirname(path)}/timestamp.txt")[:200].decode())
    except (MinidockerError, OSError, ValueError):
        return datetime.fromtimestamp(os.stat(path).st_mtime, UTC)


def _archive(file: IO[bytes], words: tuple[str, ...], notes: list[str], path: str, depth: int) -> Iterator[Handed]:
    """Yield the notebooks of an archive; a name in it is only ever read as words, and never written to."""
    inside = tuple(_stem(word) for word in words[-1:])
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_ENTRIES or sum(entry.file_size for entry in entries) > _MOST_ARCHIVE:
                raise MinidockerError("there is too much in it")
            for entry in entries:
                parts = [part for part in entry.filename.replace("\\", "/").split("/") if part not in ("", ".", "..")]
                if entry.is_dir() or not parts or any(map(_passed_over, parts)):
                    continue
                place = (*words[:-1], *inside, *parts)
                kind = os.path.splitext(parts[-1])[1].lower()
                if kind == ".ipynb":
                    when = datetime(*entry.date_time).astimezone()
                    yield Handed(place, _entry(archive, entry, submission.MOST), when)
                elif kind == ".zip" and depth < _DEEPEST:
                    data = _entry(archive, entry, _MOST_ARCHIVE >> 4)
                    yield from _archive(io.BytesIO(data), place, notes, f"{path}:{entry.filename}", depth + 1)
    except (zipfile.BadZipFile, MinidockerError, RuntimeError, NotImplementedError, ValueError, EOFError) as problem:
        notes.append(f"{path} is passed over: {problem}")


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """Return what an entry holds, whatever size it says it has. Raises: MinidockerError, BadZipFile."""
    with archive.open(entry) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise MinidockerError(f"{entry.filename} is larger than {most >> 20} MB")
    return data


def _placed(
    handed: list[Handed], source: str, inside: bool, course: list[Known], due: datetime | None, notes: list[str]
) -> Iterator[Placed]:
    """Yield where each notebook belongs. `inside`: the class may be in a folder that the archive is of."""
    names = {each.name for each in course}
    folders = [_folders(each.words[:-1], names) for each in handed]
    if inside and all(len(words) > 1 for words in folders) and len({words[0] for words in folders}) == 1:
        folders = [words[1:] for words in folders]
    nameless = []
    named = False
    for each, words in zip(handed, folders, strict=True):
        origin = os.path.join(source, *each.words)
        assignment = _assignment(each, course)
        if not assignment:
            notes.append(f"{origin} is passed over: neither its cells nor its name say what it is of")
            continue
        student, number, late = _student(words, each.words[-1], assignment)
        named = named or bool(student)
        if not student:
            student = _stem(os.path.basename(os.path.abspath(source)))
            nameless.append(f"{origin} has no learner's name: it is taken for {student}'s, after what it lies in")
        late = late or each.late or (due is not None and each.when > due)
        yield Placed(file_name(student.strip())[:_LONGEST], assignment, origin, each.when, late, each.data, number)
    notes += nameless if named else []


def _folders(words: Iterable[str], names: set[str]) -> tuple[str, ...]:
    """Return the folders that may be named after a learner."""
    return tuple(word for word in words if word.lower() not in _GENERAL and word not in names)


def _assignment(handed: Handed, course: list[Known]) -> str:
    """Return what a notebook is of: as most of its cells say, else its name, or a folder's; "" where nothing does."""
    with contextlib.suppress(MinidockerError):
        ids = {cell.grade_id for cell in notebooks.from_bytes(handed.data).cells}
        best = max(course, key=lambda each: len(ids & each.grade_ids), default=None)
        if best and ids & best.grade_ids:
            return best.name
    for word in reversed(handed.words):
        for each in sorted(course, key=lambda each: -len(each.name)):
            if each.name.lower() in word.lower():
                return each.name
    return ""


def _student(folders: tuple[str, ...], file: str, assignment: str) -> tuple[str, str, bool]:
    """Return whose a notebook is, "" where its path does not say; their number; whether the path says it was late."""
    outermost = folders[0] if folders else file
    for form in (_MOODLE, _CANVAS):
        if found := form.fullmatch(outermost):
            return found["name"], found["id"], bool(found["late"])
    if folders:
        return outermost, "", False
    stem = re.sub(re.escape(assignment), "", _COPY.sub("", _stem(file)), flags=re.IGNORECASE)
    return stem.strip(" _-."), "", False


def _stem(name: str) -> str:
    return re.sub(r"\.(ipynb|zip)$", "", name, flags=re.IGNORECASE)
