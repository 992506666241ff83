"""One WebSocket to the broker: the mutual proof of identity at its start, then frames both ways.

Each side signs a nonce of the other's, so neither can be played a recording. What is sent is gathered while
a write is under way: a busy worker puts many frames into one message.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from tradepost import identity
from tradepost.broker_url import reason_of
from tradepost.errors import (
    BrokerUnavailable,
    ContentUnavailable,
    ProtocolError,
    SourceFailed,
    TradepostError,
)
from tradepost.identity import Identity
from tradepost.protocol import (
    FRAMES_MAX,
    MESSAGE_BYTES_MAX,
    VERSION,
    Challenge,
    Hello,
    Offer,
    Refused,
    ToBrokerFromWorker,
    ToWorker,
    Welcome,
    worker_codec,
)
from tradepost_worker.link.broker_api import BrokerApi

T = TypeVar("T")

NONCE_BYTES: Final = 16
#: How long the broker may take to answer a goodbye: a busy one must not keep a worker that stops.
CLOSE_S_MAX: Final = 1.0
_HANDSHAKE_S_MAX: Final = 10.0
_DELAY_S_MAX: Final = 30.0
_CONTENDED_S_MIN: Final = 60.0
_CONTENDED_S_MAX: Final = 3600.0
_MESSAGE_OVERHEAD_BYTES: Final = 16


def reconnect_delays(*, rng: random.Random) -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling up to 30, with full jitter, so that the workers
    of a broker that restarts do not come back all at once."""
    ceiling = 0.5
    while True:
        yield rng.uniform(0, ceiling)
        ceiling = min(2 * ceiling, _DELAY_S_MAX)


async def until_reached(call: Callable[[], Awaitable[T]], *, rng: random.Random) -> T:
    """What `call` gives, called again while the broker, or a source of content, cannot be reached.

    It is never given up here: the caller bounds the time. What sources lie about or lack is not waited for.
    """
    for delay_s in reconnect_delays(rng=rng):
        try:
            return await call()
        except (BrokerUnavailable, ContentUnavailable) as error:
            sources = error.facts.get("sources")
            if sources and SourceFailed.code() not in sources.values():
                raise
            await asyncio.sleep(delay_s)
    raise AssertionError("the delays never end")


def contended_delays(*, rng: random.Random) -> Iterator[float]:
    """Seconds to wait before connecting again after another device connected with this one's key.

    Doubling from about one minute up to an hour: the device that connects next replaces the other.
    """
    ceiling = 2 * _CONTENDED_S_MIN
    while True:
        yield rng.uniform(ceiling / 2, ceiling)
        ceiling = min(2 * ceiling, _CONTENDED_S_MAX)


