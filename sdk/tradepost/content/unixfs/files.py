"""Files in IPFS's format: fixed-size chunks as raw leaves under a balanced tree of dag-pb nodes.

The import profile is Kubo's for `ipfs add --cid-version=1`: `CHUNK_BYTES` per leaf, `LINKS_PER_NODE` children
per node; a file of one chunk is its leaf. Memory stays constant: at most one open node per level of the tree.

Reading takes any tree of the format, and believes none of it: what a node declares is capped before its
children are asked for, and each child must have exactly the bytes that its parent says.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tradepost.content.ipld.cids import Cid, cid_of_block, codec_of
from tradepost.content.unixfs.nodes import FileNode, Link, decode_unixfs, encode_file_node
from tradepost.errors import ContentTooLarge, InvalidDag

CHUNK_BYTES: Final = 256 << 10
LINKS_PER_NODE: Final = 174
#: The blocks of one file, inner nodes included. In chunks of 256 KiB, that is 63.6 GiB of content.
FILE_BLOCKS_MAX: Final = 1 << 18
_DEPTH_MAX: Final = 16

#: Takes a block's CID and bytes, to keep or send it.
Put = Callable[[Cid, bytes], None]
#: Gives the verified bytes of a block.
Get = Callable[[Cid], Awaitable[bytes]]
#: Is told of the bytes that were just read, for progress.
OnBytes = Callable[[int], None]


def add_bytes(data: bytes, *, put: Put | None) -> Cid:
    """The CID of a file with this content; each of its blocks goes to `put`, children first."""
    return add_stream(io.BytesIO(data), put=put)


def add_file(path: Path, *, put: Put | None, on_bytes: OnBytes | None = None) -> Cid:
    """The CID of the file at `path`; each of its blocks goes to `put`, children first."""
    with path.open("rb") as file:
        return add_stream(file, put=put, on_bytes=on_bytes)


def add_stream(stream: BinaryIO, *, put: Put | None, on_bytes: OnBytes | None = None) -> Cid:
    """The CID of what `stream` yields; each block goes to `put`, children first."""
    return link_stream(stream, put=put, on_bytes=on_bytes).cid


def link_stream(stream: BinaryIO, *, put: Put | None, on_bytes: OnBytes | None = None) -> Link:
    """As `add_stream`, with the sizes that a directory needs to link to the file."""
    levels: list[list[Link]] = [[]]

    def emit(level: int, link: Link) -> None:
        if level == len(levels):
            levels.append([])
        if len(levels[level]) == LINKS_PER_NODE:
            emit(level + 1, _node(levels[level], put))
            levels[level] = []
        levels[level].append(link)

    chunk = _read_chunk(stream)
    while True:
        cid = cid_of_block(chunk, "raw")
        if put is not None:
            put(cid, chunk)
        if on_bytes is not None:
            on_bytes(len(chunk))
        emit(0, Link(cid, len(chunk), len(chunk)))
        chunk = _read_chunk(stream)
        if not chunk:
            break
    level = 0
    while level + 1 < len(levels) or len(levels[level]) > 1:
        emit(level + 1, _node(levels[level], put))
        level += 1
    return levels[level][0]


async def read_file(cid: Cid, get: Get, *, bytes_max: int) -> bytes:
    """The content of the file at `cid`, of which `get` returns verified blocks.

    Raises `ContentTooLarge` beyond `bytes_max` (as declared, before the blocks are fetched) and `InvalidDag`
    where the tree is no file or its sizes lie.
    """
    return b"".join([part async for part in stream_file(cid, get, bytes_max=bytes_max)])


async def stream_file(
    cid: Cid, get: Get, *, bytes_max: int, ahead: int = 1, within: range | None = None
) -> AsyncGenerator[bytes, None]:
    """The content of the file at `cid` in order, part by part, with up to `ahead` leaves asked for at once.

    `within` limits it to the parts, whole, that overlap these offsets. Memory is bounded by `ahead` leaves.
    Raises as `read_file`. Leaving early, close it with `aclosing`.
    """
    waiting: deque[asyncio.Task[bytes]] = deque()
    try:
        async with aclosing(_parts(cid, get, bytes_max, within)) as parts:
            async for part in parts:
                if ahead == 1:
                    yield await _content(part, get)
                    continue
                waiting.append(asyncio.create_task(_content(part, get)))
                if len(waiting) == ahead:
                    yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.gather(*waiting, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A raw block yet to be read. The root of a one-block file has no parent that says its size."""

    cid: Cid
    file_bytes: int | None
    bytes_max: int


