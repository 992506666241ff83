"""Reading files from blocks: in order, ahead, within a range, and never more than was allowed."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.content import Cid, add_bytes, add_stream, cid_of_block
from tradepost.content.ipld.dag_pb import bytes_field, encode_node, varint_field
from tradepost.content.unixfs import files
from tradepost.content.unixfs.files import CHUNK_BYTES, stream_file
from tradepost.content.unixfs.nodes import Link, encode_directory, encode_file_node
from tradepost.errors import ContentTooLarge, InvalidDag, UnknownCid

CONTENT = random.Random(7).randbytes(5 * CHUNK_BYTES + 17)
LEAF = cid_of_block(b"leaf", "raw")


def stored(data: bytes) -> tuple[Cid, dict[Cid, bytes]]:
    blocks: dict[Cid, bytes] = {}
    return add_bytes(data, put=blocks.__setitem__), blocks


def getter(blocks: dict[Cid, bytes]) -> Callable[[Cid], Awaitable[bytes]]:
    async def get(cid: Cid) -> bytes:
        return blocks[cid]

    return get


async def read(cid: Cid, blocks: dict[Cid, bytes], bytes_max: int = 1 << 30) -> bytes:
    return b"".join([part async for part in stream_file(cid, getter(blocks), bytes_max=bytes_max)])


@pytest.mark.parametrize("ahead", [1, 2, 3, 100])
async def test_parts_come_in_order_however_far_ahead_they_are_asked_for(ahead: int) -> None:
    cid, blocks = stored(CONTENT)
    asked: list[Cid] = []
    most = waiting = 0

    async def get(cid: Cid) -> bytes:
        nonlocal most, waiting
        asked.append(cid)
        waiting += 1
        most = max(most, waiting)
        for _ in range(random.Random(cid).randrange(5)):
            await asyncio.sleep(0)
        waiting -= 1
        return blocks[cid]

    parts = [part async for part in stream_file(cid, get, bytes_max=len(CONTENT), ahead=ahead)]
    assert b"".join(parts) == CONTENT
    assert len(asked) == 7
    assert most <= ahead


async def test_leaving_early_ends_what_was_asked_for() -> None:
    cid, blocks = stored(CONTENT)
    ended = 0

    async def get(cid: Cid) -> bytes:
        nonlocal ended
        if cid in list(blocks)[3:6]:
            try:
                await asyncio.Event().wait()
            finally:
                ended += 1
        return blocks[cid]

    async with aclosing(stream_file(cid, get, bytes_max=1 << 30, ahead=5)) as parts:
        assert await anext(parts) == CONTENT[:CHUNK_BYTES]
    assert ended > 0
    assert len(asyncio.all_tasks()) == 1


async def test_an_error_in_one_block_ends_the_others() -> None:
    cid, blocks = stored(CONTENT)

    async def get(cid: Cid) -> bytes:
        if cid == list(blocks)[2]:
            raise UnknownCid("gone")
        return blocks[cid]

    with pytest.raises(UnknownCid):
        [part async for part in stream_file(cid, get, bytes_max=1 << 30, ahead=4)]
    assert len(asyncio.all_tasks()) == 1


@given(st.integers(0, len(CONTENT)), st.integers(0, len(CONTENT)))
def test_a_range_reads_the_parts_that_overlap_it_and_no_other(first: int, stop: int) -> None:
    cid, blocks = stored(CONTENT)

    async def run() -> list[bytes]:
        parts = stream_file(cid, getter(blocks), bytes_max=1 << 30, within=range(first, stop))
        return [part async for part in parts]

    chunks = [CONTENT[at : at + CHUNK_BYTES] for at in range(0, len(CONTENT), CHUNK_BYTES)]
    expected = [
        chunk
        for number, chunk in enumerate(chunks)
        if number * CHUNK_BYTES < stop and number * CHUNK_BYTES + len(chunk) > first
    ]
    assert asyncio.run(run()) == expected


@given(st.binary(max_size=2000), st.integers(1, 700))
def test_streams_that_read_short_are_cut_into_the_same_chunks(data: bytes, most: int) -> None:
    class Pipe(io.RawIOBase):
        """Gives a little at a time, as pipes do."""

        def __init__(self) -> None:
            self.left = data * 300

        def read(self, size: int = -1) -> bytes:
            part, self.left = self.left[: min(size, most * 100)], self.left[min(size, most * 100) :]
            return part

    assert add_stream(Pipe(), put=None) == add_bytes(data * 300, put=None)  # type: ignore[arg-type]


def inner(data: bytes, file_bytes: int, *sizes: int) -> bytes:
    """A file's node that holds bytes itself."""
    message = varint_field(1, 2) + bytes_field(2, data) + varint_field(3, file_bytes)
    return encode_node((), message + b"".join(varint_field(4, size) for size in sizes))


async def test_files_with_content_in_dag_pb_leaves_are_read() -> None:
    leaves = [inner(b"abc", 3), inner(b"de", 2)]
    cids = [cid_of_block(leaf, "dag-pb") for leaf in leaves]
    node = encode_file_node([Link(cids[0], 9, 3), Link(cids[1], 9, 2)])
    root = cid_of_block(node, "dag-pb")
    assert await read(root, dict(zip([*cids, root], [*leaves, node], strict=True))) == b"abcde"


async def test_a_file_that_stands_for_endless_work_is_refused() -> None:
    # Five nodes with a thousand links each, down to one leaf: four petabytes of content.
    blocks = {LEAF: b"leaf"}
    cid, size = LEAF, 4
    for _ in range(5):
        node = encode_file_node([Link(cid, 4, size)] * 1000)
        cid, size = cid_of_block(node, "dag-pb"), size * 1000
        blocks[cid] = node
    with pytest.raises(ContentTooLarge, match="declares"):
        await read(cid, blocks)


async def test_a_file_of_too_many_blocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Within any cap on bytes, yet more blocks than a real file of that size has.
    monkeypatch.setattr(files, "FILE_BLOCKS_MAX", 5000)
    leaf = cid_of_block(b"x", "raw")
    blocks = {leaf: b"x"}
    cid, size = leaf, 1
    while size <= files.FILE_BLOCKS_MAX:
        node = encode_file_node([Link(cid, 1, size)] * 1000)
        cid, size = cid_of_block(node, "dag-pb"), size * 1000
        blocks[cid] = node
    with pytest.raises(InvalidDag, match="blocks"):
        await read(cid, blocks)


async def test_what_is_no_file_is_refused() -> None:
    folder = encode_directory(())
    cid = cid_of_block(folder, "dag-pb")
    with pytest.raises(InvalidDag, match="not a file"):
        await read(cid, {cid: folder})
    manifest = cid_of_block(b"\xa0", "dag-cbor")
    node = encode_file_node([Link(manifest, 1, 1)])
    root = cid_of_block(node, "dag-pb")
    with pytest.raises(InvalidDag, match="dag-cbor"):
        await read(root, {root: node, manifest: b"\xa0"})


@pytest.mark.parametrize("bytes_max", [0, 3])
async def test_one_block_over_its_cap_is_refused(bytes_max: int) -> None:
    with pytest.raises(ContentTooLarge):
        await read(LEAF, {LEAF: b"leaf"}, bytes_max)
