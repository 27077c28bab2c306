"""Tables, times, sizes, ports and templates look as docker's do."""

from typing import Any

import pytest

from minidocker.cli import human, images, listing, progress, tables
from minidocker.cli.explaining import layout
from minidocker.cli.template import Template
from minidocker.container.records import Container, State
from minidocker.container.spec import Port, Spec
from minidocker.errors import InvalidArgument
from minidocker.image.catalog import Image
from minidocker.image.oci import MANIFEST, Descriptor
from minidocker.progress import Progress

ANY = Port(0).host_ip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_lengths_of_time(seconds: float, words: str) -> None:
    assert human.duration(seconds) == words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2000-02-29T12:00:00Z", 951825600.0),
        ("2024-02-29T00:00:00.5Z", 1709164800.5),
        ("2024-12-31T23:59:59.999999999Z", 1735689599.999999999),
        ("2024-05-01T14:00:00+02:00", 1714564800.0),
        ("2024-05-01T08:00:00.25-04:00", 1714564800.25),
        ("", 0.0),
        ("yesterday", 0.0),
    ],
)
def test_moments(text: str, seconds: float) -> None:
    assert human.epoch(text) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (2560, "2.56kB"),
        (1_982_277, "1.98MB"),
        (4_261_550, "4.26MB"),
        (188_000_000, "188MB"),
        (999_999_999, "1GB"),
        (1_234_567_890_123, "1.23TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert human.size(count) == text


def test_sizes_with_four_digits_and_in_powers_of_1024() -> None:
    assert human.size(1_982_277, 4) == "1.982MB"
    assert human.binary_size(25_275_000_000) == "23.54GiB"


@pytest.mark.parametrize(
    ("published", "exposed", "text"),
    [
        ((), ("22/tcp",), "22/tcp"),
        ((), ("80/tcp", "443/tcp", "53/udp"), "53/udp, 80/tcp, 443/tcp"),
        ((), ("8000/tcp", "8001/tcp", "8002/tcp", "8005/tcp"), "8000-8002/tcp, 8005/tcp"),
        ((Port(22, "tcp", ANY, 32770),), ("22/tcp",), "0.0.0.0:32770->22/tcp"),
        ((Port(80, "tcp", ANY, 80),), (), "0.0.0.0:80->80/tcp"),
        (
            tuple(Port(n, "tcp", ANY, n) for n in (7000, 7001, 7002)),
            (),
            "0.0.0.0:7000-7002->7000-7002/tcp",
        ),
        (
            (Port(80, "tcp", "127.0.0.1", 8080), Port(53, "udp", ANY, 53)),
            ("22/tcp", "80/tcp"),
            "22/tcp, 0.0.0.0:53->53/udp, 127.0.0.1:8080->80/tcp",
        ),
        ((), (), ""),
    ],
)
def test_ports(published: tuple[Port, ...], exposed: tuple[str, ...], text: str) -> None:
    found = human.ports(published, exposed)
    assert sorted(found.split(", ")) == sorted(text.split(", "))


def test_a_range_is_told_before_the_ports_that_follow_it() -> None:
    exposed = ("8000/tcp", "8001/tcp", "8005/tcp")
    assert human.ports((), exposed) == "8000-8001/tcp, 8005/tcp"


NOW = 1714564800.0  # 2024-05-01T12:00:00Z


def container(**state: Any) -> Container:
    spec = Spec(("/usr/sbin/sshd", "-D", "a b"), exposed=("22/tcp",), labels=(("a", "b"),))
    created = "2024-05-01T11:59:53Z"
    return Container("5c6d86adfd2e" + "0" * 52, "test_sshd", "eg_sshd", "sha256:1", created, spec, State(**state))


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ({"status": "running", "started": "2024-05-01T11:59:54Z"}, "Up 6 seconds"),
        ({"status": "exited", "finished": "2024-05-01T11:59:54Z"}, "Exited (0) 6 seconds ago"),
        ({"status": "exited", "exit_code": 137, "finished": "2024-05-01T10:59:54Z"}, "Exited (137) About an hour ago"),
        ({"status": "exited", "exit_code": 137}, "Exited (137)"),
        ({}, "Created"),
    ],
)
def test_status(state: dict[str, Any], status: str) -> None:
    assert listing.status(container(**state), NOW) == status


def test_a_table_of_containers() -> None:
    running = container(status="running", started="2024-05-01T11:59:54Z", ports=(Port(22, "tcp", ANY, 32770),))
    table = tables.render(listing.HEADERS, listing.SHOWN, [listing.fields(running, NOW)])
    assert table == (
        "CONTAINER ID   IMAGE     COMMAND                  CREATED         STATUS         "
        "PORTS                   NAMES\n"
        '5c6d86adfd2e   eg_sshd   "/usr/sbin/sshd -D \'…"   7 seconds ago   Up 6 seconds   '
        "0.0.0.0:32770->22/tcp   test_sshd\n"
    )


def test_an_empty_table_has_its_headers() -> None:
    assert tables.render(images.HEADERS, images.SHOWN, []) == "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n"
    assert tables.render(listing.HEADERS, listing.SHOWN, []) == (
        "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n"
    )


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ("{{.ID}} {{.Names}}", "5c6d86adfd2e test_sshd\n"),
        ("table {{.Names}}\\t{{.Image}}", "NAMES       IMAGE\ntest_sshd   eg_sshd\n"),
        ("{{json .Names}}", '"test_sshd"\n'),
        ("{{.Labels}}", "a=b\n"),
    ],
)
def test_a_format_of_ones_own(shape: str, text: str) -> None:
    assert tables.render(listing.HEADERS, listing.SHOWN, [listing.fields(container(), NOW)], shape) == text


