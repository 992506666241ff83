"""What a client knows of verdicts that changed: the newest view of each job, and feeds that wait for more."""

from __future__ import annotations

import asyncio
from typing import Final

from tradepost.errors import TradepostError
from tradepost.protocol import JobView

#: Jobs whose new verdicts a client remembers, the newest.
_KEPT: Final = 10_000


class VerdictFeed:
    """The jobs whose verdicts change, from when it was opened."""

    def __init__(self, changes: VerdictChanges) -> None:
        self._changes = changes
        self._news: asyncio.Queue[JobView | TradepostError] = asyncio.Queue()

    async def next(self) -> JobView:
        """The next job whose verdict changes. Raises why there will be none, such as `ClientClosed`."""
        news = await self._news.get()
        if isinstance(news, TradepostError):
            raise news
        return news

    def post(self, news: JobView | TradepostError) -> None:
        """Have `next` return a job, or raise an error."""
        self._news.put_nowait(news)

    def close(self) -> None:
        """Receive no more."""
        self._changes.close(self)


class VerdictChanges:
    """Verdicts that changed while the client was open."""

    def __init__(self) -> None:
        self._views: dict[str, JobView] = {}
        self._feeds: set[VerdictFeed] = set()
        #: The newest time that the broker has named, by its own clock; `None` before the first.
        self.known_until: float | None = None

    def feed(self) -> VerdictFeed:
        """A feed of what comes from now on."""
        feed = VerdictFeed(self)
        self._feeds.add(feed)
        return feed

    def close(self, feed: VerdictFeed) -> None:
        """Give a feed no more."""
        self._feeds.discard(feed)

    def of(self, job: str) -> JobView | None:
        """How a job stands since its verdict changed, if it did."""
        return self._views.get(job)

    def saw(self, view: JobView) -> None:
        """Take note of the times in a view that the broker sent."""
        times = (self.known_until, view.finished_at, view.verdict_changed_at)
        self.known_until = max((at for at in times if at is not None), default=None)

    def take(self, view: JobView) -> None:
        """Take in a changed verdict. One that is known is repeated after a reconnection."""
        self.saw(view)
        if view.job not in self._views:
            self._views[view.job] = view
            if len(self._views) > _KEPT:
                del self._views[next(iter(self._views))]
            for feed in tuple(self._feeds):  # a blocking client closes one from another thread
                feed.post(view)

    def fail(self, error: TradepostError) -> None:
        """End every feed with an error."""
        for feed in tuple(self._feeds):
            self._feeds.discard(feed)
            feed.post(error)
