"""A worker that speaks the real protocol, proves a real key and signs real receipts for made-up results."""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import numpy as np
from yarl import URL

from tradepost import identity
from tradepost.broker_url import raise_for_problem
from tradepost.content import Cid, add_bytes, parse_cid, read_file
from tradepost.errors import ProtocolError, RunnerFailed, TradepostError
from tradepost.identity import Identity
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    VERSION,
    Acknowledged,
    Capabilities,
    Challenge,
    Deliver,
    GiveBack,
    GiveBackReason,
    Grant,
    Hello,
    JoinReply,
    JoinRequest,
    Offer,
    Recall,
    Refused,
    ToBrokerFromWorker,
    ToWorker,
    Welcome,
    worker_codec,
)
from tradepost.receipts import (
    Failed,
    LeaseOutcome,
    Preempted,
    Receipt,
    Returned,
    SignedReceipt,
    StageReport,
    document_hash,
    sign_receipt,
)

F = TypeVar("F")

#: Given an input document, the output document, or how the pipeline failed.
Script = Callable[[bytes], bytes | Failed]

#: Seconds to wait for a frame: one that has not come by then never will, even on a busy machine.
WAIT_S_MAX: Final = 180.0
STAGES: Final = ("scale", "double")


def echo(document: bytes) -> bytes:
    """The honest result of the sample pipeline: each number doubled."""
    return encode(TensorDocument({"y": decode(document)["x"] * np.float32(2)}))


def wrong_echo(document: bytes) -> bytes:
    """A false result of the sample pipeline, which only another run tells from the honest one."""
    return encode(TensorDocument({"y": decode(echo(document))["y"] + np.float32(1)}))


