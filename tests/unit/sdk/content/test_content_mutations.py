"""No mutation of a block or a CAR is ever accepted.

What a CAR means is its roots and a set of blocks: its format lets blocks repeat, stand in any order and be
more than the roots need. So the claim for a CAR is exactly: what is accepted holds true blocks only, and the
file below the root that was asked for is the file that was put in.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from mutations import mutated
from tradepost.content import Cid, FolderStore, cid_of_block, codec_of, read_file, verify_block
from tradepost.content.ipld.cids import Codec
from tradepost.content.transfer.car import encode_header, encode_section, import_car
from tradepost.content.unixfs.nodes import Link, encode_file_node
from tradepost.errors import ContentMismatch, TradepostError, UnknownCid

Blocks = dict[Cid, bytes]


def node(blocks: Blocks, *children: tuple[Cid, int]) -> tuple[Cid, int]:
    """Add a file's inner node to `blocks`; its CID and the bytes of the file below it."""
    size = sum(below for _, below in children)
    block = encode_file_node([Link(cid, below, below) for cid, below in children])
    cid = cid_of_block(block, "dag-pb")
    blocks[cid] = block
    return cid, size


def a_file(*leaves: bytes) -> tuple[Cid, Blocks]:
    """A file of small leaves below two levels of nodes, so that every kind of byte is near."""
    blocks: Blocks = {cid_of_block(leaf, "raw"): leaf for leaf in leaves}
    sizes = [(cid, len(leaf)) for cid, leaf in blocks.items()]
    root, _ = node(blocks, node(blocks, *sizes[:2]), node(blocks, *sizes[2:]))
    return root, blocks


LEAVES = (b"zero", b"a leaf of some more bytes", b"two", b"three")
ROOT, BLOCKS = a_file(*LEAVES)
OTHER_ROOT, OTHER_BLOCKS = a_file(b"zero", b"a leaf of some MORE bytes", b"too", b"three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def store(folder: Path) -> FolderStore:
    return FolderStore(folder, bytes_max=1 << 20)


def test_the_originals_are_accepted(store: FolderStore) -> None:
    """Or else there is nothing in refusing what is near them."""
    for cid, block in BLOCKS.items():
        verify_block(cid, block, source="a stranger")
        store.put(cid, block)
        assert store.get(cid) == block
    assert accept(CAR) == BLOCKS


@pytest.mark.extended
@given(cid=st.sampled_from(sorted(BLOCKS)), data=st.data())
def test_no_mutated_block_is_accepted(
    store: FolderStore, folder: Path, cid: Cid, data: st.DataObject
) -> None:
    """Neither from a stranger, nor to be stored, nor from a disk that has changed it."""
    changed = data.draw(mutated(BLOCKS[cid], *OTHER_BLOCKS.values()))
    with pytest.raises(ContentMismatch):
        verify_block(cid, changed, source="a stranger")
    with pytest.raises(ContentMismatch):
        store.put(cid, changed)
    path = folder / cid[-3:-1] / cid
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(changed)
    with pytest.raises(ContentMismatch):
        store.get(cid)
    with pytest.raises(UnknownCid):
        store.get(cid)
    event("outcome: refused")


def car_of(root: Cid, sections: list[tuple[Cid, bytes]]) -> bytes:
    return encode_header([root]) + b"".join(encode_section(*section) for section in sections)


CAR = car_of(ROOT, list(BLOCKS.items()))
OTHER_CAR = car_of(OTHER_ROOT, list(OTHER_BLOCKS.items()))


@st.composite
def rebuilt_cars(draw: st.DrawFn) -> bytes:
    """Well-formed CARs: sections left out, repeated, moved, of another CAR, or with a block changed."""
    sections = list(BLOCKS.items())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(sections) - 1))
        cid, block = sections[at]
        edit = draw(st.sampled_from(["drop", "repeat", "move", "other", "change", "mislabel", "recode"]))
        if edit == "drop" and len(sections) > 1:
            del sections[at]
        elif edit in ("repeat", "move"):
            section = sections[at] if edit == "repeat" else sections.pop(at)
            sections.insert(draw(st.integers(0, len(sections))), section)
        elif edit == "other":
            sections[at] = draw(st.sampled_from(list(OTHER_BLOCKS.items())))
        elif edit == "change":  # with the CID that belongs to it now
            changed = draw(mutated(block, *OTHER_BLOCKS.values()))
            sections[at] = cid_of_block(changed, codec_of(cid)), changed
        elif edit == "mislabel":
            sections[at] = cid, draw(mutated(block, *OTHER_BLOCKS.values()))
        else:
            codec: Codec = draw(st.sampled_from(["raw", "dag-pb", "dag-cbor"]))
            sections[at] = cid_of_block(block, codec), block
    return car_of(draw(st.sampled_from([ROOT, ROOT, ROOT, OTHER_ROOT, *BLOCKS])), sections)


def digest_in(cid: Cid) -> bytes:
    text = cid.removeprefix("b").upper()
    return base64.b32decode(text + "=" * (-len(text) % 8))[4:]


def accept(car: bytes) -> Blocks:
    """Import a CAR that should hold the file at `ROOT`, and read that file, as a fetching client does."""
    kept: Blocks = {}

    async def get(cid: Cid) -> bytes:
        if cid not in kept:
            raise UnknownCid(f"{cid} is missing", cid=cid)
        return kept[cid]

    import_car(io.BytesIO(car), put=kept.__setitem__, bytes_max=1 << 20)
    assert asyncio.run(read_file(ROOT, get, bytes_max=1 << 20)) == b"".join(LEAVES)
    return kept


@pytest.mark.extended
@given(mutated(CAR, OTHER_CAR) | rebuilt_cars())
def test_no_mutated_car_is_accepted(car: bytes) -> None:
    try:
        kept = accept(car)
    except TradepostError as error:
        event(f"outcome: {type(error).__name__}")
        return
    event("outcome: the same file")
    for cid, block in kept.items():
        assert digest_in(cid) == hashlib.sha256(block).digest()
    assert kept.items() >= BLOCKS.items()
