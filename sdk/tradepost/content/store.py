"""The embedded block store: a folder of blocks, crash-safe, within a byte budget.

A block is written to a temporary file, synced, and renamed to its CID: under its name it is whole or absent,
and two processes may share one store. Reading hashes again, so a bad disk is found, never believed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

from tradepost.content.cids import Cid, parse_cid, verify_block
from tradepost.errors import ContentStoreFull, UnknownCid


class BlockReader(Protocol):
    """Anything that has blocks."""

    def get(self, cid: Cid) -> bytes:
        """The verified bytes of a block. Raises `UnknownCid`."""
        ...

    def has(self, cid: Cid) -> bool:
        """Whether the block is here."""
        ...


class BlockStore(BlockReader, Protocol):
    """Anything that keeps blocks."""

    def put(self, cid: Cid, data: bytes) -> None:
        """Keep a block, durably. Raises `ContentMismatch` or `ContentStoreFull`."""
        ...


class FolderStore:
    """A `BlockStore` in a folder, holding at most `bytes_max` bytes of blocks."""

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        folder.mkdir(parents=True, exist_ok=True)
        self.bytes_used = sum(path.stat().st_size for path in folder.glob("??/b*"))

    def get(self, cid: Cid) -> bytes:
        """The verified bytes of a block. Raises `UnknownCid`, or `ContentMismatch` if the disk lies."""
        try:
            data = self._path(cid).read_bytes()
        except FileNotFoundError:
            raise UnknownCid(f"{cid} is not in this store", cid=cid) from None
        verify_block(cid, data, source=str(self._folder))
        return data

    def has(self, cid: Cid) -> bool:
        """Whether the block is here."""
        return self._path(cid).exists()

    def put(self, cid: Cid, data: bytes) -> None:
        """Keep a block, durably. Raises `ContentMismatch` or `ContentStoreFull`."""
        verify_block(parse_cid(cid), data, source="the caller")
        path = self._path(cid)
        if path.exists():
            return
        if self.bytes_used + len(data) > self._bytes_max:
            raise ContentStoreFull(f"{self.bytes_used:,} of {self._bytes_max:,} bytes are used")
        path.parent.mkdir(exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
        self.bytes_used += len(data)

    def make_room(self, bytes_wanted: int) -> None:
        """Remove the blocks that were stored longest ago until `bytes_wanted` more fit: this store is a cache.

        Raises `ContentStoreFull` if they never fit.
        """
        if bytes_wanted > self._bytes_max:
            raise ContentStoreFull(f"{bytes_wanted:,} bytes are more than the budget of {self._bytes_max:,}")
        blocks = [(path.stat().st_mtime_ns, path) for path in self._folder.glob("??/b*")]
        for _, path in sorted(blocks):
            if self.bytes_used + bytes_wanted <= self._bytes_max:
                return
            self.bytes_used -= path.stat().st_size
            path.unlink()

    def _path(self, cid: Cid) -> Path:
        # The characters before the last: the first ones are the same for every CID of a codec.
        return self._folder / cid[-3:-1] / cid


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
