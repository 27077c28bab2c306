"""A container's memory, processes and processor time as curves, against what its control group allows.

See: cgroups(7); the kernel's admin-guide/cgroup-v1/ and admin-guide/cgroup-v2.rst.
"""

import contextlib
import threading
import time
from typing import Any, NamedTuple

from minidocker.build.values import human_size
from minidocker.container import cgroups
from minidocker.container.options import ExecOptions
from minidocker.container.records import Container
from minidocker.course.widgets import drawing
from minidocker.course.widgets.picture import MOST_SECONDS, Picture, find
from minidocker.errors import InvalidArgument

MOST_SAMPLES = 600
_NO_LIMIT = 1 << 60  # version 1 has a number near 2^63 where there is no limit to memory


class Sample(NamedTuple):
    """What the kernel counts at one moment: bytes, processes, and seconds of processor time used so far."""

    when: float
    memory: int
    pids: int
    cpu: float


class Allowed(NamedTuple):
    """What a container may use: bytes, processes, processors; 0 is no limit."""

    memory: int
    pids: int
    cpus: float


class Folders(NamedTuple):
    """A container's cgroups: under version 1 a folder a controller, under version 2 one."""

    version: int
    folders: tuple[str, ...]

    @classmethod
    def of(cls, container: Container) -> "Folders":
        """Find them: those that its first process says it is in, then those that were made for it."""
        with contextlib.suppress(OSError):
            plan, made = cgroups.of(container.id, container.state.pid), cgroups.existing(container.id)
            return cls(plan.version, tuple(dict.fromkeys((*plan.folders, *made.folders))))
        return cls(0, ())

    def read(self, *names: str) -> str:
        """Return the first file of these names that there is; "" for none."""
        for name in names:
            for folder in self.folders:
                with contextlib.suppress(OSError), open(f"{folder}/{name}") as file:
                    return file.read().strip()
        return ""

    def entry(self, file: str, name: str) -> int:
        """Return one number of a file that has a name and a number a line."""
        for line in self.read(file).splitlines():
            words = line.split()
            if words[0] == name:
                return int(words[1])
        return 0

    def allowed(self) -> Allowed:
        """Read the limits as they are now."""
        memory = _number(self.read("memory.max", "memory.limit_in_bytes"))
        quota, _, period = self.read("cpu.max").partition(" ")
        if not quota:
            quota, period = self.read("cpu.cfs_quota_us"), self.read("cpu.cfs_period_us")
        cpus = _number(quota) / (_number(period) or 100_000) if _number(quota) > 0 else 0.0
        return Allowed(0 if memory > _NO_LIMIT else memory, _number(self.read("pids.max")), cpus)

    def most(self) -> tuple[int, int]:
        """Return the most bytes and processes since the container's start, 0 where the kernel does not remember."""
        memory = _number(self.read("memory.peak", "memory.max_usage_in_bytes"))
        return memory, _number(self.read("pids.peak"))

    def sample(self) -> Sample:
        """Read the counters as they are now."""
        used = self.read("cpuacct.usage")
        seconds = int(used) / 1e9 if used else self.entry("cpu.stat", "usage_usec") / 1e6
        memory = _number(self.read("memory.current", "memory.usage_in_bytes"))
        return Sample(time.monotonic(), memory, _number(self.read("pids.current")), seconds)


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdecimal() else 0


