"""Estimates of a real broker: they agree with what then happens, cost nothing, and are limited by account."""

from __future__ import annotations

import pytest

from tradepost.client.async_client import AsyncClient
from tradepost.errors import (
    InvalidInput,
    NoEligibleWorker,
    PriceCapTooLow,
    QuotaExceeded,
    TradepostError,
    UnknownPipeline,
)
from tradepost.pipeline.manifest import PipelineLimits
from tradepost.protocol import EstimateRequest, EstimateView, Grant, JobStatus, Requirements
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.testing import LocalBroker, SamplePipeline, sample_input

SIZE_BYTES = len(sample_input(3))


async def test_a_job_with_the_estimated_cap_is_granted_and_accepted(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker(price=1000)
    async with AsyncClient(broker.url, api_key=key) as client:
        found = await client.estimate(pipeline, SIZE_BYTES, confidence=0.75)
        assert found.cap is not None
        assert (found.problem, found.measured_runs, found.typical_price) == (None, 0, None)
        job = await client.submit(pipeline, sample_input(3), max_price=found.cap, confidence=0.75)
        grant = await worker.expect(Grant)
        busy = await client.estimate(pipeline, SIZE_BYTES, confidence=0.75)
        await worker.answer(grant)
        assert (await job.result()).price == found.cap
        after = await client.estimate(pipeline, SIZE_BYTES, confidence=0.75)
    assert busy.typical_price is None, "what an open job pays is not shown"
    assert (after.typical_price, after.typical_jobs, after.measured_runs) == (found.cap, 1, 1)
    assert after.latency_p90_s is not None
    assert after.in_time is True
    await worker.disconnect()


async def test_one_that_nobody_would_take_fails_with_the_reason_of_the_estimate(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    for expected, has_worker in ((NoEligibleWorker, False), (PriceCapTooLow, True)):
        worker = await broker.worker(price=1000) if has_worker else None
        request = EstimateRequest(
            pipeline=pipeline, input_bytes=SIZE_BYTES, max_price_microcredits=1, confidence=0.75
        )
        view = await broker.call("POST", "/v1/estimate", key=key, body=request, reply=EstimateView)
        submitted = await broker.submit(
            key, pipeline, input=sample_input(3), max_price_microcredits=1, patience_s=0.0, confidence=0.75
        )
        ended = await broker.result(key, submitted.job)
        assert (ended.status, ended.problem) == (JobStatus.FAILED, view.problem)
        assert isinstance(TradepostError.from_problem(view.problem), expected)
        if worker is not None:
            await worker.disconnect()


async def test_an_estimate_is_in_no_journal_and_reserves_nothing(broker: LocalBroker) -> None:
    key = await broker.account(funds=0)
    pipeline = await broker.publish(key)
    before = broker.running.parts.store.last_seq
    async with AsyncClient(broker.url, api_key=key) as client:
        for _ in range(3):
            await client.estimate(pipeline, SIZE_BYTES)
        assert (await client.jobs()).jobs == ()
    assert broker.running.parts.store.last_seq == before


async def test_what_a_submission_is_refused_for_an_estimate_is_too(broker: LocalBroker) -> None:
    key = await broker.account()
    sample = SamplePipeline(limits=PipelineLimits(input_bytes=100))
    pipeline = await broker.publish(key, sample)
    async with AsyncClient(broker.url, api_key=key) as client:
        with pytest.raises(InvalidInput, match="101 bytes"):
            await client.estimate(pipeline, 101)
        with pytest.raises(UnknownPipeline):
            await client.estimate(unpublished(), 100)


def unpublished() -> str:
    """The CID of a pipeline that nobody published."""
    return "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


async def test_an_explanation_shows_what_a_job_preferred_and_required(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    workers = [await broker.worker(owner, serve=True, price=1000) for owner in ("one", "two")]
    async with AsyncClient(broker.url, api_key=key) as client:
        job = await client.submit(
            pipeline,
            sample_input(3),
            max_price=1,
            confidence=0.75,
            requirements=Requirements(owners_excluded=("one",)),
            preference="load",
        )
        await job.result()
    path = f"/v1/jobs/{job.id}/explanation"
    explained = await broker.call("GET", path, key=key, reply=Explanation)
    assert explained.preference == "price 1, latency 0, locality 1, load 20"
    [lease] = explained.leases
    assert (lease.worker, lease.left_out) == (workers[1].id, {"owner not allowed": 1})
    for worker in workers:
        await worker.disconnect()


async def ask_often(client: AsyncClient, pipeline: str) -> None:
    for _ in range(101):
        await client.estimate(pipeline, SIZE_BYTES)


@pytest.mark.usefixtures("no_refill")
async def test_an_account_cannot_ask_without_end(broker: LocalBroker) -> None:
    key, other = await broker.account(), await broker.account("bob")
    pipeline = await broker.publish(key)
    async with AsyncClient(broker.url, api_key=key) as client:
        with pytest.raises(QuotaExceeded, match="estimates of one account"):
            await ask_often(client, pipeline)
    async with AsyncClient(broker.url, api_key=other) as client:
        await client.estimate(pipeline, SIZE_BYTES)
