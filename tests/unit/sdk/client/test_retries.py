"""A broker that is away for a moment: whatever may be repeated is repeated, within `give_up_s`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from tradepost import AsyncClient, Client, TensorDocument
from tradepost.client.retries import ANSWER_S_MIN, Retries
from tradepost.errors import (
    BrokerUnavailable,
    InvalidCall,
    ProtocolError,
    QuotaExceeded,
    ResultTimeout,
    UnknownJob,
)
from tradepost.protocol import INLINE_BYTES_MAX
from tradepost.testing.broker_thread import FakeBrokerThread, ServerThread
from tradepost.testing.fake_broker import API_KEY, FakeBroker

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Breaking = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def unavailable(_: web.Request) -> web.StreamResponse:
    """As a proxy answers while the broker behind it restarts."""
    return web.Response(status=503, text="<html>try again</html>")


async def cut(request: web.Request) -> web.StreamResponse:
    """A body that ends before its length."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"half")
    assert request.transport is not None
    request.transport.abort()
    return response


async def dropped(request: web.Request) -> web.StreamResponse:
    """A connection that ends without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def twice(document: TensorDocument) -> TensorDocument:
    return TensorDocument(tensors={"x": np.concatenate([document["x"], document["x"]])})


class Flaky(ServerThread):
    """A fake broker whose REST requests fail in a given way, the first `failures` of each."""

    def __init__(self, breaking: Breaking, failures: int) -> None:
        self.failures = failures
        self.failed: dict[str, int] = {}
        self._breaking = breaking
        super().__init__(self._application)

    def _application(self) -> web.Application:
        self.broker = FakeBroker(twice)

        @web.middleware
        async def fail_first(request: web.Request, handler: Handler) -> web.StreamResponse:
            key = f"{request.method} {request.path}"
            if request.path != "/v1/client" and self.failed.get(key, 0) < self.failures:
                self.failed[key] = self.failed.get(key, 0) + 1
                return await self._breaking(request)
            return await handler(request)

        self.broker.app.middlewares.append(fail_first)
        return self.broker.app


@pytest.fixture(params=[unavailable, cut, dropped])
def flaky(request: pytest.FixtureRequest) -> Any:
    with Flaky(request.param, failures=2) as server:
        yield server


def test_every_request_is_repeated(flaky: Flaky) -> None:
    large = np.zeros(INLINE_BYTES_MAX // 8 + 1)  # uploaded, and the output is downloaded
    with Client(flaky.url, api_key=API_KEY) as client:
        assert client.balance() > 0
        handle = client.submit(PIPELINE, {"x": large}, max_price=1)
        assert handle.result(60)["x"].size == 2 * large.size
        assert client.job(handle.id).job == handle.id
        assert client.cancel(handle.id).job == handle.id
        assert client.attach(handle.id).result(60)["x"].size == 2 * large.size
    assert len(flaky.failed) > 5
    assert set(flaky.failed.values()) == {2}


def test_what_stays_away_is_unavailable_and_result_asks_again() -> None:
    half = {"x": np.zeros(INLINE_BYTES_MAX // 16 + 1)}  # its job's output is downloaded
    with (
        Flaky(dropped, failures=10**9) as flaky,
        Client(flaky.url, api_key=API_KEY, give_up_s=0.1) as client,
    ):
        handle = client.submit(PIPELINE, half, max_price=1)
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                handle.result(60)
        failed = handle.future()
        assert isinstance(failed.exception(60), BrokerUnavailable)
        flaky.failures = 0
        assert handle.result(60)["x"].size == 2 * half["x"].size
        assert handle.done()
        assert handle.future() is handle.future()
        assert isinstance(failed.exception(60), BrokerUnavailable)  # a future keeps its outcome


async def test_a_broker_that_is_restarted_is_waited_for() -> None:
    held = socket.socket()  # it listens later: no other program gets its port meanwhile
    held.bind(("127.0.0.1", 0))
    async with AsyncClient(f"http://127.0.0.1:{held.getsockname()[1]}", api_key=API_KEY) as client:
        calls = [
            asyncio.create_task(client.balance()),
            asyncio.create_task(client.submit(PIPELINE, {"x": np.zeros(200_000)}, max_price=1)),
            asyncio.create_task(client.submit(PIPELINE, {"x": np.zeros(2)}, max_price=1)),
        ]
        await asyncio.sleep(0)
        runner = web.AppRunner(FakeBroker(lambda document: document).app)
        await runner.setup()
        await web.SockSite(runner, held).start()
        balance, *handles = await asyncio.gather(*calls)
        assert balance > 0
        assert [(await handle.result(60))["x"].size for handle in handles] == [200_000, 2]
    await runner.cleanup()


def test_a_result_is_had_after_the_stream_was_given_up(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    with Client(fake.url, api_key=API_KEY, give_up_s=0.1) as client:
        handle = client.submit(PIPELINE, {"x": np.ones(1, np.float32)}, max_price=1)
        assert client._thread is not None
        client._thread.wait(lambda: _give_up(client))
        with pytest.raises(BrokerUnavailable):
            handle._handle._end.result()  # type: ignore[union-attr]
        fake.run(fake.broker.release())
        assert handle.result(60)["y"].tolist() == [2]


async def _give_up(client: Client) -> None:
    client._async.open_stream()._fail_all(BrokerUnavailable("away"))


def test_a_refusal_is_not_repeated() -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        raise QuotaExceeded("enough")

    with Flaky(refuse, failures=1) as flaky, Client(flaky.url, api_key=API_KEY) as client:
        with pytest.raises(QuotaExceeded):
            client.balance()
        assert client.balance() > 0


@pytest.mark.parametrize("body", ["[]", "<html>", '{"account": 5}', "\xff"])
def test_a_reply_of_something_else_is_a_typed_error(body: str) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body.encode("latin-1"))

    with Flaky(answer, failures=9) as other, Client(other.url, api_key=API_KEY) as client:
        for call in (client.balance, client.jobs, lambda: client.job("a"), lambda: client.cancel("a")):
            with pytest.raises(ProtocolError):
                call()


def test_a_result_that_does_not_come_is_a_timeout(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    handle = client.submit(PIPELINE, {"x": np.ones(1, np.float32)}, max_price=1)
    for timeout in (0, -1, np.float32(0.01)):
        with pytest.raises(TimeoutError) as caught:
            handle.result(timeout)
        assert type(caught.value) is ResultTimeout
        assert caught.value.facts == {"job": handle.id}
    with pytest.raises(InvalidCall):
        handle.result("5")  # type: ignore[arg-type]
    assert concurrent.futures.TimeoutError is TimeoutError


@pytest.mark.parametrize("job", ["", "\ud800", "j" * 257, None, 5])
def test_what_cannot_be_an_id_is_an_unknown_job(client: Client, job: Any) -> None:
    for call in (client.job, client.cancel, client.attach, lambda job: client.jobs(before=job or "")):
        with pytest.raises(UnknownJob, match="not the id"):
            call(job)


# When to give up


def test_retries_give_up_in_time() -> None:
    now = [100.0]
    retries = Retries(give_up_s=10, clock=lambda: now[0], jitter=lambda: 0.5)
    pauses = []
    while not retries.is_over:
        assert retries.answer_s() == pytest.approx(max(ANSWER_S_MIN, 110 - now[0]))
        pauses.append(retries.pause_s())
        now[0] += pauses[-1]
    assert now[0] == pytest.approx(110)
    assert pauses[:4] == pytest.approx([0.05, 0.1, 0.2, 0.4])
    assert max(pauses) == 2.0


def test_being_heard_of_starts_the_time_anew() -> None:
    now = [0.0]
    retries = Retries(give_up_s=10, clock=lambda: now[0], jitter=lambda: 0.5)
    retries.pause_s()
    now[0] = 9.0
    retries.heard(8.0)
    retries.heard(3.0)  # older news change nothing
    assert retries.pause_s() == 0.05
    now[0] = 17.9
    assert not retries.is_over
    now[0] = 18.0
    assert retries.is_over
