"""The build cache: what it goes by, and that nothing damaged or foreign is believed."""

import os
from typing import Any

import pytest

from buildbench import Bench, bench
from minidocker.build import cache, copying
from minidocker.build.builder import carry_out
from minidocker.build.cache import Cache
from minidocker.errors import BuildError
from minidocker.image.store import ImageStore

__all__ = ["bench"]
TRUE = "FROM busybox\nRUN true\n"


def test_key_depends_on_every_part() -> None:
    keys = {
        cache.key(*one) for one in [("", ()), ("a", ()), ("", ("a",)), ("a", ("b",)), ("", ("a", "b")), ("", ("ab",))]
    }
    assert len(keys) == 6


def loop(words: list[str], known: dict[str, str], made: list[str]) -> str:
    """Carry words out on `base`; what is made is the words so far, and `broken` cannot be made."""

    def make(work: str) -> str:
        made.append(work)
        if work.endswith("broken"):
            raise ValueError(work)
        return work

    return carry_out(words, "base", lambda word, base: f"{base} {word}", known.get, make, known.__setitem__)


def test_loop_takes_what_is_known_and_resumes_where_it_failed() -> None:
    known: dict[str, str] = {}
    made: list[str] = []
    with pytest.raises(ValueError, match="base a broken"):
        loop(["a", "broken", "c"], known, made)
    assert known == {"base a": "base a"}
    assert loop(["a", "b"], known, made) == "base a b"
    assert made == ["base a", "base a broken", "base a b"]
    assert loop([], known, made) == "base"


@pytest.mark.parametrize(
    "content", ["", "sha256:12", "\0" * 71, "busybox\n", "sha256:" + "0" * 64, "sha256:" + "z" * 64]
)
def test_what_is_damaged_is_not_known(tmp_path: os.PathLike[str], content: str) -> None:
    with open(f"{tmp_path}/key", "w") as file:
        file.write(content)
    assert Cache(str(tmp_path), ImageStore(f"{tmp_path}/root")).find("key") is None
    assert Cache(str(tmp_path), ImageStore(f"{tmp_path}/root")).find("other") is None


@pytest.mark.root
def test_goes_by_content_not_by_time(bench: Bench) -> None:
    text = "FROM busybox\nCOPY a /a\nRUN true\nCOPY b /b\n"
    bench.write(a="1", b="1")
    bench.build(text)
    first = bench.id
    os.utime(f"{bench.context}/a", (5, 5))
    bench.write(unrelated="x")
    assert bench.build(text).count("Using cache") == 3
    assert bench.id == first
    bench.write(b="2")
    assert bench.build(text).count("Using cache") == 2
    bench.write(a="2")
    assert bench.build(text).count("Using cache") == 0
    bench.write(a="1", b="1")
    assert bench.build(text).count("Using cache") == 3
    os.chmod(f"{bench.context}/a", 0o755)
    assert bench.build(text).count("Using cache") == 0
    assert bench.build(text, no_cache=True).count("Using cache") == 0


@pytest.mark.root
def test_an_image_that_is_gone_is_made_again(bench: Bench) -> None:
    bench.build("FROM busybox\nRUN true\nRUN echo\n")
    bench.store.remove(bench.id)
    assert bench.build("FROM busybox\nRUN true\nRUN echo\n").count("Using cache") == 0


@pytest.mark.root
def test_only_own_work_counts(bench: Bench) -> None:
    """An image with the same parent and the same history, which nobody built here, is not taken."""
    bench.build(TRUE)
    folder = f"{bench.store.root}/build/cache"
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    assert bench.build(TRUE).count("Using cache") == 0


@pytest.mark.root
def test_without_cache_the_new_image_replaces_the_remembered_one(bench: Bench) -> None:
    bench.build(TRUE)
    bench.build(TRUE, no_cache=True)
    second = bench.id
    bench.build(TRUE)
    assert bench.id == second


def test_what_is_made_in_any_case_is_known_afterwards_as_what_it_is(bench: Bench) -> None:
    bench.file("tree/a", "x" * 300_000)
    bench.file("tree/b", "")
    text = "FROM busybox\nCOPY tree /tree\nCOPY tree/b /c\n"
    bench.build(text, no_cache=True)
    at_once = [one["created_by"] for one in bench.config.history]
    assert bench.build(text).count("Using cache") == 2
    bench.store.remove(bench.id, force=True)
    bench.build(text + "LABEL a=b\n")
    assert [one["created_by"] for one in bench.config.history][:-1] == at_once


def test_a_file_that_changes_while_it_is_copied_gets_into_no_image(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashing = copying.digest

    def digest(entries: Any) -> str:
        found = hashing(entries)
        bench.file("a", "after")
        return found

    bench.file("a", "before")
    monkeypatch.setattr(copying, "digest", digest)
    with pytest.raises(BuildError, match="changed while they were copied"):
        bench.build("FROM busybox\nCOPY a /a\n")
