"""Seccomp profiles: read, resolved, compiled, kept, loaded; and the default one beside docker's."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from typing import Any

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seccompkit
from minidocker.cli import run_options
from minidocker.client import keywords
from minidocker.container import seccomp_compile, seccomp_profile, seccomp_program
from minidocker.container.options import parse_security
from minidocker.container.seccomp_profile import ALLOW, ERRNO, Condition, Filter, Host, Rule
from minidocker.container.spec import SECCOMP_DEFAULT, SECCOMP_UNCONFINED
from minidocker.errors import InvalidArgument, StartError
from minidocker.linux import capabilities, seccomp
from seccompkit import HOST, interpret, number_of

EPERM = ERRNO | errno.EPERM
ENOSYS = ERRNO | errno.ENOSYS
KILL = 0


def profile(*calls: dict[str, Any], action: str = "SCMP_ACT_ERRNO", **more: Any) -> str:
    return json.dumps({"defaultAction": action, "syscalls": list(calls), **more})


def allow(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def resolve(text: str, *caps: str, host: Host = HOST) -> Filter:
    return seccomp_profile.resolve(text, caps, host)


def resolved_names(text: str, *caps: str, host: Host = HOST) -> list[str]:
    return [rule.name for rule in resolve(text, *caps, host=host).rules]


# Reading and resolving


def test_each_name_becomes_a_rule() -> None:
    found = resolve(profile(allow("read", "write"), {"name": "mkdir", "action": "SCMP_ACT_KILL"}))
    assert found == Filter(EPERM, (), (Rule("read", ALLOW), Rule("write", ALLOW), Rule("mkdir", KILL)))


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x80000000),
        ("SCMP_ACT_TRAP", 0x00030000),
        ("SCMP_ACT_ERRNO", 0x00050001),
        ("SCMP_ACT_TRACE", 0x7FF00001),
        ("SCMP_ACT_LOG", 0x7FFC0000),
    ],
)
def test_actions_are_what_the_kernel_takes(action: str, value: int) -> None:
    (rule,) = resolve(profile({"names": ["read"], "action": action}, action="SCMP_ACT_ALLOW")).rules
    assert rule.action == value
    assert resolve(profile(action=action)).action == value


def test_errno_is_eperm_where_none_is_named() -> None:
    text = profile({"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}, defaultErrnoRet=13)
    assert resolve(text) == Filter(ERRNO | 13, (), (Rule("a", ENOSYS),))
    # It means nothing to the other actions.
    assert resolve(profile({"names": ["a"], "action": "SCMP_ACT_KILL", "errnoRet": 38})).rules == (Rule("a", KILL),)


def test_a_rule_that_does_what_is_done_anyway_is_left_out() -> None:
    assert resolve(profile({"names": ["a"], "action": "SCMP_ACT_ERRNO"})).rules == ()
    assert resolve(profile({"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2})).rules == (
        Rule("a", ERRNO | 2),
    )


def test_conditions_on_different_arguments_hold_together() -> None:
    args = [
        {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0xF0, "valueTwo": 0x10},
        {"index": 5, "op": "SCMP_CMP_GE", "value": 2**64 - 1},
    ]
    (rule,) = resolve(profile(allow("read", args=args))).rules
    assert rule.conditions == (Condition(0, "MASKED_EQ", 0xF0, 0x10), Condition(5, "GE", 2**64 - 1))


def test_one_argument_compared_twice_makes_rules_of_their_own() -> None:
    args = [{"index": index, "op": "SCMP_CMP_EQ", "value": value} for index, value in ((0, 5), (0, 7), (1, 9))]
    rules = resolve(profile(allow("read", args=args))).rules
    assert [rule.conditions for rule in rules] == [
        (Condition(0, "EQ", 5),),
        (Condition(0, "EQ", 7),),
        (Condition(1, "EQ", 9),),
    ]


def test_architectures() -> None:
    assert resolve(profile(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])).architectures == ("X86",)
    mapped = [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_S390X", "subArchitectures": None},
    ]
    assert resolve(profile(archMap=mapped)).architectures == ("X86", "X32")
    assert resolve(profile(archMap=mapped), host=Host("aarch64", (6, 1))).architectures == ("ARM",)
    assert resolve(profile(archMap=mapped), host=Host("riscv64", (6, 1))).architectures == ()


def test_names_are_compared_as_docker_compares_them() -> None:
    text = json.dumps(
        {"DefaultAction": "SCMP_ACT_ERRNO", "Syscalls": [allow("mount", Includes={"CAPS": ["CAP_SYS_ADMIN"]})]}
    )
    assert resolved_names(text) == []
    assert resolved_names(text, "SYS_ADMIN") == ["mount"]


def test_an_oci_configuration_holds_a_profile() -> None:
    inner = json.loads(profile(allow("read"), architectures=["SCMP_ARCH_X86_64"], flags=["SECCOMP_FILTER_FLAG_LOG"]))
    assert resolved_names(json.dumps({"ociVersion": "1.0.2", "linux": {"seccomp": inner}})) == ["read"]
    assert resolved_names(json.dumps(inner)) == ["read"]


def test_what_is_not_known_is_passed_over() -> None:
    text = profile(allow("read", comment="reading", whatever=1), comment="a profile", syscallsToCome=None)
    assert resolved_names(text) == ["read"]
    assert resolved_names('{"defaultAction": "SCMP_ACT_LOG", "syscalls": null, "archMap": null}') == []
    assert resolved_names(profile(allow("read", args=None, includes=None, excludes={}))) == ["read"]


@pytest.mark.parametrize(
    ("includes", "excludes", "caps", "kept"),
    [
        ({"caps": ["CAP_SYS_ADMIN"]}, {}, (), False),
        ({"caps": ["CAP_SYS_ADMIN"]}, {}, ("SYS_ADMIN",), True),
        ({"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}, {}, ("BPF",), False),  # all of them
        ({"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}, {}, ("BPF", "SYS_ADMIN"), True),
        ({}, {"caps": ["CAP_SYS_ADMIN"]}, (), True),
        ({}, {"caps": ["CAP_SYS_ADMIN"]}, ("SYS_ADMIN",), False),
        ({}, {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}, ("BPF",), False),  # any of them
        ({"arches": ["amd64", "x32"]}, {}, (), True),
        ({"arches": ["arm64"]}, {}, (), False),
        ({}, {"arches": ["amd64"]}, (), False),
        ({}, {"arches": ["s390", "s390x"]}, (), True),
        ({"minKernel": "4.8"}, {}, (), True),
        ({"minKernel": "6.1"}, {}, (), True),
        ({"minKernel": "6.2"}, {}, (), False),
        ({"minKernel": "10.0"}, {}, (), False),
        ({}, {"minKernel": "4.8"}, (), False),
        ({"minKernel": "4.8", "caps": ["CAP_BPF"]}, {}, (), False),
        ({"caps": ["CAP_BPF"]}, {"arches": ["amd64"]}, ("BPF",), False),
    ],
)
def test_who_an_entry_is_for(includes: Any, excludes: Any, caps: tuple[str, ...], kept: bool) -> None:
    text = profile(allow("mount", includes=includes, excludes=excludes))
    assert resolved_names(text, *caps) == (["mount"] if kept else [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("x", "Expecting value"),
        ("[]", "expected an object and found []"),
        ("null", "string  is not a valid action"),
        ("7", "expected an object and found 7"),
        ("{}", "string  is not a valid action"),  # docker takes this one, and filters nothing
        ('{"linux": {}}', "string  is not a valid action"),
        ('{"linux": {"seccomp": {}}}', "string  is not a valid action"),
        ('{"linux": 5, "defaultAction": "SCMP_ACT_ALLOW"}', "expected an object and found 5"),
        ('{"defaultAction": "SCMP_ACT_ALLOW"} more', "Extra data"),
        ("[" * 100_000, "recursion"),
        (profile(action="SCMP_ACT_MAYBE"), "string SCMP_ACT_MAYBE is not a valid action for seccomp"),
        (profile(action="ALLOW"), "string ALLOW is not a valid action for seccomp"),
        (profile(defaultAction=["SCMP_ACT_ALLOW"]), "is not a valid action"),
        (profile(action="SCMP_ACT_NOTIFY"), "SCMP_ACT_NOTIFY needs somebody who listens"),
        (profile({"names": ["a"], "action": "DENY"}), "string DENY is not a valid action for seccomp"),
        (profile({"names": ["a"]}), "string  is not a valid action for seccomp"),
        (profile(allow("a", includes={"caps": ["CAP_BPF"]}, errnoRet="x")), 'errnoret is "x"'),
        (profile({"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}), "errnoret is 4096"),
        (profile({"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1}), "errnoret is -1"),
        (profile(defaultErrnoRet=1.5), "defaulterrnoret is 1.5"),
        (profile(allow("a", name="b")), "'name' and 'names' were specified, use either 'name' or 'names'"),
        (profile(syscalls="all"), "syscalls is not a list of objects"),
        (profile(syscalls=["read"]), "syscalls is not a list of objects"),
        (profile({"names": "read", "action": "SCMP_ACT_ALLOW"}), "names is not a list of strings"),
        (profile({"names": [7], "action": "SCMP_ACT_ALLOW"}), "names is not a list of strings"),
        (profile(allow("a", args=[{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}])), "index is 6"),
        (profile(allow("a", args=[{"op": "SCMP_CMP_EQ", "value": 1}])), "index is null"),
        (profile(allow("a", args=[{"index": True, "op": "SCMP_CMP_EQ", "value": 1}])), "index is true"),
        (profile(allow("a", args=[{"index": 0, "op": "SCMP_CMP_ISH", "value": 1}])), "string SCMP_CMP_ISH is not a"),
        (profile(allow("a", args=[{"index": 0, "op": "EQ", "value": 1}])), "string EQ is not a valid operator"),
        (profile(allow("a", args=[{"index": 0, "value": 1}])), "string  is not a valid operator"),
        (profile(allow("a", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}])), "value is -1"),
        (
            profile(allow("a", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": 2**64}])),
            "value is 18446744073709551616",
        ),
        (profile(allow("a", args={"index": 0})), "args is not a list of objects"),
        (profile(architectures=["SCMP_ARCH_Z80"]), "string SCMP_ARCH_Z80 is not a valid arch for seccomp"),
        (profile(architectures=["X86"]), "string X86 is not a valid arch for seccomp"),
        (profile(archMap=[{"subArchitectures": []}]), "string None is not a valid arch"),
        (
            profile(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "SCMP_ARCH_X86"}]),
            "use either 'architectures' or 'archMap'",
        ),
        (profile(allow("a", includes={"minKernel": "new"})), 'invalid kernel version: "new"'),
        (profile(allow("a", includes={"minKernel": "4"})), 'invalid kernel version: "4"'),
        (profile(allow("a", excludes={"minKernel": 4.8})), None),
        (profile(allow("a", includes=["CAP_BPF"])), "expected an object"),
        (profile(allow("a", includes={"caps": "CAP_BPF"})), "caps is not a list of strings"),
        # What is wrong is found in what does not concern this container, too.
        (profile(allow("a", includes={"caps": ["CAP_BPF"]}, args=[{"index": 9}])), "is not a valid operator"),
    ],
)
def test_bad_profiles(text: str, message: str | None) -> None:
    if message is None:
        resolve(text)
        return
    with pytest.raises(InvalidArgument, match="invalid seccomp profile: ") as raised:
        resolve(text)
    assert message in str(raised.value)


def test_a_machine_that_nobody_knows() -> None:
    with pytest.raises(InvalidArgument, match="not known what seccomp calls the machine pdp11"):
        resolve(profile(archMap=[{"architecture": "SCMP_ARCH_X86"}]), host=Host("pdp11", (6, 1)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(sorted(seccomp_profile._ACTIONS)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["names", "name", "action", "args", "index", "op", "value", "caps", "includes", "excludes"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(syscalls=json_values, rest=st.dictionaries(st.sampled_from(["archMap", "architectures", "linux"]), json_values))
def test_any_json_is_resolved_or_refused(syscalls: Any, rest: dict[str, Any]) -> None:
    try:
        resolve(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls, **rest}))
    except InvalidArgument as error:
        assert str(error)


# Compiling


def compiled(text: str, *caps: str) -> bytes:
    return seccomp_compile.compile(resolve(text, *caps))


def says(program: bytes, name: str, *arguments: int, architecture: str = "x86_64") -> int:
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    return interpret(program, number_of(name, architecture), architecture, padded)


def test_a_compiled_profile_says_what_its_rules_say() -> None:
    program = compiled(profile(allow("read"), {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}))
    assert says(program, "read") == ALLOW
    assert says(program, "write") == ERRNO | 5
    assert says(program, "mount") == ENOSYS  # above the last number named: newer, so far as this profile knows
    assert says(program, "read", architecture="x86") == KILL
    assert says(program, "read", architecture="x32") == KILL


OPERATIONS = {
    "NE": lambda argument, value, two: argument != value,
    "LT": lambda argument, value, two: argument < value,
    "LE": lambda argument, value, two: argument <= value,
    "EQ": lambda argument, value, two: argument == value,
    "GE": lambda argument, value, two: argument >= value,
    "GT": lambda argument, value, two: argument > value,
    "MASKED_EQ": lambda argument, value, two: argument & value == two & value,
}
numbers = st.sampled_from([0, 1, 2, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


@settings(max_examples=200, deadline=None)
@given(
    operator=st.sampled_from(sorted(OPERATIONS)), index=st.integers(0, 5), value=numbers, two=numbers, argument=numbers
)
def test_every_comparison(operator: str, index: int, value: int, two: int, argument: int) -> None:
    wanted = Filter(ALLOW, (), (Rule("read", EPERM, (Condition(index, operator, value, two),)),))
    arguments = [0] * 6
    arguments[index] = argument
    found = says(seccomp_compile.compile(wanted), "read", *arguments)
    assert found == (EPERM if OPERATIONS[operator](argument, value, two) else ALLOW)


def test_names_that_nobody_knows_are_passed_over_as_docker_does() -> None:
    program = compiled(profile(allow("nosuchcall", "read", "s390_pci_mmio_read", "", "read\x00write")))
    assert says(program, "read") == ALLOW


def test_newer_calls_do_not_exist_where_calls_are_refused() -> None:
    text = profile(allow("read", "openat"), architectures=["SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    for architecture in ("x86_64", "x86", "x32"):
        assert says(compiled(text), "openat", architecture=architecture) == ALLOW
        assert says(compiled(text), "futex_waitv", architecture=architecture) == ENOSYS
        assert says(compiled(text), "mkdir", architecture=architecture) == EPERM
    for action, expected in (("KILL_PROCESS", ENOSYS), ("ALLOW", ALLOW), ("LOG", 0x7FFC0000), ("TRACE", 0x7FF00001)):
        program = compiled(profile({"names": ["read"], "action": "SCMP_ACT_TRAP"}, action=f"SCMP_ACT_{action}"))
        assert says(program, "futex_waitv") == expected
        assert says(program, "read") == 0x00030000


def test_what_libseccomp_cannot_express_is_refused() -> None:
    same = Rule("read", ERRNO | 5, (Condition(0, "EQ", 1), Condition(0, "EQ", 2)))
    with pytest.raises(InvalidArgument, match="invalid seccomp profile: read: "):
        seccomp_compile.compile(Filter(ALLOW, (), (same,)))


def test_without_libseccomp_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(StartError, match=r"libseccomp is missing: install .* or run .* seccomp=unconfined"):
        compiled(profile())


# Keeping


def test_a_program_is_compiled_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = profile(allow("read"))
    first = seccomp_program.program(str(tmp_path), text, ())
    assert first == compiled(text)
    (kept,) = os.listdir(tmp_path / "seccomp")
    assert kept.endswith(".bpf")
    monkeypatch.setattr(seccomp_compile, "compile", lambda wanted: pytest.fail("compiled again"))
    assert seccomp_program.program(str(tmp_path), text, ()) == first
    with pytest.raises(pytest.fail.Exception, match="compiled again"):
        seccomp_program.program(str(tmp_path), text, ("SYS_ADMIN",))
    with pytest.raises(pytest.fail.Exception, match="compiled again"):
        seccomp_program.program(str(tmp_path), text + " ", ())


def test_another_profile_with_the_same_checksum_is_another(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zlib, "crc32", lambda data: 7)
    one, two = profile(allow("read")), profile(allow("write"))
    first = seccomp_program.program(str(tmp_path), one, ())
    assert seccomp_program.program(str(tmp_path), two, ()) == compiled(two) != first
    assert seccomp_program.program(str(tmp_path), one, ()) == first
    assert len(os.listdir(tmp_path / "seccomp")) == 1


@pytest.mark.parametrize("damage", [b"", b"x", b"x" * 40, None])
def test_a_damaged_program_is_compiled_again(tmp_path: Any, damage: bytes | None) -> None:
    text = profile(allow("read"))
    first = seccomp_program.program(str(tmp_path), text, ())
    (kept,) = (tmp_path / "seccomp").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-8] if damage is None else damage)
    assert seccomp_program.program(str(tmp_path), text, ()) == first
    assert kept.read_bytes() == whole


def test_unconfined_needs_no_program(tmp_path: Any) -> None:
    assert seccomp_program.program(str(tmp_path), SECCOMP_UNCONFINED, ()) == b""
    assert os.listdir(tmp_path) == []


def test_a_kept_program_needs_neither_json_nor_libseccomp(tmp_path: Any) -> None:
    """What every start costs: the profile's digest and one small file."""
    seccomp_program.program(str(tmp_path), SECCOMP_DEFAULT, ("CHOWN",))
    code = (
        "import sys; from minidocker.container import seccomp_program as p;"
        f"assert len(p.program({str(tmp_path)!r}, 'default', ('CHOWN',))) > 1000; print('pyseccomp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Loading


@pytest.mark.parametrize("program", [b"", b"\6\0\0\0\0\0\0", b"\6\0\0\0\0\0\0\0\0", b"\0" * 8 * 4097])
def test_what_cannot_be_a_filter_is_not_loaded(program: bytes) -> None:
    with pytest.raises(
        OSError, match=r"prctl\(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, \d+ instructions\): EINVAL"
    ) as raised:
        seccomp.load(program)
    assert raised.value.errno == errno.EINVAL


@pytest.mark.root
@pytest.mark.parametrize("program", [b"\0" * 8, b"\5\0\0\0\7\0\0\0", b"\xff" * 8])
def test_the_kernel_checks_a_filter(program: bytes) -> None:
    """It does not end, it jumps beyond its end, it is no program at all."""
    with pytest.raises(OSError, match=r"prctl\(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 1 instructions\): EINVAL"):
        seccomp.load(program)


# The default profile


def default(*added: str) -> bytes:
    return seccomp_compile.compile(seccompkit.default_filter(capabilities.DEFAULT | set(added)))


@pytest.fixture(scope="module")
def default_program() -> bytes:
    return default()


@pytest.mark.parametrize("architecture", ["x86_64", "x86", "x32"])
@pytest.mark.parametrize(
    ("name", "arguments", "verdict"),
    [
        ("read", (), ALLOW),
        ("execve", (), ALLOW),
        ("ptrace", (), ALLOW),
        ("chroot", (), ALLOW),  # CAP_SYS_CHROOT is among docker's fourteen
        ("mount", (), EPERM),
        ("setns", (), EPERM),
        ("unshare", (), EPERM),
        ("keyctl", (), EPERM),
        ("add_key", (), EPERM),
        ("bpf", (), EPERM),
        ("perf_event_open", (), EPERM),
        ("userfaultfd", (), EPERM),
        ("open_by_handle_at", (), EPERM),
        ("init_module", (), EPERM),
        ("reboot", (), EPERM),
        ("io_uring_setup", (), EPERM),
        ("clone", (0x11,), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),  # a thread
        *[("clone", (flag,), EPERM) for flag in (1 << 17, *(1 << bit for bit in range(25, 31)))],
        ("clone3", (), ENOSYS),
        ("socket", (1,), ALLOW),
        ("socket", (2,), ALLOW),
        ("socket", (16,), ALLOW),
        ("socket", (38,), EPERM),
        ("socket", (39,), ALLOW),
        ("socket", (40,), EPERM),
        ("socket", (41,), ALLOW),
        *[("personality", (kind,), ALLOW) for kind in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)],
        *[("personality", (kind,), EPERM) for kind in (1, 4, 0x40000, 0x28)],
    ],
)
def test_the_default_profile(
    default_program: bytes, architecture: str, name: str, arguments: tuple[int, ...], verdict: int
) -> None:
    assert says(default_program, name, *arguments, architecture=architecture) == verdict


