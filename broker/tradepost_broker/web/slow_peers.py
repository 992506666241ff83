"""Slow peers: how long the broker waits for them to read an answer, or to send a body.

Each wait for a peer may take `WAIT_S_MAX`, and all waits of one request together that and a second more for
every `RATE_MIN_BYTES_S` bytes that went through. Then the connection is cut: what it holds in memory, and its
place among those that are served at once, is for others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

from aiohttp import web

from tradepost.errors import InvalidRequest, TradepostError
from tradepost_broker.web.server_log import describe_malformed

WAIT_S_MAX: Final = 60.0
RATE_MIN_BYTES_S: Final = 16 << 10
_PATH_CHARS_MAX: Final = 200

log = logging.getLogger(__name__)


class Patience:
    """How long one may still wait for one peer, whose waits are timed by `monotonic`."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._waited_s = 0.0
        self._bytes = 0

    @property
    def left_s(self) -> float:
        """The most that the next wait may take."""
        return min(WAIT_S_MAX, WAIT_S_MAX + self._bytes / RATE_MIN_BYTES_S - self._waited_s)

    def count(self, size_bytes: int) -> None:
        """Take account of bytes that are through."""
        self._bytes += size_bytes

    @asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        """A wait for the peer. Raises `TimeoutError` when patience is at its end."""
        began_s = self._monotonic()
        try:
            async with asyncio.timeout(self.left_s):
                yield
        finally:
            self._waited_s += self._monotonic() - began_s


async def body_pieces(http: web.Request) -> AsyncIterator[bytes]:
    """A request's body as it arrives. Raises `InvalidRequest` if it stalls, trickles or is malformed."""
    patience = Patience()
    while True:
        try:
            async with patience.wait():
                piece = await http.content.readany()
        except TimeoutError:
            raise InvalidRequest("the body stalled, or arrived too slowly") from None
        except web.RequestPayloadError as error:
            raise InvalidRequest(f"the body is malformed: {describe_malformed(error)}") from None
        if not piece:
            return
        patience.count(len(piece))
        yield piece


async def send(http: web.Request, response: web.Response) -> None:
    """Send a whole answer; a peer that does not read it in time is cut off."""
    try:
        async with asyncio.timeout(WAIT_S_MAX + (response.content_length or 0) / RATE_MIN_BYTES_S):
            await response.prepare(http)
            await response.write_eof()
    except TimeoutError:
        cut(http, "the client did not read it")
    except ConnectionError:
        pass  # the peer is gone


async def send_pieces(
    http: web.Request, response: web.StreamResponse, pieces: AsyncGenerator[bytes, None]
) -> None:
    """Send an answer as it is made. Raises what the first piece raises; nothing has been sent then.

    A peer that reads too slowly is cut off, and so is an answer that turns out not to be whole.
    """
    async with aclosing(pieces):
        first = await anext(pieces)
        await response.prepare(http)
        if http.method == "HEAD":
            return
        try:
            await _write_all(response, first, pieces)
        except TradepostError as error:
            cut(http, str(error))
        except TimeoutError:
            cut(http, "the client did not read it")
        except ConnectionError:
            pass  # the peer is gone


async def _write_all(response: web.StreamResponse, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
    patience = Patience()

    async def write(piece: bytes) -> None:
        async with patience.wait():
            await response.write(piece)
        patience.count(len(piece))

    await write(first)
    async for piece in rest:
        await write(piece)
    async with patience.wait():
        await response.write_eof()


def cut(http: web.Request, reason: str) -> None:
    """End a connection in the middle of an answer: all that can still be said is that it is not whole."""
    path = http.rel_url.raw_path[:_PATH_CHARS_MAX]
    log.warning(
        "The answer to %s was aborted: %s", path, reason, extra={"action": "answer_cut", "path": path}
    )
    if http.transport is not None:
        http.transport.abort()


@web.middleware
async def cut_off_slow_readers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Send every answer that is all there, errors too, by `send`."""
    response = await handler(request)
    if isinstance(response, web.Response):
        await send(request, response)
    return response
