"""Receipts that do not hold, at a real broker: each is refused, pays nothing and says why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tradepost.content import add_bytes
from tradepost.errors import (
    InvalidReceipt,
    LeaseGone,
    QuotaExceeded,
)
from tradepost.identity import Identity
from tradepost.pipeline.manifest import PipelineLimits
from tradepost.protocol import (
    Acknowledged,
    Deliver,
    Grant,
    JobView,
    Settled,
)
from tradepost.receipts import Failed, Returned, StageReport
from tradepost_broker.testing import (
    LocalBroker,
    SamplePipeline,
    echo,
    sample_input,
)

DOCUMENT = sample_input()
RIGHT = Returned(output=add_bytes(echo(DOCUMENT), put=None), output_bytes=len(echo(DOCUMENT)))
HASH = "0" * 64


@pytest.mark.parametrize(
    "changes",
    [
        {"broker": "another"},
        {"job": "another"},
        {"lease": "another"},
        {"attempt": 7},
        {"worker": Identity.generate().id},
        {"pipeline": "another"},
        {"input": "another"},
        {"nonce": b"\x00" * 16},
        {"expires_at": 1},
        {"stages": ()},
        {"stages": (StageReport(stage="double", output=HASH), StageReport(stage="scale", output=HASH))},
        {"outcome": Returned(output=RIGHT.output, output_bytes=RIGHT.output_bytes + 1)},
        {"outcome": Returned(output=add_bytes(b"other", put=None), output_bytes=RIGHT.output_bytes)},
        {"outcome": Failed(stage="scale", code="kernel-trap")},
        {"format": "tradepost-receipt/2"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_receipt_that_is_not_about_this_lease_is_refused(
    broker: LocalBroker, changes: dict[str, Any]
) -> None:
    key = await broker.account(funds=1_000_000)
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key))).job
    grant = await worker.expect(Grant)
    await worker.answer(grant, **changes)
    refused = await worker.expect(Acknowledged)
    assert refused.problem is not None
    assert refused.problem.code == InvalidReceipt.code()
    assert refused.problem.hint.startswith("Update tradepost on this device.")
    await broker.call("DELETE", f"/v1/jobs/{job}", key=key, reply=JobView)
    seen = await broker.standing(worker)
    assert (seen.accepted, seen.evidence_counts) == (0, {"failed": 1})
    await worker.disconnect()


@pytest.mark.parametrize(
    "failure",
    [Failed(stage="nowhere", code="kernel-trap"), Failed(stage="scale", code="worker-lost")],
    ids=["no such stage", "not a stage's failure"],
)
async def test_a_failure_that_the_pipeline_cannot_have_is_refused(
    broker: LocalBroker, failure: Failed
) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await broker.submit(key, await broker.publish(key))
    grant = await worker.expect(Grant)
    frame = worker.delivery(grant, DOCUMENT, outcome=failure, stages=())
    await worker.send(Deliver(lease=frame.lease, receipt=frame.receipt, output=None))
    refused = await worker.expect(Acknowledged)
    assert refused.problem is not None
    assert refused.problem.code == InvalidReceipt.code()
    await worker.disconnect()


async def test_a_forged_signature_is_refused(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await broker.submit(key, await broker.publish(key))
    frame = worker.delivery(await worker.expect(Grant), DOCUMENT)
    forged = msgspec.structs.replace(frame.receipt, signature=frame.receipt.signature[:-1] + b"\x00")
    await worker.send(msgspec.structs.replace(frame, receipt=forged))
    refused = await worker.expect(Acknowledged)
    assert refused.problem is not None
    assert refused.problem.code == InvalidReceipt.code()
    await worker.disconnect()


async def test_another_workers_lease_cannot_be_delivered(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker("honest")
    await broker.submit(key, await broker.publish(key))
    grant = await worker.expect(Grant)
    thief = await broker.worker("thief")
    await thief.answer(grant)
    refused = await thief.expect(Acknowledged)
    assert refused.problem is not None
    assert refused.problem.code == LeaseGone.code()
    await worker.answer(grant)
    assert (await worker.expect(Settled)).verdict == "accepted"
    for one in (worker, thief):
        await one.disconnect()


async def test_an_output_over_the_limit_is_refused(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key, SamplePipeline(limits=PipelineLimits(output_bytes=20)))
    worker = await broker.worker()
    await broker.submit(key, pipeline)
    grant = await worker.expect(Grant)
    await worker.answer(grant)
    refused = await worker.expect(Acknowledged)
    assert refused.problem is not None
    assert "the limit is 20" in refused.problem.detail
    with pytest.raises((QuotaExceeded, LeaseGone)):
        await worker.upload_output(grant, b"x" * 300_000)
    await worker.disconnect()


async def test_an_output_that_was_not_uploaded_is_refused(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await broker.submit(key, await broker.publish(key))
    frame = worker.delivery(await worker.expect(Grant), DOCUMENT)
    await worker.send(msgspec.structs.replace(frame, output=None))
    refused = await worker.expect(Acknowledged)
    assert refused.problem is not None
    assert refused.problem.code == InvalidReceipt.code()
    await worker.disconnect()
