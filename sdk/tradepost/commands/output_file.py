"""Files that a command writes its result to: checked before the work begins, and replaced whole after it."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from tradepost.atomic_files import ASIDE_PREFIX, READABLE_BY_ALL, is_special, replace_file
from tradepost.file_writing import check_folder, writing


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
