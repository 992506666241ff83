"""Strangers behind the same address do not keep an honest device out, however often they try."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tradepost.errors import TradepostError
from tradepost.identity import Identity
from tradepost.protocol import JoinRequest
from tradepost_broker.testing import FakeWorker, LocalBroker

#: More than any limit lets through.
ATTEMPTS = 60


async def false_join(broker: LocalBroker, token: str) -> str:
    """The error with which a join is refused that has no valid signature, and perhaps no valid token."""
    key, other = Identity.generate(), Identity.generate()
    signature = other.sign("join", token.encode())
    request = JoinRequest(token=token, public_key=key.public_key, signature=signature, device="false")
    try:
        await broker.call("POST", "/v1/workers", body=request)
    except TradepostError as error:
        return error.code()
    return ""


@pytest.mark.usefixtures("no_refill")
async def test_false_joins_do_not_keep_out_who_has_a_token(broker: LocalBroker) -> None:
    token, attacked = await broker.token(), await broker.token()
    refusals = Counter([await false_join(broker, f"tpj_{number}.x") for number in range(ATTEMPTS)])
    assert refusals["quota-exceeded"] > 0  # the strangers have a limit
    await FakeWorker(broker.session, broker.url).join(token)
    # Nor do false signatures with one token keep out a device with another.
    refusals = Counter([await false_join(broker, attacked) for _ in range(ATTEMPTS)])
    assert refusals["quota-exceeded"] > 0
    await broker.worker()


async def test_false_hellos_do_not_keep_out_the_worker(broker: LocalBroker) -> None:
    worker = await broker.worker(connect=False)
    for _ in range(ATTEMPTS):
        nonce = "00" * 16
        async with broker.session.ws_connect(
            f"{broker.url}/v1/worker?worker={worker.id}&nonce={nonce}"
        ) as false:
            await false.receive()
            await false.send_bytes(b"\x90")
            async for _ in false:
                pass
    await worker.connect()
    await worker.disconnect()


async def test_handshakes_that_hang_do_not_keep_out_the_worker(broker: LocalBroker) -> None:
    worker = await broker.worker(connect=False)
    async with AsyncExitStack() as hanging:
        session = await hanging.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        for _ in range(ATTEMPTS):
            url = f"{broker.url}/v1/worker?worker={worker.id}&nonce={'00' * 16}"
            await hanging.enter_async_context(session.ws_connect(url))
        await worker.connect()
    await worker.disconnect()
