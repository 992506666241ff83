"""Jobs through a real broker: submitted, granted, delivered, paid; by REST and on the stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import pytest

from tradepost.client.async_client import AsyncClient
from tradepost.content import add_bytes
from tradepost.errors import (
    DeadlineExceeded,
    IdempotencyConflict,
    InlineInputTooLarge,
    InvalidInput,
    JobCancelled,
    KernelTrap,
    NoEligibleWorker,
    QuotaExceeded,
    UnknownJob,
)
from tradepost.pipeline.manifest import PipelineLimits
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    AccountView,
    Acknowledged,
    CancelJob,
    Finished,
    Grant,
    JobStatus,
    JobView,
    Recall,
    Rejected,
    Settled,
    Submit,
    Submitted,
    Watch,
    client_codec,
)
from tradepost.receipts import Failed, Returned, verify_receipt
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.testing import (
    LocalBroker,
    ManualClock,
    SamplePipeline,
    echo,
    local_broker,
    sample_input,
    wrong_echo,
)
from tradepost_broker.testing.local_broker import job_request


async def balance(broker: LocalBroker, key: str) -> tuple[int, int]:
    view: AccountView = await broker.call("GET", "/v1/account", key=key, reply=AccountView)
    return view.available_microcredits, view.reserved_microcredits


async def test_a_job_is_granted_delivered_verified_and_paid(broker: LocalBroker) -> None:
    key = await broker.account(funds=1_000_000)
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    submitted = await broker.submit(key, pipeline, input=sample_input(3))
    assert await balance(broker, key) == (900_000, 100_000)

    grant = await worker.expect(Grant)
    assert (grant.job, grant.pipeline, grant.input) == (submitted.job, pipeline, sample_input(3))
    await worker.answer(grant)
    acknowledged = await worker.expect(Acknowledged)
    assert (acknowledged.lease, acknowledged.problem) == (grant.lease, None)
    settled = await worker.expect(Settled)
    assert (settled.verdict, settled.earned_microcredits) == ("accepted", grant.price_microcredits)

    view = await broker.result(key, submitted.job)
    assert view.status is JobStatus.ACCEPTED
    assert view.output == echo(sample_input(3))
    assert view.price_microcredits == grant.price_microcredits <= 100_000
    (receipt,) = map(verify_receipt, view.receipts)
    assert receipt.worker == worker.id
    assert receipt.outcome == Returned(output=add_bytes(view.output, put=None), output_bytes=len(view.output))

    assert await balance(broker, key) == (1_000_000 - view.price_microcredits, 0)
    seen = await broker.standing(worker)
    assert (seen.held_microcredits, seen.accepted) == (view.price_microcredits, 1)
    assert (seen.stake_microcredits, seen.connected, seen.standing) == (5_000_000, True, "active")
    await worker.disconnect()


async def test_the_sdk_gets_what_the_workers_computed(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    workers = [await broker.worker(f"owner-{n}", serve=True, price=1000 + n) for n in range(3)]
    async with AsyncClient(broker.url, api_key=key) as client:
        inputs = [{"x": np.arange(4, dtype=np.float32) + n} for n in range(50)]
        results = [result async for result in client.map(pipeline, inputs, max_price="0.1", confidence=0.9)]
    for given, result in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(result["y"], given["x"] * 2)
    assert len(results[0].receipts) >= 2  # nobody is proven yet, so one result alone is not enough
    for worker in workers:
        await worker.disconnect()


async def test_the_same_key_gives_the_same_job(broker: LocalBroker) -> None:
    key = await broker.account(funds=1_000_000)
    pipeline = await broker.publish(key)
    first = await broker.submit(key, pipeline, idempotency_key="k")
    again = await broker.submit(key, pipeline, idempotency_key="k")
    assert again.job == first.job
    assert await balance(broker, key) == (900_000, 100_000)
    with pytest.raises(IdempotencyConflict):
        await broker.submit(key, pipeline, idempotency_key="k", max_price_microcredits=5)


async def test_an_account_lists_its_own_jobs_only(broker: LocalBroker) -> None:
    alice, bob = await broker.account("alice"), await broker.account("bob")
    pipeline = await broker.publish(alice)
    jobs = {key: [(await broker.submit(key, pipeline)).job for _ in range(3)] for key in (alice, bob)}
    for key in (alice, bob):
        async with AsyncClient(broker.url, api_key=key) as client:
            first = await client.jobs(limit=2)
            last = await client.jobs(limit=2, before=first.older)
        assert [entry.job for entry in (*first.jobs, *last.jobs)] == jobs[key][::-1]
        assert last.older is None


async def test_another_accounts_job_is_no_cursor(broker: LocalBroker) -> None:
    alice, bob = await broker.account("alice"), await broker.account("bob")
    pipeline = await broker.publish(alice)
    job = (await broker.submit(bob, pipeline)).job
    await broker.submit(alice, pipeline)
    async with AsyncClient(broker.url, api_key=alice) as client:
        with pytest.raises(UnknownJob, match=f"before is '{job}'"):
            await client.jobs(before=job)


@pytest.mark.parametrize("wait_s", ["nan", "inf", "-1", "61", "\u0661", "1_0", "%201", "", "x"])
async def test_a_wrong_wait_is_refused(broker: LocalBroker, wait_s: str) -> None:
    key = await broker.account("alice")
    job = (await broker.submit(key, await broker.publish(key))).job
    async with aiohttp.ClientSession(broker.url) as session:
        headers = {"Authorization": f"Bearer {key}"}
        async with session.get(f"/v1/jobs/{job}?wait_s={wait_s}", headers=headers) as answer:
            assert answer.status == 400
            assert "it must be 0 to 60 seconds" in (await answer.json(content_type=None))["detail"]


async def test_listing_jobs_reads_those_of_the_account_alone(broker: LocalBroker) -> None:
    query = "SELECT * FROM jobs WHERE account = ? AND id < ? ORDER BY id DESC LIMIT 101"
    plan = broker.running.parts.store._read.execute(f"EXPLAIN QUERY PLAN {query}", ("a", "b")).fetchall()
    assert [row[-1] for row in plan] == [
        "SEARCH jobs USING INDEX ix_jobs_account (account=? AND id<?)",
    ]


async def test_the_same_input_inline_or_by_cid_is_the_same_request(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    document = sample_input()
    cid = add_bytes(document, put=None)
    await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=document)
    first = await broker.submit(key, pipeline, idempotency_key="k")
    again = await broker.submit(key, pipeline, idempotency_key="k", input=None, input_cid=cid)
    assert again.job == first.job


async def test_another_accounts_job_is_unknown(broker: LocalBroker) -> None:
    alice, bob = await broker.account("alice"), await broker.account("bob")
    job = (await broker.submit(alice, await broker.publish(alice))).job
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/output"), ("GET", "/explanation")):
        with pytest.raises(UnknownJob):
            await broker.call(method, f"/v1/jobs/{job}{path}", key=bob)


async def test_a_cancelled_job_is_refunded_and_recalled(broker: LocalBroker) -> None:
    key = await broker.account(funds=1_000_000)
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key))).job
    grant = await worker.expect(Grant)
    view: JobView = await broker.call("DELETE", f"/v1/jobs/{job}", key=key, reply=JobView)
    assert view.status is JobStatus.CANCELLED
    assert 0 < view.price_microcredits <= grant.price_microcredits
    assert view.problem is not None
    assert view.problem.code == JobCancelled.code()
    assert (await worker.expect(Recall)).lease == grant.lease
    assert await balance(broker, key) == (1_000_000 - view.price_microcredits, 0)
    await worker.disconnect()


async def test_a_job_that_ended_long_ago_is_not_cancelled(tmp_path: Path) -> None:
    async with local_broker(tmp_path, policy=MarketPolicy(audit_rate=0.0, retain_s=0.0)) as broker:
        key = await broker.account()
        worker = await broker.worker(serve=True)
        job = (await broker.submit(key, await broker.publish(key))).job
        ended = await broker.result(key, job)
        assert ended.status is JobStatus.ACCEPTED
        await broker.tick()
        assert await broker.call("DELETE", f"/v1/jobs/{job}", key=key, reply=JobView) == ended
        with pytest.raises(UnknownJob):
            await broker.call("DELETE", f"/v1/jobs/{job}", key=await broker.account("bob"))
        async with AsyncClient(broker.url, api_key=key) as client:
            assert await (await client.attach(job)).cancel() is False
        await worker.disconnect()


async def test_a_failure_that_is_the_same_everywhere_ends_the_job(broker: LocalBroker) -> None:
    key = await broker.account(funds=1_000_000)
    trap = Failed(stage="double", code=KernelTrap.code(), detail="unreachable")
    workers = [await broker.worker(owner, serve=True, script=lambda _: trap) for owner in ("a", "b")]
    job = (await broker.submit(key, await broker.publish(key))).job
    view = await broker.result(key, job)
    assert view.status is JobStatus.FAILED
    assert view.problem is not None
    assert (view.problem.code, view.problem.stage) == ("kernel-trap", "double")
    assert view.problem.detail == "unreachable"
    assert view.problem.hint == KernelTrap.default_hint
    assert verify_receipt(view.receipts[0]).outcome == trap
    assert view.verification is not None
    assert set(view.verification.agreed) == {worker.id for worker in workers}
    with pytest.raises(UnknownJob):
        await broker.call("GET", f"/v1/jobs/{job}/output", key=key)
    for worker in workers:
        await worker.disconnect()


async def test_results_within_tolerance_agree(broker: LocalBroker) -> None:
    def nearly(document: bytes) -> bytes:
        exact = decode(echo(document))["y"]
        return encode(TensorDocument({"y": np.nextafter(exact, np.float32(np.inf))}))

    key = await broker.account()
    pipeline = await broker.publish(key)
    workers = [
        await broker.worker("exact-owner", serve=True),
        await broker.worker("nearly-owner", serve=True, script=nearly),
    ]
    view = await broker.result(key, (await broker.submit(key, pipeline, confidence=0.9)).job)
    assert view.status is JobStatus.ACCEPTED
    assert view.verification is not None
    assert set(view.verification.agreed) == {worker.id for worker in workers}
    outputs = {verify_receipt(receipt).outcome.output for receipt in view.receipts}  # type: ignore[union-attr]
    assert len(outputs) == 2
    assert view.output is not None
    assert add_bytes(view.output, put=None) in outputs
    for worker in workers:
        await worker.disconnect()


async def test_a_result_that_differs_is_outvoted_and_not_paid(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    honest = [await broker.worker(f"honest-{n}", serve=True, price=2000) for n in range(3)]
    cheat = await broker.worker("cheat", serve=True, script=wrong_echo, price=1000)
    view = await broker.result(
        key, (await broker.submit(key, pipeline, confidence=0.9, max_price_microcredits=10**6)).job
    )
    assert view.status is JobStatus.ACCEPTED
    assert view.output == echo(sample_input())
    assert view.verification is not None
    assert cheat.id in view.verification.disagreed
    assert (await broker.standing(cheat)).evidence_counts == {"outvoted": 1}
    for worker in (*honest, cheat):
        await worker.disconnect()


async def test_two_auditors_prove_fraud_and_the_stake_is_lost(tmp_path: Path) -> None:
    async with local_broker(tmp_path, policy=MarketPolicy(audit_rate=1.0)) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        auditors = [
            await broker.worker(owner, serve=True, auditor=True) for owner in ("operator", "second-operator")
        ]
        cheat = await broker.worker("cheat", serve=True, script=wrong_echo)
        job = (await broker.submit(key, pipeline)).job
        while (await cheat.expect(Settled)).verdict != "rejected":
            pass  # it may be paid first, and lose that again when the check comes back
        seen = await broker.standing(cheat)
        assert (seen.standing, seen.stake_microcredits, seen.slashed_microcredits) == (
            "expelled",
            0,
            5_000_000,
        )
        assert seen.evidence[0].kind == "audit_failed"
        assert seen.evidence[0].stage == "double"
        explained: Explanation = await broker.call(
            "GET", f"/v1/jobs/{job}/explanation", key=key, reply=Explanation
        )
        assert {lease.purpose for lease in explained.leases} >= {"auction", "audit"}
        for worker in (*auditors, cheat):
            await worker.disconnect()


async def test_large_inputs_and_outputs_travel_as_blocks(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    document = sample_input(size=400_000)  # 1.6 MB
    assert len(document) > INLINE_BYTES_MAX
    async with AsyncClient(broker.url, api_key=key) as client:
        handle = await client.submit(pipeline, document, max_price="0.1", confidence=0.5)
        grant = await worker.expect(Grant)
        assert grant.input is None
        fetched = await worker.fetch_input(grant)
        assert fetched == document
        await worker.upload_output(grant, echo(document))
        await worker.send(worker.delivery(grant, document))
        result = await handle.result(timeout=60)
    np.testing.assert_array_equal(result["y"], decode(document)["x"] * 2)
    await worker.disconnect()


async def test_waiting_ends_with_the_job(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key))).job
    waiting = asyncio.create_task(broker.result(key, job))
    await worker.answer(await worker.expect(Grant))
    assert (await waiting).status is JobStatus.ACCEPTED
    await worker.disconnect()


async def test_a_fresh_broker_says_at_once_that_nobody_is_there(tmp_path: Path) -> None:
    clock = ManualClock()  # so that no time passes in which workers might come back
    async with local_broker(tmp_path, clock=clock) as broker:
        key = await broker.account()
        job = (await broker.submit(key, await broker.publish(key), patience_s=0.0)).job
        view = await broker.result(key, job)
        assert view.problem is not None
        assert view.problem.code == NoEligibleWorker.code()


async def test_the_deadline_ends_a_job_and_refunds_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with local_broker(tmp_path, clock=clock) as broker:
        key = await broker.account(funds=1_000_000)
        worker = await broker.worker()
        job = (await broker.submit(key, await broker.publish(key), deadline_s=10.0)).job
        await worker.expect(Grant)
        clock.advance(11)
        await broker.tick()
        view = await broker.result(key, job)
        assert view.problem is not None
        assert view.problem.code == DeadlineExceeded.code()
        assert await balance(broker, key) == (1_000_000, 0)
        await worker.disconnect()


async def test_payments_mature_after_the_hold(tmp_path: Path) -> None:
    clock = ManualClock()
    policy = MarketPolicy(audit_rate=0.0, hold_s=100.0)
    async with local_broker(tmp_path, clock=clock, policy=policy) as broker:
        key = await broker.account()
        worker = await broker.worker(serve=True)
        view = await broker.result(key, (await broker.submit(key, await broker.publish(key))).job)
        seen = await broker.standing(worker)
        assert (seen.held_microcredits, seen.earned_microcredits) == (view.price_microcredits, 0)
        clock.advance(101)
        await broker.tick()
        seen = await broker.standing(worker)
        assert (seen.held_microcredits, seen.earned_microcredits) == (0, view.price_microcredits)
        await worker.disconnect()


async def test_an_account_may_open_only_so_many_jobs(tmp_path: Path) -> None:
    async with local_broker(tmp_path, open_jobs_max=2) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        jobs = [(await broker.submit(key, pipeline, idempotency_key=f"k{n}")).job for n in range(2)]
        with pytest.raises(QuotaExceeded):
            await broker.submit(key, pipeline, idempotency_key="k2")
        assert (await broker.submit(key, pipeline, idempotency_key="k1")).job == jobs[1]
        await broker.call("DELETE", f"/v1/jobs/{jobs[0]}", key=key)
        await broker.submit(key, pipeline, idempotency_key="k2")


class ClientStream:
    """The client's stream, frame by frame."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._codec = client_codec()
        self._frames: list[Submitted | Rejected | Finished] = []

    async def send(self, *frames: Submit | Watch | CancelJob) -> None:
        await self.socket.send_bytes(self._codec.encode(list(frames)))

    async def next(self) -> Submitted | Rejected | Finished:
        while not self._frames:
            self._frames = self._codec.decode(await self.socket.receive_bytes())
        return self._frames.pop(0)


