"""The SDK against a scripted broker: futures, typed errors, checked receipts, and broken connections."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from tradepost import AsyncClient, Client, TensorDocument, TradepostError
from tradepost.audit_log.proofs import LogProof, verify_proof
from tradepost.client.requests import BrokerRequests
from tradepost.errors import (
    BrokerUnavailable,
    ClientClosed,
    InsufficientFunds,
    InvalidCall,
    InvalidKeptCheckpoint,
    InvalidReceipt,
    InvalidSettings,
    JobCancelled,
    ResultTimeout,
    Unauthorized,
    UnknownJob,
    UnknownPipeline,
)
from tradepost.protocol import QuarantineView
from tradepost.testing.fake_broker import API_KEY, FakeBroker

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def double(document: TensorDocument) -> TensorDocument:
    return TensorDocument(tensors={"y": document["x"] * 2}, metadata={"labels": "two"})


def x(value: float = 1.0) -> dict[str, Any]:
    return {"x": np.array([value])}


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    fake = FakeBroker(double)
    async with TestServer(fake.app) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


def client_of(broker: FakeBroker, **options: Any) -> AsyncClient:
    return AsyncClient(broker.url, api_key=API_KEY, **options)


async def test_a_result_has_outputs_price_and_receipts(broker: FakeBroker) -> None:
    async with client_of(broker) as client:
        handle = await client.submit(PIPELINE, x(3), max_price="0.01", confidence=0.9)
        result = await handle.result()
    assert result["y"].tolist() == [6]
    assert result.metadata == {"labels": "two"}
    assert str(result.price) == "0.001"
    assert len(result.receipts) == 1
    assert broker.requests[0].max_price_microcredits == 10_000
    assert broker.requests[0].confidence == 0.9


async def test_map_keeps_order_and_its_window(broker: FakeBroker) -> None:
    async with client_of(broker) as client:
        values = [
            result["y"][0]
            async for result in client.map(PIPELINE, (x(n) for n in range(50)), window=7, max_price=1)
        ]
    assert values == [2 * n for n in range(50)]


async def test_a_refusal_is_the_brokers_typed_error(broker: FakeBroker) -> None:
    broker.refuse = InsufficientFunds("3 credits are missing", missing_microcredits=3_000_000)
    async with client_of(broker) as client:
        with pytest.raises(InsufficientFunds, match="3 credits") as caught:
            await client.submit(PIPELINE, x(), max_price=1)
    assert caught.value.facts == {"missing_microcredits": 3_000_000}


async def test_a_wrong_key_is_told_at_once(broker: FakeBroker) -> None:
    async with AsyncClient(broker.url, api_key="wrong") as client:
        with pytest.raises(Unauthorized, match="not known"):
            await client.submit(PIPELINE, x(), max_price=1)


async def test_large_inputs_go_as_blocks(broker: FakeBroker) -> None:
    data = {"x": np.arange(200_000.0)}  # 1.6 MB: seven leaves and a root
    async with client_of(broker) as client:
        handle = await client.submit(PIPELINE, data, max_price=1, inline=False)
        assert broker.requests[0].input is None
        assert broker.requests[0].input_cid == handle.input_cid
    assert len(broker.blocks) == 8


async def test_a_lost_connection_is_resumed(broker: FakeBroker) -> None:
    broker.hold = True
    async with client_of(broker) as client:
        handle = await client.submit(PIPELINE, x(), max_price=1)
        await broker.drop()
        await broker.connected.wait()
        await broker.release()
        assert (await handle.result(timeout=60))["y"].tolist() == [2]
    assert len(broker.requests) == 1


async def test_a_submission_that_was_not_acknowledged_is_repeated_and_runs_once(broker: FakeBroker) -> None:
    broker.silent = True
    async with client_of(broker) as client:
        submitting = asyncio.create_task(client.submit(PIPELINE, x(), max_price=1))
        await broker.connected.wait()
        await broker.taken.wait()
        broker.silent = False
        await broker.drop()
        handle = await submitting
        assert (await handle.result(timeout=60))["y"].tolist() == [2]
    assert len(broker.requests) == 1


async def test_no_broker_is_a_typed_error_that_names_it(refusing_port: int) -> None:
    async with AsyncClient(f"http://127.0.0.1:{refusing_port}", api_key=API_KEY, give_up_s=0) as client:
        with pytest.raises(BrokerUnavailable, match=str(refusing_port)):
            await client.submit(PIPELINE, x(), max_price=1)
        with pytest.raises(BrokerUnavailable):
            await client.balance()


async def test_a_broker_that_stays_away_fails_what_waits(broker: FakeBroker) -> None:
    broker.hold = True
    async with client_of(broker, give_up_s=0) as client:
        handle = await client.submit(PIPELINE, x(), max_price=1)
        broker.app.router._resources.clear()  # answers 404 from now on
        await broker.drop()
        with pytest.raises(TradepostError):
            await handle.result(timeout=60)


async def test_result_times_out_and_the_job_goes_on(broker: FakeBroker) -> None:
    broker.hold = True
    async with client_of(broker) as client:
        handle = await client.submit(PIPELINE, x(), max_price=1)
        with pytest.raises(ResultTimeout):
            await handle.result(timeout=0)
        await broker.release()
        assert (await handle.result(timeout=60))["y"].tolist() == [2]


async def test_cancelling_raises_job_cancelled(broker: FakeBroker) -> None:
    broker.hold = True
    async with client_of(broker) as client:
        handle = await client.submit(PIPELINE, x(), max_price=1)
        handle.cancel()
        with pytest.raises(JobCancelled):
            await handle.result(timeout=60)


@pytest.mark.parametrize("lie", ["output", "no receipt", "another job"])
async def test_a_broker_cannot_make_up_a_result(broker: FakeBroker, lie: str) -> None:
    broker.hold = True
    async with client_of(broker) as client:
        handle = await client.submit(PIPELINE, x(), max_price=1)
        other = await client.submit(PIPELINE, x(5), max_price=1)
        view, another = broker.jobs.views[handle.id], broker.jobs.views[other.id]
        changes: dict[str, Any] = {
            "output": {"output": another.output},
            "no receipt": {"receipts": ()},
            "another job": {"receipts": another.receipts, "output": another.output},
        }[lie]
        broker.jobs.views[handle.id] = msgspec.structs.replace(view, **changes)
        await broker.release()
        with pytest.raises(InvalidReceipt):
            await handle.result(timeout=60)


async def test_the_blocking_client_gives_standard_futures(broker: FakeBroker) -> None:
    def work() -> None:
        with Client(broker.url, api_key=API_KEY) as client:
            handles = [client.submit(PIPELINE, x(n), max_price=1) for n in range(3)]
            done, _ = concurrent.futures.wait([handle.future() for handle in handles], timeout=60)
            assert sorted(future.result()["y"][0] for future in done) == [0, 2, 4]
            assert [r["y"][0] for r in client.map(PIPELINE, [x(1), x(2)], max_price=1)] == [2, 4]
            assert handles[0].result(timeout=1).job == handles[0].id

    await asyncio.to_thread(work)


async def test_a_client_that_is_not_open_says_so() -> None:
    client = AsyncClient("http://127.0.0.1:1", api_key=API_KEY)
    with pytest.raises(ClientClosed, match="not open"):
        await client.submit(PIPELINE, x(), max_price=1)
    with pytest.raises(ClientClosed, match="not open"):
        await client.job("job")


async def test_a_client_that_was_closed_says_so(broker: FakeBroker) -> None:
    async with AsyncClient(broker.url, api_key=API_KEY) as client:
        handle = await client.submit(PIPELINE, x(1), max_price=1)
    with pytest.raises(ClientClosed):
        await client.submit(PIPELINE, x(), max_price=1)
    with pytest.raises(ClientClosed):
        await client.job(handle.id)
    with pytest.raises(ClientClosed):
        handle.cancel()


async def test_a_blocking_client_that_is_not_open_says_so(broker: FakeBroker) -> None:
    def work() -> None:
        client = Client(broker.url, api_key=API_KEY)
        with pytest.raises(ClientClosed):
            client.submit(PIPELINE, x(), max_price=1)
        with client:
            handle = client.submit(PIPELINE, x(1), max_price=1)
            results = client.map(PIPELINE, [x(1), x(2)], max_price=1)
            next(results)
        for call in (handle.result, handle.cancel, lambda: client.job(handle.id), lambda: next(results)):
            with pytest.raises(ClientClosed):
                call()

    await asyncio.to_thread(work)


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_empty_variables_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.setenv("TRADEPOST_URL", empty)
    monkeypatch.setenv("TRADEPOST_API_KEY", empty)
    with pytest.raises(InvalidSettings, match="there is no API key"):
        AsyncClient()
    assert str(AsyncClient(api_key=API_KEY).url) == "http://127.0.0.1:8700"


@pytest.mark.parametrize("key", ["", " \n", "tp\nx", "schlüssel"])
def test_what_is_no_key_is_refused_before_anything_is_sent(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_API_KEY", "")
    with pytest.raises(InvalidSettings, match="API key"):
        AsyncClient("http://127.0.0.1:1", api_key=key)


async def test_a_key_may_end_with_its_files_line(broker: FakeBroker) -> None:
    async with AsyncClient(broker.url, api_key=f"{API_KEY}\r\n") as client:
        assert (await client.submit(PIPELINE, x(), max_price=1)).id


def test_a_missing_key_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRADEPOST_API_KEY", raising=False)
    with pytest.raises(InvalidSettings) as caught:
        AsyncClient("http://127.0.0.1:1")
    assert "TRADEPOST_API_KEY" in caught.value.hint


async def test_either_client_fetches_the_proof_of_a_job_s_receipts(broker: FakeBroker) -> None:
    def prove(client: Client, job: str, since: str) -> LogProof:
        with client:
            return client.proof(job, since=since)

    kept = broker.log.checkpoint()
    broker.log.add_events(3)
    async with client_of(broker) as client:
        result = await (await client.submit(PIPELINE, x(), max_price=1)).result()
        proof = await client.proof(result.job)
        [found] = verify_proof(proof, result.receipts)
        assert (found.index, found.checkpoint.size, found.receipt.job) == (3, 4, result.job)
        with pytest.raises(UnknownJob):
            await client.proof("none")
        with pytest.raises(InvalidKeptCheckpoint):
            await client.proof(result.job, since="no checkpoint")
    broker.log.add_events(5)
    for since in (kept, proof.checkpoint):
        later = await asyncio.to_thread(prove, Client(broker.url, api_key=API_KEY), result.job, since)
        [found] = verify_proof(later, result.receipts, kept=since)
        assert found.checkpoint.size == 9


async def test_the_broker_waits_for_a_checkpoint_for_less_long_than_the_client_waits(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = BrokerRequests.ask

    async def record(self: BrokerRequests, *args: Any, **options: Any) -> bytes:
        asked.append((options.get("query") or {}).get("wait_s", ""))
        return await ask(self, *args, **options)

    monkeypatch.setattr(BrokerRequests, "ask", record)
    for give_up_s in (0, 2, 30, math.inf):
        async with AsyncClient(broker.url, api_key=API_KEY, give_up_s=give_up_s) as client:
            job = await client.submit(PIPELINE, x(), max_price=1)
            await job.result()
            await client.proof(job.id)
    assert asked == ["0.000", "1.000", "29.000", "60.000"]


async def test_a_checkpoint_that_is_not_text_is_refused(broker: FakeBroker) -> None:
    async with client_of(broker) as client:
        for wrong in (1, b"note", ["note"]):
            with pytest.raises(InvalidCall, match="since is"):
                await client.proof("job-0", since=wrong)  # type: ignore[arg-type]


async def test_a_quarantine_is_lifted_by_either_client(broker: FakeBroker) -> None:
    def lift(client: Client) -> QuarantineView:
        with client:
            return client.lift_quarantine(PIPELINE)

    for is_quarantined in (False, True):
        broker.quarantined_for_all = {PIPELINE} if is_quarantined else set()
        expected = QuarantineView(pipeline=PIPELINE, quarantined=is_quarantined)
        async with client_of(broker) as client:
            assert await client.lift_quarantine(PIPELINE) == expected
        assert await asyncio.to_thread(lift, Client(broker.url, api_key=API_KEY)) == expected


async def test_what_cannot_be_a_pipeline_has_no_quarantine(broker: FakeBroker) -> None:
    async with client_of(broker) as client:
        for wrong in ("", "../account", None):
            with pytest.raises(UnknownPipeline, match="is not the CID of a pipeline"):
                await client.lift_quarantine(wrong)  # type: ignore[arg-type]


async def test_a_cid_and_an_id_may_have_blanks_around_them(broker: FakeBroker) -> None:
    """As a file's line has, or what is copied from a table."""
    async with client_of(broker) as client:
        job = await client.submit(f" {PIPELINE}\r\n", x(), max_price=1)
        assert broker.requests[0].pipeline == job.pipeline == PIPELINE
        again = await client.attach(job.id, input_cid=f"{job.input_cid}\n")
        assert again.input_cid == job.input_cid
        assert (await again.result(60))["y"].tolist() == [2]
        assert (await client.lift_quarantine(f"{PIPELINE}\n")).pipeline == PIPELINE
        assert (await client.job(f" {job.id}\n")).job == job.id
        with pytest.raises(UnknownJob, match=r"^' \\n' is not the id of a job$"):
            await client.job(" \n")