class Limits(Picture):
    """Curves of what a container uses. They grow for as long as it is watched."""

    def __init__(self, what: Any, every: float) -> None:
        self.what, self.every = what, every
        self.samples: list[Sample] = []
        self.allowed = Allowed(0, 0, 0.0)
        self.oom_kills = self.refused = 0
        self.most = (0, 0)
        self.ended = ""
        self.engine, self.container = find(what)
        self.title = f"What {self.container.name} uses, and what it may"
        self._begin()

    def _begin(self) -> None:
        self.container = self.engine.containers.load(self.container.id)
        self.folders = Folders(0, ())
        if not self.container.running:
            self.ended = f"{self.container.name} is not running: it has no control group now."
        else:
            self.ended = ""
            self.folders = Folders.of(self.container)
            if not self.folders.folders:
                self.ended = f"{self.container.name} has no control groups: this user has none to give."

    def look(self) -> None:
        """Read limits and counters once more."""
        if self.ended:
            return
        if not self.folders.read("memory.current", "memory.usage_in_bytes", "pids.current"):
            self.ended = f"{self.container.name} has ended."
            return
        self.allowed = self.folders.allowed()
        self.samples = [*self.samples, self.folders.sample()][-MOST_SAMPLES:]
        self.most = self.folders.most()
        plan = cgroups.Plan(self.folders.version, self.folders.folders, ())
        self.oom_kills = cgroups.oom_kills(plan)
        self.refused = self.folders.entry("pids.events", "max")

    def watch(self, seconds: float) -> None:
        """Look every so often until `seconds` have passed or the container has ended."""
        until = time.monotonic() + min(seconds, MOST_SECONDS)
        self.look()
        while not self.ended and time.monotonic() < until:
            time.sleep(self.every)
            self.look()
            self.redraw()

    def controls(self) -> list[Any]:
        """Let the reader go on watching."""
        import ipywidgets

        button = ipywidgets.ToggleButton(value=False, description="Go on", icon="play")

        def work() -> None:
            deadline = time.monotonic() + MOST_SECONDS
            while button.value and not self.ended and time.monotonic() < deadline:
                self.look()
                self.redraw()
                time.sleep(self.every)
            button.value = False

        def switch(change: dict[str, Any]) -> None:
            if change["new"]:
                self._begin()
                self.samples = []
                threading.Thread(target=work, daemon=True, name="minidocker-limits").start()

        button.observe(switch, "value")
        return [button]

    # What the curves are

    def curves(self) -> list[tuple[str, list[float], float, str]]:
        """Return each curve: its name, its values, its limit, and the file that the limit stands in."""
        two = self.folders.version == 2
        cpu = []
        for one, other in zip(self.samples, self.samples[1:], strict=False):
            cpu.append((other.cpu - one.cpu) / max(other.when - one.when, 1e-6))
        cpu = [*(cpu[:1] or [0.0]), *cpu]  # before the first sample nothing is known
        names = ("memory.max", "pids.max", "cpu.max")
        if not two:
            names = ("memory.limit_in_bytes", "pids.max", "cpu.cfs_quota_us")
        return [
            ("memory", [float(sample.memory) for sample in self.samples], float(self.allowed.memory), names[0]),
            ("processes", [float(sample.pids) for sample in self.samples], float(self.allowed.pids), names[1]),
            ("processors", cpu, self.allowed.cpus, names[2]),
        ]

    def text(self) -> str:
        """Say for each curve what it is now, the most it was, and the limit."""
        version = f"cgroup version {self.folders.version}" if self.folders.version else "no cgroups"
        lines = [f"{self.title} ({version}).", *filter(None, [self.ended])]
        if self.samples:
            span = self.samples[-1].when - self.samples[0].when
            lines.append(f"{len(self.samples)} samples in {span:.1f} s.")
            for (name, values, limit, file), most in zip(self.curves(), (*self.most, 0), strict=True):
                allowed = f"at most {_shown(name, limit)} ({file})" if limit else "no limit"
                highest = _shown(name, max(*values, most))
                lines.append(f"  {name}: {_shown(name, values[-1])} now, {highest} was the most; {allowed}")
            lines += self.events()
        return "\n".join(lines)

    def events(self) -> list[str]:
        """Say what the limits have done."""
        said = []
        if self.oom_kills:
            said.append(f"The kernel has killed {self.oom_kills} of its processes for want of memory.")
        if self.refused:
            said.append(f"The kernel has refused it {self.refused} new processes.")
        return said

    def body(self) -> str:
        """Draw one below the other what is used, the limit as a dashed line."""
        if not self.samples:
            return drawing.note(self.ended or "nothing was read yet")
        parts = []
        times = [sample.when for sample in self.samples]
        for number, ((name, values, limit, file), most) in enumerate(zip(self.curves(), (*self.most, 0), strict=True)):
            parts += _curve(number * 108.0, name, values, limit, times)
            parts += _beside(number * 108.0, name, values, limit, file, most)
        span = self.samples[-1].when - self.samples[0].when
        parts.append(drawing.words(150, 338, "0 s", "small dim"))
        parts.append(drawing.words(640, 338, f"{span:.1f} s", "small dim", "end"))
        said = "".join(drawing.note(text, "red") for text in self.events())
        return drawing.svg(344, *parts) + said + (drawing.note(self.ended) if self.ended else "")


