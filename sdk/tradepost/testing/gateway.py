"""A trustless gateway on loopback, over any store: for trying what fetches, without a broker or a network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from aiohttp import web

from tradepost.content import BlockReader, Cid
from tradepost.content.transfer.export import export_car
from tradepost.content.transfer.gateway import (
    GatewayRequest,
    is_unchanged,
    only_if_cached,
    read_probe,
    read_request,
    wanted_range,
)
from tradepost.content.unixfs.paths import resolve
from tradepost.errors import RangeNotSatisfiable, TradepostError, UnknownCid


class Gateway:
    """Serves the blocks of `store`, and counts in `asked` which blocks were asked for."""

    def __init__(self, store: BlockReader) -> None:
        self.asked: list[Cid] = []
        self._store = store

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Listen on loopback; gives the base URL."""
        app = web.Application()
        app.router.add_get("/ipfs/{path:.+}", self._get)  # and HEAD
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _get(self, http: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(http)
        except RangeNotSatisfiable as error:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{error.facts['size']}"})
        except TradepostError as error:
            if isinstance(error, UnknownCid) and only_if_cached(http.headers):
                return web.Response(status=412)
            return web.Response(status=error.status, text=error.diagnostics())

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        accept = http.headers.get("Accept", "")
        answer = read_probe(http.match_info["path"], http.query, accept)
        if answer is not None:
            return web.Response(body=answer[0], headers=answer[1])
        asked = read_request(http.match_info["path"], http.query, accept)
        end = await resolve(asked.root, asked.segments, self._block)
        headers = asked.headers(end)
        if is_unchanged(http.headers.get("If-None-Match"), headers["ETag"]):
            return web.Response(status=304, headers=headers)
        if asked.format == "car":
            return await self._car(http, asked, headers)
        return await self._raw(http, end, headers)

    async def _raw(self, http: web.Request, end: Cid, headers: dict[str, str]) -> web.Response:
        self.asked.append(end)
        block = await self._block(end)
        part = wanted_range(http.method, http.headers, headers["ETag"], len(block))
        if part is None:
            return web.Response(body=block, headers=headers)
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(block)}"
        return web.Response(status=206, body=block[part.start : part.stop], headers=headers)

    async def _car(
        self, http: web.Request, asked: GatewayRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        car = export_car(
            asked.root, asked.segments, self._block, scope=asked.scope, entity_bytes=asked.entity_bytes
        )
        response = web.StreamResponse(headers=headers)
        async with aclosing(car) as pieces:
            first = await anext(pieces)  # what is wrong with the path is found before anything is sent
            await response.prepare(http)
            if http.method == "GET":
                await response.write(first)
                await self._rest(http, response, pieces)
        return response

    async def _rest(
        self, http: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes]
    ) -> None:
        try:
            async for piece in pieces:
                await response.write(piece)
        except TradepostError:
            # The status is sent; all that can still be said is that the answer is not whole.
            if http.transport is not None:
                http.transport.abort()

    async def _block(self, cid: Cid) -> bytes:
        return self._store.get(cid)
