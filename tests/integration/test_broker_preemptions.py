"""Leases that come back preempted: the receipt for what was done is checked, kept, and paid once verified."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tradepost.errors import InvalidReceipt
from tradepost.protocol import Acknowledged, Deliver, GiveBack, GiveBackReason, Grant, JobStatus, Settled
from tradepost.receipts import Preempted, Returned, StageReport, verify_receipt
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.storage.shell_records import Delivery
from tradepost_broker.testing import FakeWorker, LocalBroker
from tradepost_broker.testing.sample_pipeline import sample_input

OTHER = StageReport(stage="double", output="0" * 64)
REPORT = StageReport(stage="scale", output="0" * 64)


class Bench:
    """A job with the first worker, which is cheaper, and a second worker that works for anybody."""

    def __init__(self, broker: LocalBroker, key: str, job: str, first: FakeWorker, grant: Grant) -> None:
        self.broker = broker
        self.key = key
        self.job = job
        self.first = first
        self.grant = grant

    def preemption(self, **changes: Any) -> GiveBack:
        return self.first.preemption(self.grant, sample_input(), done=1, **changes)

    async def acknowledged(self, frame: GiveBack | Deliver) -> Acknowledged:
        await self.first.send(frame)
        return await self.first.expect(Acknowledged)

    def kept(self) -> Delivery | None:
        return self.broker.running.parts.store.get(Delivery, self.grant.lease)


@pytest.fixture
async def bench(broker: LocalBroker) -> AsyncIterator[Bench]:
    key = await broker.account()
    pipeline = await broker.publish(key)
    first = await broker.worker("first", price=1000)
    second = await broker.worker("second", price=2000, serve=True)
    job = (await broker.submit(key, pipeline)).job
    yield Bench(broker, key, job, first, await first.expect(Grant))
    await first.disconnect()
    await second.disconnect()


async def test_the_receipt_is_kept_and_its_stage_paid_once_the_job_confirms_it(bench: Bench) -> None:
    assert (await bench.acknowledged(bench.preemption())).problem is None
    settled = await bench.first.expect(Settled)
    view = await bench.broker.result(bench.key, bench.job)
    assert view.status is JobStatus.ACCEPTED
    explained = await bench.broker.call(
        "GET", f"/v1/jobs/{bench.job}/explanation", key=bench.key, reply=Explanation
    )
    broken_off, result = explained.leases
    assert (settled.lease, settled.verdict) == (bench.grant.lease, "preempted")
    assert settled.earned_microcredits == broken_off.price_microcredits // 2 > 0
    assert settled.reason == "1 of 2 stages, verified; preempted by owner"
    assert (broken_off.state, broken_off.paid_microcredits) == ("preempted", settled.earned_microcredits)
    assert view.price_microcredits == broken_off.paid_microcredits + result.paid_microcredits
    assert len(view.receipts) == 1, "the receipts of the result"
    kept = bench.kept()
    assert kept is not None
    assert verify_receipt(kept.receipt).outcome == Preempted()
    standing = await bench.broker.standing(bench.first)
    assert (standing.evidence_counts, standing.accepted) == ({}, 0)
    assert standing.held_microcredits == settled.earned_microcredits


async def test_a_repeated_one_is_acknowledged_and_pays_once(bench: Bench) -> None:
    frame = bench.preemption()
    await bench.acknowledged(frame)
    settled = await bench.first.expect(Settled)
    assert (await bench.acknowledged(frame)).problem is None
    standing = await bench.broker.standing(bench.first)
    assert standing.held_microcredits == settled.earned_microcredits > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": bytes(16)},
        {"lease": "another"},
        {"job": "another"},
        {"expires_at": 1},
        {"pipeline": "another"},
        {"input": "another"},
        {"broker": "another"},
        {"worker": "another"},
        {"attempt": 2},
        {"outcome": Returned(output="x", output_bytes=1)},
        {"stages": ()},
        {"stages": (OTHER,)},
        {"stages": (REPORT, OTHER)},
        {"stages": (REPORT, REPORT)},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_receipt_that_does_not_hold_is_refused_and_the_lease_comes_back(
    bench: Bench, changes: dict[str, Any]
) -> None:
    acknowledged = await bench.acknowledged(bench.preemption(**changes))
    assert acknowledged.problem is not None
    assert acknowledged.problem.code == InvalidReceipt.code()
    assert (await bench.broker.result(bench.key, bench.job)).status is JobStatus.ACCEPTED
    assert bench.kept() is None
    standing = await bench.broker.standing(bench.first)
    assert (standing.evidence_counts, standing.held_microcredits) == ({}, 0)


async def test_a_forged_signature_is_refused(bench: Bench) -> None:
    frame = bench.preemption()
    assert frame.receipt is not None
    receipt = msgspec.structs.replace(frame.receipt, signature=b"forged")
    acknowledged = await bench.acknowledged(msgspec.structs.replace(frame, receipt=receipt))
    assert acknowledged.problem is not None
    assert bench.kept() is None


async def test_only_a_preempted_lease_comes_with_a_receipt(bench: Bench) -> None:
    frame = msgspec.structs.replace(bench.preemption(), reason=GiveBackReason.FAILED)
    acknowledged = await bench.acknowledged(frame)
    assert acknowledged.problem is not None
    assert bench.kept() is None


async def test_a_receipt_for_some_stages_is_no_result(bench: Bench) -> None:
    receipt = bench.preemption().receipt
    assert receipt is not None
    acknowledged = await bench.acknowledged(Deliver(lease=bench.grant.lease, receipt=receipt))
    assert acknowledged.problem is not None
    assert acknowledged.problem.code == InvalidReceipt.code()
    assert "not a result" in acknowledged.problem.detail
