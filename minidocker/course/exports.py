"""The marks of a class in the forms that other programs read; all are made from results alone, so all say the same.

    marks.csv                             one line a submission, for a spreadsheet
    junit.xml                             for what shows test reports
    nbgrader.csv                          the columns of `nbgrader export`
    gradescope/STUDENT/ASSIGNMENT.json    what a Gradescope autograder leaves as results.json
    classroom/STUDENT/ASSIGNMENT.json     what GitHub Classroom's reporter reads; the same as a table in ASSIGNMENT.md

Names and messages come from strangers: a spreadsheet is not to run them, and XML is not to break on them. The last two
are shown to learners, who do not read what a hidden test has said.

See: gradescope-autograders.readthedocs.io, "Output format"; classroom-resources/autograding-grading-reporter.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from minidocker.course.result import Exercise, Json, Result, Test

HIDDEN = "a hidden test: it tries something that the task asks for and the tests you can see do not"
NBGRADER = (
    "assignment duedate timestamp student_id last_name first_name email raw_score late_submission_penalty score "
    "max_score"
).split()
MARKS = "student assignment earned points late notes trouble".split()
# What XML 1.0 has no way to say, and halves of characters that UTF-8 has no way to say.
_UNSAYABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")


def write_all(out: str, results: Sequence[Result], show_hidden: bool = False) -> list[str]:
    """Write every form below `out`; return the paths. Raises: OSError."""
    files = {"marks.csv": marks_csv(results), "junit.xml": junit_xml(results), "nbgrader.csv": nbgrader_csv(results)}
    for result in results:
        place = f"{file_name(result.student)}/{file_name(result.assignment)}"
        files[f"gradescope/{place}.json"] = _as_text(gradescope(result, show_hidden))
        files[f"classroom/{place}.json"] = _as_text(classroom(result, show_hidden))
        files[f"classroom/{place}.md"] = classroom_table(result)
    return [write(f"{out}/{name}", text) for name, text in files.items()]


def write(path: str, text: str) -> str:
    """Write a file in one step, with its folder; return its path. Raises: OSError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8", newline="") as file:
        file.write(text)
    os.replace(f"{path}.new", path)
    return path


def clean(text: str) -> str:
    """Return a text without the characters that neither XML nor HTML can carry; a mark stands for each."""
    return _UNSAYABLE.sub("\ufffd", text)


def cell(text: str) -> str:
    """Return a text as a spreadsheet may have it: what would be taken for a formula gets a quote before it.

    See: OWASP, CSV injection.
    """
    return f"'{clean(text)}" if _FORMULA.match(text) else clean(text)


def file_name(name: str) -> str:
    """Return a name as that of one file: it leads to no other folder and is not hidden."""
    return re.sub(r"^\.|[/\\\x00]", "_", clean(name)) or "_"


def number(value: float) -> str:
    """Return points as people write them: 3, not 3.0."""
    return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"


def graded(result: Result) -> list[tuple[str, Test]]:
    """Return everything that there were points for, each with its exercise's name: the sum is the result's.

    An exercise without tests, or a submission without exercises, counts as one test: so nobody's points are left out.
    """
    found = [(exercise.name, test) for exercise in result.exercises for test in _tests(exercise)]
    if not found:
        why = result.trouble or "; ".join(result.notes) or "nothing to grade"
        found = [("submission", Test("graded", result.points, result.earned, why))]
    return found


def _tests(exercise: Exercise) -> Iterable[Test]:
    return exercise.tests or (Test(exercise.state, exercise.points, exercise.earned, exercise.state),)


def told(test: Test, show_hidden: bool) -> str:
    """Return what a learner may read of a test: "" where it has passed."""
    if passed(test):
        return ""
    if test.hidden and not show_hidden:
        return HIDDEN
    return test.message + (f"\nyour {test.where}" if test.where else "")


def passed(test: Test) -> bool:
    """Say whether a test has earned all its points."""
    return test.earned >= test.points


def marks_csv(results: Iterable[Result]) -> str:
    """Return one line a submission."""
    rows: list[Sequence[str]] = [MARKS]
    for result in results:
        marks = (number(result.earned), number(result.points), "late" if result.late else "")
        words = (result.student, result.assignment)
        rows.append((*words, *marks, "; ".join(result.notes), result.trouble))
    return _csv(rows)


