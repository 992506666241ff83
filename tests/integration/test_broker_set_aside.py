"""What the broker sets aside, as its sender, its operator and everybody else see it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tradepost.errors import BrokerDefect, InvalidRequest, Unauthorized
from tradepost.protocol import JobStatus
from tradepost_broker.cli import app
from tradepost_broker.market import core
from tradepost_broker.market.model.events import JobSubmitted
from tradepost_broker.operator.messages import Readmission, SetAsideView
from tradepost_broker.testing import LocalBroker, local_broker

PATH = "/v1/admin/set-aside"


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Submissions with the key `poison` make the market fail after they have changed it."""
    handler = core._HANDLERS[JobSubmitted]

    def handled(state: Any, event: JobSubmitted) -> None:
        handler(state, event)
        if event.idempotency_key == "poison":
            raise OverflowError("too large")

    monkeypatch.setitem(core._HANDLERS, JobSubmitted, handled)
    return monkeypatch


async def test_poison_on_the_wire_costs_nobody_else_anything(
    tmp_path: Path, poison: pytest.MonkeyPatch
) -> None:
    async with local_broker(tmp_path) as broker:
        key, other = await broker.account(), await broker.account("bob")
        pipeline = await broker.publish(key)
        worker = await broker.worker(serve=True)
        before = await broker.submit(other, pipeline)
        for _ in range(3):
            with pytest.raises(BrokerDefect) as refused:
                await broker.submit(key, pipeline, idempotency_key="poison")
            assert refused.value.status == 500
        assert (await broker.result(other, before.job)).status is JobStatus.ACCEPTED
        after = await broker.submit(other, pipeline)
        assert (await broker.result(other, after.job)).status is JobStatus.ACCEPTED
        # Only the first one made the market fail; and no stream was closed by that.
        assert len(broker.running.parts.store.starts()) == 2
        assert (await broker.standing(worker)).connected
        await worker.disconnect()
    poison.undo()
    async with local_broker(tmp_path) as broker:
        with pytest.raises(BrokerDefect):
            await broker.submit(key, pipeline, idempotency_key="poison")
        await check_readmission(broker, tmp_path, key, pipeline)


async def check_readmission(broker: LocalBroker, data_dir: Path, key: str, pipeline: str) -> None:
    token = broker.running.parts.operator_token
    [found] = await broker.call("GET", PATH, key=token, reply=list[SetAsideView])
    assert (found.id, found.kind) == ("submission alice poison", "event")
    assert found.reason == "OverflowError: too large"
    with pytest.raises(Unauthorized):
        await broker.call("GET", PATH, key=key)
    with pytest.raises(InvalidRequest):
        await broker.call("POST", PATH, key=token, body=Readmission(id="something else"))
    folder = ["--data-dir", str(data_dir)]
    listed = await asyncio.to_thread(CliRunner().invoke, app, ["set-aside", *folder])
    assert "OverflowError" in listed.stdout
    done = await asyncio.to_thread(CliRunner().invoke, app, ["set-aside", "--readmit", found.id, *folder])
    assert done.stdout == "submission alice poison is no longer set aside.\n"
    job = await broker.submit(key, pipeline, idempotency_key="poison", patience_s=60.0)
    assert job.status is JobStatus.QUEUED
    assert await broker.call("GET", PATH, key=token, reply=list[SetAsideView]) == []
