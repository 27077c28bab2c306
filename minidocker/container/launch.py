"""Starting a shim and agreeing with it, step by step, on a process that is to run.

engine                                    shim
BEGIN what to run, the held ports   →     makes the cgroups, the namespaces
                                    ←     CREATED pid
makes the network                         (the process makes its root meanwhile)
GO the address                      →     lets the program run
                                    ←     STARTED, or FAILED at any time and everything undone
"""

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from minidocker import explain
from minidocker.container import records, shims, stream
from minidocker.container.attach import Attachment
from minidocker.container.spec import Spec
from minidocker.errors import MinidockerError, StartError

Json = dict[str, Any]


class Process(NamedTuple):
    """What a new shim is told to run; `join` is `{pid, start}` of the container's first process for an `exec`.

    `seccomp` is the compiled filter in hexadecimal, "" for an unconfined container.
    """

    id: str
    root: str
    run: str
    layers: str
    spec: Spec
    seccomp: str
    attach: bool
    join: Json | None = None


def launch(process: Process, held: list[int], on_created: Callable[[int], Json]) -> Attachment | None:
    """Start a shim and have it run `process`; return a connection to it if one is to stay attached.

    `held` are the descriptors that the shim is to hold as well: the container's lock, then its ports.
    `on_created` is called with the process's id once its namespaces exist, and returns what its network is like.

    Raises: StartError with what the shim says; whatever `on_created` raises, after which nothing runs either.
    """
    if len(held) > stream.MOST_DESCRIPTORS:
        most = stream.MOST_DESCRIPTORS - 1
        raise StartError(f"cannot publish {len(held) - 1} ports: {most} are the most for one container")
    connection = shims.new(f"minidocker-{'exec' if process.join else 'shim'} {process.id[:12]}")
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(_give_up, connection)
        message = {**process._asdict(), "spec": process.spec.to_json(), "explain": explain.listening()}
        begin = stream.pack(stream.BEGIN, json.dumps(message).encode())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has failed already, and has said why
            sent = socket.send_fds(connection, [begin], held)
            connection.sendall(begin[sent:])  # a large profile may not go at once
        frames = stream.Frames()
        arrived: list[tuple[int, bytes]] = []
        while not any(kind == stream.STARTED for kind, _ in arrived):
            arrived.clear()
            data = connection.recv(65536)
            if not data:
                raise StartError("the container's shim died while it was starting the container")
            for kind, payload in frames.feed(data):
                arrived.append((kind, payload))
                _follow(connection, kind, payload, on_created)
        on_failure.pop_all()
    if not process.attach:
        connection.close()
        return None
    attachment = Attachment(connection, process.spec.terminal, frames)
    attachment.push(arrived)
    return attachment


def _give_up(connection: socket.socket) -> None:
    """Have the shim undo everything, and wait until it has; or until it lets go of us, for the program runs already."""
    with connection, contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def _follow(connection: socket.socket, kind: int, payload: bytes, on_created: Callable[[int], Json]) -> None:
    """Do our part for one frame of the shim's."""
    if kind == stream.EXPLAIN:
        explain.step(*json.loads(payload))
    elif kind == stream.CREATED:
        pid = json.loads(payload)["pid"]
        try:
            network = on_created(pid)
            connection.sendall(stream.pack(stream.GO, json.dumps(network).encode()))
        except (OSError, MinidockerError):
            if records.start_time(pid):
                raise
            # It has failed on its own meanwhile, and the shim will say why: that is the better reason. Should it know
            # of nothing yet and wait for our word, it learns by this that none will come.
            connection.shutdown(socket.SHUT_WR)
    elif kind == stream.FAILED:
        failure = json.loads(payload)
        raise StartError(failure["error"], failure["exit_code"])