class BrokerStream:
    """An admitted connection. Create it with `open`; run `drain` beside the reader of `messages`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._codec = worker_codec()
        self._outgoing: deque[msgspec.Raw] = deque()
        self._waiting_to_send = asyncio.Event()
        self.welcome: Welcome

    @classmethod
    async def open(
        cls, broker: BrokerApi, *, worker: Identity, broker_id: str, offer: Offer, leases: tuple[str, ...]
    ) -> BrokerStream:
        """Connect, after these steps:

        1. The broker's challenge comes with the public key whose id is `broker_id`, as the join token named.
        2. Its signature is over this connection's nonce, then its own.
        3. The hello proves the worker's key over the nonces in the other order, and states its offer and the
           leases that it still holds.
        4. The broker welcomes this worker.

        Raises `BrokerUnavailable`, `ProtocolError` (1, 4), `InvalidSignature` (2), or the error with which
        the broker refuses (4).
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        stream = cls(await broker.open_stream(worker.id, nonce))
        try:
            async with asyncio.timeout(_HANDSHAKE_S_MAX):
                # Steps 1 and 2
                challenge = await stream._receive_one()
                if not isinstance(challenge, Challenge):
                    raise _refusal(challenge, "a challenge")
                _check_challenge(challenge, nonce, broker_id)
                # Step 3
                hello = Hello(
                    version=VERSION,
                    public_key=worker.public_key,
                    signature=worker.sign("hello", challenge.nonce + nonce),
                    offer=offer,
                    open_leases=leases,
                )
                await stream._socket.send_bytes(stream._codec.encode([hello]))
                # Step 4
                welcome = await stream._receive_one()
                if not isinstance(welcome, Welcome) or welcome.worker != worker.id:
                    raise _refusal(welcome, "a welcome for this worker")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            await stream.close()
            raise BrokerUnavailable(
                f"the broker did not complete the handshake: {reason_of(error)}"
            ) from None
        except BaseException:
            await stream.close()
            raise
        stream.welcome = welcome
        return stream

    def send(self, frame: ToBrokerFromWorker) -> None:
        """Send a frame soon, in order."""
        self._outgoing.append(msgspec.Raw(msgspec.msgpack.encode(frame)))
        self._waiting_to_send.set()

    async def drain(self) -> None:
        """Write what `send` gathers, until cancelled. Raises `BrokerUnavailable`."""
        while True:
            await self._waiting_to_send.wait()
            try:
                await self._socket.send_bytes(self._codec.encode(self._next_frames()))
            except (aiohttp.ClientError, OSError) as error:
                raise BrokerUnavailable(f"the connection broke: {reason_of(error)}") from None
            if not self._outgoing:
                self._waiting_to_send.clear()

    async def messages(self) -> AsyncIterator[list[ToWorker]]:
        """What the broker sends, until it ends the connection.

        Raises `ProtocolError`, and `BrokerUnavailable` if the connection breaks: for a device that was
        suspended, with a ping that cannot be answered any more.
        """
        try:
            async for message in self._socket:
                match message.type:
                    case aiohttp.WSMsgType.BINARY:
                        yield self._codec.decode(message.data)
                    case aiohttp.WSMsgType.ERROR if not isinstance(message.data, aiohttp.WebSocketError):
                        raise BrokerUnavailable(f"the connection broke: {reason_of(message.data)}")
                    case _:
                        what = message.data if message.type is aiohttp.WSMsgType.ERROR else message.type.name
                        raise ProtocolError(f"the broker sent an invalid message: {what}")
        except (aiohttp.ClientError, OSError) as error:
            raise BrokerUnavailable(f"the connection broke: {reason_of(error)}") from None

    async def close(self) -> None:
        """Close the connection; without goodbye if the broker does not answer within `CLOSE_S_MAX`."""
        with suppress(TimeoutError):
            # Cancelled, it closes the transport. Its own timeout is longer, and not for a full send buffer.
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._socket.close()

    def _next_frames(self) -> list[Any]:
        frames: list[Any] = []
        room = MESSAGE_BYTES_MAX - _MESSAGE_OVERHEAD_BYTES
        while self._outgoing and len(frames) < FRAMES_MAX:
            size = memoryview(self._outgoing[0]).nbytes
            if frames and size > room:
                break
            room -= size
            frames.append(self._outgoing.popleft())
        return frames

    async def _receive_one(self) -> ToWorker | None:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise BrokerUnavailable("the connection ended during the handshake")
        frames = self._codec.decode(message.data)
        return frames[0] if len(frames) == 1 else None


def _check_challenge(challenge: Challenge, nonce: bytes, broker_id: str) -> None:
    # Step 1
    if (key_id := identity.key_id(challenge.public_key)) != broker_id:
        raise ProtocolError(
            f"this is broker {key_id}, but the device joined broker {broker_id}",
            hint="If the operator renewed the broker's key, join again with a new token.",
        )
    # Step 2
    identity.verify(challenge.public_key, "challenge", nonce + challenge.nonce, challenge.signature)


def _refusal(frame: ToWorker | None, expected: str) -> TradepostError:
    if isinstance(frame, Refused):
        return TradepostError.from_problem(frame.problem)
    return ProtocolError(f"the broker sent {type(frame).__name__} instead of {expected}")
