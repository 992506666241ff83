"""A broker for tests of workers: the real protocol and endpoints, scripted, without a market.

It welcomes any worker that proves its key, serves the pipelines it was given, and keeps what workers send.
`acknowledges`, `impostor`, `refusal`, `upload_errors` and `drop` script the unhappy paths.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from typing import Any, TypeVar

import msgspec
from aiohttp import WSMsgType, web

from tradepost import identity
from tradepost.content import Cid, verify_block
from tradepost.errors import TradepostError, Unauthorized, UnknownCid, UnknownPipeline
from tradepost.identity import Identity
from tradepost.protocol import (
    Acknowledged,
    Challenge,
    Deliver,
    GiveBack,
    Grant,
    Heartbeat,
    Hello,
    JoinReply,
    JoinRequest,
    Offer,
    PipelineView,
    Refused,
    ToBrokerFromWorker,
    ToWorker,
    UpdateOffer,
    Welcome,
    broker_codec_for_workers,
)
from tradepost_signing.keys import SigningKey
from tradepost_worker.testing.samples import SamplePipeline

Frame = TypeVar("Frame", bound=ToBrokerFromWorker)


class FakeBroker:
    """A scripted broker for one worker at a time. `app` is its aiohttp application.

    `operator` signs revocation lists, if anybody may revoke. `blocks` are the published ones, `lease_blocks`
    those of leases' inputs and outputs. `hellos` are those of every connection, `offers` the newest first;
    `challenged` has an entry for each connection that was opened, and `messages` counts the WebSocket
    messages that came.
    """

    def __init__(self) -> None:
        self.identity = Identity.generate()
        self.publisher = SigningKey.generate()
        self.operator: SigningKey | None = SigningKey.generate()
        self.blocks: dict[Cid, bytes] = {}
        self.lease_blocks: dict[tuple[str, str], bytes] = {}
        self.pipelines: dict[str, PipelineView] = {}
        self.hellos: list[Hello] = []
        self.messages = 0
        self.acknowledges = True
        self.impostor: Identity | None = None
        self.refusal: TradepostError | None = None
        self.upload_errors: list[TradepostError] = []
        self.held: set[str] = set()
        #: What a welcome names although the worker did not, as a broker of another version could.
        self.named_besides: tuple[str, ...] = ()
        self.connected = asyncio.Event()
        self.challenged: asyncio.Queue[None] = asyncio.Queue()
        self.offers: asyncio.LifoQueue[Offer] = asyncio.LifoQueue()
        self._nonces: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self._codec = broker_codec_for_workers()
        self._received: asyncio.Queue[ToBrokerFromWorker] = asyncio.Queue()
        self._socket: web.WebSocketResponse | None = None
        self.app = web.Application(client_max_size=4 << 20, middlewares=[_problems])
        self.app.add_routes(
            [
                web.get("/v1/worker", self._stream),
                web.post("/v1/workers", self._join),
                web.get("/healthz", self._healthy),
                web.get("/v1/pipelines/{cid}", self._pipeline),
                web.get("/ipfs/{cid}", self._block),
                web.get("/v1/leases/{lease}/blocks/{cid}", self._lease_block),
                web.put("/v1/leases/{lease}/blocks/{cid}", self._put_lease_block),
            ]
        )

    @property
    def token(self) -> str:
        """A join token that it takes."""
        return f"tpj_0123456789abcdef.{self.identity.id}"

    def publish(self, sample: SamplePipeline) -> None:
        """Serve a pipeline, signed by `publisher`."""
        self.pipelines[sample.cid] = sample.view(self.publisher)
        self.blocks |= sample.blocks

    def grant(self, sample: SamplePipeline, document: bytes | None, **changes: Any) -> Grant:
        """A grant of a fresh lease, not sent yet."""
        number = next(self._numbers)
        nonce = secrets.token_bytes(16)
        grant = Grant(
            lease=f"lease-{number}",
            job=f"job-{number}",
            attempt=1,
            pipeline=sample.cid,
            nonce=nonce,
            expires_at=int(time.time()) + 60,
            price_microcredits=1000,
            input=document,
        )
        self._nonces[grant.lease] = nonce
        return msgspec.structs.replace(grant, **changes)

    async def send(self, *frames: ToWorker) -> None:
        """Send frames in one message to the worker that is connected; granted leases are held open."""
        self.held.update(frame.lease for frame in frames if isinstance(frame, Grant))
        assert self._socket is not None
        await self._socket.send_bytes(self._codec.encode(list(frames)))

    async def next(self, kind: type[Frame], *, s_max: float = 20.0) -> Frame:
        """The worker's next frame, offers and heartbeats aside, which must be of this kind."""
        async with asyncio.timeout(s_max):
            frame = await self._received.get()
        assert isinstance(frame, kind), frame
        return frame

    async def drop(self) -> None:
        """Break the connection as a network does, and wait until it is gone."""
        assert self._socket is not None
        self.connected.clear()
        await self._socket.close()

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=8 << 20)
        await socket.prepare(request)
        worker_nonce = bytes.fromhex(request.query["nonce"])
        nonce = secrets.token_bytes(16)
        signer = self.impostor or self.identity
        self.challenged.put_nowait(None)
        challenge = Challenge(
            public_key=self.identity.public_key,
            nonce=nonce,
            signature=signer.sign("challenge", worker_nonce + nonce),
        )
        await socket.send_bytes(self._codec.encode([challenge]))
        async for message in socket:
            if message.type is not WSMsgType.BINARY:
                break
            for frame in self._codec.decode(message.data):
                if isinstance(frame, Hello):
                    await self._admit(socket, frame, nonce + worker_nonce)
                elif isinstance(frame, UpdateOffer):
                    self.offers.put_nowait(frame.offer)
                elif not isinstance(frame, Heartbeat):
                    await self._take(frame)
            self.messages += 1
        self.connected.clear()
        return socket

    async def _admit(self, socket: web.WebSocketResponse, hello: Hello, nonces: bytes) -> None:
        identity.verify(hello.public_key, "hello", nonces, hello.signature)
        self.hellos.append(hello)
        if self.refusal is not None:
            await socket.send_bytes(self._codec.encode([Refused(problem=self.refusal.to_problem())]))
            await socket.close()
            return
        self._socket = socket
        named = (lease for lease in hello.open_leases if lease in self.held)
        welcome = Welcome(worker=identity.key_id(hello.public_key), leases=(*named, *self.named_besides))
        await socket.send_bytes(self._codec.encode([welcome]))
        self.connected.set()

    async def _take(self, frame: ToBrokerFromWorker) -> None:
        self._received.put_nowait(frame)
        if isinstance(frame, Deliver | GiveBack) and self.acknowledges:
            self.held.discard(frame.lease)
            await self.send(Acknowledged(lease=frame.lease))

    async def _join(self, request: web.Request) -> web.Response:
        join = msgspec.json.decode(await request.read(), type=JoinRequest)
        identity.verify(join.public_key, "join", join.token.encode(), join.signature)
        reply = JoinReply(
            worker=identity.key_id(join.public_key),
            owner="owner",
            broker=self.identity.id,
            stake_microcredits=5_000_000,
            revocations_key=self.operator.public_key.pem.decode() if self.operator else "",
        )
        return web.Response(body=msgspec.json.encode(reply), status=201, content_type="application/json")

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _pipeline(self, request: web.Request) -> web.Response:
        view = self.pipelines.get(request.match_info["cid"])
        if view is None:
            raise UnknownPipeline
        return web.Response(body=msgspec.json.encode(view), content_type="application/json")

    async def _block(self, request: web.Request) -> web.Response:
        return _found(self.blocks.get(Cid(request.match_info["cid"])))

    async def _lease_block(self, request: web.Request) -> web.Response:
        lease = self._authorized_lease(request)
        return _found(self.lease_blocks.get((lease, request.match_info["cid"])))

    async def _put_lease_block(self, request: web.Request) -> web.Response:
        lease, cid = self._authorized_lease(request), request.match_info["cid"]
        data = await request.read()
        if self.upload_errors:
            raise self.upload_errors.pop(0)
        verify_block(cid, data, source="the worker")
        self.lease_blocks[lease, cid] = data
        return web.Response(status=204)

    def _authorized_lease(self, request: web.Request) -> str:
        lease = request.match_info["lease"]
        if request.headers.get("Authorization") != f"Lease {self._nonces[lease].hex()}":
            raise Unauthorized("not this lease's nonce")
        return lease


def _found(data: bytes | None) -> web.Response:
    if data is None:
        raise UnknownCid
    return web.Response(body=data, content_type="application/octet-stream")


@web.middleware
async def _problems(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except TradepostError as error:
        body = msgspec.json.encode(error.to_problem())
        return web.Response(body=body, status=error.status, content_type="application/problem+json")
    return response
