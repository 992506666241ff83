"""No broker is remembered by its cookies: nobody reads them here, and they could grow for ever."""

from collections.abc import Mapping

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tradepost import AsyncClient
from tradepost_worker.link.broker_api import BrokerApi


class CookieServer:
    """Answers everything with a cookie, and notes those that it is sent."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, str]] = []
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        """By name, since no cookies are kept of addresses anyway."""
        return f"http://localhost:{self.server.port}/"

    async def _answer(self, request: web.Request) -> web.Response:
        self.sent.append(dict(request.cookies))
        account = {"account": "alice", "available_microcredits": 0, "reserved_microcredits": 0}
        response = web.json_response(account)
        response.set_cookie("name", "value")
        return response


@pytest.fixture
async def cookies():
    cookies = CookieServer()
    async with cookies.server:
        yield cookies


async def test_a_worker_keeps_no_cookies(cookies: CookieServer) -> None:
    async with BrokerApi(URL(cookies.url)) as broker:
        await broker.date()
        await broker.date()
    assert cookies.sent == [{}, {}]


async def test_a_client_keeps_no_cookies(cookies: CookieServer) -> None:
    async with AsyncClient(cookies.url, api_key="key") as client:
        await client.balance()
        await client.balance()
    assert cookies.sent == [{}, {}]
