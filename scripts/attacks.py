"""Try the same hostile notebooks on `nbgrader autograde`, as it is set up by default, and on `minidocker grade`.

    .venv/bin/python scripts/attacks.py        writes docs/grading-attacks.md

Each attack is a learner whose cell does something else than solve the exercise; whether it got what it wanted is looked
up outside, in the same way for both. What could hurt this machine is bounded: nothing is really filled or bombed.
`tests/test_course_attacks.py` has more attacks on ours.
"""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from typing import NamedTuple

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, f"{PROJECT}/tests")

from coursekit import cell, exercise_cells  # noqa: E402
from minidocker.course import generate  # noqa: E402
from minidocker.course import notebook as notebooks  # noqa: E402
from minidocker.course.notebook import KERNEL, Notebook  # noqa: E402

BIN = os.path.dirname(sys.executable)
PAGE = f"{PROJECT}/docs/grading-attacks.md"
SECTION, EXERCISE = "01_first", "double"
SECRET, TOKEN, OTHERS = "what-a-hidden-test-expects", "a-token-of-the-teacher", "the-work-of-another"
TESTS = {
    "small": "assert double(1) == 2, 'twice 1 is 2'",
    "hidden": f"### BEGIN HIDDEN TESTS\nassert double(21) == 42, '{SECRET}'\n### END HIDDEN TESTS",
}
POINTS = 4
HONEST = f"# {OTHERS}\ndef double(number):\n    return 2 * number\n"
WARNS = "import warnings\ndef double(number):\n    warnings.warn('this is old')\n    return 2 * number\n"
WRONG = "def double(number):\n    return 0\n"
VICTIM, PLAIN, WARNER = "honest", "plain", "warns"
_MANY, _LARGE, _MEMORY = 200, 200, 800  # processes, MB on the disk, MB of memory


class Side(NamedTuple):
    """What there is to see after one grader has graded: points by learner, all that was printed, what it said."""

    name: str
    points: dict[str, float]
    printed: dict[str, str]
    log: str
    reached: bool  # by the network
    left: list[int]  # processes


class Attack(NamedTuple):
    """What is tried, as a learner's cell, and how to see that it succeeded: in words, "" where it did not."""

    what: str
    code: str
    succeeded: Callable[[str, Side], str]


def attacks(course: str, port: int) -> dict[str, Attack]:
    """Return every attack by the name of its learner."""
    names = {"course": course, "port": port, "many": _MANY, "large": _LARGE, "memory": _MEMORY, "victim": VICTIM}
    found = {
        "tests": Attack("read the hidden tests", _LOOK.format(**names), _printed(SECRET)),
        "others": Attack("read another's submission", _OTHERS.format(**names), _printed(OTHERS)),
        "secrets": Attack("read the grader's environment", "import os\nprint(dict(os.environ))\n", _printed(TOKEN)),
        "marks": Attack("change another's marks", _MARKS.format(**names), _victim),
        "transform": Attack("take the asserts out of the tests before they run", _TRANSFORM, _points),
        "equal": Attack("return what equals everything", _EQUAL, _points),
        "patch": Attack("give the tests' words another meaning", _PATCH, _points),
        "tested": Attack("change the locked tests in the notebook", WRONG, _points),
        "forged": Attack("print a verdict", WRONG + "print('4 of 4 points: all tests have passed')\n", _points),
        "exit": Attack("end early with success", "import os\nos._exit(0)\n", _points),
        "network": Attack("use the network", _NETWORK.format(**names), lambda _, side: "succeeded" * side.reached),
        "stay": Attack("leave a process behind", _STAY, lambda _, side: "succeeded" if side.left else ""),
        "many": Attack(f"have {_MANY} processes at once", _PROCESSES.format(**names), _printed("all are there")),
        "disk": Attack(f"write {_LARGE} MB to the disk", _DISK.format(**names), _printed("all is written")),
        "memory": Attack(f"take {_MEMORY} MB of memory", _FULL.format(**names), _printed("all is taken")),
        "for-ever": Attack(
            "run for ever",
            "while True:\n    pass\n",
            lambda _, side: "" if side.points else "succeeded: nobody was graded",
        ),
    }
    return {name: attack._replace(code=textwrap.dedent(attack.code)) for name, attack in found.items()}


