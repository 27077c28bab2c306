"""The commands on real containers: what is printed where, and with which exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from conftest import Minidocker, Roots

pytestmark = pytest.mark.root


@pytest.fixture
def web(minidocker: Minidocker, busybox_image: str) -> Iterator[str]:
    """Return the name of a container that runs and waits."""
    minidocker.ok("run", "-d", "--name", "web", "--network", "none", "-l", "tier=front", busybox_image, "sleep", "1000")
    yield "web"
    minidocker("rm", "-f", "web")


def test_a_container_from_run_to_rm(minidocker: Minidocker, busybox_image: str) -> None:
    container_id = minidocker.ok("run", "-d", "--name", "one", "--network", "none", busybox_image, "sleep", "1000")
    assert re.fullmatch("[0-9a-f]{64}", container_id)
    header, row = minidocker.ok("ps").splitlines()
    assert re.split("   +", header) == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert re.match(rf'{container_id[:12]}   {busybox_image}   "sleep 1000"   .* ago +Up .*  one$', row)
    assert minidocker.ok("ps", "-q", "--no-trunc") == container_id
    assert minidocker.ok("stop", "-t", "0", "one") == "one"
    assert minidocker.ok("ps", "-q") == ""
    assert "Exited (137)" in minidocker.ok("ps", "-a")
    assert minidocker.ok("restart", container_id[:6]) == container_id[:6]
    assert minidocker.ok("rename", "one", "two") == ""
    refused = minidocker("rm", "two")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: You cannot remove a running container {container_id}")
    assert minidocker.ok("rm", "-f", "two") == "two"
    assert minidocker.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
        (["no-such-program"], 127, 'exec: "no-such-program": executable file not found in $PATH'),
        (["/etc"], 126, 'exec: "/etc": '),
    ],
)
def test_the_exit_code_of_run(
    command: list[str], code: int, error: str, minidocker: Minidocker, busybox_image: str
) -> None:
    done = minidocker("run", "--rm", "--network", "none", busybox_image, *command)
    assert done.returncode == code
    assert error in done.stderr
    assert done.stderr.startswith("minidocker: ") == bool(error)
    assert minidocker.ok("ps", "-aq") == ""


def test_output_and_errors_stay_apart_and_input_goes_in(minidocker: Minidocker, busybox_image: str) -> None:
    script = "cat; echo problem >&2"
    done = minidocker("run", "-i", "--rm", "--network", "none", busybox_image, "sh", "-c", script, input="typed\n")
    assert (done.stdout, done.stderr, done.returncode) == ("typed\n", "problem\n", 0)


def test_only_what_a_names_is_attached(minidocker: Minidocker, busybox_image: str) -> None:
    script = "echo out; echo problem >&2"
    done = minidocker("run", "-a", "stderr", "--rm", "--network", "none", busybox_image, "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("", "problem\n")
    both = minidocker("run", "-d", "-a", "stdout", busybox_image)
    assert both.returncode == 125
    assert both.stderr.startswith("minidocker: Conflicting options: -a and -d")


def test_several_are_stopped_at_once_and_named_in_order(minidocker: Minidocker, busybox_image: str) -> None:
    names = ["one", "two", "three", "four"]
    for name in names:  # a process 1 that has no answer to SIGTERM does not hear it
        minidocker.ok("run", "-d", "--name", name, "--network", "none", busybox_image, "sleep", "1000")
    started = time.monotonic()
    done = minidocker("stop", "-t", "3", "one", "two", "nosuch", "three", "four")
    assert time.monotonic() - started < 2 * 3 + 3, "four times three seconds pass if one waits for the other"
    assert (done.returncode, done.stdout.split()) == (1, names)
    assert done.stderr == "Error: No such container: nosuch\n"
    assert minidocker.ok("rm", *names).split() == names


def test_several_names_are_each_tried(minidocker: Minidocker, web: str) -> None:
    done = minidocker("kill", "nope", web, "neither")
    assert done.returncode == 1
    assert done.stdout == "web\n"
    assert done.stderr == "Error: No such container: nope\nError: No such container: neither\n"


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("start nope", 1, "Error: No such container: nope"),
        ("attach nope", 1, "Error: No such container: nope"),
        ("exec nope ls", 1, "Error: No such container: nope"),
        ("logs -n x web", 1, 'Error: invalid number of lines: "x"'),
        ("kill -s FOO web", 1, "Error: invalid signal: FOO"),
        ("rename web web", 1, "Error: Renaming a container with the same name as its current name"),
        ("rename web *", 1, "Error: Invalid container name (*)"),
        ("port web 99", 1, "Error: No public port '99/tcp' published for web"),
        ("exec web no-such", 126, 'Error: exec: "no-such": executable file not found in $PATH'),
        ("exec -it web sh", 1, "the input device is not a TTY"),
        ("run -it busybox", 1, "the input device is not a TTY"),
        ("run --name web busybox", 125, 'minidocker: Conflict. The container name "/web" is already in use'),
        ("create --name web busybox", 1, 'Error: Conflict. The container name "/web" is already in use'),
        ("run --pull never nope", 125, "minidocker: no such image: nope:latest"),
        ("run -v x:y:z:w busybox", 125, "minidocker: invalid volume specification: 'x:y:z:w'"),
        ("run -p foo busybox", 125, "minidocker: Invalid containerPort: foo"),
        ("inspect nope", 1, "Error: No such object: nope"),
        ("inspect -f {{.Foo}} web", 1, "Error: template executing error: "),
        ("inspect -f {{.Foo web", 64, "template parsing error: "),
        ("ps -f foo=bar", 1, "Error: Invalid filter 'foo'"),
    ],
)
def test_a_command_that_fails(line: str, code: int, error: str, minidocker: Minidocker, web: str) -> None:
    done = minidocker(*line.split())
    assert done.returncode == code
    assert done.stderr.startswith(error)


def test_filters(minidocker: Minidocker, web: str, busybox_image: str) -> None:
    minidocker("run", "--name", "done", "--network", "none", busybox_image, "sh", "-c", "exit 3")
    names = ("--format", "{{.Names}}")
    assert minidocker.ok("ps", *names) == "web"
    assert minidocker.ok("ps", "-a", *names) == "done\nweb"
    assert minidocker.ok("ps", "-l", *names) == "done"
    assert minidocker.ok("ps", "-n", "2", *names) == "done\nweb"
    assert minidocker.ok("ps", "-f", "status=exited", *names) == "done"
    assert minidocker.ok("ps", "-f", "exited=3", *names) == "done"
    assert minidocker.ok("ps", "-f", "exited=0", *names) == ""
    assert minidocker.ok("ps", "-a", "-f", "label=tier=front", *names) == "web"
    assert minidocker.ok("ps", "-a", "-f", "name=^d", "-f", "name=eb$", *names) == "done\nweb"
    assert minidocker.ok("ps", "-a", "-f", "ancestor=busybox", *names) == "done\nweb"
    minidocker.ok("rm", "done")


def test_inspect_has_what_programs_look_at(minidocker: Minidocker, web: str) -> None:
    (document,) = json.loads(minidocker.ok("inspect", web))
    assert document["Name"] == "/web"
    assert document["State"]["Running"] is True
    assert document["Path"] == "sleep"
    assert document["Config"]["Labels"] == {"tier": "front"}
    assert document["NetworkSettings"]["Networks"].keys() == {"none"}
    assert os.path.exists(document["LogPath"])
    assert minidocker.ok("inspect", "-f", "{{.State.Status}} {{json .Args}}", web) == 'running ["1000"]'
    (image,) = json.loads(minidocker.ok("image", "inspect", "busybox"))
    assert image["RepoTags"] == ["busybox:latest"]
    assert minidocker("container", "inspect", "busybox").returncode == 1
    partly = minidocker("inspect", web, "nope")
    assert (len(json.loads(partly.stdout)), partly.returncode) == (1, 1)


def test_logs(minidocker: Minidocker, busybox_image: str) -> None:
    script = "for n in 1 2 3; do echo $n; done; echo problem >&2"
    minidocker.ok("run", "--name", "talk", "--network", "none", busybox_image, "sh", "-c", script)
    done = minidocker("logs", "talk")
    assert (done.stdout, done.stderr) == ("1\n2\n3\n", "problem\n")
    assert minidocker("logs", "--tail", "2", "talk").stdout == "3\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z 1", minidocker("logs", "-t", "talk").stdout.splitlines()[0])
    assert minidocker("logs", "--since", "1h", "talk").stdout == "1\n2\n3\n"
    assert minidocker("logs", "--until", "1h", "talk").stdout == ""
    assert minidocker("logs", "--since", "soon", "talk").returncode == 1
    minidocker.ok("rm", "talk")


def test_signals_go_to_the_container(minidocker: Minidocker, busybox_image: str) -> None:
    script = 'trap "echo got; exit 9" INT; echo ready; while true; do sleep 0.1; done'
    line = ("run", "--rm", "--network", "none", busybox_image, "sh", "-c", script)
    with minidocker.start(*line, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"got\n"
        assert process.wait(20) == 9


def test_without_sig_proxy_the_container_goes_on(minidocker: Minidocker, busybox_image: str) -> None:
    line = (
        "run",
        "--sig-proxy=false",
        "--name",
        "on",
        "--network",
        "none",
        busybox_image,
        "sh",
        "-c",
        "echo; sleep 99",
    )
    with minidocker.start(*line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert minidocker.ok("ps", "--format", "{{.Names}}") == "on"
    minidocker.ok("rm", "-f", "on")


def test_a_container_is_left_alone_by_the_detach_keys(minidocker: Minidocker, busybox_image: str) -> None:
    with minidocker.pty(
        "run", "-it", "--name", "term", "--network", "none", busybox_image, rows=30, columns=100
    ) as screen:
        screen.expect("# ")
        screen.send("stty size\r")
        screen.expect("30 100")
        screen.resize(40, 120)
        time.sleep(0.2)
        screen.send("stty size\r")
        screen.expect("40 120")
        screen.send("\x10\x11")
        assert screen.wait() == 0
    with minidocker.pty("attach", "--detach-keys", "ctrl-a,d", "term") as screen:
        screen.send("\r")
        screen.expect("# ")
        screen.send("\x01d")
        screen.expect("read escape sequence")
        assert screen.wait() == 1
    with minidocker.pty("attach", "term") as screen:
        screen.send("\r")
        screen.expect("# ")
        screen.send("exit 5\r")
        assert screen.wait() == 5
    minidocker.ok("rm", "term")


def test_the_terminal_is_put_back(minidocker: Minidocker, busybox_image: str) -> None:
    inner = " ".join([*minidocker.argv, "run", "--rm", "-it", "--network", "none", busybox_image, "true"])
    program = f'before=$(stty -g); {inner}; test "$before" = "$(stty -g)" && echo the same'
    from terminal import Terminal

    with Terminal(["sh", "-c", program], env=minidocker.env) as screen:
        screen.expect("the same")


def test_the_id_is_written_to_a_file(minidocker: Minidocker, busybox_image: str, roots: Roots) -> None:
    path = f"{roots.root}/id"
    container_id = minidocker.ok("create", "--cidfile", path, "--network", "none", busybox_image)
    with open(path) as file:
        assert file.read() == container_id
    again = minidocker("create", "--cidfile", path, busybox_image)
    assert again.returncode == 1
    assert again.stderr.startswith("Error: Container ID file found")
    failed = minidocker("run", "--cidfile", f"{path}2", "--pull", "never", "nope")
    assert failed.returncode == 125
    assert not os.path.exists(f"{path}2")


def test_the_environment_from_files_and_from_ours(minidocker: Minidocker, busybox_image: str, roots: Roots) -> None:
    path = f"{roots.root}/env"
    with open(path, "w") as file:
        file.write("# comment\n\nA=1\nOURS\nABSENT\n")
    line = ("run", "--rm", "--network", "none", "--env-file", path, "-e", "B=two words", busybox_image, "env")
    done = minidocker(*line, env={"OURS": "yes"})
    assert {"A=1", "OURS=yes", "B=two words"} <= set(done.stdout.splitlines())
    assert "ABSENT" not in done.stdout


def test_pruning(minidocker: Minidocker, web: str, busybox_image: str) -> None:
    minidocker("run", "--name", "done", "--network", "none", busybox_image, "true")
    minidocker.ok("volume", "create", "loose")
    assert "done" in minidocker.ok("container", "prune", input="n\n") + minidocker.ok("ps", "-a")
    text = minidocker.ok("container", "prune", "-f")
    assert text.startswith("Deleted Containers:\n") and text.endswith("Total reclaimed space: 0B")
    assert minidocker.ok("ps", "-a", "--format", "{{.Names}}") == "web"
    assert "loose" in minidocker.ok("volume", "prune", "-f")
    assert busybox_image.split(":")[0] in minidocker.ok("images") + minidocker.ok("image", "prune", "-af")
    assert minidocker.ok("images", "-q")
    usage = minidocker.ok("system", "df").splitlines()
    assert usage[0] == "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE"
    assert usage[2].split()[:3] == ["Containers", "1", "1"]
    minidocker.ok("rm", "-f", web)
    assert "untagged: busybox:latest" in minidocker.ok("system", "prune", "-af")
    assert minidocker.ok("images", "-aq") == ""


def test_explain_prints_every_step(minidocker: Minidocker, busybox_image: str) -> None:
    done = minidocker("--explain", "run", "--rm", "--network", "none", busybox_image, "true")
    assert done.returncode == 0
    assert re.search(r"^(unshare|clone).*# unshare ", done.stderr, re.MULTILINE)
    assert "pivot_root(" in done.stderr


def test_a_reader_that_goes_away_is_no_error(minidocker: Minidocker, web: str) -> None:
    line = " ".join([*minidocker.argv, "ps", "--help"])
    done = subprocess.run(["sh", "-c", f"{line} | true"], capture_output=True, env={**os.environ, **minidocker.env})
    assert done.stderr == b""


def test_few_modules_are_imported_for_a_listing(minidocker: Minidocker, busybox_image: str) -> None:
    heavy = {"argparse", "logging", "subprocess", "urllib3", "pyroute2", "tarfile", "dataclasses", "asyncio", "pathlib"}
    program = (
        "import sys; from minidocker.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    for command in ("ps", "images", "--version"):
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, command],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **minidocker.env},
        )
        loaded = {name.partition(".")[0] for name in done.stderr.split()}
        assert not loaded & heavy
