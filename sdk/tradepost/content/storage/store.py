"""The embedded block store: a folder of blocks within a byte budget, for any number of processes at once.

When a block does not fit, those that were used longest ago go, except what is pinned: a pin on a root keeps
every block that its links lead to, and `adding` what is put until it can be pinned. Reading hashes again, so
a bad disk is found, never believed. What lies where, and why a crash tears no block, is in `block_files`.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tradepost.content.ipld.cids import Cid, parse_cid, verify_block
from tradepost.content.storage.additions import AdditionFolder
from tradepost.content.storage.block_files import BlockFile, BlockFiles
from tradepost.content.storage.pins import PinFolder
from tradepost.errors import ContentMismatch, ContentStoreFull, UnknownCid

#: What the system says when there is no room on a disk, or none left for this user.
DISK_IS_FULL: Final = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger(__name__)


class BlockReader(Protocol):
    """A source of blocks."""

    def get(self, cid: Cid) -> bytes:
        """The verified bytes of a block. Raises `UnknownCid`."""
        ...

    def has(self, cid: Cid) -> bool:
        """Whether the block is here."""
        ...


class BlockStore(BlockReader, Protocol):
    """A store of blocks."""

    def put(self, cid: Cid, data: bytes) -> None:
        """Keep a block, durably. Raises `ContentMismatch` or `ContentStoreFull`."""
        ...


class PinningStore(BlockStore, Protocol):
    """A store that may evict blocks that are not pinned."""

    def pin(self, root: Cid) -> None:
        """Keep the whole DAG below `root`. Raises `UnknownCid` while a block of it is missing."""
        ...

    def unpin(self, root: Cid) -> None:
        """Let the DAG below `root` be forgotten. Raises `UnknownCid` if `root` itself is not pinned."""
        ...

    def pins(self) -> list[Cid]:
        """The pinned roots, sorted."""
        ...


@dataclass(slots=True)
class Audit:
    """The result of `FolderStore.verify`: intact blocks, changed ones, and those that pins lack."""

    blocks: int = 0
    bytes: int = 0
    bad: list[Cid] = field(default_factory=list)
    missing: list[Cid] = field(default_factory=list)


class FolderStore:
    """A `PinningStore` in a folder, holding at most `bytes_max` bytes of blocks.

    With `evict=False` a full store refuses a block instead of forgetting others: for blocks that exist
    nowhere else. With `conceal_held=True`, putting a block takes the same work and room whether it is here or
    not: for a store whose users must not learn what others have put. `clock` gives the time in nanoseconds;
    what was used at an earlier time is forgotten first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bytes_max: int,
        evict: bool = True,
        conceal_held: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._files = BlockFiles(folder)
        self._pins = PinFolder(folder / "pins", self._files)
        self._additions = AdditionFolder(folder / "adding", self._files)
        self._bytes_max = bytes_max
        self._evict = evict
        self._conceal_held = conceal_held
        self._clock = clock
        self._oldest: deque[BlockFile] = deque()

    @property
    def bytes_used(self) -> int:
        """The bytes of all blocks."""
        return self._files.bytes_used

    def get(self, cid: Cid) -> bytes:
        """The verified bytes of a block.

        Raises `UnknownCid`, or `ContentMismatch` if the disk lies; then the block is removed, to be put
        again.
        """
        data = self._read(cid)
        self._files.touch(cid, self._clock())
        return data

    def has(self, cid: Cid) -> bool:
        """Whether the block is here."""
        return self._files.path(cid).exists()

    def put(self, cid: Cid, data: bytes) -> None:
        """Keep a block, durably, forgetting others if need be. One that the disk changed is replaced.

        Raises `ContentMismatch`, or `ContentStoreFull` if it cannot fit.
        """
        verify_block(parse_cid(cid), data, source="the caller")
        if not self._conceal_held and self._has_whole(cid) and self._reuse(cid):
            return
        try:
            self._write(cid, data)
        except OSError as error:
            if error.errno not in DISK_IS_FULL:
                raise
            raise ContentStoreFull(f"the disk is full: {error}") from None

    def discard(self, cid: Cid) -> int:
        """Forget one block, pinned or not; the bytes that this freed."""
        with self._files.lock():
            return self._files.remove(cid)

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Until this ends, no process forgets what is put from now on, be it to make room or in `gc`.

        A caller that puts blocks to pin what they make up does both in it, since a block alone is nobody's.
        """
        with self._additions.begin(self._clock()):
            yield

    def pin(self, root: Cid) -> None:
        """Keep the whole DAG below `root`.

        Raises `UnknownCid` while a block of it is missing, or not as it was put.
        """
        self._pins.check(parse_cid(root))  # reads everything, so before others have to wait for the lock
        with self._files.lock():
            self._pins.add(root)

    def unpin(self, root: Cid) -> None:
        """Let the DAG below `root` be forgotten. Raises `UnknownCid` if `root` itself is not pinned."""
        with self._files.lock():
            self._pins.remove(parse_cid(root))

    def pins(self) -> list[Cid]:
        """The pinned roots, sorted."""
        return self._pins.roots()

    def gc(self) -> tuple[int, int]:
        """Forget every block that is neither pinned nor being added; how many these were, and their bytes."""
        with self._files.lock():
            may_go = self._may_go()
            freed = [self._files.remove(file.cid) for file in self._files.scan() if may_go(file)]
            self._files.sweep(self._clock())
        return len(freed), sum(freed)

    def blocks(self) -> Iterator[BlockFile]:
        """Every block that is here, in no order."""
        return self._files.scan()

    def verify(self, *, on_bytes: Callable[[int], None] | None = None) -> Audit:
        """Read and hash every block, and follow every pin. What is bad is removed."""
        audit = Audit()
        for file in self._files.scan():
            try:
                self._read(file.cid)
                audit.blocks += 1
                audit.bytes += file.bytes
            except ContentMismatch:
                audit.bad.append(file.cid)
            except UnknownCid:
                pass  # forgotten by another process since it was listed
            if on_bytes is not None:
                on_bytes(file.bytes)
        audit.missing = self._pins.missing()
        return audit

    def _may_go(self) -> Callable[[BlockFile], bool]:
        """Tells the blocks that nothing protects, as of now. The caller holds the lock."""
        keep, since_ns = self._pins.blocks(), self._additions.since_ns()
        return lambda file: file.cid not in keep and (since_ns is None or file.used_ns < since_ns)

    def _reuse(self, cid: Cid) -> bool:
        with self._files.lock():  # or who forgets may have looked at when it was last used just before
            return self._files.touch(cid, self._clock())

    def _has_whole(self, cid: Cid) -> bool:
        try:
            self._read(cid)
        except (UnknownCid, ContentMismatch):
            return False
        return True

    def _read(self, cid: Cid) -> bytes:
        try:
            data = self._files.path(cid).read_bytes()
        except FileNotFoundError:
            raise UnknownCid(f"{cid} is not in this store", cid=cid) from None
        try:
            verify_block(cid, data, source=str(self._files.folder))
        except ContentMismatch:
            self.discard(cid)
            log.warning(
                "Block %s changed on disk and was removed. Check the disk for errors.",
                cid,
                extra={"action": "bad_block_removed", "cid": cid},
            )
            raise
        return data

    def _write(self, cid: Cid, data: bytes) -> None:
        aside = self._files.write_aside(cid, data, self._clock())
        try:
            with self._files.lock():
                is_new = not self.has(cid)
                if is_new or self._conceal_held:
                    self._reserve(len(data))
                    self._files.commit(cid, aside, len(data) if is_new else 0)
        finally:
            aside.unlink(missing_ok=True)
        self._files.sync(cid)

    def _reserve(self, bytes_wanted: int) -> None:
        if self.bytes_used + bytes_wanted <= self._bytes_max:
            return
        if not self._evict:
            raise ContentStoreFull(f"{self.bytes_used:,} of {self._bytes_max:,} bytes are used")
        self._make_room(bytes_wanted)

    def _make_room(self, bytes_wanted: int) -> None:
        if bytes_wanted > self._bytes_max:
            raise ContentStoreFull(f"{bytes_wanted:,} bytes are more than the budget of {self._bytes_max:,}")
        scanned = False
        may_go = self._may_go()
        while self.bytes_used + bytes_wanted > self._bytes_max:
            if not self._oldest:
                if scanned:
                    raise ContentStoreFull(
                        f"all but {self._bytes_max - self.bytes_used:,} bytes of the budget of "
                        f"{self._bytes_max:,} are pinned or being added; {bytes_wanted:,} more do not fit"
                    )
                # One listing serves many evictions: what is used or put after it is newer than all in it.
                self._oldest.extend(sorted(self._files.scan()))
                scanned = True
            oldest = self._oldest.popleft()
            if may_go(oldest) and self._files.used_ns(oldest.cid) == oldest.used_ns:
                self._files.remove(oldest.cid)