class FakeWorker:
    """One device. Frames from the broker wait in order until `expect` takes them.

    With `serve` it answers every grant by `script` on its own. A `shortcut` is what it did instead of all
    stages but the last: their outputs are others than an honest run's. Its last stage
    `commits_to` the output of another script than it returns, if there is one.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        script: Script = echo,
        price: int = 1_000,
        capacity: int = 64,
        key: Identity | None = None,
        stages: tuple[str, ...] = STAGES,
        shortcut: str = "",
        commits_to: Script | None = None,
        version: int = VERSION,
    ) -> None:
        self._session = session
        self._url = URL(url)
        self.script = script
        self.key = key or Identity.generate()
        self.stages = stages
        self.shortcut = shortcut
        self.commits_to = commits_to
        self.version = version
        self.offer = Offer(
            price_per_unit_microcredits=price,
            capacity=capacity,
            capabilities=Capabilities(
                cores=4, memory_bytes=64 << 30, providers=("cpu",), engines={"fake": "1"}
            ),
        )
        self.broker = ""
        self.welcome: Welcome | None = None
        #: Leases in hand, and what was delivered for them, until the broker has acknowledged it.
        self.unfinished: dict[str, Grant] = {}
        self.undelivered: dict[str, Deliver] = {}
        self.frames: deque[ToWorker] = deque()
        self._arrived = asyncio.Condition()
        self._codec = worker_codec()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self._serving = False

    @property
    def id(self) -> str:
        """The worker's id."""
        return self.key.id

    async def join(self, token: str, *, device: str = "fake") -> JoinReply:
        """Become a worker on this token. Raises what the broker refuses with."""
        request = JoinRequest(
            token=token,
            public_key=self.key.public_key,
            signature=self.key.sign("join", token.encode()),
            device=device,
        )
        async with self._session.post(
            self._url / "v1/workers", data=msgspec.json.encode(request)
        ) as response:
            await raise_for_problem(response)
            joined = msgspec.json.decode(await response.read(), type=JoinReply)
        self.broker = joined.broker
        return joined

    async def connect(self, *, serve: bool = False) -> Welcome:
        """Open the stream, holding what is unfinished; what was not acknowledged is delivered again.

        Raises the error with which the broker refuses.
        """
        self._serving = serve
        nonce = secrets.token_bytes(16)
        url = self._url / "v1/worker" % {"worker": self.id, "nonce": nonce.hex()}
        self._socket = await self._session.ws_connect(url, max_msg_size=MESSAGE_BYTES_MAX)
        challenge = await self._first(Challenge)
        identity.verify(challenge.public_key, "challenge", nonce + challenge.nonce, challenge.signature)
        hello = Hello(
            version=self.version,
            public_key=self.key.public_key,
            signature=self.key.sign("hello", challenge.nonce + nonce),
            offer=self.offer,
            open_leases=tuple(self.unfinished),
        )
        await self.send(hello)
        self.welcome = await self._first(Welcome)
        self._reading = asyncio.create_task(self._read())
        if self.undelivered:
            await self.send(*self.undelivered.values())
        return self.welcome

    async def disconnect(self) -> None:
        """Close the stream."""
        if self._socket is not None:
            await self._socket.close()
        if self._reading is not None:
            await self._reading
            self._reading = None

    async def vanish(self) -> None:
        """Break the connection without a word, as a power cut would."""
        assert self._socket is not None
        response = self._socket._response
        if response.connection is not None and response.connection.transport is not None:
            response.connection.transport.abort()
        if self._reading is not None:
            await self._reading
            self._reading = None

    async def expect(self, kind: type[F]) -> F:
        """The next frame of this kind; those before it are dropped.

        Raises `TimeoutError` after `WAIT_S_MAX`.
        """
        async with asyncio.timeout(WAIT_S_MAX), self._arrived:
            while True:
                await self._arrived.wait_for(lambda: self.frames)
                frame = self.frames.popleft()
                if isinstance(frame, kind):
                    return frame

    async def arrival(self, kind: type[ToWorker]) -> None:
        """Wait until a frame of this kind is there for `expect`. Raises `TimeoutError` after `WAIT_S_MAX`."""
        async with asyncio.timeout(WAIT_S_MAX), self._arrived:
            await self._arrived.wait_for(lambda: any(isinstance(frame, kind) for frame in self.frames))

    async def closed(self) -> None:
        """Wait until the broker has ended the stream."""
        if self._reading is not None:
            await self._reading

    async def send(self, *frames: ToBrokerFromWorker) -> None:
        """Send frames in one message."""
        assert self._socket is not None
        await self._socket.send_bytes(self._codec.encode(list(frames)))

    async def answer(self, grant: Grant, **changes: Any) -> Deliver:
        """Run the script on a grant and deliver. `changes` are fields of the receipt to falsify."""
        frame = self.delivery(grant, await self.fetch_input(grant), **changes)
        await self.send(frame)
        return frame

    def delivery(self, grant: Grant, document: bytes, **changes: Any) -> Deliver:
        """The frame that delivers what the script makes of `document`."""
        result = self.script(document)
        outcome: LeaseOutcome
        if isinstance(result, Failed):
            outcome, output = result, None
            done = self.stages[: self.stages.index(result.stage)]
        else:
            outcome = Returned(output=add_bytes(result, put=None), output_bytes=len(result))
            output, done = result, self.stages
        stages = self._reports(done, document, output or b"")
        signed = self._signed(grant, document, outcome, stages, changes)
        is_inline = output is None or len(output) <= INLINE_BYTES_MAX
        frame = Deliver(lease=grant.lease, receipt=signed, output=output if is_inline else None)
        self.undelivered[grant.lease] = frame
        return frame

    def preemption(self, grant: Grant, document: bytes, *, done: int, **changes: Any) -> GiveBack:
        """The frame that gives a lease back for its owner, with `done` stages of it."""
        result = self.script(document)
        stages = self._reports(self.stages[:done], document, b"" if isinstance(result, Failed) else result)
        return GiveBack(
            lease=grant.lease,
            reason=GiveBackReason.PREEMPTED,
            problem=RunnerFailed("its owner wants the device").to_problem(),
            receipt=self._signed(grant, document, Preempted(), stages, changes),
        )

    def _signed(
        self,
        grant: Grant,
        document: bytes,
        outcome: LeaseOutcome,
        stages: tuple[StageReport, ...],
        changes: dict[str, Any],
    ) -> SignedReceipt:
        receipt = Receipt(
            broker=self.broker,
            job=grant.job,
            lease=grant.lease,
            attempt=grant.attempt,
            worker=self.id,
            pipeline=grant.pipeline,
            input=grant.input_cid or add_bytes(document, put=None),
            outcome=outcome,
            stages=stages,
            engines={"fake": "1"},
            nonce=grant.nonce,
            expires_at=grant.expires_at,
        )
        return sign_receipt(msgspec.structs.replace(receipt, **changes), self.key)

    def _reports(self, done: Sequence[str], document: bytes, output: bytes) -> tuple[StageReport, ...]:
        """Each stage, said to take a millisecond: the last gives `output`, others depend on `document`."""
        if self.commits_to is not None and isinstance(committed := self.commits_to(document), bytes):
            output = committed
        return tuple(
            StageReport(
                stage=stage,
                output=document_hash(
                    output if stage == self.stages[-1] else f"{stage}{self.shortcut}".encode() + document
                ),
                wall_us=1000,
            )
            for stage in done
        )

    async def fetch_input(self, grant: Grant) -> bytes:
        """A grant's input: inline, or as blocks."""
        if grant.input is not None:
            return grant.input

        async def get(cid: Cid) -> bytes:
            return await self.fetch_block(grant, cid)

        return await read_file(parse_cid(grant.input_cid or ""), get, bytes_max=1 << 30)

    async def fetch_block(self, grant: Grant, cid: str) -> bytes:
        """A block that the broker gives out for this grant."""
        async with self._session.get(self._block(grant, cid), headers=_authorization(grant)) as response:
            await raise_for_problem(response)
            return await response.read()

    async def upload_output(self, grant: Grant, output: bytes) -> None:
        """Send an output that is too large for its frame, block by block."""
        blocks: list[tuple[Cid, bytes]] = []
        add_bytes(output, put=lambda cid, data: blocks.append((cid, data)))
        for cid, data in blocks:
            async with self._session.put(
                self._block(grant, cid), data=io.BytesIO(data), headers=_authorization(grant)
            ) as response:
                await raise_for_problem(response)

    def _block(self, grant: Grant, cid: str) -> URL:
        return self._url / f"v1/leases/{grant.lease}/blocks/{cid}"

    async def _first(self, kind: type[F]) -> F:
        assert self._socket is not None
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise ConnectionError(f"the broker closed the stream: {message.data} {message.extra}")
        (frame,) = self._codec.decode(message.data)
        if isinstance(frame, Refused):
            raise TradepostError.from_problem(frame.problem)
        if not isinstance(frame, kind):
            raise ProtocolError(f"the broker sent {type(frame).__name__} first")
        return frame

    async def _read(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(ConnectionError):
            async for message in self._socket:
                await self._take(self._codec.decode(message.data))

    async def _take(self, frames: list[ToWorker]) -> None:
        answers: list[ToBrokerFromWorker] = []
        for frame in frames:
            if isinstance(frame, Grant):
                self.unfinished[frame.lease] = frame
                if self._serving:
                    answers.append(await self._serve(frame))
            elif isinstance(frame, Acknowledged | Recall):
                self.unfinished.pop(frame.lease, None)
                self.undelivered.pop(frame.lease, None)
        if answers:
            with contextlib.suppress(ConnectionError):  # sent again after the next connection
                await self.send(*answers)
        async with self._arrived:
            self.frames.extend(frames)
            self._arrived.notify_all()

    async def _serve(self, grant: Grant) -> Deliver:
        """The frame that delivers a grant, once an output that is too large for it was uploaded."""
        document = await self.fetch_input(grant)
        frame = self.delivery(grant, document)
        if frame.output is None and isinstance(output := self.script(document), bytes):
            await self.upload_output(grant, output)
        return frame


def _authorization(grant: Grant) -> dict[str, str]:
    return {"Authorization": f"Lease {grant.nonce.hex()}"}
