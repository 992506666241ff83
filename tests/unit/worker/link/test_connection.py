"""The end of a connection does not wait for the broker, which may be busy or hostile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tradepost_worker.link import connection
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.link.connection import BrokerStream

#: A close that has not ended by then never will.
HANGS_S = 60.0


class SilentBroker:
    """Accepts WebSockets, and then neither reads nor answers."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_get("/v1/worker", self._serve)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        request.transport.pause_reading()  # type: ignore[attr-defined]
        await self.end.wait()
        request.transport.abort()
        return socket


@pytest.fixture
async def url() -> AsyncIterator[URL]:
    broker = SilentBroker()
    server = TestServer(broker.app)
    await server.start_server()
    yield server.make_url("/")
    broker.end.set()
    await server.close()


@pytest.mark.parametrize("unsent_bytes", [0, 64 << 20], ids=["idle", "with a full buffer"])
async def test_a_connection_closes_although_the_broker_does_not_answer(
    url: URL, monkeypatch: pytest.MonkeyPatch, unsent_bytes: int
) -> None:
    monkeypatch.setattr(connection, "CLOSE_S_MAX", 0.01)
    async with BrokerApi(url) as api, asyncio.timeout(HANGS_S):
        socket = await api.open_stream("worker", b"nonce")
        # aiohttp waits 10 s for the answer to a goodbye, as long as a busy machine may take: here for ever.
        monkeypatch.setattr(socket, "_timeout", aiohttp.ClientWSTimeout(ws_close=None))
        sending = asyncio.create_task(socket.send_bytes(bytes(unsent_bytes)))
        await asyncio.sleep(0)
        await BrokerStream(socket).close()
        assert socket.closed
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
