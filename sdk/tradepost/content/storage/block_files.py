"""Blocks as files: each complete or absent, with one byte count for all processes.

A block is written to a file aside, synced, renamed to its CID under the lock, and its folder synced. The lock
is `flock` on the folder: the kernel drops it when its holder dies. A file's modification time is when the
block was last used. The count lies in a file of its own; a crash can leave it off by a block, so it is taken
anew whenever a process opens the store.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tradepost.atomic_files import ASIDE_PREFIX, sync_folder, write_aside
from tradepost.content.ipld.cids import Cid, parse_cid
from tradepost.errors import ContentStoreUnusable
from tradepost.file_status import dangling_link

_COUNT_BYTES: Final = 8
#: A file aside that is older was left by a process that died.
_ASIDE_NS_MAX: Final = 3600 * 1_000_000_000
_MOVE_AWAY: Final = "Move away what is there: a folder of blocks belongs there."


@dataclass(frozen=True, slots=True, order=True)
class BlockFile:
    """A block on disk, ordered by its last use."""

    used_ns: int
    cid: Cid
    bytes: int


class BlockFiles:
    """The files of one store. Raises `ContentStoreUnusable` where its folder cannot be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _no_folder(folder) from None
        self._count = folder / "bytes-used"
        with self.lock():
            total = sum(file.bytes for file in self.scan())
            if total != self.bytes_used:
                self.count(total - self.bytes_used)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep out every other thread and process that would add or remove blocks."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            # Each opening is a lock holder of its own, so this excludes threads as well.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @property
    def bytes_used(self) -> int:
        """The bytes of all blocks."""
        try:
            return int.from_bytes(self._count.read_bytes()[:_COUNT_BYTES], "little")
        except FileNotFoundError:
            return 0

    def count(self, change: int) -> None:
        """Change the count; the caller holds the lock."""
        total = max(0, self.bytes_used + change).to_bytes(_COUNT_BYTES, "little")
        descriptor = os.open(self._count, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, total, 0)
        finally:
            os.close(descriptor)

    def path(self, cid: Cid) -> Path:
        """Where a block lies. Raises `InvalidCid`, so that no text leads out of the folder."""
        parse_cid(cid)
        # The characters before the last: the first ones are the same for every CID of a codec.
        return self.folder / cid[-3:-1] / cid

    def used_ns(self, cid: Cid) -> int | None:
        """When a block was last used; `None` if it is not here."""
        try:
            return self.path(cid).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def touch(self, cid: Cid, now_ns: int) -> bool:
        """Note that a block is used; whether it is here."""
        try:
            os.utime(self.path(cid), ns=(now_ns, now_ns))
        except FileNotFoundError:
            return False
        return True

    def write_aside(self, cid: Cid, data: bytes, now_ns: int) -> Path:
        """Write a block's bytes durably to a file that is not yet under the block's name."""
        shard = self.path(cid).parent
        if not shard.is_dir():
            shard.mkdir(exist_ok=True)
            sync_folder(self.folder)
        aside = write_aside(shard, data)
        os.utime(aside, ns=(now_ns, now_ns))
        return aside

    def commit(self, cid: Cid, aside: Path, size: int) -> None:
        """Give the file aside its name and count it; the caller holds the lock and syncs afterwards."""
        self.count(size)
        os.replace(aside, self.path(cid))

    def sync(self, cid: Cid) -> None:
        """Make a commit durable."""
        sync_folder(self.path(cid).parent)

    def remove(self, cid: Cid) -> int:
        """Remove a block; its bytes, 0 if it was not here. The caller holds the lock."""
        path = self.path(cid)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        self.count(-size)
        return size

    def scan(self) -> Iterator[BlockFile]:
        """Every block, in no order."""
        for shard in self._shards():
            for name in os.listdir(shard):
                if name.startswith("b"):
                    try:
                        status = (shard / name).stat()
                    except FileNotFoundError:
                        continue
                    yield BlockFile(status.st_mtime_ns, Cid(name), status.st_size)

    def sweep(self, now_ns: int) -> None:
        """Remove the files aside that a process left when it died."""
        for shard in self._shards():
            for path in shard.glob(f"{ASIDE_PREFIX}*"):
                with suppress(FileNotFoundError):  # its process was quicker
                    if now_ns - path.stat().st_mtime_ns > _ASIDE_NS_MAX:
                        path.unlink()

    def _shards(self) -> list[Path]:
        return [self.folder / name for name in os.listdir(self.folder) if len(name) == 2]


def require_folder(folder: Path) -> None:
    """Raise `ContentStoreUnusable` if something else than a folder is there; changes and locks nothing."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise _no_folder(folder)


def _no_folder(folder: Path) -> ContentStoreUnusable:
    problem = dangling_link(folder) or f"{folder} is not a folder"
    return ContentStoreUnusable(problem, hint=_MOVE_AWAY)
