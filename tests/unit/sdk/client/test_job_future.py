"""A job's result as a standard future: callbacks, waiting for several, and asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bounded_call import within
from tradepost import Client
from tradepost.errors import ClientClosed
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def x(value: float = 1.0) -> dict[str, Any]:
    return {"x": np.array([value], dtype=np.float32)}


def test_a_callback_may_submit_and_wait(client: Client) -> None:
    chained: concurrent.futures.Future[float] = concurrent.futures.Future()

    def again(future: concurrent.futures.Future[Any]) -> None:
        try:
            second = client.submit(PIPELINE, {"x": future.result()["y"]}, max_price=1)
            third = client.submit(PIPELINE, {"x": second.future().result()["y"]}, max_price=1)
            chained.set_result(float(third.result()["y"][0]))
        except BaseException as error:
            chained.set_exception(error)

    client.submit(PIPELINE, x(), max_price=1).future().add_done_callback(again)
    assert chained.result(timeout=60) == 8


def test_a_callback_may_wait_for_other_futures(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    first, second, third = (client.submit(PIPELINE, x(), max_price=1).future() for _ in range(3))
    has_begun = threading.Event()
    seen: queue.SimpleQueue[list[object]] = queue.SimpleQueue()

    def wait_for_others(_: object) -> None:
        has_begun.set()
        seen.put(list(concurrent.futures.wait([second], timeout=60).done))
        seen.put(list(concurrent.futures.as_completed([third], timeout=60)))

    first.add_done_callback(wait_for_others)
    fake.run(fake.broker._finish("job-0"))
    assert has_begun.wait(60)
    fake.run(fake.broker.release())
    assert [seen.get(timeout=60) for _ in range(2)] == [[second], [third]]


def test_a_slow_callback_delays_nobody_who_waits(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    slow, other = (client.submit(PIPELINE, x(), max_price=1).future() for _ in range(2))
    has_begun, goes_on = threading.Event(), threading.Event()

    def callback(_: object) -> None:
        has_begun.set()
        goes_on.wait()

    slow.add_done_callback(callback)
    fake.run(fake.broker._finish("job-0"))
    assert has_begun.wait(60)
    try:
        fake.run(fake.broker.release())
        assert list(concurrent.futures.as_completed([other], timeout=60)) == [other]
    finally:
        goes_on.set()


def test_a_callback_may_close_the_client(fake: FakeBrokerThread) -> None:
    closed = threading.Event()
    client = Client(fake.url, api_key=API_KEY)
    client.__enter__()

    def close(_: object) -> None:
        client.__exit__(None, None, None)
        closed.set()

    client.submit(PIPELINE, x(), max_price=1).future().add_done_callback(close)
    assert closed.wait(60)
    with pytest.raises(ClientClosed):
        client.balance()


def test_callbacks_run_even_if_one_raises_or_comes_late(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    second, late = threading.Event(), threading.Event()
    future = client.submit(PIPELINE, x(), max_price=1).future()
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: second.set())
    future.result(timeout=60)
    future.add_done_callback(lambda _: late.set())
    assert second.wait(60)
    assert late.wait(60)
    assert [record.action for record in caplog.records if hasattr(record, "action")] == ["callback_failed"]


def test_closing_runs_the_callbacks_of_jobs_that_it_ends(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    seen: list[BaseException | None] = []
    with Client(fake.url, api_key=API_KEY) as client:
        future = client.submit(PIPELINE, x(), max_price=1).future()
        future.add_done_callback(lambda done: seen.append(done.exception()))
    assert [type(error) for error in seen] == [ClientClosed]


def test_asyncio_can_wrap_a_future(client: Client) -> None:
    async def work() -> float:
        result = await asyncio.wrap_future(client.submit(PIPELINE, x(), max_price=1).future())
        return float(result["y"][0])

    assert within(lambda: asyncio.run(work())) == 2


@contextlib.contextmanager
def left_locked(future: concurrent.futures.Future[Any]) -> Iterator[None]:
    """What Ctrl-C can do to a thread in `wait`, `as_completed` or `running` of the standard library.

    The thread lives on: another one might have its number otherwise, and so hold its lock as well.
    """
    is_locked, is_over = threading.Event(), threading.Event()

    def lock() -> None:
        future._condition.acquire()
        is_locked.set()
        is_over.wait()

    thread = threading.Thread(target=lock)
    thread.start()
    is_locked.wait()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_a_lock_that_was_left_locked_keeps_nothing_from_ending(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    client = Client(fake.url, api_key=API_KEY).__enter__()
    first, second = (client.submit(PIPELINE, x(), max_price=1).future() for _ in range(2))
    with left_locked(first):
        assert within(first.running)
        fake.run(fake.broker._finish("job-0"))
        assert within(first.result)["y"].tolist() == [2]
        fake.run(fake.broker.release())
        assert within(lambda: concurrent.futures.wait([second])).done == {second}
        assert within(lambda: list(concurrent.futures.as_completed([first]))) == [first]
        assert not first.running()
        within(lambda: client.__exit__(None, None, None))


def test_a_waiter_that_was_left_locked_does_not_keep_the_client_open(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    client = Client(fake.url, api_key=API_KEY).__enter__()
    future = client.submit(PIPELINE, x(), max_price=1).future()
    is_unlocked = threading.Event()

    class LockedWaiter:
        def add_result(self, _: object) -> None:
            is_unlocked.wait()

    future._waiters.append(LockedWaiter())  # type: ignore[attr-defined]  # as `wait` does
    fake.run(fake.broker.release())
    assert within(future.result)["y"].tolist() == [2]
    within(lambda: client.__exit__(None, None, None))
    is_unlocked.set()
