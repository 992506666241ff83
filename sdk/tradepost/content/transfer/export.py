"""The blocks that answer a request for a path, in the order in which a verifier needs them.

First the blocks on the way, which prove the path; then, of what lies at its end, the `scope` of the Trustless
Gateway specification: `block`, that block; `entity`, all of a file or the listing of a directory; `all`, the
whole DAG. Depth first, no block twice: `order=dfs; dups=n`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

from tradepost.content.ipld.cids import Cid, codec_of
from tradepost.content.ipld.dag import DagWalk
from tradepost.content.transfer.car import encode_header, encode_section
from tradepost.content.unixfs.directories import list_directory
from tradepost.content.unixfs.files import Get, stream_file
from tradepost.content.unixfs.nodes import DirectoryNode, FileNode, ShardNode, UnixFsNode, decode_unixfs
from tradepost.content.unixfs.paths import resolve
from tradepost.errors import InvalidDag

Scope = Literal["block", "entity", "all"]
_BYTES_MAX: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class EntityBytes:
    """A range of a file's content, as in `entity-bytes=first:last`; negative counts from the end."""

    first: int
    last: int | None

    def within(self, file_bytes: int) -> range:
        """The offsets in a file of this size."""
        first = self.first if self.first >= 0 else max(0, file_bytes + self.first)
        last = file_bytes - 1 if self.last is None else self.last
        return range(first, (last if last >= 0 else file_bytes + last) + 1)


async def export_car(
    root: Cid,
    segments: tuple[str, ...],
    get: Get,
    *,
    scope: Scope = "all",
    entity_bytes: EntityBytes | None = None,
) -> AsyncGenerator[bytes, None]:
    """A CAR of the blocks for a path, piece by piece; its one root is the CID at the end of the path.

    Raises `UnknownPath` and `UnknownCid` before the first piece, if the path or its end is missing; later
    `InvalidDag`, and what `get` raises: then the CAR is cut off.
    """
    recorder = _Recorder(get)
    end = await resolve(root, segments, recorder)
    block = await recorder(end)
    yield encode_header((end,)) + recorder.drain()
    if scope == "all":
        walk = DagWalk(end, bytes_max=_BYTES_MAX)
        while (cid := walk.take()) is not None:
            walk.visit(cid, await recorder(cid))
            if piece := recorder.drain():
                yield piece
    elif scope == "entity":
        async with aclosing(_read_entity(end, block, recorder, entity_bytes)) as reading:
            async for _ in reading:
                if piece := recorder.drain():
                    yield piece
        if piece := recorder.drain():
            yield piece


async def _read_entity(
    end: Cid, block: bytes, get: Get, entity_bytes: EntityBytes | None
) -> AsyncGenerator[object, None]:
    """Read a file or list a directory, step by step, for the sake of the blocks that this needs."""
    node = _unixfs(end, block)
    if isinstance(node, FileNode):
        within = None if entity_bytes is None else entity_bytes.within(node.file_bytes)
        if within is not None and not within:
            return  # no byte of the file: its root, which is sent, tells the asking side why
        async with aclosing(stream_file(end, get, bytes_max=_BYTES_MAX, within=within)) as parts:
            async for part in parts:
                yield part
    elif isinstance(node, DirectoryNode | ShardNode):
        async with aclosing(list_directory(end, get)) as entries:
            async for entry in entries:
                yield entry


def _unixfs(cid: Cid, block: bytes) -> UnixFsNode | None:
    if codec_of(cid) != "dag-pb":
        return None  # a raw or dag-cbor block is an entity of one block
    try:
        return decode_unixfs(block)
    except InvalidDag:
        return None  # dag-pb that is no UnixFS is an entity of one block


class _Recorder:
    """A `Get` that keeps the sections of what it gave, each block once, until it is drained."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self._seen: set[Cid] = set()
        self._fresh: list[bytes] = []

    async def __call__(self, cid: Cid) -> bytes:
        block = await self._get(cid)
        if cid not in self._seen:
            self._seen.add(cid)
            self._fresh.append(encode_section(cid, block))
        return block

    def drain(self) -> bytes:
        fresh, self._fresh = self._fresh, []
        return b"".join(fresh)
