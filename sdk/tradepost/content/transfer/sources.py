"""Sources of blocks: a trustless gateway, a store, a Kubo daemon. Their blocks are untrusted.

A source gives the bytes of one block as they arrive; the caller hashes them. (Spec of the gateway:
specs.ipfs.tech/http-gateways/trustless-gateway.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol

import aiohttp

from tradepost.content.ipld.cids import BLOCK_BYTES_MAX, Cid
from tradepost.content.storage.store import BlockReader
from tradepost.content.transfer.kubo import DEFAULT_ADDRESS, is_unknown, rpc_url
from tradepost.errors import ContentMismatch, SourceFailed, UnknownCid
from tradepost.http_url import parse_http_url
from tradepost.proxies import proxy_for

_READ_BYTES: Final = 512 << 10
_PROBLEM_BYTES: Final = 1000
#: What a gateway says for content that it does not have, or does not give.
_UNKNOWN: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS)


class Source(Protocol):
    """An interface for sources of blocks."""

    @property
    def name(self) -> str:
        """What people know it by."""
        ...

    def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The bytes of a block as they arrive, unverified. Raises `UnknownCid` or `SourceFailed`."""
        ...


class GatewaySource:
    """A trustless gateway: the broker's, a public one, or a Kubo node's.

    `url` is its base, `https://` or on loopback. `headers` go with every request, for those who ask who is
    there. Redirects are not followed, and compressed answers are refused: a small one may stand for any
    amount.
    """

    def __init__(
        self, url: str, *, session: aiohttp.ClientSession, headers: Mapping[str, str] | None = None
    ) -> None:
        self._base = parse_http_url(url, of="gateway")
        self._ask = partial(session.get, proxy=proxy_for(self._base))
        self._headers = {"Accept": "application/vnd.ipld.raw", **(headers or {})}

    @property
    def name(self) -> str:
        """Its base URL."""
        return str(self._base)

    def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The bytes of a block as they arrive, unverified. Raises `UnknownCid` or `SourceFailed`."""
        url = (self._base / "ipfs" / cid).with_query(format="raw")
        return _body(partial(self._ask, url), self._headers, partial(self._check, cid), name=self.name)

    async def _check(self, cid: Cid, response: aiohttp.ClientResponse) -> None:
        if response.status in _UNKNOWN:
            raise UnknownCid(f"{self.name} does not have {cid}", cid=cid)


class KuboSource:
    """A Kubo daemon at its RPC API, which asks its peers for what it does not have. (Needs no extra.)

    `address` is as in `Kubo`. To stop waiting closes the connection, so that the daemon stops asking.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, session: aiohttp.ClientSession) -> None:
        self.name = f"kubo {address}"
        self._url = rpc_url(address) / "api/v0/block/get"
        self._ask = partial(session.post, proxy=proxy_for(self._url))

    def block(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The bytes of a block as they arrive, unverified. Raises `UnknownCid` or `SourceFailed`."""
        ask = partial(self._ask, self._url.with_query(arg=cid))
        return _body(ask, {}, partial(self._check, cid), name=self.name)

    async def _check(self, cid: Cid, response: aiohttp.ClientResponse) -> None:
        if response.status == HTTPStatus.INTERNAL_SERVER_ERROR:  # its one status for whatever goes wrong
            problem = (await response.content.read(_PROBLEM_BYTES)).decode(errors="replace")
            if is_unknown(problem):
                raise UnknownCid(f"{self.name}: {problem}", cid=cid)
            raise SourceFailed(f"{self.name}: {problem or response.status}", source=self.name)


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


async def _body(
    ask: Callable[..., Any],
    headers: Mapping[str, str],
    check: Callable[[aiohttp.ClientResponse], Awaitable[None]],
    *,
    name: str,
) -> AsyncGenerator[bytes, None]:
    """The body of an answer as it arrives, once `check` and the rules for every HTTP source let it pass."""
    try:
        async with ask(
            headers={"Accept-Encoding": "identity", **headers},
            allow_redirects=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),  # who asks keeps the time
            read_bufsize=_READ_BYTES,
        ) as response:
            await check(response)
            if problem := _problem(response):
                raise SourceFailed(f"{name} {problem}", source=name)
            async for chunk in response.content.iter_any():
                yield chunk
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise SourceFailed(f"{name}: {error or type(error).__name__}", source=name) from None


def _problem(response: aiohttp.ClientResponse) -> str:
    if 300 <= response.status < 400:
        return f"redirects to {response.headers.get('Location', 'elsewhere')[:200]!r}"
    if response.status != HTTPStatus.OK:
        return f"answered {response.status}"
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return "compresses its answer, which was not requested"
    if (response.content_length or 0) > BLOCK_BYTES_MAX:
        return f"announces a block of {response.content_length:,} bytes"
    return ""
