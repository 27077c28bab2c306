"""What hostile submissions try, and that they get nothing for it: not a point, not a word, not a process that stays.

Each attack is one exercise's cell. Where it is told apart from an honest one by what it has seen, it prints that.
"""

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from boxkit import HONEST, SECRET, SMALL, TESTS, Grader, make_grader, processes
from coursekit import exercise_cells
from minidocker.course.pool import Limits

TRAP = {
    "trap": "with folder() as path:\n    double(path)\n"
    "    with open(f'{path}/answer') as file:\n        text = file.read()\n"
    "    assert text == 'right', f'the file holds {text}'"
}
IN_CHILD = {"all": "with child(double, 1, namespaces=('mnt', 'pid')) as it:\n    assert it.result == 2"}
STARTS = {  # as those tests do that build and run what a learner has written
    "start": "os.spawnlp(os.P_NOWAIT, 'sh', 'sh', '-c', f'setsid {double(1)} & sleep 1000')\n"
    "time.sleep(0.3)\nassert False, 'started'"
}


@pytest.fixture(scope="module")
def grader(tmp_path_factory: Any) -> Iterator[Grader]:
    folder = str(tmp_path_factory.mktemp("course"))
    os.environ["MINIDOCKER_TEST_TOKEN"] = SECRET
    try:
        sections = [exercise_cells(TESTS), exercise_cells(TRAP, name="trap"), exercise_cells(IN_CHILD, name="inner")]
        sections.append(exercise_cells(STARTS, name="started"))
        yield from make_grader(folder, sections=sections)
    finally:
        del os.environ["MINIDOCKER_TEST_TOKEN"]


def test_the_honest_solution_earns_all_and_is_told_nothing(grader: Grader) -> None:
    verdict = grader.verdict(HONEST)
    assert verdict.passed and verdict.printed == "" and [test.message for test in verdict.tests] == ["", ""]


# To read what is not for learners.


@pytest.mark.parametrize("path", ["{course}/solutions/01_first.ipynb", "{course}", "/etc/shadow", "/root", "/home"])
def test_files_of_the_grader_are_not_there(grader: Grader, path: str) -> None:
    path = path.format(course=grader.folder)
    printed = grader.printed(
        f"import os\nprint(os.listdir({path!r}) if os.path.isdir({path!r}) else open({path!r}).read())"
    )
    assert "FileNotFoundError" in printed or not re.search(r"ipynb|root:|ssh", printed)


def test_in_the_whole_box_there_is_no_file_with_a_hidden_test(grader: Grader) -> None:
    printed = grader.printed(
        "import os, minidocker\n"
        "own = {os.stat('/').st_dev, os.stat('/tmp').st_dev}  # the rest are the system's and Python's own folders\n"
        "for top in ('/', os.path.dirname(minidocker.__file__)):\n"
        "    for folder, names, files in os.walk(top):\n"
        "        names[:] = [n for n in names if top != '/' or os.stat(os.path.join(folder, n)).st_dev in own]\n"
        "        for name in files:\n"
        "            path = os.path.join(folder, name)\n"
        "            if not name.endswith('.py') and os.path.isfile(path):\n"
        "                with open(path, 'rb') as file:\n"
        "                    if b'of-a-hidden-test' in file.read() or name.endswith(('.ipynb', '.toml')):\n"
        "                        print('found', path)\n"
        "print('looked')"
    )
    assert "found" not in printed and "looked" in printed


def test_the_processs_own_memory_holds_no_test(grader: Grader) -> None:
    printed = grader.printed(
        "word = b'the-expected-value' + bytes(1)[:0] + b'-of-a-hidden'\n"
        "found = 0\n"
        "with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb') as memory:\n"
        "    for line in maps:\n"
        "        first, last = (int(n, 16) for n in line.split()[0].split('-'))\n"
        "        if ' r' in line[:40] and 'vsyscall' not in line and 'vvar' not in line:\n"
        "            memory.seek(first)\n"
        "            found += memory.read(last - first).count(word + b'-test')\n"
        "print('found', found)"
    )
    assert printed == "found 0\n"


def test_the_judge_and_its_descriptors_are_not_visible(grader: Grader) -> None:
    printed = grader.printed(
        "import os\n"
        "print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))\n"
        "for fd in sorted(os.listdir('/proc/self/fd'), key=int):\n"
        "    if os.path.exists(f'/proc/self/fd/{fd}') or int(fd) < 4:\n"
        "        print(fd, os.readlink(f'/proc/self/fd/{fd}'))"
    )
    lines = printed.splitlines()
    assert lines[0] == "[1, 2]"  # the box's first process, and the one that asks
    assert [re.sub(r"\d+|\(deleted\)", "", line).strip() for line in lines[1:]][:1] == ["/dev/null"]
    assert len(lines) == 5 and "socket:" in lines[4], printed


