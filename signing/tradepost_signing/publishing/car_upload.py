"""Uploads blocks to a broker: asks which of them it has, and sends the others in one CAR."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from tradepost.broker_url import raise_for_problem
from tradepost.content import Cid
from tradepost.content.transfer.car import car_bytes, encode_header, encode_section
from tradepost.content.transfer.gateway import CAR_TYPE
from tradepost.errors import TradepostError
from tradepost_signing.publishing.artifacts import Artifact, Block

#: How many blocks are asked for at once.
_QUESTIONS: Final = 16
#: How long the broker may take for the next block, and for its answer after the last.
_STALL_S_MAX: Final = 60.0

#: A block, and where its bytes are.
Located = tuple[Artifact, Block]
OnBytesSent = Callable[[int], None]


async def blocks_missing(
    session: aiohttp.ClientSession, broker: URL, blocks: Sequence[Located], progress: OnBytesSent
) -> list[Located]:
    """Those of `blocks` that the account lacks at the broker; `progress` is told the bytes of the others.

    Raises what the broker refuses the question with.
    """
    present: set[Cid] = set()
    unasked = iter(blocks)

    async def ask() -> None:
        for _, block in unasked:
            if await _has(session, broker / "v1/blocks" / block.cid):
                present.add(block.cid)
                progress(block.size)

    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_QUESTIONS):
                group.create_task(ask())
    except* (TradepostError, aiohttp.ClientError, OSError, TimeoutError) as failures:
        first = failures.exceptions[0]  # the others failed because it did, or in the same way
    if first is not None:
        # Not in the `except*`: the first versions of Python 3.11 make a group of what is raised there.
        raise first from None
    return [one for one in blocks if one[1].cid not in present]


async def send_car(
    session: aiohttp.ClientSession,
    broker: URL,
    roots: Sequence[Cid],
    blocks: Sequence[Located],
    progress: OnBytesSent,
) -> None:
    """Send `blocks` in one CAR, read as it goes; `progress` is told the bytes of each.

    Raises what the broker refuses it with, `TimeoutError` if it stops taking, and as `Artifact.read`.
    """
    headers = {
        "Content-Type": CAR_TYPE,
        # Known beforehand, so that what is too large is refused before it is sent.
        "Content-Length": str(car_bytes(roots, (block.size for _, block in blocks))),
    }
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_STALL_S_MAX) as stall:

        async def sections() -> AsyncIterator[bytes]:
            yield encode_header(roots)
            for artifact, block in blocks:
                yield encode_section(block.cid, artifact.read(block))
                stall.reschedule(loop.time() + _STALL_S_MAX)
                progress(block.size)

        try:
            async with session.post(broker / "v1/blocks", data=sections(), headers=headers) as response:
                await _accepted(response)
        except aiohttp.ClientError as error:
            if isinstance(error.__cause__, TradepostError):  # why `sections` ended early
                raise error.__cause__ from None
            raise


async def _accepted(response: aiohttp.ClientResponse) -> None:
    try:
        await raise_for_problem(response)
    except TradepostError:
        response.close()  # what was not sent yet has nowhere to go
        raise


async def _has(session: aiohttp.ClientSession, url: URL) -> bool:
    async with session.head(url) as response:
        if response.status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            return response.status == HTTPStatus.OK
    async with session.get(url) as response:  # the answer to HEAD has no body to say why
        await raise_for_problem(response)
    return True