def test_the_default_profile_ends_a_call_of_another_machine(default_program: bytes) -> None:
    seccompkit.AUDIT["aarch64"] = (0xC00000B7, 0)
    assert interpret(default_program, 63, "aarch64", ()) == KILL


def test_what_a_capability_brings() -> None:
    plain = seccompkit.default_filter(capabilities.DEFAULT)
    for capability, calls in BROUGHT.items():
        added = seccompkit.default_filter(capabilities.DEFAULT | {capability})
        new = {rule.name for rule in added.rules if rule not in plain.rules}
        assert new == set(calls.split()), capability
    nothing = set(capabilities.NAMES) - BROUGHT.keys()
    for capability in nothing:
        assert seccompkit.default_filter(capabilities.DEFAULT | {capability}) == plain, capability


BROUGHT = {
    "SYS_ADMIN": "clone clone3 unshare setns mount umount umount2 mount_setattr move_mount open_tree fsopen fsconfig "
    "fsmount fspick sethostname setdomainname quotactl quotactl_fd fanotify_init lookup_dcookie bpf perf_event_open "
    "syslog lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
    "SYS_PTRACE": "process_madvise kcmp pidfd_getfd",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "SYS_MODULE": "init_module finit_module delete_module",
    "SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "SYS_NICE": "get_mempolicy set_mempolicy set_mempolicy_home_node mbind",
    "SYS_RAWIO": "iopl ioperm",
    "SYS_BOOT": "reboot",
    "SYS_PACCT": "acct",
    "SYS_TTY_CONFIG": "vhangup",
    "SYSLOG": "syslog",
    "BPF": "bpf",
    "PERFMON": "perf_event_open",
}