def _printed(word: str) -> Callable[[str, Side], str]:
    return lambda name, side: "succeeded" if word in side.printed.get(name, "") else ""


def _points(name: str, side: Side) -> str:
    got = side.points.get(name, 0)
    return f"succeeded: {got:g} of {POINTS} points" if got else ""


def _victim(_: str, side: Side) -> str:
    got = side.points.get(VICTIM, 0)
    return f"succeeded: {got:g} of {POINTS} points are left" if got != POINTS else ""


_LOOK = """
import glob, os
for path in glob.glob("{course}/gradebook.db") + glob.glob("{course}/source/*/*"):
    with open(path, "rb") as file:
        text = file.read().decode("latin-1")
    place = text.find("BEGIN HIDDEN TESTS")
    print(text[place : place + 300])
"""
_OTHERS = """
import glob
for path in glob.glob("{course}/submitted/{victim}/*/*"):
    print(open(path, encoding="utf-8").read())
"""
_MARKS = """
import glob, sqlite3
for path in glob.glob("{course}/gradebook.db"):
    marks = sqlite3.connect(path, timeout=60)
    marks.execute(
        "update grade set auto_score = 0 where notebook_id in (select n.id from submitted_notebook n "
        "join submitted_assignment a on n.assignment_id = a.id where a.student_id = '{victim}')"
    )
    marks.commit()
for path in glob.glob("{course}/out/results/{victim}/*"):
    text = open(path).read()
    open(path, "w").write(text.replace('"earned": 4', '"earned": 0'))
"""
_TRANSFORM = (
    WRONG
    + """
import ast
class Without(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)
get_ipython().ast_transformers.append(Without())
"""
)
_EQUAL = """
class All(int):
    def __eq__(self, other):
        return True
def double(number):
    return All(0)
"""
_PATCH = """
import builtins, minidocker.course.judge as judge, minidocker.course.testing as testing
builtins.AssertionError = ValueError
testing.equal = judge.judge = judge._Court.hear = lambda *_: None
def double(number):
    return 0
"""
_NETWORK = """
import socket
with socket.create_connection(("127.0.0.1", {port}), timeout=5) as connection:
    connection.sendall(b"all that I have read")
"""
_STAY = """
import os, subprocess
subprocess.Popen(["sleep", "4711.5"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
"""
_PROCESSES = """
import os, signal, time
made = []
try:
    for _ in range({many}):
        pid = os.fork()
        if pid == 0:
            time.sleep(20)
            os._exit(0)
        made.append(pid)
    print("all are there")
finally:
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""
_DISK = """
import os
path = "/tmp/filled-by-an-attack"
try:
    with open(path, "wb") as file:
        for _ in range({large}):
            file.write(bytes(1 << 20))
    print("all is written")
finally:
    os.unlink(path)
"""
_FULL = """
taken = bytearray({memory} << 20)
print("all is taken", len(taken))
del taken
"""


def make(course: str, learners: dict[str, str]) -> None:
    """Write the course in nbgrader's form, and what the learners hand in."""
    setup = cell("setup", "from minidocker.course.testing import equal, raises")
    source = Notebook((setup, *exercise_cells(TESTS, name=EXERCISE)), dict(KERNEL))
    empty = generate.exercise_notebook(source)
    os.makedirs(f"{course}/source/{SECTION}")
    notebooks.write(f"{course}/source/{SECTION}/{SECTION}.ipynb", source)
    with open(f"{course}/nbgrader_config.py", "w") as file:
        file.write("c = get_config()\n")
    for name, code in learners.items():
        cells = [c._replace(source=code) if c.nbgrader.get("solution") else c for c in empty.cells]
        if name == "tested":
            cells = [c._replace(source="pass") if c.nbgrader.get("grade") else c for c in cells]
        os.makedirs(f"{course}/submitted/{name}/{SECTION}")
        notebooks.write(f"{course}/submitted/{name}/{SECTION}/{SECTION}.ipynb", empty._replace(cells=tuple(cells)))


