"""Fetching: which source is asked, how much at once, and that nothing is asked for twice."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import aiohttp
import dag_cbor
import pytest
from multiformats import CID

from tradepost.content import Cid, FolderStore, add_bytes, cid_of_block
from tradepost.content.transfer.fetch import Fetcher, FetchLimits, FetchProgress
from tradepost.content.transfer.sources import GatewaySource, KuboSource, StoreSource
from tradepost.content.unixfs.files import CHUNK_BYTES
from tradepost.content.unixfs.nodes import Link, encode_file_node
from tradepost.errors import (
    ContentTooLarge,
    ContentUnavailable,
    InvalidCall,
    InvalidDag,
    SourceFailed,
    UnknownCid,
)
from tradepost.testing.gateway import Gateway

CONTENT = random.Random(3).randbytes(20 * CHUNK_BYTES + 5)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Scripted:
    """A source in memory: `delay_s` passes on `clock` before the first byte, `block_s` until the last."""

    def __init__(
        self,
        blocks: dict[Cid, bytes],
        *,
        name: str = "scripted",
        clock: Clock | None = None,
        delay_s: float = 0.0,
        block_s: float = 0.0,
    ) -> None:
        self.name = name
        self.asked: list[Cid] = []
        self.at_once_max = 0
        self.fails_after = 1 << 30
        self._blocks = blocks
        self._clock = clock or Clock()
        self._delay_s = delay_s
        self._block_s = block_s
        self._at_once = 0

    async def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        self.asked.append(cid)
        if len(self.asked) > self.fails_after:
            raise SourceFailed(f"{self.name} broke", source=self.name)
        if cid not in self._blocks:
            raise UnknownCid(f"{self.name} does not have {cid}")
        self._at_once += 1
        self.at_once_max = max(self.at_once_max, self._at_once)
        try:
            await asyncio.sleep(0)
            data = self._blocks[cid]
            self._clock.now_s += self._delay_s
            yield data[: len(data) // 2]
            self._clock.now_s += self._block_s
            yield data[len(data) // 2 :]
        finally:
            self._at_once -= 1


def stored(data: bytes = CONTENT) -> tuple[Cid, dict[Cid, bytes]]:
    blocks: dict[Cid, bytes] = {}
    return add_bytes(data, put=blocks.__setitem__), blocks


def spoil(folder: Path, cid: Cid) -> None:
    """Do to a block what a bad disk does."""
    next(folder.rglob(cid)).write_bytes(b"rot")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store", bytes_max=1 << 30)


async def test_a_file_is_read_in_parallel_and_in_order() -> None:
    cid, blocks = stored()
    source = Scripted(blocks)
    fetcher = Fetcher([source], limits=FetchLimits(parallel=4))
    assert await fetcher.read_file(cid, bytes_max=len(CONTENT)) == CONTENT
    assert source.at_once_max == 4
    assert len(source.asked) == len(blocks)


async def test_a_dag_is_brought_into_the_store(store: FolderStore) -> None:
    cid, blocks = stored()
    manifest = dag_cbor.encode({"kernel": CID.decode(cid), "name": "x"})
    root = cid_of_block(manifest, "dag-cbor")
    blocks[root] = manifest
    seen: list[FetchProgress] = []
    fetched = await Fetcher([Scripted(blocks)], store=store).fetch(
        root, bytes_max=1 << 30, on_progress=seen.append
    )
    assert {file.cid for file in store.blocks()} == set(blocks)
    assert fetched == seen[-1] == FetchProgress(len(blocks), sum(map(len, blocks.values())), None)
    assert [one.bytes for one in seen] == sorted(one.bytes for one in seen)
    store.pin(root)


async def test_progress_tells_what_the_root_declares(store: FolderStore) -> None:
    cid, blocks = stored()
    fetched = await Fetcher([Scripted(blocks)], store=store).fetch(cid, bytes_max=1 << 30)
    assert fetched.bytes_total == fetched.bytes


@pytest.mark.parametrize("size", [100, len(CONTENT)])
async def test_reading_a_file_tells_how_far_it_is(size: int) -> None:
    cid, blocks = stored(CONTENT[:size])
    tree_bytes = sum(map(len, blocks.values()))
    seen: list[FetchProgress] = []
    fetcher = Fetcher([Scripted(blocks)])
    assert await fetcher.read_file(cid, bytes_max=size, on_progress=seen.append) == CONTENT[:size]
    assert [one.blocks for one in seen] == list(range(1, len(blocks) + 1))
    assert [one.bytes for one in seen] == sorted(one.bytes for one in seen)
    assert {one.bytes_total for one in seen} == {tree_bytes}
    assert seen[-1].bytes == tree_bytes


async def test_a_file_that_is_streamed_tells_as_it_goes() -> None:
    cid, blocks = stored()
    seen: list[FetchProgress] = []
    fetcher = Fetcher([Scripted(blocks)], limits=FetchLimits(parallel=2))
    async with aclosing(fetcher.stream_file(cid, bytes_max=1 << 30, on_progress=seen.append)) as parts:
        assert await anext(parts) == CONTENT[:CHUNK_BYTES]
        assert 2 <= len(seen) < len(blocks)  # the root and the first leaf, and not all


async def test_what_arrived_before_a_break_is_not_asked_for_again(store: FolderStore) -> None:
    cid, blocks = stored()
    first = Scripted(blocks)
    first.fails_after = 9
    with pytest.raises(ContentUnavailable):
        await Fetcher([first], store=store).fetch(cid, bytes_max=1 << 30)
    kept = {file.cid for file in store.blocks()}
    assert 0 < len(kept) <= 9
    second = Scripted(blocks)
    await Fetcher([second], store=store).fetch(cid, bytes_max=1 << 30)
    assert set(second.asked) == set(blocks) - kept
    third = Scripted({})
    assert await Fetcher([third], store=store).read_file(cid, bytes_max=1 << 30) == CONTENT
    assert third.asked == []


async def test_the_network_is_paid_for_and_the_store_is_free(store: FolderStore) -> None:
    cid, blocks = stored()
    paid: list[int] = []

    async def pay(size: int) -> None:
        paid.append(size)

    fetcher = Fetcher([Scripted(blocks)], store=store, pace=pay)
    await fetcher.read_file(cid, bytes_max=1 << 30)
    await fetcher.read_file(cid, bytes_max=1 << 30)
    assert sum(paid) == sum(map(len, blocks.values()))


async def test_a_block_that_the_disk_changed_is_fetched_again(store: FolderStore, tmp_path: Path) -> None:
    cid, blocks = stored(b"small")
    store.put(cid, b"small")
    spoil(tmp_path, cid)
    assert await Fetcher([Scripted(blocks)], store=store).get(cid) == b"small"
    assert store.get(cid) == b"small"


@pytest.mark.parametrize("slow_by", ["delay_s", "block_s"])
async def test_the_fastest_source_is_asked(slow_by: str) -> None:
    cid, blocks = stored()
    clock = Clock()
    slow = Scripted(blocks, name="slow", clock=clock, **{slow_by: 1.0})
    fast = Scripted(blocks, name="fast", clock=clock, **{slow_by: 0.1})
    fetcher = Fetcher([slow, fast], limits=FetchLimits(parallel=1), clock=clock)
    await fetcher.read_file(cid, bytes_max=1 << 30)
    # Each is tried, first the one that was named first; then the fast one has all the rest.
    assert len(slow.asked) <= 2
    assert len(fast.asked) >= len(blocks) - 2


async def test_a_source_that_lacks_a_block_is_passed_over_without_blame() -> None:
    cid, blocks = stored()
    some = dict(list(blocks.items())[:5])
    fetcher = Fetcher([Scripted(some, name="some"), Scripted(blocks, name="all")])
    assert await fetcher.read_file(cid, bytes_max=1 << 30) == CONTENT
    assert all(health.failures == health.lies == 0 for health in fetcher.source_health)


async def test_a_source_that_failed_is_asked_last_until_its_time_is_over() -> None:
    leaves = [cid_of_block(b"%d" % number, "raw") for number in range(4)]
    blocks = {leaf: b"%d" % number for number, leaf in enumerate(leaves)}
    clock = Clock()
    shaky, steady = Scripted(blocks, name="shaky"), Scripted(blocks, name="steady", clock=clock, delay_s=0.1)
    shaky.fails_after = 0
    fetcher = Fetcher([shaky, steady], limits=FetchLimits(aside_s=60), clock=clock)
    await fetcher.get(leaves[0])
    shaky.fails_after = 1 << 30
    await fetcher.get(leaves[1])
    assert (len(shaky.asked), len(steady.asked)) == (1, 2)
    clock.now_s += 61
    await fetcher.get(leaves[2])
    assert (len(shaky.asked), len(steady.asked)) == (2, 2)
    # Aside is not away: what nobody else has is still asked of it.
    shaky.fails_after = 2
    await fetcher.get(leaves[3])
    shaky.fails_after = 1 << 30
    only_shaky = cid_of_block(b"rare", "raw")
    blocks_of_shaky = blocks
    blocks_of_shaky[only_shaky] = b"rare"
    assert await Fetcher([shaky], clock=clock).get(only_shaky) == b"rare"


async def test_what_nobody_has_is_unknown_and_what_failed_is_unavailable() -> None:
    cid = cid_of_block(b"x", "raw")
    with pytest.raises(UnknownCid, match="sources: nobody"):
        await Fetcher([]).get(cid)
    with pytest.raises(UnknownCid, match="a, b"):
        await Fetcher([Scripted({}, name="a"), Scripted({}, name="b")]).get(cid)
    broken = Scripted({}, name="broken")
    broken.fails_after = 0
    with pytest.raises(ContentUnavailable, match="broken broke") as caught:
        await Fetcher([Scripted({}, name="a"), broken]).get(cid)
    assert caught.value.facts["sources"] == {"a": "unknown-cid", "broken": "source-failed"}


async def test_content_is_capped_as_declared_and_as_it_turns_out(store: FolderStore) -> None:
    cid, blocks = stored()
    source = Scripted(blocks)
    with pytest.raises(ContentTooLarge, match="declares"):
        await Fetcher([source], store=store).fetch(cid, bytes_max=len(CONTENT))
    with pytest.raises(ContentTooLarge, match="declares"):
        await Fetcher([source], store=store).read_file(cid, bytes_max=len(CONTENT) - 1)
    assert source.asked == [cid]  # the store had it the second time, and nothing below was asked for
    lie = encode_file_node([Link(leaf, 1, CHUNK_BYTES) for leaf in list(blocks)[:8]])
    root = cid_of_block(lie, "dag-pb")
    with pytest.raises(ContentTooLarge, match=r"the limit is|the allowed"):
        await Fetcher([Scripted(blocks | {root: lie})], store=store, limits=FetchLimits(parallel=2)).fetch(
            root, bytes_max=2 * CHUNK_BYTES
        )


async def test_cancelling_a_fetch_ends_everything(store: FolderStore) -> None:
    cid, blocks = stored()
    reached = asyncio.Event()

    class Silent(Scripted):
        async def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
            if len(self.asked) > 3:
                reached.set()
                await asyncio.Event().wait()
            async for chunk in super().block(cid):
                yield chunk

    task = asyncio.create_task(Fetcher([Silent(blocks)], store=store).fetch(cid, bytes_max=1 << 30))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1


async def test_a_dag_needs_a_store() -> None:
    with pytest.raises(InvalidCall):
        await Fetcher([]).fetch(cid_of_block(b"", "raw"), bytes_max=1)


async def test_a_gateway_and_a_store_are_sources(store: FolderStore, tmp_path: Path) -> None:
    cid, _ = stored()
    add_bytes(CONTENT, put=store.put)
    gateway = Gateway(store)
    async with gateway.serve() as url, aiohttp.ClientSession() as session:
        fetcher = Fetcher([GatewaySource(url, session=session)])
        assert await fetcher.read_file(cid, bytes_max=1 << 30) == CONTENT
        assert len(gateway.asked) == 22
        assert fetcher.source_health[0].bytes > len(CONTENT)
        with pytest.raises(UnknownCid):
            await fetcher.get(cid_of_block(b"another", "raw"))
    local = Fetcher([StoreSource(store, name="here")])
    assert await local.read_file(cid, bytes_max=1 << 30) == CONTENT
    leaf = next(file.cid for file in store.blocks() if file.cid != cid)
    spoil(tmp_path, leaf)
    with pytest.raises(UnknownCid):
        await local.get(leaf)
    assert local.source_health[0].lies == 0


@pytest.fixture
def hanging_kubo() -> Iterator[str]:
    """The address of a daemon that asks its peers, and asks, and asks: the kernel accepts, nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        yield f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"


