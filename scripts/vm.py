"""Test minidocker in a small virtual machine, where control groups are of version 2: what `make test-vm` does.

    vm.py                      the tests, on a bare kernel and under systemd at once
    vm.py plain|systemd WORDS  one of both; WORDS are pytest's
    vm.py shell plain|systemd  a shell on the machine's console; `exit` ends the machine

The processor is emulated (no KVM is needed), which makes everything some ten times slower than here.
"""

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import vm_image
from prepare import SetUpError, install_packages, say

MODES = {
    "plain": "tests/test_limits.py tests/vm/plain.py",
    "systemd": "tests/test_limits.py tests/vm/systemd.py tests/vm/ordinary_user.py",
}
COMMAND = "MINIDOCKER_VM={} python3 -m pytest -v -rs --color=no --tb=short -o timeout=600 {}"
HOST_PACKAGES = ("qemu-system-x86", "debootstrap", "e2fsprogs")
LIMIT = int(os.environ.get("MINIDOCKER_VM_SECONDS", "2400"))
# The kernel says only what is serious, so that the tests can be read; an end of the machine is an end of qemu.
KERNEL_LINE = "console=ttyS0 quiet loglevel=3 panic=-1 systemd.show_status=false mode={}"


class Outcome(NamedTuple):
    """How the tests of one machine ended: exit code (124 for out of time), pytest's last line, seconds to the start."""

    code: int
    summary: str
    boot: float


def main(words: list[str]) -> int:
    """Carry out the command line; return its exit code."""
    if os.geteuid() != 0:
        raise SetUpError("the machine's disks are made by root: run this as root")
    install_packages(HOST_PACKAGES)
    if words[:1] == ["shell"]:
        return shell((words[1:] or ["plain"])[0])
    chosen = [words[0]] if words else list(MODES)
    tests = {mode: shlex.join(words[1:]) or MODES[mode] for mode in chosen}
    machines = {mode: vm_image.machine(mode, COMMAND.format(mode, tests[mode])) for mode in chosen}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as ctrl-c: the machines end with us
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as booted:
        guests = {mode: booted.enter_context(boot(machine, mode)) for mode, machine in machines.items()}
        outcomes = list(threads.map(follow, guests.values(), guests))
    print()
    for mode, outcome in zip(machines, outcomes, strict=True):
        print(f"vm {mode:<8} {outcome.summary}  (up after {outcome.boot:.0f} s; console: {log_path(mode)})")
    return max(outcome.code for outcome in outcomes)


@contextlib.contextmanager
def boot(machine: vm_image.Machine, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a machine whose console can be read; it ends with the block."""
    say("vm", f"booting {mode}")
    argv = [*qemu(machine, mode), "-serial", "stdio"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as guest:
        try:
            yield guest
        finally:
            guest.kill()


def follow(guest: subprocess.Popen[bytes], mode: str) -> Outcome:
    """Show what a machine's tests say as they say it, and return how they ended."""
    started, up, summary, code = time.monotonic(), 0.0, "", -1
    try:
        for line in console(guest, log_path(mode), started + LIMIT):
            if line == "vm: ready":
                up = time.monotonic() - started
            elif ended := re.fullmatch(r"vm: ended with (\d+)", line):
                code = int(ended[1])
            elif up and code < 0 and line:
                print(f"  {mode:<8} {line}", flush=True)
                summary = line.strip("= ") if re.match(r"=+ .* in [\d.]+s", line) else summary
    except TimeoutError:
        return Outcome(124, f"not done after {LIMIT} s (MINIDOCKER_VM_SECONDS)", up)
    if code < 0:
        return Outcome(125, "the machine ended before the tests did", up)
    return Outcome(code, summary or f"exit code {code}", up)


def console(guest: subprocess.Popen[bytes], log: str, deadline: float) -> Iterator[str]:
    """Yield the lines of the guest's serial console, without ends and colours, and write them to a file.

    Raises: TimeoutError when the deadline comes before the end.
    """
    output, pending = guest.stdout.fileno() if guest.stdout else -1, b""
    with open(log, "wb") as file:
        while True:
            if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            data = os.read(output, 65536)
            if not data:
                return
            file.write(data)
            file.flush()
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                yield (
                    re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line.decode(errors="replace")).rstrip("\r").rpartition("\r")[2]
                )


def shell(mode: str) -> int:
    """Boot a machine with a shell on this terminal."""
    machine = vm_image.machine(mode, "setsid -c sh -i")
    terminal = ["-chardev", "stdio,id=terminal,signal=off", "-serial", "chardev:terminal"]  # ctrl-c is the guest's
    return subprocess.run([*qemu(machine, mode), *terminal], check=False).returncode


def qemu(machine: vm_image.Machine, mode: str) -> list[str]:
    """Return the emulator's command line: one processor, 2 GB, a card; the disks are left as they are.

    With one processor each, two machines use two processors better than one machine does. The card needs no privilege:
    qemu asks on the network for the machine, which has 10.0.2.15 and finds name servers at 10.0.2.3.
    """
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "2048"]
    argv += ["-nodefaults", "-no-reboot", "-display", "none", "-nic", "user,model=virtio"]
    for disk in machine.disks:
        argv += ["-drive", f"file={disk},format=raw,if=virtio,snapshot=on,cache=unsafe"]
    return [*argv, "-kernel", machine.kernel, "-initrd", machine.initramfs, "-append", KERNEL_LINE.format(mode)]


def log_path(mode: str) -> str:
    """Return where the console of a mode's last machine is written to."""
    return f"{vm_image.CACHE}/console.{mode}"


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] not in (*MODES, "shell"):
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1:]))
    except SetUpError as problem:
        sys.exit(f"vm: {problem}")
    except KeyboardInterrupt:
        sys.exit("\nvm: interrupted; what was made is kept")
