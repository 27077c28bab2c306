"""Calls between two processes that do not trust each other: the judge's, and the one in which a learner's code runs.

Arguments and results travel as data, in JSON, and are checked where they arrive; nothing that arrives is ever executed
(so never pickle). What is no data stays where it is: a function can be called from the other side, another object of
the learner's can be looked at and be given back. Both sides wait for each other: one call at a time, each of which may
call back.

    4 bytes of length, then   ["call", object, [arguments], {named ones}] | ["get", object, name]
                              ["return", value] | ["raise", error]
"""

import io
import json
import socket
import struct
import time
from typing import Any

from minidocker.course import values
from minidocker.course.values import Refused
from minidocker.errors import MinidockerError

MOST = 64 << 20  # bytes of one frame
_MOST_OBJECTS = 100_000


class Gone(BaseException):
    """The other side cannot answer any more, and why. No test can take this for an error of the exercise."""


class Trouble(MinidockerError):
    """The grader itself has failed: no verdict can be given, and the learner has nothing to do with it."""


class Remote:
    """An object of the other side's: call it, look at its attributes, or give it back as an argument."""

    def __init__(self, peer: "Peer", number: int, text: str) -> None:
        self._peer = peer
        self._number = number
        self._text = text

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it where it is."""
        return self._peer.call(self._number, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{self!r} stays in the learner's process, and {name} with it")
        return self._peer.ask(["get", self._number, name])

    def __repr__(self) -> str:
        return self._text


class Peer:
    """One end of the connection. `known` are the classes, by name, that may arrive besides minidocker's own.

    `open_hearted`: whether the other side may look at what this one gave it, not only call it.
    """

    def __init__(self, connection: socket.socket, known: dict[str, Any], open_hearted: bool) -> None:
        self.deadline = float("inf")
        self.hold: Any = None  # how a function of the other side is run in a child, and how that ends
        self.release: Any = None
        self._connection = connection
        self._known = known
        self._open_hearted = open_hearted
        self._given: list[Any] = []

    def give(self, thing: Any) -> int:
        """Let the other side speak of an object; return its number."""
        for number, known in enumerate(self._given):
            if known is thing:
                return number
        if len(self._given) >= _MOST_OBJECTS:
            raise Refused("too many objects to keep")
        self._given.append(thing)
        return len(self._given) - 1

    def call(self, number: int, *args: Any, **kwargs: Any) -> Any:
        """Call object `number` of the other side. Raises: what it raises; Gone; Refused for what cannot travel."""
        return self.ask(
            ["call", number, [self.pack(arg) for arg in args], {k: self.pack(v) for k, v in kwargs.items()}]
        )

    def ask(self, request: list[Any]) -> Any:
        """Send a request, and answer those of the other side until its answer comes. Raises: as `call`."""
        self._send(request)
        while True:
            answer = self._receive()
            try:
                match answer:
                    case ["return", value]:
                        return self.unpack(value)
                    case ["raise", error]:
                        raised = values.unpack_error(error, self._known, self._taken)
                    case _:
                        self._answer(answer)
                        continue
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, Refused) as problem:
                raise Gone(f"your code's process answered with something that is no data: {problem}") from problem
            raise raised

    def serve(self) -> None:
        """Answer requests until the other side closes the connection, which is Gone."""
        while True:
            self._answer(self._receive())

    def pack(self, value: Any) -> Any:
        """Return a value as data. Raises: Refused."""
        if isinstance(value, Remote) and value._peer is self:
            return {"yours": value._number}
        return values.pack(value, self._give_away)

    def unpack(self, data: Any) -> Any:
        """Return the value that arrived as `data`. Raises: Refused, ValueError, TypeError, KeyError."""
        return values.unpack(data, self._known, self._taken)

    def _give_away(self, thing: Any) -> dict[str, Any]:
        """Return what stands for a thing that is no data. Raises: Refused for one that only we can use."""
        if isinstance(thing, Remote) and thing._peer is self:
            return {"yours": thing._number}
        if not callable(thing) and not self._open_hearted:
            raise Refused(
                f"a {type(thing).__name__} cannot be given to the learner's code, which runs in another process: "
                "make it in a scene"
            )
        return {"mine": self.give(thing), "text": _shown(thing)}

    def _taken(self, data: dict[str, Any]) -> Any:
        """Return what the other side's stand-in stands for."""
        if "yours" in data:
            return self._given[_index(data["yours"], len(self._given))]
        return Remote(self, _index(data["mine"], _MOST_OBJECTS), str(data["text"]))

    def _answer(self, request: Any) -> None:
        """Do what the other side asks for, and tell it how that ended."""
        try:
            match request:
                case ["call", int(number), list(args), dict(kwargs)]:
                    function = self._given[_index(number, len(self._given))]
                    given = [self.unpack(arg) for arg in args], {k: self.unpack(v) for k, v in kwargs.items()}
                    result = function(*given[0], **given[1])
                case ["get", int(number), str(name)] if self._open_hearted and not name.startswith("_"):
                    result = getattr(self._given[_index(number, len(self._given))], name)
                case _:
                    raise Refused(f"not a request: {_shown(request)}")
            answer = ["return", self.pack(result)]
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001, whatever it is, it belongs to the caller
            answer = ["raise", values.pack_error(error)]
        self._send(answer)

    def _send(self, message: list[Any]) -> None:
        data = json.dumps(message).encode()
        if len(data) > MOST:
            raise Refused(f"{len(data)} bytes are too many for one call: {MOST} are the most")
        try:
            self._hurry()
            self._connection.sendall(struct.pack(">I", len(data)) + data)
        except TimeoutError:
            raise Gone("your code did not answer in time") from None
        except OSError:
            raise Gone("your code's process has ended") from None

    def _receive(self) -> Any:
        size = struct.unpack(">I", self._read(4))[0]
        if size > MOST:
            raise Gone("your code's process answered with more than anybody can read")
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError):
            raise Gone("your code's process answered with something that is no data") from None

    def _read(self, size: int) -> bytes:
        data = io.BytesIO()
        while data.tell() < size:
            try:
                self._hurry()
                piece = self._connection.recv(min(size - data.tell(), 1 << 20))
            except TimeoutError:
                raise Gone("your code did not answer in time") from None
            except OSError:
                piece = b""
            if not piece:
                raise Gone("your code's process has ended")
            data.write(piece)
        return data.getvalue()

    def _hurry(self) -> None:
        """Have the next system call give up at the deadline. Raises: TimeoutError when it has passed."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left if left < 1e6 else None)


def _index(number: Any, size: int) -> int:
    if not isinstance(number, int) or not 0 <= number < size:
        raise Refused(f"{_shown(number)} is no object's number")
    return number


def _shown(thing: Any) -> str:
    """Return a short text for a thing, whatever its own `repr` does."""
    name = getattr(thing, "__name__", None)
    return (name if isinstance(name, str) else f"a {type(thing).__name__}")[:200]