def test_before_linux_4_8_nobody_traces() -> None:
    old = seccompkit.default_filter(capabilities.DEFAULT, Host("x86_64", (4, 7)))
    new = seccompkit.default_filter(capabilities.DEFAULT, Host("x86_64", (4, 8)))
    assert {rule.name for rule in new.rules} - {rule.name for rule in old.rules} == {
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
    }


def test_every_name_in_the_default_profile_is_one() -> None:
    """A name with a slip in it would be passed over. The last ones are newer than Debian 12's libseccomp."""
    newer = "mseal statmount listmount uretprobe riscv_hwprobe lsm_get_self_attr lsm_set_self_attr lsm_list_modules"
    newer += " setxattrat getxattrat listxattrat removexattrat"
    named = {name for call in json.loads(seccomp_program.default_profile())["syscalls"] for name in call["names"]}
    unknown = {name for name in named if pyseccomp.resolve_syscall(0, name) == -1}
    assert unknown <= set(newer.split())


def test_other_machines_resolve_the_default_profile_too() -> None:
    for machine, architectures in (("aarch64", ("ARM",)), ("s390x", ("S390",)), ("ppc64le", ()), ("riscv64", ())):
        found = seccompkit.default_filter(capabilities.DEFAULT, Host(machine, (6, 1)))
        assert found.architectures == architectures
        (clone,) = [rule for rule in found.rules if rule.name == "clone"]
        assert clone.conditions[0].argument == (1 if machine == "s390x" else 0)


