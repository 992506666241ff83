"""Where blocks come from: a trustless gateway, a store, a Kubo daemon. None of them is believed.

A source gives the bytes of one block as they arrive; whoever asked hashes them. (Spec of the gateway:
specs.ipfs.tech/http-gateways/trustless-gateway.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
from yarl import URL

from tradepost.broker_url import is_loopback
from tradepost.content.cids import BLOCK_BYTES_MAX, Cid
from tradepost.content.store import BlockReader
from tradepost.errors import ContentMismatch, InsecureTransport, InvalidSettings, SourceFailed, UnknownCid

if TYPE_CHECKING:
    from tradepost.content.kubo import Kubo

_READ_BYTES: Final = 512 << 10
_KUBO_CALLS_MAX: Final = 16
#: What a gateway says for content that it does not have, or does not give.
_UNKNOWN: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS)


class Source(Protocol):
    """Anything that blocks can be asked of."""

    @property
    def name(self) -> str:
        """What people know it by."""
        ...

    def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The bytes of a block as they arrive, unverified. Raises `UnknownCid` or `SourceFailed`."""
        ...


class GatewaySource:
    """A trustless gateway: the broker, a public one, or one's own Kubo.

    `url` is its base, `https://` or on loopback. `headers` go with every request, for those who ask who is
    there. Redirects are not followed, and compressed answers are refused: a small one may stand for any
    amount.
    """

    def __init__(
        self, url: str, *, session: aiohttp.ClientSession, headers: Mapping[str, str] | None = None
    ) -> None:
        self._base = parse_gateway_url(url)
        self._session = session
        self._headers = {
            "Accept": "application/vnd.ipld.raw",
            "Accept-Encoding": "identity",
            **(headers or {}),
        }

    @property
    def name(self) -> str:
        """Its base URL."""
        return str(self._base)

    async def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The bytes of a block as they arrive, unverified. Raises `UnknownCid` or `SourceFailed`."""
        try:
            async with self._session.get(
                (self._base / "ipfs" / cid).with_query(format="raw"),
                headers=self._headers,
                allow_redirects=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),  # who asks keeps the time
                read_bufsize=_READ_BYTES,
            ) as response:
                self._check(response, cid)
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SourceFailed(f"{self.name}: {error or type(error).__name__}", source=self.name) from None

    def _check(self, response: aiohttp.ClientResponse, cid: Cid) -> None:
        problem = ""
        if response.status in _UNKNOWN:
            raise UnknownCid(f"{self.name} has no {cid}", cid=cid)
        if 300 <= response.status < 400:
            problem = f"redirects to {response.headers.get('Location', 'elsewhere')[:200]!r}"
        elif response.status != HTTPStatus.OK:
            problem = f"answered {response.status}"
        elif response.headers.get("Content-Encoding", "identity") != "identity":
            problem = "compresses, although asked not to"
        elif (response.content_length or 0) > BLOCK_BYTES_MAX:
            problem = f"announces a block of {response.content_length:,} bytes"
        if problem:
            raise SourceFailed(f"{self.name} {problem}", source=self.name)


class StoreSource:
    """A block store of this machine, such as another program's cache."""

    def __init__(self, store: BlockReader, *, name: str) -> None:
        self._store = store
        self.name = name

    async def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The bytes of a block. Raises `UnknownCid`, also for one that the disk changed."""
        try:
            yield await asyncio.to_thread(self._store.get, cid)
        except ContentMismatch as error:
            raise UnknownCid(error.detail, cid=cid) from None


class KuboSource:
    """A Kubo daemon at its RPC API, which asks its peers for what it does not have."""

    def __init__(self, kubo: Kubo) -> None:
        self._kubo = kubo
        self.name = kubo.name
        # A call cannot be called back, and may last as long as the peers take. On threads of their own, such
        # calls do not hold up whatever else waits for a thread, such as the store.
        self._threads = ThreadPoolExecutor(_KUBO_CALLS_MAX, thread_name_prefix="tradepost-kubo")

    async def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The bytes of a block. Raises `UnknownCid`, `ContentMismatch` or `KuboFailed`."""
        yield await asyncio.get_running_loop().run_in_executor(self._threads, self._kubo.get, cid)


def parse_gateway_url(text: str) -> URL:
    """The base URL. Raises `InvalidSettings`, or `InsecureTransport` for plain HTTP beyond loopback."""
    try:
        url = URL(text.rstrip("/"))
    except ValueError as error:
        raise InvalidSettings(f"gateway URL {text!r}: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.user:
        raise InvalidSettings(f"gateway URL {text!r}: give http(s)://host[:port]")
    if url.scheme == "http" and not is_loopback(url.host):
        raise InsecureTransport(f"{text} is not on this machine")
    return url
