"""`minidocker.build.variables` against what docker documents, and against a real shell."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidocker.build.variables import HERE_DOCUMENT, Rules, expand, expand_words
from minidocker.errors import DockerfileError

VARIABLES = {"x": "value", "empty": "", "path": "/usr/local/lib", "many": "a b c", "q": '"', "x1": "one", "ü": "u"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("$x", "value"),
        ("${x}", "value"),
        ("$x$x", "valuevalue"),
        ("$x.y", "value.y"),
        ("$x1", "one"),
        ("${x}1", "value1"),
        ("$ü", "u"),
        ("$nope", ""),
        ("a${nope}b", "ab"),
        ("$", "$"),
        ("$.", "$."),
        ("a$", "a$"),
        ("$1a", "a"),
        ("\\$x", "$x"),
        ("\\\\$x", "\\value"),
        ("'$x'", "$x"),
        ('"$x"', "value"),
        ('"\\$x"', "$x"),
        ('"\\""', '"'),
        ('"\\a"', "\\a"),
        ("\\a", "a"),
        ("a\\", "a"),
        ("'a\\'", "a\\"),
        ('"it\'s"', "it's"),
        ("'a'\"b\"c", "abc"),
        ("$q", '"'),
        ("${x:-w}", "value"),
        ("${nope:-w}", "w"),
        ("${empty:-w}", "w"),
        ("${empty-w}", ""),
        ("${nope-w}", "w"),
        ("${x:+w}", "w"),
        ("${empty:+w}", ""),
        ("${empty+w}", "w"),
        ("${nope+w}", ""),
        ("${x:?w}", "value"),
        ("${empty?w}", ""),
        ("${nope:-$x}", "value"),
        ("${nope:-${empty:-deep}}", "deep"),
        ("${nope:-'a}b'}", "a}b"),
        ('${nope:-"a b"}', "a b"),
        ("${nope:-a\\}b}", "a}b"),
        ("${path#/usr}", "/local/lib"),
        ("${path#*/}", "usr/local/lib"),
        ("${path##*/}", "lib"),
        ("${path%/*}", "/usr/local"),
        ("${path%%/*}", ""),
        ("${path%nope}", "/usr/local/lib"),
        ("${path#?usr}", "/local/lib"),
        ("${path/l/L}", "/usr/Local/lib"),
        ("${path//l/L}", "/usr/LocaL/Lib"),
        ("${path//\\//-}", "-usr-local-lib"),
        ("${path/*/x}", "x"),
        ("${path//*/x}", "x"),
        ("${path/./x}", "/usr/local/lib"),
        ("${many// /_}", "a_b_c"),
        ("${nope#x}", ""),
        ("${path%$nope}", "/usr/local/lib"),
        ("\udcff$x", "\udcffvalue"),
    ],
)
def test_expand(word: str, expected: str) -> None:
    assert expand(word, VARIABLES) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("'a", "looking for matching single-quote"),
        ('"a', "looking for matching double-quote"),
        ('"a\\', "looking for matching double-quote"),
        ("${", "missing '}'"),
        ("${x", "missing '}'"),
        ("${x:", "missing '}'"),
        ("${x:-", "missing '}'"),
        ("${x:-'", "missing '}'"),
        ("${x/a", "missing '/' in ${}"),
        ("${x/a/b", "missing '}'"),
        ("${}", "bad substitution"),
        ("${{x}", "bad substitution"),
        ("${:x}", "bad substitution"),
        ("${x^}", "unsupported modifier (^)"),
        ("${x:^a}", "unsupported modifier (:^)"),
        ("${x#\\a}", "invalid escape '\\a'"),
        ("${nope:?}", "nope: is not allowed to be unset"),
        ("${nope?say so}", "nope: say so"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${nope:-" * 2000, "nested too deeply"),
    ],
)
def test_errors(word: str, message: str) -> None:
    with pytest.raises(DockerfileError) as error:
        expand(word, VARIABLES)
    assert message in str(error.value)
    assert str(error.value).startswith("failed to process ")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("", []),
        (" a  b ", ["a", "b"]),
        ("$many", ["a", "b", "c"]),
        ('"$many"', ["a b c"]),
        ("x$many", ["xa", "b", "c"]),
        ("a\\ b", ["a b"]),
        ("'a b' c", ["a b", "c"]),
        ('"" a', ["a"]),
        ("${nope:-a b}", ["a", "b"]),
    ],
)
def test_words(word: str, expected: list[str]) -> None:
    assert expand_words(word, VARIABLES) == expected


def test_other_escape_character() -> None:
    assert expand("`$x", VARIABLES, "`") == "$x"
    assert expand("\\$x", VARIABLES, "`") == "\\value"


def test_here_document_keeps_quotes() -> None:
    assert expand("'$x' \"$x\" \\$x", VARIABLES, rules=HERE_DOCUMENT) == "'value' \"value\" $x"


def test_keeping_what_is_unset() -> None:
    rules = Rules(keep_quotes=True, keep_escapes=True, keep_unset=True)
    for word in ("$a", "${a}", "'b'", '"\\$c"', "\\d", "${e:-f}", "${g/h/i}"):
        assert expand(word, {}, rules=rules) == word


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="needs bash to compare with")
@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="ab/*?.", max_size=8),
    st.text(alphabet="ab/.", max_size=12),
    st.sampled_from(["#", "##", "%", "%%"]),
)
def test_trims_as_bash_does(pattern: str, value: str, modifier: str) -> None:
    assert BASH
    script = 'printf %s "${x' + modifier + '$p}"'
    done = subprocess.run([BASH, "-c", script], env={"x": value, "p": pattern}, capture_output=True, check=True)
    assert expand("${x" + modifier + "$p}", {"x": value, "p": pattern}) == done.stdout.decode()


@pytest.mark.skipif(BASH is None, reason="needs bash to compare with")
@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="ab/?.", min_size=1, max_size=4),
    st.text(alphabet="ab/.", max_size=12),
    st.sampled_from(["/", "//"]),
)
def test_replaces_as_bash_does(pattern: str, value: str, modifier: str) -> None:
    assert BASH
    script = 'printf %s "${x' + modifier + '$p/XY}"'
    done = subprocess.run([BASH, "-c", script], env={"x": value, "p": pattern}, capture_output=True, check=True)
    if pattern.startswith("/") and modifier == "/":
        return  # `${x//…}` would be read as the other modifier
    assert expand("${x" + modifier + "$p/XY}", {"x": value, "p": pattern}) == done.stdout.decode()


@settings(max_examples=500)
@given(st.text(alphabet="$ab{}:-+?#%/\\'\" *`", max_size=30))
def test_fuzz(word: str) -> None:
    for rules in (Rules(), HERE_DOCUMENT, Rules(True, True, True)):
        try:
            expand(word, {"a": "1", "b": " "}, rules=rules)
        except DockerfileError:
            pass
