"""Asking systemd for a place in its tree of control groups.

Where systemd is process 1, it alone writes near the top of the tree. Everybody else asks it for a *scope*: a folder
for processes that it has not started, and, with `Delegate`, ours to divide as we like. Being in a scope of its own also
lets a shim outlive the service or the session that its command was typed in.

One D-Bus message does it, over the socket that systemctl itself uses; an ordinary user's own systemd has one, too.

See: systemd's CGROUP_DELEGATION.md; org.freedesktop.systemd1(5), StartTransientUnit; the D-Bus specification.
"""

import os
import socket
import struct
import time
from typing import Any

from minidocker import explain
from minidocker.errors import StartError
from minidocker.linux import userns

SLICE = "minidocker.slice"
_CALL, _ANSWER, _ERROR = 1, 2, 3  # kinds of message
_PATIENCE = 10.0  # seconds in which systemd has to answer, and seconds from its SIGTERM to its SIGKILL at shutdown
_ALIGNED = {"y": 1, "g": 1, "v": 1, "u": 4, "b": 4, "s": 4, "o": 4, "a": 4, "t": 8, "(": 8}


def manager() -> str:
    """Return the socket of this user's systemd: the machine's for root, the user's own for others; "" without one.

    See: sd_booted(3). In a user namespace we seem to be root, and are who the id map says.
    """
    uid = _real_uid()
    path = f"/run/user/{uid}/systemd/private" if uid else "/run/systemd/private"
    return path if os.path.isdir("/run/systemd/system") and os.path.exists(path) else ""


def home(top: str) -> str:
    """Return what this user's systemd owns of the tree that is mounted at `top`."""
    uid = _real_uid()
    return f"{top}/user.slice/user-{uid}.slice/user@{uid}.service" if uid else top


def scopes(top: str, prefix: str) -> list[str]:
    """Return the folders of the containers whose scopes' names begin with `prefix`."""
    folder = f"{home(top)}/{SLICE}"
    if not os.path.isdir(folder):
        return []
    return [f"{folder}/{name}/container" for name in os.listdir(folder) if name.startswith(prefix)]


def _real_uid() -> int:
    return next((outside for inside, outside, _ in userns.id_map() if inside == os.geteuid()), os.geteuid())


def enter_scope(path: str, name: str, description: str) -> str:
    """Have the systemd that listens at `path` put this process into a new, delegated scope; return its cgroup's path.

    Raises: StartError with systemd's reason, OSError where it does not answer.
    """
    properties = [
        ("Description", ("s", description)),
        ("Slice", ("s", SLICE)),
        ("Delegate", ("b", True)),
        ("PIDs", ("au", [os.getpid()])),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TimeoutStopUSec", ("t", int(_PATIENCE * 1e6))),
    ]
    explain.step(
        f"StartTransientUnit({name}, Slice={SLICE}, Delegate=yes, PIDs={os.getpid()})",
        f"systemd-run --scope --slice={SLICE} --property=Delegate=yes --unit={name}",
    )
    call = message("StartTransientUnit", "ssa(sv)a(sa(sv))", [name, "fail", properties, []])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(path)
        # We are who the kernel says we are: no name is given. What follows need not wait for the answers.
        connection.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n" + call)
        _await_answer(connection)
    deadline = time.monotonic() + _PATIENCE
    while not (place := own_cgroup()).endswith(f"/{name}"):  # it answers before it has done it
        if time.monotonic() > deadline:
            raise StartError(f"systemd did not start {name} in {_PATIENCE:.0f} seconds")
        time.sleep(0.001)
    return place


def own_cgroup() -> str:
    """Return the path of this process in the tree of version 2. See: cgroups(7), /proc/PID/cgroup."""
    with open("/proc/self/cgroup") as file:
        return next(line.rstrip("\n").removeprefix("0::") for line in file if line.startswith("0::"))


def message(method: str, signature: str, arguments: list[Any]) -> bytes:
    """Write the call of one of the manager's methods. Pure."""
    fields = [
        (1, ("o", "/org/freedesktop/systemd1")),
        (2, ("s", "org.freedesktop.systemd1.Manager")),
        (3, ("s", method)),
        (6, ("s", "org.freedesktop.systemd1")),
        (8, ("g", signature)),
    ]
    body, head = bytearray(), bytearray()
    _write_all(body, signature, arguments)
    _write_all(head, "yyyyuua(yv)", [ord("l"), _CALL, 0, 1, len(body), 1, fields])  # l: numbers are little-endian
    _align(head, 8)
    return bytes(head + body)


def _write_all(out: bytearray, signature: str, values: Any) -> None:
    """Append values, each of the type that the signature has at its place."""
    for value in values:
        kind = _first_type(signature)
        signature = signature[len(kind) :]
        _write(out, kind, value)


def _first_type(signature: str) -> str:
    """Return the first complete type of a signature: `a(sv)` of `a(sv)au`."""
    if signature[0] == "a":
        return "a" + _first_type(signature[1:])
    if signature[0] != "(":
        return signature[0]
    depth, end = 1, 1
    while depth:
        depth += {"(": 1, ")": -1}.get(signature[end], 0)
        end += 1
    return signature[:end]


def _write(out: bytearray, kind: str, value: Any) -> None:
    """Append one value of one type. See: the D-Bus specification, "Marshaling"."""
    _align(out, _ALIGNED[kind[0]])
    if kind[0] == "a":
        start = len(out)
        out += bytes(4)
        _align(out, _ALIGNED[kind[1]])
        first = len(out)
        for item in value:
            _write(out, kind[1:], item)
        out[start : start + 4] = struct.pack("<I", len(out) - first)
    elif kind[0] == "(":
        _write_all(out, kind[1:-1], value)
    elif kind == "v":
        _write(out, "g", value[0])
        _write(out, *value)
    elif kind in ("s", "o", "g"):
        data = value.encode()
        out += struct.pack("<B" if kind == "g" else "<I", len(data)) + data + b"\0"
    else:
        out += struct.pack({"y": "<B", "t": "<Q"}.get(kind, "<I"), value)


def _align(out: bytearray, to: int) -> None:
    out += bytes(-len(out) % to)


def _await_answer(connection: socket.socket) -> None:
    """Read what systemd says until it has answered the call.

    Raises: StartError with its reason if it refused.
    """
    with connection.makefile("rb") as stream:
        while not (line := stream.readline()).startswith(b"OK"):
            if not line.startswith(b"DATA"):
                raise StartError(f"systemd does not let us in: {line.decode(errors='replace').strip()}")
        while True:
            head = stream.read(16)
            if len(head) < 16:
                raise StartError("systemd closed the connection without an answer")
            kind, body_size, fields_size = head[1], *struct.unpack("<I4xI", head[4:])
            stream.read(fields_size + -fields_size % 8)
            body = stream.read(body_size)
            if kind == _ERROR:
                size = struct.unpack_from("<I", body)[0] if body else 0
                raise StartError(f"systemd refused: {body[4 : 4 + size].decode(errors='replace')}")
            if kind == _ANSWER:
                return
