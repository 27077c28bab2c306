"""Lines, boxes and words as SVG and HTML: the look that all pictures share.

Colours are chosen to be legible on light and on dark paper: words have the colour of the page's own text, areas are
tints that let the paper through, edges are of middle lightness. Nothing is named by an id, so that pictures on one
page do not meet; nothing runs, and nothing is fetched.
"""

import html
from collections.abc import Iterable, Sequence

WIDTH = 820
MONO = 7.25  # how wide a letter of 12 pixels is, where all are equally wide
TONES = {
    "grey": "127,127,127",
    "blue": "56,128,200",
    "green": "58,158,100",
    "amber": "208,140,26",
    "red": "214,80,72",
    "violet": "138,104,204",
}

STYLE = (
    """<style>
.mdk { color: var(--jp-content-font-color1, inherit); width: 0; min-width: min(100%, 860px); font-size: 13px;
  line-height: 1.45;
  font-family: var(--jp-ui-font-family, system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif); }
.mdk, .mdk * { box-sizing: border-box; }
.mdk-title { font-weight: 600; margin: 2px 0 8px; }
.mdk .mono, .mdk pre { font-family: var(--jp-code-font-family, ui-monospace, "DejaVu Sans Mono", monospace);
  font-size: 12px; }
.mdk pre, .mdk-words pre { margin: 0 !important; padding: 0 !important; background: none !important;
  color: inherit !important; font-size: 12px !important; white-space: pre-wrap; }
.mdk .dim { opacity: .68; }
.mdk .strong { font-weight: 600; }
.mdk .card { border: 1px solid rgb(var(--tone)); border-left-width: 4px; border-radius: 5px; padding: 5px 10px;
  margin: 0 0 5px; background: rgba(var(--tone), .11); }
.mdk .card.quiet { background: none; border-color: rgba(var(--tone), .5); }
.mdk .chip { display: inline-block; border: 1px solid rgba(var(--tone), .9); background: rgba(var(--tone), .16);
  border-radius: 9px; padding: 0 8px; font-size: 12px; white-space: nowrap; }
.mdk .row { display: flex; gap: 10px; align-items: baseline; }
.mdk .grow { flex: 1 1 0; min-width: 0; }
.mdk .clip { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.mdk .track { position: relative; height: 9px; border-radius: 2px; background: rgba(127,127,127,.14); margin: 3px 0; }
.mdk .bar { position: absolute; top: 0; height: 100%; min-width: 2px; border-radius: 2px;
  background: rgb(var(--tone)); }
.mdk svg { display: block; width: 100%; height: auto; overflow: visible; }
.mdk svg text { fill: currentColor; font-size: 13px; }
.mdk svg text.mono { font-size: 12px; }
.mdk svg text.small { font-size: 11px; }
.mdk svg .box { fill: rgba(var(--tone), .13); stroke: rgb(var(--tone)); stroke-width: 1.3; }
.mdk svg .empty { fill: none; }
.mdk svg .dashed { stroke-dasharray: 5 4; }
.mdk svg .lit { stroke-width: 3; fill: rgba(var(--tone), .3); }
.mdk svg .line { fill: none; stroke: rgb(var(--tone)); stroke-width: 1.6; }
.mdk svg .head { fill: rgb(var(--tone)); stroke: none; }
.mdk svg .area { fill: rgba(var(--tone), .2); stroke: none; }
"""
    + "\n".join(f".mdk .{name} {{ --tone: {rgb}; }}" for name, rgb in TONES.items())
    + """
.mdk-words { max-width: 860px; margin: 4px 0 8px; font-size: 12px; color: var(--jp-content-font-color1, inherit);
  font-family: var(--jp-ui-font-family, system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif); }
.mdk-words summary { cursor: pointer; opacity: .75; }
</style>"""
)


def escape(text: object) -> str:
    """Make a text fit for HTML, also as an attribute's value; control characters are shown as what they are."""
    shown = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in str(text))
    return html.escape(shown.encode(errors="replace").decode())


def figure(title: str, body: str) -> str:
    """Frame a picture: its title is what it is called where it cannot be seen."""
    head = f'<div class="mdk-title">{escape(title)}</div>'
    return f'{STYLE}<div class="mdk" role="img" aria-label="{escape(title)}">{head}{body}</div>'


