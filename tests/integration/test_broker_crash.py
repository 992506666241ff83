"""kill -9 under load: nothing that was acknowledged is lost, nobody is paid twice, the books balance."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import pytest

from tradepost.broker_url import raise_for_problem
from tradepost.client.async_client import AsyncClient
from tradepost.client.results import Result
from tradepost.errors import BrokerUnavailable
from tradepost.testing.held_port import HeldPort
from tradepost_broker.access.credentials import load_or_create_operator_token
from tradepost_broker.market.ledger import Kind
from tradepost_broker.market.model.entities import Account, Evidence, Job, Transfer
from tradepost_broker.operator.messages import IssuedToken, NewAccount, NewApiKey, NewToken
from tradepost_broker.storage import database
from tradepost_broker.storage.store import Reader
from tradepost_broker.storage.verify_books import verify_books
from tradepost_broker.testing import FakeWorker, SamplePipeline, local_broker

JOBS = 120
KILLS = 3


class Subprocess:
    """The broker as its operator runs it, in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._held = HeldPort()
        self.port = self._held.number
        self.url = ""
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = os.environ | {
            "TRADEPOST_BROKER_MARKET_AUDIT_RATE": "0",
            "TRADEPOST_BROKER_LOG_LEVEL": "ERROR",
        }
        options = ["--data-dir", str(self.data_dir), "--port", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tradepost", "broker", "run", *options),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        self.url = line.split(" at ")[1].split("/ ")[0]
        self.port = int(self.url.rpartition(":")[2])

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def terminate(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return await self._process.wait()

    def close(self) -> None:
        self._held.close()

    async def admin(self, session: aiohttp.ClientSession, what: str, body: object, reply: type) -> object:
        token = load_or_create_operator_token(self.data_dir / "operator.token")
        async with session.post(
            f"{self.url}/v1/admin/{what}",
            data=msgspec.json.encode(body),
            headers={"Authorization": f"Bearer {token}"},
        ) as response:
            await raise_for_problem(response)
            return msgspec.json.decode(await response.read(), type=reply)


@asynccontextmanager
async def broker_process(data_dir: Path) -> AsyncIterator[Subprocess]:
    broker = Subprocess(data_dir)
    await broker.start()
    try:
        yield broker
    finally:
        with contextlib.suppress(ProcessLookupError):
            await broker.kill()
        broker.close()


async def set_up(
    broker: Subprocess, session: aiohttp.ClientSession
) -> tuple[str, SamplePipeline, list[FakeWorker]]:
    made = await broker.admin(
        session, "accounts", NewAccount(name="alice", funds_microcredits=10**9), NewApiKey
    )
    assert isinstance(made, NewApiKey)
    workers = []
    for n in range(3):
        issued = await broker.admin(session, "tokens", NewToken(owner=f"owner-{n}"), IssuedToken)
        assert isinstance(issued, IssuedToken)
        worker = FakeWorker(session, broker.url, price=1000 + n)
        await worker.join(issued.token)
        await worker.connect(serve=True)
        workers.append(worker)
    pipeline = SamplePipeline()
    headers = {"Authorization": f"Bearer {made.api_key}"}
    for cid, data in pipeline.blocks():
        async with session.put(f"{broker.url}/v1/blocks/{cid}", data=data, headers=headers) as response:
            await raise_for_problem(response)
    body = msgspec.json.encode(pipeline.request())
    async with session.post(f"{broker.url}/v1/pipelines", data=body, headers=headers) as response:
        await raise_for_problem(response)
    return made.api_key, pipeline, workers


async def test_a_killed_broker_loses_nothing_and_pays_nobody_twice(tmp_path: Path) -> None:
    async with broker_process(tmp_path / "data") as broker, aiohttp.ClientSession() as session:
        key, pipeline, workers = await set_up(broker, session)
        results: dict[int, Result] = {}
        progress = asyncio.Condition()

        async def run(client: AsyncClient, n: int, slots: asyncio.Semaphore) -> None:
            async with slots:
                inputs = {"x": np.full(4, n, dtype=np.float32)}
                handle = await client.submit(
                    pipeline.cid, inputs, max_price="0.1", confidence=0.9, idempotency_key=f"job-{n}"
                )
                results[n] = await handle.result()
                async with progress:
                    progress.notify_all()

        # On a busy machine, the broker's start alone takes longer than a client waits by itself.
        # A job that fails ends the group: its result would never come.
        async with (
            AsyncClient(broker.url, api_key=key, give_up_s=600) as client,
            asyncio.TaskGroup() as running,
        ):
            slots = asyncio.Semaphore(16)
            for n in range(JOBS):
                running.create_task(run(client, n, slots))
            for kill in range(1, KILLS + 1):
                async with progress:
                    await progress.wait_for(lambda: len(results) >= kill * JOBS // (KILLS + 1))  # noqa: B023
                await broker.kill()
                for worker in workers:
                    await worker.closed()
                await broker.start()
                for worker in workers:
                    await worker.connect(serve=True)
        for worker in workers:
            await worker.disconnect()
        assert await broker.terminate() == 0
    for n in range(JOBS):
        np.testing.assert_array_equal(results[n]["y"], np.full(4, 2 * n, dtype=np.float32))
    check_books(tmp_path / "data" / "broker.sqlite3", results)


async def test_a_broker_that_cannot_write_ends_and_says_so(tmp_path: Path) -> None:
    async with local_broker(tmp_path) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        failed = asyncio.create_task(broker.running.failed())
        broker.running.parts.store._write.close()
        with pytest.raises(BrokerUnavailable):
            await broker.submit(key, pipeline)
        with pytest.raises(sqlite3.ProgrammingError):
            await failed
        with pytest.raises(BrokerUnavailable):
            await broker.submit(key, pipeline)


def check_books(path: Path, results: dict[int, Result]) -> None:
    reader = Reader(database.open_snapshot(path))
    report = verify_books(reader)
    assert report.differences == []
    assert report.starts == KILLS + 1
    jobs = {job.id: job for job in reader.find(Job)}
    assert len(jobs) == JOBS
    assert {result.job for result in results.values()} == jobs.keys()
    payments = [transfer for transfer in reader.find(Transfer) if transfer.kind == Kind.PAY]
    assert len({transfer.lease for transfer in payments}) == len(payments)
    paid = sum(transfer.amount_microcredits for transfer in payments)
    assert paid == sum(job.paid_microcredits for job in jobs.values())
    found = {evidence.kind for evidence in reader.find(Evidence)}
    assert not {kind for kind in found if kind.lowers_score}, "a restart blames nobody"
    account = reader.get(Account, "credits:alice")
    assert account == Account(id="credits:alice", available_microcredits=10**9 - paid)
    reader.close()


async def test_a_locked_database_is_waited_for_and_requests_are_answered(tmp_path: Path) -> None:
    async with local_broker(tmp_path) as broker:
        key = await broker.account()
        pipeline = await broker.publish(key)
        worker = await broker.worker(serve=True)
        other = sqlite3.connect(tmp_path / "broker.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="locked"):
                await broker.submit(key, pipeline, idempotency_key="again")
            assert await broker.call("GET", "/healthz")
        other.execute("ROLLBACK")
        other.close()
        job = ""
        while not job:  # until the broker has noticed
            with contextlib.suppress(BrokerUnavailable):
                job = (await broker.submit(key, pipeline, idempotency_key="again")).job
        assert (await broker.result(key, job)).finished_at is not None
        assert len(list(broker.running.parts.store.find(Job))) == 1
        await worker.disconnect()


async def test_a_broker_stops_while_its_database_is_locked(tmp_path: Path) -> None:
    other = None
    async with local_broker(tmp_path) as broker:
        await broker.account()
        other = sqlite3.connect(tmp_path / "broker.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BrokerUnavailable, match="locked"):
            await broker.account("bob")
    other.close()
