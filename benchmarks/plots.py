"""The plots: how time grows with the number of containers, of layers and of files; with the limit drawn in."""

import os
from typing import Any

AXES = {
    "containers": ("containers that run already", "seconds to start one more"),
    "layers": ("layers of 6 MB", "seconds to pull them"),
    "files": ("small files", "seconds to build a COPY of them"),
}
COLOURS = {"minidocker": "#2563eb", "docker": "#9ca3af", "docker, BuildKit": "#4b5563", "the limit": "#dc2626"}


def draw(series: dict[str, Any], folder: str) -> None:
    """Draw each series as an SVG picture, `containers.svg` and so on."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "minidocker", "svg.fonttype": "none", "font.size": 11}
    from matplotlib import pyplot

    os.makedirs(folder, exist_ok=True)
    for name, found in series.items():
        across, up = AXES[name]
        figure, axes = pyplot.subplots(figsize=(7, 4))
        for who, points in found.items():
            style = "--" if who == "the limit" else "-"
            axes.plot(*zip(*points, strict=True), style, color=COLOURS.get(who), label=who, linewidth=1.6)
        axes.set(xlabel=across, ylabel=up)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.tight_layout()
        figure.savefig(f"{folder}/{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
