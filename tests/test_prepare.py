"""The set-up's own decisions: what is missing, what is said where it cannot be had, what is done only once."""

import os
import sys

import pytest

import base_images
import prepare


def test_only_what_is_missing_is_installed() -> None:
    assert prepare.missing_packages(["dpkg", "no-such-package", "coreutils"]) == ["no-such-package"]
    assert prepare.install_packages(["dpkg"]) == "all there"


def test_without_root_the_exact_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(prepare.SetUpError) as caught:
        prepare.install_packages(["no-such-package", "nor-this"])
    assert "apt-get install -y --no-install-recommends no-such-package nor-this" in str(caught.value)


def test_what_a_failing_command_said_is_shown() -> None:
    with pytest.raises(prepare.SetUpError, match="exit code 3\nout\nerr"):
        prepare.quietly(["sh", "-c", "echo out; echo err >&2; exit 3"])


def test_a_finished_venv_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> None:
    monkeypatch.setattr(prepare, "VENV", str(tmp_path))
    os.mkdir(f"{tmp_path}/bin")
    os.symlink(sys.executable, f"{tmp_path}/bin/python")
    prepare._write(prepare._stamp(), prepare._wanted_stamp("[dev]"))
    monkeypatch.setattr(prepare, "quietly", lambda argv, environment=None: pytest.fail(f"ran {argv}"))
    prepare.make_venv("")
    prepare.make_venv("[dev]")


def test_a_python_that_does_not_start_is_none(tmp_path: os.PathLike[str]) -> None:
    assert prepare._works(sys.executable)
    assert not prepare._works(f"{tmp_path}/python")
    assert not prepare._works("/bin/true")


SOURCES = """\
bookworm-security main http://mirror.example/debian-security/
bookworm contrib http://mirror.example/debian/
bookworm main http://mirror.example/debian/
nodistro main http://other.example/
bookworm-updates main http://mirror.example/debian/
"""


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> None:
    """Stand in for apt on a machine with other sources."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, text in (
        ("apt-get", SOURCES),
        ("apt-config", 'Acquire::http::Proxy "http://proxy.example:3128";\nAPT "";\n'),
    ):
        with open(f"{tmp_path}/{name}", "w") as file:
            file.write(f"#!/bin/sh\ncat <<'EOF'\n{text}EOF\n")
        os.chmod(f"{tmp_path}/{name}", 0o755)


def test_the_images_sources_are_the_machines_own(apt: None) -> None:
    assert base_images.apt_sources() == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian-security/ bookworm-security main",
        "deb http://mirror.example/debian/ bookworm-updates main",
    ]
    assert base_images.proxies() == {"http_proxy": "http://proxy.example:3128"}


def test_sources_are_fetched_where_nothing_has_been(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    answer = f"[ \"$1\" = update ] && exec touch {tmp_path}/fetched; [ ! -e {tmp_path}/fetched ] || cat <<'EOF'"
    with open(f"{tmp_path}/apt-get", "w") as file:
        file.write(f"#!/bin/sh\n{answer}\n{SOURCES}EOF\n")
    os.chmod(f"{tmp_path}/apt-get", 0o755)
    assert base_images.apt_sources()[0] == "deb http://mirror.example/debian/ bookworm main"


def test_a_mirror_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_MIRROR", "http://mine.example/debian")
    assert base_images.apt_sources() == ["deb http://mine.example/debian bookworm main"]


def test_conda_and_pip_agree() -> None:
    """environment.yml names the course's packages with the bounds that pyproject.toml has; pip brings the rest."""
    import tomllib

    import yaml

    with open(f"{prepare.PROJECT}/pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    with open(f"{prepare.PROJECT}/environment.yml", encoding="utf-8") as text:
        wanted = yaml.safe_load(text)["dependencies"]
    known = {*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)}
    named = [entry for entry in wanted if isinstance(entry, str) and entry != "pip" and not entry.startswith("python=")]
    assert set(named) <= known
    assert {entry.split(">")[0] for entry in named} == {"jupyter", "nbclient", "ipywidgets", "pytest", "pyroute2"}
    assert wanted[-1] == {"pip": ["-e .[dev]"]}
    assert f"python={project['requires-python'].removeprefix('>=')}" in wanted


def test_a_larger_set_of_packages_does_for_a_smaller_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.setattr(prepare, "VENV", str(tmp_path))
    os.mkdir(f"{tmp_path}/bin")
    os.symlink(sys.executable, f"{tmp_path}/bin/python")
    ran: list[list[str]] = []
    monkeypatch.setattr(prepare, "quietly", lambda argv, environment=None: ran.append(argv))
    prepare._write(prepare._stamp(), prepare._wanted_stamp("[course]"))
    prepare.make_venv("")
    prepare.make_venv("[course]")
    assert not ran
    prepare.make_venv("[dev]")
    assert ran[0][-1].endswith("[dev]")
