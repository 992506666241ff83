"""Peers who hold connections, headers and bodies: others are served all the same, within bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tradepost_broker.testing import LocalBroker, local_broker
from tradepost_broker.web.request_bodies import BODIES

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[..., Awaitable[Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections, and closes them in the end."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(broker: LocalBroker, source: str = "127.0.0.1") -> Connection:
        url = URL(broker.url)
        reader, writer = await asyncio.open_connection(url.host, url.port, local_addr=(source, 0))
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def answers(broker: LocalBroker) -> bool:
    """Whether a caller with a connection of its own is served."""
    async with aiohttp.ClientSession() as session, session.get(f"{broker.url}/healthz") as response:
        return response.status == 200


async def ended(connection: Connection) -> None:
    """Wait until the broker has closed a connection."""
    async with asyncio.timeout(180):
        with suppress(ConnectionError):
            while await connection[0].read(1 << 16):
                pass


async def test_idle_connections_from_one_address_make_room_for_others(
    connect: Connect, tmp_path: Path
) -> None:
    async with local_broker(tmp_path, connections_per_address_max=8) as broker:
        idle = [await connect(broker) for _ in range(8)]
        assert await answers(broker)
        await ended(idle[0])  # the one that was idle for longest
        assert len(broker.running.parts.connections) <= 8


async def test_idle_connections_from_many_addresses_make_room_for_others(
    connect: Connect, tmp_path: Path
) -> None:
    async with local_broker(tmp_path, connections_max=8) as broker:
        for number in range(2, 12):
            await connect(broker, f"127.0.0.{number}")
        assert await answers(broker)
        assert len(broker.running.parts.connections) <= 8


async def test_an_address_that_serves_all_its_connections_gets_no_more(
    connect: Connect, tmp_path: Path
) -> None:
    async with local_broker(tmp_path, connections_per_address_max=4) as broker, AsyncExitStack() as held:
        key, other = await broker.account(), await connect(broker, "127.0.0.2")
        for _ in range(3):
            session = await held.enter_async_context(aiohttp.ClientSession())
            headers = {"Authorization": f"Bearer {key}"}
            await held.enter_async_context(session.ws_connect(f"{broker.url}/v1/client", headers=headers))
        # The fourth is the fixture's own, which is idle, and makes room for the first of these.
        fourth = await held.enter_async_context(aiohttp.ClientSession())
        await held.enter_async_context(
            fourth.ws_connect(f"{broker.url}/v1/client", headers={"Authorization": f"Bearer {key}"})
        )
        await ended(await connect(broker))
        other[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await other[0].readline()).split()[1] == b"200"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_headers_that_do_not_come_end_the_connection(
    connect: Connect, tmp_path: Path, sent: bytes
) -> None:
    async with local_broker(tmp_path, idle_connection_s=0.05) as broker:
        connection = await connect(broker)
        connection[1].write(sent)
        await ended(connection)


async def test_a_body_larger_than_its_endpoint_takes_is_not_waited_for(
    connect: Connect, tmp_path: Path
) -> None:
    async with local_broker(tmp_path) as broker:
        reader, writer = await connect(broker)
        writer.write(b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"413"


async def test_a_chunked_body_ends_at_its_endpoints_limit(connect: Connect, tmp_path: Path) -> None:
    async with local_broker(tmp_path) as broker:
        reader, writer = await connect(broker)
        writer.write(b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write((b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 3)
        assert (await reader.readline()).split()[1] == b"413"


async def test_bodies_that_stall_hold_a_bounded_memory(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost_broker.web.application.BODIES_BYTES_EACH_MAX", 128 << 10)
    async with local_broker(tmp_path) as broker:
        stalled = []
        for _ in range(8):
            connection = await connect(broker)
            connection[1].write(b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
            connection[1].write(b"x" * 50_000)
            stalled.append(connection)
        # Two of them fit into the limit; the others are refused before they have sent everything.
        waiting = {asyncio.create_task(reader.readline()) for reader, _ in stalled}
        refused: set[bytes] = set()
        while len(waiting) > 2:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused |= {status.result().split()[1] for status in done}
        assert refused == {b"429"}
        other = await connect(broker, "127.0.0.2")
        other[1].write(
            b"POST /v1/workers HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000
        )
        assert (await other[0].readline()).split()[1] == b"400"
        for status in waiting:
            status.cancel()


async def test_a_trusted_proxy_names_the_caller(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost_broker.web.application.BODIES_BYTES_EACH_MAX", 48 << 10)
    body = b"x" * 60_000
    for trusted, expected in (((), 429), (("127.0.0.1",), 400)):
        async with local_broker(tmp_path, trusted_proxies=trusted) as broker:
            # The first holds what its caller may; whether the second is another one is for the proxy to say.
            first = await connect(broker)
            head = (
                "POST /v1/workers HTTP/1.1\r\nHost: x\r\n"
                "X-Forwarded-For: 192.0.2.%d\r\nContent-Length: %d\r\n\r\n"
            )
            first[1].write((head % (1, 60_000)).encode() + body[:40_000])
            bodies = broker.running.parts.application[BODIES]
            async with asyncio.timeout(180):
                while bodies.taken < 40_000:
                    await broker.tick()
            second = await connect(broker)
            second[1].write((head % (2, 40_000)).encode() + body[:40_000])
            assert int((await second[0].readline()).split()[1]) == expected
