"""A teacher's way from sources to marks, with folders alone: hand out, collect, grade, report.

hand_out            the learners' notebooks, without solutions and hidden tests
collecting.collect  what they hand in, in one layout
grade.grade         one result a submission
report              pages and exports of these results
gradescope          the same grader as an archive for Gradescope
"""

import os
import zipfile
from collections.abc import Iterable, Sequence

from minidocker.course import catalogue, exports, generate, pages, result
from minidocker.course import notebook as notebooks
from minidocker.course.catalogue import Course
from minidocker.errors import MinidockerError

_SECRETS = (f"BEGIN {generate.SOLUTION}", f"BEGIN {generate.HIDDEN_TESTS}")
_DATE = (1980, 1, 1, 0, 0, 0)  # of everything in an archive: the same content is the same bytes
_TOP = "minidocker-course"  # the folder that unpacking the archive for learners makes
_README = """# Exercises

Each notebook in `exercises/` holds the exercises of one section. Write where it says `YOUR CODE HERE`, and leave the
other cells as they are; they are put back before your notebook is graded.

You need minidocker: `make setup` in its project's folder makes it, once. In each new terminal:

    . .venv/bin/activate            # in the project's folder: now there are `minidocker` and `jupyter`

Then, in this folder:

    jupyter lab exercises           # opens the notebooks in a browser; it keeps its terminal
    minidocker course next          # the task that is next
    minidocker course check         # is it solved? (the tests that you can see)
    minidocker course hint          # one hint more
    minidocker course list          # what is done

Hand in the notebooks, under their names. They are graded with the tests that you can see and a few more.
"""
_SETUP_SH = """#!/usr/bin/env bash
# Run once, as root, when Gradescope makes the autograder's image.
set -e
here=${AUTOGRADER:-/autograder}
for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
done
if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends python3.11 python3.11-venv libseccomp2
    python=python3.11
fi
"$python" -m venv "$here/venv"
"$here/venv/bin/pip" install -q "$here/source/minidocker"
chmod -R go= "$here/source"
"""
_RUN_AUTOGRADER = """#!/usr/bin/env bash
# Run for each submission.
here=${AUTOGRADER:-/autograder}
cd "$here" || exit
rm -rf work
mkdir -p work/handed results
cp -r submission work/handed/learner
export MINIDOCKER_COURSE=$here/source
venv/bin/minidocker course collect --to work/submissions --assignment ASSIGNMENT work/handed
venv/bin/minidocker grade --assignment ASSIGNMENT --out work/out work/submissions
venv/bin/minidocker course report work/out
cp work/out/gradescope/learner/ASSIGNMENT.json results/results.json ||
    echo '{"score": 0, "output": "you have not handed in ASSIGNMENT.ipynb"}' > results/results.json
"""


def hand_out(to: str, sections: Sequence[str] = ()) -> list[str]:
    """Make a folder, or an archive of one where `to` ends with .zip, for learners; return what is in it.

    Solutions and hidden tests are left out, as nbgrader leaves them out. Raises: MinidockerError where this copy of the
    course has no solutions, or something is at `to` already; OSError.
    """
    course = _complete()
    if to in {exercise.section for exercise in course.exercises}:
        way = f"minidocker course hand-out DIR|FILE.zip {' '.join([to, *sections])}"
        raise MinidockerError(f"{to} is a section: name where it is to go before it, {way!r}, or ./{to}")
    files = {"README.md": _README.encode()}
    for section in _sections(course, sections):
        book = generate.exercise_notebook(notebooks.read(f"{course.folder}/solutions/{section}.ipynb"))
        if any(secret in cell.source for cell in book.cells for secret in _SECRETS):
            raise MinidockerError(f"{section}: a solution or a hidden test stands in a cell that is not marked as one")
        files[f"exercises/{section}.ipynb"] = book.to_bytes()
        lesson = f"{course.folder}/notebooks/{section}.ipynb"
        if os.path.exists(lesson):
            files[f"notebooks/{section}.ipynb"] = notebooks.read(lesson).to_bytes()
    if os.path.exists(to) and (not os.path.isdir(to) or os.listdir(to)):
        raise MinidockerError(f"{to} is there already: name another, or move it away")
    if to.endswith(".zip"):
        _archive(to, {f"{_TOP}/{name}": data for name, data in files.items()})
    else:
        for name, data in files.items():
            os.makedirs(os.path.dirname(f"{to}/{name}"), exist_ok=True)
            with open(f"{to}/{name}", "wb") as file:
                file.write(data)
    return list(files)


def report(out: str, show_hidden: bool = False) -> list[str]:
    """Make the pages and the exports of a class that has been graded into `out`; return the paths.

    Raises: MinidockerError where nothing has been graded; NotAResult, OSError.
    """
    results = list(result.read_all(out))
    if not results:
        raise MinidockerError(f"there are no results in {out}: grade first, 'minidocker grade --out {out} SUBMISSIONS'")
    return pages.write_all(out, results, show_hidden) + exports.write_all(out, results, show_hidden)


def gradescope(to: str, section: str) -> None:
    """Make the archive that Gradescope makes an autograder from: it holds this minidocker and the section's solutions.

    Raises: MinidockerError where this copy of the course has no solutions, or not that section; OSError.

    See: gradescope-autograders.readthedocs.io, "Autograder Specifications".
    """
    course = _complete()
    (section,) = _sections(course, [section])
    files = {"setup.sh": _SETUP_SH.encode(), "run_autograder": _RUN_AUTOGRADER.replace("ASSIGNMENT", section).encode()}
    files[f"solutions/{section}.ipynb"] = _content(f"{course.folder}/solutions/{section}.ipynb")
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    project = os.path.dirname(package)
    for name in ("pyproject.toml", "README.md"):
        if not os.path.exists(f"{project}/{name}"):
            raise MinidockerError(f"{project} has no {name}: this minidocker was not installed from its sources")
        files[f"minidocker/{name}"] = _content(f"{project}/{name}")
    for folder, folders, names in os.walk(package):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        inner = os.path.relpath(folder, project)
        for name in sorted(names):
            files[f"minidocker/{inner}/{name}"] = _content(f"{folder}/{name}")
    _archive(to, files, executable=("setup.sh", "run_autograder"))


def _complete() -> Course:
    """Return the course with its solutions. Raises: MinidockerError."""
    course = catalogue.load()
    if not course.complete:
        raise MinidockerError(f"the course in {course.folder} comes without solutions: go to a teacher's copy")
    return course


def _sections(course: Course, wanted: Sequence[str]) -> list[str]:
    """Return the wanted sections in their order, all where none is named. Raises: MinidockerError."""
    sections = list(dict.fromkeys(exercise.section for exercise in course.exercises))
    for name in wanted:
        if name not in sections:
            raise MinidockerError(f"no section is called {name!r}: there are {', '.join(sections)}")
    return [section for section in sections if not wanted or section in wanted]


def _archive(path: str, files: dict[str, bytes], executable: Iterable[str] = ()) -> None:
    """Write an archive in one step."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with zipfile.ZipFile(f"{path}.new", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name in executable else 0o644) << 16
            archive.writestr(entry, data)
    os.replace(f"{path}.new", path)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
