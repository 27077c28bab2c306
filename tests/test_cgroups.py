"""What is said to the kernel and to systemd about control groups, without saying it: programs and messages.

Needs no root; that both are understood is seen in tests/test_limits.py, on real machines.
"""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minidocker.container import systemd
from minidocker.container.cgroups import DEVICE_RULES
from minidocker.errors import StartError
from minidocker.linux import bpf

BLOCK, CHARACTER = 1, 2
MAKE, READ, WRITE = 1, 2, 4


def run(program: bytes, kind: int, wanted: int, major: int, minor: int) -> int:
    """Carry out a device program as the kernel would: the few instructions that ours are made of."""
    instructions = [struct.unpack_from("=BBhi", program, at) for at in range(0, len(program), 8)]
    context = struct.pack("=III", wanted << 16 | kind, major, minor)
    registers, at = [0] * 11, 0
    while True:
        operation, names, skip, value = instructions[at]
        to, source, at = names & 15, names >> 4, at + 1
        match operation:
            case 0x61:
                registers[to] = struct.unpack_from("=I", context, skip)[0]
            case 0xBC:
                registers[to] = registers[source]
            case 0x54:
                registers[to] &= value
            case 0x74:
                registers[to] >>= value
            case 0xB7:
                registers[to] = value
            case 0x55:
                at += skip if registers[to] != value else 0
            case 0x95:
                return registers[0]
            case _:
                pytest.fail(f"operation {operation:#x}")


@pytest.mark.parametrize(
    ("kind", "wanted", "major", "minor", "allowed"),
    [
        (CHARACTER, READ, 1, 3, True),  # null
        (CHARACTER, READ | WRITE, 1, 3, True),
        (CHARACTER, READ, 1, 11, False),  # the kernel's log
        (CHARACTER, MAKE, 1, 11, True),  # made, not opened
        (CHARACTER, MAKE | READ, 1, 11, False),
        (BLOCK, MAKE, 254, 0, True),
        (BLOCK, READ, 254, 0, False),
        (BLOCK, READ, 1, 3, False),  # null's numbers, but a disk
        (CHARACTER, READ | WRITE, 136, 0, True),  # pts
        (CHARACTER, READ | WRITE, 136, 4095, True),
        (CHARACTER, READ, 137, 0, False),
        (CHARACTER, READ, 10, 200, False),
    ],
)
def test_the_device_program(kind: int, wanted: int, major: int, minor: int, allowed: bool) -> None:
    assert run(bpf.device_program(DEVICE_RULES), kind, wanted, major, minor) == allowed


def test_a_program_without_rules_allows_nothing() -> None:
    assert not any(run(bpf.device_program(()), kind, READ, 1, 3) for kind in (BLOCK, CHARACTER))


def test_a_rule_allows_its_letters_only() -> None:
    program = bpf.device_program(["b 8:1 r"])
    assert [run(program, BLOCK, wanted, 8, 1) for wanted in range(1, 8)] == [0, 1, 0, 0, 0, 0, 0]


def test_a_message_to_systemd() -> None:
    """As the D-Bus specification lays it out: header, its fields, padding to eight, body."""
    sent = systemd.message("Do", "sau(sv)", ["ab", [1, 2], ("n", ("b", True))])
    assert sent[:4] == b"l\1\0\1"
    body_size, serial, fields_size = struct.unpack_from("<III", sent, 4)
    body = sent[16 + fields_size + -fields_size % 8 :]
    assert (len(body), serial) == (body_size, 1)
    text = b"\2\0\0\0ab\0" + b"\0" + struct.pack("<III", 8, 1, 2)
    assert body == text + bytes(4) + b"\1\0\0\0n\0" + b"\1b\0" + bytes(3) + b"\1\0\0\0"
    assert b"\6\1s\0\x18\0\0\0org.freedesktop.systemd1\0" in sent


@pytest.mark.parametrize(("signature", "first"), [("s", "s"), ("a(sv)au", "a(sv)"), ("(s(uu)v)s", "(s(uu)v)")])
def test_types(signature: str, first: str) -> None:
    assert systemd._first_type(signature) == first


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """Return a factory of sockets that answer as systemd might."""
    threads: list[threading.Thread] = []

    def serve(answer: bytes) -> str:
        server = socket.socket(socket.AF_UNIX)
        path = f"{tmp_path}/{len(threads)}"
        server.bind(path)
        server.listen()

        def answer_once() -> None:
            with server, server.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)

        threads.append(threading.Thread(target=answer_once))
        threads[-1].start()
        return path

    yield serve
    for thread in threads:
        thread.join()


def reply(kind: int, body: bytes) -> bytes:
    return b"DATA\r\nOK 0123\r\n" + struct.pack("<4BIII", 108, kind, 0, 1, len(body), 7, 3) + b"abc".ljust(8) + body


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"REJECTED\r\n", "does not let us in: REJECTED"),
        (b"", "does not let us in"),
        (b"DATA\r\nOK 0123\r\n", "without an answer"),
        (reply(3, struct.pack("<I", 4) + b"Unit\0"), "systemd refused: Unit"),
        (reply(3, b""), "systemd refused"),
        (
            reply(4, b"a signal first") + reply(3, struct.pack("<I", 2) + b"no\0").partition(b"0123\r\n")[2],
            "refused: no",
        ),
    ],
)
def test_systemd_says_no(listener: Callable[[bytes], str], answer: bytes, complaint: str) -> None:
    with pytest.raises(StartError, match=complaint):
        systemd.enter_scope(listener(answer), "x.scope", "X")


def test_a_yes_that_is_not_kept(listener: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_PATIENCE", 0.2)
    with pytest.raises(StartError, match=r"did not start x\.scope"):
        systemd.enter_scope(listener(reply(2, b"")), "x.scope", "X")


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        systemd.enter_scope(f"{tmp_path}/none", "x.scope", "X")
    assert os.listdir(tmp_path) == []
