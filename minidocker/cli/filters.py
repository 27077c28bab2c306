"""`--filter name=value`: read it, and check what was found against it."""

from collections.abc import Iterable, Mapping

from minidocker.errors import InvalidArgument

Filters = dict[str, list[str]]


def read(texts: Iterable[str], known: Iterable[str]) -> Filters:
    """Return the values asked for under each name.

    Raises: InvalidArgument for a name that this command does not know.
    """
    filters: Filters = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name.strip().lower() not in known:
            raise InvalidArgument(f"Invalid filter '{name}': known here are {', '.join(known)}")
        filters.setdefault(name.strip().lower(), []).append(value.strip())
    return filters


def pair(text: str) -> str:
    """Check that a filter is `name=value`."""
    if "=" not in text:
        raise InvalidArgument("bad format of filter (expected name=value)")
    return text


def has_labels(labels: Mapping[str, str], wanted: Iterable[str]) -> bool:
    """Say whether every label asked for, `name` or `name=value`, is there."""
    for text in wanted:
        name, equals, value = text.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    return True


def truth(text: str) -> bool:
    """Read the value of a filter such as `dangling=true`."""
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise InvalidArgument(f"Invalid filter 'dangling={text}': expected true or false")
