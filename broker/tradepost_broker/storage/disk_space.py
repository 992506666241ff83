"""The reserve: the part of the disk that new work may not use, so that the work at hand can end.

Without it, one upload takes the last byte, and the next commit stops the broker, which then cannot start. New
work is what the broker may still reject: uploads, publications and new jobs. The reserve is for what it has
accepted: the journal, the outputs of open leases, and the results of open jobs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tradepost.errors import DiskFull

#: Outputs of leases may use the reserve but for this part of it, which is the journal's alone.
_JOURNAL_PART: Final = 4


def free_bytes_of(folder: Path) -> int:
    """What this user may still write to the disk of `folder`, in bytes."""
    return shutil.disk_usage(folder).free


class DiskSpace:
    """The free space on the disk of `folder`, of which `reserve_bytes` are kept."""

    def __init__(
        self, folder: Path, *, reserve_bytes: int, free_bytes: Callable[[Path], int] = free_bytes_of
    ) -> None:
        self._folder = folder
        self._free_bytes = free_bytes
        self.reserve_bytes = reserve_bytes

    @property
    def free_bytes(self) -> int:
        """The free space in bytes."""
        return self._free_bytes(self._folder)

    def require_for_new_work(self, size_bytes: int = 0) -> None:
        """Raise `DiskFull` unless the reserve is left after `size_bytes` more."""
        self._require(size_bytes, self.reserve_bytes)

    def require_for_outputs(self, size_bytes: int) -> None:
        """Raise `DiskFull` unless the journal's part of the reserve is left after `size_bytes` more."""
        self._require(size_bytes, self.reserve_bytes // _JOURNAL_PART)

    def _require(self, size_bytes: int, kept_bytes: int) -> None:
        free_bytes = self.free_bytes
        if free_bytes - size_bytes < kept_bytes:
            raise DiskFull(
                f"{free_bytes:,} bytes are free, of which {kept_bytes:,} are kept for work at hand",
                free_bytes=free_bytes,
                kept_bytes=kept_bytes,
            )