async def _parts(
    cid: Cid, get: Get, bytes_max: int, within: range | None
) -> AsyncGenerator[_Leaf | bytes, None]:
    """What the file consists of, in order: leaves to read, and the bytes that inner nodes hold themselves."""
    if codec_of(cid) != "dag-pb":
        yield _Leaf(cid, None, bytes_max)
        return
    to_visit: list[tuple[Cid, int | None, int]] = [(cid, None, 0)]
    visited = position = 0
    while to_visit:
        cid, expected, depth = to_visit.pop()
        if within is not None and expected is not None and not _overlap(within, position, expected):
            position += expected
            continue
        visited += 1
        if visited > FILE_BLOCKS_MAX:
            raise InvalidDag(f"a file of more than {FILE_BLOCKS_MAX:,} blocks")
        if codec_of(cid) == "raw":
            position += expected or 0
            yield _Leaf(cid, expected, bytes_max)
            continue
        if depth == _DEPTH_MAX:
            raise InvalidDag(f"{cid} is nested more than {_DEPTH_MAX} levels deep")
        node = await _file_node(cid, get)
        if expected is None and node.file_bytes > bytes_max:
            raise ContentTooLarge(f"{cid} declares {node.file_bytes:,} bytes; the limit is {bytes_max:,}")
        _check_size(cid, node.file_bytes, expected)
        if node.data:
            position += len(node.data)
            yield node.data
        to_visit.extend((link.cid, link.file_bytes, depth + 1) for link in reversed(node.links))


def _overlap(within: range, position: int, file_bytes: int) -> bool:
    return position < within.stop and position + file_bytes > within.start


async def _file_node(cid: Cid, get: Get) -> FileNode:
    if codec_of(cid) != "dag-pb":
        raise InvalidDag(f"{cid} is a part of a file, but has the codec {codec_of(cid)}")
    node = decode_unixfs(await get(cid))
    if not isinstance(node, FileNode):
        raise InvalidDag(f"{cid} is not a file")
    return node


async def _content(part: _Leaf | bytes, get: Get) -> bytes:
    if isinstance(part, bytes):
        return part
    block = await get(part.cid)
    if len(block) > part.bytes_max:
        raise ContentTooLarge(f"{part.cid} has more than the allowed {part.bytes_max:,} bytes")
    _check_size(part.cid, len(block), part.file_bytes)
    return block


def _check_size(cid: Cid, file_bytes: int, expected: int | None) -> None:
    if expected is not None and file_bytes != expected:
        raise InvalidDag(f"{cid} has {file_bytes:,} bytes; its parent declares {expected:,}")


def _read_chunk(stream: BinaryIO) -> bytes:
    """The next chunk: short only at the end, also where the stream itself reads short (pipes, raw files)."""
    chunk = stream.read(CHUNK_BYTES)
    while 0 < len(chunk) < CHUNK_BYTES:
        more = stream.read(CHUNK_BYTES - len(chunk))
        if not more:
            break
        chunk += more
    return chunk


def _node(links: list[Link], put: Put | None) -> Link:
    block = encode_file_node(links)
    cid = cid_of_block(block, "dag-pb")
    if put is not None:
        put(cid, block)
    return Link(
        cid, len(block) + sum(link.tree_bytes for link in links), sum(link.file_bytes for link in links)
    )
