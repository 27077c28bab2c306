"""The pages of a class: what teachers and learners see, and what learners do not; nothing in them is anybody's HTML."""

import os
import re
import subprocess
from html.parser import HTMLParser
from typing import Any

import pytest

from minidocker.course import pages, result
from minidocker.course.exports import HIDDEN
from minidocker.course.result import Exercise, Result
from minidocker.course.result import Test as Outcome
from test_course_exports import SECRET, graded, odd_class

ALLOWED = set(
    "html head meta title style body h1 h2 h3 p a b bdi span div ul li pre table thead tbody tr th td".split()
)


class Elements(HTMLParser):
    """The elements of a page, and whether each is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile() -> list[Result]:
    words = "</pre></style><script>alert(1)</script><img src=x onerror=alert(1)> ' onmouseover='x' \"x=\" &lt;"
    one = graded(words, Outcome(words, 2, 0, words, words), assignment=words, notes=(words,), trouble=words)
    exercise = one.exercises[0]._replace(name=words, title=words, state=words, printed=words)
    return [*odd_class(), one._replace(exercises=(exercise,))]


def test_a_page_holds_no_element_but_ours() -> None:
    results = hostile()
    found = [pages.teacher(results), *(pages.learner(each.student, [each], True) for each in results)]
    for page in found:
        elements = Elements(page)
        assert elements.names <= ALLOWED and not elements.open
        assert not any(name.startswith("on") or name == "src" for name in elements.attributes)
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", page)
        page.encode()


def test_a_learner_does_not_read_a_hidden_tests_secret() -> None:
    seen = Outcome("seen", 1, 0, "too small", "line 1: x")
    one = graded("kim", seen, Outcome("unseen", 2, 0, SECRET, "line 3: y", True))
    exercise = one.exercises[0]._replace(printed="the arguments were 23 and 42")
    one = one._replace(exercises=(exercise,))
    page = pages.learner("kim", [one])
    assert "too small" in page and "your line 1: x" in page and "unseen" in page and HIDDEN in page
    assert SECRET not in page and "line 3" not in page
    assert "23 and 42" not in page  # what the code prints could be what a hidden test has given it
    shown = pages.learner("kim", [one], show_hidden=True)
    assert SECRET in shown and "23 and 42" in shown


@pytest.mark.parametrize("state", [result.GRADED, result.DOES_NOT_RUN])
def test_what_every_test_says_is_said_once(state: str) -> None:
    one = graded("kim", Outcome("one", 1, 0, "double is not defined"), Outcome("two", 1, 0, "double is not defined"))
    page = pages.learner("kim", [one._replace(exercises=(one.exercises[0]._replace(state=state),))])
    assert page.count("double is not defined") == 1 and ">0 of 2<" in page


def test_the_teacher_sees_the_class() -> None:
    bad, worse = (Outcome("big", 2, 0, f"twice 100 is 200, got {got}", "", True) for got in (2, 3))
    results = [graded("kim", Outcome("big", 2, 2)), graded("lee", bad, late=True)]
    results.append(graded("mo", worse, notes=("restored",)))
    untouched = Exercise("double", "Double it", 2, 0, result.NOT_WRITTEN, "", (bad._replace(message="not written"),))
    results.append(graded("nil", points=2, exercises=(untouched,)))
    page = pages.teacher(results)
    assert "4 learners, 4 submissions" in page and "1 late" in page
    assert '<a href="learners/lee.html">' in page
    assert '0 / 2 <span class="warn" title="handed in late">late' in page
    assert '<td class="n">1 of 4</td><td class="n">1</td>' in page  # all points; not written
    assert "2 × twice 100 is 200, got 3" in page  # one message, and not of what was not written
    assert "<b><bdi>mo, 01_first</bdi></b>: restored" in page


def test_a_class_of_nobody_has_a_page() -> None:
    assert "Nothing has been graded yet" in pages.teacher([])


def test_every_link_leads_to_a_page(tmp_path: Any) -> None:
    from urllib.parse import unquote

    results = hostile()
    paths = pages.write_all(str(tmp_path), results)
    with open(paths[0]) as file:
        links = re.findall('href="([^"]*)"', file.read())
    assert len(links) == len(results) == len(paths) - 1
    for link in links:
        assert os.path.exists(f"{tmp_path}/{unquote(link)}")


@pytest.mark.peers
def test_a_browser_shows_the_pages(tmp_path: Any) -> None:
    """No script runs, and a name that is HTML is seen as it was written."""
    paths = pages.write_all(str(tmp_path), hostile())
    shown = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{paths[0]}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "&lt;script&gt;alert(1)" in shown and "<script" not in shown
