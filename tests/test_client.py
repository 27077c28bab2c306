"""The Python API: docker-py's shape, and safe where a notebook calls it: from threads, beside a running event loop."""

import asyncio
import io
import os
import tarfile
import threading
from pathlib import Path

import pytest

import minidocker
from conftest import Roots
from minidocker import errors
from minidocker.client.keywords import run_options
from minidocker.container.spec import Mount, Port


def test_keywords_are_docker_pys() -> None:
    asked = {
        "detach": True,
        "environment": {"A": "b"},
        "entrypoint": "sh -c",
        "extra_hosts": {"db": "10.0.0.1"},
        "labels": {"a": "b"},
        "mem_limit": "64m",
        "nano_cpus": 500_000_000,
        "ports": {"80/tcp": 8080, "53/udp": None, "443": ("127.0.0.1", 8443), 22: [2201, 2202]},
        "tmpfs": {"/t": "size=1m"},
        "volumes": {"/host": {"bind": "/in", "mode": "ro"}},
        "name": None,
    }
    options = run_options("echo 'a b'", asked)
    assert options.command == ("echo", "a b")
    assert options.entrypoint == ("sh", "-c")
    assert (options.env, options.labels, options.extra_hosts) == (("A=b",), (("a", "b"),), ("db:10.0.0.1",))
    assert (options.memory, options.cpus) == (64 << 20, 0.5)
    assert options.mounts == (Mount("tmpfs", "tmpfs", "/t", options="size=1m"), Mount("bind", "/host", "/in", True))
    assert options.ports == (
        Port(80, host_port=8080),
        Port(53, "udp"),
        Port(443, host_ip="127.0.0.1", host_port=8443),
        Port(22, host_port=2201),
        Port(22, host_port=2202),
    )
    assert options.name == ""


def test_lists_do_as_well_as_mappings() -> None:
    options = run_options(["true"], {"environment": ["A=b"], "labels": ["x"], "volumes": ["/a:/b"]})
    assert (options.env, options.labels, options.mounts) == (("A=b",), (("x", ""),), (Mount("bind", "/a", "/b"),))


def test_a_keyword_that_is_none_of_ours() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'gpus'"):
        run_options(None, {"gpus": 1})


@pytest.fixture
def client(roots: Roots, busybox_image: str) -> minidocker.client.Client:
    return minidocker.from_env()


@pytest.mark.root
def test_run_returns_what_was_written(client: minidocker.client.Client) -> None:
    assert client.containers.run("busybox", "echo hello", remove=True) == b"hello\n"
    both = client.containers.run("busybox", ["sh", "-c", "echo o; echo e >&2"], stderr=True, remove=True)
    assert both == b"o\ne\n"
    with pytest.raises(errors.ContainerError, match="returned non-zero exit status 3: oh no") as caught:
        client.containers.run("busybox", ["sh", "-c", "echo oh no >&2; exit 3"], remove=True)
    assert (caught.value.exit_status, caught.value.stderr) == (3, b"oh no\n")
    assert client.containers.list(all=True) == []


@pytest.mark.root
def test_the_life_of_a_container(client: minidocker.client.Client) -> None:
    web = client.containers.run("busybox", "sleep 100", detach=True, name="web", labels={"a": "b"}, ports={80: None})
    assert (web.status, web.name, web.labels, web.image.tags) == ("running", "web", {"a": "b"}, ["busybox:latest"])
    assert web.ports["80/tcp"][0]["HostPort"].isdigit()
    assert client.containers.list() == [web] == [client.containers.get("web")]
    assert web.exec_run("sh -c 'echo o; echo e >&2; exit 2'", demux=True) == (2, (b"o\n", b"e\n"))
    assert web.exec_run(["sh", "-c", "echo $A; pwd"], environment={"A": "b"}, workdir="/tmp").output == b"b\n/tmp\n"
    assert b"".join(web.exec_run("echo streamed", stream=True).output) == b"streamed\n"
    assert [row[-1] for row in web.top()["Processes"]] == ["sleep 100"]
    web.exec_run("touch /added")
    assert web.diff() == [{"Path": "/added", "Kind": 1}]
    image = web.commit("kept", "1", message="why")
    assert client.images.list("kept") == [image]
    assert image.history()[0]["comment"] == "why"
    web.rename("old")
    web.stop(timeout=0)
    assert (web.status, web.wait()["StatusCode"]) == ("exited", 137)
    web.restart(timeout=0)
    web.kill()
    assert web.wait()["StatusCode"] == 137
    web.remove()
    with pytest.raises(errors.ContainerNotFound):
        client.containers.get("old")
    image.tag("kept", "2")
    assert image.tags == ["kept:1", "kept:2"]
    client.images.remove("kept:1")
    client.images.remove("kept:2")
    with pytest.raises(errors.ImageNotFound):
        client.images.get("kept:2")


@pytest.mark.root
def test_logs(client: minidocker.client.Client) -> None:
    container = client.containers.run("busybox", ["sh", "-c", "echo o; echo e >&2; echo p"], detach=True)
    container.wait()
    assert container.logs(stderr=False) == b"o\np\n"
    assert container.logs(stdout=False) == b"e\n"
    assert list(container.logs(stream=True, stderr=False)) == [b"o\n", b"p\n"]
    assert container.logs(tail=1, stderr=False) in (b"p\n", b"")
    stamp, _, text = container.logs(timestamps=True, stderr=False).split(b"\n")[0].partition(b" ")
    assert (stamp[:2], text) == (b"20", b"o")


@pytest.mark.root
def test_archives(client: minidocker.client.Client) -> None:
    container = client.containers.create("busybox", "true")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("note")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    container.put_archive("/tmp", packed.getvalue())
    stream, facts = container.get_archive("/tmp/note")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        assert archive.extractfile("note").read() == b"hello"  # type: ignore[union-attr]
    assert facts["name"] == "note"
    with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as archive:
        assert {"tmp/note", "bin/busybox"} <= set(archive.getnames())


@pytest.mark.root
def test_build(client: minidocker.client.Client, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG A\nRUN echo $A > /a\n")
    image, lines = client.images.build(path=str(tmp_path), tag="built", buildargs={"A": "b"})
    assert image.tags == ["built:latest"]
    assert any("Step 3/3" in line["stream"] for line in lines)
    assert client.containers.run(image, "cat /a", remove=True) == b"b\n"
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 7\n")
    with pytest.raises(errors.BuildError, match="returned a non-zero code: 7"):
        client.images.build(path=str(tmp_path))


def children() -> set[str]:
    """Return the process ids of this process's children, those that have ended and were not waited for as well."""
    found: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as file:
            found |= set(file.read().split())
    return found


@pytest.mark.root
def test_from_threads_and_beside_an_event_loop(client: minidocker.client.Client) -> None:
    """As a notebook's kernel does; and the calling process stays where and what it was."""
    before = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
    descriptors = len(os.listdir("/proc/self/fd"))
    ours = children()
    outputs: list[bytes] = []

    async def cell() -> None:
        outputs.append(client.containers.run("busybox", "echo in a loop", remove=True))

    asyncio.run(cell())
    threads = [
        threading.Thread(target=lambda: outputs.append(client.containers.run("busybox", "echo x", remove=True)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outputs) == [b"in a loop\n", *[b"x\n"] * 8]
    assert {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")} == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert children() <= ours  # no shim is our child
