"""The agent against a scripted broker: leases end in receipts, and only the broker it joined is heard."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tradepost.content import add_bytes
from tradepost.errors import Unauthorized
from tradepost.identity import Identity
from tradepost.protocol import Deliver, GiveBack, GiveBackReason, Recall, Settled
from tradepost.receipts import Returned, verify_receipt
from tradepost_worker.leases.earnings import read_earnings
from tradepost_worker.supervision.runner_pool import RunnerPool
from tradepost_worker.testing.agent_bench import ENGINES, NOOP, WORKER, AgentBench
from tradepost_worker.testing.samples import sample_input


async def test_a_lease_ends_in_a_receipt_that_anyone_can_check(bench: AgentBench) -> None:
    pool = RunnerPool(runners_max=1)
    try:
        async with bench.agent(runners=pool):
            await bench.connected()
            document = sample_input(1, 2, 3)
            grant = bench.broker.grant(NOOP, document)
            await bench.broker.send(grant)
            delivered = await bench.broker.next(Deliver)
            assert (await bench.broker.offers.get()).warm == (NOOP.cid,)
    finally:
        await pool.close()
    receipt = verify_receipt(delivered.receipt)
    assert delivered.output == document
    assert receipt.outcome == Returned(output=add_bytes(document, put=None), output_bytes=len(document))
    assert (receipt.job, receipt.lease, receipt.attempt) == (grant.job, grant.lease, 1)
    assert (receipt.broker, receipt.worker) == (bench.broker.identity.id, WORKER.id)
    assert (receipt.pipeline, receipt.input) == (NOOP.cid, add_bytes(document, put=None))
    assert (receipt.nonce, receipt.expires_at) == (grant.nonce, grant.expires_at)
    assert [stage.stage for stage in receipt.stages] == ["kernel"]
    assert receipt.stages[0].fuel > 0
    assert receipt.engines == ENGINES
    assert bench.pending() == []


async def test_many_leases_travel_in_few_messages(bench: AgentBench) -> None:
    bench.capacity = 64
    async with bench.agent():
        await bench.connected()
        await bench.returned()
        before = bench.broker.messages
        await bench.broker.send(*(bench.broker.grant(NOOP, sample_input(n)) for n in range(64)))
        leases = {(await bench.broker.next(Deliver)).lease for _ in range(64)}
        assert len(leases) == 64
        assert bench.broker.messages - before < 32


async def test_what_was_earned_is_recorded_and_said(
    bench: AgentBench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with bench.agent():
        await bench.connected()
        delivered = await bench.returned()
        await bench.broker.send(
            Settled(delivered.lease, "accepted", 12_500, "2 of 2 agree"),
            Settled("lease-x", "rejected", 0, "outvoted"),
        )
        await bench.returned()  # granted after those were sent
    earned = read_earnings(bench.folder / "worker.sqlite")
    assert (earned.leases, earned.paid_leases, earned.earned_microcredits) == (2, 1, 12_500)
    (line, _) = [record for record in caplog.records if record.__dict__.get("action") == "lease_settled"]
    assert line.getMessage() == "Lease lease-1 is accepted, earned 0.0125 credits: 2 of 2 agree"


@pytest.mark.parametrize("forger", ["signature", "key"])
async def test_a_broker_that_is_not_the_one_joined_learns_nothing(
    bench: AgentBench, forger: str, caplog: pytest.LogCaptureFixture
) -> None:
    genuine = bench.broker.identity
    if forger == "signature":
        bench.broker.impostor = Identity.generate()
    async with bench.agent():
        if forger == "key":
            bench.broker.identity = Identity.generate()
        async with asyncio.timeout(180):
            for _ in range(3):
                await bench.broker.challenged.get()
        assert bench.broker.hellos == []
        # The genuine one comes back, and the worker with it.
        bench.broker.identity, bench.broker.impostor = genuine, None
        await bench.connected()
    codes = {record.__dict__.get("code") for record in caplog.records}
    assert codes & {"invalid-signature", "protocol-error"}


async def test_a_broker_that_refuses_this_worker_ends_it(bench: AgentBench) -> None:
    bench.broker.refusal = Unauthorized("this worker was expelled")
    async with bench.agent() as running:
        with pytest.raises(Unauthorized, match="expelled"):
            await running


async def test_a_recall_stops_the_run(bench: AgentBench) -> None:
    bench.capacity, bench.runners.hold = 1, True
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant)
        await bench.runners.started.wait()
        await bench.broker.send(Recall(grant.lease))
        async with asyncio.timeout(180):
            await bench.runners.stopped.wait()
        # Its place is free again.
        bench.runners.hold = False
        assert (await bench.returned()).lease != grant.lease
    assert bench.pending() == []


async def test_a_repeated_grant_runs_once(bench: AgentBench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant, grant)
        await bench.runners.started.wait()
        bench.runners.hold = False
        await bench.returned(sample_input(2))
        assert bench.runners.documents == [sample_input(), sample_input(2)]


async def test_a_worker_that_is_stopped_gives_back_what_runs(bench: AgentBench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant)
        await bench.runners.started.wait()
    end = await bench.broker.next(GiveBack)
    assert (end.lease, end.reason) == (grant.lease, GiveBackReason.PREEMPTED)
    assert (await bench.broker.offers.get()).capacity == 0, "else it would be leased the same job again"