DESCRIPTOR = Descriptor(MANIFEST, "sha256:" + "0" * 64, 1)
DIGEST = "sha256:" + "1" * 64


@pytest.mark.parametrize(
    ("tags", "digests", "with_digests", "without"),
    [
        ((), (), [("<none>", "<none>", "<none>")], [("<none>", "<none>", "<none>")]),
        (
            ("docker.io/library/busybox:latest",),
            (f"docker.io/library/busybox@{DIGEST}",),
            [("busybox", "latest", DIGEST)],
            [("busybox", "latest", "<none>")],
        ),
        (
            ("localhost:5000/a:1", "docker.io/me/b:2"),
            (f"localhost:5000/a@{DIGEST}",),
            [("localhost:5000/a", "1", DIGEST), ("me/b", "2", "<none>")],
            [("localhost:5000/a", "1", "<none>"), ("me/b", "2", "<none>")],
        ),
        ((), (f"docker.io/me/b@{DIGEST}",), [("me/b", "<none>", DIGEST)], [("me/b", "<none>", DIGEST)]),
    ],
)
def test_the_names_of_an_image(tags: Any, digests: Any, with_digests: Any, without: Any) -> None:
    image = Image(DIGEST, DESCRIPTOR, tags, digests)
    assert images.names(image) == with_digests
    assert images.names(image, with_digests=False) == without


DOCUMENT = {
    "Name": "/web",
    "State": {"Running": True, "Pid": 12, "Error": ""},
    "Args": ["-c", "a b"],
    "Labels": {"b": "2", "a": "1"},
    "Nothing": None,
    "Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "81/tcp": None},
}


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ("{{.State.Running}}", "true"),
        ("{{.State.Pid}} {{.State.Error}}|", "12 |"),
        ("{{.Nothing}}", "<no value>"),
        ("{{.Args}} {{.Labels}}", "[-c a b] map[a:1 b:2]"),
        ("{{json .State}}", '{"Running":true,"Pid":12,"Error":""}'),
        ("{{json .Args}}", '["-c","a b"]'),
        ("{{range .Args}}<{{.}}>{{end}}", "<-c><a b>"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}},{{end}}", "a=1,b=2,"),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        (
            "{{range $p, $c := .Ports}}{{$p}} {{if $c}}{{(index $c 0).HostPort}}{{else}}-{{end}};{{end}}",
            "80/tcp 8080;81/tcp -;",
        ),
        ("{{with .State}}{{.Pid}}{{end}}", "12"),
        ('{{if eq .Name "/db"}}1{{else if eq .Name "/web"}}2{{else}}3{{end}}', "2"),
        ('{{join .Args ","}} {{.Name | upper | printf "%s!"}} {{len .Args}}', "-c,a b /WEB! 2"),
        ("{{$x := .Name}}{{$x}} {{$.Name}}", "/web /web"),
        ("a {{- .Name -}} b", "a/webb"),
        ("{{/* nothing */}}x", "x"),
        ("no action", "no action"),
    ],
)
def test_templates(shape: str, text: str) -> None:
    assert Template(shape).fill(DOCUMENT) == text


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("{{.Foo}}", 'map has no entry for key "Foo"'),
        ("{{.Name.First}}", "can't evaluate field First"),
        ("{{foo .Name}}", 'function "foo" not defined'),
        ("{{.Name", "unclosed action"),
        ("{{}}", "missing value for command"),
        ("{{range .Args}}", "range without end"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{.Name !}}", "unexpected '!'"),
        ('{{index .Args "x"}}', "error calling index"),
        ("{{$y}}", 'undefined variable "$y"'),
    ],
)
def test_templates_that_are_wrong(shape: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Template(shape).fill(DOCUMENT)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("news", "width", "text"),
    [
        (Progress("5a132a7e7af1", "Pull complete"), 80, "5a132a7e7af1: Pull complete "),
        (
            Progress("5a132a7e7af1", "Downloading", 500_000, 1_000_000),
            80,
            "5a132a7e7af1: Downloading [==================>                  ]    500kB/1MB",
        ),
        (Progress("5a132a7e7af1", "Downloading", 500_000), 80, "5a132a7e7af1: Downloading    500kB"),
        (Progress("5a132a7e7af1", "Downloading", 500_000, 1_000_000), 40, "5a132a7e7af1: Downloading    500kB/1MB"),
    ],
)
def test_the_line_of_a_layer(news: Progress, width: int, text: str) -> None:
    found = progress.line(news, width)
    assert found == text
    assert len(found) < max(width, 44)


def test_a_step_is_laid_out_in_two_columns() -> None:
    assert layout("sethostname(web)", "hostname web") == f"{'sethostname(web)':62}  # hostname web"
    kernel = f"mkdir(/sys/fs/cgroup/memory/minidocker/{'5c6d86adfd2e' + '0' * 52})"
    assert layout(kernel, f"mkdir /sys/{'5c6d86adfd2e' + '0' * 52}/x") == (
        f"{'mkdir(/sys/fs/cgroup/memory/minidocker/5c6d86adfd2e…)':62}  # mkdir /sys/5c6d86adfd2e*/x"
    )
    assert layout("mount(" + "x" * 80 + ")", "mount …").count("\n    # mount …") == 1
    assert layout("GET /v2/", "") == "GET /v2/"
