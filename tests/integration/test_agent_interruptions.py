"""Connections that break and workers that restart: every lease still has one end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest

from tradepost.content import add_bytes
from tradepost.errors import BrokerUnavailable, LeaseGone, ProtocolError, TradepostError, WorkerKeyInUse
from tradepost.protocol import Acknowledged, Deliver, GiveBack, Heartbeat, Refused
from tradepost.receipts import Preempted, verify_receipt
from tradepost_worker.leases import agent
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.link.connection import BrokerStream
from tradepost_worker.testing.agent_bench import NOOP, REPORT, WORKER, AgentBench
from tradepost_worker.testing.lent_device import until
from tradepost_worker.testing.samples import sample_input


async def test_a_result_without_acknowledgement_is_delivered_again_on_reconnecting(
    bench: AgentBench,
) -> None:
    bench.broker.acknowledges = False
    async with bench.agent():
        await bench.connected()
        first = await bench.returned()
        await bench.broker.drop()
        await bench.connected()
        assert bench.broker.hellos[-1].open_leases == (first.lease,)
        assert await bench.broker.next(Deliver) == first
        await bench.broker.send(Acknowledged(first.lease))
        bench.broker.held.clear()
        await bench.broker.drop()
        await bench.connected()
        assert bench.broker.hellos[-1].open_leases == ()
    assert bench.connections == [True, False] * 3


async def test_a_device_whose_key_another_one_uses_stops_connecting(
    bench: AgentBench, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise two devices with one copied state folder replace each other for ever."""
    caplog.set_level(logging.WARNING)
    async with bench.agent():
        await bench.connected()
        in_use = WorkerKeyInUse("another device connected with the key of worker x")
        await bench.broker.send(Refused(in_use.to_problem()))
        await until(lambda: "another device connected" in caplog.text)
        await until(lambda: bench.rng.asked == [(60.0, 120.0)])  # and not at once, as after any other end
    assert bench.connections == [True, False]
    assert "Its state folder was copied" in caplog.text


async def test_a_result_survives_the_workers_restart(bench: AgentBench) -> None:
    bench.broker.acknowledges = False
    bench.stop_s_max = 0.2
    async with bench.agent():
        await bench.connected()
        first = await bench.returned()
    assert bench.pending() == [first.lease]
    bench.broker.acknowledges = True
    bench.broker.connected.clear()
    async with bench.agent():
        await bench.connected()
        assert await bench.broker.next(Deliver) == first
    assert bench.pending() == []


