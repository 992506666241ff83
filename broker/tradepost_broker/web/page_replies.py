"""The two forms of each page of the dashboard: for people, and its twin in JSON for programs."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from aiohttp import web

from tradepost_broker.web.endpoints import reply
from tradepost_reputation.dashboard import CONTENT_SECURITY_POLICY, Pages, PageView

#: The largest integer that every reader of JSON keeps exactly.
_SAFE_INTEGER_MAX: Final = (1 << 53) - 1
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def version_of(*shown: object) -> int:
    """A number that follows from what is shown alone: how many events there were would tell of deliveries."""
    digest = hashlib.sha256(msgspec.msgpack.encode(shown)).digest()
    return int.from_bytes(digest[:8], "big") & _SAFE_INTEGER_MAX


def twin_of(request: web.Request, view: PageView) -> web.Response:
    """A view as JSON; with `fields=version`, only whether it has changed."""
    return reply({"version": view.version} if request.query.get("fields") == "version" else view)


def page_reply(html: str) -> web.Response:
    """A page, with the headers that keep everything foreign out of it."""
    return web.Response(text=html, content_type="text/html", headers=_PAGE_HEADERS)


class PageReplies:
    """Answers with pages."""

    def __init__(self) -> None:
        self._pages = Pages()

    def render(self, view: PageView, *, twin: str) -> str:
        """The page that shows `view`. Its twin is at the path `twin`."""
        return self._pages.page(view, twin=twin)

    def page(self, request: web.Request, view: PageView, *, twin: str) -> web.Response:
        """As `render`, answered; the twin has the query of `request`."""
        query = request.query_string
        return page_reply(self.render(view, twin=f"{twin}?{query}" if query else twin))
