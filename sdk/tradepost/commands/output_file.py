"""Files that a command writes its result to: checked before the work begins, and replaced whole after it.

An error names the file that was asked for, never the one aside that it was first written to, and its hint
fits the cause.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tradepost.atomic_files import ASIDE_PREFIX, READABLE_BY_ALL, is_special, replace_file
from tradepost.errors import FileNotWritten

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)


def check_writable(path: Path | None) -> None:
    """Raise `FileNotWritten` if a file at `path` could not be written now. `None` is fine.

    A device or pipe, such as `/dev/stdout`, is fine if this user may write it.
    """
    if path is None:
        return
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not is_special(path):
            # The new content will be written beside it first.
            probe = path.resolve().parent / f"{ASIDE_PREFIX}{secrets.token_hex(8)}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            probe.unlink()


def write_output(path: Path | None, data: bytes, *, hint: str | None = None) -> None:
    """Give the file at `path` this content; what was there stays if that fails. `None` does nothing.

    Raises `FileNotWritten`, with `hint` if it is given.
    """
    if path is None:
        return
    with writing(path, hint=hint):
        if is_special(path):
            path.write_bytes(data)
        else:
            target = path.resolve()
            check_folder(target)
            replace_file(target, data, mode=READABLE_BY_ALL)


def check_folder(path: Path) -> None:
    """Raise `OSError` unless the folder of `path` is there: one that is absent is a mistake."""
    os.stat(os.path.join(path.parent, os.curdir))


@contextmanager
def writing(path: Path, *, hint: str | None = None, passing: type[OSError] | None = None) -> Iterator[None]:
    """Turn the system's errors about the file at `path`, but `passing`, into `FileNotWritten`.

    It has `hint` if that is given.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path, a loop of links
        if passing is not None and isinstance(error, passing):
            raise
        what, next_step = _cause(path, error)
        raise FileNotWritten(f"{path}: {what}", hint=next_step if hint is None else hint) from None


def _cause(path: Path, error: Exception) -> tuple[str, str | None]:
    """What went wrong, and what to do next."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error), "Name another file."
    what = os.strerror(error.errno)
    if error.errno == errno.EISDIR:
        return "it is a directory", "Name a file."
    if error.errno in _FULL:
        return what, "Free disk space, or name a file on another disk."
    if error.errno in _FORBIDDEN:
        return what, "Name a file that this user may write, in a folder that this user may write."
    if error.errno in _ABSENT:
        return _absence(path.parent)
    return what, None


def _absence(folder: Path) -> tuple[str, str]:
    if not folder.exists():
        return f"the folder {folder} does not exist", "Create the folder, or name a file in another one."
    if not folder.is_dir():
        return f"{folder} is not a folder", "Name a file in a folder."
    return f"no file can be created in {folder}", "Name a file in another folder."
