"""Heartbeats: the operator sees the newest reading of each worker, nobody else does, and it decides nothing.

The stages that are done are the exception: the market learns of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tradepost.errors import ProtocolError, Unauthorized
from tradepost.protocol import DeviceHealth, Grant, Heartbeat, JobStatus, Refused
from tradepost_broker.cli import app
from tradepost_broker.operator.messages import DeviceView
from tradepost_broker.reporting.device_readings import DeviceReadings
from tradepost_broker.testing import FakeWorker, LocalBroker, ManualClock, local_broker

HEALTH = DeviceHealth(
    load_percent=42.0,
    memory_free_bytes=3 << 30,
    battery_percent=80.0,
    on_mains=True,
    queue=2,
    paused_by="[red]hot[/red]",
    stage_latency={"digits/infer": (0, 1, 2, 0, 0, 0, 0, 0, 0)},
)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path / "data") as running:
        yield running


async def devices(broker: LocalBroker) -> list[DeviceView]:
    token = broker.running.parts.operator_token
    views: list[DeviceView] = await broker.call("GET", "/v1/admin/devices", key=token, reply=list[DeviceView])
    return views


async def heard(broker: LocalBroker, worker: FakeWorker, *beats: Heartbeat) -> list[DeviceView]:
    """What the operator sees once the broker has taken these; frames are taken in order."""
    await worker.send(*beats)
    async with asyncio.timeout(180):
        while not (views := await devices(broker)) or views[0].running != beats[-1].running:
            pass
    return views


async def test_the_operator_sees_the_newest_reading_of_each_worker(broker: LocalBroker) -> None:
    first, second = await broker.worker("first"), await broker.worker("second")
    assert await devices(broker) == []
    (view,) = await heard(broker, first, Heartbeat(running=1), Heartbeat(running=2, health=HEALTH))
    assert (view.worker, view.running, view.health) == (first.id, 2, HEALTH)
    views = await heard(broker, second, Heartbeat(running=3))
    assert [(one.worker, one.health) for one in views] == [(second.id, None), (first.id, HEALTH)]
    await first.disconnect()
    await second.disconnect()
    assert len(await devices(broker)) == 2, "the last word of a device that is gone is worth having"


async def test_nobody_else_sees_it(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker()
    await heard(broker, worker, Heartbeat(running=1, health=HEALTH))
    for credentials in (None, key):
        with pytest.raises(Unauthorized):
            await broker.call("GET", "/v1/admin/devices", key=credentials)
    for path in ("/", f"/workers/{worker.id}", "/v1/workers", f"/v1/workers/{worker.id}"):
        assert b"digits/infer" not in await broker.call("GET", path)
    await worker.disconnect()


async def test_it_decides_nothing(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker(serve=True)
    before = broker.running.parts.store.last_seq
    await heard(broker, worker, Heartbeat(running=4096, health=HEALTH))
    assert broker.running.parts.store.last_seq == before, "it is in no journal"
    job = (await broker.submit(key, await broker.publish(key))).job
    assert (await broker.result(key, job)).status is JobStatus.ACCEPTED
    await worker.disconnect()


@pytest.mark.parametrize(
    "health", [{"mood": "good"}, {"load_percent": float("nan")}, {"paused_by": "x" * 300}]
)
async def test_a_reading_that_is_none_ends_the_stream(broker: LocalBroker, health: dict[str, object]) -> None:
    worker = await broker.worker()
    frame = {"type": "heartbeat", "running": 1, "health": health}
    await worker._socket.send_bytes(msgspec.msgpack.encode([frame]))  # type: ignore[union-attr]
    assert (await worker.expect(Refused)).problem.code == ProtocolError.code()
    await worker.closed()
    assert await devices(broker) == []


async def test_the_operators_table(broker: LocalBroker, tmp_path: Path) -> None:
    worker = await broker.worker()
    await heard(broker, worker, Heartbeat(running=1, health=HEALTH))
    call = ["devices", "--data-dir", str(tmp_path / "data")]
    result = await asyncio.to_thread(CliRunner().invoke, app, call, env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for text in (worker.id[:12], "42%", "3.0 GiB free", "80%, mains", "[red]hot[/red]", "-"):
        assert text in result.stdout
    await worker.disconnect()


def test_it_is_bounded() -> None:
    clock = ManualClock()
    readings = DeviceReadings(clock=clock, readings_max=2)
    for name in ("a", "b", "a", "c"):
        clock.advance(1)
        readings.note(name, Heartbeat(running=0))
    assert [(one.worker, one.at - clock.now) for one in readings.all()] == [("c", 0.0), ("a", -1.0)]


async def test_the_market_learns_which_stages_are_done_of_a_workers_own_leases(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    worker = await broker.worker(capacity=1)
    await broker.submit(key, pipeline)
    lease = (await worker.expect(Grant)).lease
    other = await broker.worker("other", capacity=0)
    market = broker.running.parts.market
    await heard(broker, other, Heartbeat(running=7, stages_done={lease: 3, "nonsense": 1}))
    await heard(broker, worker, Heartbeat(running=8, stages_done={lease: 2}))
    await broker.tick()
    assert market.stages_done(worker.id, lease) == 2
    await worker.disconnect()
    await other.disconnect()
