"""A broker starts on a damaged database: what it cannot read it names, and goes on without."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tradepost.errors import DatabaseDamaged, TradepostError
from tradepost.protocol import Grant, JobStatus, JobView
from tradepost_broker.operator.messages import SetAsideView
from tradepost_broker.storage import database
from tradepost_broker.storage.store import Reader
from tradepost_broker.storage.verify_books import verify_books
from tradepost_broker.testing import FakeWorker, LocalBroker, local_broker

GARBAGE = b"\xc1\xff\x00"


@dataclass
class Damaged:
    """What was there before the damage."""

    folder: Path
    key: str
    pipeline: str
    finished: str
    running: str
    worker: str

    def execute(self, statement: str, *parameters: object) -> None:
        connection = sqlite3.connect(self.folder / "broker.sqlite3")
        connection.execute(statement, parameters)
        connection.commit()
        connection.close()


@pytest.fixture
async def damaged(tmp_path: Path) -> Damaged:
    """A data folder with a finished job, and one that a worker has a lease of."""
    async with local_broker(tmp_path) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        worker = await broker.worker(serve=True)
        finished = (await broker.submit(key, pipeline)).job
        assert (await broker.result(key, finished)).status is JobStatus.ACCEPTED
        await worker.disconnect()
        running = (await broker.submit(key, pipeline, patience_s=600.0)).job
        idle = await broker.worker("idle")
        await idle.expect(Grant)
        view: JobView = await broker.call("GET", f"/v1/jobs/{running}", key=key, reply=JobView)
        assert view.status is JobStatus.RUNNING
        await idle.disconnect()
    return Damaged(tmp_path, key, pipeline, finished, running, idle.id)


@asynccontextmanager
async def started(damaged: Damaged) -> AsyncIterator[LocalBroker]:
    async with local_broker(damaged.folder) as broker:
        yield broker


async def works(broker: LocalBroker, key: str, pipeline: str) -> FakeWorker:
    """A new worker of a new owner does a new job."""
    worker = await broker.worker("somebody-else", serve=True)
    job = (await broker.submit(key, pipeline, patience_s=600.0)).job
    view = await broker.result(key, job)
    assert view.status is JobStatus.ACCEPTED
    return worker


async def names(broker: LocalBroker) -> set[str]:
    """What the broker has set aside, as the operator sees it."""
    token = broker.running.parts.operator_token
    views: list[SetAsideView] = await broker.call(
        "GET", "/v1/admin/set-aside", key=token, reply=list[SetAsideView]
    )
    assert all(view.reason for view in views)
    return {view.id for view in views}


CASES: dict[str, tuple[Callable[[Damaged], None], Callable[[Damaged], str]]] = {
    "an open job": (
        lambda d: d.execute("UPDATE jobs SET body = ? WHERE id = ?", GARBAGE, d.running),
        lambda d: f"job {d.running}",
    ),
    "a finished job": (
        lambda d: d.execute("UPDATE jobs SET body = ? WHERE id = ?", GARBAGE, d.finished),
        lambda d: f"job {d.finished}",
    ),
    "an open lease": (
        lambda d: d.execute("UPDATE leases SET body = ? WHERE job = ?", GARBAGE, d.running),
        lambda d: f"job {d.running}",
    ),
    "a lease that is gone": (
        lambda d: d.execute("DELETE FROM leases WHERE job = ?", d.running),
        lambda d: f"job {d.running}",
    ),
    "a worker": (
        lambda d: d.execute("UPDATE workers SET body = ? WHERE id = ?", GARBAGE, d.worker),
        lambda d: f"worker {d.worker}",
    ),
    "evidence": (
        lambda d: d.execute(
            "INSERT INTO evidence VALUES ('e', ?, 'cpu', 'no kind', 'j', 'l', 1.0, '', '', '', '', '', 0, 0)",
            d.worker,
        ),
        lambda d: "evidence e",
    ),
    "an API key": (
        lambda d: d.execute("INSERT INTO api_keys VALUES ('k', 'mallory', 'never')"),
        lambda d: "apikey k",
    ),
    "a funding": (
        lambda d: d.execute("UPDATE transfers SET at = 'never' WHERE kind = 'fund'"),
        lambda d: "transfer ",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_broker_starts_without_what_is_damaged(damaged: Damaged, case: str) -> None:
    damage, name = CASES[case]
    damage(damaged)
    async with started(damaged) as broker:
        found = await names(broker)
        assert any(one.startswith(name(damaged)) for one in found), found
        worker = await works(broker, damaged.key, damaged.pipeline)
        await broker.tick()
        await worker.disconnect()
    async with started(damaged) as broker:
        worker = await works(broker, damaged.key, damaged.pipeline)
        await worker.disconnect()
    reader = Reader(database.open_snapshot(damaged.folder / "broker.sqlite3"))
    report = verify_books(reader)
    reader.close()
    # It names what is damaged, and nothing else has come of it.
    name_of_it = name(damaged).partition(" ")[2]
    assert [one for one in report.differences if name_of_it not in one] == []


async def test_a_pipeline_that_is_damaged_can_be_published_again(damaged: Damaged) -> None:
    damaged.execute("UPDATE pipelines SET body = ?", GARBAGE)
    damaged.execute("UPDATE publications SET body = ?", GARBAGE)
    async with started(damaged) as broker:
        assert {f"pipeline {damaged.pipeline}", f"job {damaged.running}"} <= await names(broker)
        with pytest.raises(TradepostError):
            await broker.submit(damaged.key, damaged.pipeline)
        await broker.publish(damaged.key)
        worker = await works(broker, damaged.key, damaged.pipeline)
        await worker.disconnect()


async def test_what_is_mended_is_not_named_any_more(damaged: Damaged) -> None:
    connection = sqlite3.connect(damaged.folder / "broker.sqlite3")
    [(body,)] = connection.execute("SELECT body FROM jobs WHERE id = ?", (damaged.running,)).fetchall()
    connection.close()
    damaged.execute("UPDATE jobs SET body = ? WHERE id = ?", GARBAGE, damaged.running)
    async with started(damaged) as broker:
        assert f"job {damaged.running}" in await names(broker)
    damaged.execute("UPDATE jobs SET body = ? WHERE id = ?", body, damaged.running)
    async with started(damaged) as broker:
        assert await names(broker) == set()
        worker = await broker.worker("somebody-else", serve=True)
        assert (await broker.result(damaged.key, damaged.running)).status is JobStatus.ACCEPTED
        await worker.disconnect()


async def test_only_a_ledger_that_is_wrong_keeps_a_broker_from_starting(damaged: Damaged) -> None:
    damaged.execute("UPDATE accounts SET available = 'much' WHERE id = 'treasury:operator'")
    with pytest.raises(DatabaseDamaged, match="treasury:operator"):
        async with started(damaged):
            pass


async def test_a_damaged_event_is_named_by_the_verification(damaged: Damaged) -> None:
    damaged.execute("UPDATE journal SET body = ? WHERE kind = 'pipeline_published'", GARBAGE)
    async with started(damaged) as broker:
        worker = await works(broker, damaged.key, damaged.pipeline)
        await worker.disconnect()
    reader = Reader(database.open_snapshot(damaged.folder / "broker.sqlite3"))
    report = verify_books(reader)
    reader.close()
    assert any("cannot be read" in one and one.startswith("event ") for one in report.differences)