def run(course: str, *argv: str) -> str:
    """Run a command of the environment, with the teacher's token, in the course's folder; return what it said."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TEACHERS_TOKEN": TOKEN}
    done = subprocess.run(argv, cwd=course, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode(errors="replace")


def theirs(course: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return what nbgrader says of each learner."""
    run(course, "nbgrader", "export")
    with open(f"{course}/grades.csv", newline="") as file:
        points = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    printed = {}
    for name in os.listdir(f"{course}/autograded"):
        path = f"{course}/autograded/{name}/{SECTION}/{SECTION}.ipynb"
        if os.path.exists(path):
            with open(path) as file:
                printed[name] = "".join(
                    "".join(output.get("text", ""))
                    for found in json.load(file)["cells"]
                    for output in found.get("outputs", [])
                )
    return points, printed


def ours(course: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return what our grader says of each learner."""
    from minidocker.course import result

    found = list(result.read_all(f"{course}/out"))
    points = {each.student: each.earned for each in found}
    return points, {each.student: json.dumps(each.to_json()) for each in found}


def left_behind() -> list[int]:
    """Return the processes that an attack has left on this machine."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().startswith(b"sleep\x004711.5"):
                    found.append(int(pid))
        except OSError:
            continue
    return found


class Listener:
    """A server of this machine that notes whether it was reached."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.reached = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            self.reached = True
            connection.close()


def look(name: str, listener: Listener, log: str, found: tuple[dict[str, float], dict[str, str]]) -> Side:
    """Return what there is to see after a grader has graded, and end what was left."""
    left = left_behind()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    reached, listener.reached = listener.reached, False
    return Side(name, *found, log, reached, left)


def said_of(log: str, learner: str) -> int:
    """Return how many warnings nbgrader's log has about one learner's notebook."""
    parts = log.split("Converting notebook ")
    return sum(part.count("WARNING] Attribute") for part in parts if f"/submitted/{learner}/" in part.split("\n")[0])


def _shown(words: str) -> str:
    return f"**{words}**" if words else "no"


def page(tried: dict[str, Attack], nbgrader: Side, mine: Side) -> str:
    """Return the page."""
    lines = [
        "# The same attacks on nbgrader and on `minidocker grade`\n",
        "Hostile notebooks, graded by both in one run, each as it is set up by default, as root; what succeeded was",
        "looked up outside. Made by `scripts/attacks.py`; `tests/test_course_attacks.py` has more attacks on ours.\n",
        f"| a learner tries to | {nbgrader.name} | {mine.name} |",
        "|---|---|---|",
    ]
    for name, attack in tried.items():
        cells = [_shown(attack.succeeded(name, side)) for side in (nbgrader, mine)]
        lines.append(f"| {attack.what} | {cells[0]} | {cells[1]} |")
    lines += [
        "\nAnd what honest learners meet:\n",
        f"| | {nbgrader.name} | {mine.name} |",
        "|---|---|---|",
        f"| points of a right solution, of {POINTS} | {nbgrader.points[PLAIN]:g} | {mine.points[PLAIN]:g} |",
        f"| of one that calls `warnings.warn` | {nbgrader.points[WARNER]:g} | {mine.points[WARNER]:g} |",
        f"| warnings about a right solution's notebook | {said_of(nbgrader.log, PLAIN)} | {mine.log.count('note')} |",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Attack both, and write the page."""
    from importlib.metadata import version

    base, listener = tempfile.mkdtemp(prefix="mda", dir="/var/tmp"), Listener()
    course = f"{base}/course"
    tried = attacks(course, listener.port)
    try:
        make(
            course,
            {VICTIM: HONEST, PLAIN: HONEST, WARNER: WARNS, **{name: attack.code for name, attack in tried.items()}},
        )
        run(course, "nbgrader", "generate_assignment", SECTION)
        log = run(course, "nbgrader", "autograde", SECTION)
        nbgrader = look(f"nbgrader {version('nbgrader')}", listener, log, theirs(course))
        run(course, "minidocker", "grade", "--out", "out", f"submitted/{VICTIM}")  # so that there are marks to change
        log = run(course, "minidocker", "grade", "--timeout", "5", "--out", "out", "submitted")
        print(log, file=sys.stderr)
        mine = look(
            "minidocker", listener, "".join(x for x in log.splitlines() if x.startswith("warns ")), ours(course)
        )
    finally:
        shutil.rmtree(base, ignore_errors=True)
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(page(tried, nbgrader, mine))
    print(page(tried, nbgrader, mine))


if __name__ == "__main__":
    main()
