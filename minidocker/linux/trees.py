"""Copying a tree of files with all that belongs to them (owners, modes, times, attributes, links); deleting one."""

import contextlib
import errno
import os
import stat

_CHUNK = 1 << 30
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy(source: str, target: str) -> None:
    """Copy the tree at `source` into the existing directory `target`, and the directory's own attributes with it.

    Never follows a symbolic link; hard links within the tree stay hard links. Needs root for owners and device nodes.
    """
    _copy_directory(source, target, {})


def _copy_directory(source: str, target: str, seen: dict[tuple[int, int], str]) -> None:
    for entry in os.scandir(source):
        copied = f"{target}/{entry.name}"
        status = entry.stat(follow_symlinks=False)
        identity = (status.st_dev, status.st_ino)
        if entry.is_dir(follow_symlinks=False):
            os.makedirs(copied, exist_ok=True)
            _copy_directory(entry.path, copied, seen)
        elif identity in seen:
            os.link(seen[identity], copied, follow_symlinks=False)
        else:
            copy_one(entry.path, copied, status)
            if status.st_nlink > 1:
                seen[identity] = copied
    copy_attributes(source, target, os.stat(source))


def copy_one(source: str, target: str, status: os.stat_result) -> None:
    """Copy anything that is not a directory."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        copy_content(source, target)
    else:
        os.mknod(target, status.st_mode, status.st_rdev)
    copy_attributes(source, target, status)


def copy_content(source: str, target: str) -> None:
    """Copy a file's bytes, within the kernel: sendfile(2) does so between any two filesystems."""
    with open(source, "rb", buffering=0) as reading, open(target, "xb", buffering=0) as writing:
        while os.sendfile(writing.fileno(), reading.fileno(), None, _CHUNK):
            pass


def copy_attributes(source: str, target: str, status: os.stat_result) -> None:
    """Give `target` the owner, mode, extended attributes and times of `source`, whose `status` is known.

    In this order: a change of owner clears set-id bits and capabilities, and every change sets a time.
    """
    os.lchown(target, status.st_uid, status.st_gid)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def delete(path: str) -> None:
    """Delete a tree or a file; what is gone already is no error. Never follows a symbolic link.

    By open folders, not by paths, which could come to lead elsewhere meanwhile. `shutil.rmtree` does so as well, but
    imports two compression libraries, 4 ms at the end of each container.
    """
    try:
        delete_below(path)
    except (RecursionError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EMFILE:
            raise
        flatten(path)
        delete_below(path)


def delete_below(name: str, parent: int | None = None) -> None:
    """Delete `name`, in the open folder `parent` if there is one, and all that is in it, folder after folder.

    Raises: RecursionError, OSError with EMFILE where folders are nested deeper than that can be done.
    """
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except (NotADirectoryError, FileNotFoundError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        return
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                delete_below(entry.name, folder)
            else:
                with contextlib.suppress(FileNotFoundError):  # somebody else is deleting, too
                    os.unlink(entry.name, dir_fd=folder)
    finally:
        os.close(folder)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)


def flatten(path: str) -> None:
    """Move every folder of a tree to its top, where it is in nobody's way.

    A container, or an image by a chain of links, can nest folders deeper than calls or open files can follow.
    """
    top = os.open(path, _FOLDER)
    try:
        waiting = _folders(top)
        while waiting:
            folder = os.open(waiting.pop(), _FOLDER, dir_fd=top)
            for name in _folders(folder):
                waiting.append(os.urandom(16).hex())
                os.rename(name, waiting[-1], src_dir_fd=folder, dst_dir_fd=top)
            os.close(folder)
    finally:
        os.close(top)


def _folders(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
