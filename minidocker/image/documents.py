"""JSON as strangers write it: read strictly, so that every reader of a document sees the same, and within bounds."""

import json
from typing import Any

from minidocker.errors import InvalidManifest

Json = dict[str, Any]

LARGEST = 4 << 20  # bytes; docker's registry takes no larger manifest


def load(data: bytes) -> object:
    """Read JSON. Raises `InvalidManifest`, also where Python's reader would be content.

    That is: a key given twice (some readers take the first, some the last), NaN and Infinity, nesting too deep, a
    number of thousands of digits. Whoever gets a document from elsewhere reads no more than `LARGEST` bytes of it.
    """
    try:
        return json.loads(data, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"not a JSON document: {str(error)[:200]}") from error


def _once(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, _ in pairs if [other for other, _ in pairs].count(key) > 1)
        raise ValueError(f"it has {twice[:80]!r} twice, and two readers would see two images")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def dump(fields: Json) -> bytes:
    """Write JSON; equal documents give equal bytes."""
    return json.dumps(fields, separators=(",", ":")).encode()


def as_object(value: object, what: str) -> Json:
    """Return `value` if it is an object. Raises `InvalidManifest`."""
    if not isinstance(value, dict):
        raise InvalidManifest(f"{what} is missing or not a JSON object: {str(value)[:80]!r}")
    return value


def as_array(value: object, what: str) -> list[Any]:
    """Return `value` if it is an array; null is an empty one. Raises `InvalidManifest`."""
    if value is not None and not isinstance(value, list):
        raise InvalidManifest(f"{what} is not a JSON array: {str(value)[:80]!r}")
    return value or []


def as_strings(value: object, what: str) -> dict[str, str]:
    """Return `value` if it is an object of strings; null is an empty one. Raises `InvalidManifest`."""
    fields = as_object(value if value is not None else {}, what)
    if not all(isinstance(text, str) for text in fields.values()):
        raise InvalidManifest(f"{what} are not all strings")
    return fields
