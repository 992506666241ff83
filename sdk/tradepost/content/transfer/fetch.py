"""Fetches from several sources at once and verifies every block.

A block is asked of the source that is fastest so far, hashed as it arrives, and on any failure asked of the
next: one that has not got it, that breaks off, stalls, trickles, sends without end or sends compressed is
asked last for a while; one that sends another block is not asked at all, for longer each time. What arrived
is put into the store at once, so that fetching again asks for what is missing and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from tradepost.content.ipld.cids import BLOCK_BYTES_MAX, Cid, cid_to_bytes, codec_of
from tradepost.content.ipld.dag import DagWalk
from tradepost.content.ipld.dag_pb import decode_node
from tradepost.content.storage.store import BlockStore
from tradepost.content.transfer.source_health import SourceHealth
from tradepost.content.transfer.sources import Source
from tradepost.content.unixfs.files import Get, stream_file
from tradepost.errors import (
    ContentMismatch,
    ContentTooLarge,
    ContentUnavailable,
    InvalidCall,
    SourceFailed,
    TradepostError,
    UnknownCid,
)

log = logging.getLogger(__name__)

_DIGEST: Final = slice(4, None)


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Timeouts and rates of sources, and the number of parallel requests.

    A source that sends nothing for `stall_s`, or that after `grace_s` on one block has sent less than
    `rate_min_bytes_s`, is given up, and asked last for `aside_s`. One that sends other bytes is not asked for
    `distrust_s`, and each further time for twice as long, up to `distrust_s_max`.
    """

    parallel: int = 16
    stall_s: float = 15.0
    grace_s: float = 5.0
    rate_min_bytes_s: float = 8 << 10
    aside_s: float = 60.0
    distrust_s: float = 600.0
    distrust_s_max: float = 86_400.0


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """The progress of a fetch. `bytes_total` is the size that the root declares, which is not verified."""

    blocks: int
    bytes: int
    bytes_total: int | None


#: Is told after each block that came, from the store too. What it raises ends the fetch.
OnProgress = Callable[[FetchProgress], None]