async def test_a_daemon_that_hangs_does_not_hold_up_the_others(store: FolderStore, hanging_kubo: str) -> None:
    _, blocks = stored()
    for cid, block in blocks.items():
        store.put(cid, block)
    async with aiohttp.ClientSession() as session:
        sources = [KuboSource(hanging_kubo, session=session), StoreSource(store, name="here")]
        # More at once than there are threads for everybody.
        fetcher = Fetcher(sources, limits=FetchLimits(parallel=64, stall_s=4.0))
        wanted = [cid for cid in blocks for _ in range(3)]
        got = await asyncio.gather(*map(fetcher.get, wanted))
    assert got == [blocks[cid] for cid in wanted]
    assert fetcher.source_health[0].failures > 0
    assert fetcher.source_health[1].failures == 0


GIVE_UP = """
import asyncio, sys
import aiohttp
from tradepost.content import cid_of_block
from tradepost.content.transfer.fetch import Fetcher, FetchLimits
from tradepost.content.transfer.sources import KuboSource
from tradepost.errors import ContentUnavailable

async def main():
    async with aiohttp.ClientSession() as session:
        fetcher = Fetcher([KuboSource(sys.argv[1], session=session)], limits=FetchLimits(stall_s=0.1))
        try:
            await fetcher.get(cid_of_block(b"nobody has it", "raw"))
        except ContentUnavailable:
            print("gave up")

asyncio.run(main())
"""


@pytest.mark.process
def test_a_process_ends_although_the_daemon_it_asked_hangs(hanging_kubo: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GIVE_UP, hanging_kubo], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "gave up\n"


async def test_ten_thousand_links_and_a_deep_chain_are_bounded(store: FolderStore) -> None:
    leaves = {cid_of_block(b"%d" % number, "raw"): b"%d" % number for number in range(10_000)}
    wide = encode_file_node([Link(leaf, 1, len(data)) for leaf, data in leaves.items()])
    root = cid_of_block(wide, "dag-pb")
    source = Scripted(leaves | {root: wide})
    content = await Fetcher([source]).read_file(root, bytes_max=1 << 20)
    assert content == b"".join(leaves.values())
    blocks: dict[Cid, bytes] = {}
    cid = cid_of_block(b"leaf", "raw")
    for _ in range(5000):
        node = encode_file_node([Link(cid, 4, 4)])
        cid = cid_of_block(node, "dag-pb")
        blocks[cid] = node
    with pytest.raises(InvalidDag):
        await Fetcher([Scripted(blocks)]).read_file(cid, bytes_max=1 << 20)
