"""Files as IPFS addresses them: fixed-size chunks as raw leaves under a balanced tree of dag-pb nodes.

The import profile is Kubo's for `ipfs add --cid-version=1`: `CHUNK_BYTES` per leaf, `LINKS_PER_NODE` children
per node; a file of one chunk is its leaf. Memory stays constant: at most one open node per level of the tree.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Final

from tradepost.content.cids import Cid, cid_of_block, codec_of
from tradepost.content.unixfs import Link, decode_file_node, encode_file_node
from tradepost.errors import ContentMismatch, ContentTooLarge

CHUNK_BYTES: Final = 256 << 10
LINKS_PER_NODE: Final = 174
_DEPTH_MAX: Final = 8

#: Takes a block's CID and bytes, to keep or send it.
Put = Callable[[Cid, bytes], None]


def add_bytes(data: bytes, *, put: Put | None) -> Cid:
    """The CID of a file with this content; each of its blocks goes to `put`, children first."""
    return add_stream(io.BytesIO(data), put=put)


def add_file(path: Path, *, put: Put | None) -> Cid:
    """The CID of the file at `path`; each of its blocks goes to `put`, children first."""
    with path.open("rb") as file:
        return add_stream(file, put=put)


def add_stream(stream: BinaryIO, *, put: Put | None) -> Cid:
    """The CID of what `stream` yields; each block goes to `put`, children first."""
    levels: list[list[Link]] = [[]]

    def emit(level: int, link: Link) -> None:
        if level == len(levels):
            levels.append([])
        if len(levels[level]) == LINKS_PER_NODE:
            emit(level + 1, _node(levels[level], put))
            levels[level] = []
        levels[level].append(link)

    chunk = stream.read(CHUNK_BYTES)
    while True:
        cid = cid_of_block(chunk, "raw")
        if put is not None:
            put(cid, chunk)
        emit(0, Link(cid, len(chunk), len(chunk)))
        chunk = stream.read(CHUNK_BYTES)
        if not chunk:
            break
    level = 0
    while level + 1 < len(levels) or len(levels[level]) > 1:
        emit(level + 1, _node(levels[level], put))
        level += 1
    return levels[level][0].cid


async def read_file(cid: Cid, get: Callable[[Cid], Awaitable[bytes]], *, bytes_max: int) -> bytes:
    """The content of the file at `cid`, of which `get` returns verified blocks.

    Raises `ContentTooLarge` beyond `bytes_max` (as declared, before the blocks are fetched) and
    `ContentMismatch` where the tree is no file or its sizes lie.
    """
    parts: list[bytes] = []
    await _read_into(parts, cid, get, bytes_max, depth=0)
    return b"".join(parts)


async def _read_into(
    parts: list[bytes], cid: Cid, get: Callable[[Cid], Awaitable[bytes]], room: int, *, depth: int
) -> int:
    block = await get(cid)
    if codec_of(cid) != "dag-pb":
        if len(block) > room:
            raise ContentTooLarge(f"{cid} holds more than the {room:,} bytes that are allowed here")
        parts.append(block)
        return len(block)
    if depth == _DEPTH_MAX:
        raise ContentMismatch(f"{cid} is nested more than {_DEPTH_MAX} levels deep")
    links = decode_file_node(block)
    declared = sum(link.file_bytes for link in links)
    if declared > room:
        raise ContentTooLarge(f"{cid} declares {declared:,} bytes; {room:,} are allowed here")
    for link in links:
        read = await _read_into(parts, link.cid, get, link.file_bytes, depth=depth + 1)
        if read != link.file_bytes:
            raise ContentMismatch(f"{link.cid} holds {read:,} bytes; its parent says {link.file_bytes:,}")
    return declared


def _node(links: list[Link], put: Put | None) -> Link:
    block = encode_file_node(links)
    cid = cid_of_block(block, "dag-pb")
    if put is not None:
        put(cid, block)
    return Link(
        cid, len(block) + sum(link.tree_bytes for link in links), sum(link.file_bytes for link in links)
    )
