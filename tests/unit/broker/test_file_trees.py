"""Files are walked off the event loop, within bounds, and once for many uses."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path

import pytest

from tradepost.content import Cid, cid_of_block
from tradepost.content.unixfs.nodes import Link, encode_file_node
from tradepost.errors import ContentTooLarge, InvalidCid, InvalidDag, UnknownCid
from tradepost_broker.content.file_trees import BLOCK_SHARE_BYTES, BLOCKS_MIN, FileTrees
from tradepost_broker.storage.shell_records import Upload
from tradepost_broker.storage.store import Deletion, Reader, Store


class Content:
    """What `alice` has uploaded, and who read it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.blocks: dict[str, bytes] = {}
        self.read: list[str] = []
        self.threads: set[int] = set()
        self.opened = 0
        self.trees = FileTrees(blocks=self, open_reader=self.open_reader)

    def open_reader(self) -> Reader:
        self.opened += 1
        return self.store.open_reader()

    def get(self, cid: Cid) -> bytes:
        """A block."""
        self.read.append(cid)
        self.threads.add(threading.get_ident())
        return self.blocks[cid]

    def has(self, cid: Cid) -> bool:
        """Whether it is here."""
        return cid in self.blocks

    def put(self, blocks: Iterable[tuple[Cid, bytes]], *, holder: str = "account:alice") -> None:
        """Upload blocks."""
        transaction = self.store.begin()
        for cid, data in blocks:
            self.blocks[cid] = data
            key = Upload.key(holder, cid)
            transaction.save(Upload(id=key, holder=holder, cid=cid, size_bytes=len(data), at=1.0))
        transaction.flush()
        transaction.commit()

    def file_of(self, leaves: list[bytes], *, declared: int | None = None) -> Cid:
        """A file of these leaves, of which each declares `declared` bytes, or as many as it has."""
        blocks = [(cid_of_block(data, "raw"), data) for data in leaves]
        links = [Link(cid, len(data), declared or len(data)) for cid, data in blocks]
        node = encode_file_node(links)
        root = cid_of_block(node, "dag-pb")
        self.put([*blocks, (root, node)])
        return root


@pytest.fixture
async def content(tmp_path: Path) -> AsyncIterator[Content]:
    with closing(Store(tmp_path / "broker.sqlite3")) as store:
        made = Content(store)
        yield made
        made.trees.close()


def small(count: int) -> list[bytes]:
    """So many different leaves of a few bytes."""
    return [f"{number:06}".encode() for number in range(count)]


async def test_every_block_with_its_size(content: Content) -> None:
    root = content.file_of(small(3))
    tree = await content.trees.tree("account:alice", root)
    assert tree.sizes == {cid: len(data) for cid, data in content.blocks.items()}


async def test_nothing_of_a_walk_is_on_the_loop(content: Content) -> None:
    await content.trees.tree("account:alice", content.file_of(small(3)))
    assert content.threads
    assert threading.get_ident() not in content.threads


async def test_a_file_of_many_small_blocks_is_too_much(content: Content) -> None:
    await content.trees.tree("account:alice", content.file_of(small(BLOCKS_MIN - 1)))
    with pytest.raises(ContentTooLarge, match=f"more than {BLOCKS_MIN:,} blocks"):
        await content.trees.tree("account:alice", content.file_of(small(BLOCKS_MIN)))


async def test_more_bytes_allow_more_blocks(content: Content) -> None:
    large = [*small(BLOCKS_MIN - 1), bytes(2 * BLOCK_SHARE_BYTES)]
    assert len(await content.trees.tree("account:alice", content.file_of(large))) == BLOCKS_MIN + 1


async def test_more_bytes_must_be_there(content: Content) -> None:
    root = content.file_of(small(BLOCKS_MIN + 10), declared=BLOCK_SHARE_BYTES)
    with pytest.raises(ContentTooLarge, match="too many for its size"):
        await content.trees.tree("account:alice", root)


async def test_the_size_is_known_before_the_walk(content: Content) -> None:
    inner = content.file_of(small(4))
    node = encode_file_node([Link(inner, 100, 24), Link(inner, 100, 24)])
    root = cid_of_block(node, "dag-pb")
    content.put([(root, node)])
    with pytest.raises(ContentTooLarge, match="declares 48 bytes; the limit is 47"):
        await content.trees.tree("account:alice", root, bytes_max=47)
    assert content.read == [root]
    assert len(await content.trees.tree("account:alice", root, bytes_max=48)) == 6


async def test_a_node_that_must_have_too_many_links_is_not_read(content: Content) -> None:
    leaf = cid_of_block(b"x", "raw")
    node = encode_file_node([Link(leaf, 1, 1)] * 3_000)
    inner = cid_of_block(node, "dag-pb")
    node_above = encode_file_node([Link(inner, 100, 3_000)])
    root = cid_of_block(node_above, "dag-pb")
    content.put([(leaf, b"x"), (inner, node), (root, node_above)])
    with pytest.raises(ContentTooLarge):
        await content.trees.tree("account:alice", root)
    assert content.read == [root]


async def test_it_is_walked_once_until_uploads_are_dropped(content: Content) -> None:
    root = content.file_of(small(3))
    for _ in range(5):
        await content.trees.tree("account:alice", root)
    assert content.opened == 1
    transaction = content.store.begin()
    transaction.delete(Deletion("DELETE FROM uploads WHERE cid = ?", (root,)))
    transaction.flush()
    transaction.commit()
    content.trees.forget(["account:alice"])
    with pytest.raises(UnknownCid):
        await content.trees.tree("account:alice", root)


async def test_only_the_trees_of_those_whose_uploads_were_dropped_are_walked_again(content: Content) -> None:
    root = content.file_of(small(3))
    await content.trees.tree("account:alice", root)
    content.trees.forget(["account:bob", "lease:of-alice"])
    await content.trees.tree("account:alice", root)
    assert content.opened == 1
    content.trees.forget(["account:bob", "account:alice"])
    await content.trees.tree("account:alice", root)
    assert content.opened == 2


async def test_it_is_each_holders_own(content: Content) -> None:
    root = content.file_of(small(3))
    await content.trees.tree("account:alice", root)
    content.put([(root, content.blocks[root])], holder="account:bob")
    with pytest.raises(UnknownCid, match="not uploaded with these credentials"):
        await content.trees.tree("account:bob", root)


async def test_what_is_no_file(content: Content) -> None:
    manifest = cid_of_block(b"\xa0", "dag-cbor")
    content.put([(manifest, b"\xa0")])
    with pytest.raises(InvalidCid, match="not a file"):
        await content.trees.tree("account:alice", manifest)
    broken = cid_of_block(b"?", "dag-pb")
    content.put([(broken, b"?")])
    with pytest.raises(InvalidDag):
        await content.trees.tree("account:alice", broken)
