"""What a program finds in our default container, beside what it finds in docker's; docs/probes.md shows it."""

import pytest

import probes
from conftest import Minidocker
from peers import Docker


@pytest.mark.root
@pytest.mark.peers
def test_every_difference_to_docker_is_on_the_safe_side_or_explained(
    docker: Docker, minidocker: Minidocker, busybox_image: str, tmp_path: object
) -> None:
    archive = f"{tmp_path}/image.tar"
    minidocker.ok("save", "-o", archive, busybox_image)
    docker.run("load", "-i", archive)
    theirs = probes.look(lambda *arguments: docker.run(*arguments).stdout)
    ours = probes.look(lambda *arguments: minidocker.ok(*arguments))
    assert {section: len(found) for section, found in ours.items() if not found} == {}
    assert not [each for each in probes.differences(theirs, ours) if not each.reason]


def test_what_nobody_has_explained_is_told() -> None:
    same = {"status": {"CapEff": "0"}, "devices": {"/dev/null": "opens"}, "calls": {"bpf": "EPERM", "read": "EBADF"}}
    assert probes.differences(same, same) == []
    worse = {
        "status": {"CapEff": "1"},
        "devices": {"/dev/null": "opens", "/dev/sda": "opens"},
        "calls": {"bpf": "EFAULT", "read": "EPERM"},
    }
    told = {each.name: each.reason for each in probes.differences(same, worse)}
    assert told == {"CapEff": "", "/dev/sda": "", "bpf": "", "read": "safe side: refused here"}
    better = {each.name: each.reason for each in probes.differences(worse, same)}
    assert better["/dev/sda"] == "safe side: not there"
