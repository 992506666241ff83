"""CARs: what goes in comes out, in any pieces, and nothing that was changed does."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.content import BLOCK_BYTES_MAX, Cid, add_bytes, cid_of_block, verify_block
from tradepost.content.ipld.cids import Codec
from tradepost.content.ipld.dag_cbor_links import scan_links
from tradepost.content.ipld.dag_pb import decode_node, encode_varint
from tradepost.content.transfer.car import (
    HEADER_BYTES_MAX,
    CarDecoder,
    CarReader,
    encode_header,
    encode_section,
    import_car,
)
from tradepost.errors import (
    ContentMismatch,
    ContentTooLarge,
    InvalidCar,
    InvalidCid,
    InvalidDag,
    TradepostError,
)

# `ipfs dag export` of a file of b"tradepost", by Kubo 0.41.0.
KUBO_CAR = bytes.fromhex(
    "3aa265726f6f747381d82a5825000155122091993d908b7909bcb765b2c91b9ab70d8ee11aabd9a1e17eb1ab28439cf598e9677665"
    "7273696f6e012d0155122091993d908b7909bcb765b2c91b9ab70d8ee11aabd9a1e17eb1ab28439cf598e97472616465706f7374"
)


def car_of(blocks: dict[Cid, bytes], *roots: Cid) -> bytes:
    return encode_header(roots) + b"".join(encode_section(*one) for one in blocks.items())


def read(car: bytes, bytes_max: int = 1 << 30) -> tuple[tuple[Cid, ...], list[tuple[Cid, bytes]]]:
    reader = CarReader(io.BytesIO(car), bytes_max=bytes_max)
    return reader.roots, list(reader)


def a_file(size: int = 600_000) -> tuple[Cid, dict[Cid, bytes]]:
    blocks: dict[Cid, bytes] = {}
    return add_bytes(bytes(range(256)) * (size // 256), put=blocks.__setitem__), blocks


codecs: st.SearchStrategy[Codec] = st.sampled_from(["raw", "dag-pb", "dag-cbor"])
some_blocks = st.lists(st.tuples(st.binary(max_size=60), codecs), max_size=6).map(
    lambda items: [(cid_of_block(data, codec), data) for data, codec in items]
)


@given(st.lists(st.binary(max_size=3), max_size=30), some_blocks, st.data())
def test_cars_round_trip_in_any_pieces(
    seeds: list[bytes], blocks: list[tuple[Cid, bytes]], data: st.DataObject
) -> None:
    roots = tuple(cid_of_block(seed, "raw") for seed in seeds)
    car = encode_header(roots) + b"".join(encode_section(*one) for one in blocks)
    decoder = CarDecoder(bytes_max=len(car))
    found: list[tuple[Cid, bytes]] = []
    position = 0
    while position < len(car):
        size = data.draw(st.integers(1, len(car) - position))
        found += decoder.feed(car[position : position + size])
        position += size
    decoder.finish()
    assert (decoder.roots, found) == (roots, blocks)


def test_a_car_by_kubo_is_read_and_written_the_same() -> None:
    cid = cid_of_block(b"tradepost", "raw")
    assert read(KUBO_CAR) == ((cid,), [(cid, b"tradepost")])
    assert car_of({cid: b"tradepost"}, cid) == KUBO_CAR


@pytest.mark.parametrize("count", [0, 1, 23, 24, 255, 256, 1000])
def test_headers_of_every_length_round_trip(count: int) -> None:
    roots = tuple(cid_of_block(b"%d" % number, "raw") for number in range(count))
    assert read(encode_header(roots)) == (roots, [])


def test_blocks_may_repeat() -> None:
    root, blocks = a_file()
    car = car_of(blocks, root)
    again = car + b"".join(encode_section(*one) for one in blocks.items())
    kept: dict[Cid, bytes] = {}
    imported = import_car(io.BytesIO(again), put=kept.__setitem__, bytes_max=len(again))
    assert kept == blocks
    assert (imported.roots, imported.blocks) == ((root,), 2 * len(blocks))


SMALL_ROOT, SMALL_BLOCKS = a_file(262_144 + 256)
SMALL_CAR = car_of(SMALL_BLOCKS, SMALL_ROOT)


@given(st.binary(max_size=300))
def test_noise_is_no_car(noise: bytes) -> None:
    try:
        _, blocks = read(noise)
    except TradepostError:
        return
    for cid, block in blocks:
        verify_block(cid, block, source="the CAR")


def header(body: bytes) -> bytes:
    return encode_varint(len(body)) + body


ROOT = b"\xd8\x2a\x58\x25\x00" + bytes.fromhex("01551220") + bytes(32)


@pytest.mark.parametrize(
    ("car", "message"),
    [
        pytest.param(b"", "truncated", id="nothing"),
        pytest.param(header(b"\xa2\x65roots\x81" + ROOT + b"\x67version\x02"), "version: 1", id="version 2"),
        pytest.param(header(bytes.fromhex("a16776657273696f6e02")), "version: 1", id="the pragma of a CARv2"),
        pytest.param(header(b"\xa1\x67version\x01"), "version: 1", id="no roots"),
        pytest.param(header(b"\xa2\x65roots\x81\x01\x67version\x01"), "version: 1", id="a root that is none"),
        pytest.param(header(b"\xa2\x67version\x01\x65roots\x80"), "cannot be read", id="keys out of order"),
        pytest.param(header(b"\xa3\x61x\x01\x65roots\x80\x67version\x01"), "version: 1", id="another key"),
        pytest.param(header(b"\x81" * 1000), "cannot be read", id="a depth bomb"),
        pytest.param(encode_varint(HEADER_BYTES_MAX + 1), "announces", id="a large header"),
        pytest.param(b"\x80\x80", "truncated", id="half a length"),
        pytest.param(b"\xff" * 20, "varint", id="a length field that is too long"),
        pytest.param(b"\xba\x00", "varint", id="a length that is not the shortest"),
        pytest.param(encode_header(()) + b"\x00", "section", id="an empty section"),
        pytest.param(
            encode_header(()) + encode_varint(36 + BLOCK_BYTES_MAX + 1), "announces", id="a large block"
        ),
        pytest.param(encode_header(()) + encode_varint(1 << 50), "announces", id="an endless block"),
    ],
)
def test_bad_cars_are_refused_with_a_reason(car: bytes, message: str) -> None:
    with pytest.raises(InvalidCar, match=message):
        read(car)


@pytest.mark.parametrize(
    "cid", [b"\x01\x55\x00\x03abc", b"\x12\x20" + bytes(32), b"\x01\x55\x13\x40" + bytes(64)]
)
def test_other_kinds_of_cid_are_refused(cid: bytes) -> None:
    with pytest.raises(InvalidCid):
        read(encode_header(()) + encode_varint(len(cid) + 40) + cid + bytes(40))


def test_a_block_that_is_another_names_who_sent_it() -> None:
    car = encode_header(()) + encode_section(cid_of_block(b"this", "raw"), b"that")
    with pytest.raises(ContentMismatch, match="the neighbour"):
        CarDecoder(bytes_max=1000, source="the neighbour").feed(car)


def test_a_car_over_its_cap_is_refused_while_it_arrives() -> None:
    decoder = CarDecoder(bytes_max=len(SMALL_CAR) - 1)
    decoder.feed(SMALL_CAR[:-1])
    with pytest.raises(ContentTooLarge):
        decoder.feed(SMALL_CAR[-1:])


def test_blocks_before_a_bad_one_are_kept() -> None:
    kept: dict[Cid, bytes] = {}
    with pytest.raises(InvalidCar, match="truncated"):
        import_car(io.BytesIO(SMALL_CAR[:-1]), put=kept.__setitem__, bytes_max=1 << 20)
    assert list(kept.items()) == list(SMALL_BLOCKS.items())[:-1]


V0_ROOT = b"\xa2\x65roots\x81\xd8\x2a\x58\x23\x00\x12\x20" + bytes(32) + b"\x67version\x01"
#: A CIDv0, as `ipfs add` gives without `--cid-version=1`: in binary a bare multihash.
CID_V0 = b"\x12\x20" + bytes(32)


@pytest.mark.parametrize(
    "car",
    [
        pytest.param(encode_header(()) + encode_varint(len(CID_V0) + 40) + CID_V0 + bytes(40), id="block"),
        pytest.param(encode_header(()) + encode_varint(len(CID_V0) + 1) + CID_V0 + b"x", id="short block"),
        pytest.param(
            encode_varint(len(V0_ROOT)) + V0_ROOT,
            id="root",
        ),
    ],
)
def test_a_cid_of_version_0_in_a_car_is_named_with_what_to_do(car: bytes) -> None:
    with pytest.raises((InvalidCid, InvalidCar), match="CIDv0") as caught:
        read(car)
    assert "--cid-version=1" in caught.value.hint


@pytest.mark.parametrize(
    ("read_block", "block"),
    [
        (scan_links, b"\xa1\x61a\xd8\x2a\x58\x23\x00" + CID_V0),
        (decode_node, b"\x12\x26\x0a\x22" + CID_V0 + b"\x12\x00"),
    ],
    ids=["dag-cbor", "dag-pb"],
)
def test_a_link_to_a_cid_of_version_0_is_named_with_what_to_do(
    read_block: Callable[[bytes], object], block: bytes
) -> None:
    with pytest.raises(InvalidDag, match="CIDv0") as caught:
        read_block(block)
    assert "--cid-version=1" in caught.value.hint
