"""A real broker looks into what workers deliver before it counts for anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tradepost.errors import InvalidPipeline
from tradepost.pipeline.manifest import OutputSpec, Tolerance
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import INLINE_BYTES_MAX, Acknowledged, Grant, JobStatus
from tradepost.receipts import Failed
from tradepost_broker.content import catalog
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.testing import FakeWorker, LocalBroker, ManualClock, local_broker
from tradepost_broker.testing.fake_worker import Script, echo
from tradepost_broker.testing.sample_pipeline import SamplePipeline, sample_input

DECLARED = SamplePipeline(
    name="declared", output=OutputSpec(dtype="F32", shape=(None,), minimum=-1000.0, maximum=1000.0)
)


def result(*values: float, dtype: type = np.float32, name: str = "y") -> bytes:
    return encode(TensorDocument({name: np.array(values, dtype)}))


@dataclass(frozen=True)
class Scene:
    """A job that its first worker has answered, and the workers of other owners, who ask for more."""

    key: str
    job: str
    first: FakeWorker
    others: list[FakeWorker]


@asynccontextmanager
async def answered(
    broker: LocalBroker, pipeline: SamplePipeline, output: bytes, *scripts: Script
) -> AsyncIterator[Scene]:
    """A job of which one worker, whom its confidence would believe alone, has delivered this output."""
    key = await broker.account()
    cid = await broker.publish(key, pipeline)
    first = await broker.worker("first", script=lambda _: output)
    job = (await broker.submit(key, cid, confidence=0.75)).job
    others = [
        await broker.worker(f"other-{number}", serve=True, script=script, price=9_000)
        for number, script in enumerate(scripts)
    ]
    grant = await first.expect(Grant)
    if len(output) > INLINE_BYTES_MAX:
        await first.upload_output(grant, output)
    await first.answer(grant)
    try:
        yield Scene(key, job, first, others)
    finally:
        for worker in (first, *others):
            await worker.disconnect()


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"<!doctype html><title>502</title>",
        result(2, 4, 6, 8, name="z"),
        encode(TensorDocument({"y": np.ones(4, np.float32), "extra": np.ones(1, np.float32)})),
        b"<html>" + bytes(INLINE_BYTES_MAX),
        result(*range(300_000), name="z"),
    ],
    ids=["empty", "html", "another name", "one more", "html, uploaded", "another name, uploaded"],
)
async def test_what_no_run_can_give_is_an_invalid_receipt(broker: LocalBroker, output: bytes) -> None:
    async with answered(broker, SamplePipeline(), output, echo) as scene:
        answer = await scene.first.expect(Acknowledged)
        assert answer.problem is not None
        assert answer.problem.code == "invalid-receipt"
        view = await broker.result(scene.key, scene.job)
        assert view.status is JobStatus.ACCEPTED
        assert view.verification is not None
        assert view.verification.agreed == (scene.others[0].id,)
        assert (await broker.standing(scene.first)).accepted == 0


@pytest.mark.parametrize(
    "output",
    [
        result(2, np.nan, 6, 8),
        result(2, np.inf, 6, 8),
        result(2, 4, 6, 8, dtype=np.float64),
        encode(TensorDocument({"y": np.ones((2, 2), np.float32)})),
        result(2, 4, 6, 1001),
        result(*range(300_000)),
    ],
    ids=["NaN", "infinity", "dtype", "rank", "bound", "bound, uploaded"],
)
async def test_what_is_not_as_declared_is_a_failure_that_another_owner_must_confirm(
    broker: LocalBroker, output: bytes
) -> None:
    async with answered(broker, DECLARED, output, echo, echo) as scene:
        assert (await scene.first.expect(Acknowledged)).problem is None
        view = await broker.result(scene.key, scene.job)
        assert view.status is JobStatus.ACCEPTED
        assert view.output == echo(sample_input())
        assert view.verification is not None
        assert view.verification.disagreed == (scene.first.id,)
        assert (await broker.standing(scene.first)).accepted == 0


async def test_an_output_that_is_invalid_everywhere_fails_the_job_and_is_paid(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key, DECLARED)
    outputs = (result(np.nan), result(1001.0))
    workers = [
        await broker.worker(f"owner-{number}", serve=True, script=lambda _, output=output: output)
        for number, output in enumerate(outputs)
    ]
    view = await broker.result(key, (await broker.submit(key, pipeline, confidence=0.8)).job)
    assert view.status is JobStatus.FAILED
    assert view.problem is not None
    assert (view.problem.code, view.problem.stage) == ("invalid-output", "double")
    assert view.price_microcredits > 0
    assert view.output is None
    for worker in workers:
        await worker.disconnect()


async def test_an_undeclared_output_that_is_not_finite_is_confirmed_before_it_counts(
    broker: LocalBroker,
) -> None:
    output = result(np.nan)
    async with answered(broker, SamplePipeline(), output, lambda _: output) as scene:
        view = await broker.result(scene.key, scene.job)
        assert view.status is JobStatus.ACCEPTED
        assert view.verification is not None
        assert set(view.verification.agreed) == {scene.first.id, scene.others[0].id}


async def test_a_claimed_trap_is_not_paid_unconfirmed(tmp_path: Path) -> None:
    clock = ManualClock()
    async with local_broker(tmp_path, clock=clock) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        worker = await broker.worker(script=lambda _: Failed(stage="double", code="kernel-trap"))
        job = (await broker.submit(key, pipeline, confidence=0.8, patience_s=1.0)).job
        await worker.answer(await worker.expect(Grant))
        assert (await worker.expect(Acknowledged)).problem is None
        clock.advance(2)  # nobody else has come who could confirm it
        await broker.tick()
        view = await broker.result(key, job)
        assert view.status is JobStatus.FAILED
        assert view.problem is not None
        assert view.problem.code == "kernel-trap"
        assert view.price_microcredits == 0
        assert (await broker.standing(worker)).held_microcredits == 0
        await worker.disconnect()


async def test_a_tolerance_above_the_ceiling_cannot_be_published(broker: LocalBroker) -> None:
    key = await broker.account()
    with pytest.raises(InvalidPipeline) as refused:
        await broker.publish(key, SamplePipeline(tolerance=Tolerance(atol=1.0, rtol=1.0)))
    assert refused.value.stage == "double"
    assert "at most 0.01 and 0.02 are allowed" in refused.value.detail
    assert refused.value.hint.startswith("Set tolerance = { atol = 0.01, rtol = 0.02 }")
    with pytest.raises(InvalidPipeline, match="for outputs of F32"):
        await broker.publish(key, replace(DECLARED, tolerance=Tolerance(atol=1e-2, rtol=1e-2)))
    await broker.publish(key, replace(DECLARED, tolerance=Tolerance(atol=1e-3, rtol=1e-2)))


async def test_zeros_do_not_pass_in_a_pipeline_from_before_the_ceilings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "check_tolerances", lambda _: None)
    async with local_broker(tmp_path, policy=MarketPolicy(audit_rate=1.0, references_to_expel=1)) as broker:
        key = await broker.account()
        old = await broker.publish(key, SamplePipeline(tolerance=Tolerance(atol=1.0, rtol=1.0)))
        auditor = await broker.worker("operator", serve=True, auditor=True)
        zeros = await broker.worker("zeros", serve=True, script=lambda _: result(0, 0, 0, 0))
        honest = await broker.worker("honest", serve=True)
        view = await broker.result(key, (await broker.submit(key, old, confidence=0.9)).job)
        assert view.status is JobStatus.ACCEPTED
        assert view.verification is not None
        assert view.verification.agreed == (honest.id,)
        assert (await broker.standing(zeros)).standing == "expelled"
        for worker in (auditor, zeros, honest):
            await worker.disconnect()


async def test_results_are_measured_by_the_reference_and_the_submitter_gets_it(tmp_path: Path) -> None:
    exact = np.array([100.0, 0.0, 0.0, 0.0], np.float32)

    def giving(value: float) -> Callable[[bytes], bytes]:
        return lambda _: result(value, 0, 0, 0)

    async with local_broker(tmp_path) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key, SamplePipeline(tolerance=Tolerance(atol=0.0, rtol=1e-2)))
        auditor = await broker.worker("operator", serve=True, auditor=True, script=giving(exact[0]))
        # Within a hundredth of itself, but not within a hundredth of the reference.
        beyond = await broker.worker("beyond", serve=True, script=giving(101.005))
        near = await broker.worker("near", serve=True, script=giving(99.5))
        view = await broker.result(key, (await broker.submit(key, pipeline, confidence=0.9)).job)
        assert view.status is JobStatus.ACCEPTED
        assert view.output == result(*exact)
        assert view.verification is not None
        assert view.verification.agreed == (near.id,)
        assert view.verification.disagreed == (beyond.id,)
        for worker in (auditor, beyond, near):
            await worker.disconnect()