def test_the_environment_says_nothing(grader: Grader) -> None:
    printed = grader.printed("import os\nprint(os.environ, open('/proc/1/environ').read())")
    assert "PATH" in printed and SECRET not in printed


CALLS = {
    "ptrace": "libc.ptrace(16, 1, 0, 0)",
    "process_vm_readv": "libc.process_vm_readv(1, None, 0, None, 0, 0)",
    "pidfd_getfd": "libc.syscall(438, os.pidfd_open(1), 0, 0)",
    "kcmp": "libc.syscall(312, 1, 1, 0, 0, 0)",
    "keyctl": "libc.syscall(250, 0, -3, 0)",
    "bpf": "libc.syscall(321, 0, None, 0)",
    "unshare": "libc.unshare(0x10000000)",
    "mount": "libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)",
    "umount2": "libc.umount2(b'/proc', 2)",
    "setns": "libc.setns(os.open('/proc/1/ns/mnt', os.O_RDONLY), 0)",
    "pivot_root": "libc.syscall(155, b'/', b'/')",
    "io_uring_setup": "libc.syscall(425, 1, None)",
    "reboot": "libc.reboot(0)",
    "swapon": "libc.swapon(b'/tmp/x', 0)",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the calls are those of x86-64")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_could_help_is_refused(grader: Grader, name: str) -> None:
    printed = grader.printed(
        "import ctypes, os, errno\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"print({CALLS[name]} < 0 and errno.errorcode[ctypes.get_errno()])"
    )
    assert printed in ("EPERM\n", "ENOSYS\n")


def test_a_link_does_not_lead_the_judge_to_what_the_box_does_not_have(grader: Grader) -> None:
    for target in (f"{grader.folder}/solutions/01_first.ipynb", "/etc/shadow", "/proc/1/environ", "/proc/self/environ"):
        code = f"import os\ndef double(path):\n    os.symlink({target!r}, path + '/answer')"
        verdict = grader.verdict(code, section="02_second", exercise="trap")
        assert verdict.earned == 0
        assert SECRET not in verdict.tests[0].message and "root:" not in verdict.tests[0].message
        assert "No such file" in verdict.tests[0].message or "the file holds" in verdict.tests[0].message


# To change what is not the learner's.


@pytest.mark.parametrize(
    "path",
    ["{course}/results.json", "/proc/self/exe", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/etc/passwd"]
    + ["/usr/bin/evil", "{package}/course/judge.py", "/sys/kernel/uevent_helper", "/dev/evil", "/evil"],
)
def test_nothing_outside_of_tmp_can_be_written(grader: Grader, path: str) -> None:
    import minidocker

    path = path.format(course=grader.folder, package=os.path.dirname(minidocker.__file__))
    printed = grader.printed(f"with open({path!r}, 'ab') as file:\n    file.write(b'x')\nprint('written')")
    assert re.match(r"OSError|PermissionError|FileNotFoundError", printed), printed


ESCAPES = {
    "by chroot": "os.mkdir('/tmp/j')\nos.chroot('/tmp/j')\nfor _ in range(50): os.chdir('..')\nos.chroot('.')\n"
    "print(sorted(os.listdir('/')))",
    "by proc": "os.chdir('/proc/1/root')\nprint(sorted(os.listdir('.')))",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_out_of_the_box_there_is_only_the_box(grader: Grader, name: str) -> None:
    printed = grader.printed(f"import os\n{ESCAPES[name]}")
    assert {"proc", "tmp", "usr"} <= set(re.findall(r"'(\w+)'", printed)) and "boot" not in printed
    assert "home" not in printed


def test_the_hosts_disks_cannot_be_opened(grader: Grader) -> None:
    printed = grader.printed(
        "import os, stat\nos.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))\nprint('made')"
    )
    assert printed.startswith("PermissionError")


def test_limits_cannot_be_raised(grader: Grader) -> None:
    printed = grader.printed(
        "import resource\n"
        "for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):\n"
        "    try:\n"
        "        resource.setrlimit(kind, (1 << 40, 1 << 40))\n"
        "        print('raised')\n"
        "    except ValueError:\n"
        "        print('no')"
    )
    assert printed == "no\n" * 4


@pytest.mark.root
def test_on_the_host_the_box_is_nobody(grader: Grader) -> None:
    subprocess.run(["true"], check=True)
    word = f"{os.getpid()}.2718"
    code = f"import os, time\nif not os.fork():\n    os.execvp('sleep', ['sleep', '{word}'])\ntime.sleep(1)\n{HONEST}"
    running = grader.pool.run([grader.job(code)])
    seen: list[str] = []

    def look() -> None:
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline and not seen:
            for pid in processes(f"^sleep {word}"):
                with open(f"/proc/{pid}/status") as file:
                    seen.extend(line for line in file if line.startswith(("Uid", "CapEff", "NoNewPrivs")))
            time.sleep(0.05)

    thread = threading.Thread(target=look)
    thread.start()
    (done,) = running
    thread.join()
    assert done.verdicts[0].passed
    facts = dict(line.split(":\t") for line in seen)
    assert min(map(int, facts["Uid"].split())) >= 1000
    assert not int(facts["CapEff"], 16) & 1 << 21 and int(facts["NoNewPrivs"]) == 1


# To be given points that were not earned.

CHEATS = {
    "exits with success": "import os\ndef double(number):\n    os._exit(0)",
    "exits while it is loaded": "raise SystemExit(0)",
    "exits at once": "import os\nos._exit(0)",
    "prints a verdict": "import sys\ndef double(number):\n"
    '    print(\'{"verdicts": [["double", true, [["small", 2, 2, "", ""]], ""]]}\')\n'
    "    print('passed', file=sys.stderr, flush=True)\n    return 3",
    "sends an answer before it is asked": "import os, struct, json\nfor _ in range(9):\n"
    "    data = json.dumps(['return', {'dict': []}]).encode()\n    os.write(3, struct.pack('>I', len(data)) + data)",
    "sends a verdict": "import os, struct, json\ndef double(number):\n"
    "    data = json.dumps({'verdicts': [['double', True, [['small', 2, 2, '', '']], '', True]]}).encode()\n"
    "    os.write(3, struct.pack('>I', len(data)) + data)\n    return 3",
    "sends noise": "import os\ndef double(number):\n    os.write(3, b'\\xff' * 100)\n    return 3",
    "patches the judge": "import minidocker.course.judge as judge\nimport minidocker.course.testing as testing\n"
    "judge.judge = judge._Court.hear = judge._Court._run = lambda *_: None\ntesting.equal = lambda *_: None\n"
    "def double(number):\n    return 3",
    "patches Python": "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.__import__ = None\n"
    "def double(number):\n    return 3",
    "equals everything": "class All(int):\n    def __eq__(self, other):\n        return True\n"
    "def double(number):\n    return All(3)",
    "gives the names of the test another meaning": "class AssertionError(Exception): pass\n"
    "def print(*_): pass\ndef double(number):\n    return 3",
    "raises what the judge knows": "from minidocker.course.calls import Trouble\n"
    "def double(number):\n    raise Trouble('the grader has failed')",
    "raises an end": "def double(number):\n    raise GeneratorExit",
    "signals the judge": "import os, signal\ndef double(number):\n    for pid in set(range(1, 200)) - {os.getpid()}:\n"
    "        try:\n            os.kill(pid, signal.SIGKILL)\n        except OSError:\n            pass\n    return 3",
    "kills all": "import os, signal\ndef double(number):\n    os.kill(-1, signal.SIGKILL)\n    return 3",
    "answers with what grows in the judge's hands": "import os, struct\ndata = b'[' + b'[],' * 20_000_000 + b'[]]'\n"
    "with os.fdopen(os.dup(3), 'wb') as judge:\n    judge.write(struct.pack('>I', len(data)) + data)",
    "answers with megabytes": "def double(number):\n    return 'x' * (20 << 20)",
    "closes all": "import os\ndef double(number):\n    os.closerange(0, 5000)\n    return 3",
}


@pytest.mark.parametrize("name", CHEATS)
def test_points_are_only_earned(grader: Grader, name: str) -> None:
    verdict = grader.verdict(CHEATS[name])
    assert verdict.earned == 0
    assert all(0 < len(test.message) < 5000 for test in verdict.tests)
    assert grader.verdict(HONEST).passed, "the next submission has suffered from it"


def test_one_submission_leaves_nothing_for_the_next(grader: Grader) -> None:
    grader.printed(
        "import ctypes, os, socket\n"
        "for path in ('/tmp/left', '/dev/shm/left'):\n"
        "    open(path, 'w').write('left')\n"
        "ctypes.CDLL(None).shmget(4711, 4096, 0o1666)\n"
        "ctypes.CDLL(None).msgget(4711, 0o1666)"
    )
    printed = grader.printed(
        "import ctypes, os\n"
        "print(os.listdir('/dev/shm'), ctypes.CDLL(None).shmget(4711, 0, 0), ctypes.CDLL(None).msgget(4711, 0))\n"
        "print([name for name in os.listdir('/tmp') if not name.startswith('minidocker-exercise-')])"
    )
    assert "left" not in printed and "-1 -1" in printed and printed.endswith("[]\n"), printed


# To stay, to spread, and to be in the way.


@pytest.mark.parametrize("mask", ["", "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"])
def test_a_process_that_is_left_behind_ends_with_the_box(grader: Grader, mask: str) -> None:
    word = f"{os.getpid()}.{len(mask)}31415"
    code = (
        f"import os\n{mask}if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execvp('sleep', ['sleep', '{word}'])\n    os._exit(0)\nimport time\ntime.sleep(.3)\n"
    )
    assert grader.verdict(code + HONEST).passed
    assert processes(f"^sleep {word}") == []


def test_what_a_test_has_started_for_a_learner_ends_with_the_judgement(grader: Grader) -> None:
    word = f"{os.getpid()}.16180"
    verdict = grader.verdict(f"def double(number):\n    return 'sleep {word}'", section="04_fourth", exercise="started")
    assert "started" in verdict.tests[0].message
    assert processes(f"^sleep {word}") == []
    assert grader.verdict(HONEST).passed


def test_a_fork_bomb_ends_with_its_own_box_and_the_machine_goes_on(grader: Grader) -> None:
    code = (
        "import os\ndef double(number):\n    while True:\n"
        "        try:\n            os.fork()\n        except OSError:\n            pass"
    )
    running = grader.pool.run([grader.job(code)])
    slowest = 0.0
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.extend(running))
    thread.start()
    while thread.is_alive():
        began = time.monotonic()
        subprocess.run(["true"], check=True)
        slowest = max(slowest, time.monotonic() - began)
        thread.join(0.5)
    assert answers[0].trouble == "" and answers[0].verdicts[0].earned == 0
    assert slowest < 5
    assert grader.verdict(HONEST).passed


def test_processes_are_counted(grader: Grader) -> None:
    printed = grader.printed(
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(5)\n"
        "            os._exit(0)\n"
        "        made += 1\n"
        "except BlockingIOError:\n"
        "    print(made)"
    )
    assert 10 < int(printed) <= SMALL.processes


def test_a_full_disk_is_the_submissions_own(grader: Grader) -> None:
    printed = grader.printed(
        "size = 0\n"
        "try:\n"
        "    for number in range(100):\n"
        "        with open(f'/tmp/{number}', 'wb') as file:\n"
        "            size += file.write(bytes(1 << 20))\n"
        "except OSError as error:\n"
        "    print(error.strerror, size >> 20)\n"
        "import os\n"
        "for number in range(100):\n"
        "    if os.path.exists(f'/tmp/{number}'): os.unlink(f'/tmp/{number}')"
    )
    assert re.fullmatch(r"No space left on device [4-8]\n", printed), printed
    assert grader.verdict(
        "import os\nos.posix_fallocate(os.open('/tmp/x', os.O_RDWR | os.O_CREAT), 0, 7 << 20)\n" + HONEST
    )


def test_many_small_files_are_counted_too(grader: Grader) -> None:
    printed = grader.printed("for number in range(10**6):\n    open(f'/tmp/{number}', 'w').close()")
    assert "No space left" in printed
    assert grader.verdict(HONEST).passed


def test_memory_that_is_filled_is_named(grader: Grader) -> None:
    code = "def double(number):\n    kept = []\n    while True:\n        kept.append(bytes(1 << 24))"
    assert "MemoryError" in grader.verdict(code).tests[0].message


@pytest.mark.root
def test_memory_that_no_process_has_mapped_is_counted_and_named(tmp_path: Any) -> None:
    code = (
        "import os\ndef double(number):\n    while True:\n        file = os.memfd_create('more')\n"
        "        for _ in range(4):\n            os.write(file, b'x' * (1 << 20))"
    )
    with contextlib.closing(make_grader(str(tmp_path), Limits(seconds=20, memory=256 << 20))) as graders:
        grader = next(graders)
        verdict = grader.verdict(code)
        assert verdict.earned == 0
        assert "more than 256 MiB" in verdict.tests[0].message, verdict
        assert grader.verdict(HONEST).passed


def test_there_is_no_network_and_nobody_of_the_host_to_be_reached(grader: Grader) -> None:
    with socket.socket() as open_port, socket.socket(socket.AF_UNIX) as abstract:
        open_port.bind(("127.0.0.1", 0))
        open_port.listen()
        name = f"minidocker-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        printed = grader.printed(
            "import socket\n"
            f"for family, address in ((socket.AF_INET, ('127.0.0.1', {open_port.getsockname()[1]})),\n"
            "                        (socket.AF_INET, ('192.0.2.1', 80)), (socket.AF_INET6, ('2001:db8::1', 80)),\n"
            f"                        (socket.AF_UNIX, chr(0) + {name!r})):\n"
            "    try:\n"
            "        socket.socket(family).connect(address)\n"
            "        print('reached')\n"
            "    except OSError as error:\n"
            "        print(error.strerror)\n"
            "print([name for _, name in socket.if_nameindex()])"
        )
    lines = printed.splitlines()
    assert lines[0] == lines[3] == "Connection refused"
    assert lines[1:3] == ["Network is unreachable"] * 2 and "'eth0'" not in lines[4]


ENDLESS = {
    "a loop": "while True: pass",
    "a sleep": "import time\ntime.sleep(1000)",
    "without SIGTERM": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    "that stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "that stops its keeper": "import os, signal\nos.kill(1, signal.SIGSTOP)\nwhile True: pass",
    "an answer without end": "import os\ndef double(number):\n"
    "    while True:\n        os.write(3, b'\\0\\0\\1\\0' + b' ' * 256)",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_code_without_an_end_is_given_up(tmp_path_factory: Any, grader: Grader, name: str) -> None:
    began = time.monotonic()
    verdict = grader.verdict(ENDLESS[name])
    assert verdict.earned == 0 and time.monotonic() - began < 60
    assert "did not answer within 5 seconds" in verdict.tests[0].message or name.startswith("an answer")
    assert grader.verdict(HONEST).passed


def test_huge_output_is_cut_and_hurts_only_its_author(grader: Grader) -> None:
    verdict = grader.verdict(
        "def double(number):\n    for _ in range(1000):\n        print('x' * 10**6)\n    return 2 * number"
    )
    assert len(verdict.printed) < 5000 and "No space left" in verdict.tests[0].message
    assert grader.printed("print('still here')") == "still here\n"


def test_descriptors_are_counted(grader: Grader) -> None:
    printed = grader.printed(
        "import os\n"
        "kept = []\n"
        "try:\n"
        "    while True:\n"
        "        kept.append(os.open('/', 0))\n"
        "except OSError as error:\n"
        "    print(error.strerror, len(kept))\n"
        "for fd in kept: os.close(fd)"
    )
    assert printed.startswith("Too many open files") and int(printed.split()[-1]) <= SMALL.descriptors


# Where a test runs functions in namespaces of their own, more calls are allowed, and no more is to be had.


def test_namespaces_within_the_box_show_nothing_more(grader: Grader) -> None:
    code = (
        "import ctypes, os, errno\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def said(result): print(result and errno.errorcode[ctypes.get_errno()])\n"
        "def double(number):\n"
        "    said(libc.umount2(b'/proc', 2))\n"
        "    said(libc.umount2(b'/usr', 2))\n"
        "    said(libc.mount(None, b'/usr', None, 32 | 4096, None))\n"
        "    said(libc.mount(b'/dev/vda', b'/tmp', b'ext4', 0, None))\n"
        "    said(libc.ptrace(16, 1, 0, 0))\n"
        "    said(libc.mount(b'proc', b'/proc', b'proc', 0, None))\n"
        "    print(len([name for name in os.listdir('/proc') if name.isdigit()]))\n"
        "    return 2 * number\n"
    )
    verdict = grader.verdict(code, section="03_third", exercise="inner")
    assert verdict.passed, verdict
    lines = verdict.printed.splitlines()
    assert lines[:2] == ["EINVAL", "EINVAL"] and lines[2] == "EPERM", verdict.printed
    assert lines[3] in ("ENOENT", "EPERM", "EACCES", "ENOTBLK") and lines[4] == "EPERM" and lines[5] == "0"
    assert lines[6] == "1"


def test_a_function_is_not_run_in_another_process_than_the_boxs_own(grader: Grader) -> None:
    code = (
        "from minidocker.course import children\n"
        "children.hold.__code__ = (lambda *args: (1, 1, '[\"return\", 2]')).__code__\n" + HONEST
    )
    verdict = grader.verdict(code, section="03_third", exercise="inner")
    assert verdict.earned in (0, 2) and grader.verdict(HONEST).passed
