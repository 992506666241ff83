"""Imports a CAR from an account block by block, as it arrives.

Each block is hashed and kept as if it had been put by itself, and counts against the same quota. Some are
written at once, so that they share commits; no more than these are in memory, some 6 MiB.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Final

from tradepost.content import Cid
from tradepost.content.transfer.car import CarDecoder, Imported
from tradepost.errors import InvalidCar

_BLOCKS_AT_ONCE: Final = 16
_BYTES_AT_ONCE: Final = 4 << 20
#: So much is decoded in one go: there may be a block in each 40 bytes.
_DECODED_BYTES: Final = 8 << 10

Put = Callable[[Cid, bytes], Awaitable[object]]


async def import_pieces(pieces: AsyncIterable[bytes], put: Put, *, bytes_max: int) -> Imported:
    """Give each block of a CAR that comes in `pieces` to `put`.

    Raises `InvalidCar`, `InvalidCid`, `ContentMismatch`, `ContentTooLarge` beyond `bytes_max` bytes, and what
    `put` raises. Blocks that came before the error may stay: each is what its CID says.
    """
    decoder = CarDecoder(bytes_max=bytes_max, source="the request")
    batch: list[tuple[Cid, bytes]] = []
    blocks = size = written = 0
    async for piece in pieces:
        for start in range(0, len(piece), _DECODED_BYTES):
            for cid, block in decoder.feed(piece[start : start + _DECODED_BYTES]):
                batch.append((cid, block))
                blocks += 1
                size += len(block)
                if len(batch) == _BLOCKS_AT_ONCE or size - written >= _BYTES_AT_ONCE:
                    await _put_all(batch, put)
                    batch.clear()
                    written = size
    await _put_all(batch, put)
    decoder.finish()
    if decoder.roots is None:
        raise InvalidCar("the request has no header")
    return Imported(decoder.roots, blocks, size)


async def _put_all(batch: list[tuple[Cid, bytes]], put: Put) -> None:
    ends = await asyncio.gather(*(put(cid, block) for cid, block in batch), return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
