"""What the cells that test an exercise import. It works alike in a notebook's kernel, in nbgrader and in our judge.

with raises(InvalidReference, "upper case", why="capital letters are not allowed"):
    parse("Busybox")
with child(pivot, folder, namespaces=("mnt",)) as it:
    assert it.listing("/") == ["etc"], "the old root is still there"
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from minidocker.course.children import Child, Mount, child, remove_tree

__all__ = ["Child", "Mount", "child", "equal", "folder", "raises"]

Kind = type[BaseException]


class Raised:
    """What `raises` has caught."""

    error: Any = None


@contextlib.contextmanager
def raises(kind: Kind | tuple[Kind, ...], match: str = "", why: str = "") -> Iterator[Raised]:
    """Expect the block to raise an error of this kind, in whose text the regular expression `match` is found.

    Other errors go on their way. Raises: AssertionError, with `why` in front.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = " or ".join(each.__name__ for each in kinds)
    before = f"{why}: " if why else ""
    raised = Raised()
    try:
        yield raised
    except kinds as error:
        if isinstance(error, NotImplementedError) and NotImplementedError not in kinds:
            raise  # what a stub raises is a RuntimeError, too
        if not re.search(match, str(error)):
            raise AssertionError(f"{before}{type(error).__name__} says {str(error)!r}, without {match!r}") from None
        raised.error = error
    else:
        raise AssertionError(f"{before}{names} is to be raised, and nothing was")


def equal(got: Any, wanted: Any, why: str) -> None:
    """Require two values to be equal. Raises: AssertionError with `why` and both."""
    assert got == wanted, f"{why}: got {got!r}, wanted {wanted!r}"  # noqa: S101, what a test says


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """Give the path of a folder that is gone after the block."""
    path = tempfile.mkdtemp(prefix="minidocker-test-")
    try:
        yield path
    finally:
        remove_tree(path)
