"""The container for people without Linux: minidocker builds it, and it holds what the course needs."""

import json
import re

import pytest

import prepare
from conftest import Minidocker

FOLDER = f"{prepare.PROJECT}/.devcontainer"


def dockerfile() -> str:
    with open(f"{FOLDER}/Dockerfile", encoding="utf-8") as file:
        return file.read()


def test_it_installs_what_set_up_would_install() -> None:
    installed = re.search(r"--no-install-recommends(.*?)&&", dockerfile(), re.DOTALL)
    assert installed
    assert set(prepare.PACKAGES["lab"]) <= set(installed[1].replace("\\", "").split())


def test_it_is_what_the_editor_is_told() -> None:
    with open(f"{FOLDER}/devcontainer.json", encoding="utf-8") as file:
        told = json.load(file)
    assert told["build"] == {"dockerfile": "Dockerfile"}
    assert "--privileged" in told["runArgs"], "a container engine makes namespaces, mounts and links"
    assert f"target={re.search(r'^VOLUME (.*)$', dockerfile(), re.MULTILINE)[1]}," in told["mounts"][0]  # type: ignore[index]
    assert f"EXPOSE {told['forwardPorts'][0]}" in dockerfile()


@pytest.mark.root
@pytest.mark.timeout(400)
def test_minidocker_builds_it(minidocker: Minidocker, debian_image: str) -> None:
    minidocker.ok("build", "-q", "-t", "devcontainer", FOLDER, timeout=390)
    tools = "python3 -m venv --help >/dev/null && git --version && make --version && command -v nft debootstrap"
    assert "/nft" in minidocker.ok("run", "--rm", "devcontainer", "sh", "-c", tools)
