"""CIDs and files as IPFS addresses them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.content import (
    BLOCK_BYTES_MAX,
    Cid,
    add_bytes,
    cid_of_block,
    codec_of,
    parse_cid,
    read_file,
    verify_block,
)
from tradepost.content.ipld.cids import cid_from_bytes, cid_to_bytes
from tradepost.content.unixfs.nodes import Link, decode_file_node, encode_file_node
from tradepost.errors import (
    ContentMismatch,
    ContentTooLarge,
    InvalidCid,
    TradepostError,
)

# Made with Kubo 0.41.0: `ipfs add -Qn --cid-version=1` of this many bytes of b"tradepost ".
KUBO = {
    0: "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    1: "bafkreihdxgfe3iy2cj6uxxtoimbt6zv2e5gkwdvx5mohb3cbiav7mjz53a",
    262_144: "bafkreif73d3qr3yiyc4vbwl2dqagj232ftvvgkqbammtbi4etlebuouvqe",
    262_145: "bafybeiacytrdlblsrlj7xs5gwpgsocruwsrugaakft5xqf3hgxmbwae4ua",
    1_048_576: "bafybeihosuv34e7um652ou5ilfz6cli6x62xvlolrvknd2iuf7fcvimet4",
    45_613_056: "bafybeieeogg2yklqcwi5v5wxi3opa4puk2dhx2c5vlwijiewuugtror2nm",
    45_613_057: "bafybeihy4lodfogfyq65fw43nmv2pvftukwuw4xemdibw6w262wxxvymf4",
}


def text_of(size: int) -> bytes:
    return (b"tradepost " * (size // 10 + 1))[:size]


@pytest.mark.parametrize("size", sorted(KUBO))
def test_files_have_the_cid_that_kubo_gives(size: int) -> None:
    assert add_bytes(text_of(size), put=None) == KUBO[size]


@given(st.binary(max_size=100), st.sampled_from(["raw", "dag-pb", "dag-cbor"]))
def test_cid_text_and_bytes_round_trip(data: bytes, codec: str) -> None:
    cid = cid_of_block(data, codec)  # type: ignore[arg-type]
    assert parse_cid(cid) == cid
    assert cid_from_bytes(cid_to_bytes(cid)) == cid
    assert codec_of(cid) == codec
    verify_block(cid, data, source="test")


@given(st.text(max_size=70))
def test_no_other_text_is_a_cid(text: str) -> None:
    with pytest.raises(InvalidCid):
        parse_cid(text)


@given(st.integers(0, 58), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567ABZ089=é "))
def test_a_changed_character_gives_another_cid_or_none(position: int, character: str) -> None:
    cid = cid_of_block(b"x", "raw")
    changed = cid[:position] + character + cid[position + 1 :]
    try:
        parsed = parse_cid(changed)
    except InvalidCid:
        return
    if cid_to_bytes(parsed)[4:] == cid_to_bytes(cid)[4:]:
        return  # the same block, said to be of another codec
    with pytest.raises(ContentMismatch):
        verify_block(parsed, b"x", source="test")


@pytest.mark.parametrize(
    "text",
    [
        "bafkqaaa",  # an identity hash
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnjuNQ",  # CIDv0
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykv",  # stray bits at the end
        "",
    ],
)
def test_other_kinds_of_cid_are_refused(text: str) -> None:
    with pytest.raises(InvalidCid):
        parse_cid(text)


def test_a_cid_of_version_0_is_named_as_such() -> None:
    text = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnjuNQ"
    for refuse in (lambda: parse_cid(text), lambda: cid_from_bytes(b"\x12\x20" + bytes(34))):
        with pytest.raises(InvalidCid, match="is a CIDv0") as caught:
            refuse()
        assert "--cid-version=1" in str(caught.value.hint)


def test_a_block_over_the_limit_is_refused() -> None:
    with pytest.raises(ContentTooLarge):
        cid_of_block(bytes(BLOCK_BYTES_MAX + 1), "raw")


def stored(data: bytes) -> tuple[Cid, dict[Cid, bytes]]:
    blocks: dict[Cid, bytes] = {}
    return add_bytes(data, put=blocks.__setitem__), blocks


def read(cid: Cid, blocks: dict[Cid, bytes], bytes_max: int = 1 << 30) -> bytes:
    async def get(cid: Cid) -> bytes:
        return blocks[cid]

    return asyncio.run(read_file(cid, get, bytes_max=bytes_max))


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 1_000_000])
def test_files_read_back(size: int) -> None:
    cid, blocks = stored(text_of(size))
    assert read(cid, blocks) == text_of(size)


def test_a_file_over_its_cap_is_refused_before_its_leaves_are_read() -> None:
    cid, blocks = stored(text_of(1_000_000))
    with pytest.raises(ContentTooLarge, match="declares 1,000,000"):
        read(cid, {cid: blocks[cid]}, bytes_max=999_999)


def test_a_node_that_lies_about_sizes_is_refused() -> None:
    leaf = cid_of_block(b"12345", "raw")
    node = encode_file_node([Link(leaf, 5, 6), Link(leaf, 5, 5)])
    root = cid_of_block(node, "dag-pb")
    with pytest.raises(ContentMismatch, match="its parent declares 6"):
        read(root, {root: node, leaf: b"12345"})


def test_a_deep_tree_is_refused() -> None:
    blocks = {cid_of_block(b"x", "raw"): b"x"}
    cid = next(iter(blocks))
    for _ in range(20):
        node = encode_file_node([Link(cid, 1, 1)])
        cid = cid_of_block(node, "dag-pb")
        blocks[cid] = node
    with pytest.raises(ContentMismatch, match="deep"):
        read(cid, blocks)


@given(st.binary(max_size=300))
def test_noise_is_no_file_node(noise: bytes) -> None:
    try:
        links = decode_file_node(noise)
    except TradepostError:
        return
    assert links
