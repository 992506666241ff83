"""The IPFS trustless gateway: blocks and CARs of published pipelines, for anyone's tools to fetch and check.

What is public is decided for each block by itself, also for those on the way along a path: a link to a block
opens nothing. CARs are made block by block, as fast as they are read; whoever stops reading is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from aiohttp import web

from tradepost.content.cids import Cid
from tradepost.content.export import export_car
from tradepost.content.gateway import RAW_TYPE, GatewayRequest, is_unchanged, read_range, read_request
from tradepost.content.paths import resolve
from tradepost.errors import QuotaExceeded, TradepostError
from tradepost_broker.endpoints import Endpoint
from tradepost_broker.uploads import Uploads

#: CARs that are sent at once; each keeps the CIDs that it has sent in memory.
_CARS_MAX: Final = 64
#: How long a reader may take for one piece of a CAR, which is a block or two.
_PIECE_S_MAX: Final = 60.0

log = logging.getLogger(__name__)


class GatewayEndpoints:
    """`/ipfs/…`. Inputs and outputs of jobs are never served here: knowing a CID gives access to nothing."""

    def __init__(self, *, uploads: Uploads) -> None:
        self._uploads = uploads
        self._cars = 0

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        block, below, route = "/ipfs/{cid}", "/ipfs/{cid}/{path}", "/ipfs/{cid}/{path:.*}"
        return [
            Endpoint(method="GET", path=block, handler=self.get, reply=bytes, media=RAW_TYPE),
            Endpoint(method="HEAD", path=block, handler=self.get),
            Endpoint(method="GET", path=below, route=route, handler=self.get, reply=bytes, media=RAW_TYPE),
            Endpoint(method="HEAD", path=below, route=route, handler=self.get),
        ]

    async def get(self, http: web.Request) -> web.StreamResponse:
        """A block or a CAR of a published pipeline, as an IPFS trustless gateway serves it.

        `?format=raw|car`, or `Accept`, says which. A CAR takes `dag-scope=block|entity|all` and
        `entity-bytes=from:to`; a block takes a `Range` header.
        """
        path = f"{http.match_info['cid']}/{http.match_info.get('path', '')}"
        asked = read_request(path, http.query, http.headers.get("Accept", ""))
        end = await resolve(asked.root, asked.segments, self._uploads.read_public)
        self._uploads.require_public(end)
        headers = asked.headers(end)
        if is_unchanged(http.headers.get("If-None-Match"), headers["ETag"]):
            return web.Response(status=304, headers=headers)
        if asked.format == "car":
            return await self._send_car(http, asked, headers)
        return await self._raw(http, end, headers)

    async def _raw(self, http: web.Request, end: Cid, headers: dict[str, str]) -> web.Response:
        block = await self._uploads.read_public(end)
        part = read_range(http.headers.get("Range"), len(block))
        if part is None:
            return web.Response(body=block, headers=headers)
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(block)}"
        return web.Response(status=206, body=block[part.start : part.stop], headers=headers)

    async def _send_car(
        self, http: web.Request, asked: GatewayRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        if self._cars == _CARS_MAX:
            raise QuotaExceeded(f"{_CARS_MAX} CARs are being sent; ask again, or ask for blocks")
        car = export_car(
            asked.root,
            asked.segments,
            self._uploads.read_public,
            scope=asked.scope,
            entity_bytes=asked.entity_bytes,
        )
        response = web.StreamResponse(headers=headers)
        self._cars += 1
        try:
            async with aclosing(car) as pieces:
                first = await anext(pieces)  # what is wrong with the path is found before anything is sent
                await response.prepare(http)
                if http.method == "GET":
                    await _write_all(http, response, first, pieces)
        finally:
            self._cars -= 1
        return response


async def _write_all(
    http: web.Request, response: web.StreamResponse, first: bytes, rest: AsyncGenerator[bytes, None]
) -> None:
    try:
        await _write(response, first)
        async for piece in rest:
            await _write(response, piece)
    except (TradepostError, TimeoutError) as error:
        # The status is sent; all that can still be said is that the answer is not whole.
        cid = http.match_info["cid"]
        reason = str(error) or "nobody read it"
        log.warning("CAR of %s was cut off: %s", cid, reason, extra={"action": "car_cut", "cid": cid})
        if http.transport is not None:
            http.transport.abort()


async def _write(response: web.StreamResponse, piece: bytes) -> None:
    async with asyncio.timeout(_PIECE_S_MAX):
        await response.write(piece)
