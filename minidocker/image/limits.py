"""How much an archive may take: of the disk that it is unpacked on, and of memory while it is.

Ten megabytes of gzip can be ten gigabytes of files, of zstd ten terabytes. A ratio cannot tell such a bomb from an
honest image (a gigabyte of zeros packs as well), so what counts is what is there: an archive may not fill the disk to
the brim. A member says its size before its data comes, and so is refused before a byte of it is written.
"""

import os

from minidocker.errors import UnsafeLayer

_SHARE = 0.95  # of what is free: whoever else writes to the disk, a database perhaps, must not be the one to fail
_MEMORY = 256 << 20  # for the attributes that folders get at the end: some 800,000 folders
_FOLDER = 300  # what Python's objects for one folder take, measured


class Limits:
    """What one archive may still take: bytes and names on disk, bytes of memory."""

    def __init__(self, size: int, names: int, memory: int = _MEMORY) -> None:
        self.size = size
        self.names = names
        self.memory = memory

    @classmethod
    def of_disk(cls, folder: int) -> "Limits":
        """Return the limits for the filesystem of an open folder. Some filesystems have no fixed number of names."""
        disk = os.fstatvfs(folder)
        size = int(disk.f_bavail * disk.f_frsize * _SHARE) if disk.f_blocks else 2**63
        return cls(size, int(disk.f_favail * _SHARE) if disk.f_files else 2**63)

    def take(self, name: str, size: int) -> None:
        """Count one member, before it is written. Raises `UnsafeLayer` when it is too much."""
        if size > self.size:
            raise UnsafeLayer(
                f"no space left on device for {name[:200]!r}: it has {size} bytes unpacked, and {self.size} are free"
            )
        self.size -= size
        self.names -= 1
        if self.names < 0:
            raise UnsafeLayer(f"no space left on device for {name[:200]!r}: too many files, the disk has no inode left")

    def remember(self, path: str, attributes: dict[str, bytes]) -> None:
        """Count what is kept of a folder until the end. Raises `UnsafeLayer` when it is too much."""
        self.memory -= _FOLDER + len(path) + sum(len(key) + len(value) for key, value in attributes.items())
        if self.memory < 0:
            raise UnsafeLayer(f"too many folders with too many attributes, the last of them {path[:200]!r}")
