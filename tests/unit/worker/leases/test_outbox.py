"""The outbox: nothing that was kept is lost, nothing that was acknowledged comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tradepost.errors import RunnerFailed
from tradepost.protocol import Deliver, Settled
from tradepost.receipts import SignedReceipt
from tradepost_worker.leases.earnings import read_earnings
from tradepost_worker.leases.lease_executor import give_back
from tradepost_worker.leases.outbox import LeaseEnd, Outbox, read_pending

RECEIPT = SignedReceipt(payload=b"p", public_key=b"k", signature=b"s")


def end(lease: str) -> LeaseEnd:
    return LeaseEnd(frame=Deliver(lease, RECEIPT, b"output"), nonce=b"n" * 16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "worker.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    box = Outbox(path)
    yield box
    box.close()


def reopened(path: Path) -> list[LeaseEnd]:
    box = Outbox(path)
    try:
        return box.pending()
    finally:
        box.close()


async def test_ends_survive_in_their_order(outbox: Outbox, path: Path) -> None:
    ends = [
        end("b"),
        LeaseEnd(frame=Deliver("a", RECEIPT), nonce=b"n", document=b"large"),
        give_back("c", RunnerFailed("crash", stage="kernel", reason="x")),
    ]
    for item in ends:
        outbox.add(item)
        await outbox.flush()
    assert reopened(path) == ends
    assert read_pending(path) == 3


async def test_what_is_acknowledged_in_time_is_never_written(outbox: Outbox, path: Path) -> None:
    outbox.add(end("a"))
    assert "a" in outbox
    outbox.acknowledge("a")
    assert "a" not in outbox
    await outbox.flush()
    assert reopened(path) == []


async def test_what_is_acknowledged_later_is_removed(outbox: Outbox, path: Path) -> None:
    outbox.add(end("a"))
    outbox.add(end("b"))
    await outbox.flush()
    outbox.acknowledge("a")
    outbox.acknowledge("a")
    outbox.acknowledge("unknown")
    await outbox.flush()
    assert reopened(path) == [end("b")]


async def test_an_end_of_before_the_restart_can_be_acknowledged(path: Path) -> None:
    first = Outbox(path)
    first.add(end("a"))
    await first.flush()
    first.close()
    second = Outbox(path)
    second.acknowledge("a")
    await second.flush()
    second.close()
    assert reopened(path) == []


async def test_a_second_end_replaces_the_first(outbox: Outbox, path: Path) -> None:
    outbox.add(end("a"))
    await outbox.flush()
    replacement = give_back("a", RunnerFailed("not taken"))
    outbox.add(replacement)
    await outbox.flush()
    assert reopened(path) == [replacement]


async def test_keeping_writes_without_being_asked(outbox: Outbox, path: Path) -> None:
    written = asyncio.Event()
    flush = outbox.flush

    async def noted() -> None:
        await flush()
        written.set()

    outbox.flush = noted  # type: ignore[method-assign]
    keeping = asyncio.create_task(outbox.keep())
    outbox.add(end("a"))
    async with asyncio.timeout(180):
        await written.wait()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert reopened(path) == [end("a")]


async def test_earnings_are_summed_once_per_lease(outbox: Outbox, path: Path) -> None:
    outbox.record(Settled("a", "inconclusive", 0, "one of two"))
    outbox.record(Settled("b", "rejected", 0, "outvoted"))
    outbox.record(Settled("a", "accepted", 700, "two of two"))
    await outbox.flush()
    total = read_earnings(path)
    assert (total.leases, total.paid_leases, total.earned_microcredits) == (2, 1, 700)
    assert read_earnings(path, since=1e12).leases == 0


def test_a_folder_without_a_worker_earned_nothing(tmp_path: Path) -> None:
    assert read_earnings(tmp_path / "absent").earned_microcredits == 0
    assert read_pending(tmp_path / "absent") == 0


async def test_a_flush_that_is_cancelled_loses_nothing(path: Path) -> None:
    """As when the worker stops while it writes: its threads are busy, and the write waits for one."""
    outbox, free = Outbox(path), threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
    busy = loop.run_in_executor(None, free.wait)
    outbox.record(Settled("lease", "accepted", 2000, ""))
    flush = asyncio.create_task(outbox.flush())
    await asyncio.sleep(0)
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    last = asyncio.create_task(outbox.flush())
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(busy, last)
    outbox.close()
    assert read_earnings(path).earned_microcredits == 2000