def details(text: str) -> str:
    """Return what a picture says in words, folded away."""
    return f'<details class="mdk-words"><summary>The same in words</summary><pre>{escape(text)}</pre></details>'


def clip(text: str, most: int) -> str:
    """Shorten a text in its middle to `most` letters."""
    if len(text) <= most:
        return text
    kept = max(most - 1, 2)
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


# HTML


def chip(text: str, tone: str = "grey") -> str:
    """Return a word on a coloured ground."""
    return f'<span class="chip {tone}">{escape(text)}</span>'


def span(text: str, kind: str = "") -> str:
    """Return words of a kind: `mono`, `dim`, `strong`."""
    return f'<span class="{kind}">{escape(text)}</span>'


def hinted(text: str, kind: str = "") -> str:
    """Return words that may be cut off, and are shown whole to who points at them."""
    return f'<span class="{kind}" title="{escape(text)}">{escape(text)}</span>'


def card(inside: str, tone: str = "grey", quiet: bool = False) -> str:
    """Return a frame around HTML."""
    return f'<div class="card {tone}{" quiet" if quiet else ""}">{inside}</div>'


def row(*cells: str) -> str:
    """Return HTML side by side."""
    return f'<div class="row">{"".join(cells)}</div>'


def cell(inside: str, width: int = 0, right: bool = False) -> str:
    """Return one of a row's parts: `width` pixels wide, or as wide as there is room for, and then cut off."""
    style = f"flex: 0 0 {width}px;" if width else ""
    style += "text-align: right;" if right else ""
    return f'<div class="clip{"" if width else " grow"}" style="{style}">{inside}</div>'


def track(bars: Iterable[tuple[float, float, str]]) -> str:
    """Return a track with bars on it, each (begin, end, tone) between 0 and 1."""
    shown = "".join(
        f'<div class="bar {tone}" style="left:{begin * 100:.2f}%;width:{max(end - begin, 0) * 100:.2f}%"></div>'
        for begin, end, tone in bars
    )
    return f'<div class="track">{shown}</div>'


def note(text: str, tone: str = "grey") -> str:
    """Return a line that stands below or above a picture."""
    return f'<div class="card quiet {tone}">{escape(text)}</div>'


# SVG


def svg(height: float, *parts: str, width: float = WIDTH) -> str:
    """Return a drawing of that size."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def box(x: float, y: float, width: float, height: float, tone: str = "grey", kind: str = "") -> str:
    """Return a rectangle; `kind` may be `dashed`, `empty`, `lit`."""
    size = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect class="box {tone} {kind}" {size} rx="6"/>'


def words(x: float, y: float, text: str, kind: str = "", anchor: str = "start", most: int = 0) -> str:
    """Return one line of text: `kind` of `mono`, `dim`, `strong`, `small`; shortened to `most` letters."""
    shown = clip(text, most) if most else text
    whole = f"<title>{escape(text)}</title>" if shown != text else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{whole}{escape(shown)}</text>'


def line(points: Sequence[tuple[float, float]], tone: str = "grey", kind: str = "") -> str:
    """Return a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line {tone} {kind}" points="{path}"/>'


def arrow(points: Sequence[tuple[float, float]], tone: str = "grey", kind: str = "", both: bool = False) -> str:
    """Return a line that ends in an arrow's head; with `both`, also begins in one."""
    return line(points, tone, kind) + _head(points[-2:], tone) + (_head(points[1::-1], tone) if both else "")


def _head(points: Sequence[tuple[float, float]], tone: str) -> str:
    (x0, y0), (x1, y1) = points
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5 or 1
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    back = [(x1 - 9 * dx - 4.5 * dy, y1 - 9 * dy + 4.5 * dx), (x1 - 9 * dx + 4.5 * dy, y1 - 9 * dy - 4.5 * dx)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x1, y1), *back])
    return f'<polygon class="head {tone}" points="{path}"/>'


def area(points: Sequence[tuple[float, float]], bottom: float, tone: str) -> str:
    """Return the area between a curve and the `bottom`."""
    closed = [(points[0][0], bottom), *points, (points[-1][0], bottom)]
    return f'<polygon class="area {tone}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in closed)}"/>'