@pytest.mark.root
def test_every_call_meets_the_filter() -> None:
    """Call number after number in a process under the default filter: refused are those that the rules refuse.

    With errors of its own, to tell the filter's refusals from the kernel's. 335 and 336 belong to the kernel's probes,
    which new kernels let through every filter.
    """
    text = seccomp_program.default_profile()
    for usual, odd in (('"defaultErrnoRet": 1,', '"defaultErrnoRet": 1234,'), ('"errnoRet": 38', '"errnoRet": 1238')):
        assert usual in text
        text = text.replace(usual, odd)
    program = seccomp_compile.compile(seccomp_profile.resolve(text, capabilities.DEFAULT, HOST))
    outcomes = seccompkit.probe(program, range(480))
    expected = {ERRNO | 1234: "1234", ERRNO | 1238: "1238", ENOSYS: "ENOSYS"}
    for number, outcome in outcomes.items():
        verdict = interpret(program, number, "x86_64", (2**64 - 1,) * 6)
        name = seccompkit.call_name("x86_64", number)
        if verdict == ALLOW:
            assert outcome not in ("1234", "1238"), name
        elif number not in (335, 336):
            assert outcome == expected[verdict], name
    assert sum(outcome == "1234" for outcome in outcomes.values()) > 100


# In containers

