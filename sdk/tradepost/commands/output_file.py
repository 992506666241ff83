"""Files that a command writes its result to: checked before the work begins, and replaced whole after it."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from tradepost.atomic_files import ASIDE_PREFIX, READABLE_BY_ALL, replace_file
from tradepost.errors import FileNotWritten


def check_writable(path: Path | None) -> None:
    """Raise `FileNotWritten` if a file at `path` could not be written now. `None` is fine.

    A device or pipe, such as `/dev/stdout`, is fine if this user may write it.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            raise FileNotWritten(f"{path} is a directory", hint="Name a file.")
        if path.exists() and not os.access(path, os.W_OK):
            raise FileNotWritten(f"this user may not write {path}")
        if not _is_special(path):
            # The new content will be written beside it first.
            probe = path.resolve().parent / f"{ASIDE_PREFIX}{secrets.token_hex(8)}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            probe.unlink()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path, a loop of links
        raise FileNotWritten(f"{path}: {error}") from None


def write_output(path: Path | None, data: bytes, *, hint: str | None = None) -> None:
    """Give the file at `path` this content; what was there stays if that fails. `None` does nothing.

    Raises `FileNotWritten`, with `hint` if it is given.
    """
    if path is None:
        return
    try:
        if _is_special(path):
            path.write_bytes(data)
        else:
            replace_file(path.resolve(), data, mode=READABLE_BY_ALL)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileNotWritten(f"{path}: {error}", hint=hint) from None


def _is_special(path: Path) -> bool:
    """Whether there is something that must be written in place: a device, a pipe, a socket."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode)
