"""Atomic file writes: after a crash a file has either its old or its new content, complete.

New content is written to a file aside, in the same folder, synced, and renamed over the name that it is for.
The folder is synced as well, or the new name may be lost with the power. Files are readable by their owner
only unless a caller says otherwise.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

#: What the names of files aside begin with, so that those of a process that died can be found.
ASIDE_PREFIX: Final = ".new-"
OWNER_ONLY: Final = 0o600
READABLE_BY_ALL: Final = 0o644


def replace_file(path: Path, data: bytes, *, durable: bool = True, mode: int = OWNER_ONLY) -> None:
    """Give the file at `path` this content, which readers see at once; the folder is made if absent.

    Raises `OSError`, which names `path`, also where a device, a pipe or a socket would be replaced.

    Without `durable`, for what is written often and worth little, a loss of power may lose it. The new
    file has `mode`, less what the process's umask forbids.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_special(path, follow_links=False):
            raise OSError(errno.EEXIST, "it is not a regular file")
        aside = write_aside(path.parent, data, durable=durable, mode=mode)
        try:
            aside.replace(path)
        except BaseException:
            aside.unlink()
            raise
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # the name aside tells nobody anything
        raise


def is_special(path: Path, *, follow_links: bool = True) -> bool:
    """Whether there is something that must be written in place: a device, a pipe, a socket.

    Raises `OSError`, but for what is absent.
    """
    try:
        mode = path.stat(follow_symlinks=follow_links).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def create_file(path: Path, data: bytes, *, mode: int = OWNER_ONLY) -> None:
    """Write a new file. Raises `FileExistsError` rather than overwrite one."""
    _write(_open_new(path, mode), data, durable=True)
    sync_folder(path.parent)


def write_aside(folder: Path, data: bytes, *, durable: bool = True, mode: int = OWNER_ONLY) -> Path:
    """Write `data` to a new file in `folder` that is still to be renamed; nothing is left if that fails."""
    path = folder / f"{ASIDE_PREFIX}{secrets.token_hex(8)}"
    descriptor = _open_new(path, mode)
    try:
        _write(descriptor, data, durable=durable)
    except BaseException:
        path.unlink()
        raise
    return path


def sync_folder(folder: Path) -> None:
    """Make what was added to or removed from a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_new(path: Path, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def _write(descriptor: int, data: bytes, *, durable: bool) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
