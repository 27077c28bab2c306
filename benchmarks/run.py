"""Measure minidocker side by side with docker, podman, skopeo and runc, in one run: `make bench [ONLY=pull]`.

Each story is told by all in turn, ten times or more after a warm-up, so that what else the machine does meets all.
Results go to `benchmarks/results.json`, as a table into the README between its markers, and as plots to
`benchmarks/plots/`: never typed by hand. With ONLY, the stories whose key begins so are told; the others' rows stay.
"""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import plots
import stories_builds
import stories_containers
import stories_grading
import stories_images
import stories_lists
import stories_network
from measure import OURS, Failed, Result, measure
from setting import PROJECT, setting

GROUPS: tuple[ModuleType, ...] = (
    stories_containers,
    stories_images,
    stories_builds,
    stories_lists,
    stories_network,
    stories_grading,
)
KEYS = [key for group in GROUPS for key in group.KEYS]
MARKERS = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)
RESULTS = f"{PROJECT}/benchmarks/results.json"


def main(only: str) -> None:
    """Measure what is asked for, write it down and print it."""
    wanted = [key for key in KEYS if key.startswith(only)]
    if not wanted:
        sys.exit(f"no story begins with {only!r}; there are: {' '.join(KEYS)}")
    written = _read() if only else {"machine": {}, "rows": [], "series": {}}
    written["machine"] = _machine()
    started = time.monotonic()
    with setting() as made:
        for group in GROUPS:
            if here := set(wanted) & set(group.KEYS):
                for result in _measured(group.stories(made), here):
                    _keep(written, result)
                    _write(written)  # as it goes: what was found is kept when it is interrupted
                    _show(result, time.monotonic() - started)
        written["series"] |= made.series
    _write(written)
    plots.draw(written["series"], f"{PROJECT}/benchmarks/plots")
    print(table(written))


def _measured(stories: Iterator[Any], wanted: set[str]) -> Iterator[Result]:
    """Measure the stories that are wanted, and prepare nothing more when all of them are done."""
    for story in stories:
        if story.key in wanted:
            yield measure(story)
            wanted.discard(story.key)
        if not wanted:
            return


def _show(result: Result, elapsed: float) -> None:
    """Say what has been found, as it is found."""
    said = ", ".join(f"{who} {_figure(median, result.story.unit)}" for who, median in result.medians.items())
    mark = "ok " if result.met else "NOT"
    print(
        f"{elapsed:4.0f} s  {mark} {result.ratio:5.2f} of {result.story.goal:4.2f}  {result.story.name}: {said}",
        flush=True,
    )


def _keep(written: dict[str, Any], result: Result) -> None:
    """Put a result in its place, where the one from before was or where its key says."""
    rows = {row["key"]: row for row in written["rows"]} | {result.story.key: result.written()}
    written["rows"] = [rows[key] for key in KEYS if key in rows]


def _machine() -> dict[str, Any]:
    facts = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    return {**facts, "load before": round(os.getloadavg()[0], 2)}


def _read() -> dict[str, Any]:
    with open(RESULTS) as file:
        written: dict[str, Any] = json.load(file)
    return written


def _write(written: dict[str, Any]) -> None:
    """Write the results to the file, and the table to the README."""
    with open(RESULTS, "w") as file:
        json.dump(written, file, indent=1)
        file.write("\n")
    with open(f"{PROJECT}/README.md", encoding="utf-8") as file:
        readme = file.read()
    with open(f"{PROJECT}/README.md", "w", encoding="utf-8") as file:
        file.write(MARKERS.sub(lambda match: match.group(1) + table(written) + match.group(2), readme))


def table(written: dict[str, Any]) -> str:
    """Return the results as the README shows them."""
    lines = ["| what | minidocker | compared with | ratio | goal |", "|---|---:|---|---:|---:|"]
    reasons = []
    for result in map(Result.read, written["rows"]):
        unit, mark = result.story.unit, ""
        if not result.met:
            reasons.append(result.story.why or "not yet")
            mark = f" [{len(reasons)}]"
        others = ", ".join(
            f"**{who} {_figure(median, unit)}**" if who in result.story.against else f"{who} {_figure(median, unit)}"
            for who, median in result.medians.items()
            if who != OURS
        )
        ours, sign = _figure(result.medians[OURS], unit), "≥" if result.story.more_is_better else "≤"
        ratio = f"{result.ratio:.2f}" if result.story.against else ""
        goal = f"{sign} {result.story.goal:g}" + ("" if result.story.against else f" {unit}")
        lines.append(f"| {result.story.name} | {ours} | {others} | {ratio}{mark} | {goal} |")
    about = written["machine"]
    note = (
        f"Medians of wall time on {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}; the ratio"
    )
    note += " is to what is set in bold, the faster of two; made by `make bench`."
    goals = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", note, "", *(["Goals not met:", "", *goals, ""] if goals else [])])


def _figure(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "")
    except Failed as error:
        sys.exit(str(error))
