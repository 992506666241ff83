"""A held port is for a server that asks for it by number, however often that restarts."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator

import pytest

from tradepost.testing.held_port import HeldPort


@pytest.fixture
def port() -> Iterator[int]:
    held = HeldPort()
    yield held.number
    held.close()


@pytest.mark.skipif(sys.platform != "linux", reason="ports are held on Linux alone")
async def test_a_server_may_listen_on_it_again_and_again(port: int) -> None:
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        server.close()
        await server.wait_closed()


@pytest.mark.skipif(sys.platform != "linux", reason="ports are held on Linux alone")
def test_a_program_that_does_not_share_addresses_cannot_have_it(port: int) -> None:
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
