"""A judge at work, in a room of its own: the program that a pool starts once for each worker.

    pool (grader) ─ guard ─ judge, process 1 of the room ─ maker of boxes ─ a box for each submission

The guard stays outside: it limits the room and ends it when the pool has gone, however that went. The judge gets the
tests from the pool, over a socket; in the room there is no file that a test, or a learner's code that leads it there,
could read and should not.

    pool → judge    {"exercises": [...], "codes": {...}}, or with "same" in place of exercises: those of before
    judge → pool    {"ready": [what is weaker here]}, then for each job {"verdicts": [...]} | {"trouble": text}
"""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any, NamedTuple, NoReturn

from minidocker.course import boxes, sandbox
from minidocker.course.boxes import Boxed, Maker, Room
from minidocker.course.calls import Trouble
from minidocker.course.catalogue import Exercise, Test
from minidocker.course.judge import Verdict, judge
from minidocker.errors import MinidockerError, StartError
from minidocker.linux import syscalls

Json = dict[str, Any]
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from minidocker.course import worker; worker.main()"
_JUDGES_OWN = 1 << 30  # bytes for the judge, beside what a box may use: an answer may grow in its hands
_OWN_PROCESSES = 16
_NAME = "grade-"  # and the guard's process id: the room's cgroups
_LONGEST = 4000  # characters of a message


def send(connection: socket.socket, message: Json) -> None:
    """Send a message, four bytes of length before it."""
    data = json.dumps(message).encode()
    connection.sendall(struct.pack(">I", len(data)) + data)


def receive(connection: socket.socket) -> Json | None:
    """Return the next message; None where the other side has gone. Raises: OSError."""
    head = _read(connection, 4)
    data = _read(connection, struct.unpack(">I", head)[0]) if head else b""
    return dict(json.loads(data)) if data else None


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1 << 20))
        if not piece:
            return b""
        data += piece
    return bytes(data)


def pack(exercise: Exercise) -> list[Any]:
    """Return an exercise as data."""
    return list(exercise)


def unpack(data: list[Any]) -> Exercise:
    """Return the exercise that `pack` has made data of."""
    exercise = Exercise(*data)
    return exercise._replace(tests=tuple(Test(*test) for test in exercise.tests))


def needs_namespaces(exercise: Exercise) -> bool:
    """Say whether a test runs a function in namespaces of its own."""
    return any("child(" in source for source in (exercise.scene, *(test.source for test in exercise.tests)))


def main() -> None:
    """Be the guard: make the room with the judge in it, and end it when the pool has gone."""
    connection = socket.socket(fileno=int(sys.argv[2]))
    os.set_inheritable(connection.fileno(), False)
    os.umask(0o022)
    limits = sandbox.Limits(*(receive(connection) or {"limits": ()})["limits"])
    with contextlib.ExitStack() as undo:
        try:
            pid = _open_room(connection, limits, undo)
        except (OSError, MinidockerError) as error:
            send(connection, {"trouble": f"the box could not be made: {error}"})
            return
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(connection, 0)  # that the other side has hung up is told anyway
        poll.poll()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class _Plan(NamedTuple):
    """What the judge is born with. `laid_out`: whether the room's root is mounted at `place` already."""

    limits: sandbox.Limits
    programs: tuple[bytes, bytes]
    weaker: list[str]
    kills: int
    place: str
    laid_out: bool


def _open_room(connection: socket.socket, limits: sandbox.Limits, undo: contextlib.ExitStack) -> int:
    """Fork the judge into a room and let it go on once it has its ids and its limits; return its number."""
    programs = sandbox.filter_program(False), sandbox.filter_program(True)
    weaker, folders, kills = _limit(limits, undo)
    plan = _Plan(limits, programs, weaker, kills, sandbox.stage(), sandbox.is_machines_root())
    if plan.laid_out:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        sandbox.lay_out(plan.place)
    mapped, map_it = os.pipe()
    pid = syscalls.clone(sandbox.ROOM)
    if pid == 0:
        os.close(map_it)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if not os.read(mapped, 1):
            os._exit(1)
        os.close(mapped)
        _be_judge(connection, plan)
    os.close(mapped)
    try:
        sandbox.map_room(pid)
        for folder in folders:
            with open(f"{folder}/cgroup.procs", "w") as file:
                file.write(str(pid))
        os.write(map_it, b"x")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(map_it)
    return pid


