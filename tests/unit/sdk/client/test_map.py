"""`map`: inputs are read where the results are read, each is submitted as it comes, and leaving cancels."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from tradepost import AsyncClient, Client, TensorDocument
from tradepost.client import async_client
from tradepost.errors import ClientClosed, InvalidCall, InvalidInput
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY, FakeBroker

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def x(value: float = 1.0) -> dict[str, Any]:
    return {"x": np.array([value], dtype=np.float32)}


def has_taken(count: int, broker: FakeBroker) -> bool:
    return len(broker.requests) == count


def has_ended(count: int, broker: FakeBroker) -> bool:
    return has_taken(count, broker) and not broker._watched


def statuses(broker: FakeBroker) -> list[str]:
    return [view.status.value for view in broker.jobs.views.values()]


def test_each_input_is_submitted_before_the_next_is_read(fake: FakeBrokerThread, client: Client) -> None:
    taken: list[int] = []

    def frames() -> Iterator[dict[str, Any]]:
        for n in range(4):
            if n:
                fake.until(partial(has_taken, n))
            taken.append(len(fake.broker.requests))
            yield x(n)

    assert [result["y"][0] for result in client.map(PIPELINE, frames(), max_price=1)] == [0, 2, 4, 6]
    assert taken == [0, 1, 2, 3]


def test_a_result_that_is_here_comes_before_the_next_input_is_read(
    fake: FakeBrokerThread, client: Client
) -> None:
    read: list[int] = []

    def frames() -> Iterator[dict[str, Any]]:
        for n in range(100):
            fake.until(partial(has_ended, n))
            read.append(n)
            yield x(n)

    results = client.map(PIPELINE, frames(), max_price=1)
    assert next(results)["y"][0] == 0
    assert len(read) < 100


def test_inputs_are_read_in_the_thread_of_the_caller(client: Client) -> None:
    rows = sqlite3.connect(":memory:")  # which another thread may not use
    rows.executescript("CREATE TABLE t (n); INSERT INTO t VALUES (1), (2)")
    readers: set[threading.Thread] = set()

    def inputs() -> Iterator[dict[str, Any]]:
        for (n,) in rows.execute("SELECT n FROM t"):
            readers.add(threading.current_thread())
            yield x(n)

    assert [result["y"][0] for result in client.map(PIPELINE, inputs(), max_price=1)] == [2, 4]
    assert readers == {threading.current_thread()}
    rows.close()


def test_a_map_over_the_results_of_another(client: Client) -> None:
    first = client.map(PIPELINE, (x(n) for n in range(20)), max_price=1, window=4)
    second = client.map(PIPELINE, ({"x": result["y"]} for result in first), max_price=1, window=3)
    assert [result["y"][0] for result in second] == [4 * n for n in range(20)]


async def test_an_async_map_over_the_results_of_another(fake: FakeBrokerThread) -> None:
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        first = client.map(PIPELINE, (x(n) for n in range(20)), max_price=1, window=4)
        inputs = ({"x": result["y"]} async for result in first)
        second = client.map(PIPELINE, inputs, max_price=1, window=3)
        assert [result["y"][0] async for result in second] == [4 * n for n in range(20)]


async def test_an_async_map_submits_each_input_before_it_reads_the_next(
    fake: FakeBrokerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading stops the event loop here, so what is to be sent has to be sent before."""
    monkeypatch.setattr(async_client, "_SLOW_READ_S", 0)
    taken: list[int] = []

    def frames() -> Iterator[dict[str, Any]]:
        for n in range(4):
            taken.append(len(fake.broker.requests))
            yield x(n)

    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        results = [result["y"][0] async for result in client.map(PIPELINE, frames(), max_price=1)]
    assert results == [0, 2, 4, 6]
    assert taken == [0, 1, 2, 3]


async def test_an_async_map_reads_async_inputs(fake: FakeBrokerThread) -> None:
    async def inputs() -> AsyncIterator[dict[str, Any]]:
        for n in range(3):
            await asyncio.sleep(0)
            yield x(n)

    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        assert [result["y"][0] async for result in client.map(PIPELINE, inputs(), max_price=1)] == [0, 2, 4]


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_an_error_in_the_inputs_cancels_what_was_submitted(
    fake: FakeBrokerThread, client: Client, error: type[BaseException]
) -> None:
    def inputs() -> Iterator[dict[str, Any]]:
        yield x(1)
        yield x(2)
        fake.until(partial(has_taken, 2))
        raise error

    fake.broker.hold = True
    with pytest.raises(error):
        next(client.map(PIPELINE, inputs(), max_price=1))
    fake.until(lambda broker: statuses(broker) == ["cancelled"] * 2)


