"""Leases at a real broker: kept over connections, delivered, late, given back, and their blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tradepost.content import add_bytes
from tradepost.errors import (
    LeaseGone,
    NoEligibleWorker,
    PipelineTooCostly,
    TradepostError,
    Unauthorized,
    UnknownCid,
)
from tradepost.protocol import (
    Acknowledged,
    GiveBack,
    GiveBackReason,
    Grant,
    JobStatus,
    Recall,
    UpdateOffer,
)
from tradepost_broker.engine.engine import Work
from tradepost_broker.market.model.entities import Evidence, EvidenceKind
from tradepost_broker.market.model.events import Instruction
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.storage import database
from tradepost_broker.storage.store import Reader
from tradepost_broker.storage.verify_books import verify_books
from tradepost_broker.testing import (
    FakeWorker,
    LocalBroker,
    ManualClock,
    local_broker,
    sample_input,
)
from tradepost_worker.testing.lent_device import until

# Coming back


async def test_a_newer_connection_replaces_the_older(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker()
    twin = FakeWorker(broker.session, broker.url, key=worker.key)
    twin.broker = worker.broker
    await twin.connect()
    await worker.closed()
    assert (await broker.standing(worker)).connected
    job = (await broker.submit(key, await broker.publish(key))).job
    await twin.answer(await twin.expect(Grant))
    assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
    await twin.disconnect()


async def test_a_worker_that_comes_back_keeps_its_lease_and_delivers(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key))).job
    grant = await worker.expect(Grant)
    await worker.vanish()
    welcome = await worker.connect()
    assert welcome.leases == (grant.lease,)
    await worker.answer(grant)
    view = await broker.result(key, job)
    assert view.status is JobStatus.ACCEPTED
    await worker.disconnect()


async def test_only_leases_that_the_market_was_not_asked_about_are_recalled(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the market forgets one of the others before the worker is welcomed."""
    key = await broker.account()
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key))).job
    grant = await worker.expect(Grant)
    await worker.answer(grant)
    await broker.result(key, job)
    await worker.vanish()
    worker.undelivered.clear()
    worker.unfinished = {grant.lease: grant, "made-up": grant}
    worker.frames.clear()
    parts = broker.running.parts
    ask = parts.engine.ask

    async def ask_and_forget(work: Work) -> Sequence[Instruction]:
        outcome = await ask(work)
        monkeypatch.setattr(parts.market, "lease", lambda _: None)
        return outcome

    monkeypatch.setattr(parts.engine, "ask", ask_and_forget)
    await worker.connect()
    assert (await worker.expect(Acknowledged)).lease == grant.lease
    assert (await worker.expect(Recall)).lease == "made-up"
    await worker.disconnect()


async def test_leases_that_a_connection_is_granted_come_as_grants_and_not_in_its_welcome(
    broker: LocalBroker,
) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await worker.disconnect()
    pipeline = await broker.publish(key)
    jobs = [(await broker.submit(key, pipeline)).job for _ in range(3)]
    for _ in range(5):
        assert (await worker.connect()).leases == ()
        granted = [await worker.expect(Grant) for _ in jobs]
        assert {grant.job for grant in granted} == set(jobs)
        await worker.vanish()
        worker.unfinished.clear()  # its process was killed, and knows nothing of them
    await worker.connect(serve=True)
    views = [await broker.result(key, job) for job in jobs]
    assert [view.status for view in views] == [JobStatus.ACCEPTED] * 3
    assert (await broker.standing(worker)).evidence_counts == {}
    await worker.disconnect()


async def test_a_delivery_that_is_repeated_is_acknowledged_again_and_paid_once(broker: LocalBroker) -> None:
    key = await broker.account(funds=1_000_000)
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key))).job
    grant = await worker.expect(Grant)
    frame = await worker.answer(grant)
    assert (await worker.expect(Acknowledged)).problem is None
    view = await broker.result(key, job)
    await worker.send(frame, frame)
    assert (await worker.expect(Acknowledged)).problem is None
    assert (await worker.expect(Acknowledged)).problem is None
    seen = await broker.standing(worker)
    assert (seen.held_microcredits, seen.accepted) == (view.price_microcredits, 1)
    await worker.disconnect()


async def test_a_result_for_an_expired_lease_is_told_that_it_is_late(tmp_path: Path) -> None:
    clock = ManualClock()
    async with local_broker(tmp_path, clock=clock) as broker:
        key = await broker.account()
        worker = await broker.worker()
        await broker.submit(key, await broker.publish(key))
        grant = await worker.expect(Grant)
        clock.now = grant.expires_at + 1
        await broker.tick()
        await worker.answer(grant)
        late = await worker.expect(Acknowledged)
        assert late.problem is not None
        assert late.problem.code == LeaseGone.code()
        with pytest.raises(LeaseGone):
            await worker.upload_output(grant, b"too late")
        await worker.disconnect()


