"""Additions in progress: blocks that no process may evict before they are pinned.

Each is an empty file that its process holds locked, dated when it began. The kernel drops the lock when the
process dies, so that a dead one protects nothing, however long a live one takes.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tradepost.content.storage.block_files import BlockFiles


class AdditionFolder:
    """The additions to one store."""

    def __init__(self, folder: Path, files: BlockFiles) -> None:
        self._folder = folder
        self._files = files

    @contextmanager
    def begin(self, now_ns: int) -> Iterator[None]:
        """Protect what is put or used from now on, until this ends."""
        with self._files.lock():  # or another process could take it for a dead one's before it is locked
            self._folder.mkdir(exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.utime(descriptor, ns=(now_ns, now_ns))
        try:
            yield
        finally:
            os.unlink(name)
            os.close(descriptor)

    def since_ns(self) -> int | None:
        """When the oldest that is under way began, if one is. The caller holds the store's lock."""
        try:
            paths = list(self._folder.iterdir())
        except FileNotFoundError:
            return None
        return min((began for path in paths if (began := _began_ns(path)) is not None), default=None)


def _began_ns(path: Path) -> int | None:
    """When a living process began this; what a dead one left is removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None  # ended since it was listed
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.fstat(descriptor).st_mtime_ns
    else:
        with suppress(FileNotFoundError):
            path.unlink()
        return None
    finally:
        os.close(descriptor)
