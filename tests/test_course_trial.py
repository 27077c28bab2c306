"""A Dockerfile tried out for an exercise: what is refused, what is limited, and that nothing is left behind."""

import glob
import tempfile

import pytest

from minidocker.course import trial
from minidocker.course.calls import Trouble
from minidocker.course.trialverbs import served
from minidocker.errors import BuildError, MinidockerError

GOOD = """\
FROM busybox AS installed
COPY install.sh needs.txt ./
RUN sh install.sh needs.txt
FROM busybox
COPY --from=installed /opt/libraries /opt/libraries
COPY www www
CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]
"""


def left() -> list[str]:
    """Return what trials have left on this machine."""
    with open("/proc/self/mountinfo") as mounts:
        mounted = [line for line in mounts if "minidocker-trial-" in line]
    return mounted + glob.glob(f"{tempfile.gettempdir()}/minidocker-trial-*")


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what this test does apart from trials that go on beside it."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(prefix="mdtrial", dir="/tmp"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FROM debian:bookworm\n", "begin FROM busybox"),
        ("FROM registry.example.org/busybox\n", "begin FROM busybox"),
        ("ARG X=debian\nFROM $X\n", "begin FROM busybox"),
        ("FROM busybox\nADD https://example.org/x /x\n", "use COPY"),
        ("FROM busybox\nRUN --network=host wget http://127.0.0.1\n", "no options of RUN"),
        ("FROM busybox\nCOPY --from=debian:bookworm /etc /etc\n", "only from a stage"),
        ("FROM busybox\nSTEAL /etc/shadow\n", "STEAL"),
    ],
)
def test_what_asks_for_more_is_refused_without_being_built(text: str, why: str) -> None:
    assert why in trial.refusal(text)
    assert trial.try_out(text, "").problem == trial.refusal(text)


def test_stages_may_be_used() -> None:
    assert trial.refusal(GOOD) == ""


@pytest.mark.root
@pytest.mark.usefixtures("own_folder")
def test_an_application_is_built_visited_and_changed() -> None:
    tried = trial.try_out(GOOD, ".env\n.git\nnotes.md\n")
    assert tried.problem == ""
    assert tried.first and tried.page_changed and tried.needs_changed
    assert "Guest book" in tried.first.page and "Book of guests" in tried.page_changed.page
    assert tried.first.libraries == tried.page_changed.libraries != tried.needs_changed.libraries
    assert tried.first.uid == 0 and tried.unrelated and not tried.secrets
    assert left() == []


@pytest.mark.root
@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize(
    "command",
    [
        "bomb() { bomb | bomb & bomb; }; bomb",
        "cat /dev/zero > /large",
        "wget -q -O /page http://192.0.2.1/",
        "mount -t tmpfs none /mnt",
    ],
)
def test_what_a_run_may_not_do_fails_and_leaves_nothing(command: str) -> None:
    assert "non-zero code" in trial.try_out(f"FROM busybox\nRUN {command}\n", "").problem
    assert left() == []


@pytest.mark.root
@pytest.mark.usefixtures("own_folder")
def test_a_flood_of_output_ends_the_build() -> None:
    assert "prints more than a megabyte" in trial.try_out("FROM busybox\nRUN yes\n", "").problem
    assert left() == []


@pytest.mark.root
@pytest.mark.usefixtures("own_folder")
def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 8.0)
    assert "took more than" in trial.try_out("FROM busybox\nRUN sleep 1000\n", "").problem
    assert left() == []


@pytest.mark.root
@pytest.mark.usefixtures("own_folder")
def test_an_engine_does_what_it_is_asked_for_and_tells_what_went_wrong() -> None:
    with served() as it:
        with pytest.raises(BuildError, match="non-zero code"):
            it.build(it.folder, "site:unbuildable", buildargs={"VERSION": "unbuildable"})
        it.build(it.folder, "site:1", buildargs={"VERSION": "1"})
        it.run("site:1", name="one", mem_limit="64m")
        it.rename("one", "two")
        it.stop("two")
        assert it.containers() == {"two": "exited"}
        it.remove("two")
        with pytest.raises(MinidockerError, match="two"):
            it.start("two")
        assert it.containers() == {}
    assert left() == []


def test_without_an_engine_nothing_is_said_of_the_dockerfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_PROGRAM", "import sys; sys.exit('no such engine')")
    with pytest.raises(Trouble, match="no such engine"):
        trial.try_out("FROM busybox\nRUN true\n", "")
