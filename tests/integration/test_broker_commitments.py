"""Workers that take leases and do not keep them, over the wire: each job is done, soon by others only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tradepost.errors import RunnerFailed
from tradepost.protocol import Acknowledged, GiveBack, GiveBackReason, Grant, JobStatus, Recall
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.testing import LocalBroker, ManualClock, local_broker

POLICY = MarketPolicy(audit_rate=0.0)
FREE = int(POLICY.break_offs_free)
#: Before the lease would end by its own time.
DEADLINE_S = 20.0
#: Honest workers answer at once here, so this is late.
LATE_S = POLICY.late_s_min + 1.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def broker(tmp_path: Path, clock: ManualClock) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path, clock=clock, policy=POLICY) as running:
        yield running


async def prepare(broker: LocalBroker) -> tuple[str, str]:
    """Three honest workers, each of which has given results; the submitter's key, and the pipeline."""
    key = await broker.account()
    pipeline = await broker.publish(key)
    for number in range(3):
        await broker.worker(f"honest{number}", price=2_000, serve=True)
    job = (await broker.submit(key, pipeline, confidence=0.98)).job
    assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
    return key, pipeline


async def test_held_leases_fail_no_job_and_become_evidence(broker: LocalBroker, clock: ManualClock) -> None:
    key, pipeline = await prepare(broker)
    holder = await broker.worker("holder", price=100)
    expired = []
    # The first is excused, and the second, the trial, has as long as another worker does not have to begin.
    for held_s in (LATE_S, DEADLINE_S - POLICY.late_s_min, LATE_S):
        job = (await broker.submit(key, pipeline, confidence=0.5, deadline_s=DEADLINE_S)).job
        grant = await holder.expect(Grant)
        clock.advance(held_s)
        await broker.tick()
        assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
        async with asyncio.timeout(180):
            assert (await holder.expect(Recall)).lease == grant.lease
        expired.append((await broker.standing(holder)).evidence_counts.get("expired", 0))
    assert expired == [0, 1, 2]


async def test_an_owner_who_preempts_every_lease_soon_gets_none(broker: LocalBroker) -> None:
    key, pipeline = await prepare(broker)
    killer = await broker.worker("killer", price=100)
    problem = RunnerFailed("the owner wants the device").to_problem()
    for _ in range(FREE + 1):
        job = (await broker.submit(key, pipeline, confidence=0.5)).job
        lease = (await killer.expect(Grant)).lease
        await killer.send(GiveBack(lease=lease, reason=GiveBackReason.PREEMPTED, problem=problem))
        await killer.expect(Acknowledged)
        assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
    for _ in range(2 * FREE):
        job = (await broker.submit(key, pipeline, confidence=0.5)).job
        assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
    assert not any(isinstance(frame, Grant) for frame in killer.frames)
    assert (await broker.standing(killer)).evidence_counts == {}
