"""Opens files that only their owner can read or write; checks the open file, not its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from tradepost.file_status import access_problem


class NotPrivate(Exception):
    """Another user may have changed this file or folder."""


def require_own_folder(path: Path) -> None:
    """Raise `NotPrivate` unless this is a folder, no link, of this user and closed to all others."""
    _require_own(path.lstat(), stat.S_ISDIR, path)


def read_own_file(path: Path, *, bytes_max: int) -> bytes:
    """At most `bytes_max` bytes of a file of this user that is closed to all others.

    Raises `NotPrivate`, also for a link, and `OSError`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if path.is_symlink():
            raise NotPrivate(f"{path} is a link") from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        _require_own(os.fstat(file.fileno()), stat.S_ISREG, path)
        return file.read(bytes_max)


def _require_own(status: os.stat_result, is_kind: Callable[[int], bool], path: Path) -> None:
    if not is_kind(status.st_mode):
        raise NotPrivate(f"{path} is of another kind")
    if problem := access_problem(path, status):
        raise NotPrivate(problem)
