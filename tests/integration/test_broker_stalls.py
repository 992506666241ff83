"""Stalls of the event loop reach the operator, and nobody else learns where they were."""

from __future__ import annotations

import asyncio

import pytest
from typer.testing import CliRunner

from tradepost.errors import Unauthorized
from tradepost_broker.cli import app
from tradepost_broker.operator.messages import StallView
from tradepost_broker.reporting.loop_watchdog import Stall
from tradepost_broker.testing.local_broker import LocalBroker

PLACE = "jobs.output_checks.OutputChecks.check"


@pytest.fixture
def stalled(broker: LocalBroker) -> LocalBroker:
    """A broker whose loop stood still for ten minutes, as its watchdog reports it."""
    broker.running.parts.stalls.note(Stall(600.0, PLACE))
    return broker


async def test_the_operator_sees_where_it_was(stalled: LocalBroker) -> None:
    token = stalled.running.parts.operator_token
    views = await stalled.call("GET", "/v1/admin/stalls", key=token, reply=list[StallView])
    assert (views[0].place, views[0].count, views[0].longest_s) == (PLACE, 1, 600.0)
    call = ["stalls", "--data-dir", str(stalled.running.database_path.parent)]
    result = await asyncio.to_thread(CliRunner().invoke, app, call, env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert PLACE in result.stdout
    assert "600000 ms" in result.stdout


async def test_everyone_else_sees_that_there_was_one(stalled: LocalBroker) -> None:
    key = await stalled.account()
    for credentials in (None, key):
        with pytest.raises(Unauthorized):
            await stalled.call("GET", "/v1/admin/stalls", key=credentials)
    metrics = (await stalled.call("GET", "/metrics")).decode()
    assert "tradepost_loop_stall_seconds_sum 6" in metrics
    assert PLACE not in metrics