STATUS = ("grep", "-E", "^(Seccomp|NoNewPrivs|CapEff):", "/proc/self/status")
DEFAULT_BITS = "00000000a80425fb"


def status(text: str) -> tuple[str, str, str]:
    """Return the capabilities, no_new_privs and the mode of seccomp that /proc/self/status shows."""
    found = dict(line.split(":\t") for line in text.splitlines())
    return found["CapEff"], found["NoNewPrivs"], found["Seccomp"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (DEFAULT_BITS, "0", "2")),
        (("--init",), (DEFAULT_BITS, "0", "2")),
        (("-t",), (DEFAULT_BITS, "0", "2")),
        (("--user", "1000"), ("0" * 16, "0", "2")),
        (("--user", "1000", "--security-opt", "no-new-privileges"), ("0" * 16, "1", "2")),
        (("--security-opt", "no-new-privileges:true"), (DEFAULT_BITS, "1", "2")),
        (("--security-opt", "no-new-privileges=false"), (DEFAULT_BITS, "0", "2")),
        (("--cap-drop", "ALL"), ("0" * 16, "0", "2")),
        (("--security-opt", "seccomp=unconfined"), (DEFAULT_BITS, "0", "0")),
        (("--security-opt", "seccomp:unconfined", "--security-opt", "no-new-privileges"), (DEFAULT_BITS, "1", "0")),
        (("--security-opt", "apparmor=unconfined", "--security-opt", "label:disable"), (DEFAULT_BITS, "0", "2")),
    ],
)
def test_a_container_is_under_its_filter(
    minidocker: Any, busybox_image: str, options: tuple[str, ...], expected: tuple[str, str, str]
) -> None:
    said = minidocker.ok("run", "--rm", "--network", "none", *options, busybox_image, *STATUS)
    assert status(said.replace("\r", "")) == expected


