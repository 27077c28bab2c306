"""What all pictures of this machine share: how they are shown, what they say in words, and whom they ask.

A picture is looked up once, when it is made, and drawn from what was found. In a notebook it shows itself as HTML
without scripts, with the same in words below it; where it has controls, JupyterLab shows those around it instead. A
notebook that runs without a browser keeps the HTML.
"""

import contextlib
import os
import threading
from typing import Any

from minidocker.container import records
from minidocker.course.widgets import drawing
from minidocker.engine import Engine
from minidocker.errors import MinidockerError

VIEW = "application/vnd.jupyter.widget-view+json"
MOST_SECONDS = 600  # after which a picture that follows the machine stops


class Picture:
    """A picture. A subclass sets `title` and says `text` and `body`; `look` asks the machine again."""

    title = ""
    _live: Any = None
    _view: Any = None
    _shown_in = -1

    def text(self) -> str:
        """Return in words what the picture shows."""
        raise NotImplementedError

    def body(self) -> str:
        """Return what is drawn, as HTML."""
        raise NotImplementedError

    def look(self) -> None:
        """Ask the machine again."""

    def controls(self) -> list[Any]:
        """Return the ipywidgets that stand above the picture; `self.redraw` shows what they have changed."""
        return []

    def html(self) -> str:
        """Return the picture as HTML: no script, nothing from elsewhere, all that was read escaped."""
        return drawing.figure(self.title, self.body())

    def page(self) -> str:
        """Return the picture with what it says in words below it."""
        return self.html() + drawing.details(self.text())

    def widget(self) -> Any:
        """Return the picture with its controls as one ipywidget, or None where it has none."""
        controls = self.controls()
        if not controls:
            return None
        import ipywidgets

        self._view = ipywidgets.HTML(self.page())
        row = ipywidgets.HBox(controls, layout=ipywidgets.Layout(flex_flow="row wrap"))
        return ipywidgets.VBox([row, self._view])

    def redraw(self) -> None:
        """Show the picture as it is now wherever it is shown already: in its widget, or in the cell at work."""
        if self._view is not None:
            self._view.value = self.page()
        if self._live is not None:
            from IPython.display import HTML

            self._live.update(HTML(self.page()))

    def show_live(self) -> None:
        """Begin to show the picture in the cell at work, where there is a notebook; `redraw` goes on with it."""
        if in_notebook():
            from IPython.display import HTML, display

            self._live = display(HTML(self.page()), display_id=True)

    def finish(self) -> None:
        """End what `show_live` began: the cell shows the finished picture, with its controls."""
        live, self._live = self._live, None
        if live is not None:
            live.update(self)
            self._shown_in = _cell()

    def _ipython_display_(self) -> None:
        """Show nothing where this cell shows the picture already; otherwise leave it to `_repr_mimebundle_`."""
        if self._shown_in != _cell():
            raise NotImplementedError

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": self.text(), "text/html": self.page()}
        widget = self.widget() if in_notebook() else None
        if widget is not None:
            bundle[VIEW] = widget._repr_mimebundle_()[VIEW]
        return bundle

    def __repr__(self) -> str:
        return self.text()


def in_notebook() -> bool:
    """Say whether a notebook's kernel runs this."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def _cell() -> int:
    """Return the number of the cell at work; 0 where there is none."""
    from IPython import get_ipython

    return int(getattr(get_ipython(), "execution_count", 0))


def following(picture: Picture, seconds: float = 1.0) -> list[Any]:
    """Return a button that looks at the machine again, and one that keeps doing so every few `seconds`."""
    import ipywidgets

    once = ipywidgets.Button(description="Look again", icon="refresh")
    always = ipywidgets.ToggleButton(value=False, description="Follow", icon="eye")
    stopped = threading.Event()

    def again(_button: Any = None) -> None:
        try:
            picture.look()
        except (MinidockerError, OSError) as error:  # what it shows may have been removed
            picture.title = str(error)
        picture.redraw()

    def follow(stop: threading.Event) -> None:
        for _ in range(int(MOST_SECONDS / seconds)):
            if stop.wait(seconds):
                return
            again()
        always.value = False

    def switch(change: dict[str, Any]) -> None:
        nonlocal stopped
        stopped.set()
        stopped = threading.Event()
        if change["new"]:
            threading.Thread(target=follow, args=(stopped,), daemon=True, name="minidocker-picture").start()

    once.on_click(again)
    always.observe(switch, "value")
    return [once, always]


def open_engine() -> Engine:
    """Return the engine of this machine, as `minidocker.from_env` does."""
    import minidocker

    return minidocker.from_env().engine


def find(what: Any) -> tuple[Engine, records.Container]:
    """Return a container with its engine: given by name, by id, or as the Python API has it.

    Raises: ContainerNotFound, AmbiguousPrefix.
    """
    engine = getattr(what, "engine", None) or open_engine()
    name = what if isinstance(what, str) else what.id
    return engine, engine.containers.get(name)


def mounts(pid: int) -> list[tuple[str, str, str]]:
    """Return what is mounted in a process's root: target, type, source. See: proc_pid_mountinfo(5)."""
    found = []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, source = after.split()[:2]
            found.append((before.split()[4].encode().decode("unicode_escape"), kind, source))
    return found


def project_folder(path: str) -> str:
    """Return a folder as it is named, or where the project has it when there is none of that name here."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    beside = os.path.join(os.path.dirname(package), path)
    return beside if not os.path.exists(path) and os.path.exists(beside) else path
