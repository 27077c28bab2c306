"""Measure minidocker side by side with Debian's docker, on this machine, in one run: `make bench`.

Each story is told by both in turn, several times after a warm-up, so that what else the machine does meets both alike.
Results go to `benchmarks/results.json`, and as a table into the README between its markers: never typed by hand.
"""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, f"{PROJECT}/tests")

from peers import Docker, DockerRegistry, running_docker, running_registry  # noqa: E402

COMMAND = os.path.join(os.path.dirname(sys.executable), "minidocker")
MARKERS = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)


class Story(NamedTuple):
    """One thing both can do. `before` is done before each telling and not measured."""

    name: str
    command: list[str]
    rounds: int
    before: list[str]


class Result(NamedTuple):
    """Seconds of wall time, a number for each round."""

    name: str
    minidocker: list[float]
    docker: list[float]

    @property
    def ratio(self) -> float:
        """Say how much of docker's time minidocker takes, by the medians."""
        return statistics.median(self.minidocker) / statistics.median(self.docker)


def stories(registry: str) -> list[Story]:
    """Return what is measured."""
    debian = f"{registry}/debian:bookworm"
    return [
        Story(
            "`run --rm --network none busybox true`",
            ["run", "--rm", "--network", "none", f"{registry}/busybox:latest", "true"],
            15,
            [],
        ),
        Story("pull of `debian:bookworm` from a local registry", ["pull", "-q", debian], 7, ["rmi", debian]),
    ]


def measure(story: Story, minidocker: Callable[..., None], docker: Callable[..., None]) -> Result:
    """Tell a story by both in turn; the first round is not counted."""
    times: dict[str, list[float]] = {"minidocker": [], "docker": []}
    for number in range(story.rounds + 1):
        pair = [("minidocker", minidocker), ("docker", docker)]
        for name, engine in pair if number % 2 else reversed(pair):
            if story.before:
                engine(*story.before, check=number > 0)
            started = time.perf_counter()
            engine(*story.command)
            if number:
                times[name].append(time.perf_counter() - started)
    return Result(story.name, times["minidocker"], times["docker"])


def engine(argv: list[str], env: dict[str, str]) -> Callable[..., None]:
    """Return a function that runs an engine's command, which must succeed unless `check` is False."""

    def run(*args: str, check: bool = True) -> None:
        done = subprocess.run([*argv, *args], env={**os.environ, **env}, capture_output=True, text=True, check=False)
        if check and done.returncode:
            sys.exit(f"{' '.join([*argv, *args])}: exit code {done.returncode}\n{done.stdout}{done.stderr}")

    return run


def table(results: list[Result]) -> str:
    """Return the results as the README shows them."""
    lines = ["| what | minidocker | docker 20.10 | ratio |", "|---|---:|---:|---:|"]
    for result in results:
        ours, theirs = statistics.median(result.minidocker), statistics.median(result.docker)
        lines.append(f"| {result.name} | {ours:.3f} s | {theirs:.3f} s | {result.ratio:.2f} |")
    note = f"Medians of wall time on {os.cpu_count()} cores, Linux {platform.release()}; made by `make bench`."
    return "\n".join([*lines, "", note, ""])


def rounded(result: Result) -> dict[str, object]:
    """Return a result as it is written down: to the millisecond."""
    times = {who: [round(seconds, 3) for seconds in getattr(result, who)] for who in ("minidocker", "docker")}
    return {"name": result.name, **times, "ratio": round(result.ratio, 3)}


def write(results: list[Result], load: float) -> None:
    """Write the results to the file, and to the README where it has the markers; `load` was the machine's before."""
    with open(f"{PROJECT}/benchmarks/results.json", "w") as file:
        machine: dict[str, object] = {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        }
        machine["load before"] = round(load, 2)
        found = [rounded(result) for result in results]
        json.dump({"machine": machine, "seconds": found}, file, indent=1)
        file.write("\n")
    with open(f"{PROJECT}/README.md", encoding="utf-8") as file:
        readme = file.read()
    if MARKERS.search(readme):
        with open(f"{PROJECT}/README.md", "w", encoding="utf-8") as file:
            file.write(MARKERS.sub(lambda match: match.group(1) + table(results) + match.group(2), readme))


def prepare(registry: DockerRegistry, minidocker: Callable[..., None], docker: Docker) -> None:
    """Put both images into the registry, and busybox into both engines."""
    for name in ("busybox:latest", "debian:bookworm"):
        minidocker("pull", "-q", name)
        minidocker("tag", name, f"{registry.host}/{name}")
        minidocker("push", f"{registry.host}/{name}")
        minidocker("rmi", name, f"{registry.host}/{name}")
    minidocker("pull", "-q", f"{registry.host}/busybox:latest")
    docker.run("pull", "-q", f"{registry.host}/busybox:latest")


def main() -> None:
    """Measure everything, write it down and print it."""
    base, load = tempfile.mkdtemp(prefix="mdb", dir="/tmp"), os.getloadavg()[0]
    env = {"MINIDOCKER_ROOT": f"{base}/root", "MINIDOCKER_RUN": f"{base}/run"}
    os.mkdir(f"{base}/root")
    minidocker = engine([COMMAND], env)
    registry = running_registry({})
    try:
        with running_docker(f"bench{os.getpid() % 1000}") as docker:
            prepare(registry, minidocker, docker)
            results = [measure(story, minidocker, engine(docker.argv, {})) for story in stories(registry.host)]
    finally:
        registry.close()
        shutil.rmtree(base, ignore_errors=True)
    write(results, load)
    print(table(results))


if __name__ == "__main__":
    main()
