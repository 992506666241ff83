"""However the stream to the broker ends, what waits for it gets a typed error, and later calls work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tradepost import AsyncClient
from tradepost.client.job_stream import JobStream
from tradepost.client.stream_connection import StreamConnection
from tradepost.errors import (
    BrokerUnavailable,
    ClientClosed,
    ClientFailed,
    ProtocolError,
    QuotaExceeded,
    TradepostError,
)
from tradepost.protocol import Rejected, broker_codec_for_clients
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
#: A call that has not ended by then never will.
HANGS_S = 120.0

Script = Callable[[web.WebSocketResponse], Awaitable[object]]


def x(value: float = 1.0) -> dict[str, Any]:
    return {"x": np.array([value], dtype=np.float32)}


@asynccontextmanager
async def client_of(script: Script, *, give_up_s: float = 0.2) -> AsyncIterator[AsyncClient]:
    """A client of a broker whose streams all follow a script once something was submitted."""

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await script(socket)
        return socket

    app = web.Application()
    app.router.add_get("/v1/client", handle)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        async with AsyncClient(url, api_key=API_KEY, give_up_s=give_up_s) as client:
            yield client


async def failure_of(client: AsyncClient) -> TradepostError:
    async with asyncio.timeout(HANGS_S):
        with pytest.raises(TradepostError) as caught:
            await client.submit(PIPELINE, x(), max_price=1)
    return caught.value


async def stay(socket: web.WebSocketResponse) -> None:
    """Answer pings, and nothing else."""
    async for _ in socket:
        pass


@pytest.mark.parametrize(
    ("script", "expected", "detail"),
    [
        (lambda socket: socket.close(code=1008, message=b"no such frame"), ProtocolError, "no such frame"),
        (lambda socket: socket.close(code=1009, message=b"too big"), ProtocolError, "too big"),
        (lambda socket: socket.close(), BrokerUnavailable, "closed the connection"),
        (lambda socket: socket.close(code=1001), BrokerUnavailable, "closed the connection"),
        (lambda socket: socket.send_str("text"), ProtocolError, "TEXT"),
        (lambda socket: socket.send_bytes(b"garbage"), ProtocolError, "not a message"),
        (lambda socket: socket.send_bytes(bytes(9 << 20)), ProtocolError, "invalid message"),
        (stay, BrokerUnavailable, "did not answer within 1 s"),
    ],
    ids=["policy", "too big", "closed", "going away", "text", "garbage", "large", "silent"],
)
async def test_an_ended_stream_fails_what_waits(
    script: Script, expected: type[TradepostError], detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not stay:  # that it ended is the reason, however long a busy machine takes to say so
        monkeypatch.setattr("tradepost.client.job_stream.ANSWER_S_MIN", HANGS_S)
    async with client_of(script) as client:
        error = await failure_of(client)
        assert type(error) is expected
        assert detail in error.detail
        assert type(await failure_of(client)) is expected  # and so again: the stream starts anew


async def test_a_broker_that_accepts_connections_only_is_unavailable() -> None:
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with AsyncClient(f"http://127.0.0.1:{port}", api_key=API_KEY, give_up_s=0.2) as client:
        assert type(await failure_of(client)) is BrokerUnavailable
        async with asyncio.timeout(HANGS_S):
            with pytest.raises(BrokerUnavailable):
                await client.balance()
    for writer in held:
        writer.close()
    server.close()
    await server.wait_closed()


async def test_a_defect_in_the_stream_is_a_typed_error_and_the_next_call_works(
    fake: FakeBrokerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        with monkeypatch.context() as patch:
            patch.setattr(JobStream, "_take", lambda *_: 1 / 0)
            error = await failure_of(client)
        assert type(error) is ClientFailed
        assert isinstance(error.__cause__, ZeroDivisionError)
        handle = await client.submit(PIPELINE, x(), max_price=1)
        assert (await handle.result(HANGS_S))["y"].tolist() == [2]


async def test_a_writer_that_dies_is_seen(fake: FakeBrokerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        with monkeypatch.context() as patch:
            patch.setattr(StreamConnection, "_write", _raise_at_once)
            assert type(await failure_of(client)) is ClientFailed
        assert (await client.submit(PIPELINE, x(), max_price=1)).id


async def test_each_caller_gets_an_error_of_its_own() -> None:
    async with client_of(lambda socket: socket.close(code=1008, message=b"no")) as client:
        submissions = [client.submit(PIPELINE, x(n), max_price=1) for n in range(3)]
        errors = await asyncio.gather(*submissions, return_exceptions=True)
    assert [type(error) for error in errors] == [ProtocolError] * 3
    assert len({id(error) for error in errors}) == 3


async def test_a_task_that_was_cancelled_fails_what_waits(fake: FakeBrokerThread) -> None:
    fake.broker.hold = True
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        handle = await client.submit(PIPELINE, x(), max_price=1)
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks():  # as a program does that ends everything
            if task.get_name() == "tradepost-job-stream":
                task.cancel()
        with pytest.raises(ClientClosed):
            async with asyncio.timeout(HANGS_S):
                await waiting
        fake.run(fake.broker.release())
        assert (await handle.result(HANGS_S))["y"].tolist() == [2]


async def test_a_heartbeat_that_is_missed_reconnects(fake: FakeBrokerThread) -> None:
    """As of a broker that was suspended: the WebSocket reports an error, and the job goes on."""
    fake.broker.hold = True
    async with AsyncClient(fake.url, api_key=API_KEY) as client:
        handle = await client.submit(PIPELINE, x(), max_price=1)
        with pytest.MonkeyPatch.context() as patch:
            broken = aiohttp.WSMessage(aiohttp.WSMsgType.ERROR, aiohttp.ServerTimeoutError("no pong"), None)
            receive = aiohttp.ClientWebSocketResponse.receive
            replies: list[aiohttp.WSMessage] = [broken]

            async def scripted(self: aiohttp.ClientWebSocketResponse, *given: Any) -> Any:
                return replies.pop() if replies else await receive(self, *given)

            patch.setattr(aiohttp.ClientWebSocketResponse, "receive", scripted)
            fake.broker.connected.clear()
            await asyncio.to_thread(fake.run, fake.broker.drop())
            await asyncio.to_thread(fake.until, lambda broker: broker.connected.is_set())
            await asyncio.to_thread(fake.run, fake.broker.release())
            assert (await handle.result(HANGS_S))["y"].tolist() == [2]


async def send_on(socket: web.WebSocketResponse) -> None:
    """Read nothing, and send without end: the broker has much to confirm before it sees the close."""
    busy = broker_codec_for_clients().encode([Rejected(999, QuotaExceeded("enough").to_problem())])
    with contextlib.suppress(ConnectionError):
        while True:
            await socket.send_bytes(busy)
            await asyncio.sleep(0)


async def read_no_more(socket: web.WebSocketResponse) -> None:
    """Neither read nor send: what the client sends stays in its buffers."""
    del socket
    await asyncio.Event().wait()


@pytest.mark.parametrize("script", [send_on, read_no_more])
async def test_closing_waits_for_no_broker_that_does_not_answer_it(script: Script) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def begin(socket: web.WebSocketResponse) -> None:
        begun.set()
        task = asyncio.ensure_future(script(socket))
        await left.wait()
        task.cancel()

    large = {"x": np.zeros(200_000, np.float32)}
    async with asyncio.timeout(HANGS_S):
        async with client_of(begin, give_up_s=5) as client:
            calls = [client.submit(PIPELINE, large, max_price=1, inline=True) for _ in range(20)]
            submissions = [asyncio.create_task(call) for call in calls]
            await begun.wait()
            await client.__aexit__(None, None, None)
            left.set()
            ended = await asyncio.gather(*submissions, return_exceptions=True)
            assert {type(error) for error in ended} == {ClientClosed}
            await client.__aenter__()  # which the context closes


class Unclosed:
    """The socket of a connection that the broker has closed, and whose closing does not end."""

    async def receive(self) -> aiohttp.WSMessage:
        return aiohttp.WSMessage(aiohttp.WSMsgType.CLOSED, None, None)

    async def close(self) -> None:
        await asyncio.Event().wait()


async def test_a_socket_that_does_not_close_is_left() -> None:
    connection = StreamConnection(Unclosed())  # type: ignore[arg-type]
    async with asyncio.timeout(HANGS_S):
        await connection.converse(asyncio.Queue(), lambda _: None)


async def _raise_at_once(*_: object) -> None:
    raise RuntimeError("a defect")