def nbgrader_csv(results: Sequence[Result]) -> str:
    """Return the columns of `nbgrader export`: every learner for every assignment, 0.0 where nothing was handed in.

    What only nbgrader's database knows (dates, names, addresses) is left empty.
    """
    found = {(result.assignment, result.student): result for result in results}
    most = {result.assignment: result.points for result in results if not result.trouble}
    rows: list[Sequence[str]] = [NBGRADER]
    for assignment in sorted({result.assignment for result in results}):
        for student in sorted({result.student for result in results}):
            result = found.get((assignment, student))
            earned = str(float(result.earned if result else 0))
            points = str(float(result.points if result else most.get(assignment, 0)))
            rows.append((assignment, "", "", student, "", "", "", earned, "0.0", earned, points))
    return _csv(rows)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(word) for word in row] for row in rows)
    return text.getvalue()


def junit_xml(results: Iterable[Result]) -> str:
    """Return JUnit's XML: a suite a submission, a case a test, points as properties, hidden tests' messages too."""
    root = ElementTree.Element("testsuites", name="minidocker grade")
    for result in results:
        tests = graded(result)
        failed = 0 if result.trouble else sum(not passed(test) for _, test in tests)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=clean(f"{result.student}/{result.assignment}"),
            tests=str(len(tests)),
            failures=str(failed),
            errors=str(len(tests) if result.trouble else 0),
            skipped="0",
            time=f"{result.graded_by.seconds:.3f}",
        )
        _properties(suite, student=result.student, earned=number(result.earned), points=number(result.points))
        for exercise, test in tests:
            where = clean(f"{result.assignment}.{exercise}")
            case = ElementTree.SubElement(suite, "testcase", classname=where, name=clean(test.name), time="0")
            _properties(case, earned=number(test.earned), points=number(test.points))
            if result.trouble:
                ElementTree.SubElement(case, "error", message=clean(result.trouble))
            elif not passed(test):
                failure = ElementTree.SubElement(case, "failure", message=clean(test.message))
                failure.text = clean(told(test, show_hidden=True))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _properties(above: ElementTree.Element, **values: str) -> None:
    properties = ElementTree.SubElement(above, "properties")
    for name, value in values.items():
        ElementTree.SubElement(properties, "property", name=name, value=clean(value))


def gradescope(result: Result, show_hidden: bool = False) -> Json:
    """Return Gradescope's results.json. The score is said once for all and once for each test; both are the same."""
    tests: list[Json] = []
    for place, (exercise, test) in enumerate(graded(result), 1):
        tests.append(
            {
                "name": f"{exercise}: {test.name}",
                "number": str(place),
                "score": test.earned,
                "max_score": test.points,
                "status": "passed" if passed(test) else "failed",
                "output": told(test, show_hidden),
                "output_format": "text",
                "visibility": "visible",
            }
        )
    notes = [f"Could not be graded: {result.trouble}"] if result.trouble else [*result.notes]
    return {
        "score": result.earned,
        "execution_time": result.graded_by.seconds,
        "output": "\n".join(notes),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def classroom(result: Result, show_hidden: bool = False) -> Json:
    """Return what GitHub Classroom's reporter takes, base64-encoded, from a runner's environment variable.

    It adds up the tests' scores and shows `max_score` beside: every test has a score, also 0.
    """
    tests = []
    for exercise, test in graded(result):
        status = "error" if result.trouble else "pass" if passed(test) else "fail"
        message = result.trouble or told(test, show_hidden) or None
        name = f"{exercise}: {test.name}"
        tests.append({"name": name, "status": status, "score": test.earned, "message": message, "line_no": 0})
    everything = "error" if result.trouble else "pass" if all(t["status"] == "pass" for t in tests) else "fail"
    return {"version": 1, "status": everything, "max_score": result.points, "tests": tests}


def classroom_table(result: Result) -> str:
    """Return the same as a Markdown table, for a job's summary: a line an exercise, and the total."""
    sums: dict[str, tuple[float, float]] = {}
    for exercise, test in graded(result):
        earned, points = sums.get(exercise, (0, 0))
        sums[exercise] = (earned + test.earned, points + test.points)
    total = tuple(sum(column) for column in zip(*sums.values(), strict=True))
    lines = ["| exercise | score | of |", "|---|---:|---:|"]
    for name, (earned, points) in [*sums.items(), ("**Total**", total)]:
        shown = name if name == "**Total**" else re.sub(r"([\\|<>`*_\[\]])", r"\\\1", clean(name)).replace("\n", " ")
        lines.append(f"| {shown} | {number(earned)} | {number(points)} |")
    return "\n".join([*lines, ""])


def _as_text(fields: Json) -> str:
    """Return JSON; halves of characters are written as the escapes that JSON has for them."""
    return json.dumps(fields, indent=1) + "\n"
