"""The connections that are open, and how many there may be: in total, and from one address.

A connection that is not serving a request is idle. When there are too many, the one that has been idle for
longest makes room for a new one, so idle connections keep nobody out. Only if none is idle, the new one is
closed. The time that a connection may be idle, or may take to send a request's headers, is aiohttp's
`keepalive_timeout`.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tradepost_broker.web.caller_addresses import address_group

log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
#: A connection is counted once its TLS handshake is done, so one without may not stay for long.
_TLS_HANDSHAKE_S: Final = 10.0
#: For the database, blocks that are read, and what the process itself opens.
_OTHER_DESCRIPTORS: Final = 256


class Connections:
    """At most `total` connections, and `each` from one address; those in `unlimited` count in total only."""

    def __init__(self, *, total: int, each: int, unlimited: Collection[str] = ()) -> None:
        self._total = total
        self._each = each
        self._unlimited = frozenset(map(address_group, unlimited))
        self._open: dict[asyncio.BaseTransport, str] = {}
        #: By address, in the order in which they became idle.
        self._idle: dict[str, dict[asyncio.BaseTransport, None]] = {}
        #: All of them, in the same order.
        self._all_idle: dict[asyncio.BaseTransport, None] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Count a new connection, after closing an idle one if need be; `False` if there is no room."""
        peer = transport.get_extra_info("peername")
        address = address_group(str(peer[0]) if peer else "")
        count = self._counts.get(address, 0)
        if count >= self._each and address not in self._unlimited and not self._close_idle(address):
            self._note_refused(address)
            return False
        if len(self._open) >= self._total and not self._close_idle(None):
            self._note_refused(address)
            return False
        self._open[transport] = address
        self._counts[address] = self._counts.get(address, 0) + 1
        self._note_idle(transport, address)
        return True

    def forget(self, transport: asyncio.BaseTransport) -> None:
        """Count a connection no more."""
        address = self._open.pop(transport, None)
        if address is None:
            return
        self._note_busy(transport, address)
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    @contextmanager
    def serving(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """The connection serves a request until the context ends."""
        address = None if transport is None else self._open.get(transport)
        if transport is None or address is None:
            yield
            return
        self._note_busy(transport, address)
        try:
            yield
        finally:
            if transport in self._open:
                self._note_idle(transport, address)

    def _close_idle(self, address: str | None) -> bool:
        idle = self._all_idle if address is None else self._idle.get(address, {})
        transport = next(iter(idle), None)
        if not isinstance(transport, asyncio.Transport):
            return False
        self.forget(transport)
        transport.abort()
        return True

    def _note_idle(self, transport: asyncio.BaseTransport, address: str) -> None:
        self._idle.setdefault(address, {})[transport] = None
        self._all_idle[transport] = None

    def _note_busy(self, transport: asyncio.BaseTransport, address: str) -> None:
        self._all_idle.pop(transport, None)
        idle = self._idle.get(address)
        if idle is not None:
            idle.pop(transport, None)
            if not idle:
                del self._idle[address]

    def _note_refused(self, address: str) -> None:
        log.warning(
            "A connection from %s was closed: %d are open, %d of them from this address, and none is idle",
            address,
            len(self._open),
            self._counts.get(address, 0),
            extra={"action": "connection_refused", "address": address},
        )


class _CountedProtocol(asyncio.Protocol):
    """Passes a connection on to `inner` if it is admitted."""

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close the connection, or begin to serve it."""
        if not self._connections.admit(transport):
            if isinstance(transport, asyncio.Transport):
                transport.abort()
            return
        self._transport = transport
        self._inner.connection_made(transport)
        # From here on nothing stands between them for each piece of data.
        self.data_received = self._inner.data_received  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._transport is not None:
            self._connections.forget(self._transport)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Nothing: the connection was not admitted."""

    def eof_received(self) -> bool | None:
        """The peer sends no more."""
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        if self._transport is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The peer has read again."""
        if self._transport is not None:
            self._inner.resume_writing()


class LimitedSite(web.BaseSite):
    """Serves `runner`'s application at an address, on connections that are counted."""

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        *,
        connections: Connections,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context, backlog=_BACKLOG)
        self._host = host
        self._port = port
        self._connections = connections

    @property
    def name(self) -> str:
        """The address."""
        return f"{'https' if self._ssl_context else 'http'}://{self._host}:{self._port}"

    async def start(self) -> None:
        """Begin to listen. Raises `OSError`."""
        await super().start()
        protocols = self._runner.server
        assert protocols is not None

        def protocol() -> asyncio.Protocol:
            return _CountedProtocol(protocols(), self._connections)

        self._server = await asyncio.get_running_loop().create_server(
            protocol,
            self._host,
            self._port,
            ssl=self._ssl_context,
            ssl_handshake_timeout=_TLS_HANDSHAKE_S if self._ssl_context else None,
            backlog=self._backlog,
        )


def open_connections_max(wanted: int) -> int:
    """As many of `wanted` connections as this process may have descriptors for, with some left for files.

    Without a descriptor, no connection can be accepted at all, so nobody could make room.
    """
    descriptors_max, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_DESCRIPTORS
    if descriptors_max != resource.RLIM_INFINITY and descriptors_max < needed:
        descriptors_max = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_max, hard))
        if descriptors_max < needed:
            log.warning(
                "This process may open %d files, so the broker keeps at most %d connections instead of %d",
                descriptors_max,
                max(1, descriptors_max - _OTHER_DESCRIPTORS),
                wanted,
                extra={"action": "connections_limited"},
            )
            return max(1, descriptors_max - _OTHER_DESCRIPTORS)
    return wanted


def count_requests(connections: Connections) -> Middleware:
    """The middleware that notes which connections serve a request."""

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        with connections.serving(request.transport):
            return await handler(request)

    return note
