"""An image's layers: how large each is, which command made it, and what each has to do with a file.

See: OCI image-spec, config.md, history; layer.md, Whiteouts.
"""

import collections
import re
from typing import Any, NamedTuple

from minidocker.build.values import human_size
from minidocker.course.widgets import drawing, tree
from minidocker.course.widgets.picture import Picture, open_engine
from minidocker.engine import Engine
from minidocker.errors import MinidockerError
from minidocker.image import overlay

SUGGESTED = 300


class Row(NamedTuple):
    """A layer: its number from the bottom, what it takes on the disk and as a blob, its command, and what it changes.

    `after` are the steps above it that made no layer.
    """

    number: int
    diff_id: str
    folder: str
    size: int
    packed: int
    command: str
    kinds: dict[str, int]
    after: list[str]


class Layers(Picture):
    """The layers of an image, and what each does to the path that is asked for."""

    def __init__(self, engine: Engine, name: str, path: str) -> None:
        self.engine, self.name, self.path = engine, name, path
        self.suggestions: list[str] = []
        self.problem = ""
        self.look()
        tree.clean(path)

    def look(self) -> None:
        """Read the image's documents and compare each layer's tree with those below it."""
        image = self.engine.images.get(self.name)
        config, manifest = self.engine.images.config(image), self.engine.images.manifest(image)
        made, first = _commands(config.history, len(config.diff_ids))
        self.rows: list[Row] = []
        folders: list[str] = []
        for number, diff_id in enumerate(config.diff_ids, 1):
            folder = self.engine.images.layer_path(diff_id)
            changes = overlay.changes(folder, list(dict.fromkeys(reversed(folders))))
            folders.append(folder)
            kinds = dict(collections.Counter(change.kind for change in changes))
            telling = [change.path for change in changes if number > 1 and change.kind != "C"]
            self.suggestions = [*telling[: SUGGESTED // 3], *self.suggestions][:SUGGESTED]
            size, packed = self.engine.images.layer_size(diff_id), manifest.layers[number - 1].size
            self.rows.append(
                Row(number, diff_id, folder, size, packed, *made[number - 1][:1], kinds, made[number - 1][1])
            )
        self.first = first
        self.size = image.size
        self.title = f"{self.name}: {len(self.rows)} layer{'s' * (len(self.rows) != 1)}, {human_size(image.size)}"

    def controls(self) -> list[Any]:
        """Let the reader ask for a path, of their own or one that the upper layers bring or delete."""
        import ipywidgets

        field = ipywidgets.Combobox(
            value=self.path,
            placeholder="/etc/passwd",
            options=self.suggestions,
            description="file",
            continuous_update=False,
        )

        def ask(change: dict[str, Any]) -> None:
            self.path = change["new"]
            self.redraw()

        field.observe(ask, "value")
        return [field]

    def fates(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the links on the way, and for each layer from the bottom what it does to the path: (word, how)."""
        stack = [row.folder for row in reversed(self.rows)]
        self.problem = ""
        try:
            path, links = tree.follow(tree.clean(self.path), list(dict.fromkeys(stack)))
        except MinidockerError as error:
            self.problem = str(error)
            return [], [("", "")] * len(self.rows)
        fates, below = [], None
        for row in self.rows:
            seen = overlay.lookup(path, list(dict.fromkeys(stack[-row.number :])))
            fates.append(_fate(tree.look(row.folder, path), seen, below, row.folder))
            below = seen
        return links, fates

    def text(self) -> str:
        """Say each layer, the topmost first."""
        links, fates = self.fates() if self.path else ([], [("", "")] * len(self.rows))
        lines = [f"{self.title}. The topmost comes first."]
        for row, (word, how) in reversed(list(zip(self.rows, fates, strict=True))):
            lines += [f"     (no layer) {step}" for step in reversed(row.after)]
            lines.append(f"{row.number:3}. {row.command}")
            sizes = f"{human_size(row.size)}, as a blob {human_size(row.packed)}"
            lines.append(f"     {row.diff_id[7:19]}: {sizes}; {_counts(row)}")
            if word:
                lines.append(f"     {self.path}: {word}{f', {how}' if how else ''}")
        lines += [f"     (no layer) {step}" for step in reversed(self.first)]
        return "\n".join([*lines, *links, *filter(None, [self.problem, self.outcome(fates)])])

    def outcome(self, fates: list[tuple[str, str]]) -> str:
        """Say whether the image has the file at last."""
        if not self.path or self.problem:
            return ""
        told = [(row.number, word) for row, (word, _) in zip(self.rows, fates, strict=True) if word]
        if not told:
            return f"{self.path}: no layer has it."
        if told[-1][1] == "hid":
            return f"{self.path}: the image does not have it. Layer {told[-1][0]} hides it; its bytes are still below."
        return f"{self.path}: as layer {told[-1][0]} has it."

    def body(self) -> str:
        """Draw the layers as a stack, sizes as bars."""
        links, fates = self.fates() if self.path else ([], [("", "")] * len(self.rows))
        largest = max((row.size for row in self.rows), default=0) or 1
        shown = []
        for row, (word, how) in reversed(list(zip(self.rows, fates, strict=True))):
            shown += [_step(step) for step in reversed(row.after)]
            tone = {"brought": "green", "changed": "amber", "hid": "red"}.get(word, "grey")
            mark = drawing.chip(f"{word} {self.path}", tone) if word else ""
            top = drawing.row(
                drawing.cell(drawing.span(str(row.number), "dim"), 18),
                drawing.cell(drawing.hinted(row.command, "mono")),
                mark,
                drawing.cell(drawing.span(human_size(row.size), "strong"), 76, right=True),
            )
            bar = drawing.track([(0, row.size / largest, "blue")])
            facts = f"{_counts(row)} · blob {human_size(row.packed)} · {row.diff_id[7:19]}"
            facts += f" · {how}" if how else ""
            shown.append(drawing.card(top + bar + drawing.span(facts, "dim"), tone, quiet=not word))
        shown += [_step(step) for step in reversed(self.first)]
        shown += [drawing.note(text) for text in links]
        last = self.problem or self.outcome(fates)
        return "".join(shown) + (f'<div class="strong">{drawing.escape(last)}</div>' if last else "")


def _step(text: str) -> str:
    """Draw a step that made no layer."""
    inside = drawing.row(drawing.cell(drawing.span(text, "mono dim")), drawing.span("no layer", "dim"))
    return f'<div style="padding:0 10px 5px 40px">{inside}</div>'


def _counts(row: Row) -> str:
    words = {"A": "added", "C": "changed", "D": "deleted"}
    return ", ".join(f"{row.kinds[kind]} {word}" for kind, word in words.items() if row.kinds.get(kind)) or "nothing"


def _fate(place: tree.Place, seen: str | None, below: str | None, folder: str) -> tuple[str, str]:
    """Return what a layer does to a path that is at `below` without it and at `seen` with it."""
    if seen is None:
        return ("hid", place.hides) if below else ("", "")
    if not seen.startswith(f"{folder}/"):
        return "", ""
    how = f"a link to {place.target}" if place.target else ""
    if below is None:
        return "brought", how
    if place.kind == "directory" and not place.hides:
        return "changed", "it has entries of its own in it, or its attributes"
    return "changed", how or place.hides


def _commands(history: list[dict[str, Any]], layers: int) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Lead the history's steps to the layers: for each its command and the steps after it; and those before the first.

    A history is told by who made the image, and need not fit its layers.
    """
    made: list[tuple[str, list[str]]] = []
    first: list[str] = []
    for step in history:
        text = readable(str(step.get("created_by") or step.get("comment") or "(nothing is said)"))
        if step.get("empty_layer"):
            (made[-1][1] if made else first).append(text)
        else:
            made.append((text, []))
    if len(made) > layers:
        made = made[:layers]
    return made + [("(the history does not say)", [])] * (layers - len(made)), first


def readable(created_by: str) -> str:
    """Return a history's `created_by` as the instruction that it was."""
    text = re.sub(r"\s+", " ", created_by).strip()
    text = re.sub(r"\b(file|dir|multi):([0-9a-f]{12})[0-9a-f]{52}\b", r"\1:\2…", text)
    text = re.sub(r"^\|\d+ (\S+ )*?(?=/bin/sh -c )", "", text)
    if text.startswith("/bin/sh -c #(nop) "):
        return text.removeprefix("/bin/sh -c #(nop) ").strip()
    return f"RUN {text.removeprefix('/bin/sh -c ')}" if text.startswith("/bin/sh -c ") else text


def layers(image: Any, path: str = "") -> Layers:
    """Draw the layers of an image; with a `path`, which of them brought, changed or hid it.

    Raises: ImageNotFound, InvalidReference.
    """
    engine = getattr(image, "engine", None) or open_engine()
    return Layers(engine, image if isinstance(image, str) else (image.tags or [image.id])[0], path)