def _limit(limits: sandbox.Limits, undo: contextlib.ExitStack) -> tuple[list[str], tuple[str, ...], int]:
    """Make the room's cgroups; return what is weaker without, the folders, and where kills are counted."""
    from minidocker.container import cgroups, spec

    most = spec.Limits(memory=limits.memory + _JUDGES_OWN, pids=limits.processes + _OWN_PROCESSES)
    try:
        made = cgroups.prepare(f"{_NAME}{os.getpid()}", most, True)
    except StartError as error:
        told = f"{error}: a submission's processes are limited in memory one by one, and not all together"
        return [told], (), -1
    for folder in made.folders:
        _sweep(os.path.dirname(folder))
    undo.callback(cgroups.remove, made)
    cgroups.create(made)
    file = "memory.events" if made.version == 2 else "memory.oom_control"
    path = next((f"{folder}/{file}" for folder in made.folders if os.path.exists(f"{folder}/{file}")), "")
    return [], made.folders, os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else -1


def _sweep(parent: str) -> None:
    """Remove the cgroups of guards that were killed: they are empty, and nobody else's."""
    for name in os.listdir(parent) if os.path.isdir(parent) else []:
        if name.startswith(_NAME) and not os.path.exists(f"/proc/{name.removeprefix(_NAME)}"):
            with contextlib.suppress(OSError):
                os.rmdir(f"{parent}/{name}")


def _be_judge(connection: socket.socket, plan: _Plan) -> NoReturn:
    """In the room: fork the maker off, before there are any tests here, and judge until the pool has gone."""
    try:
        sandbox.become_root()
        if not plan.laid_out:
            sandbox.lay_out(plan.place)
        sandbox.enter_room(plan.place)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        maker = os.fork()
        if maker == 0:
            for fd in (connection.fileno(), ours.fileno(), plan.kills):
                if fd >= 0:
                    os.close(fd)
            boxes.make(theirs, plan.limits, plan.programs)
        theirs.close()
        resource.setrlimit(resource.RLIMIT_AS, (_JUDGES_OWN, _JUDGES_OWN))
        room = Room(Maker(ours, maker), sandbox.place_to_print(plan.limits), plan.limits, plan.kills)
        send(connection, {"ready": plan.weaker})
        _serve(connection, room)
    except BaseException as error:  # noqa: BLE001, whatever it is, the pool has to be told
        with contextlib.suppress(OSError):
            send(connection, {"trouble": f"the box could not be made: {type(error).__name__}: {error}"})
    os._exit(0)


def _serve(connection: socket.socket, room: Room) -> None:
    """Judge one submission after the other, until the pool has gone or the grader itself has failed."""
    exercises: list[Exercise] = []
    while request := receive(connection):
        if "exercises" in request:
            exercises = [unpack(data) for data in request["exercises"]]
            for setup in {exercise.setup for exercise in exercises}:
                room.maker.ask({"import": setup})
        try:
            codes = request["codes"]
            answer: Json = {"verdicts": [_judged(e, codes[e.name], room) for e in exercises if e.name in codes]}
        except Trouble as trouble:
            answer = {"trouble": str(trouble)}
        except Exception as error:  # noqa: BLE001, an error of ours, or of the course's
            place = traceback.format_exception(error)[-2:]
            answer = {"trouble": f"the judge has failed: {type(error).__name__}: {error} {''.join(place)[-500:]}"}
        send(connection, answer)


def _judged(exercise: Exercise, code: str, room: Room) -> Verdict:
    """Judge one exercise with a /tmp of its own."""
    namespaces = needs_namespaces(exercise)
    sandbox.renew_tmp(room.limits)
    try:
        verdict = judge(exercise, code, room.limits.seconds, lambda known: Boxed(known, room, namespaces))
    finally:
        os.chdir("/")
        _clear(room.maker.pid)
        sandbox.drop_tmp()
    tests = tuple(test._replace(message=_shortened(test.message), where=test.where[:300]) for test in verdict.tests)
    return verdict._replace(tests=tests)


def _shortened(text: str) -> str:
    """Return the beginning of a message: what a learner's code has answered may be in it, and may be megabytes."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … (and more)"


def _clear(maker: int) -> None:
    """End whatever a test has left in the room, in which the judge is process 1. Raises: Trouble."""
    deadline = time.monotonic() + 10
    while left := {int(name) for name in os.listdir("/proc") if name.isdigit()} - {1, maker}:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise Trouble(f"{len(left)} processes that a test has left cannot be ended")
