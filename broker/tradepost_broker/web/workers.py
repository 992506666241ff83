"""REST for workers: join, and the public standing of each."""

from __future__ import annotations

from aiohttp import web

from tradepost.errors import TradepostError, UnknownWorker
from tradepost.protocol import JoinReply, JoinRequest
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.access.joining import JoinService
from tradepost_broker.reporting.standings import Standings
from tradepost_broker.web.caller_addresses import caller_group
from tradepost_broker.web.endpoints import Endpoint, read_body, reply
from tradepost_broker.web.worker_stream import WorkerStreams
from tradepost_reputation.dashboard import WorkerView


class WorkerEndpoints:
    """Workers. `failures` limits the failed attempts to join.

    They count for the token that they were made with if there is such a token, else for the address.
    """

    def __init__(
        self, *, joins: JoinService, standings: Standings, streams: WorkerStreams, failures: RateLimit
    ) -> None:
        self._joins = joins
        self._standings = standings
        self._streams = streams
        self._failures = failures

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        every, one = "/v1/workers", "/v1/workers/{worker}"
        return [
            Endpoint(
                method="POST",
                path=every,
                handler=self.join,
                body=JoinRequest,
                reply=JoinReply,
                status=201,
            ),
            Endpoint(method="GET", path=every, handler=self.list, reply=list[WorkerView]),
            Endpoint(method="GET", path=one, handler=self.show, reply=WorkerView),
            Endpoint(method="GET", path="/v1/worker", handler=self._streams.handle, status=101),
        ]

    async def join(self, request: web.Request) -> web.StreamResponse:
        """Make a device a worker, on a single-use token from the operator."""
        body = await read_body(request, JoinRequest)
        # A token cannot be guessed, so a device that has one is not kept out by others at the same address.
        caller = self._joins.known_token(body.token) or caller_group(request)
        self._failures.check(caller, "failed attempts to join")
        try:
            joined = await self._joins.join(body)
        except TradepostError:
            self._failures.spend(caller)  # `take` would raise in its place if others have failed meanwhile
            raise
        return reply(joined, status=201)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Every worker's standing, without the single pieces of evidence."""
        return reply(self._standings.all())

    async def show(self, request: web.Request) -> web.StreamResponse:
        """A worker's standing, with the evidence for its score, newest first."""
        worker = self._standings.one(request.match_info["worker"])
        if worker is None:
            raise UnknownWorker(f"no worker {request.match_info['worker']} has joined this broker")
        return reply(worker)
