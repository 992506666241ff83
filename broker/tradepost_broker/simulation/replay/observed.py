"""How workers behaved according to a journal, for leases that another policy would have granted.

What a worker did with a job is known only for the leases that it had. For others it is estimated: the worker
answers as it answered another job, chosen by the seed, and is right as often as it was.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tradepost.protocol import GiveBackReason
from tradepost_broker.market.model.entities import Job, Lease, LeaseState
from tradepost_broker.market.model.events import Event, LeaseGivenBack, ReceiptDelivered
from tradepost_broker.simulation.replay.digest import Records

_UNKNOWN: Final = "unknown:"
_MADE_UP: Final = "made-up:"
_RUN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker did with a lease, `after_s` seconds after its grant: an outcome, or a reason for none."""

    after_s: float
    outcome: str = ""
    stage_hashes: tuple[tuple[str, str], ...] = ()
    stage_wall_us: tuple[int, ...] = ()
    reason: GiveBackReason | None = None
    was_right: bool = True


class Observed:
    """The answers in a journal, by worker and job, and which outcomes agreed."""

    def __init__(self, events: Iterable[Event], records: Records) -> None:
        self._answers: dict[tuple[str, str], Answer] = {}
        self._by_worker: dict[str, list[Answer]] = defaultdict(list)
        #: For each job, outcomes that agree stand for one of them.
        self._same: dict[tuple[str, str], str] = {}
        self._right: dict[str, str] = {}
        leases: dict[str, Any] = dict(records[Lease])
        for event in events:
            if isinstance(event, ReceiptDelivered | LeaseGivenBack) and event.lease in leases:
                self._add(event, leases[event.lease], leases)
        for job in records[Job].values():
            if job.accepted:
                self._right[job.id] = self._meaning(job.id, leases[job.accepted[0]].outcome)
        seconds = [answer.after_s for answers in self._by_worker.values() for answer in answers]
        self._typical_s = statistics.median(seconds) if seconds else _RUN_S

    def answer(self, worker: str, job: str, rng: Random) -> Answer:
        """What the worker did with the job, or would have done."""
        known = self._answers.get((worker, job))
        if known is not None:
            return known
        others = self._by_worker.get(worker)
        if not others:
            return Answer(self._typical_s, self._right.get(job, _UNKNOWN + job))
        like = others[rng.randrange(len(others))]
        if like.reason is not None:
            return Answer(like.after_s, reason=like.reason)
        outcome = self._right.get(job, _UNKNOWN + job) if like.was_right else f"{_MADE_UP}{worker}"
        return Answer(like.after_s, outcome)

    def agree(self, job: str, a: str, b: str) -> bool:
        """Whether two outcomes of a job agreed, as the broker compared them then."""
        return self._meaning(job, a) == self._meaning(job, b)

    def _add(self, event: ReceiptDelivered | LeaseGivenBack, lease: Lease, leases: dict[str, Any]) -> None:
        after_s = max(0.0, event.at - lease.granted_at)
        if isinstance(event, LeaseGivenBack):
            answer = Answer(after_s, reason=event.reason, stage_hashes=event.stage_hashes)
        else:
            for other in event.agrees_with:
                if other in leases:
                    meaning = self._meaning(lease.job, leases[other].outcome)
                    self._same.setdefault((lease.job, event.outcome), meaning)
            was_right = lease.state is not LeaseState.REJECTED
            answer = Answer(
                after_s, event.outcome, event.stage_hashes, event.stage_wall_us, was_right=was_right
            )
        if (lease.worker, lease.job) not in self._answers:
            self._answers[lease.worker, lease.job] = answer
            self._by_worker[lease.worker].append(answer)

    def _meaning(self, job: str, outcome: str) -> str:
        return self._same.get((job, outcome), outcome)