class Fetcher:
    """Gets verified blocks, files and DAGs from `sources`, keeping them in `store` if there is one.

    `clock` tells the seconds that sources are measured by. `pace` is awaited with the size of each block that
    came, before the next takes its place: a caller that holds the network to a rate waits there.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        store: BlockStore | None = None,
        limits: FetchLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        pace: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self.source_health = [SourceHealth(source) for source in sources]
        self._store = store
        self._limits = limits or FetchLimits()
        self._clock = clock
        self._pace = pace
        self._slots = asyncio.Semaphore(self._limits.parallel)

    async def get(self, cid: Cid) -> bytes:
        """A block, from the store or else from the best source that delivers it; the store then keeps it.

        Raises `UnknownCid` if every source says that it has no such block, `ContentUnavailable` if one
        failed.
        """
        if self._store is not None:
            try:
                return await asyncio.to_thread(self._store.get, cid)
            except (UnknownCid, ContentMismatch):
                pass  # absent, or changed by the disk and now removed: fetched again, either way
        async with self._slots:
            block = await self._ask(cid)
            if self._pace is not None:
                await self._pace(len(block))
        if self._store is not None:
            await _keep(self._store, cid, block)
        return block

    def stream_file(
        self, cid: Cid, *, bytes_max: int, on_progress: OnProgress | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The content of the file at `cid` in order, fetched ahead; raises as `files.read_file` and `get`."""
        get = self.get if on_progress is None else _Counting(cid, self.get, on_progress)
        return stream_file(cid, get, bytes_max=bytes_max, ahead=self._limits.parallel)

    async def read_file(self, cid: Cid, *, bytes_max: int, on_progress: OnProgress | None = None) -> bytes:
        """The content of the file at `cid`; raises as `files.read_file` and `get`."""
        async with aclosing(self.stream_file(cid, bytes_max=bytes_max, on_progress=on_progress)) as parts:
            return b"".join([part async for part in parts])

    async def fetch(
        self, root: Cid, *, bytes_max: int, on_progress: OnProgress | None = None
    ) -> FetchProgress:
        """Bring the whole DAG below `root` into the store, with what is there already not asked for again.

        Raises `ContentTooLarge` beyond `bytes_max`, as declared or as it turns out, `InvalidDag`, and as
        `get`.
        """
        if self._store is None:
            raise InvalidCall("fetching a DAG requires a store", hint="Give the Fetcher a store.")
        walk = DagWalk(root, bytes_max=bytes_max)
        total: int | None = None
        running: set[asyncio.Task[tuple[Cid, bytes]]] = set()
        done: set[asyncio.Task[tuple[Cid, bytes]]] = set()
        try:
            while True:
                while len(running) < self._limits.parallel and (cid := walk.take()) is not None:
                    running.add(asyncio.create_task(self._get_named(cid)))
                if not running:
                    return FetchProgress(walk.blocks, walk.bytes, total)
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    cid, block = task.result()
                    if cid == root:
                        total = _declared(root, block)
                        if total is not None and total > bytes_max:
                            raise ContentTooLarge(
                                f"{root} declares {total:,} bytes; the limit is {bytes_max:,}"
                            )
                    walk.visit(cid, block)
                    if on_progress is not None:
                        on_progress(FetchProgress(walk.blocks, walk.bytes, total))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, *done, return_exceptions=True)

    async def _get_named(self, cid: Cid) -> tuple[Cid, bytes]:
        return cid, await self.get(cid)

    async def _ask(self, cid: Cid) -> bytes:
        now_s = self._clock()
        problems: dict[str, TradepostError] = {
            health.source.name: ContentMismatch(
                f"{health.source.name} sent wrong bytes before, and is not used for another "
                f"{health.distrusted_until_s - now_s:,.0f} s"
            )
            for health in self.source_health
            if health.is_distrusted(now_s)
        }
        for health in self._by_speed(now_s):
            try:
                return await self._receive(health, cid)
            except UnknownCid as error:
                problems[health.source.name] = error
            except (ContentMismatch, SourceFailed) as error:
                problems[health.source.name] = error
                self._put_aside(health, cid, error)
        if all(isinstance(error, UnknownCid) for error in problems.values()):
            asked = ", ".join(problems) or "nobody"
            raise UnknownCid(f"{cid} was not found; sources: {asked}", cid=cid)
        raise ContentUnavailable(
            f"{cid}: {'; '.join(error.detail for error in problems.values())}",
            cid=cid,
            sources={name: error.code() for name, error in problems.items()},
        )

    def _by_speed(self, now_s: float) -> list[SourceHealth]:
        trusted = (health for health in self.source_health if not health.is_distrusted(now_s))
        return sorted(trusted, key=lambda health: (health.is_aside(now_s), health.expected_s))

    def _put_aside(self, health: SourceHealth, cid: Cid, error: TradepostError) -> None:
        now_s, limits = self._clock(), self._limits
        # Of many requests that fail together, one is news.
        level = logging.DEBUG if health.is_aside(now_s) else logging.WARNING
        if isinstance(error, ContentMismatch):
            health.distrust(now_s, first_s=limits.distrust_s, s_max=limits.distrust_s_max)
        else:
            health.put_aside(now_s, aside_s=limits.aside_s)
        log.log(
            level,
            "Source %s will not be used for a while: %s",
            health.source.name,
            error.detail,
            extra={"action": "source_put_aside", "source": health.source.name, "cid": cid},
        )

    async def _receive(self, health: SourceHealth, cid: Cid) -> bytes:
        """One block from one source, hashed as it arrives."""
        limits, name = self._limits, health.source.name
        block, size = io.BytesIO(), 0
        digest = hashlib.sha256()
        began = first = now = self._clock()
        loop = asyncio.get_running_loop()
        try:
            async with (
                asyncio.timeout(limits.stall_s) as stall,
                aclosing(health.source.block(cid)) as chunks,
            ):
                async for chunk in chunks:
                    now = self._clock()
                    first = first if size else now
                    size += block.write(chunk)
                    digest.update(chunk)
                    if size > BLOCK_BYTES_MAX:
                        raise SourceFailed(f"{name} sends more bytes than a block may have", source=name)
                    spent_s = now - first
                    if spent_s > limits.grace_s and size < spent_s * limits.rate_min_bytes_s:
                        raise SourceFailed(f"{name} sent {size:,} bytes in {spent_s:.0f} s", source=name)
                    stall.reschedule(loop.time() + limits.stall_s)
        except TimeoutError:
            raise SourceFailed(f"{name} sent nothing for {limits.stall_s:g} s", source=name) from None
        if digest.digest() != cid_to_bytes(cid)[_DIGEST]:
            raise ContentMismatch(f"{name} sent bytes that do not match {cid}", source=name, cid=cid)
        health.measure(size, first - began, self._clock() - first)
        return block.getvalue()  # which is not copied, as that of a bytearray would be


async def _keep(store: BlockStore, cid: Cid, block: bytes) -> None:
    writing = asyncio.ensure_future(asyncio.to_thread(store.put, cid, block))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        # A thread cannot be called back; what has arrived is kept, and nothing is written after the end.
        await asyncio.gather(writing, return_exceptions=True)
        raise


class _Counting:
    """A `Get` that reports the progress of the file at `root`."""

    def __init__(self, root: Cid, get: Get, on_progress: OnProgress) -> None:
        self._root = root
        self._get = get
        self._on_progress = on_progress
        self._so_far = FetchProgress(0, 0, None)

    async def __call__(self, cid: Cid) -> bytes:
        block = await self._get(cid)
        so_far = self._so_far
        total = _declared(cid, block) if cid == self._root else so_far.bytes_total
        self._so_far = FetchProgress(so_far.blocks + 1, so_far.bytes + len(block), total)
        self._on_progress(self._so_far)
        return block


def _declared(root: Cid, block: bytes) -> int | None:
    """The bytes of the DAG that its root declares."""
    if codec_of(root) != "dag-pb":
        return len(block) if codec_of(root) == "raw" else None
    return decode_node(block).tree_bytes(len(block))
