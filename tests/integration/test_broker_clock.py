"""A real broker whose machine's clock jumps: deadlines, leases and tokens are as good as before."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from tradepost.protocol import JobStatus
from tradepost_broker.engine.market_clock import MarketClock
from tradepost_broker.storage import database
from tradepost_broker.storage.store import Reader
from tradepost_broker.storage.verify_books import verify_books
from tradepost_broker.testing import FakeWorker, ManualClock, local_broker

YEAR_S = 365 * 24 * 3600.0


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
async def test_a_jump_of_a_year_moves_no_deadline_and_kills_no_token(tmp_path: Path, jump_s: float) -> None:
    wall, steady = ManualClock(), ManualClock(0.0)
    async with local_broker(tmp_path, clock=MarketClock(wall=wall, steady=steady)) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        early = await broker.token("early")
        waiting = await broker.submit(key, pipeline, deadline_s=100.0, patience_s=100.0)
        for jump in (jump_s, -jump_s):  # there, and back again
            wall.advance(jump)
            await broker.tick()
            assert (await broker.call("GET", f"/v1/jobs/{waiting.job}", key=key)).count(b'"queued"') == 1
        worker = await broker.worker("late", serve=True)  # with a token made now
        assert (await broker.result(key, waiting.job)).status is JobStatus.ACCEPTED
        await worker.disconnect()
        late = await broker.submit(key, pipeline, deadline_s=100.0, patience_s=100.0)
        for clock in (wall, steady):
            clock.advance(101)
        await broker.tick()
        assert (await broker.result(key, late.job)).status is JobStatus.FAILED
        await FakeWorker(broker.session, broker.url).join(early)
    with closing(Reader(database.open_snapshot(tmp_path / "broker.sqlite3"))) as reader:
        report = verify_books(reader)
    assert report.differences == []


async def test_a_market_that_ran_in_the_future_goes_on_there(tmp_path: Path) -> None:
    async with local_broker(tmp_path, clock=ManualClock(time.time() + YEAR_S)) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        await broker.worker(connect=False)
    async with local_broker(tmp_path) as broker:
        worker = await broker.worker(serve=True)
        job = await broker.submit(key, pipeline)
        assert job.submitted_at > time.time() + YEAR_S - 3600
        assert (await broker.result(key, job.job)).status is JobStatus.ACCEPTED
        await worker.disconnect()
