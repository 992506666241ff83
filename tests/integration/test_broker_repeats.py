"""What anyone can repeat for nothing leaves nothing behind: not in the journal, not in a table."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tradepost.errors import QuotaExceeded, RunnerFailed
from tradepost.protocol import (
    Acknowledged,
    GiveBack,
    GiveBackReason,
    Grant,
    Heartbeat,
    JobStatus,
    Offer,
    Recall,
    Settled,
    UpdateOffer,
)
from tradepost_broker.testing import FakeWorker, LocalBroker, SamplePipeline, local_broker, sample_input

REPEATS = 50


def events(folder: Path) -> list[str]:
    """The kinds of all events in the journal, in order."""
    with closing(sqlite3.connect(f"file:{folder / 'broker.sqlite3'}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT kind FROM journal ORDER BY seq")]


def journal_bytes(folder: Path) -> int:
    with closing(sqlite3.connect(f"file:{folder / 'broker.sqlite3'}?mode=ro", uri=True)) as connection:
        (found,) = connection.execute("SELECT SUM(LENGTH(body)) FROM journal").fetchone()
    return int(found)


def returned(lease: str) -> GiveBack:
    return GiveBack(lease=lease, reason=GiveBackReason.FAILED, problem=RunnerFailed("x" * 400).to_problem())


async def acknowledged(worker: FakeWorker, count: int) -> None:
    for _ in range(count):
        assert (await worker.expect(Acknowledged)).problem is None


async def test_unknown_leases_that_are_given_back_are_not_journalled(
    broker: LocalBroker, tmp_path: Path
) -> None:
    worker = await broker.worker()
    before = events(tmp_path)
    await worker.send(*(returned(f"made-up-{number}") for number in range(REPEATS)))
    await acknowledged(worker, REPEATS)
    assert events(tmp_path) == before
    await worker.disconnect()


async def test_a_lease_is_given_back_once_however_often_it_is_said(
    broker: LocalBroker, tmp_path: Path
) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await broker.submit(key, await broker.publish(key), patience_s=0.0)
    grant = await worker.expect(Grant)
    await worker.send(*(returned(grant.lease) for _ in range(REPEATS)))
    await acknowledged(worker, REPEATS)
    assert events(tmp_path).count("lease_given_back") == 1
    await worker.disconnect()


async def test_a_result_is_journalled_once_however_often_it_is_delivered(
    broker: LocalBroker, tmp_path: Path
) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await broker.submit(key, await broker.publish(key))
    grant = await worker.expect(Grant)
    frame = await worker.answer(grant)
    await worker.expect(Settled)
    await worker.send(*(frame for _ in range(REPEATS)))
    await acknowledged(worker, REPEATS)
    assert events(tmp_path).count("receipt_delivered") == 1
    await worker.disconnect()


async def test_progress_is_journalled_once_for_each_stage(broker: LocalBroker, tmp_path: Path) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await broker.submit(key, await broker.publish(key))
    grant = await worker.expect(Grant)
    await worker.send(*(Heartbeat(1, stages_done={grant.lease: 2}) for _ in range(REPEATS)))
    await worker.answer(grant)
    await worker.expect(Settled)
    assert events(tmp_path).count("lease_progressed") == 1
    await worker.disconnect()


async def test_a_repeated_submission_is_journalled_once(broker: LocalBroker, tmp_path: Path) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    same: dict[str, Any] = {"idempotency_key": "same", "patience_s": 600.0}
    jobs = {(await broker.submit(key, pipeline, **same)).job for _ in range(REPEATS)}
    assert len(jobs) == 1
    assert events(tmp_path).count("job_submitted") == 1


async def test_a_cancelled_job_is_cancelled_once(broker: LocalBroker, tmp_path: Path) -> None:
    key = await broker.account()
    job = await broker.submit(key, await broker.publish(key), patience_s=600.0)
    for _ in range(REPEATS):
        await broker.call("DELETE", f"/v1/jobs/{job.job}", key=key)
    assert events(tmp_path).count("job_cancelled") == 1


async def test_a_pipeline_is_published_once(broker: LocalBroker, tmp_path: Path) -> None:
    key, pipeline = await broker.account(), SamplePipeline()
    await broker.publish(key, pipeline)
    request = pipeline.request()
    for _ in range(2):
        await broker.call("POST", "/v1/pipelines", key=key, body=request)
    before = events(tmp_path)
    for _ in range(REPEATS):
        await broker.call("POST", "/v1/pipelines", key=key, body=request)
    assert events(tmp_path) == before


async def test_jobs_that_end_without_a_payment_have_a_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost_broker.jobs.open_jobs.UNPAID_JOBS_MIN", 1)
    async with local_broker(tmp_path, open_jobs_max=20, unpaid_jobs_per_s=1e-6) as broker:
        alice, bob = await broker.account("alice"), await broker.account("bob")
        pipeline = await broker.publish(alice)
        for _ in range(10):
            job = await broker.submit(alice, pipeline, patience_s=600.0)
            await broker.call("DELETE", f"/v1/jobs/{job.job}", key=alice)
            await broker.submit(alice, pipeline, patience_s=0.0)
        with pytest.raises(QuotaExceeded, match="ended without a payment"):
            await broker.submit(alice, pipeline)
        worker = await broker.worker(serve=True)
        for _ in range(25):  # what is paid for is not counted
            job = await broker.submit(bob, pipeline)
            assert (await broker.result(bob, job.job)).status is JobStatus.ACCEPTED
        await worker.disconnect()


async def test_an_offer_that_stays_the_same_is_not_journalled(
    broker: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await broker.worker()
    dearer = msgspec.structs.replace(worker.offer, price_per_unit_microcredits=2_000)
    before = events(tmp_path)
    # Without a pause between offers, each of these would be one of its own.
    monkeypatch.setattr("tradepost_broker.web.worker_session.OFFER_S_MIN", 0.0)
    for number in range(REPEATS):
        await worker.send(UpdateOffer(worker.offer), returned(f"made-up-{number}"))
        await worker.expect(Acknowledged)
    await worker.send(UpdateOffer(dearer))
    await offered(broker, worker, dearer)
    assert events(tmp_path)[len(before) :] == ["offer_updated"]
    await worker.disconnect()


async def offered(broker: LocalBroker, worker: FakeWorker, offer: Offer) -> None:
    """Wait until the market has an offer."""
    async with asyncio.timeout(180):
        while getattr(broker.running.parts.market.worker(worker.id), "offer", None) != offer:
            await broker.tick()


@pytest.mark.parametrize(
    "capacities", [range(20), [0] * 20, [number % 2 for number in range(20)]], ids=["grows", "none", "flips"]
)
async def test_new_offers_wait_when_their_bytes_are_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacities: Sequence[int]
) -> None:
    monkeypatch.setattr("tradepost_broker.assembly.JOURNAL_BYTES_BURST", 10_000)
    # However long a busy machine takes, next to nothing is saved up meanwhile.
    monkeypatch.setattr("tradepost_broker.assembly.JOURNAL_BYTES_PER_S", 1.0)
    monkeypatch.setattr("tradepost_broker.web.worker_session.OFFER_S_MIN", 0.001)
    async with local_broker(tmp_path) as broker:
        worker = await broker.worker()
        before = journal_bytes(tmp_path)
        for number, capacity in enumerate(capacities):
            # Those without capacity are large: they must not come in at once with all that they hold.
            warm = tuple(f"{number:064}" for _ in range(5 if capacity == 1 else 50))
            await worker.send(
                UpdateOffer(msgspec.structs.replace(worker.offer, capacity=capacity, warm=warm))
            )
            await worker.send(returned(f"made-up-{number}"))
            await worker.expect(Acknowledged)  # so that the offer was handled as well
        assert journal_bytes(tmp_path) - before < 20_000
        await worker.disconnect()


async def test_leases_that_a_hello_makes_up_are_recalled_and_not_journalled(
    broker: LocalBroker, tmp_path: Path
) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await broker.submit(key, await broker.publish(key))
    grant = await worker.expect(Grant)
    await worker.disconnect()
    made_up = [f"made-up-{number:0200}" for number in range(1000)]
    worker.unfinished |= dict.fromkeys(made_up, grant)
    before = journal_bytes(tmp_path)
    welcome = await worker.connect()
    assert welcome.leases == (grant.lease,)
    assert {(await worker.expect(Recall)).lease for _ in made_up} == set(made_up)
    assert journal_bytes(tmp_path) - before < 5_000
    await worker.send(worker.delivery(grant, sample_input()))
    assert (await worker.expect(Settled)).lease == grant.lease
    await worker.disconnect()
