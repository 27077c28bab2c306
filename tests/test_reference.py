"""Image names: docker's grammar and docker's words."""

import pytest

from minidocker.errors import InvalidReference
from minidocker.image.reference import Reference, parse

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("someone/thing", "docker.io/someone/thing:latest", "someone/thing:latest"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/thing", "localhost/thing:latest", "localhost/thing:latest"),
        ("localhost:5000/thing", "localhost:5000/thing:latest", "localhost:5000/thing:latest"),
        ("Host/thing", "Host/thing:latest", "Host/thing:latest"),
        ("[::1]:5000/thing", "[::1]:5000/thing:latest", "[::1]:5000/thing:latest"),
        ("example.com/a/b/c:v1.0-rc_2", "example.com/a/b/c:v1.0-rc_2", "example.com/a/b/c:v1.0-rc_2"),
        ("a__b--c.d_e", "docker.io/library/a__b--c.d_e:latest", "a__b--c.d_e:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
    ],
)
def test_names_are_normalised(text: str, canonical: str, familiar: str) -> None:
    reference = parse(text)
    assert str(reference) == canonical
    assert reference.familiar == familiar
    assert parse(canonical) == parse(familiar) == reference


def test_parts() -> None:
    reference = parse("localhost:5000/a/b:c")
    assert reference == Reference("localhost:5000", "a/b", "c", "")
    assert reference.repository == reference.familiar_repository == "localhost:5000/a/b"
    assert str(reference.with_digest(DIGEST)) == f"localhost:5000/a/b@{DIGEST}"
    assert parse("busybox", default_tag="").tag == ""
    assert parse(f"busybox@{DIGEST}").tag == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "a//b",
        "-a",
        "a-",
        "a___b",
        "a..b",
        "busybox:",
        "busybox:-x",
        "busybox:" + "t" * 129,
        "busybox@",
        "busybox@sha256:12",
        "busybox@md5:" + "a" * 32,
        "busybox@" + DIGEST.upper(),
        "busybox\n",
        "busy box",
        "../etc",
        "a/../b",
        "http://example.com/a",
        "café",
        "busybox:l\x00",
        "busybox:\udcff",
        "host-.com:1/x",
    ],
)
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidReference, match="^invalid reference format"):
        parse(text)


def test_messages_are_dockers() -> None:
    with pytest.raises(InvalidReference, match=r"repository name \(library/BusyBox\) must be lowercase"):
        parse("BusyBox:latest")
    with pytest.raises(InvalidReference, match="cannot specify 64-byte hexadecimal strings"):
        parse("ab" * 32)
    with pytest.raises(InvalidReference, match="must not be more than 255 characters"):
        parse("a/" * 200 + "a")
