"""The common part of the streams of workers and clients: a reader and a writer that end together."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from tradepost.errors import InvalidRequest, ProtocolError, TradepostError
from tradepost.protocol import HEARTBEAT_S, MESSAGE_BYTES_MAX
from tradepost_broker.streams.frame_queue import FrameCodec, FrameQueue

#: The streams that are open, so that they can be closed when the broker stops.
OPEN_SOCKETS: Final = web.AppKey("open_sockets", weakref.WeakSet[web.WebSocketResponse])
#: How long a peer may take to answer the closing of its stream.
CLOSE_S_MAX: Final = 2.0
#: RFC 6455 leaves 123 bytes for a closing reason.
_REASON_BYTES_MAX: Final = 123


class StreamCodec(FrameCodec, Protocol):
    """One of `protocol`'s codecs, from the broker's side."""

    def encode(self, frames: list[Any]) -> bytes:
        """A message."""
        ...

    def decode(self, message: bytes) -> list[Any]:
        """The frames of a message. Raises `ProtocolError`."""
        ...


async def open_socket(request: web.Request) -> web.WebSocketResponse:
    """The request's WebSocket, with bounds on messages and on silence. Raises `InvalidRequest`."""
    socket = web.WebSocketResponse(
        max_msg_size=MESSAGE_BYTES_MAX, heartbeat=HEARTBEAT_S, timeout=CLOSE_S_MAX, compress=False
    )
    if not socket.can_prepare(request).ok:
        raise InvalidRequest(f"{request.path} is a WebSocket: request an upgrade")
    await socket.prepare(request)
    request.app[OPEN_SOCKETS].add(socket)
    return socket


async def close_all(app: web.Application) -> None:
    """Close every stream: the broker is going away, and its peers will connect again."""
    sockets = app[OPEN_SOCKETS]
    closing = [socket.close(code=WSCloseCode.GOING_AWAY) for socket in list(sockets)]
    await asyncio.gather(*closing, return_exceptions=True)


async def converse(
    request: web.Request,
    socket: web.WebSocketResponse,
    queue: FrameQueue,
    take: Callable[[bytes], Awaitable[None]],
) -> None:
    """Give `take` each message and send what `queue` gets, until either side ends it.

    Raises `ProtocolError` for a message that is not binary, and what `take` raises. A connection that breaks,
    or whose peer answers no ping, ends without an error: nobody is there to be told.
    """
    writing = asyncio.create_task(_write(request, socket, queue), name="tradepost-stream-writer")
    try:
        while (message := await _receive(socket)) is not None:
            await take(message)
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing


async def _receive(socket: web.WebSocketResponse) -> bytes | None:
    """The next message; `None` once the connection has ended or broken. Raises `ProtocolError`."""
    try:
        message = await socket.receive()
    except ConnectionError:  # a ping of the peer's cannot be answered any more
        return None
    match message.type:
        case WSMsgType.BINARY:
            data: bytes = message.data
            return data
        case WSMsgType.CLOSE | WSMsgType.CLOSING | WSMsgType.CLOSED:
            return None
        case WSMsgType.ERROR if not isinstance(message.data, WebSocketError):
            return None
        case WSMsgType.ERROR:
            raise ProtocolError(f"an invalid message: {message.data}")
        case _:
            raise ProtocolError(f"a {message.type.name} message; frames must be in binary messages")


async def _write(request: web.Request, socket: web.WebSocketResponse, queue: FrameQueue) -> None:
    # A broken connection ends the reader as well, which reports it; a queue that is full or was replaced
    # ends here, without waiting for a peer that does not read.
    with contextlib.suppress(ConnectionError, TimeoutError):
        await queue.run(socket)
        if queue.last_message:
            async with asyncio.timeout(CLOSE_S_MAX):
                await socket.send_bytes(queue.last_message)
                await socket.close(code=WSCloseCode.POLICY_VIOLATION)
    if request.transport is not None:
        request.transport.abort()


async def refuse(socket: web.WebSocketResponse, error: TradepostError, last_message: bytes = b"") -> None:
    """Close a stream because of what its peer did, after a last message if the protocol has one for this."""
    with contextlib.suppress(ConnectionError):
        if last_message:
            await socket.send_bytes(last_message)
    reason = str(error).encode()[:_REASON_BYTES_MAX]
    await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason)


def unknown_frame(frame: Any) -> ProtocolError:
    """The error for a frame that has no place here."""
    return ProtocolError(f"a {type(frame).__name__} frame is not allowed on this stream")
