"""Waiting jobs, by their requirements; jobs that already have results come first.

When a worker has capacity again, only jobs whose need it fits are looked at. Within a need, jobs are served
in the order in which they came, as far as that worker can take them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tradepost.protocol import Offer
from tradepost_broker.market.state.offer_book import Need, fits


class JobQueue:
    """Ids of waiting jobs."""

    def __init__(self) -> None:
        # For each need: jobs to be verified, then jobs without any result. Dicts, as ordered sets.
        self._queues: dict[Need, tuple[dict[str, None], dict[str, None]]] = {}
        self._need_of: dict[str, Need] = {}

    def __len__(self) -> int:
        return len(self._need_of)

    def __contains__(self, job: object) -> bool:
        return job in self._need_of

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._need_of))

    def add(self, job: str, need: Need, *, has_results: bool) -> None:
        """Let a job wait; one that waits already keeps its place unless it got its first result."""
        self._need_of[job] = need
        verifying, fresh = self._queues.setdefault(need, ({}, {}))
        if has_results:
            fresh.pop(job, None)
            verifying[job] = None
        else:
            verifying.pop(job, None)
            fresh[job] = None

    def discard(self, job: str) -> None:
        """The job no longer waits."""
        need = self._need_of.pop(job, None)
        if need is None:
            return
        queues = self._queues[need]
        for queue in queues:
            queue.pop(job, None)
        if not any(queues):
            del self._queues[need]

    def postpone(self, job: str) -> None:
        """Let others of its kind go before this job, if it waits."""
        if job in self._need_of:
            for queue in self._queues[self._need_of[job]]:
                if job in queue:
                    queue[job] = queue.pop(job)

    def suited(self, offer: Offer, *, looks_max: int) -> Iterator[str]:
        """The jobs that a worker with this offer could do, in the order in which to try them.

        At most `looks_max` of each queue; if a queue is longer, those that found no worker go to its end.
        """
        fitting = [queues for need, queues in self._queues.items() if fits(offer, need)]
        for rank in (0, 1):
            for queues in fitting:
                queue = queues[rank]
                looked = list(islice(queue, looks_max))
                yield from looked
                if len(queue) > looks_max:
                    for job in looked:
                        if job in queue:
                            queue[job] = queue.pop(job)
