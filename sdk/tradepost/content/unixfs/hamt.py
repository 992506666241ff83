"""Large directories over many blocks: a hash array mapped trie, the same as Kubo's.

Each name is hashed with murmur3 (x64, 64 bits, big-endian); byte n of the hash is the slot in the shard at
depth n. A slot holds an entry, or a further shard where several names share it. The trie depends on its names
alone, not on the order in which they came, so that equal directories have equal CIDs.
(Spec: specs.ipfs.tech/unixfs, "HAMTDirectory".)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Final

import mmh3

from tradepost.content.ipld.cids import Cid, cid_of_block
from tradepost.content.ipld.dag_pb import PbLink, name_bytes
from tradepost.content.unixfs.files import Get, Put
from tradepost.content.unixfs.nodes import ShardNode, decode_unixfs, encode_shard
from tradepost.errors import InvalidDag, UnreadableContent

#: Shards of one directory. One of a million entries has some 66,000.
SHARDS_MAX: Final = 1 << 18
_HASH_BYTES: Final = 8


def add_sharded(entries: Iterable[PbLink], *, put: Put | None) -> PbLink:
    """The root of a sharded directory with these entries; each shard goes to `put`, children first.

    Raises `UnreadableContent` for names whose hashes are equal, which nobody can shard.
    """
    return _add_shard([(_hash(link.name), link) for link in entries], 0, put)


async def find_in_shards(root: ShardNode, name: str, get: Get) -> Cid | None:
    """The entry called `name`, or `None`; asks `get` for the shards on the way alone."""
    shard = root
    for slot in _hash(name):
        child = shard.children.get(slot)
        if child is None or (child.name and child.name != name):
            return None
        if child.name:
            return child.cid
        shard = await _shard(child.cid, get)
    return None


async def list_shards(root: ShardNode, get: Get) -> AsyncGenerator[PbLink, None]:
    """All entries.

    Raises `InvalidDag` for an entry that `find_in_shards` would not find, and beyond `SHARDS_MAX` shards.
    """
    to_visit: list[tuple[Cid | None, bytes]] = [(None, b"")]
    visited = 0
    while to_visit:
        cid, prefix = to_visit.pop()
        visited += 1
        if visited > SHARDS_MAX:
            raise InvalidDag(f"a directory of more than {SHARDS_MAX:,} shards")
        if len(prefix) == _HASH_BYTES:
            raise InvalidDag("a shard deeper than its hash")
        shard = root if cid is None else await _shard(cid, get)
        for slot, child in shard.children.items():
            place = prefix + bytes((slot,))
            if not child.name:
                to_visit.append((child.cid, place))
            elif _hash(child.name).startswith(place):
                yield child
            else:
                raise InvalidDag(f"{child.name[:80]!r} is in the wrong shard for its hash")


async def _shard(cid: Cid, get: Get) -> ShardNode:
    node = decode_unixfs(await get(cid))
    if not isinstance(node, ShardNode) or not node.children:
        raise InvalidDag(f"{cid} is linked as a shard but is not one")
    return node


def _add_shard(entries: list[tuple[bytes, PbLink]], depth: int, put: Put | None) -> PbLink:
    if depth == _HASH_BYTES:
        names = ", ".join(link.name for _, link in entries)
        raise UnreadableContent(f"names with equal hashes: {names}", hint="Rename all but one of them.")
    slots: dict[int, list[tuple[bytes, PbLink]]] = {}
    for entry in entries:
        slots.setdefault(entry[0][depth], []).append(entry)
    children = {
        slot: inside[0][1] if len(inside) == 1 else _add_shard(inside, depth + 1, put)
        for slot, inside in slots.items()
    }
    block = encode_shard(children)
    cid = cid_of_block(block, "dag-pb")
    if put is not None:
        put(cid, block)
    return PbLink(cid, "", len(block) + sum(child.tree_bytes for child in children.values()))


def _hash(name: str) -> bytes:
    return mmh3.hash64(name_bytes(name), signed=False)[0].to_bytes(_HASH_BYTES, "big")
