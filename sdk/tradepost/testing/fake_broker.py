"""A broker for tests of programs that use the SDK: the real protocol, one pretended worker, no market.

`FakeBroker` answers each job with what a function makes of the input document, under a receipt that a real
key signs. It accepts any pipeline and any price. `refuse`, `hold` and `cancelled_price_microcredits` script
the unhappy paths, `estimate` is what it estimates, `drop` breaks the connection as a network does. Everything
else it answers like the real broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from tradepost.content import Cid, parse_cid, read_file, verify_upload
from tradepost.errors import (
    InvalidCid,
    InvalidRequest,
    NotInLog,
    ProtocolError,
    TradepostError,
    Unauthorized,
    UnknownCid,
    UnknownJob,
    UnknownPipeline,
)
from tradepost.pipeline.tensors import TensorDocument, decode
from tradepost.protocol import (
    AccountView,
    CancelJob,
    EstimateRequest,
    EstimateView,
    Finished,
    JobList,
    JobRequest,
    JobStatus,
    JobView,
    QuarantineView,
    Rejected,
    Submit,
    Submitted,
    ToClient,
    VerdictChanged,
    Watch,
    WatchVerdicts,
    broker_codec_for_clients,
    salvage,
)
from tradepost.protocol.job_bounds import CONFIDENCE_MAX, JOBS_SHOWN_MAX
from tradepost.testing.fake_endpoints import fake_application, json_response, open_socket, read_json, refuse
from tradepost.testing.fake_jobs import PRICE_MICROCREDITS, FakeJobs, unknown_job

API_KEY = "fake-key"
AVAILABLE_MICROCREDITS = 1_000_000_000

_INPUT_BYTES_MAX = 1 << 30


class FakeBroker:
    """A scripted broker. `app` is its aiohttp application; `requests` are the jobs it took, in order."""

    def __init__(self, compute: Callable[[TensorDocument], TensorDocument]) -> None:
        """A `TradepostError` that `compute` raises is how the job fails."""
        self._codec = broker_codec_for_clients()
        self._sockets: set[web.WebSocketResponse] = set()
        self._watched: dict[str, web.WebSocketResponse] = {}
        self._told: set[web.WebSocketResponse] = set()
        self.jobs = FakeJobs(compute)
        self.requests = self.jobs.requests
        #: The audit log, in which each receipt is as soon as its job is decided.
        self.log = self.jobs.log
        #: What it answers when a client asks for an estimate.
        self.estimate = EstimateView(
            cap_microcredits=PRICE_MICROCREDITS,
            results=1,
            owners=1,
            confidence_max=CONFIDENCE_MAX,
            typical_price=None,
            wait_s=0.0,
            latency_p50_s=None,
            latency_p90_s=None,
            measured_runs=0,
            in_time=None,
            problem=None,
        )
        self.estimates: list[EstimateRequest] = []
        self.blocks: dict[Cid, bytes] = {}
        self.refuse: TradepostError | None = None
        self.hold = False
        self.silent = False
        self.cancelled_price_microcredits = 0
        #: Pipelines that stay quarantined when an account lifts its own quarantine.
        self.quarantined_for_all: set[str] = set()
        self.url = ""
        self.connected = asyncio.Event()
        self.taken = asyncio.Event()
        self.app = fake_application(
            [
                web.get("/v1/client", self._converse),
                web.get("/v1/account", self._account),
                web.post("/v1/estimate", self._estimate),
                web.put("/v1/blocks/{cid}", self._put_block),
                web.get("/v1/blocks/{cid}", self._show_block),
                web.get("/v1/jobs", self._list),
                web.get("/v1/jobs/{job}", self._show),
                web.delete("/v1/jobs/{job}", self._cancel),
                web.get("/v1/jobs/{job}/output", self._output),
                web.get("/v1/jobs/{job}/proof", self._proof),
                web.delete("/v1/quarantines/{pipeline}", self._lift_quarantine),
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
            await self._finish(job)

    async def withdraw(self, job: str) -> None:
        """Find the result of a job wrong after it has ended, and withdraw it."""
        await self._tell(self.jobs.withdraw(job))

    async def correct(self, job: str, output: TensorDocument) -> None:
        """Find the result of a job wrong after it has ended, and replace it."""
        await self._tell(self.jobs.correct(job, output))

    async def redo(self, job: str, output: TensorDocument) -> None:
        """Withdraw the result of a job after it has ended, and run it again; it then has this output."""
        await self._tell(self.jobs.redo(job, output))

    async def _tell(self, view: JobView) -> None:
        for socket in list(self._told & self._sockets):
            await self._send(socket, VerdictChanged(view))

    # The stream

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        _check_key(request)
        socket = await open_socket(request)
        self._sockets.add(socket)
        self.connected.set()
        try:
            async for message in socket:
                if message.type is not WSMsgType.BINARY:
                    raise ProtocolError(f"a {message.type.name} message; frames come in binary ones")
                for frame in self._frames(message.data):
                    await self._take(socket, frame)
        except TradepostError as error:
            await refuse(socket, error)
        finally:
            self._sockets.discard(socket)
        return socket

    def _frames(self, message: bytes) -> list[Any]:
        try:
            return self._codec.decode(message)
        except ProtocolError:
            return list(salvage(message))

    async def _take(
        self, socket: web.WebSocketResponse, frame: Submit | Watch | CancelJob | WatchVerdicts | Rejected
    ) -> None:
        match frame:
            case CancelJob(job=job):
                await self._end_cancelled(job)
            case WatchVerdicts(since=since):
                self._told.add(socket)
                for view in self.jobs.changed_since(since):
                    await self._send(socket, VerdictChanged(view))
            case Watch(jobs=jobs):
                for job in jobs:
                    await self._watch(socket, job)
            case Rejected():
                await self._send(socket, frame)
            case Submit(ref=ref) if self.refuse is not None:
                await self._send(socket, Rejected(ref, self.refuse.to_problem()))
            case Submit(ref=ref, request=request):
                await self._submit(socket, ref, request)

    async def _submit(self, socket: web.WebSocketResponse, ref: int, request: JobRequest) -> None:
        try:
            job = self.jobs.submit(request, await self._input(request))
        except TradepostError as error:
            await self._send(socket, Rejected(ref, error.to_problem()))
            return
        self.taken.set()
        if not self.silent:
            await self._send(socket, Submitted(ref, job))
        await self._watch(socket, job)

    async def _watch(self, socket: web.WebSocketResponse, job: str) -> None:
        if job not in self.jobs.views:
            problem = unknown_job(job).to_problem()
            view = JobView(job=job, status=JobStatus.FAILED, pipeline="", submitted_at=0.0, problem=problem)
            await self._send(socket, Finished(view))
            return
        self._watched[job] = socket
        if not self.hold or job in self.jobs.ended:
            await self._finish(job)

    async def _input(self, request: JobRequest) -> bytes:
        """The input document's bytes. Raises what the real broker refuses them with."""
        if (request.input is None) is (request.input_cid is None):
            raise InvalidRequest("give exactly one of input and input_cid")
        data = request.input
        if data is None:
            data = await read_file(
                parse_cid(str(request.input_cid)), self._get_block, bytes_max=_INPUT_BYTES_MAX
            )
        decode(data)
        return data

    async def _finish(self, job: str) -> None:
        view = self.jobs.end(job)
        socket = self._watched.pop(job, None)
        if socket is not None and not socket.closed:
            await self._send(socket, Finished(view))

    async def _end_cancelled(self, job: str) -> None:
        if self.jobs.cancel(job, price_microcredits=self.cancelled_price_microcredits):
            await self._finish(job)

    async def _send(self, socket: web.WebSocketResponse, frame: ToClient) -> None:
        await socket.send_bytes(self._codec.encode([frame]))

    # REST

    async def _account(self, request: web.Request) -> web.Response:
        _check_key(request)
        return json_response(
            AccountView(
                account="fake", available_microcredits=AVAILABLE_MICROCREDITS, reserved_microcredits=0
            )
        )

    async def _estimate(self, request: web.Request) -> web.Response:
        _check_key(request)
        asked = await read_json(request, EstimateRequest)
        _check_pipeline(asked.pipeline)
        self.estimates.append(asked)
        return json_response(self.estimate)

    async def _list(self, request: web.Request) -> web.Response:
        _check_key(request)
        newest = self.jobs.newest(
            before=request.query.get("before"), is_changed=request.query.get("changed") == "true"
        )
        limit = _limit(request.query.get("limit", "100"))
        shown = newest[:limit]
        older = shown[-1] if len(newest) > limit else None
        return json_response(JobList(jobs=tuple(map(self.jobs.entry, shown)), older=older))

    async def _show(self, request: web.Request) -> web.Response:
        _check_key(request)
        return json_response(self.jobs.find(request.match_info["job"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        _check_key(request)
        await self._end_cancelled(self.jobs.find(request.match_info["job"]).job)
        return json_response(self.jobs.find(request.match_info["job"]))

    async def _output(self, request: web.Request) -> web.Response:
        _check_key(request)
        view = self.jobs.find(request.match_info["job"])
        if view.status is not JobStatus.ACCEPTED:
            raise UnknownJob(
                f"job {view.job} is {view.status.value} and has no output",
                hint="Only an accepted job has an output.",
                job=view.job,
            )
        return _bytes(self.jobs.outputs[view.job])

    async def _proof(self, request: web.Request) -> web.Response:
        _check_key(request)
        view = self.jobs.find(request.match_info["job"])
        if not view.receipts:
            raise NotInLog(f"job {view.job} is {view.status.value} and has no receipts")
        since = request.query.get("since")
        if since is not None and (not since.isdecimal() or int(since) > len(self.log.leaves)):
            raise InvalidRequest(f"since is {since[:40]!r}; it must be the size of a checkpoint")
        leases = [f"{view.job}.1"]
        return json_response(self.log.proof(leases, since=None if since is None else int(since)))

    async def _lift_quarantine(self, request: web.Request) -> web.Response:
        _check_key(request)
        pipeline = request.match_info["pipeline"]
        _check_pipeline(pipeline)
        return json_response(
            QuarantineView(pipeline=pipeline, quarantined=pipeline in self.quarantined_for_all)
        )

    async def _put_block(self, request: web.Request) -> web.Response:
        _check_key(request)
        cid, data = parse_cid(request.match_info["cid"]), await request.read()
        verify_upload(cid, data)
        self.blocks[cid] = data
        return json_response({"cid": cid}, status=201)

    async def _show_block(self, request: web.Request) -> web.Response:
        _check_key(request)
        return _bytes(await self._get_block(parse_cid(request.match_info["cid"])))

    async def _get_block(self, cid: Cid) -> bytes:
        if cid not in self.blocks:
            raise UnknownCid(f"{cid} was not uploaded by this account", cid=cid)
        return self.blocks[cid]


def _check_key(request: web.Request) -> None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthorized("there is no `Authorization: Bearer` header")
    if key.strip() != API_KEY:
        raise Unauthorized("this API key is not known here")


def _check_pipeline(pipeline: str) -> None:
    try:
        parse_cid(pipeline)
    except InvalidCid:
        raise UnknownPipeline(pipeline) from None


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 0 < int(text) <= JOBS_SHOWN_MAX:
        raise InvalidRequest(f"limit is {text[:20]!r}; it must be 1 to {JOBS_SHOWN_MAX}")
    return int(text)


def _bytes(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/octet-stream")
