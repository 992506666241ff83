"""The dashboard's page about a worker."""

from __future__ import annotations

from aiohttp import web

from tradepost.errors import UnknownWorker
from tradepost_broker.reporting.standings import Standings
from tradepost_broker.web.endpoints import Endpoint
from tradepost_broker.web.page_replies import PageReplies, twin_of, version_of
from tradepost_reputation.dashboard import WorkerPageView


class WorkerPageEndpoints:
    """Public standings of workers, for people."""

    def __init__(self, *, standings: Standings, replies: PageReplies) -> None:
        self._standings = standings
        self._replies = replies

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        return [
            Endpoint(
                method="GET", path="/workers/{worker}", handler=self.page, reply=bytes, media="text/html"
            ),
            Endpoint(
                method="GET",
                path="/v1/dashboard/workers/{worker}.json",
                handler=self.twin,
                reply=WorkerPageView,
            ),
        ]

    async def page(self, request: web.Request) -> web.StreamResponse:
        """A worker's score and the evidence behind it, for people."""
        view = self._view(request)
        return self._replies.page(request, view, twin=f"/v1/dashboard/workers/{view.worker.worker}.json")

    async def twin(self, request: web.Request) -> web.StreamResponse:
        """The content of a worker's page; with `fields=version`, only whether it has changed."""
        return twin_of(request, self._view(request))

    def _view(self, request: web.Request) -> WorkerPageView:
        worker = self._standings.one(request.match_info["worker"])
        if worker is None:
            raise UnknownWorker(f"no worker {request.match_info['worker']} has joined this broker")
        return WorkerPageView(version=version_of(worker), worker=worker)
