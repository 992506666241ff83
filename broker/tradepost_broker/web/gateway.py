"""The IPFS trustless gateway: blocks and CARs of published pipelines, for anyone's tools to fetch and check.

What is public is decided for each block by itself, also for those on the way along a path: a link to a block
opens nothing. CARs are made block by block, as fast as they are read. Readers may be slow and many, so what
is on its way to them is bounded, in all and to each address; a peer that reads too slowly is cut off.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from tradepost.content.ipld.cids import Cid
from tradepost.content.transfer.export import export_car
from tradepost.content.transfer.gateway import (
    RAW_TYPE,
    GatewayRequest,
    is_unchanged,
    only_if_cached,
    read_probe,
    read_request,
    wanted_range,
)
from tradepost.content.unixfs.paths import resolve
from tradepost.errors import UnknownCid
from tradepost_broker.access.caller_limits import ConcurrencyLimit
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.web.caller_addresses import caller_group
from tradepost_broker.web.endpoints import Endpoint
from tradepost_broker.web.slow_peers import send, send_pieces

#: CARs that are sent at once, each of which keeps in memory the CIDs that it has sent; to one address.
_CARS_MAX: Final = 64
_CARS_EACH_MAX: Final = 16
#: Bytes of blocks that wait in memory for their readers; for those at one address.
_BLOCK_BYTES_MAX: Final = 256 << 20
_BLOCK_BYTES_EACH_MAX: Final = 64 << 20


class GatewayEndpoints:
    """`/ipfs/…`. Inputs and outputs of jobs are never served here: knowing a CID gives access to nothing."""

    def __init__(self, *, uploads: Uploads) -> None:
        self._uploads = uploads
        self._cars = ConcurrencyLimit("CARs sent at once", total=_CARS_MAX, each=_CARS_EACH_MAX)
        self._block_bytes = ConcurrencyLimit(
            "bytes of blocks sent at once", total=_BLOCK_BYTES_MAX, each=_BLOCK_BYTES_EACH_MAX
        )

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
        try:
            return await self._answer(http)
        except UnknownCid:
            if not only_if_cached(http.headers):
                raise
            return web.Response(status=412)

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        path = f"{http.match_info['cid']}/{http.match_info.get('path', '')}"
        if (answer := read_probe(path, http.query, http.headers.get("Accept", ""))) is not None:
            return web.Response(body=answer[0], headers=answer[1])
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
        part = wanted_range(http.method, http.headers, headers["ETag"], len(block))
        if part is None:
            response = web.Response(body=block, headers=headers)
        else:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(block)}"
            response = web.Response(status=206, body=block[part.start : part.stop], headers=headers)
        with self._block_bytes.take(caller_group(http), len(block)):
            await send(http, response)
        return response

    async def _send_car(
        self, http: web.Request, asked: GatewayRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        car = export_car(
            asked.root,
            asked.segments,
            self._uploads.read_public,
            scope=asked.scope,
            entity_bytes=asked.entity_bytes,
        )
        response = web.StreamResponse(headers=headers)
        with self._cars.take(caller_group(http)):
            await send_pieces(
                http, response, car
            )  # what is wrong with the path shows before anything is sent
        return response