@pytest.mark.root
def test_the_kernel_has_the_filter_that_was_compiled(minidocker: Any, busybox_image: str) -> None:
    name = minidocker.ok("run", "-d", "--init", "--network", "none", busybox_image, "sleep", "1000")
    first = int(minidocker.ok("inspect", "-f", "{{.State.Pid}}", name))
    (child,) = open(f"/proc/{first}/task/{first}/children").read().split()
    kept = capabilities.choose((), ())
    expected = seccomp_program.program(minidocker.env["MINIDOCKER_ROOT"], SECCOMP_DEFAULT, kept)
    for pid in (first, int(child)):
        assert list(seccompkit.loaded_filters(pid)) == [expected]


@pytest.mark.root
def test_exec_is_under_the_filter_of_its_container(minidocker: Any, busybox_image: str) -> None:
    run = ("run", "-d", "--network", "none")
    minidocker.ok(*run, "--name", "usual", busybox_image, "sleep", "1000")
    minidocker.ok(*run, "--name", "free", "--security-opt", "seccomp=unconfined", busybox_image, "sleep", "1000")
    minidocker.ok(*run, "--name", "all", "--privileged", busybox_image, "sleep", "1000")
    assert status(minidocker.ok("exec", "usual", *STATUS)) == (DEFAULT_BITS, "0", "2")
    assert status(minidocker.ok("exec", "-u", "7", "usual", *STATUS)) == ("0" * 16, "0", "2")
    assert status(minidocker.ok("exec", "free", *STATUS)) == (DEFAULT_BITS, "0", "0")
    # As in docker, `exec --privileged` has all capabilities, and the filter all the same; a privileged container none.
    caps, _, mode = status(minidocker.ok("exec", "--privileged", "usual", *STATUS))
    assert (int(caps, 16) >> capabilities.NAMES.index("SYS_ADMIN") & 1, mode) == (1, "2")
    assert status(minidocker.ok("exec", "all", *STATUS))[2] == "0"


@pytest.mark.root
def test_builds_run_under_the_default_filter(minidocker: Any, busybox_image: str, tmp_path: Any) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {busybox_image}\nRUN {' '.join(STATUS)}\n".replace("^(", "'^(").replace("):", "):'")
    )
    said = minidocker.ok("build", str(tmp_path))
    assert "Seccomp:\t2\n" in said
    assert f"CapEff:\t{DEFAULT_BITS}\n" in said


@pytest.mark.root
@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("unshare -m true", (), "Operation not permitted"),
        ("unshare -U true", (), "Operation not permitted"),
        ("unshare -m true", ("--cap-add", "SYS_ADMIN"), ""),
        ("mount -t tmpfs x /mnt", (), "denied"),
        ("mount -t tmpfs x /mnt", ("--cap-add", "SYS_ADMIN"), ""),
        ("mkdir /x", (), ""),
    ],
)
def test_what_a_container_may_do(
    minidocker: Any, busybox_image: str, command: str, options: tuple[str, ...], words: str
) -> None:
    done = minidocker("run", "--rm", "--network", "none", *options, busybox_image, "sh", "-c", f"mkdir /mnt; {command}")
    assert (done.returncode == 0) == (words == ""), done.stderr
    assert words in done.stderr