async def open_stream(broker: LocalBroker, key: str) -> ClientStream:
    headers = {"Authorization": f"Bearer {key}"}
    return ClientStream(await broker.session.ws_connect(f"{broker.url}/v1/client", headers=headers))


async def test_the_stream_answers_before_it_reports_the_end(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker(serve=True)
    stream = await open_stream(broker, key)
    await stream.send(*(Submit(n, job_request(pipeline, idempotency_key=f"k{n}")) for n in range(20)))
    jobs: dict[str, bool] = {}
    while len(jobs) < 20 or not all(jobs.values()):
        frame = await stream.next()
        if isinstance(frame, Submitted):
            jobs[frame.job] = False
        else:
            assert isinstance(frame, Finished)
            assert jobs[frame.view.job] is False
            jobs[frame.view.job] = True
    await stream.socket.close()
    await worker.disconnect()


async def test_a_new_stream_watches_what_the_old_one_submitted(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    first = await open_stream(broker, key)
    await first.send(Submit(1, job_request(pipeline, idempotency_key="k")))
    submitted = await first.next()
    assert isinstance(submitted, Submitted)
    await first.socket.close()
    second = await open_stream(broker, key)
    await second.send(
        Watch((submitted.job, "no-such-job")), Submit(1, job_request(pipeline, idempotency_key="k"))
    )
    unknown, repeated = await second.next(), await second.next()
    assert isinstance(unknown, Finished)
    assert unknown.view.problem is not None
    assert (unknown.view.job, unknown.view.problem.code) == ("no-such-job", "unknown-job")
    assert repeated == Submitted(1, submitted.job)
    await worker.answer(await worker.expect(Grant))
    finished = await second.next()
    assert isinstance(finished, Finished)
    assert finished.view.status is JobStatus.ACCEPTED
    third = await open_stream(broker, key)
    await third.send(Watch((submitted.job,)))
    assert await third.next() == finished
    for stream in (second, third):
        await stream.socket.close()
    await worker.disconnect()


async def test_one_bad_submission_does_not_cost_its_neighbours_their_answers(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    stream = await open_stream(broker, key)
    good = msgspec.to_builtins(Submit(1, job_request(pipeline)), builtin_types=(bytes,))
    bad = msgspec.to_builtins(Submit(2, job_request(pipeline)), builtin_types=(bytes,))
    bad["request"]["input"] = b"x" * (INLINE_BYTES_MAX + 1)
    await stream.socket.send_bytes(msgspec.msgpack.encode([good, bad]))
    answers = {type(frame): frame for frame in [await stream.next(), await stream.next()]}
    submitted, rejected = answers[Submitted], answers[Rejected]
    assert isinstance(submitted, Submitted)
    assert isinstance(rejected, Rejected)
    assert submitted.ref == 1
    assert (rejected.ref, rejected.problem.code) == (2, InlineInputTooLarge.code())
    assert rejected.problem.facts == {"limit_bytes": INLINE_BYTES_MAX}
    await stream.socket.close()


@pytest.mark.parametrize(
    "message", [b"\x00", b"\xdc\xff\xff", msgspec.msgpack.encode([{"type": "nonsense"}])]
)
async def test_a_stream_that_speaks_nonsense_is_closed(broker: LocalBroker, message: bytes) -> None:
    stream = await open_stream(broker, await broker.account())
    await stream.socket.send_bytes(message)
    answer = await stream.socket.receive()
    assert answer.type is aiohttp.WSMsgType.CLOSE
    assert answer.data == aiohttp.WSCloseCode.POLICY_VIOLATION


async def test_documents_over_the_pipelines_limit_are_refused(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key, SamplePipeline(limits=PipelineLimits(input_bytes=100)))
    with pytest.raises(InvalidInput, match="sample accepts at most 100"):
        await broker.submit(key, pipeline, input=sample_input(size=100))