@pytest.mark.parametrize("delivers", [True, False])
async def test_a_worker_that_was_out_of_reach_is_blamed_only_without_its_result(
    tmp_path: Path, delivers: bool
) -> None:
    clock, policy = ManualClock(), MarketPolicy(audit_rate=0.0)
    async with local_broker(tmp_path, clock=clock, policy=policy) as broker:
        key = await broker.account()
        worker = await broker.worker("away")
        job = (await broker.submit(key, await broker.publish(key))).job
        grant = await worker.expect(Grant)
        finished = worker.delivery(grant, await worker.fetch_input(grant))
        await worker.vanish()
        await until(lambda: not broker.running.parts.market.is_connected(worker.id))
        other = await broker.worker("other", serve=True)
        clock.advance(policy.reconnect_s + 1)
        await broker.tick()
        assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
        worker.undelivered.clear()
        await worker.connect()
        for _ in range(2 * delivers):
            await worker.send(finished)
            late = await worker.expect(Acknowledged)
            assert late.problem is not None
            assert late.problem.code == LeaseGone.code()
        clock.now = grant.expires_at + policy.late_receipt_s + 1
        await broker.tick()
        assert (await broker.standing(worker)).held_microcredits == 0
        await worker.disconnect()
        await other.disconnect()
    reader = Reader(database.open_snapshot(tmp_path / "broker.sqlite3"))
    blamed = [(found.worker, found.kind) for found in reader.find(Evidence)]
    books = verify_books(reader)
    reader.close()
    assert blamed == ([] if delivers else [(worker.id, EvidenceKind.EXPIRED)])
    assert (books.differences, books.compared["lease"]) == ([], 2)


async def test_a_lease_that_is_given_back_goes_to_another(broker: LocalBroker) -> None:
    key = await broker.account()
    first = await broker.worker("first", price=1000)
    pipeline = await broker.publish(key)
    job = (await broker.submit(key, pipeline)).job
    grant = await first.expect(Grant)
    second = await broker.worker("second", serve=True, price=2000)
    problem = LeaseGone("the owner is back").to_problem()
    long = msgspec.structs.replace(problem, detail="x" * (1 << 20), facts={"x": "x" * (1 << 20)})
    await first.send(GiveBack(lease=grant.lease, reason=GiveBackReason.PREEMPTED, problem=long))
    assert (await first.expect(Acknowledged)).lease == grant.lease
    view = await broker.result(key, job)
    assert view.verification is not None
    assert view.verification.agreed == (second.id,)
    assert (await broker.standing(first)).evidence_counts == {}
    explained = await broker.call("GET", f"/v1/jobs/{job}/explanation", key=key)
    assert len(explained) < 10_000
    await first.disconnect()
    await second.disconnect()


async def test_a_new_offer_counts_for_the_next_job(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker()
    offer = msgspec.structs.replace(worker.offer, price_per_unit_microcredits=4321)
    await worker.send(UpdateOffer(worker.offer), UpdateOffer(offer))
    async with asyncio.timeout(180):
        while (await broker.standing(worker)).price_per_unit_microcredits != 4321:
            pass
    job = (await broker.submit(key, await broker.publish(key), max_price_microcredits=4321)).job
    await worker.answer(await worker.expect(Grant))
    assert (await broker.result(key, job)).price_microcredits == 4321
    await worker.disconnect()


async def test_who_withdraws_the_offer_and_gives_back_is_not_granted_the_same_job_again(
    broker: LocalBroker,
) -> None:
    """As a worker does that its owner stops: it is gone before another grant would reach it."""
    key = await broker.account()
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key))).job
    grant = await worker.expect(Grant)
    stopped = TradepostError("the owner stopped the worker").to_problem()
    await worker.send(
        UpdateOffer(msgspec.structs.replace(worker.offer, capacity=0)),
        GiveBack(lease=grant.lease, reason=GiveBackReason.PREEMPTED, problem=stopped),
    )
    await worker.expect(Acknowledged)
    assert [lease.id for lease in broker.running.parts.market.leases_of(job)] == [grant.lease]
    await worker.disconnect()


async def test_why_workers_refuse_a_pipeline_reaches_its_submitter_and_the_explanation(
    broker: LocalBroker,
) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    job = (await broker.submit(key, pipeline, patience_s=0.0)).job
    grant = await worker.expect(Grant)
    too_costly = PipelineTooCostly("killed because it used 1,150,000,000 bytes of memory").to_problem()
    await worker.send(GiveBack(lease=grant.lease, reason=GiveBackReason.REFUSED, problem=too_costly))
    view = await broker.result(key, job)
    assert view.problem is not None
    assert view.problem.code == NoEligibleWorker.code()
    assert "killed because it used 1,150,000,000 bytes of memory" in view.problem.detail
    explained = await broker.call("GET", f"/v1/jobs/{job}/explanation", key=key, reply=Explanation)
    assert "killed because it used 1,150,000,000 bytes of memory" in explained.leases[0].problem
    assert (await broker.standing(worker)).evidence_counts == {}


# Blocks of a lease


async def test_a_leases_blocks_need_its_nonce_and_are_its_own(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker()
    document, secret = sample_input(size=400_000), b"another file of the same account"
    for data in (secret, *_leaves(document)):
        await broker.call("PUT", f"/v1/blocks/{add_bytes(data, put=None)}", key=key, body=data)
    root, node = _node(document)
    await broker.call("PUT", f"/v1/blocks/{root}", key=key, body=node)
    await broker.submit(key, pipeline, input=None, input_cid=root)
    grant = await worker.expect(Grant)
    assert await worker.fetch_input(grant) == document
    with pytest.raises(UnknownCid):
        await worker.fetch_block(grant, add_bytes(secret, put=None))
    with pytest.raises(Unauthorized):
        await worker.fetch_block(msgspec.structs.replace(grant, nonce=b"\x00" * 16), root)
    with pytest.raises(Unauthorized):
        await worker.fetch_block(msgspec.structs.replace(grant, lease="no-such-lease"), root)
    await worker.disconnect()


def _leaves(document: bytes) -> list[bytes]:
    blocks: list[bytes] = []
    add_bytes(document, put=lambda _, data: blocks.append(data))
    return blocks[:-1]


def _node(document: bytes) -> tuple[str, bytes]:
    blocks: list[tuple[str, bytes]] = []
    add_bytes(document, put=lambda cid, data: blocks.append((cid, data)))
    return blocks[-1]
