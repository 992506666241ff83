"""Links and walks: DAG-CBOR is read as its library reads it, and no DAG keeps a walk busy for ever."""

from __future__ import annotations

import struct
from typing import Any

import dag_cbor
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID

from tradepost.content import Cid, cid_of_block
from tradepost.content.ipld.dag import DAG_DEPTH_MAX, DagWalk, links_of
from tradepost.content.ipld.dag_cbor_links import scan_links
from tradepost.content.unixfs.nodes import Link, encode_file_node
from tradepost.errors import ContentTooLarge, InvalidDag

LEAF = cid_of_block(b"leaf", "raw")

cids = st.binary(max_size=4).map(lambda data: CID.decode(cid_of_block(data, "raw")))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | cids
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
)


def links_in(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    """What `scan_links` should find, from the value itself."""
    if isinstance(value, CID):
        return [(path, str(value.set(base="base32")))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in links_in(item, (*path, str(index)))]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in links_in(item, (*path, key))]
    return []


@given(values)
def test_links_are_found_wherever_they_are(value: Any) -> None:
    assert sorted(scan_links(dag_cbor.encode(value))) == sorted(links_in(value))


@given(values, st.data())
def test_a_changed_block_is_read_as_the_library_reads_it_or_refused(value: Any, data: st.DataObject) -> None:
    block = bytearray(dag_cbor.encode(value))
    position = data.draw(st.integers(0, len(block) - 1))
    block[position] = data.draw(st.integers(0, 255))
    try:
        found = scan_links(bytes(block))
    except InvalidDag:
        return
    assert sorted(found) == sorted(links_in(dag_cbor.decode(bytes(block))))


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x01\x01", id="two items"),
        pytest.param(b"\x18\x01", id="a head that is not the shortest"),
        pytest.param(b"\x9f\xff", id="an indefinite length"),
        pytest.param(b"\xa2\x61b\x01\x61a\x01", id="keys out of order"),
        pytest.param(b"\xa2\x61a\x01\x61a\x01", id="a key twice"),
        pytest.param(b"\xa1\x01\x01", id="a key that is a number"),
        pytest.param(b"\x61\xff", id="text that is not UTF-8"),
        pytest.param(b"\xc1\x01", id="another tag"),
        pytest.param(b"\xd8\x2a\x41\x00", id="a link to nothing"),
        pytest.param(b"\xd8\x2a\x40", id="a link of no bytes"),
        pytest.param(b"\xd8\x2a\x46\x00\x01\x55\x00\x01x", id="an identity hash"),
        pytest.param(b"\xd8\x2a\x58\x23\x00\x12\x20" + bytes(32), id="a CIDv0"),
        pytest.param(b"\xf7", id="undefined"),
        pytest.param(b"\xf9\x3c\x00", id="a short float"),
        pytest.param(b"\xfb" + struct.pack(">d", float("nan")), id="not a number"),
        pytest.param(b"\x9b" + b"\xff" * 8, id="more items than there could be"),
        pytest.param(b"\x5b" + b"\xff" * 8, id="more bytes than there are"),
        pytest.param(b"\x81" * 10_000 + b"\x01", id="a depth bomb"),
        pytest.param(b"\xa1\x61a" * 10_000 + b"\x01", id="a depth bomb of maps"),
    ],
)
def test_what_is_no_dag_cbor_is_refused(block: bytes) -> None:
    with pytest.raises(InvalidDag):
        scan_links(block)


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused(noise: bytes) -> None:
    for codec in ("raw", "dag-pb", "dag-cbor"):
        try:
            links_of(cid_of_block(noise, codec), noise)
        except InvalidDag:
            assert codec != "raw"


def chain(length: int) -> tuple[Cid, dict[Cid, bytes]]:
    blocks = {LEAF: b"leaf"}
    cid = LEAF
    for _ in range(length):
        node = encode_file_node([Link(cid, 4, 4)])
        cid = cid_of_block(node, "dag-pb")
        blocks[cid] = node
    return cid, blocks


def walk_all(walk: DagWalk, blocks: dict[Cid, bytes]) -> list[Cid]:
    order: list[Cid] = []
    while (cid := walk.take()) is not None:
        order.append(cid)
        walk.visit(cid, blocks[cid])
    return order


def test_a_walk_is_depth_first_and_sees_each_block_once() -> None:
    leaves = [cid_of_block(b"%d" % number, "raw") for number in range(4)]
    blocks = {cid: b"%d" % number for number, cid in enumerate(leaves)}

    def node(*children: Cid) -> Cid:
        block = encode_file_node([Link(child, 1, 1) for child in children])
        cid = cid_of_block(block, "dag-pb")
        blocks[cid] = block
        return cid

    left = node(leaves[0], leaves[1])
    right = node(leaves[1], leaves[2], leaves[0])
    root = node(left, leaves[3], right, left)
    walk = DagWalk(root, bytes_max=1 << 20)
    assert walk_all(walk, blocks) == [root, left, leaves[0], leaves[1], leaves[3], right, leaves[2]]
    assert (walk.blocks, walk.bytes) == (7, sum(map(len, blocks.values())))


def test_a_cycle_ends() -> None:
    # No honest DAG has one; a source that lies can pretend, since a walk does not hash.
    root = cid_of_block(b"no such block", "dag-pb")
    walk = DagWalk(root, bytes_max=1 << 20)
    assert walk.take() == root
    walk.visit(root, encode_file_node([Link(root, 4, 4)]))
    assert walk.take() is None


def test_a_walk_is_bounded_in_depth_blocks_and_bytes() -> None:
    root, blocks = chain(DAG_DEPTH_MAX + 1)
    with pytest.raises(InvalidDag, match="levels"):
        walk_all(DagWalk(root, bytes_max=1 << 30), blocks)
    root, blocks = chain(20)
    with pytest.raises(InvalidDag, match="blocks"):
        walk_all(DagWalk(root, bytes_max=1 << 30, blocks_max=20), blocks)
    with pytest.raises(ContentTooLarge):
        walk_all(DagWalk(root, bytes_max=len(blocks[root])), blocks)


def test_links_that_wait_are_bounded_where_nodes_share_their_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tradepost.content.ipld.dag.DAG_LINKS_WAITING_MAX", 1000)
    leaves = [cid_of_block(b"%d" % number, "raw") for number in range(100)]

    def tower(floors: int) -> tuple[Cid, dict[Cid, bytes]]:
        """Each floor leads first to the one below, then to the same leaves, each twice."""
        below, blocks = leaves[0], {leaf: b"%d" % number for number, leaf in enumerate(leaves)}
        for _ in range(floors):
            node = encode_file_node([Link(child, 1, 1) for child in (below, *leaves, *leaves)])
            below = cid_of_block(node, "dag-pb")
            blocks[below] = node
        return below, blocks

    root, blocks = tower(9)
    assert len(walk_all(DagWalk(root, bytes_max=1 << 30), blocks)) == 109
    root, blocks = tower(11)
    with pytest.raises(InvalidDag, match="unfollowed links at a time"):
        walk_all(DagWalk(root, bytes_max=1 << 30), blocks)


def test_a_node_of_ten_thousand_links_is_walked() -> None:
    leaves = [cid_of_block(b"%d" % number, "raw") for number in range(10_000)]
    node = encode_file_node([Link(leaf, 1, 1) for leaf in leaves])
    root = cid_of_block(node, "dag-pb")
    blocks = {root: node} | {leaf: b"%d" % number for number, leaf in enumerate(leaves)}
    assert walk_all(DagWalk(root, bytes_max=1 << 20), blocks) == [root, *leaves]
