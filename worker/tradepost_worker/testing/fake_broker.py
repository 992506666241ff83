"""A broker for tests of workers: the real protocol and endpoints, scripted, without a market.

It welcomes any worker that proves its key, serves the pipelines it was given, and keeps what workers send.
`acknowledges`, `impostor`, `refusal`, `upload_errors` and `drop` script the unhappy paths. Everything else it
answers like the real broker, but it decides nothing about a result: no `Settled` follows.
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
from tradepost.content import Cid, add_bytes, parse_cid, verify_upload
from tradepost.content.transfer.export import export_car
from tradepost.content.transfer.gateway import read_probe, read_request
from tradepost.content.unixfs.paths import resolve
from tradepost.errors import (
    InvalidJoinToken,
    InvalidKey,
    InvalidReceipt,
    InvalidRequest,
    InvalidSignature,
    LeaseGone,
    ProtocolError,
    TradepostError,
    Unauthorized,
    UnknownCid,
    UnknownPipeline,
)
from tradepost.identity import Identity
from tradepost.protocol import (
    VERSION,
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
    Recall,
    Refused,
    ToBrokerFromWorker,
    ToWorker,
    UpdateOffer,
    Welcome,
    broker_codec_for_workers,
)
from tradepost.receipts import SignedReceipt, verify_receipt
from tradepost.testing.fake_endpoints import fake_application, json_response, open_socket, read_json, refuse
from tradepost_signing.keys import SigningKey
from tradepost_worker.testing.samples import SamplePipeline

Frame = TypeVar("Frame", bound=ToBrokerFromWorker)

NONCE_BYTES = 16


class FakeBroker:
    """A scripted broker for one worker at a time. `app` is its aiohttp application.

    `operator` signs revocation lists, if anybody may revoke. With `admits_strangers`, workers need not join
    before they connect; with `takes_any_token`, it pretends to be the broker that issued it. `blocks` are
    the published ones, `lease_blocks` those of leases' inputs and outputs. `hellos` are those of every
    connection, `offers` the newest first; `challenged` has an entry for each connection that was opened, and
    `messages` counts the WebSocket messages that came.
    """

    def __init__(self) -> None:
        self.identity = Identity.generate()
        self.publisher = SigningKey.generate()
        self.operator: SigningKey | None = SigningKey.generate()
        self.blocks: dict[Cid, bytes] = {}
        self.lease_blocks: dict[tuple[str, str], bytes] = {}
        self.pipelines: dict[str, PipelineView] = {}
        self.hellos: list[Hello] = []
        #: The newest one.
        self.heartbeat: Heartbeat | None = None
        self.messages = 0
        #: Every frame but hellos, in order.
        self.arrived: list[ToBrokerFromWorker] = []
        self.admits_strangers = True
        self.takes_any_token = False
        self.acknowledges = True
        self.impostor: Identity | None = None
        self.refusal: TradepostError | None = None
        #: The evidence that it shows of every worker, newest first.
        self.evidence: list[dict[str, Any]] = []
        #: By how much the time that welcomes state is wrong.
        self.clock_ahead_s = 0.0
        self.upload_errors: list[TradepostError] = []
        self.held: set[str] = set()
        #: What a welcome names although the worker did not, as a broker of another version could.
        self.named_besides: tuple[str, ...] = ()
        self.connected = asyncio.Event()
        self.challenged: asyncio.Queue[None] = asyncio.Queue()
        self.offers: asyncio.LifoQueue[Offer] = asyncio.LifoQueue()
        self._grants: dict[str, Grant] = {}
        self._joined: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._codec = broker_codec_for_workers()
        self._received: asyncio.Queue[ToBrokerFromWorker] = asyncio.Queue()
        self._socket: web.WebSocketResponse | None = None
        self.app = fake_application(
            [
                web.get("/v1/worker", self._stream),
                web.post("/v1/workers", self._join),
                web.get("/v1/workers/{worker}", self._show_worker),
                web.get("/healthz", self._healthy),
                web.get("/v1/pipelines/{cid}", self._pipeline),
                web.get("/ipfs/{path:.+}", self._gateway),
                web.get("/v1/leases/{lease}/blocks/{cid}", self._lease_block),
                web.put("/v1/leases/{lease}/blocks/{cid}", self._put_lease_block),
            ]
        )

    @property
    def token(self) -> str:
        """The join token that it accepts, from one device."""
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
            expires_at=int(time.time()) + 600,
            left_s=600.0,
            price_microcredits=1000,
            input=document,
        )
        grant = msgspec.structs.replace(grant, **changes)
        self._grants[grant.lease] = grant
        return grant

    async def send(self, *frames: ToWorker) -> None:
        """Send frames in one message to the worker that is connected; granted leases are held open."""
        self.held.update(frame.lease for frame in frames if isinstance(frame, Grant))
        assert self._socket is not None
        await self._socket.send_bytes(self._codec.encode(list(frames)))

    async def next(self, kind: type[Frame], *, s_max: float = 180.0) -> Frame:
        """The worker's next frame, offers and heartbeats aside, which must be of this kind."""
        async with asyncio.timeout(s_max):
            frame = await self._received.get()
        assert isinstance(frame, kind), frame
        return frame

    async def newest_offer(self) -> Offer:
        """The newest offer; waits for one that came since the last call. Older ones are dropped."""
        offer = await self.offers.get()
        while not self.offers.empty():
            self.offers.get_nowait()
        return offer

    async def ping(self) -> None:
        """Ask the worker's device for a sign of life."""
        assert self._socket is not None
        await self._socket.ping()

    async def drop(self) -> None:
        """Break the connection as a network does, and wait until it is gone."""
        assert self._socket is not None
        self.connected.clear()
        await self._socket.close()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        worker, worker_nonce = self._worker_and_nonce(request)
        socket = await open_socket(request)
        try:
            hello = await self._handshake(socket, worker, worker_nonce)
            self.hellos.append(hello)
            if self.refusal is not None:
                raise self.refusal
            self._socket = socket
            await self._welcome(socket, hello)
            self.messages += 1
            self.connected.set()
            await self._converse(socket)
        except TradepostError as error:
            await refuse(socket, error, self._codec.encode([Refused(problem=error.to_problem())]))
        finally:
            if self._socket is socket:  # else another connection has replaced this one
                self.connected.clear()
        return socket

    def _worker_and_nonce(self, request: web.Request) -> tuple[str, bytes]:
        try:
            nonce = bytes.fromhex(request.query.get("nonce", ""))
        except ValueError:
            raise InvalidRequest("nonce is not hexadecimal") from None
        if len(nonce) != NONCE_BYTES:
            raise InvalidRequest(f"nonce has {len(nonce)} bytes; give {NONCE_BYTES}, as hexadecimal")
        worker = request.query.get("worker", "")
        if not self.admits_strangers and worker not in self._joined.values():
            raise Unauthorized(
                "this worker has not joined here", hint="Join with a token from the operator first."
            )
        return worker, nonce

    async def _handshake(self, socket: web.WebSocketResponse, worker: str, worker_nonce: bytes) -> Hello:
        nonce = secrets.token_bytes(NONCE_BYTES)
        signer = self.impostor or self.identity
        self.challenged.put_nowait(None)
        challenge = Challenge(
            public_key=self.identity.public_key,
            nonce=nonce,
            signature=signer.sign("challenge", worker_nonce + nonce),
        )
        await socket.send_bytes(self._codec.encode([challenge]))
        message = await socket.receive()
        frames = self._codec.decode(message.data) if message.type is WSMsgType.BINARY else []
        if len(frames) != 1 or not isinstance(hello := frames[0], Hello):
            raise ProtocolError("the first message has to be one hello")
        if hello.version != VERSION:
            raise ProtocolError(f"protocol version {hello.version}; this broker speaks {VERSION}")
        if identity.key_id(hello.public_key) != worker:
            raise Unauthorized(f"this is not the key that worker {worker} joined with")
        try:
            identity.verify(hello.public_key, "hello", nonce + worker_nonce, hello.signature)
        except InvalidKey as error:
            raise InvalidSignature(str(error)) from None
        return hello

    async def _welcome(self, socket: web.WebSocketResponse, hello: Hello) -> None:
        """Name the leases that the worker and this broker hold, grant the others again, recall the ended."""
        named = [lease for lease in hello.open_leases if lease in self.held]
        welcome = Welcome(
            worker=identity.key_id(hello.public_key),
            leases=(*named, *self.named_besides),
            at=time.time() + self.clock_ahead_s,
        )
        await socket.send_bytes(self._codec.encode([welcome]))
        frames: list[ToWorker] = [
            self._grants[lease] for lease in sorted(self.held) if lease not in hello.open_leases
        ]
        frames += [Recall(lease) for lease in hello.open_leases if lease not in self.held]
        if frames:
            await socket.send_bytes(self._codec.encode(frames))

    async def _converse(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is not WSMsgType.BINARY:
                raise ProtocolError(f"a {message.type.name} message; frames come in binary ones")
            for frame in self._codec.decode(message.data):
                if isinstance(frame, Hello):
                    raise ProtocolError("a Hello frame has no place here")
                self.arrived.append(frame)
                if isinstance(frame, UpdateOffer):
                    self.offers.put_nowait(frame.offer)
                elif isinstance(frame, Heartbeat):
                    self.heartbeat = frame
                else:
                    await self._take(frame)
            self.messages += 1

    async def _take(self, frame: ToBrokerFromWorker) -> None:
        self._received.put_nowait(frame)
        if isinstance(frame, Deliver | GiveBack) and self.acknowledges:
            problem = None
            try:
                self._check_end(frame)
            except TradepostError as error:
                problem = error.to_problem()
            self.held.discard(frame.lease)
            await self.send(Acknowledged(lease=frame.lease, problem=problem))

    def _check_end(self, frame: Deliver | GiveBack) -> None:
        """Raise `LeaseGone`, or `InvalidReceipt` for a receipt of something else than the lease."""
        grant = self._grants.get(frame.lease)
        if grant is None or frame.lease not in self.held:
            if isinstance(frame, GiveBack):
                return
            raise LeaseGone(f"lease {frame.lease} is not open", lease=frame.lease)
        if frame.receipt is not None:
            self._check_receipt(grant, frame.receipt)

    def _check_receipt(self, grant: Grant, signed: SignedReceipt) -> None:
        receipt = verify_receipt(signed)
        input_cid = grant.input_cid or add_bytes(grant.input or b"", put=None)
        named = (
            ("broker", receipt.broker, self.identity.id),
            ("job", receipt.job, grant.job),
            ("lease", receipt.lease, grant.lease),
            ("attempt", receipt.attempt, grant.attempt),
            ("pipeline", receipt.pipeline, grant.pipeline),
            ("input", receipt.input, input_cid),
            ("nonce", receipt.nonce, grant.nonce),
            ("expiry", receipt.expires_at, grant.expires_at),
        )
        for name, found, expected in named:
            if found != expected:
                raise InvalidReceipt(f"the receipt names another {name} than the lease")

    async def _join(self, request: web.Request) -> web.Response:
        join = await read_json(request, JoinRequest)
        try:
            identity.verify(join.public_key, "join", join.token.encode(), join.signature)
        except InvalidKey as error:
            raise InvalidSignature(f"the device's key: {error}") from None
        worker = identity.key_id(join.public_key)
        if join.token != self.token and not self.takes_any_token:
            raise InvalidJoinToken("it is unknown or expired")
        if self._joined.setdefault(join.token, worker) != worker:
            raise InvalidJoinToken("it was used by another device")
        reply = JoinReply(
            worker=worker,
            owner="owner",
            broker=self.identity.id,
            stake_microcredits=5_000_000,
            revocations_key=self.operator.public_key.pem.decode() if self.operator else "",
        )
        return json_response(reply, status=201)

    async def _show_worker(self, _: web.Request) -> web.Response:
        return json_response({"evidence": self.evidence})

    async def _healthy(self, _: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def _pipeline(self, request: web.Request) -> web.Response:
        cid = request.match_info["cid"]
        view = self.pipelines.get(cid)
        if view is None:
            raise UnknownPipeline(f"pipeline {cid} was not published here", pipeline=cid)
        return json_response(view)

    async def _gateway(self, request: web.Request) -> web.Response:
        path, accept = request.match_info["path"], request.headers.get("Accept", "")
        if (probe := read_probe(path, request.query, accept)) is not None:
            return web.Response(body=probe[0], headers=probe[1])
        asked = read_request(path, request.query, accept)
        end = await resolve(asked.root, asked.segments, self._public_block)
        if asked.format == "raw":
            return web.Response(body=await self._public_block(end), headers=asked.headers(end))
        car = export_car(
            asked.root,
            asked.segments,
            self._public_block,
            scope=asked.scope,
            entity_bytes=asked.entity_bytes,
        )
        return web.Response(body=b"".join([piece async for piece in car]), headers=asked.headers(end))

    async def _public_block(self, cid: Cid) -> bytes:
        if cid not in self.blocks:
            raise UnknownCid(f"{cid} is in no published pipeline", cid=cid)
        return self.blocks[cid]

    async def _lease_block(self, request: web.Request) -> web.Response:
        lease = self._open_lease(request)
        cid = parse_cid(request.match_info["cid"])
        data = self.lease_blocks.get((lease, cid))
        if data is None:
            raise UnknownCid(f"{cid} is not in the input of this lease", cid=cid)
        return web.Response(body=data, content_type="application/octet-stream")

    async def _put_lease_block(self, request: web.Request) -> web.Response:
        lease = self._open_lease(request)
        data = await request.read()
        if self.upload_errors:
            raise self.upload_errors.pop(0)
        cid = parse_cid(request.match_info["cid"])
        verify_upload(cid, data)
        self.lease_blocks[lease, cid] = data
        return json_response({"cid": cid}, status=201)

    def _open_lease(self, request: web.Request) -> str:
        """The lease whose nonce the request brings. Raises `Unauthorized` or `LeaseGone`."""
        scheme, _, nonce = request.headers.get("Authorization", "").partition(" ")
        grant = self._grants.get(request.match_info["lease"])
        if scheme.lower() != "lease" or grant is None:
            raise Unauthorized("there is no such lease, or no `Authorization: Lease` header")
        if nonce.strip() != grant.nonce.hex():
            raise Unauthorized("this is not the lease's nonce")
        if grant.lease not in self.held:
            raise LeaseGone(f"lease {grant.lease} is ended", lease=grant.lease)
        return grant.lease
