"""The programs that seccomp profiles were compiled to, kept so that no container's start has to wait for that.

See: docs/decisions/0006-seccomp.md.
"""

import contextlib
import os
import zlib
from typing import TYPE_CHECKING

from minidocker.container.spec import SECCOMP_DEFAULT, SECCOMP_UNCONFINED

if TYPE_CHECKING:
    from minidocker.container.seccomp_profile import Host

_FORMAT = "1"  # of the kept files; a new one whenever `compile` makes other programs of the same profiles


def program(root: str, profile: str, capabilities: tuple[str, ...]) -> bytes:
    """Return the filter for a container with these capabilities; none (`b""`) for an unconfined one.

    `profile` is a profile's text, SECCOMP_DEFAULT or SECCOMP_UNCONFINED. Compiling takes some 30 ms and is done once:
    the program is kept in `root`/seccomp, where everything may be deleted at any time.

    Raises: InvalidArgument for a profile that is none, StartError without libseccomp.
    """
    if profile == SECCOMP_UNCONFINED:
        return b""
    text = default_profile() if profile == SECCOMP_DEFAULT else profile
    system = os.uname()
    made_of = "\0".join((_FORMAT, ",".join(capabilities), system.machine, system.release, text))
    source = made_of.encode(errors="surrogatepass")
    # The checksum finds the file, the source in it says whether it is the right one: hashlib takes 2 ms to import.
    path = f"{root}/seccomp/{zlib.crc32(source):08x}.bpf"
    found = _read(path, source)
    if not found:
        from minidocker.container import seccomp_compile, seccomp_profile

        found = seccomp_compile.compile(seccomp_profile.resolve(text, capabilities, this_host()))
        _write(path, source, found)
    return found


def this_host() -> "Host":
    """Return what a profile may ask about this machine."""
    from minidocker.container.seccomp_profile import Host, parse_version

    return Host(os.uname().machine, parse_version(os.uname().release))


def default_profile() -> str:
    """Return the profile of a container for which nothing else is said."""
    with open(f"{os.path.dirname(__file__)}/seccomp_default.json", encoding="utf-8") as file:
        return file.read()


def _read(path: str, source: bytes) -> bytes:
    """Return the program that was made of `source`; nothing where there is none, or not as it was written.

    The file: all that the program was made of, four bytes of checksum, the program.
    """
    try:
        with open(path, "rb") as file:
            kept = file.read()
    except FileNotFoundError:
        return b""
    checksum, made = kept[len(source) :][:4], kept[len(source) + 4 :]
    return made if kept.startswith(source) and checksum == _checksum(made) else b""


def _write(path: str, source: bytes, made: bytes) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    temporary = f"{path}.{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(source + _checksum(made) + made)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _checksum(made: bytes) -> bytes:
    return zlib.crc32(made).to_bytes(4, "big")