def test_a_break_cancels_what_has_not_ended(fake: FakeBrokerThread, client: Client) -> None:
    def inputs() -> Iterator[dict[str, Any]]:
        yield x(0)
        yield x(1)
        yield x(2)
        fake.until(partial(has_taken, 3))
        fake.run(fake.broker._finish("job-0"))

    fake.broker.hold = True
    for _ in client.map(PIPELINE, inputs(), max_price=1):
        break
    fake.until(lambda broker: statuses(broker) == ["accepted", "cancelled", "cancelled"])


def test_closing_the_client_cancels_what_has_not_ended(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with Client(fake.url, api_key=API_KEY) as client:
            reading = pool.submit(next, client.map(PIPELINE, [x(1), x(2)], max_price=1))
            fake.until(partial(has_taken, 2))
        assert statuses(fake.broker) == ["cancelled"] * 2
        with pytest.raises(ClientClosed):
            reading.result(60)


def left_by_an_error(fake: FakeBrokerThread) -> None:
    def inputs() -> Iterator[dict[str, Any]]:
        yield from map(x, range(20))
        client.submit(PIPELINE, x(), max_price=1)  # once it is answered, so are those before it
        raise KeyboardInterrupt

    with Client(fake.url, api_key=API_KEY) as client, pytest.raises(KeyboardInterrupt):
        list(client.map(PIPELINE, inputs(), max_price=1))


def left_by_closing(fake: FakeBrokerThread) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with Client(fake.url, api_key=API_KEY) as client:
            reading = pool.submit(next, client.map(PIPELINE, map(x, range(20)), max_price=1))
            fake.until(partial(has_taken, 20))
            client.submit(PIPELINE, x(), max_price=1)
        assert isinstance(reading.exception(30), ClientClosed)


def left_by_cancelling(fake: FakeBrokerThread) -> None:
    async def leave() -> None:
        async with AsyncClient(fake.url, api_key=API_KEY) as client:
            results = client.map(PIPELINE, map(x, range(20)), max_price=1)
            reading = asyncio.create_task(anext(results))
            await asyncio.to_thread(fake.until, partial(has_taken, 20))
            await client.submit(PIPELINE, x(), max_price=1)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(leave())


@pytest.mark.parametrize("leave", [left_by_an_error, left_by_closing, left_by_cancelling])
def test_the_newest_jobs_are_cancelled_first(
    fake: FakeBrokerThread, leave: Callable[[FakeBrokerThread], None]
) -> None:
    """Else each that is cancelled makes room for the next one, which is begun then, and paid for that."""
    fake.broker.hold = True
    leave(fake)
    ends = [view.finished_at or 0.0 for view in list(fake.broker.jobs.views.values())[:20]]
    assert all(ends)
    assert ends == sorted(ends, reverse=True)


async def test_leaving_an_async_map_cancels_what_has_not_ended(fake: FakeBrokerThread) -> None:
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        fake.broker.hold = True
        results = client.map(PIPELINE, [x(1), x(2), x(3)], max_price=1)
        reading = asyncio.create_task(anext(results))
        await asyncio.to_thread(fake.until, lambda broker: len(broker.requests) == 3)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await asyncio.to_thread(fake.until, lambda broker: statuses(broker) == ["cancelled"] * 3)


def test_a_job_that_fails_raises_and_the_others_are_cancelled(fake: FakeBrokerThread, client: Client) -> None:
    def inputs() -> Iterator[dict[str, Any]]:
        yield x(1)
        yield x(2)
        fake.until(partial(has_taken, 2))
        yield {"x": None}

    fake.broker.hold = True
    with pytest.raises(InvalidInput):
        list(client.map(PIPELINE, inputs(), max_price=1))
    fake.until(lambda broker: set(statuses(broker)) == {"cancelled"})


@pytest.mark.parametrize("window", [0, -1, 1.5, "9", None, True])
def test_a_wrong_window_is_refused(client: Client, window: Any) -> None:
    with pytest.raises(InvalidCall, match="window is"):
        client.map(PIPELINE, [x()], max_price=1, window=window)


def test_a_window_may_be_numpys(client: Client) -> None:
    results = client.map(PIPELINE, [x(1), x(2)], max_price=1, window=np.int64(1))  # type: ignore[arg-type]
    assert len(list(results)) == 2


async def test_one_document_is_not_many_inputs(fake: FakeBrokerThread) -> None:
    document = TensorDocument(tensors=x())
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        with pytest.raises(InvalidCall, match="iterable"):
            await anext(client.map(PIPELINE, document, max_price=1))  # type: ignore[arg-type]


def test_what_is_not_iterable_is_refused(client: Client) -> None:
    with pytest.raises(InvalidCall, match="iterable"):
        client.map(PIPELINE, 5, max_price=1)  # type: ignore[arg-type]
