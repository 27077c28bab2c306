"""Names in an archive, and names in an open folder, whose last component is never followed."""

import os
import stat

from minidocker.errors import UnsafeLayer


def parts_of(name: str) -> list[str]:
    """Split a member's name; `/`, `./` and doubled slashes are dropped. Raises `UnsafeLayer` for `..` and NUL."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # No name goes up, not even to come down again: what it would mean changes with the links on the way.
    if ".." in parts or "\0" in name:
        raise UnsafeLayer(f"member name {name[:200]!r} leads out of the layer")
    return parts


def is_folder(folder: int, name: str) -> bool:
    """Say whether a name is a folder."""
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def is_whiteout(folder: int, name: str) -> bool:
    """Say whether a name is overlayfs's mark for what is deleted."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def same(folder: int, name: str, other_folder: int, other_name: str) -> bool:
    """Say whether two names are one file already, as when an archive links a file to itself."""
    try:
        one = os.stat(name, dir_fd=folder, follow_symlinks=False)
        other = os.stat(other_name, dir_fd=other_folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(one, other)
