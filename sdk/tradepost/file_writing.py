"""Types the system's errors about files that this program writes or removes.

An error names the file that was asked for, never the one aside that it was first written to. It tells the
cause, and its hint fits the cause and the file: a user can name another file in place of one that was named,
but not in place of one of the program's own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tradepost.errors import FileNotWritten
from tradepost.file_status import is_working_folder_gone, why_no_file

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
#: Where something else may be in place of the file, or of its folder.
_OBSTRUCTED: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENXIO)
_IMPOSSIBLE: Final = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class _Hints:
    """What to do next, by cause."""

    no_file: str
    full: str
    forbidden: str
    absent_folder: str
    no_folder: str
    other_folder: str
    impossible: str


_NAMED: Final = _Hints(
    no_file="Name a file.",
    full="Free disk space, or name a file on another disk.",
    forbidden="Name a file that this user may write, in a folder that this user may write.",
    absent_folder="Create the folder, or name a file in another one.",
    no_folder="Name a file in a folder.",
    other_folder="Name a file in another folder.",
    impossible="Name another file.",
)
_OWN: Final = _Hints(
    no_file="Move it away: a file belongs there.",
    full="Free disk space.",
    forbidden="Make the file and its folder writable for this user.",
    absent_folder="Create the folder.",
    no_folder="Move it away: a folder belongs there.",
    other_folder="Use another folder.",
    impossible="Use a folder with a shorter path and without loops of links.",
)


@contextmanager
def writing(path: Path, *, hint: str | None = None, passing: type[OSError] | None = None) -> Iterator[None]:
    """Turn errors about writing the file at `path`, which a user named, into `FileNotWritten`.

    It has `hint` if that is given. Errors of the type `passing` are left as they are.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path, a loop of links
        if passing is not None and isinstance(error, passing):
            raise
        raise _typed(path, error, _NAMED, hint) from None


@contextmanager
def writing_own(path: Path) -> Iterator[None]:
    """Turn errors about writing or removing one of the program's own files into `FileNotWritten`."""
    try:
        yield
    except OSError as error:
        raise _typed(path, error, _OWN) from None


def check_folder(path: Path) -> None:
    """Raise `OSError` unless the folder of `path` is there: one that is absent is a mistake."""
    os.stat(os.path.join(path.parent, os.curdir))


def _typed(path: Path, error: Exception, hints: _Hints, hint: str | None = None) -> FileNotWritten:
    detail, next_step = _cause(path, error, hints)
    return FileNotWritten(detail, hint=next_step if hint is None else hint)


def _cause(path: Path, error: Exception, hints: _Hints) -> tuple[str, str | None]:
    """What went wrong with which file, and what to do next."""
    if not isinstance(error, OSError) or error.errno is None:
        return f"{path}: {error}", hints.impossible
    if error.errno in _OBSTRUCTED:
        if problem := why_no_file(path):
            return problem, hints.no_file
        if obstacle := _obstacle(path.parent, error.errno, hints):
            what, next_step = obstacle
            return f"{path}: {what}", next_step
    by_number = ((_FULL, hints.full), (_FORBIDDEN, hints.forbidden), (_IMPOSSIBLE, hints.impossible))
    hint = next((hint for numbers, hint in by_number if error.errno in numbers), None)
    return f"{path}: {os.strerror(error.errno)}", hint


def _obstacle(folder: Path, number: int, hints: _Hints) -> tuple[str, str] | None:
    """Why there can be no file in `folder`, and what to do next; `None` if it is not for the folder."""
    there = next((one for one in (folder, *folder.parents) if os.path.exists(one)), folder)
    if not os.path.isdir(there):
        return f"{there} is not a folder", hints.no_folder
    if there != folder:
        return f"the folder {folder} does not exist", hints.absent_folder
    if number not in (errno.ENOENT, errno.ENOTDIR):
        return None
    if not folder.is_absolute() and is_working_folder_gone():
        return "the working folder was deleted", "Change to a folder that exists."
    return f"no file can be created in {folder}", hints.other_folder
