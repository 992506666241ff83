"""Endpoints about the broker itself: its pages, health, identity and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from aiohttp import web
from sqlalchemy import func, select

from tradepost import protocol
from tradepost.content import BLOCK_BYTES_MAX
from tradepost.identity import Identity
from tradepost_broker.market.model.entities import Job
from tradepost_broker.reporting.explanations import newest_settled
from tradepost_broker.reporting.metrics import Metrics
from tradepost_broker.reporting.recent_activity import RecentActivity
from tradepost_broker.reporting.running_counts import RunningCounts
from tradepost_broker.reporting.standings import CACHE_S, Standings
from tradepost_broker.reporting.views import BrokerInfo
from tradepost_broker.settings import Settings
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Store
from tradepost_broker.web.endpoints import Endpoint, reply
from tradepost_broker.web.page_replies import PageReplies, page_reply, twin_of, version_of
from tradepost_reputation.dashboard import ActivityView, DashboardView, static_file

LEASES_SHOWN: Final = 30
#: Workers on the first page; each has a page of its own.
WORKERS_SHOWN: Final = 200

#: The path of the first page as JSON.
_TWIN: Final = "/v1/dashboard.json"
_STATIC: Final = (
    ("/dashboard.css", "text/css"),
    ("/dashboard.js", "text/javascript"),
    ("/dashboard.svg", "image/svg+xml"),
)


class PageEndpoints:
    """Public endpoints."""

    def __init__(
        self,
        *,
        settings: Settings,
        broker: Identity,
        store: Store,
        standings: Standings,
        counts: RunningCounts,
        metrics: Metrics,
        activity: RecentActivity,
        replies: PageReplies,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._store = store
        self._standings = standings
        self._counts = counts
        self._metrics = metrics
        self._activity = activity
        self._replies = replies
        self._monotonic = monotonic
        self._cached: tuple[float, DashboardView, str] | None = None

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        html, text = "text/html", "text/plain"
        return [
            Endpoint(method="GET", path="/", handler=self.market_page, reply=bytes, media=html),
            *(
                Endpoint(method="GET", path=path, handler=self.static, reply=bytes, media=media)
                for path, media in _STATIC
            ),
            Endpoint(method="GET", path=_TWIN, handler=self.dashboard, reply=DashboardView),
            Endpoint(method="GET", path="/v1/info", handler=self.info, reply=BrokerInfo),
            Endpoint(method="GET", path="/healthz", handler=self.health, reply=dict[str, str]),
            Endpoint(method="GET", path="/metrics", handler=self.metrics, reply=bytes, media=text),
        ]

    async def market_page(self, request: web.Request) -> web.StreamResponse:
        """The dashboard, for people."""
        return page_reply((await self._current())[1])

    async def static(self, request: web.Request) -> web.StreamResponse:
        """The dashboard's style, script and icon."""
        data, media = static_file(request.path.removeprefix("/"))
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        return web.Response(body=data, content_type=media, charset="utf-8", headers=headers)

    async def dashboard(self, request: web.Request) -> web.StreamResponse:
        """What the dashboard shows, as JSON; with `fields=version`, only whether it has changed."""
        return twin_of(request, (await self._current())[0])

    async def info(self, request: web.Request) -> web.StreamResponse:
        """Who this broker is, and the sizes that it takes."""
        return reply(
            BrokerInfo(
                broker=self._broker.id,
                public_key=self._broker.public_key,
                version=version("tradepost"),
                protocol=protocol.VERSION,
                inline_bytes_max=protocol.INLINE_BYTES_MAX,
                block_bytes_max=BLOCK_BYTES_MAX,
                message_bytes_max=protocol.MESSAGE_BYTES_MAX,
                document_bytes_max=self._settings.document_bytes_max,
                upload_bytes_max=self._settings.upload_bytes_max,
            )
        )

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Whether the broker answers. It ends itself when it cannot write."""
        return reply({"status": "ok"})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Counters for Prometheus."""
        return web.Response(body=self._metrics.render(), content_type="text/plain", charset="utf-8")

    async def _current(self) -> tuple[DashboardView, str]:
        """The first page, as a struct and rendered."""
        activity = await self._activity.view()
        now = self._monotonic()
        if self._cached is None or now - self._cached[0] >= CACHE_S:
            view = self._view(activity)
            self._cached = (now, view, self._replies.render(view, twin=_TWIN))
        return self._cached[1:]

    def _view(self, activity: ActivityView) -> DashboardView:
        jobs = CODECS[Job].table.c
        is_open = select(jobs.status, func.count()).where(jobs.finished_at.is_(None)).group_by(jobs.status)
        counts = {"queued": 0, "running": 0, "accepted": 0, "failed": 0, "cancelled": 0}
        counts |= dict(self._counts.jobs) | dict(map(tuple, self._store.query(is_open)))
        workers = sorted(
            self._standings.all(),
            key=lambda one: (one.standing != "active", -one.earned_microcredits - one.held_microcredits),
        )
        leases = newest_settled(self._store, count=LEASES_SHOWN)
        return DashboardView(
            version=version_of(counts, activity, workers, leases),
            broker=self._broker.id,
            jobs=counts,
            activity=activity,
            workers=tuple(workers[:WORKERS_SHOWN]),
            leases=leases,
        )
