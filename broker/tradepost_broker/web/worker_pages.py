"""The dashboard's pages about workers: the list, and each of them."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from tradepost.errors import InvalidRequest, UnknownWorker
from tradepost_broker.market.model.entities import WorkerStanding
from tradepost_broker.reporting.standings import Standings
from tradepost_broker.reporting.worker_lists import SORTS
from tradepost_broker.web.endpoints import Endpoint, read_limit
from tradepost_broker.web.page_replies import PageReplies, twin_of, version_of
from tradepost_reputation.dashboard import WorkerPageView, WorkersPageView

_ROWS: Final = 50
_ROWS_MAX: Final = 200
_FIND_CHARS_MAX: Final = 64
#: The time of a finding and its id.
_CURSOR: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)~([!-}]{1,200})", re.ASCII)


class WorkerPageEndpoints:
    """Public standings of workers, for people."""

    def __init__(self, *, standings: Standings, replies: PageReplies) -> None:
        self._standings = standings
        self._replies = replies

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        every, one, html = "/v1/dashboard/workers.json", "/v1/dashboard/workers/{worker}.json", "text/html"
        return [
            Endpoint(method="GET", path="/workers", handler=self.list_page, reply=bytes, media=html),
            Endpoint(method="GET", path="/workers/{worker}", handler=self.page, reply=bytes, media=html),
            Endpoint(method="GET", path=every, handler=self.list_twin, reply=WorkersPageView),
            Endpoint(method="GET", path=one, handler=self.twin, reply=WorkerPageView),
        ]

    async def list_page(self, request: web.Request) -> web.StreamResponse:
        """Workers, for people: `find`, `standing`, `sort`, and `after` for the next page."""
        return self._replies.page(request, self._list(request), twin="/v1/dashboard/workers.json")

    async def list_twin(self, request: web.Request) -> web.StreamResponse:
        """The content of a page of workers; with `fields=version`, only whether it has changed."""
        return twin_of(request, self._list(request))

    async def page(self, request: web.Request) -> web.StreamResponse:
        """A worker's score and the evidence behind it, for people; `before` is a cursor of older evidence."""
        view = self._view(request)
        return self._replies.page(request, view, twin=f"/v1/dashboard/workers/{view.worker.worker}.json")

    async def twin(self, request: web.Request) -> web.StreamResponse:
        """The content of a worker's page; with `fields=version`, only whether it has changed."""
        return twin_of(request, self._view(request))

    def _list(self, request: web.Request) -> WorkersPageView:
        query = request.query
        find, standing = query.get("find", "").strip(), query.get("standing", "")
        sort, after = query.get("sort", "earned"), query.get("after", "")
        if len(find) > _FIND_CHARS_MAX:
            raise InvalidRequest(f"find has {len(find)} characters; it may have {_FIND_CHARS_MAX}")
        if standing not in ("", *WorkerStanding):
            raise InvalidRequest(
                f"standing is {standing[:20]!r}; it must be one of {', '.join(WorkerStanding)}"
            )
        if sort not in SORTS:
            raise InvalidRequest(f"sort is {sort[:20]!r}; it must be one of {', '.join(SORTS)}")
        if after and not self._standings.has(after):
            raise InvalidRequest(
                f"after is {after[:20]!r}, which is no worker", hint="Pass the `after` of the page before."
            )
        listed = self._standings.page(
            find=find,
            standing=standing,
            sort=sort,
            after=after,
            count=read_limit(request, _ROWS, _ROWS_MAX),
        )
        return WorkersPageView(
            version=version_of(listed),
            found=listed.found,
            find=find,
            standing=standing,
            sort=sort,
            workers=tuple(listed.workers),
            after=listed.after,
        )

    def _view(self, request: web.Request) -> WorkerPageView:
        worker = request.match_info["worker"]
        shown = self._standings.explained(worker, before=_before(request), count=_ROWS)
        if shown is None:
            raise UnknownWorker(f"no worker {worker} has joined this broker")
        return WorkerPageView(
            version=version_of(shown),
            why=shown.why,
            worker=shown.worker,
            history=shown.history,
            before="" if shown.before is None else f"{shown.before[0]!r}~{shown.before[1]}",
        )


def _before(request: web.Request) -> tuple[float, str] | None:
    """The finding that a page of evidence follows. Raises `InvalidRequest`."""
    text = request.query.get("before")
    if text is None:
        return None
    cursor = _CURSOR.fullmatch(text)
    if cursor is None:
        raise InvalidRequest(
            f"before is {text[:20]!r}, which is no cursor", hint="Pass the `before` of the page before."
        )
    return float(cursor[1]), cursor[2]