_LEFT, _BROAD, _HIGH = 150.0, 490.0, 90.0


def _top(values: list[float], limit: float) -> float:
    """Return what the upper edge of a curve's frame stands for."""
    return max(*values, limit, 1e-9) * 1.08


def _curve(top: float, name: str, values: list[float], limit: float, times: list[float]) -> list[str]:
    """Draw one curve in its frame, and the limit across it."""
    highest, span = _top(values, limit), max(times[-1] - times[0], 1e-6)
    points = [
        (_LEFT + _BROAD * (when - times[0]) / span, top + _HIGH * (1 - value / highest))
        for when, value in zip(times, values, strict=True)
    ]
    points = points if len(points) > 1 else [points[0], (_LEFT + _BROAD, points[0][1])]
    tone = {"memory": "blue", "processes": "green", "processors": "violet"}[name]
    y = top + _HIGH * (1 - limit / highest)
    return [
        drawing.box(_LEFT, top + 4, _BROAD, _HIGH - 4, "grey", "empty"),
        drawing.area(points, top + _HIGH, tone),
        drawing.line(points, tone),
        drawing.line([(_LEFT, y), (_LEFT + _BROAD, y)], "red", "dashed") if limit else "",
    ]


def _beside(top: float, name: str, values: list[float], limit: float, file: str, most: int) -> list[str]:
    """Write the numbers on the left of a curve, and its limit on the right."""
    parts = [
        drawing.words(0, top + 26, name, "strong"),
        drawing.words(0, top + 44, f"now {_shown(name, values[-1])}"),
        drawing.words(0, top + 62, f"most {_shown(name, max(*values, most))}", "dim"),
    ]
    right = _LEFT + _BROAD + 10
    if not limit:
        return [*parts, drawing.words(right, top + 26, "no limit", "dim")]
    y = top + _HIGH * (1 - limit / _top(values, limit))
    said = drawing.words(right, y + 4, f"limit {_shown(name, limit)}"), drawing.words(right, y + 20, file, "mono dim")
    return [*parts, *said]


def _shown(name: str, value: float) -> str:
    return {"memory": human_size(int(value)), "processes": str(int(value))}.get(name, f"{value:.2f}")


def limits(container: Any, seconds: float = 4.0, every: float = 0.2, doing: str = "") -> Limits:
    """Watch what a container uses for some `seconds`, and draw it against its limits.

    `doing` is a shell command that is begun in the container when the curve begins.
    Raises: ContainerNotFound; InvalidArgument for a time that is none.
    """
    if not (seconds >= 0 and every >= 0.01):
        raise InvalidArgument(f"cannot watch for {seconds} s every {every} s: give seconds ≥ 0 and every ≥ 0.01")
    picture = Limits(container, every)
    picture.show_live()
    picture.look()
    try:
        if doing and not picture.ended:
            from minidocker import engine

            asked = ExecOptions(("/bin/sh", "-c", doing), detach=True)
            engine.execute(picture.engine, picture.container, asked)
        picture.watch(seconds)
    finally:
        picture.finish()
    return picture
