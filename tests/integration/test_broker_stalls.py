"""Nothing that anyone asks holds the event loop for long; where it is held, the operator sees it."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tradepost.content import Cid, cid_of_block
from tradepost.content.transfer.car import encode_header, encode_section
from tradepost.content.transfer.gateway import CAR_TYPE
from tradepost.content.unixfs.nodes import Link, encode_file_node
from tradepost.errors import ContentTooLarge, Unauthorized
from tradepost_broker.cli import app
from tradepost_broker.content.file_trees import BLOCKS_MIN
from tradepost_broker.content.uploads import USE_NOTED_S
from tradepost_broker.operator.messages import StallView
from tradepost_broker.reporting.loop_watchdog import Stall
from tradepost_broker.storage.shell_records import Upload
from tradepost_broker.testing import LocalBroker, ManualClock, local_broker, sample_input

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


# Inputs of many blocks


async def upload_file(broker: LocalBroker, key: str, leaves: list[bytes]) -> Cid:
    """Upload a file of these leaves, in one CAR; its CID."""
    blocks = [(cid_of_block(data, "raw"), data) for data in leaves]
    node = encode_file_node([Link(cid, len(data), len(data)) for cid, data in blocks])
    root = cid_of_block(node, "dag-pb")
    car = encode_header([root]) + b"".join(encode_section(*block) for block in (*blocks, (root, node)))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": CAR_TYPE}
    async with broker.session.post(
        f"{broker.url}/v1/blocks", data=io.BytesIO(car), headers=headers
    ) as answer:
        assert answer.status == 201
    return root


async def test_an_input_of_many_small_blocks_is_refused(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    root = await upload_file(broker, key, [f"{number:06}".encode() for number in range(BLOCKS_MIN)])
    with pytest.raises(ContentTooLarge, match="too many for its size"):
        await broker.submit(key, pipeline, input=None, input_cid=root)


async def test_an_input_is_noted_as_used_once_an_hour(tmp_path: Path) -> None:
    clock = ManualClock()
    document = sample_input(size=100)
    async with local_broker(tmp_path, clock=clock) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        leaves = [document[start : start + 64] for start in range(0, len(document), 64)]
        root = await upload_file(broker, key, leaves)
        tree = await broker.running.parts.uploads.tree("account:alice", root)

        async def used_at() -> set[float]:
            await broker.submit(key, pipeline, input=None, input_cid=root)
            return {one.at for one in broker.running.parts.store.find(Upload) if one.cid in tree}

        clock.advance(3600)
        assert await used_at() == {noted := clock.now}
        clock.advance(USE_NOTED_S / 2)
        await broker.running.parts.retention.sweep()
        assert await used_at() == {noted}, "a row for each block is written once an hour"
        clock.advance(USE_NOTED_S / 2)
        assert await used_at() == {clock.now}
