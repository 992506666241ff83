"""dag-pb and UnixFS: written as Kubo writes them, read strictly, no matter who made them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.content import Cid, cid_of_block
from tradepost.content.ipld.dag_pb import (
    PbLink,
    bytes_field,
    decode_node,
    encode_node,
    encode_varint,
    read_varint,
    varint_field,
)
from tradepost.content.unixfs.nodes import (
    DirectoryNode,
    FileNode,
    Link,
    ShardNode,
    SymlinkNode,
    decode_file_node,
    decode_unixfs,
    encode_directory,
    encode_file_node,
    encode_shard,
    encode_symlink,
)
from tradepost.errors import InvalidDag

LEAF = cid_of_block(b"leaf", "raw")
OTHER = cid_of_block(b"other", "raw")

cids = st.binary(max_size=8).map(lambda data: cid_of_block(data, "raw"))
sizes = st.integers(0, 1 << 40)
names = st.binary(min_size=1, max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def unixfs(kind: int, rest: bytes = b"") -> bytes:
    """The UnixFS data of a node of this type."""
    return varint_field(1, kind) + rest


@given(st.lists(st.builds(PbLink, cids, names | st.just(""), sizes), max_size=6), st.binary(max_size=40))
def test_nodes_round_trip(links: list[PbLink], data: bytes) -> None:
    node = decode_node(encode_node(links, data))
    assert (list(node.links), node.data) == (links, data)


@given(st.integers(0, (1 << 63) - 1))
def test_integers_round_trip(value: int) -> None:
    encoded = encode_varint(value)
    assert read_varint(encoded, 0) == (value, len(encoded))


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 20])
def test_integers_that_are_long_or_not_the_shortest_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="varint"):
        read_varint(data, 0)


def link_body(*fields: bytes) -> bytes:
    return bytes_field(2, b"".join(fields))


HASH, NAME, SIZE = (
    bytes_field(1, bytes.fromhex("01551220") + bytes(32)),
    bytes_field(2, b"n"),
    varint_field(3, 1),
)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(bytes_field(1, b"") + bytes_field(1, b""), id="data twice"),
        pytest.param(link_body(HASH) + bytes_field(1, b"") + link_body(HASH), id="links apart"),
        pytest.param(bytes_field(3, b""), id="an unknown field"),
        pytest.param(varint_field(1, 1), id="a number for data"),
        pytest.param(b"\x0d\x00\x00\x00\x00", id="another wire type"),
        pytest.param(b"\x0a\x05abc", id="cut off"),
        pytest.param(link_body(NAME, HASH), id="a link out of order"),
        pytest.param(link_body(HASH, HASH), id="a hash twice"),
        pytest.param(link_body(NAME, SIZE), id="a link to nothing"),
        pytest.param(link_body(HASH, SIZE, varint_field(4, 1)), id="an unknown field in a link"),
        pytest.param(link_body(bytes_field(1, b"\x12\x20" + bytes(32))), id="a CIDv0"),
        pytest.param(link_body(bytes_field(1, b"\x01\x55\x00\x03abc")), id="an identity hash"),
        pytest.param(b"\x8a\x00\x00", id="a key that is not the shortest"),
    ],
)
def test_other_encodings_of_nodes_are_refused(block: bytes) -> None:
    with pytest.raises(InvalidDag):
        decode_node(block)


def test_data_may_come_first_and_names_may_be_absent() -> None:
    node = decode_node(bytes_field(1, b"data") + link_body(HASH) + link_body(HASH, NAME, SIZE))
    assert node.data == b"data"
    assert [(link.name, link.tree_bytes) for link in node.links] == [("", 0), ("n", 1)]


@given(st.lists(st.builds(Link, cids, sizes, st.integers(1, 1 << 40)), min_size=1, max_size=6))
def test_file_nodes_round_trip(links: list[Link]) -> None:
    block = encode_file_node(links)
    assert decode_file_node(block) == links
    assert decode_unixfs(block) == FileNode(b"", tuple(links))


@given(st.dictionaries(names, st.tuples(cids, sizes), max_size=6))
def test_directories_round_trip_in_the_order_of_their_names_bytes(
    entries: dict[str, tuple[Cid, int]],
) -> None:
    links = [PbLink(cid, name, size) for name, (cid, size) in entries.items()]
    node = decode_unixfs(encode_directory(links))
    assert isinstance(node, DirectoryNode)
    raw = [link.name.encode("utf-8", "surrogateescape") for link in node.entries]
    assert raw == sorted(raw)
    assert set(node.entries) == set(links)


@given(st.dictionaries(st.integers(0, 255), st.builds(PbLink, cids, names | st.just(""), sizes), min_size=1))
def test_shards_round_trip(children: dict[int, PbLink]) -> None:
    assert decode_unixfs(encode_shard(children)) == ShardNode(children)


@given(names.filter(lambda name: "\0" not in name))
def test_symbolic_links_round_trip(target: str) -> None:
    assert decode_unixfs(encode_symlink(target)) == SymlinkNode(target)


@pytest.mark.parametrize(
    ("block", "content"),
    [
        pytest.param(
            encode_node((), unixfs(2, bytes_field(2, b"abc") + varint_field(3, 3))),
            b"abc",
            id="a file inside",
        ),
        pytest.param(
            encode_node((), unixfs(0, bytes_field(2, b"abc") + varint_field(3, 3))), b"abc", id="raw"
        ),
        pytest.param(
            encode_node(
                (),
                unixfs(
                    2,
                    bytes_field(2, b"x")
                    + varint_field(3, 1)
                    + varint_field(7, 0o644)
                    + bytes_field(8, b"\x08\x01"),
                ),
            ),
            b"x",
            id="with mode and time",
        ),
        pytest.param(encode_node((), unixfs(2)), b"", id="empty"),
    ],
)
def test_other_peoples_files_are_read(block: bytes, content: bytes) -> None:
    assert decode_unixfs(block) == FileNode(content, ())


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(encode_node((), b""), id="no type"),
        pytest.param(encode_node((), unixfs(3)), id="metadata"),
        pytest.param(encode_node((), unixfs(2, varint_field(3, 1))), id="a size without content"),
        pytest.param(encode_node((), unixfs(1, unixfs(2))), id="a type twice"),
        pytest.param(encode_node((), unixfs(2, varint_field(9, 1))), id="an unknown field"),
        pytest.param(
            encode_node([PbLink(LEAF, "", 4)], unixfs(2, varint_field(3, 4))), id="a link without a size"
        ),
        pytest.param(
            encode_node([PbLink(LEAF, "", 0)], unixfs(2, varint_field(3, 0) + varint_field(4, 0))),
            id="a child that is empty",
        ),
        pytest.param(
            encode_node([PbLink(LEAF, "n", 4)], unixfs(2, varint_field(3, 4) + varint_field(4, 4))),
            id="a file with a named link",
        ),
        pytest.param(
            encode_node([PbLink(LEAF, "a", 4), PbLink(OTHER, "a", 4)], unixfs(1)), id="a name twice"
        ),
        pytest.param(encode_node((), unixfs(1, bytes_field(2, b"x"))), id="a directory with content"),
        pytest.param(
            encode_node(
                [PbLink(LEAF, "0Aa", 4)],
                unixfs(5, bytes_field(2, b"\x01") + varint_field(5, 0x22) + varint_field(6, 256)),
            ),
            id="a shard with another bit",
        ),
        pytest.param(
            encode_node(
                [PbLink(LEAF, "0aa", 4)],
                unixfs(5, bytes_field(2, b"\x04\x00") + varint_field(5, 0x22) + varint_field(6, 256)),
            ),
            id="a slot in lower case",
        ),
        pytest.param(
            encode_node(
                [PbLink(LEAF, "0Aa", 4)],
                unixfs(5, bytes_field(2, b"\x04\x00") + varint_field(5, 0x23) + varint_field(6, 256)),
            ),
            id="another hash",
        ),
        pytest.param(
            encode_node(
                [PbLink(LEAF, "0Aa", 4)],
                unixfs(5, bytes_field(2, b"\x04\x00") + varint_field(5, 0x22) + varint_field(6, 1024)),
            ),
            id="another fanout",
        ),
        pytest.param(encode_node((), unixfs(4)), id="a link to nowhere"),
        pytest.param(encode_node((), unixfs(4, bytes_field(2, b"a\0b"))), id="a link with NUL in it"),
        pytest.param(encode_node((), unixfs(4, bytes_field(2, b"a" * 5000))), id="a link that is too long"),
    ],
)
def test_nodes_that_contradict_themselves_are_refused(block: bytes) -> None:
    with pytest.raises(InvalidDag):
        decode_unixfs(block)


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused_and_never_more(noise: bytes) -> None:
    with contextlib.suppress(InvalidDag):
        decode_unixfs(noise)


def test_ten_thousand_links_are_read() -> None:
    links = [Link(LEAF, 4, 4)] * 10_000
    assert decode_file_node(encode_file_node(links)) == links
