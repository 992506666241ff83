"""Over the wire: a ring that confirms itself in its own pipeline is not believed in another."""

from __future__ import annotations

from tradepost.protocol import JobStatus
from tradepost_broker.testing import LocalBroker, SamplePipeline
from tradepost_reputation import credibility_of_worker

JOBS = 40
CHEAP, DEAR = 10, 1_000


async def test_a_ring_that_farmed_its_own_pipeline_is_not_believed_alone_in_another(
    broker: LocalBroker,
) -> None:
    mallory = await broker.account("mallory")
    sham = await broker.publish(mallory, SamplePipeline(name="sham"))
    ring = [await broker.worker(f"ring{n}", price=CHEAP, serve=True) for n in range(2)]
    for number in range(JOBS):
        # As much as two of them reach together, if all their agreements count.
        alone = credibility_of_worker(number / 4, fault_fraction=0.2)
        job = await broker.submit(mallory, sham, confidence=alone + (1 - alone) / 10, patience_s=0.0)
        await broker.result(mallory, job.job)
    honest = [await broker.worker(f"honest{n}", price=DEAR, serve=True) for n in range(4)]
    alice = await broker.account("alice")
    pipeline = await broker.publish(alice)
    job = await broker.submit(alice, pipeline, confidence=0.99)
    view = await broker.result(alice, job.job)
    assert view.status is JobStatus.ACCEPTED
    assert view.verification is not None
    # Four newcomers are as credible as that, and two of the four are honest at least.
    assert len(view.verification.agreed) == 4
    assert len(set(view.verification.agreed) & {worker.id for worker in honest}) >= 2
    for worker in (*ring, *honest):
        await worker.disconnect()