async def test_a_device_that_wakes_up_on_a_broken_connection_connects_again(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a suspended device finds first is a ping, which it cannot answer: the broker has long hung up."""

    async def cannot_answer(*_: Any) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    async with bench.agent():
        await bench.connected()
        bench.broker.connected.clear()
        monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "pong", cannot_answer)
        await bench.broker.ping()
        await bench.connected()
    assert bench.connections == [True, False] * 2


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (TimeoutError(), BrokerUnavailable),
        (ConnectionResetError(104, "Connection reset by peer"), BrokerUnavailable),
        (aiohttp.WebSocketError(1002, "Reserved bit set"), ProtocolError),
    ],
    ids=lambda cause: type(cause).__name__,
)
async def test_a_connection_that_breaks_is_no_invalid_message(
    cause: Exception, kind: type[TradepostError]
) -> None:
    class Broken:
        async def __aiter__(self) -> AsyncIterator[aiohttp.WSMessage]:
            yield aiohttp.WSMessage(aiohttp.WSMsgType.ERROR, cause, None)

    stream = BrokerStream(cast("aiohttp.ClientWebSocketResponse", Broken()))
    with pytest.raises(kind):
        _ = [frames async for frames in stream.messages()]


async def test_work_goes_on_while_the_broker_is_away(bench: AgentBench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant)
        await bench.runners.started.wait()
        await bench.broker.drop()
        await bench.connected()
        assert bench.broker.hellos[-1].open_leases == (grant.lease,)
        assert not bench.runners.stopped.is_set()


@pytest.mark.parametrize("request_to", ["pipeline", "lease_block"])
async def test_a_broker_that_is_away_while_a_lease_is_prepared_is_asked_again(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch, request_to: str
) -> None:
    """To give the lease back as failed would be held against this device."""
    answer, asked = getattr(BrokerApi, request_to), 0

    async def away_at_first(api: BrokerApi, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise BrokerUnavailable("it restarts")
        return await answer(api, *arguments)

    monkeypatch.setattr(BrokerApi, request_to, away_at_first)
    document = sample_input()
    cid = add_bytes(document, put=None)
    grant = bench.broker.grant(NOOP, None, input_cid=cid)
    bench.broker.lease_blocks[grant.lease, cid] = document
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(grant)
        await bench.broker.next(Deliver)
    assert asked == 3


async def test_a_lease_that_the_broker_gave_up_is_stopped_after_a_reconnect(bench: AgentBench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(NOOP, sample_input()))
        await bench.runners.started.wait()
        bench.broker.held.clear()
        await bench.broker.drop()
        async with asyncio.timeout(180):
            await bench.runners.stopped.wait()


async def test_a_lease_that_a_welcome_names_and_the_worker_does_not_know_is_not_given_back(
    bench: AgentBench,
) -> None:
    """Its grant is on the way: giving it back would be this worker's failure."""
    bench.broker.named_besides = ("granted-by-this-connection",)
    async with bench.agent():
        await bench.connected()
        await bench.returned()  # fails if the next frame is a lease given back


async def test_a_result_that_came_too_late_is_forgotten(
    bench: AgentBench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.broker.acknowledges = False
    bench.stop_s_max = 0.2
    async with bench.agent():
        await bench.connected()
        late = await bench.returned()
        await bench.broker.send(Acknowledged(late.lease, LeaseGone("expired").to_problem()))
        await bench.returned()
    assert late.lease not in bench.pending()
    assert "lease_not_taken" in {record.__dict__.get("action") for record in caplog.records}


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "by-cid"])
async def test_a_preempted_lease_comes_back_with_a_receipt_for_what_was_done(
    bench: AgentBench, inline: bool
) -> None:
    bench.runners.hold, bench.runners.stages = True, (REPORT,)
    document = sample_input(1, 2)
    cid = add_bytes(document, put=None)
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, document if inline else None, input_cid=None if inline else cid)
        bench.broker.lease_blocks[grant.lease, cid] = document
        await bench.broker.send(grant)
        await bench.runners.started.wait()
    end = await bench.broker.next(GiveBack)
    assert (end.problem.code, end.problem.detail) == ("work-preempted", "the owner stopped the worker")
    assert "unexpectedly" not in end.problem.title
    assert end.receipt is not None
    receipt = verify_receipt(end.receipt)
    assert (receipt.outcome, receipt.stages, receipt.input) == (Preempted(), (REPORT,), cid)
    assert (receipt.worker, receipt.broker) == (WORKER.id, bench.broker.identity.id)
    assert (receipt.lease, receipt.job, receipt.nonce) == (grant.lease, grant.job, grant.nonce)
    assert receipt.expires_at == grant.expires_at


async def test_a_receipt_for_what_was_done_survives_a_restart(bench: AgentBench) -> None:
    bench.runners.hold, bench.runners.stages = True, (REPORT,)
    bench.broker.acknowledges = False
    bench.stop_s_max = 2.0
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(NOOP, sample_input()))
        await bench.runners.started.wait()
    first = await bench.broker.next(GiveBack)
    bench.broker.acknowledges = True
    bench.broker.connected.clear()
    async with bench.agent():
        await bench.connected()
        assert await bench.broker.next(GiveBack) == first
    assert first.receipt is not None


async def test_what_was_not_begun_comes_back_without_a_receipt(bench: AgentBench) -> None:
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(NOOP, sample_input()))
        await bench.runners.started.wait()
    assert (await bench.broker.next(GiveBack)).receipt is None


async def test_heartbeats_tell_how_many_stages_of_running_leases_are_done(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "HEARTBEAT_S", 0.01)
    bench.runners.hold = True
    bench.runners.stages = (REPORT, REPORT)
    async with bench.agent():
        await bench.connected()
        await until(lambda: bench.broker.heartbeat is not None)
        assert bench.broker.heartbeat == Heartbeat(running=0)
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant)
        await until(lambda: bench.broker.heartbeat == Heartbeat(running=1, stages_done={grant.lease: 2}))
