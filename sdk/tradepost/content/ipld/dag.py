"""Walks a DAG: finds the blocks below a root through their links, within limits.

`DagWalk` decides and does no I/O, so that the exporter and the fetcher share it, one block at a time or many
at once; pins, which pass over what is missing, share `links_of`. Links are hashes, so an honest DAG has no
cycle; a set of what was seen ends any other.
"""

from __future__ import annotations

from typing import Final

from tradepost.content.ipld.cids import Cid, codec_of
from tradepost.content.ipld.dag_cbor_links import scan_links
from tradepost.content.ipld.dag_pb import decode_node
from tradepost.errors import ContentTooLarge, InvalidDag

#: Blocks of one DAG; its CIDs take about 60 MB of memory.
DAG_BLOCKS_MAX: Final = 1 << 18
DAG_DEPTH_MAX: Final = 4096
#: Links that wait to be followed. Nodes that share their children can have far more of them than blocks.
DAG_LINKS_WAITING_MAX: Final = 1 << 20


def links_of(cid: Cid, block: bytes) -> list[Cid]:
    """The CIDs that a block links to, in order. Raises `InvalidDag` where its codec does not read it."""
    codec = codec_of(cid)
    if codec == "dag-pb":
        return [link.cid for link in decode_node(block).links]
    if codec == "dag-cbor":
        return [link for _, link in scan_links(block)]
    return []


class DagWalk:
    """The blocks of the DAG below `root`, each once, parents before children.

    Taking one, visiting it, and taking the next goes depth first, in the order of the links.
    """

    def __init__(self, root: Cid, *, bytes_max: int, blocks_max: int = DAG_BLOCKS_MAX) -> None:
        self.blocks = 0
        self.bytes = 0
        self._bytes_max = bytes_max
        self._blocks_max = blocks_max
        self._to_take: list[tuple[Cid, int]] = [(root, 0)]
        self._seen: set[Cid] = set()
        self._depths: dict[Cid, int] = {}

    def take(self) -> Cid | None:
        """The next block to get; `None` when there is none, until one of those taken is visited.

        Raises `InvalidDag` beyond the limits.
        """
        while self._to_take:
            cid, depth = self._to_take.pop()
            if cid in self._seen:
                continue
            if len(self._seen) == self._blocks_max or depth > DAG_DEPTH_MAX:
                raise InvalidDag(
                    f"a DAG of more than {self._blocks_max:,} blocks or {DAG_DEPTH_MAX:,} levels"
                )
            self._seen.add(cid)
            self._depths[cid] = depth
            return cid
        return None

    def visit(self, cid: Cid, block: bytes) -> None:
        """Count a block that was taken, and queue its links.

        Raises `ContentTooLarge`, or `InvalidDag` for what has no readable links or too many.
        """
        self.blocks += 1
        self.bytes += len(block)
        if self.bytes > self._bytes_max:
            raise ContentTooLarge(f"more than the allowed {self._bytes_max:,} bytes")
        depth = self._depths.pop(cid)
        links = [link for link in dict.fromkeys(links_of(cid, block)) if link not in self._seen]
        if len(self._to_take) + len(links) > DAG_LINKS_WAITING_MAX:
            raise InvalidDag(f"a DAG with more than {DAG_LINKS_WAITING_MAX:,} unfollowed links at a time")
        self._to_take.extend((link, depth + 1) for link in reversed(links))
