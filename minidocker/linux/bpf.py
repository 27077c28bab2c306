"""Which device nodes a cgroup of version 2 may use: a small program that the kernel asks at each open and mknod.

Version 1 has files for that, `devices.allow` and `devices.deny`; version 2 has only programs. Ours is made of the same
rules, one after the other: `c 1:3 rwm` lets character device 1:3 be read, written and made.

See: bpf(2); the kernel's admin-guide/cgroup-v2.rst, "Device controller"; `struct bpf_cgroup_dev_ctx` in linux/bpf.h.
"""

import ctypes
import os
import struct
from collections.abc import Iterable

from minidocker import explain
from minidocker.linux import syscalls

_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2  # programs of the cgroups above are asked as well: all must agree

_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}

# Operations, as the kernel's bpf/standardization/instruction-set.rst numbers them.
_LOAD, _AND, _SHIFT_RIGHT, _COPY, _SET, _JUMP_UNLESS, _EXIT = 0x61, 0x54, 0x74, 0xBC, 0xB7, 0x55, 0x95
# Registers: what is returned, the context we are called with, then what we keep.
_RESULT, _CONTEXT, _WANTED, _KIND, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5


def device_program(rules: Iterable[str]) -> bytes:
    """Translate rules such as `c 136:* rwm` into a program: 1 for what one of them allows, 0 for all else. Pure."""
    program = _instruction(_LOAD, _WANTED, _CONTEXT, 0)
    program += _instruction(_COPY, _KIND, _WANTED) + _instruction(_AND, _KIND, value=0xFFFF)  # the lower half
    program += _instruction(_SHIFT_RIGHT, _WANTED, value=16)  # the upper half: what is to be done with it
    program += _instruction(_LOAD, _MAJOR, _CONTEXT, 4) + _instruction(_LOAD, _MINOR, _CONTEXT, 8)
    for rule in rules:
        program += _allow(rule)
    return program + _answer(0)


def _allow(rule: str) -> bytes:
    """Return the instructions that say yes to what one rule allows, and go on to the next rule otherwise."""
    kind, numbers, letters = rule.split()
    major, _, minor = numbers.partition(":")
    others = 7 & ~sum(_ACCESS[letter] for letter in letters)
    tests = [(_KIND, _KINDS[kind]), (_RESULT, 0)]
    tests += [(register, int(number)) for register, number in ((_MAJOR, major), (_MINOR, minor)) if number != "*"]
    # What is wanted beyond the rule's letters must be nothing.
    prepare = _instruction(_COPY, _RESULT, _WANTED) + _instruction(_AND, _RESULT, value=others)
    after = _answer(1)
    for register, value in reversed(tests):
        after = _instruction(_JUMP_UNLESS, register, skip=len(after) // 8, value=value) + after
    return prepare + after


def _answer(value: int) -> bytes:
    return _instruction(_SET, _RESULT, value=value) + _instruction(_EXIT)


def _instruction(operation: int, to: int = 0, source: int = 0, skip: int = 0, value: int = 0) -> bytes:
    """Return one instruction: eight bytes."""
    return struct.pack("=BBhI", operation, to | source << 4, skip, value)


def limit_devices(cgroup: str, rules: Iterable[str]) -> None:
    """Let the processes in `cgroup` use only the devices that `rules` name. It holds until the cgroup is removed.

    Raises: OSError where the kernel does not take the program.
    """
    program = device_program(rules)
    text, licence = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(b"none")
    call = f"bpf(BPF_PROG_LOAD, BPF_PROG_TYPE_CGROUP_DEVICE, {len(program) // 8} instructions)"
    explain.step(call, "bpftool prog load devices.o /sys/fs/bpf/devices")
    attributes = struct.pack(
        "=IIQQ104x",  # what follows is not used: no log, no name
        *(_TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(text), ctypes.addressof(licence)),
    )
    loaded = syscalls.bpf(_PROG_LOAD, attributes, call)
    folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call = f"bpf(BPF_PROG_ATTACH, {cgroup}, BPF_CGROUP_DEVICE)"
        explain.step(call, f"bpftool cgroup attach {cgroup} device pinned /sys/fs/bpf/devices multi")
        syscalls.bpf(_PROG_ATTACH, struct.pack("=IIII112x", folder, loaded, _CGROUP_DEVICE, _ALLOW_MULTI), call)
    finally:
        os.close(folder)
        os.close(loaded)
