"""Small blocks with numbers, put into a store and found in it."""

from __future__ import annotations

from tradepost.content import Cid, FolderStore, cid_of_block
from tradepost.content.ipld.dag_pb import PbLink
from tradepost.content.unixfs.nodes import encode_directory


def block(number: int, size: int = 100) -> bytes:
    """The bytes of one of many blocks."""
    return b"%06d" % number + bytes(size - 6)


def cid(number: int, size: int = 100) -> Cid:
    """The name of one of many blocks."""
    return cid_of_block(block(number, size), "raw")


def put(store: FolderStore, *numbers: int) -> None:
    """Put these blocks, of 100 bytes each, into a store."""
    for number in numbers:
        store.put(cid(number), block(number))


def held(store: FolderStore) -> set[Cid]:
    """The names of all blocks in a store."""
    return {file.cid for file in store.blocks()}


def names(*numbers: int) -> set[Cid]:
    """The names of these blocks."""
    return {cid(number) for number in numbers}


def folder_of(store: FolderStore, *children: Cid) -> Cid:
    """Put the node of a directory with these children, which need not be there; its name."""
    data = encode_directory(PbLink(child, f"n{number}", 100) for number, child in enumerate(children))
    root = cid_of_block(data, "dag-pb")
    store.put(root, data)
    return root
