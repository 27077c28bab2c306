"""Devices, resource limits and settings of the kernel that a container is given beyond the usual."""

import os
import stat

import pytest

from conftest import Minidocker
from minidocker.container import cgroups, grants
from minidocker.container.spec import Device, Limits, Ulimit
from minidocker.errors import InvalidArgument, StartError


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("/dev/fuse", Device("/dev/fuse", "/dev/fuse")),
        ("/dev/fuse:/dev/x", Device("/dev/fuse", "/dev/x")),
        ("/dev/fuse:/dev/x:r", Device("/dev/fuse", "/dev/x", "r")),
        ("/dev/fuse:rw", Device("/dev/fuse", "/dev/fuse", "rw")),
    ],
)
def test_devices(text: str, device: Device) -> None:
    assert grants.parse_device(text) == device


@pytest.mark.parametrize("text", ["/dev/fuse:x", "/dev/fuse:rr", "fuse", "/dev/fuse:/a:/b:r", "/dev/fuse:", ""])
def test_a_device_that_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"bad (mode specified|format for path)"):
        grants.parse_device(text)


def test_ulimits() -> None:
    assert grants.parse_ulimit("nofile=1024") == Ulimit("nofile", 1024, 1024)
    assert grants.parse_ulimit("core=0:-1") == Ulimit("core", 0, -1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nofile", "invalid ulimit argument: nofile"),
        ("nofile=a", "invalid ulimit argument"),
        ("files=1", "invalid ulimit type: files"),
        ("nofile=2:1", "soft limit must be less than or equal to hard limit: 2 > 1"),
        ("nofile=-1:1", "soft limit must be less"),
    ],
)
def test_a_ulimit_that_is_none(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        grants.parse_ulimit(text)


def test_sysctls_of_the_containers_own_namespaces_only() -> None:
    assert grants.parse_sysctl("net.ipv4.ip_forward=1") == ("net.ipv4.ip_forward", "1")
    assert grants.parse_sysctl("kernel.msgmax=65536") == ("kernel.msgmax", "65536")
    for text in ("kernel.panic=1", "vm.swappiness=1", "net.ipv4.ip_forward", "net./../../etc/passwd=x", "net.=1", "=1"):
        with pytest.raises(InvalidArgument, match="is not allowed"):
            grants.parse_sysctl(text)


def test_what_is_no_device_cannot_be_given() -> None:
    with pytest.raises(StartError, match='custom device "/dev/nosuch": no such file'):
        grants.nodes(Device("/dev/nosuch", "/dev/nosuch"))
    with pytest.raises(StartError, match="not a device node"):
        grants.nodes(Device("/etc/passwd", "/dev/x"))


def test_a_given_device_is_allowed_beside_dockers() -> None:
    places = {name: f"/sys/fs/cgroup/{name}" for name in cgroups.CONTROLLERS}
    plan = cgroups.plan("abc", Limits(), places, devices=grants.rules((Device("/dev/kmsg", "/dev/kmsg", "r"),)))
    number = os.stat("/dev/kmsg").st_rdev
    assert plan.writes[-1].value == f"c {os.major(number)}:{os.minor(number)} r"


@pytest.mark.root
def test_a_device_in_a_container(minidocker: Minidocker, busybox_image: str) -> None:
    code = (
        "ls -la /dev/log2; dd if=/dev/log2 of=/dev/null bs=8192 count=1 && echo read; echo x > /dev/log2 || echo kept"
    )
    given = ("--device", "/dev/kmsg:/dev/log2:r", "--cap-add", "SYSLOG")
    done = minidocker("run", "--rm", "--network", "none", *given, "busybox", "sh", "-c", code)
    assert done.stdout.split("\n")[-3:-1] == ["read", "kept"]
    assert "can't create /dev/log2: Operation not permitted" in done.stderr
    assert stat.filemode(os.stat("/dev/kmsg").st_mode) == done.stdout.split()[0]
    without = minidocker("run", "--rm", "--network", "none", "busybox", "sh", "-c", "mknod /k c 1 11; head -c1 /k")
    assert "Operation not permitted" in without.stderr
    document = minidocker("run", "--rm", "--network", "none", "--device", "/etc/passwd", "busybox", "true")
    assert (document.returncode, "not a device node" in document.stderr) == (125, True)


@pytest.mark.root
def test_ulimits_and_sysctls_in_a_container(minidocker: Minidocker, busybox_image: str) -> None:
    options = ("--ulimit", "nofile=100:200", "--ulimit", "core=0", "--sysctl", "net.ipv4.ip_forward=0")
    more = ("--sysctl", "kernel.msgmax=12345")
    code = "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"
    before = open("/proc/sys/kernel/msgmax").read()
    out = minidocker.ok("run", "--name", "web", *options, *more, "busybox", "sh", "-c", code)
    assert out.split() == ["100", "200", "0", "0", "12345"]
    assert open("/proc/sys/kernel/msgmax").read() == before
    assert minidocker.ok("inspect", "-f", "{{json .HostConfig.Ulimits}}", "web") == (
        '[{"Name":"nofile","Hard":200,"Soft":100},{"Name":"core","Hard":0,"Soft":0}]'
    )
    refused = minidocker("run", "--rm", "--sysctl", "kernel.panic=1", "busybox", "true")
    assert (refused.returncode, "sysctl 'kernel.panic=1' is not allowed" in refused.stderr) == (125, True)
    shared = minidocker("run", "--rm", "--network", "host", "--sysctl", "net.ipv4.ip_forward=0", "busybox", "true")
    assert (shared.returncode, "not allowed in host network namespace" in shared.stderr) == (125, True)
