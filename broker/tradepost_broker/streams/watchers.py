"""Callbacks for the ends of jobs, and for verdicts that change."""

from __future__ import annotations

from collections.abc import Callable

from tradepost.protocol import JobView

Watcher = Callable[[JobView], None]


class Watchers:
    """Callbacks by job, each called once, when the job's end is durable."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}
        self._of_verdicts: dict[str, set[Watcher]] = {}

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

    def watch_verdicts(self, account: str, watcher: Watcher) -> None:
        """Call `watcher` with each of the account's jobs whose verdict changes."""
        self._of_verdicts.setdefault(account, set()).add(watcher)

    def unwatch_verdicts(self, account: str, watcher: Watcher) -> None:
        """Forget a watcher of verdicts, if it is still known."""
        watchers = self._of_verdicts.get(account)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._of_verdicts[account]

    def watches_verdicts(self, account: str) -> bool:
        """Whether anyone wants to know of the account's verdicts."""
        return account in self._of_verdicts

    def notify_verdict(self, account: str, view: JobView) -> None:
        """Tell everyone who watches the account's verdicts."""
        for watcher in list(self._of_verdicts.get(account, ())):
            watcher(view)
