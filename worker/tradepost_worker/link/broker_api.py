"""The broker's REST endpoints that a worker uses. Every block is hashed and capped as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from tradepost.broker_url import raise_for_problem, raise_unavailable
from tradepost.content import BLOCK_BYTES_MAX, Cid, verify_block
from tradepost.errors import UNDECODABLE, BrokerUnavailable, ContentTooLarge, ProtocolError
from tradepost.pipeline.manifest import MANIFEST_BYTES_MAX
from tradepost.protocol import MESSAGE_BYTES_MAX, JoinReply, JoinRequest, PipelineView
from tradepost.proxies import proxy_for
from tradepost_signing.bundles.bundle import PIPELINE_BUNDLES_BYTES_MAX
from tradepost_worker.link.network_rate import NetworkRate

T = TypeVar("T")

_CONNECT_S_MAX: Final = 10.0
_READ_S_MAX: Final = 30.0
#: A pipeline view is a manifest in base64 and its bundles, in which every quote is escaped.
_JSON_BYTES_MAX: Final = 2 * (MANIFEST_BYTES_MAX + PIPELINE_BUNDLES_BYTES_MAX)


class BrokerApi:
    """One broker, by its base URL. Use it within `async with`.

    Every method raises `BrokerUnavailable` when the broker cannot be reached, and what the broker answers.
    """

    def __init__(self, url: URL, *, rate: NetworkRate | None = None) -> None:
        self.url = url
        self._rate = rate or NetworkRate()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> BrokerApi:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S_MAX, sock_read=_READ_S_MAX)
        self._session = aiohttp.ClientSession(
            timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), proxy=proxy_for(self.url)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def join(self, request: JoinRequest) -> JoinReply:
        """Become a worker of this broker."""
        body = msgspec.json.encode(request)
        headers = {"Content-Type": "application/json"}
        async with self._request("POST", "v1/workers", data=body, headers=headers) as response:
            return _decode(await _read(response, _JSON_BYTES_MAX), JoinReply)

    async def public(self, path: str, kind: type[T], *, s_max: float) -> T:
        """What the broker tells everybody at `path`, as far as `kind` knows it, within `s_max` seconds."""
        try:
            async with asyncio.timeout(s_max), self._request("GET", path) as response:
                return _decode(await _read(response, _JSON_BYTES_MAX), kind)
        except TimeoutError:
            raise BrokerUnavailable(f"{self.url.origin()} does not answer within {s_max:g} s") from None

    async def date(self) -> str:
        """The broker's clock, as HTTP's Date header has it. Raises `ProtocolError` if it tells none."""
        async with self._request("GET", "healthz") as response:
            try:
                date = response.headers["Date"]
                parsedate_to_datetime(date)
            except (KeyError, ValueError):
                raise ProtocolError("the broker's answer has no Date header") from None
        return date

    async def pipeline(self, cid: str) -> PipelineView:
        """A published pipeline's manifest block and bundle, neither checked."""
        async with self._request("GET", f"v1/pipelines/{cid}") as response:
            return _decode(await _read(response, _JSON_BYTES_MAX), PipelineView)

    async def lease_block(self, lease: str, nonce: bytes, cid: Cid) -> bytes:
        """A block of a lease's input. Raises `ContentMismatch` for other bytes."""
        path = f"v1/leases/{lease}/blocks/{cid}"
        async with self._request("GET", path, headers=_authorization(nonce)) as response:
            data = await _read(response, BLOCK_BYTES_MAX)
        verify_block(cid, data, source=str(self.url.origin()))
        await self._rate.take(len(data))
        return data

    async def put_lease_block(self, lease: str, nonce: bytes, cid: Cid, data: bytes) -> None:
        """Upload a block of a lease's output."""
        await self._rate.take(len(data))
        path = f"v1/leases/{lease}/blocks/{cid}"
        async with self._request("PUT", path, data=data, headers=_authorization(nonce)):
            pass

    async def open_stream(self, worker: str, nonce: bytes) -> aiohttp.ClientWebSocketResponse:
        """The worker's WebSocket, on which the broker speaks first."""
        try:
            return await self._session.ws_connect(
                self.url / "v1/worker" % {"worker": worker, "nonce": nonce.hex()},
                max_msg_size=MESSAGE_BYTES_MAX,
                heartbeat=_READ_S_MAX,
                autoclose=True,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise_unavailable(self.url, error)

    @asynccontextmanager
    async def _request(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, self.url / path, **options) as response:
                await raise_for_problem(response)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise_unavailable(self.url, error)


def _authorization(nonce: bytes) -> dict[str, str]:
    return {"Authorization": f"Lease {nonce.hex()}"}


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The whole body. Raises `ContentTooLarge` as soon as it is over the cap."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > bytes_max:
            raise ContentTooLarge(f"{response.url.host} sent more than {bytes_max:,} bytes")
        parts.append(part)
    return b"".join(parts)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNDECODABLE as error:
        raise ProtocolError(f"the broker's {kind.__name__} is not valid: {error}") from None
