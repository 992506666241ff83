"""Results are compared stage by stage at a real broker: no tolerance excuses a kernel."""

from __future__ import annotations

import numpy as np

from tradepost.pipeline.manifest import Tolerance
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost.protocol import JobStatus, JobView
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.testing import FakeWorker, LocalBroker, SamplePipeline, Script, echo

TOLERANCE = Tolerance(atol=1e-3, rtol=1e-2)


def off_by(share: float) -> Script:
    """The honest result of the sample pipeline, each number larger by this share of it."""
    return lambda document: encode(TensorDocument({"y": decode(echo(document))["y"] * np.float32(1 + share)}))


async def verdict(broker: LocalBroker) -> JobView:
    """A job that needs two results, once it has ended."""
    key = await broker.account()
    pipeline = await broker.publish(key, SamplePipeline(tolerance=TOLERANCE))
    job = (await broker.submit(key, pipeline, confidence=0.9, patience_s=600.0)).job
    view = await broker.result(key, job)
    assert view.status is JobStatus.ACCEPTED
    return view


async def compared(broker: LocalBroker, job: str, worker: FakeWorker) -> list[str]:
    """How each stage of a worker's result compares with the job's result, as the explanation shows it."""
    token = broker.operator_token
    explained: Explanation = await broker.call(
        "GET", f"/v1/admin/jobs/{job}/explanation", key=token, reply=Explanation
    )
    [lease] = [one for one in explained.leases if one.worker == worker.id]
    return [f"{one.kind} {one.stage}: {one.match}" for one in lease.stages]


async def disconnect(*workers: FakeWorker) -> None:
    for worker in workers:
        await worker.disconnect()


async def test_another_output_of_a_kernel_is_not_excused_by_the_tolerance_of_a_later_model(
    broker: LocalBroker,
) -> None:
    """The attack: a cheaper preprocessing, after which the model's output is within its tolerance."""
    auditor = await broker.worker("operator", auditor=True, serve=True)
    honest = await broker.worker("honest", serve=True)
    cheat = await broker.worker("cheat", serve=True, script=off_by(0.005), shortcut="cheap")
    view = await verdict(broker)
    assert view.verification is not None
    assert (view.verification.agreed, view.verification.disagreed) == ((honest.id,), (cheat.id,))
    found = (await broker.standing(cheat)).evidence
    assert [(one.kind, one.stage) for one in found] == [("contradicted", "scale")]
    assert await compared(broker, view.job, cheat) == ["kernel scale: contradicts", "model double: follows"]
    await disconnect(auditor, honest, cheat)


async def test_a_model_within_its_tolerance_after_equal_kernels_agrees(broker: LocalBroker) -> None:
    workers = [
        await broker.worker(f"owner-{number}", serve=True, script=script)
        for number, script in enumerate((echo, off_by(0.005)))
    ]
    view = await verdict(broker)
    assert view.verification is not None
    assert set(view.verification.agreed) == {worker.id for worker in workers}
    shown = [await compared(broker, view.job, worker) for worker in workers]
    assert sorted(shown) == [[], ["kernel scale: equal", "model double: within tolerance"]]
    await disconnect(*workers)


async def test_a_receipt_that_commits_to_another_output_than_it_returns_is_caught(
    broker: LocalBroker,
) -> None:
    """The attack: the stages of an honest run, and another output within the tolerance."""
    auditor = await broker.worker("operator", auditor=True, serve=True)
    honest = await broker.worker("honest", serve=True)
    liar = await broker.worker("liar", serve=True, script=off_by(0.005), commits_to=echo)
    view = await verdict(broker)
    assert view.verification is not None
    assert (view.verification.agreed, view.verification.disagreed) == ((honest.id,), (liar.id,))
    found = (await broker.standing(liar)).evidence
    assert [(one.kind, one.stage) for one in found] == [("contradicted", "double")]
    await disconnect(auditor, honest, liar)
