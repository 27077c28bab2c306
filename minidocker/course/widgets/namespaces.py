"""Which namespaces a process shares with the host, and which are its own.

See: namespaces(7), The /proc/pid/ns/ directory: two processes are in one namespace if the links' numbers are equal.
"""

import os
from typing import Any, NamedTuple

from minidocker.course.widgets import drawing
from minidocker.course.widgets.picture import Picture, find, following
from minidocker.errors import InvalidArgument

KINDS = {
    "mnt": "mounts: what the file tree is made of",
    "uts": "the host name",
    "ipc": "shared memory and message queues",
    "pid": "process ids",
    "net": "network cards, addresses, ports, firewall",
    "user": "user and group ids, capabilities",
    "cgroup": "what is the root of the control groups",
    "time": "the clocks that count since boot",
}

_OWN = "this notebook"


class Row(NamedTuple):
    """One kind of namespace: its numbers for the host and for the process, "" where they cannot be read."""

    kind: str
    host: str
    own: str

    @property
    def differs(self) -> bool:
        """Whether the process has one of its own."""
        return bool(self.host and self.own) and self.host != self.own


class Namespaces(Picture):
    """The eight of a process against those of the host's first process."""

    def __init__(self, what: Any) -> None:
        self.what = what
        self.look()

    def look(self) -> None:
        """Read the links in /proc/PID/ns."""
        self.name, self.pid = _process(self.what)
        self.host, self.host_pid = "the host", 1
        if not number(1, "mnt"):  # an ordinary user may not see those of root's processes
            self.host, self.host_pid = _OWN, os.getpid()
        self.rows = [Row(kind, number(self.host_pid, kind), number(self.pid, kind)) for kind in KINDS]
        self.title = f"Namespaces of {self.name}"

    def controls(self) -> list[Any]:
        """Let the reader look again: after a restart all numbers are new."""
        return following(self, 2)

    def summary(self) -> str:
        """Count."""
        if not self.pid:
            return f"{self.name} is not running: it has no process, and so no namespaces."
        own = sum(row.differs for row in self.rows)
        known = sum(bool(row.own) for row in self.rows)
        return (
            f"{self.name} has {own} of {known} kinds of namespaces to itself and shares {known - own} with {self.host}."
        )

    def text(self) -> str:
        """Say each row."""
        heads = f"{self.host} ({self.host_pid})", f"process {self.pid}" if self.pid else "no process"
        lines = [self.summary(), f"{'':8}{heads[0]:24}{heads[1]}"]
        for row in self.rows:
            lines.append(f"{row.kind:8}{row.host or '—':24}{row.own or '—':24}{_verdict(row, bool(self.pid))}")
        return "\n".join(lines)

    def body(self) -> str:
        """Draw one box where a namespace is shared, two where it is not."""
        head = [f"{self.host}, process {self.host_pid}", f"{self.name}, process {self.pid}" if self.pid else self.name]
        shown = [drawing.row(drawing.cell("", 300), *(drawing.cell(drawing.span(text, "strong")) for text in head))]
        for row in self.rows:
            name = f"{drawing.span(row.kind, 'mono strong')} {drawing.span(KINDS[row.kind], 'dim')}"
            shown.append(drawing.row(drawing.cell(name, 300), *_boxes(row, self.pid)))
        return "".join(shown) + f'<div style="margin-top:6px">{drawing.escape(self.summary())}</div>'


def _boxes(row: Row, pid: int) -> list[str]:
    def one(number: str, tone: str, quiet: bool = False, words: str = "") -> str:
        inside = drawing.span(number, "mono") + (f" {drawing.span(words, 'dim')}" if words else "")
        return f'<div class="grow" style="text-align:center">{drawing.card(inside, tone, quiet)}</div>'

    if not pid or not row.own or not row.host:
        return [one(row.host or "—", "grey", True), one(row.own or "—", "grey", True)]
    if row.differs:
        return [one(row.host, "grey"), one(row.own, "blue", words="its own")]
    return [one(row.own, "grey", words="both are in it")]


def _verdict(row: Row, running: bool) -> str:
    if not running or not row.own:
        return "not running" if not running else "this kernel does not have it, or does not let us see it"
    return "its own" if row.differs else "shared"


def number(pid: int, kind: str) -> str:
    """Return what names a process's namespace: `4026531840`; "" where it cannot be read."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}").partition("[")[2].rstrip("]")
    except OSError:
        return ""


def _process(what: Any) -> tuple[str, int]:
    """Return what to call a process or container, and its process id: 0 where it does not run."""
    if isinstance(what, int):
        if not os.path.exists(f"/proc/{what}"):
            raise InvalidArgument(f"no process {what}: it has ended, or never was")
        return (_OWN if what == os.getpid() else f"process {what}"), what
    _, container = find(what)
    return container.name, container.state.pid if container.running else 0


def namespaces(what: Any = 0) -> Namespaces:
    """Draw which namespaces a container or process has to itself: by name, or by process id; 0 is this notebook's own.

    Raises: ContainerNotFound, InvalidArgument for a process that is not there.
    """
    return Namespaces(what or os.getpid())
