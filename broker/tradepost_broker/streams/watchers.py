"""Callbacks for the ends of jobs."""

from __future__ import annotations

from collections.abc import Callable

from tradepost.protocol import JobView

Watcher = Callable[[JobView], None]


class Watchers:
    """Callbacks by job, each called once, when the job's end is durable."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}

    def watch(self, job: str, watcher: Watcher) -> None:
        """Call `watcher` with the final view of `job`."""
        self._watchers.setdefault(job, set()).add(watcher)

    def unwatch(self, job: str, watcher: Watcher) -> None:
        """Forget a watcher, if it is still known."""
        watchers = self._watchers.get(job)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[job]

    def is_watched(self, job: str) -> bool:
        """Whether anyone wants to know."""
        return job in self._watchers

    def notify(self, view: JobView) -> None:
        """Tell everyone who watches the job."""
        for watcher in self._watchers.pop(view.job, ()):
            watcher(view)