@pytest.mark.root
def test_a_profile_of_ones_own(minidocker: Any, busybox_image: str, tmp_path: Any) -> None:
    text = profile({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}, action="SCMP_ACT_ALLOW")
    (tmp_path / "profile.json").write_text(text)
    option = f"seccomp={tmp_path}/profile.json"
    done = minidocker(
        "run", "--name", "own", "--security-opt", option, "--network", "none", busybox_image, "mkdir", "/x"
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert json.loads(minidocker.ok("inspect", "own"))[0]["HostConfig"]["SecurityOpt"] == [f"seccomp={text}"]
    # The container keeps its profile, whatever becomes of the file and of what was compiled from it.
    (tmp_path / "profile.json").unlink()
    shutil.rmtree(f"{minidocker.env['MINIDOCKER_ROOT']}/seccomp")
    assert "No space left" in minidocker("start", "-a", "own").stderr
    # It is asked for, so it holds, even though privileged containers have no filter of their own.
    (tmp_path / "profile.json").write_text(text)
    options = ("--rm", "--privileged", "--network", "none", "--security-opt", option)
    assert "No space left" in minidocker("run", *options, busybox_image, "mkdir", "/x").stderr


@pytest.mark.root
@pytest.mark.parametrize("more", [(), ("--security-opt", "no-new-privileges"), ("--user", "1000")])
def test_a_profile_need_not_know_how_a_container_is_started(
    minidocker: Any, busybox_image: str, tmp_path: Any, more: tuple[str, ...]
) -> None:
    """With no call that only the start of a container makes: to change user, groups, capabilities, directory."""
    names = ["execve", "arch_prctl", "brk", "exit_group", "write", "mprotect", "set_tid_address", "set_robust_list"]
    names += ["rseq", "prlimit64", "readlink", "readlinkat", "getrandom", "mmap", "munmap", "ioctl", "getuid", "setuid"]
    names += ["fstat", "newfstatat"] + ([] if "no-new-privileges" in more else ["capset"])
    names.remove("setuid")
    (tmp_path / "profile.json").write_text(profile(allow(*names), archMap=[]))
    options = ("--rm", "--network", "none", "--security-opt", f"seccomp={tmp_path}/profile.json", *more)
    done = minidocker("run", *options, busybox_image, "echo", "here")
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr


@pytest.mark.root
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "invalid seccomp profile: string  is not a valid action for seccomp"),
        ("not JSON", "invalid seccomp profile: Expecting value"),
        (profile({"names": ["a"], "action": "NO"}), "string NO is not a valid action"),
        ("\xff", "it is not text"),
    ],
)
def test_a_bad_profile_makes_no_container(
    minidocker: Any, busybox_image: str, tmp_path: Any, text: str, words: str
) -> None:
    (tmp_path / "profile.json").write_text(text, encoding="latin-1")
    done = minidocker("run", "--security-opt", f"seccomp={tmp_path}/profile.json", busybox_image, "true")
    assert done.returncode == 125
    assert words in done.stderr
    assert minidocker.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("seccomp=/no/such/file", "opening seccomp profile (/no/such/file) failed: open /no/such/file: no such file"),
        ("seccomp=", "opening seccomp profile () failed"),
        ("seccomp", 'invalid --security-opt: "seccomp"'),
        ("apparmor=docker-default", 'invalid --security-opt: "apparmor=docker-default"'),
        ("label=type:svirt_t", "invalid --security-opt"),
        ("systempaths=unconfined", "invalid --security-opt"),
        ("no-new-privileges=maybe", 'invalid --security-opt: "no-new-privileges=maybe"'),
        ("no-new-privileges:", "invalid --security-opt"),
        ("", 'invalid --security-opt: ""'),
    ],
)
def test_options_that_are_none(option: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse_security([run_options._security(option)])
    assert words in str(raised.value)


def test_options_are_read() -> None:
    assert parse_security(()) == (False, "")
    assert parse_security(("no-new-privileges", "seccomp={}")) == (True, "{}")
    assert parse_security(("no-new-privileges", "no-new-privileges:false", "seccomp:unconfined")) == (
        False,
        "unconfined",
    )
    asked = keywords.run_options(None, {"security_opt": ["seccomp=unconfined", "no-new-privileges:true"]})
    assert parse_security(asked.security_opt) == (True, "unconfined")


@pytest.mark.root
def test_without_seccomp_in_the_kernel_nothing_starts(minidocker: Any, busybox_image: str, tmp_path: Any) -> None:
    """Play a kernel without it: under a filter that lets nobody load another one."""
    no_seccomp = profile(
        {"names": ["seccomp"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        {
            "names": ["prctl"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": errno.EINVAL,
            "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 22}],
        },
        action="SCMP_ACT_ALLOW",
    )
    (tmp_path / "marker").touch()
    run = [*minidocker.argv, "run", "--rm", "--network", "none", "-v", f"{tmp_path}:/host"]

    def under_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = compiled(no_seccomp)
        return subprocess.run(
            [*run, *arguments],
            env={**os.environ, **minidocker.env},
            preexec_fn=lambda: seccomp.load(program),
            capture_output=True,
            text=True,
        )

    done = under_it(busybox_image, "rm", "/host/marker")
    assert done.returncode == 125
    assert "the kernel does not take the seccomp filter: prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, " in done.stderr
    assert "--security-opt seccomp=unconfined runs without one" in done.stderr
    assert (tmp_path / "marker").exists()
    assert under_it("--security-opt", "seccomp=unconfined", busybox_image, "rm", "/host/marker").returncode == 0
    assert not (tmp_path / "marker").exists()


@pytest.mark.root
def test_without_libseccomp_nothing_starts(minidocker: Any, busybox_image: str, tmp_path: Any) -> None:
    (tmp_path / "pyseccomp.py").write_text("raise RuntimeError('Unable to find libseccomp')")
    env = {"PYTHONPATH": str(tmp_path)}
    done = minidocker("run", "--rm", busybox_image, "true", env=env)
    assert done.returncode == 125
    assert "libseccomp is missing: install Debian's package libseccomp2" in done.stderr
    minidocker.ok("run", "--rm", busybox_image, "true")
    assert minidocker("run", "--rm", busybox_image, "true", env=env).returncode == 0  # it was compiled before


# Beside docker

# What docker has changed in its default since 20.10, as its change log and its documentation say; the same on all three
# architectures but for what one of them lacks.
ALLOWED_SINCE = (
    "pkey_alloc pkey_free pkey_mprotect process_vm_readv process_vm_writev name_to_handle_at cachestat fchmodat2"
    " map_shadow_stack futex_wake futex_wait futex_requeue mseal statmount listmount uretprobe"
    " setxattrat getxattrat listxattrat removexattrat"
)
REFUSED_SINCE = "io_uring_setup io_uring_enter io_uring_register"
BROUGHT_SINCE = {
    "SYS_NICE": "set_mempolicy_home_node",
    "SYS_TIME": "clock_settime64",
    "SYS_ADMIN": "lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
}


@pytest.fixture(scope="module")
def docker_image(docker: Any) -> str:
    """Make an image of nothing but busybox."""
    with open("/bin/busybox", "rb") as busybox:
        content = busybox.read()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("bin/busybox")
        member.size, member.mode = len(content), 0o755
        tar.addfile(member, io.BytesIO(content))
    docker.run("import", "-", "seccomp-busybox", input=packed.getvalue())
    return "seccomp-busybox"


def docker_filter(docker: Any, image: str, *options: str) -> bytes:
    """Return the filter of a container that docker starts with these options."""
    name = docker.run("run", "-d", *options, image, "/bin/busybox", "sleep", "1000").stdout.strip()
    try:
        (found,) = seccompkit.loaded_filters(int(docker.run("inspect", "-f", "{{.State.Pid}}", name).stdout))
        return found
    finally:
        docker.run("rm", "-f", name)


@pytest.mark.peers
@pytest.mark.parametrize("added", ["", *sorted(BROUGHT.keys() - {"BPF", "PERFMON"})])  # which 20.10 does not know
def test_the_default_profile_beside_dockers(docker: Any, docker_image: str, added: str) -> None:
    """Compare verdict by verdict, for every call and every argument that matters, with docker's own filter."""
    theirs = docker_filter(docker, docker_image, *(["--cap-add", added] if added else []))
    ours = default(*([added] if added else []))
    allowed = {*ALLOWED_SINCE.split(), *BROUGHT_SINCE.get(added, "").split()}
    for architecture in ("x86_64", "x86", "x32"):
        before = seccompkit.verdicts(theirs, architecture)
        after = seccompkit.verdicts(ours, architecture)
        for (name, case), verdict in after.items():
            if name in allowed:
                assert verdict in (ALLOW, ENOSYS), name  # ENOSYS: this libseccomp does not know it
            elif name in REFUSED_SINCE.split():
                assert (before[name, case], verdict) == (ALLOW, EPERM), name
            elif name == "socket" and case in (38, 40):
                assert (before[name, case], verdict) == (ALLOW, EPERM), case
            elif before[name, case] != verdict:
                # What is new to docker 20.10 does not exist there; here it does, and is refused.
                assert (before[name, case], verdict) == (ENOSYS, EPERM), (name, case)
                assert name == "set_mempolicy_home_node"


@pytest.mark.peers
@pytest.mark.parametrize("added", ["", "SYS_ADMIN", "SYS_PTRACE"])
def test_docker_reads_our_profile_as_we_do(docker: Any, docker_image: str, added: str) -> None:
    file = f"{os.path.dirname(seccomp_program.__file__)}/seccomp_default.json"
    options = ["--security-opt", f"seccomp={file}", *(["--cap-add", added] if added else [])]
    theirs = docker_filter(docker, docker_image, *options)
    ours = default(*([added] if added else []))
    for architecture in ("x86_64", "x86", "x32"):
        assert seccompkit.verdicts(ours, architecture) == seccompkit.verdicts(theirs, architecture)


@pytest.mark.peers
@pytest.mark.parametrize(
    "text",
    [
        profile({"names": ["mkdir", "nosuchcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}, action="SCMP_ACT_ALLOW"),
        profile({"name": "mkdir", "action": "SCMP_ACT_KILL", "errnoRet": 13}, action="SCMP_ACT_ALLOW"),
        profile(
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ERRNO",
                "args": [
                    {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"},
                    {"index": 1, "value": 33, "op": "SCMP_CMP_GT"},
                ],
            },
            action="SCMP_ACT_ALLOW",
        ),
        profile(
            *[
                {
                    "names": ["personality"],
                    "action": action,
                    "args": [{"index": index, "value": 8, "op": f"SCMP_CMP_{op}"}],
                }
                for index, (action, op) in enumerate([("SCMP_ACT_TRAP", "LE"), ("SCMP_ACT_ERRNO", "NE")])
            ],
            {"names": ["rmdir"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["link"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            {"names": ["rename"], "action": "SCMP_ACT_LOG"},
            action="SCMP_ACT_ALLOW",
            architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        ),
        profile({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}, action="SCMP_ACT_LOG"),
        seccomp_program.default_profile().replace(
            '"defaultAction": "SCMP_ACT_ERRNO"', '"defaultAction": "SCMP_ACT_TRAP"'
        ),
    ],
)
def test_other_profiles_beside_docker(docker: Any, docker_image: str, text: str, tmp_path: Any) -> None:
    (tmp_path / "profile.json").write_text(text)
    theirs = docker_filter(docker, docker_image, "--security-opt", f"seccomp={tmp_path}/profile.json")
    ours = seccomp_compile.compile(seccomp_profile.resolve(text, capabilities.DEFAULT, HOST))
    for architecture in ("x86_64", "x86", "x32"):
        assert seccompkit.verdicts(ours, architecture) == seccompkit.verdicts(theirs, architecture)
