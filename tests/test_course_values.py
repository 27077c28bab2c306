"""Values between the judge and a learner's code: data both ways, and nothing else."""

import io
import json
from typing import Any, NamedTuple

import pytest

from minidocker.course import values
from minidocker.course.values import Refused, Trace
from minidocker.errors import DockerfileError, MinidockerError, RegistryError
from minidocker.image.reference import Reference


class Point(NamedTuple):
    """A NamedTuple that minidocker does not know."""

    x: int
    y: int


def nothing_else(thing: Any) -> Any:
    raise Refused(f"a {type(thing).__name__}")


def there_and_back(value: Any, known: dict[str, Any] | None = None) -> Any:
    data = json.loads(json.dumps(values.pack(value, nothing_else)))
    return values.unpack(data, known or {}, nothing_else)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**70),
        0.1,
        "é\udcff\n",
        b"\x00\xff",
        [1, [2, "3"], b""],
        (1, (2,), ()),
        {"a": 1, 2: [3], (4, 5): b"6"},
        {1, 2},
        frozenset({3}),
        Reference("docker.io", "library/busybox", "latest", ""),
        [Reference("docker.io", "library/busybox", "latest", "")],
        {"mine": 1, "yours": 2},
    ],
)
def test_a_value_arrives_as_it_was(value: object) -> None:
    arrived = there_and_back(value)
    assert arrived == value
    assert type(arrived) is type(value)


def test_subclasses_arrive_as_what_they_are_made_of() -> None:
    class Text(str):
        """A text of somebody's own."""

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    assert type(there_and_back(Text("a"))) is str
    assert there_and_back(Text("a")) != "b"
    assert there_and_back(bytearray(b"x")) == b"x"


def test_streams_and_iterators_are_read_to_their_end() -> None:
    stream = io.BytesIO(b"0123456789")
    stream.read(3)
    assert there_and_back(stream).read() == b"3456789"
    arrived = there_and_back(iter([1, 2]))
    assert next(arrived) == 1
    assert list(arrived) == [2]


def test_an_endless_iterator_is_refused() -> None:
    with pytest.raises(Refused, match="did not end"):
        there_and_back(iter(int, 1))


def test_a_named_tuple_that_nobody_knows_keeps_its_fields() -> None:
    arrived = there_and_back(Point(1, 2))
    assert (arrived.x, arrived.y) == (1, 2)
    assert not isinstance(arrived, Point)


@pytest.mark.parametrize("value", [object(), len, open(__file__), json])
def test_what_is_no_data_is_left_to_others(value: object) -> None:
    if not isinstance(value, io.IOBase):
        with pytest.raises(Refused):
            there_and_back(value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no", 3),
        KeyError("k"),
        MinidockerError("plain"),
        DockerfileError("line is wrong", 7),
        RegistryError("refused", "http://x", 401),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        SystemExit(3),
    ],
)
def test_an_error_arrives_as_its_own_class(error: BaseException) -> None:
    arrived = there_and_back(error)
    assert type(arrived) is type(error)
    assert {k: v for k, v in vars(arrived).items() if k != "learner"} == vars(error)
    if not isinstance(error, UnicodeDecodeError):
        assert str(arrived) == str(error)
        assert arrived.args == error.args


def test_an_error_of_the_system_arrives_with_its_number() -> None:
    arrived = there_and_back(OSError(13, "Permission denied", "/x"))
    assert type(arrived) is PermissionError
    assert (arrived.errno, arrived.strerror, arrived.filename) == (13, "Permission denied", "/x")


def test_an_error_of_an_unknown_class_arrives_as_its_nearest_base() -> None:
    class Odd(LookupError):
        """Nobody knows it."""

        def __init__(self, what: str) -> None:
            super().__init__(what, 1)

        def __str__(self) -> str:
            return "odd"

    arrived: Any = there_and_back(Odd("x"))
    assert arrived.__class__ is LookupError
    assert str(arrived) == "odd"
    assert vars(arrived)["learner"] == Trace("Odd", "odd", 0, "")


def test_the_line_of_a_learners_cell_is_told() -> None:
    names: dict[str, Any] = {}
    source = "def f():\n    g()\ndef g():\n    raise ValueError('x')"
    exec(compile(source, values.compiled_as("for f"), "exec"), names)  # noqa: S102
    try:
        names["f"]()
    except ValueError as error:
        assert values.traced(error)[:3] == ("ValueError", "x", 4)


@pytest.mark.parametrize(
    "data",
    [
        {"pickle": "x"},
        {"bytes": "a", "tuple": []},
        {"record": ["minidocker.errors", "RegistryError", [], []]},
        {"record": ["os", "system", [], ["true"]]},
        {"record": ["minidocker.course.values", "os.system", [], []]},
    ],
)
def test_nothing_is_called_because_the_sender_says_so(data: Any) -> None:
    try:
        arrived = values.unpack(data, {}, nothing_else)
    except (Refused, TypeError):
        return
    assert isinstance(arrived, tuple) and type(arrived).__name__ == "Record"


@pytest.mark.parametrize(
    "data",
    [
        {"record": ["a", "b", ["x; import os"], [1]]},
        {"record": ["a", "b", ["x"], [1, 2]]},
        {"bytes": 3},
        {"dict": [[1]]},
        {"dict": [[[], 1]]},
        {"error": {}},
        {},
    ],
)
def test_what_is_not_well_formed_is_an_error_that_is_expected(data: Any) -> None:
    with pytest.raises((Refused, ValueError, TypeError, KeyError)):
        values.unpack(data, {}, nothing_else)


def test_errors_are_made_of_exception_classes_only() -> None:
    forged = {"classes": [["builtins", "eval"], ["minidocker.image.oci", "Platform"]], "args": ["1"], "fields": {}}
    arrived = values.unpack_error({**forged, "filename": None, "trace": ["x", "y", 1, ""]}, {}, nothing_else)
    assert type(arrived) is Exception
