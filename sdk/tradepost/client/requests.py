"""The client's REST requests, each repeated while the broker cannot be reached.

Every request here may be repeated: it reads, cancels a job, or stores a block under its own hash.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Final, TypeVar

import aiohttp
import msgspec
from yarl import URL

from tradepost.broker_url import endpoint, is_permanent, raise_for_problem, raise_unavailable
from tradepost.client.retries import Retries
from tradepost.errors import UNDECODABLE, BrokerUnavailable, ClientClosed, ProtocolError

T = TypeVar("T")

#: What a proxy answers while the broker behind it restarts.
_STATUSES_TRANSIENT: Final = (502, 503, 504)
#: Requests under way at once. The others wait their turn, which is no silence of the broker.
_AT_ONCE: Final = 32


class BrokerRequests:
    """Requests of one account. Use within one event loop."""

    def __init__(
        self, *, session: aiohttp.ClientSession, url: URL, headers: dict[str, str], give_up_s: float
    ) -> None:
        self._session = session
        self._url = url
        self._headers = headers
        self._give_up_s = give_up_s
        self._may_ask = asyncio.Semaphore(_AT_ONCE)
        self._heard_at = -math.inf

    async def ask_for(
        self,
        kind: type[T],
        method: str,
        path: str,
        *ids: str,
        query: Mapping[str, str] | None = None,
        body: msgspec.Struct | None = None,
    ) -> T:
        """The reply as a struct; `body` is sent as JSON.

        Raises as `ask` does, and `ProtocolError` for another reply.
        """
        data = None if body is None else msgspec.json.encode(body)
        answer = await self.ask(method, path, *ids, data=data, query=query)
        try:
            return msgspec.json.decode(answer, type=kind)
        except UNDECODABLE as error:
            raise ProtocolError(
                f"the reply to {method} /{path.format(*ids)} is not as expected: {error}"
            ) from None

    async def ask(
        self,
        method: str,
        path: str,
        *ids: str,
        data: bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of the reply; `path` has a `{}` for each of `ids`.

        Raises the error that the broker answers, or `BrokerUnavailable` after `give_up_s` without an answer.
        """
        url = endpoint(self._url, path, *ids)
        clock = asyncio.get_running_loop().time
        retries = Retries(give_up_s=self._give_up_s, clock=clock)
        while True:
            if self._session.closed:
                raise ClientClosed
            try:
                async with self._may_ask:
                    retries.heard(self._heard_at)
                    answer = await self._ask_once(method, url, data, query, answer_s=retries.answer_s())
                if isinstance(answer, bytes):
                    self._heard_at = clock()
                    return answer
                if retries.is_over:
                    raise answer
            except (aiohttp.ClientError, OSError) as error:
                if retries.is_over or is_permanent(error):
                    raise_unavailable(self._url, error)
            await asyncio.sleep(retries.pause_s())

    async def _ask_once(
        self, method: str, url: URL, data: bytes | None, query: Mapping[str, str] | None, *, answer_s: float
    ) -> bytes | BrokerUnavailable:
        """The body of the reply, or the failure that another try may mend."""
        # Each part of a large body may take this long, so the whole has no limit.
        silence_s = None if math.isinf(answer_s) else answer_s
        timeout = aiohttp.ClientTimeout(total=None, connect=silence_s, sock_read=silence_s)
        async with self._session.request(
            method, url, data=data, headers=self._headers, params=query, timeout=timeout
        ) as response:
            try:
                await raise_for_problem(response)
            except BrokerUnavailable as error:
                if response.status in _STATUSES_TRANSIENT:
                    return error
                raise
            return await response.read()
