"""The client in the wrong thread, process, loop or moment: it works, or a typed error says why not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bounded_call import within
from tradepost import AsyncClient, Client
from tradepost.client.loop_thread import LoopThread
from tradepost.client.sync_client import JobHandle
from tradepost.errors import ClientClosed, InvalidCall, JobCancelled
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY, FakeBroker

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def x(value: float = 1.0) -> dict[str, Any]:
    return {"x": np.array([value], dtype=np.float32)}


def in_a_fork(call: Callable[[], object]) -> str:
    """The name of what `call` raises in a forked child; the child is killed if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call()
            name = "nothing"
        except BaseException as error:
            name = type(error).__name__
        os.write(writing, name.encode())
        os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            return within(pipe.read)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


# Processes


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_gets_a_typed_error(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    handle = client.submit(PIPELINE, x(), max_price=1)
    future = handle.future()
    calls: list[Callable[[], object]] = [
        lambda: client.submit(PIPELINE, x(), max_price=1),
        lambda: next(client.map(PIPELINE, [x()], max_price=1)),
        client.balance,
        handle.result,
        handle.cancel,
        future.result,
    ]
    assert [in_a_fork(call) for call in calls] == ["InvalidCall"] * len(calls)
    # What the fork does to its copy changes nothing here.
    assert in_a_fork(lambda: client.__exit__(None, None, None)) == "nothing"
    fake.run(fake.broker.release())
    assert handle.result(timeout=60)["y"].tolist() == [2]


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_opens_its_own(fake: FakeBrokerThread, client: Client) -> None:
    client.balance()

    def work() -> None:
        with Client(fake.url, api_key=API_KEY) as own:
            assert own.submit(PIPELINE, x(), max_price=1).result()["y"].tolist() == [2]

    assert in_a_fork(work) == "nothing"


def future_in_a_fork(client: Client, future: concurrent.futures.Future[Any]) -> None:
    """Check that a future that cannot end in this process has failed, by each way to ask it."""
    called: list[object] = []
    future.add_done_callback(called.append)
    assert called == [future]
    done, left = concurrent.futures.wait([future])
    assert (done, left) == ({future}, set())
    assert list(concurrent.futures.as_completed([future])) == [future]
    assert isinstance(future.exception(), InvalidCall)
    assert (future.done(), future.running(), future.cancel(), future.cancelled()) == (
        True,
        False,
        False,
        False,
    )
    assert "finished" in repr(future)


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_jobs_future_has_failed_in_a_forked_process(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    handle, asked = (client.submit(PIPELINE, x(), max_price=1) for _ in range(2))
    future = asked.future()
    called: list[object] = []
    future.add_done_callback(called.append)  # which belongs to this process

    def check() -> None:
        future_in_a_fork(client, handle.future())
        future_in_a_fork(client, asked.future())
        future_in_a_fork(client, future)
        assert (handle.done(), asked.done(), called) == (True, True, [])

    assert in_a_fork(check) == "nothing"
    assert not future.done()
    fake.run(fake.broker.release())
    assert future.result(timeout=60)["y"].tolist() == [2]
    assert handle.result(timeout=60)["y"].tolist() == [2]


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_result_that_is_here_goes_into_a_fork(client: Client) -> None:
    future = client.submit(PIPELINE, x(), max_price=1).future()
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())  # so that the callbacks' thread runs
    assert called.wait(60)

    def check() -> None:
        late: list[object] = []
        future.add_done_callback(late.append)
        assert late == [future]
        assert concurrent.futures.wait([future]).done == {future}
        assert future.result()["y"].tolist() == [2]
        assert not future.cancelled()

    assert in_a_fork(check) == "nothing"


# Threads


def test_many_threads_share_a_client(client: Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        values = pool.map(
            lambda n: client.submit(PIPELINE, x(n), max_price=1).result(60)["y"][0], range(40), timeout=20
        )
    assert list(values) == [2 * n for n in range(40)]


def test_closing_ends_the_calls_of_other_threads(fake: FakeBrokerThread) -> None:
    fake.broker.hold = fake.broker.silent = True
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        with Client(fake.url, api_key=API_KEY) as client:
            waiting = [pool.submit(client.submit, PIPELINE, x(n), max_price=1) for n in range(3)]
            waiting.append(pool.submit(lambda: next(client.map(PIPELINE, [x(9)], max_price=1))))
            fake.until(lambda broker: len(broker.requests) == 4)
        for future in waiting:
            with pytest.raises(ClientClosed):
                future.result(timeout=60)


def test_a_blocking_call_in_the_clients_own_thread_is_refused(client: Client) -> None:
    async def work() -> None:
        client.balance()

    assert client._thread is not None
    with pytest.raises(InvalidCall, match="own thread"):
        within(lambda: client._thread.wait(work))  # type: ignore[union-attr]


def test_nothing_waits_for_itself_in_the_clients_own_thread(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    handle = client.submit(PIPELINE, x(), max_price=1)
    future = handle.future()
    results = client.map(PIPELINE, [x()], max_price=1)
    waiting: list[Callable[[], object]] = [
        handle.result,
        handle.cancel,
        future.result,
        future.exception,
        lambda: next(results),
        lambda: client.submit(PIPELINE, x(), max_price=1),
        lambda: client.attach(handle.id),
        client.jobs,
        client.balance,
    ]

    async def call() -> list[str]:
        return [name_of(one) for one in waiting]

    assert client._thread is not None
    loop = client._thread
    assert within(lambda: loop.wait(call)) == ["InvalidCall"] * len(waiting)

    async def ask() -> tuple[bool, bool, bool]:
        return handle.done(), future.cancel(), future.cancelled()

    assert within(lambda: loop.wait(ask)) == (False, False, False)


def test_a_client_that_is_collected_in_its_own_thread_is_closed(fake: FakeBrokerThread) -> None:
    """As by a generator that was left, whose `with` Python ends in any thread."""
    fake.broker.hold = True
    opened: list[Client] = []

    def results() -> Iterator[str]:
        with Client(fake.url, api_key=API_KEY) as client:
            opened.append(client)
            yield client.submit(PIPELINE, x(), max_price=1).id

    left: list[Any] = [results()]
    next(left[0])
    future = opened[0].attach("job-0").future()
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())
    loop = opened[0]._thread
    assert loop is not None
    left.append(left)
    del left

    async def collect() -> None:
        gc.collect()

    assert name_of(lambda: within(lambda: loop.wait(collect))) in ("nothing", "ClientClosed")
    with pytest.raises(ClientClosed):
        within(opened[0].balance)
    assert isinstance(within(future.exception), ClientClosed)
    assert called.wait(60)
    within(loop._thread.join)
    assert loop._loop.is_closed()


def test_a_map_that_is_collected_in_the_clients_thread_cancels_its_jobs(
    fake: FakeBrokerThread, client: Client
) -> None:
    def inputs() -> Iterator[dict[str, Any]]:
        yield x(1)
        yield x(2)
        fake.until(lambda broker: len(broker.requests) == 2)
        fake.run(fake.broker._finish("job-0"))

    fake.broker.hold = True
    abandoned: list[Any] = [client.map(PIPELINE, inputs(), max_price=1)]
    assert next(abandoned[0])["y"].tolist() == [2]
    abandoned.append(abandoned)  # a cycle, which the collector ends in any thread
    del abandoned

    async def collect() -> None:
        gc.collect()

    assert client._thread is not None
    client._thread.wait(collect)
    fake.until(lambda broker: statuses(broker) == ["accepted", "cancelled"])


# Loops


async def test_a_second_event_loop_gets_a_typed_error(fake: FakeBrokerThread) -> None:
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        handle = await client.submit(PIPELINE, x(), max_price=1)
        await handle.result(60)
        fake.broker.hold = True
        waiting = await client.submit(PIPELINE, x(), max_price=1)
        calls: list[Callable[[], Any]] = [
            lambda: client.submit(PIPELINE, x(), max_price=1),
            client.balance,
            waiting.result,
            lambda: anext(client.map(PIPELINE, [x()], max_price=1)),
            lambda: client.__aexit__(None, None, None),
        ]
        for call in calls:
            with pytest.raises(InvalidCall, match="event loop"):
                await asyncio.to_thread(lambda call=call: within(lambda: asyncio.run(_awaiting(call))))
        assert (await handle.result(60))["y"].tolist() == [2]


def test_no_event_loop_is_a_typed_error(fake: FakeBrokerThread) -> None:
    opening = AsyncClient(fake.url, api_key=API_KEY).__aenter__()
    with pytest.raises(InvalidCall, match="no asyncio event loop"):
        opening.send(None)


def test_an_event_loop_that_ends_leaves_nobody_waiting(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    handles = []

    async def leave_open() -> None:
        client = await AsyncClient(fake.url, api_key=API_KEY).__aenter__()
        handles.append(await client.submit(PIPELINE, x(), max_price=1))
        await client._open._session.close()  # type: ignore[union-attr]  # or it warns that it was left open

    asyncio.run(leave_open())
    end = handles[0]._end
    assert end is not None
    assert isinstance(end.exception(), ClientClosed)


# Opening and closing


def test_a_client_opens_again_after_it_was_closed(fake: FakeBrokerThread) -> None:
    client = Client(fake.url, api_key=API_KEY)
    for _ in range(2):
        with client:
            assert client.balance() > 0
            with pytest.raises(InvalidCall, match="open already"):
                client.__enter__()
    client.__exit__(None, None, None)
    with pytest.raises(ClientClosed):
        client.balance()


async def test_an_async_client_opens_again_after_it_was_closed(fake: FakeBrokerThread) -> None:
    client = AsyncClient(fake.url, api_key=API_KEY)
    for _ in range(2):
        async with client:
            assert await client.balance() > 0
            with pytest.raises(InvalidCall, match="open already"):
                await client.__aenter__()


def test_a_job_of_a_closed_client_has_a_failed_future(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    with Client(fake.url, api_key=API_KEY) as client:
        handle, asked = (client.submit(PIPELINE, x(), max_price=1) for _ in range(2))
        early = asked.future()
    for future in (handle.future(), asked.future(), early):
        assert isinstance(future.exception(), ClientClosed)
        assert concurrent.futures.wait([future]).done == {future}
        assert (future.done(), future.cancel(), future.cancelled()) == (True, False, False)
        called: list[object] = []
        future.add_done_callback(called.append)
        assert called == [future]
    assert handle.done()
    for call in (handle.result, handle.cancel):
        with pytest.raises(ClientClosed):
            call()


def test_a_job_is_waited_for_again_once_its_client_is_open_again(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    client = Client(fake.url, api_key=API_KEY)
    with client:
        handle = client.submit(PIPELINE, x(), max_price=1)
        handle.future()
    with client:
        future = handle.future()
        assert not future.done()
        fake.run(fake.broker.release())
        assert handle.result(timeout=60)["y"].tolist() == [2]
        assert handle.cancel() is False


# Interruptions


def test_an_interrupted_submission_cancels_its_job(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = fake.broker.silent = True
    loop = client._thread
    assert loop is not None
    future = loop.start(lambda: client._async.submit(PIPELINE, x(), max_price=1))
    fake.until(lambda broker: len(broker.requests) == 1)
    future.cancel()  # what Ctrl-C does to the call
    fake.broker.silent = False
    fake.run(fake.broker.drop())
    fake.until(lambda broker: statuses(broker) == ["cancelled"])


def test_cancelling_a_future_cancels_the_job(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    future = client.submit(PIPELINE, x(), max_price=1).future()
    assert future.cancel() is True
    with pytest.raises(JobCancelled):
        future.result(60)
    assert future.cancelled()
    assert statuses(fake.broker) == ["cancelled"]


def test_a_job_that_has_ended_cannot_be_cancelled(client: Client) -> None:
    handle = client.submit(PIPELINE, x(), max_price=1)
    handle.result(60)
    assert handle.cancel() is False
    assert handle.future().cancel() is False
    assert handle.future().cancelled() is False


def statuses(broker: FakeBroker) -> list[str]:
    return [view.status.value for view in broker.jobs.views.values()]


def name_of(call: Callable[[], object]) -> str:
    """The name of what `call` raises."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "nothing"


async def _awaiting(call: Callable[[], Any]) -> Any:
    return await call()


def test_the_handles_are_named_by_their_jobs(client: Client) -> None:
    handle = client.submit(PIPELINE, x(), max_price=1)
    assert repr(handle) == f"<JobHandle {handle.id}>"
    assert isinstance(handle, JobHandle)


def test_ctrl_c_before_a_call_is_handed_over_leaves_nothing_that_python_complains_of(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    handle = client.submit(PIPELINE, x(), max_price=1)
    with monkeypatch.context() as patched:
        patched.setattr(LoopThread, "wait", interrupt)
        patched.setattr(LoopThread, "start", interrupt)
        calls: list[Callable[[], object]] = [client.balance, handle.cancel, handle.future, client.jobs]
        for call in calls:
            with pytest.raises(KeyboardInterrupt):
                call()
    gc.collect()
