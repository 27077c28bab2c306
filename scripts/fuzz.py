"""Fuzz one reader of strangers' input, led by what the code does with it (atheris): see docs/fuzzing.md.

    python scripts/fuzz.py TARGET [SECONDS]

What makes a target raise anything but the project's own errors is written to `fuzz-crashes/`, and belongs into a test.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"]

MODULES = (
    *("image.tarheader", "image.tarstream", "image.unpack", "image.layers"),
    *("image.documents", "image.runconfig", "image.oci", "image.reference"),
    *("build.words", "build.variables", "build.lines", "build.ignore", "build.dockerfile"),
    *("registry.auth", "registry.transport"),
)
WORDS = {
    "dockerfile": b'FROM a AS b\nARG c=1\nENV d=$c e=\'f\'\nCOPY --from=b ["x", "/y"]\nRUN <<E\necho $d\nE\n',
    "variables": b"${a:-$b} ${a#*x} ${a//b/c} '$a' \"$b\" \\$c",
    "reference": b"registry.example:5000/some/thing:tag@sha256:" + b"a" * 64,
    "challenge": b'Bearer realm="https://t/token",service="s",scope="repository:a/b:pull", Basic realm=x',
    "link": b'</v2/a/tags/list?last=b&n=1>; rel="next"',
    "ignore": b"# comment\n*.md\n!README.md\n**/a/[b-d]?\n",
}


def seeds(target: str) -> list[bytes]:
    """Return valid inputs to begin with."""
    if target == "tar":
        from test_hostile_layers import BASE, FILE

        return [BASE, FILE]
    if target == "manifest":
        from loopback import sample_image

        sample = sample_image({"a": b"1"})
        return [sample.manifest, sample.blobs[sample.config]]
    return [WORDS[target]]


def read_tar(data: bytes) -> None:
    """Unpack an archive, its checksums made right; nothing may appear beside the folder."""
    import io

    from minidocker.image.layers import TarReader, decompressed, unpack
    from minidocker.image.limits import Limits
    from minidocker.linux import trees, userns
    from test_hostile_layers import sealed

    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    data = b"".join(sealed(block) if len(block) == 512 and b"ustar" in block[257:262] else block for block in blocks)
    base = f"{FOLDER}/tar"
    os.makedirs(f"{base}/target")
    try:
        reader = TarReader(decompressed(io.BytesIO(data)))
        unpack(reader, f"{base}/target", powers=userns.powers(), limits=Limits(1 << 20, 200))
        reader.finish()
    finally:
        if os.listdir(base) != ["target"] or os.listdir(FOLDER) != ["tar"]:
            raise AssertionError("something was written outside of the folder")
        trees.delete(base)


def read_manifest(data: bytes) -> None:
    """Read a document as each of the three it may be."""
    from minidocker.errors import InvalidManifest
    from minidocker.image.oci import ImageConfig, Index, Manifest, Platform

    for read in (Manifest.from_bytes, Index.from_bytes, ImageConfig.from_bytes):
        try:
            found = read(data)
            read(found.to_bytes())
            if isinstance(found, Index):
                found.choose(Platform("linux", "amd64"))
        except InvalidManifest:
            continue


def read_dockerfile(data: bytes) -> None:
    """Parse a Dockerfile, and expand what it says."""
    from minidocker.build import dockerfile
    from minidocker.build.expander import Expander

    parsed = dockerfile.parse(data.decode("utf-8", "surrogateescape"))
    for instruction in parsed.instructions:
        instruction.expanded(Expander({"a": "1"}, parsed.escape))


def read_variables(data: bytes) -> None:
    """Expand a word."""
    from minidocker.build import variables

    text = data.decode("utf-8", "surrogateescape")
    variables.expand(text, {"a": "some value", "b": ""})
    variables.expand_words(text, {"a": "some value"}, rules=variables.HERE_DOCUMENT)


def read_reference(data: bytes) -> None:
    """Parse an image's name; its canonical form is read as the same."""
    from minidocker.image import reference

    found = reference.parse(data.decode("utf-8", "surrogateescape"))
    if reference.parse(str(found)) != found:
        raise AssertionError(f"{found} is read as another")


def read_challenge(data: bytes) -> None:
    """Read a WWW-Authenticate header."""
    from minidocker.registry.auth import parse_challenges, read_token

    parse_challenges([data.decode("latin-1")])
    read_token("http://t", 200, data)


def read_link(data: bytes) -> None:
    """Follow a Link header."""
    from minidocker.registry.transport import resolve

    target = resolve("https://r/v2/", data.decode("latin-1").partition("<")[2].partition(">")[0])
    if not target.startswith("https://"):
        raise AssertionError(f"{target} is not HTTPS")


def read_ignore(data: bytes) -> None:
    """Parse .dockerignore and try a few names."""
    from minidocker.build import ignore

    rules = ignore.parse(data.decode("utf-8", "surrogateescape"))
    for path in ("a", "a/b/c.md", "a" * 200, "a/" * 100 + "b"):
        rules.excludes(path)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tar": read_tar,
    "manifest": read_manifest,
    "dockerfile": read_dockerfile,
    "variables": read_variables,
    "reference": read_reference,
    "challenge": read_challenge,
    "link": read_link,
    "ignore": read_ignore,
}
FOLDER = os.environ.get("FUZZ_FOLDER", "")
OPTIONS = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=8192")


def main(target: str, seconds: str = "60") -> int:
    """Fuzz until time is over or something is found, in a process of its own: the fuzzer ends without a goodbye."""
    if FOLDER:
        fuzz(target, seconds)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.makedirs("fuzz-crashes", exist_ok=True)
        os.makedirs(f"{folder}/work")
        return subprocess.run(
            [sys.executable, *sys.argv], env={**os.environ, "FUZZ_FOLDER": f"{folder}/work"}
        ).returncode


def fuzz(target: str, seconds: str) -> None:
    """Fuzz here. The readers are imported first, so that each branch in them is seen to be taken or not."""
    atheris: Any = importlib.import_module("atheris")  # not a dependency: the type checker need not know it

    with atheris.instrument_imports(include=["minidocker"]):
        for name in MODULES:
            importlib.import_module(f"minidocker.{name}")
    from minidocker.errors import MinidockerError

    def once(data: bytes) -> None:
        try:
            TARGETS[target](data)
        except MinidockerError as error:
            if len(str(error)) > 4 * len(data) + 1000:
                raise AssertionError("a message far longer than what it speaks of") from error

    corpus = f"{os.path.dirname(FOLDER)}/corpus"
    os.makedirs(corpus)
    for number, seed in enumerate(seeds(target)):
        with open(f"{corpus}/{number}", "wb") as file:
            file.write(seed)
    crashes = f"-artifact_prefix=fuzz-crashes/{target}-"
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", *OPTIONS, crashes, corpus], once)
    atheris.Fuzz()


if __name__ == "__main__":
    if not sys.argv[1:] or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz.py TARGET [SECONDS], TARGET is one of {', '.join(TARGETS)}")
    sys.exit(main(*sys.argv[1:3]))
