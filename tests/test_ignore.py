"""`.dockerignore`: docker's documented rules, a slow and obvious matcher, and docker itself."""

import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidocker.build import ignore
from minidocker.errors import InvalidArgument
from peers import Docker


@pytest.mark.parametrize(
    ("rules", "excluded", "kept"),
    [
        ("", [], ["a", "a/b"]),
        ("# a\n\n  \n", [], ["a", "# a"]),
        ("a", ["a", "a/b", "a/b/c"], ["b/a", "ab", "b"]),
        ("/a", ["a", "a/b"], ["b/a"]),
        ("a/", ["a", "a/b"], ["b/a"]),
        ("./a/../b", ["b"], ["a"]),
        ("*", ["a", "a/b", ".x"], []),
        ("*.md", ["x.md", "x.md/y"], ["x.txt", "d/x.md"]),
        ("*/x", ["d/x", "e/x/y"], ["x", "d/e/x"]),
        ("**/x", ["x", "d/x", "d/e/x", "d/x/y"], ["xx", "d/xx"]),
        ("d/**", ["d/x", "d/e/f"], ["d", "dd"]),
        ("d/**/x", ["d/x", "d/e/x", "d/e/f/x"], ["x", "d/e"]),
        ("**", ["a", "a/b"], []),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[ab].txt", ["a.txt", "b.txt"], ["c.txt"]),
        ("[a-c].txt", ["b.txt"], ["d.txt"]),
        ("[^a-c].txt", ["d.txt"], ["b.txt", "/.txt"]),
        ("[\\]].txt", ["].txt"], ["a.txt"]),
        ("\\*", ["*"], ["a"]),
        ("a.b+c(d)$", ["a.b+c(d)$"], ["axb+c(d)$"]),
        ("*.md\n!README.md", ["x.md"], ["README.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["x.md", "README-secret.md"], ["README.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["x.md"], ["README.md", "README-secret.md"]),
        ("d\n!d/keep", ["d", "d/x"], ["d/keep", "d/keep/y"]),
        ("!a\na", ["a"], []),
        ("! a \n", [], ["a"]),
        ("\ufeffa\r\nb\r\n", ["a", "b"], ["c"]),
        ("a b", ["a b"], ["a"]),
    ],
)
def test_rules(rules: str, excluded: list[str], kept: list[str]) -> None:
    parsed = ignore.parse(rules)
    assert [path for path in excluded if not parsed.excludes(path)] == []
    assert [path for path in kept if parsed.excludes(path)] == []


@pytest.mark.parametrize("rules", ["!", "! ", "[", "[]", "[a", "a[b-]", "[-a]", "[a-"])
def test_bad_rules(rules: str) -> None:
    with pytest.raises(InvalidArgument):
        ignore.parse(rules)


def test_the_dockerfiles_own_file_comes_first(tmp_path: os.PathLike[str]) -> None:
    folder = str(tmp_path)
    assert not ignore.read(folder, f"{folder}/Dockerfile").excludes("a")
    with open(f"{folder}/.dockerignore", "w") as file:
        file.write("a")
    with open(f"{folder}/other.dockerignore", "w") as file:
        file.write("b")
    assert ignore.read(folder, f"{folder}/Dockerfile").excludes("a")
    assert ignore.read(folder, f"{folder}/other").excludes("b")
    assert not ignore.read(folder, f"{folder}/other").excludes("a")


NAMES = st.lists(st.sampled_from(["a", "b", "ab", "c.d"]), min_size=1, max_size=4).map("/".join)
PARTS = st.sampled_from(["a", "b", "*", "**", "?", "a*", "*b", "[ab]", "[^a]", "c.d", "**b"])
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def slow_match(pattern: str, path: str) -> bool:
    """Match character by character, trying every length for a star."""
    if not pattern:
        return not path
    if pattern.startswith("**"):
        rest = pattern[2:].removeprefix("/")
        if not rest:
            return True
        starts = [0] + [at + 1 for at, ch in enumerate(path) if ch == "/"]
        return any(slow_match(rest, path[start:]) for start in starts)
    if pattern[0] == "*":
        end = (path + "/").index("/")
        return any(slow_match(pattern[1:], path[length:]) for length in range(end + 1))
    if not path:
        return False
    if pattern[0] == "[":
        inside, rest = pattern[1:].split("]", 1)
        found = path[0] in inside.lstrip("^")
        return path[0] != "/" and found != inside.startswith("^") and slow_match(rest, path[1:])
    same = path[0] != "/" if pattern[0] == "?" else path[0] == pattern[0]
    return same and slow_match(pattern[1:], path[1:])


@settings(max_examples=500)
@given(st.lists(st.tuples(st.booleans(), PATTERNS), max_size=4), NAMES)
def test_agrees_with_the_slow_matcher(rules: list[tuple[bool, str]], path: str) -> None:
    text = "\n".join(("!" if keeps else "") + pattern for keeps, pattern in rules)
    parts = path.split("/")
    expected = False
    for keeps, pattern in rules:
        if any(slow_match(pattern, "/".join(parts[: length + 1])) for length in range(len(parts))):
            expected = not keeps
    assert ignore.parse(text).excludes(path) == expected


@settings(max_examples=300)
@given(st.text(alphabet="ab*?[]^-!\\/.# \n", max_size=20))
def test_fuzz(text: str) -> None:
    try:
        ignore.parse(text).excludes("a/b")
    except InvalidArgument:
        pass


TREE = ["a", "b.md", "README.md", "d/a", "d/b.md", "d/e/a", "d/e/f/b.md", "x/y/z", "x/[q]", ".hidden", "d/.git/config"]
RULES = [
    "a",
    "/a",
    "*.md\n!README.md",
    "**/*.md",
    "**/a\n!d/e/a",
    "d",
    "d\n!d/e",
    "*\n!x",
    "x/\\[q\\]",
    "x/[^a-y]",
    "**/.git\n.hidden",
    "*/*/\n",
    "d/**\n!d/a",
    "# d\n  x  \n",
]


@pytest.mark.root
@pytest.mark.peers
def test_agrees_with_docker(docker: Docker, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    context = str(tmp_path)
    for path in TREE:
        os.makedirs(os.path.dirname(f"{context}/{path}"), exist_ok=True)
        with open(f"{context}/{path}", "w") as file:
            file.write(path)
    with open(f"{context}/Dockerfile", "w") as file:
        file.write("FROM scratch\nCOPY . /\n")
    for rules in RULES:
        with open(f"{context}/.dockerignore", "w") as file:
            file.write(rules)
        docker.run("build", "-q", "--no-cache", "-t", "ignore-test", context)
        docker.run("create", "--name", "ignore-test", "ignore-test", "x")
        try:
            docker.run("export", "-o", f"{context}/../exported.tar", "ignore-test")
        finally:
            docker.run("rm", "ignore-test")
        with tarfile.open(f"{context}/../exported.tar") as tar:
            theirs = {member.name.removeprefix("./") for member in tar if member.isfile()} & set(TREE)
        parsed = ignore.parse(rules)
        assert {path for path in TREE if not parsed.excludes(path)} == theirs, rules
