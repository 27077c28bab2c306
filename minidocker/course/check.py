"""`check("parse_reference")` in a notebook: judge what its cells have defined, show the verdict, offer a hint.

The code is the cell in which the function was last defined, run or not saved; it is judged in other processes, so that
nothing of the notebook's kernel is in its way.
"""

import html
import linecache
import sys
from typing import Any

from minidocker.course import catalogue, progress, report
from minidocker.course.catalogue import Exercise
from minidocker.course.generate import defined
from minidocker.course.judge import judge_apart
from minidocker.errors import MinidockerError


def check(name: str) -> None:
    """Judge an exercise and show the verdict; never raise, so that a notebook can be run to its end."""
    names = sys._getframe(1).f_globals
    try:
        course = catalogue.load()
        exercise = course.get(name)
        code = written_in(names, exercise)
        if not code:
            _show(f"Run the cell with your code first: {_main_name(exercise)} is not defined yet.", "")
            return
        verdict = judge_apart(course.folder, name, code)
        progress.judged(name, verdict.earned, verdict.points)
    except (MinidockerError, OSError) as error:
        _show(f"{name} cannot be judged: {error}", "")
        return
    _show(report.text(exercise, verdict), report.as_html(exercise, verdict))
    if not verdict.passed and exercise.hints:
        _offer_hints(exercise)


def written_in(names: dict[str, Any], exercise: Exercise) -> str:
    """Return the source of the cell in which a notebook has last defined the exercise's function; "" without one."""
    wanted = _main_name(exercise)
    if wanted not in names:
        return ""
    thing = names[wanted]
    parts = vars(thing).values() if isinstance(thing, type) else [thing]
    code = next((part.__code__ for part in parts if hasattr(part, "__code__")), None)
    if code is not None and (lines := linecache.getlines(code.co_filename)):
        return "".join(lines)
    return next((cell for cell in reversed(names.get("In", [])) if wanted in defined(cell)), "")


def _main_name(exercise: Exercise) -> str:
    """Return the name that the solution defines for others: that of what it replaces, else the last one."""
    names = defined(exercise.stub) or defined(exercise.solution)
    own = exercise.replaces.rpartition(".")[2]
    return own if own in names else (names or [exercise.name])[-1]


def _show(text: str, as_html: str) -> None:
    """Show a text, and in a browser its HTML."""
    if not _in_notebook():
        sys.stdout.write(f"{text}\n")
        return
    from IPython.display import display

    shown = as_html or f"<div>{html.escape(text)}</div>"
    display({"text/plain": text, "text/html": shown}, raw=True)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def _offer_hints(exercise: Exercise) -> None:
    """Show a button that reveals one hint more each time; without a browser, say how to get one."""
    words = f"A hint: minidocker course hint {exercise.name}"
    try:
        from ipywidgets import Button, Output, VBox
    except ImportError:
        _show(words, "")
        return
    if not _in_notebook():
        _show(words, "")
        return
    from IPython.display import display

    shown = Output(outputs=_hints(exercise, progress.mark(exercise.name).hints))
    button = Button(description="A hint", tooltip="reveals one hint more each time", icon="question")

    def reveal(_: Any) -> None:
        number = progress.reveal_hint(exercise.name, len(exercise.hints))
        shown.outputs = _hints(exercise, number)
        button.disabled = number >= len(exercise.hints)

    button.on_click(reveal)
    bundle = VBox([button, shown])._repr_mimebundle_()
    display({**bundle, "text/plain": words}, raw=True)


def _hints(exercise: Exercise, revealed: int) -> tuple[dict[str, Any], ...]:
    """Return what a cell's output consists of that shows the hints revealed."""
    if not revealed:
        return ()
    shown = {
        "text/markdown": report.hints_as_markdown(exercise, revealed),
        "text/plain": report.hints(exercise, revealed),
    }
    return ({"output_type": "display_data", "data": shown, "metadata": {}},)
