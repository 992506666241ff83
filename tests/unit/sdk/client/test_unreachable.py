"""The error of a broker that cannot be reached gives the cause and what to do, in every kind of call."""

from __future__ import annotations

import ssl

import numpy as np
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from tradepost import AsyncClient
from tradepost.errors import BrokerUnavailable

PIPELINE = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
FOREVER_S = 1e6


async def errors_of(url: str, *, give_up_s: float) -> list[BrokerUnavailable]:
    """The errors of a request and of a submission, which uses the stream."""
    async with AsyncClient(url, api_key="key", give_up_s=give_up_s) as client:
        with pytest.raises(BrokerUnavailable) as request:
            await client.balance()
        with pytest.raises(BrokerUnavailable) as submission:
            await client.submit(PIPELINE, {"x": np.zeros(1, np.float32)}, max_price=1)
    return [request.value, submission.value]


async def test_a_refused_connection_is_named(refusing_port: int) -> None:
    url = f"http://127.0.0.1:{refusing_port}"
    for error in await errors_of(url, give_up_s=0.1):
        assert error.detail == f"{url}: Connection refused"
        assert "no program listens there" in error.hint


async def test_a_port_without_tls_is_named_at_once() -> None:
    async with TestServer(web.Application()) as server:
        url = f"https://127.0.0.1:{server.port}"
        for error in await errors_of(url, give_up_s=FOREVER_S):
            assert error.detail == f"{url}: the TLS handshake failed: the server does not use TLS"
            assert "begins with http://" in error.hint


async def test_a_port_with_tls_is_proposed_where_plain_http_gets_no_answer() -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    server = TestServer(web.Application(), scheme="https")
    await server.start_server(ssl=tls)
    async with server:
        for error in await errors_of(f"http://127.0.0.1:{server.port}", give_up_s=0.1):
            assert "begins with https://" in error.hint
