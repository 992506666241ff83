"""The blocks of uploaded files: which there are, their sizes, and whether one holder put all of them here.

Files come from strangers. A walk reads the nodes of a file and looks every block up, which takes time with
the number of blocks, so it runs in a thread with a connection of its own, and what a file may have is bounded
before it is walked: its bytes as its root declares them, and its blocks by these bytes. A leaf of the usual
size has 256 KiB; one of some bytes costs a disk and a walk as much as that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec
from cachetools import LRUCache
from sqlalchemy import func, select

from tradepost.content import BlockReader, Cid, codec_of, parse_cid
from tradepost.content.unixfs.files import FILE_BLOCKS_MAX
from tradepost.content.unixfs.nodes import decode_file_node
from tradepost.errors import ContentTooLarge, InvalidCid, UnknownCid
from tradepost_broker.content.turns import Turns
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import Upload
from tradepost_broker.storage.store import Reader

#: Blocks that any file may have; beyond, one for each `BLOCK_SHARE_BYTES` of the file.
BLOCKS_MIN: Final = 1_024
BLOCK_SHARE_BYTES: Final = 64 << 10
#: A link in a node is shorter: a CID, two sizes, and no name.
_LINK_BYTES_MAX: Final = 128
#: Blocks that one query looks up.
_AT_ONCE: Final = 4_096
_WALKS_AT_ONCE: Final = 2
#: Blocks of all trees that are kept at hand.
_KEPT_BLOCKS: Final = FILE_BLOCKS_MAX


@dataclass(slots=True)
class FileTree:
    """The blocks of a file with their sizes in bytes, and when they were last noted as used."""

    sizes: Mapping[str, int]
    used_at: float = 0.0

    def __len__(self) -> int:
        return len(self.sizes)


class FileTrees:
    """Walks files. `open_reader` opens a connection to the store's database, for the walks."""

    def __init__(self, *, blocks: BlockReader, open_reader: Callable[[], Reader]) -> None:
        self._blocks = blocks
        self._open_reader = open_reader
        self._turns = Turns(_WALKS_AT_ONCE)
        self._kept: LRUCache[tuple[str, str], FileTree] = LRUCache(_KEPT_BLOCKS, getsizeof=len)
        self._drops = 0
        self._walker = ThreadPoolExecutor(_WALKS_AT_ONCE, thread_name_prefix="tradepost-walks")

    def close(self) -> None:
        """Finish walking."""
        self._walker.shutdown()

    def forget(self, holders: Collection[str]) -> None:
        """Walk the files of these holders again from now on: uploads of theirs were dropped."""
        self._drops += 1
        for key in [key for key in self._kept if key[0] in holders]:
            del self._kept[key]

    async def tree(self, holder: str, root: str, *, bytes_max: int | None = None) -> FileTree:
        """The blocks of the file at `root`, all of which `holder` put here.

        Raises `UnknownCid` for a block that is missing or another's, `InvalidDag` or `InvalidCid` for what is
        no file, `ContentTooLarge` if it declares more than `bytes_max` bytes or has too many blocks for its
        size. A tree that is cached is not walked, so `bytes_max` is not held against it.
        """
        known = self._kept.get((holder, root))
        if known is None:
            async with self._turns.of(holder):
                drops = self._drops
                known = self._kept.get((holder, root)) or FileTree(
                    await asyncio.get_running_loop().run_in_executor(
                        self._walker, self._walk, holder, parse_cid(root), bytes_max
                    )
                )
                if drops == self._drops:
                    self._kept[holder, root] = known
        return known

    def _walk(self, holder: str, root: Cid, bytes_max: int | None) -> dict[str, int]:
        reader = self._open_reader()
        try:
            sizes: dict[str, int] = {}
            level, seen, blocks_max = [root], {root}, FILE_BLOCKS_MAX
            while level:
                sizes |= _sizes_of(reader, holder, level)
                below: list[Cid] = []
                for cid in _nodes_of(level):
                    if sizes[cid] > blocks_max * _LINK_BYTES_MAX:
                        raise _too_many(root, blocks_max)
                    links = decode_file_node(self._blocks.get(cid))
                    if cid == root:
                        blocks_max = _blocks_max(root, sum(link.file_bytes for link in links), bytes_max)
                    # Queued once each, however many nodes share them.
                    fresh = {link.cid for link in links} - seen
                    seen |= fresh
                    below += sorted(fresh)
                    if len(seen) > blocks_max:
                        raise _too_many(root, blocks_max)
                level = below
            # What the root declares is not believed.
            if len(sizes) > (most := _blocks_max(root, sum(sizes.values()), None)):
                raise _too_many(root, most)
            return sizes
        finally:
            reader.close()


def _nodes_of(cids: Iterable[Cid]) -> Iterator[Cid]:
    for cid in cids:
        codec = codec_of(cid)
        if codec == "dag-pb":
            yield cid
        elif codec != "raw":
            raise InvalidCid(f"{cid} is {codec}, which is not a file")


def _sizes_of(reader: Reader, holder: str, cids: Sequence[Cid]) -> dict[str, int]:
    """The sizes in bytes of these blocks. Raises `UnknownCid` for one that `holder` did not put here."""
    table = CODECS[Upload].table
    sizes: dict[str, int] = {}
    for start in range(0, len(cids), _AT_ONCE):
        some = cids[start : start + _AT_ONCE]
        ids = msgspec.json.encode([Upload.key(holder, cid) for cid in some]).decode()
        wanted = select(func.json_each(ids).table_valued("value").c.value)
        # In one row: a thread that is not the loop's waits for the interpreter's lock after each.
        found = select(func.json_group_object(table.c.cid, table.c.size_bytes)).where(table.c.id.in_(wanted))
        sizes |= msgspec.json.decode(reader.query(found)[0][0], type=dict[str, int])
        for cid in some:
            if cid not in sizes:
                raise UnknownCid(f"{cid} was not uploaded with these credentials", cid=cid)
    return sizes


def _blocks_max(root: str, file_bytes: int, bytes_max: int | None) -> int:
    if bytes_max is not None and file_bytes > bytes_max:
        raise ContentTooLarge(f"{root} declares {file_bytes:,} bytes; the limit is {bytes_max:,}")
    return min(FILE_BLOCKS_MAX, BLOCKS_MIN + file_bytes // BLOCK_SHARE_BYTES)


def _too_many(root: str, blocks_max: int) -> ContentTooLarge:
    return ContentTooLarge(
        f"{root} has more than {blocks_max:,} blocks, which is too many for its size",
        hint="Add the file again with chunks of 256 KiB, as `ipfs add --cid-version=1` makes them.",
        limit_blocks=blocks_max,
    )
