"""One WebSocket connection of the client's stream: opened within a time, read and written until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Final

import aiohttp
from yarl import URL

from tradepost.broker_url import is_permanent, raise_for_problem, raise_unavailable, reason_of
from tradepost.client.retries import ANSWER_S_MIN
from tradepost.errors import BrokerUnavailable, ProtocolError, TradepostError
from tradepost.protocol import FRAMES_MAX, HEARTBEAT_S, MESSAGE_BYTES_MAX, client_codec

#: Frames are gathered into one message up to this many bytes, well under `MESSAGE_BYTES_MAX`.
_BATCH_BYTES: Final = 2 << 20
#: How long the broker may take to answer the closing of the stream.
_CLOSE_S_MAX: Final = 1.0
#: A connection that lasted this long was one, even if no frame came: the broker had nothing to tell.
_ALIVE_S_MIN: Final = 1.0
#: Closing codes with which the broker refuses what was sent. It would do so again.
_REFUSALS: Final = (
    aiohttp.WSCloseCode.POLICY_VIOLATION,
    aiohttp.WSCloseCode.MESSAGE_TOO_BIG,
    aiohttp.WSCloseCode.PROTOCOL_ERROR,
    aiohttp.WSCloseCode.UNSUPPORTED_DATA,
    aiohttp.WSCloseCode.INVALID_TEXT,
)


class StreamConnection:
    """An open connection."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._clock = asyncio.get_running_loop().time
        self._opened_at = self._ended_at = self._clock()

    def alive_until(self) -> float:
        """When the connection ended, if it had lasted; else before any time of the clock."""
        return self._ended_at if self._ended_at - self._opened_at >= _ALIVE_S_MIN else -math.inf

    async def converse(self, outgoing: asyncio.Queue[bytes], take: Callable[[bytes], None]) -> None:
        """Give `take` each message and send the frames in `outgoing`, until the connection ends.

        Raises `ProtocolError` where the broker refuses or breaks the protocol, and what `take` raises.
        """
        tasks = {
            asyncio.create_task(self._read(take), name="tradepost-job-stream-reader"),
            asyncio.create_task(self._write(outgoing), name="tradepost-job-stream-writer"),
        }
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            self._ended_at = self._clock()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # A busy broker answers late, and aiohttp begins its own limit anew with each message.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S_MAX):
                    await self._socket.close()

    async def _read(self, take: Callable[[bytes], None]) -> None:
        while True:
            message = await self._socket.receive()
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    take(message.data)
                case aiohttp.WSMsgType.CLOSE if message.data in _REFUSALS:
                    raise ProtocolError(f"the broker ended the stream: {message.extra or message.data}")
                case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                    return
                case aiohttp.WSMsgType.ERROR:
                    if isinstance(message.data, aiohttp.WebSocketError):
                        raise ProtocolError(f"the broker sent an invalid message: {message.data}")
                    raise ConnectionError(f"the connection broke: {reason_of(message.data)}")
                case _:
                    raise ProtocolError(f"the broker sent a {message.type.name} message")

    async def _write(self, outgoing: asyncio.Queue[bytes]) -> None:
        codec = client_codec()
        while True:
            frames = [await outgoing.get()]
            size = len(frames[0])
            while not outgoing.empty() and len(frames) < FRAMES_MAX and size < _BATCH_BYTES:
                frames.append(outgoing.get_nowait())
                size += len(frames[-1])
            await self._socket.send_bytes(codec.join(frames))


async def connect(
    session: aiohttp.ClientSession, url: URL, headers: dict[str, str], *, answer_s: float
) -> StreamConnection:
    """A connection to the broker's stream at `url`, within `answer_s`.

    Raises the error with which the broker refuses it, `BrokerUnavailable` where no other try can help, and
    `aiohttp.ClientError` or `OSError` where one can.
    """
    try:
        async with asyncio.timeout(None if math.isinf(answer_s) else answer_s):
            socket = await session.ws_connect(
                url,
                headers=headers,
                heartbeat=min(HEARTBEAT_S, max(ANSWER_S_MIN, answer_s)),
                max_msg_size=MESSAGE_BYTES_MAX,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S_MAX),
            )
            return StreamConnection(socket)
    except aiohttp.WSServerHandshakeError as error:
        if error.status >= 500:
            raise
        raise await _refusal(session, url, headers, error, answer_s) from None
    except aiohttp.ClientConnectorError as error:
        if is_permanent(error):
            raise_unavailable(url.origin(), error)
        raise
    except TimeoutError:
        raise TimeoutError(f"no answer within {answer_s:.3g} s") from None


async def _refusal(
    session: aiohttp.ClientSession,
    url: URL,
    headers: dict[str, str],
    error: aiohttp.WSServerHandshakeError,
    answer_s: float,
) -> TradepostError:
    """The handshake hides the body of a refusal; a plain request to the same route shows it."""
    try:
        async with asyncio.timeout(None if math.isinf(answer_s) else answer_s):
            async with session.get(url, headers=headers) as response:
                await raise_for_problem(response)
    except TradepostError as refused:
        return refused
    except (aiohttp.ClientError, OSError):
        pass
    return BrokerUnavailable(f"{url.origin()} answered {error.status}")
