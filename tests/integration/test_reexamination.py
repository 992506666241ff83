"""Over the wire: a cheat is proven, and the submitters of what it had delivered before get what is right."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import numpy as np
import pytest

from tradepost import AsyncClient
from tradepost.audit_log.proofs import verify_proof
from tradepost.errors import ResultWithdrawn, RunnerFailed
from tradepost.pipeline.tensors import decode
from tradepost.protocol import GiveBack, GiveBackReason, Grant, JobStatus, JobView
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.testing import LocalBroker, local_broker
from tradepost_broker.testing.fake_worker import FakeWorker, echo, wrong_echo
from tradepost_broker.testing.sample_pipeline import sample_input

FUNDS_MICROCREDITS = 100_000_000
RIGHT = decode(echo(sample_input()))["y"]
#: Low enough for one newcomer's result.
ALONE = 0.5
#: Reference runs that prove fraud: two of each of two auditors.
PROOF_RUNS = 4


async def changed(client: AsyncClient, count: int) -> list[JobView]:
    """The next jobs whose verdicts change."""
    found: list[JobView] = []
    async for view in client.verdict_changes():
        found.append(view)
        if len(found) == count:
            break
    return found


async def expose(broker: LocalBroker, key: str, pipeline: str, honest: FakeWorker) -> None:
    """Submit a job that the cheat and an honest worker answer, which auditors decide."""
    view = await broker.submit(key, pipeline, confidence=0.9, max_price_microcredits=1_000_000)
    ended = await broker.result(key, view.job)
    assert ended.verification is not None
    assert ended.verification.agreed == (honest.id,)


async def test_who_was_given_wrong_results_is_refunded_and_told(tmp_path: Path) -> None:
    async with local_broker(tmp_path, policy=MarketPolicy(audit_rate=0.0)) as broker:
        alice, bob = await broker.account("alice"), await broker.account("bob")
        pipeline = await broker.publish(bob)
        cheat = await broker.worker("cheat", serve=True, script=wrong_echo)
        async with AsyncClient(broker.url, api_key=alice) as client:
            jobs = [
                await client.submit(
                    pipeline, sample_input(), max_price="0.1", confidence=ALONE, on_wrong=on_wrong
                )
                for on_wrong in ("redo", "redo", "refund")
            ]
            wrong = [await job.result(60) for job in jobs]
            assert all(np.all(result["y"] != RIGHT) for result in wrong)
            assert (await broker.standing(cheat)).accepted == len(jobs)
            assert (await client.jobs(changed=True)).jobs == ()
            told = asyncio.create_task(changed(client, 3))
            honest = await broker.worker("honest", serve=True)
            auditors = [
                await broker.worker(owner, serve=True, auditor=True)
                for owner in ("operator", "second-operator")
            ]
            await expose(broker, bob, pipeline, honest)
            assert {view.job for view in await told} == {job.id for job in jobs}
            for job in jobs[:2]:
                result = await job.result(60)
                assert np.array_equal(result["y"], RIGHT)
                assert (result.price, result.verification.credibility) == (0, 1.0)
                assert result.corrected_at is not None
                assert np.array_equal((await (await client.attach(job.id)).result(60))["y"], RIGHT)
            with pytest.raises(ResultWithdrawn, match="a reference run contradicts it"):
                await jobs[2].result(60)
            await broker.running.parts.checkpoints.publish()
            for job, before in zip(jobs, wrong, strict=True):
                # The cheat signed it, and the log has it, whatever became of the job.
                assert verify_proof(await client.proof(job.id), before.receipts)
            listed = (await client.jobs(changed=True)).jobs
            assert [entry.status for entry in listed] == [
                JobStatus.WITHDRAWN,
                JobStatus.ACCEPTED,
                JobStatus.ACCEPTED,
            ]
            assert await client.balance() * 1_000_000 == FUNDS_MICROCREDITS
        standing = await broker.standing(cheat)
        assert (standing.standing, standing.accepted) == ("expelled", 0)
        for worker in (*auditors, cheat, honest):
            await worker.disconnect()


async def test_what_no_auditor_can_check_is_run_again(tmp_path: Path) -> None:
    runs = itertools.count(1)

    async def serve_until_proven(auditor: FakeWorker) -> None:
        while True:
            grant = await auditor.expect(Grant)
            if next(runs) <= PROOF_RUNS:
                await auditor.send(auditor.delivery(grant, sample_input()))
            else:
                broken = RunnerFailed("the auditor's device is broken").to_problem()
                await auditor.send(GiveBack(grant.lease, GiveBackReason.FAILED, broken))

    policy = MarketPolicy(audit_rate=0.0, audits_lost_max=2)
    async with local_broker(tmp_path, policy=policy, open_jobs_max=1) as broker:
        alice, bob = await broker.account("alice"), await broker.account("bob")
        pipeline = await broker.publish(bob)
        cheat = await broker.worker("cheat", serve=True, script=wrong_echo)
        async with AsyncClient(broker.url, api_key=alice) as client:
            job = await client.submit(pipeline, sample_input(), max_price="0.1", confidence=ALONE)
            wrong = await job.result(60)
            assert np.all(wrong["y"] != RIGHT)
            told = asyncio.create_task(changed(client, 1))
            honest = await broker.worker("honest", serve=True)
            auditors = [await broker.worker(owner, auditor=True) for owner in ("operator", "second-operator")]
            serving = [asyncio.create_task(serve_until_proven(auditor)) for auditor in auditors]
            await expose(broker, bob, pipeline, honest)
            [view] = await told
            assert view.job == job.id
            result = await job.result(60)
            await broker.running.parts.checkpoints.publish()
            assert verify_proof(await client.proof(job.id), (*wrong.receipts, *result.receipts))
            assert np.array_equal(result["y"], RIGHT)
            assert result.verification.agreed == (honest.id,)
            assert 0 < result.price * 1_000_000 == FUNDS_MICROCREDITS - await client.balance() * 1_000_000
            # It is not open any more: the account may have another.
            again = await client.submit(pipeline, sample_input(), max_price="0.1", confidence=ALONE)
            await again.result(60)
        for task in serving:
            task.cancel()
        for worker in (*auditors, cheat, honest):
            await worker.disconnect()
