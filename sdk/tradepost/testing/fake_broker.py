"""A broker for tests of programs that use the SDK: the real protocol, one pretended worker, no market.

`FakeBroker` answers each job with what a function makes of the input document, under a receipt that a real
key signs. `refuse` and `hold` script the unhappy paths, `drop` breaks the connection as a network does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import WSMsgType, web

from tradepost.content import Cid, add_bytes, read_file
from tradepost.errors import JobCancelled, TradepostError, Unauthorized
from tradepost.identity import Identity
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost.protocol import (
    CancelJob,
    Finished,
    JobRequest,
    JobStatus,
    JobView,
    Rejected,
    Submit,
    Submitted,
    ToClient,
    Verification,
    Watch,
    broker_codec_for_clients,
)
from tradepost.receipts import Receipt, Returned, sign_receipt

API_KEY = "fake-key"
PRICE_MICROCREDITS = 1000


class FakeBroker:
    """A scripted broker. `app` is its aiohttp application; `requests` are the jobs it took, in order."""

    def __init__(self, compute: Callable[[TensorDocument], TensorDocument]) -> None:
        self._compute = compute
        self._codec = broker_codec_for_clients()
        self._worker = Identity.generate()
        self._sockets: set[web.WebSocketResponse] = set()
        self._jobs: dict[str, str] = {}
        self._views: dict[str, JobView] = {}
        self._watched: dict[str, web.WebSocketResponse] = {}
        self.requests: list[JobRequest] = []
        self.blocks: dict[Cid, bytes] = {}
        self.refuse: TradepostError | None = None
        self.hold = False
        self.silent = False
        self.url = ""
        self.connected = asyncio.Event()
        self.taken = asyncio.Event()
        self.app = web.Application(client_max_size=4 << 20)
        self.app.add_routes(
            [
                web.get("/v1/client", self._converse),
                web.put("/v1/blocks/{cid}", self._put_block),
                web.get("/v1/jobs/{job}/output", self._output),
            ]
        )

    async def drop(self) -> None:
        """Close every connection."""
        self.connected.clear()
        for socket in list(self._sockets):
            await socket.close()

    async def release(self) -> None:
        """Finish the jobs that `hold` kept."""
        self.hold = False
        for job in list(self._watched):
            await self._tell(job)

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {API_KEY}":
            problem = Unauthorized("this key is unknown").to_problem()
            return web.json_response(
                {"code": problem.code, "title": problem.title, "detail": problem.detail}, status=401
            )
        socket = web.WebSocketResponse(max_msg_size=8 << 20)
        await socket.prepare(request)
        self._sockets.add(socket)
        self.connected.set()
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    for frame in self._codec.decode(message.data):
                        await self._take(socket, frame)
        finally:
            self._sockets.discard(socket)
        return socket

    async def _take(self, socket: web.WebSocketResponse, frame: Submit | Watch | CancelJob) -> None:
        if isinstance(frame, CancelJob):
            view = self._views[frame.job]
            self._views[frame.job] = JobView(
                job=view.job,
                status=JobStatus.CANCELLED,
                pipeline=view.pipeline,
                submitted_at=view.submitted_at,
                problem=JobCancelled().to_problem(),
            )
            await self._send(socket, Finished(self._views[frame.job]))
        elif isinstance(frame, Watch):
            for job in frame.jobs:
                self._watched[job] = socket
                if not self.hold:
                    await self._tell(job)
        elif self.refuse is not None:
            await self._send(socket, Rejected(frame.ref, self.refuse.to_problem()))
        else:
            job = await self._accept(frame.request)
            self._watched[job] = socket
            if not self.silent:
                await self._send(socket, Submitted(frame.ref, job))
            if not self.hold:
                await self._tell(job)

    async def _accept(self, request: JobRequest) -> str:
        job = self._jobs.get(request.idempotency_key)
        if job is None:
            job = self._jobs[request.idempotency_key] = f"job-{len(self._jobs)}"
            self.requests.append(request)
            self._views[job] = await self._answer(job, request)
            self.taken.set()
        return job

    async def _answer(self, job: str, request: JobRequest) -> JobView:
        data = request.input
        if data is None:
            data = await read_file(Cid(str(request.input_cid)), self._get_block, bytes_max=1 << 30)
        output = encode(self._compute(decode(data)))
        receipt = Receipt(
            broker="fake",
            job=job,
            lease=f"{job}.1",
            attempt=1,
            worker=self._worker.id,
            pipeline=request.pipeline,
            input=add_bytes(data, put=None),
            outcome=Returned(output=add_bytes(output, put=None), output_bytes=len(output)),
            stages=(),
            engines={},
            nonce=bytes(16),
            expires_at=0,
        )
        return JobView(
            job=job,
            status=JobStatus.ACCEPTED,
            pipeline=request.pipeline,
            submitted_at=time.time(),
            finished_at=time.time(),
            price_microcredits=PRICE_MICROCREDITS,
            output=output,
            receipts=(sign_receipt(receipt, self._worker),),
            verification=Verification(credibility=1.0, agreed=(self._worker.id,)),
        )

    async def _tell(self, job: str) -> None:
        socket = self._watched.pop(job, None)
        if socket is not None and not socket.closed:
            await self._send(socket, Finished(self._views[job]))

    async def _send(self, socket: web.WebSocketResponse, frame: ToClient) -> None:
        await socket.send_bytes(self._codec.encode([frame]))

    async def _get_block(self, cid: Cid) -> bytes:
        return self.blocks[cid]

    async def _put_block(self, request: web.Request) -> web.Response:
        self.blocks[Cid(request.match_info["cid"])] = await request.read()
        return web.Response(status=201)

    async def _output(self, request: web.Request) -> web.Response:
        view = self._views[request.match_info["job"]]
        return web.Response(body=view.output)
