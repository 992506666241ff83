"""What the broker has committed: the newest version of every record that a restart could need.

Records that no restart can need any more are dropped, so that long runs fit in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, get_args

from msgspec.structs import replace

from tradepost_broker.market.model.entities import Job, Lease, Match, Record, Transfer
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.recovery import select_needed

KINDS: Final[tuple[type[Any], ...]] = get_args(Record)
#: How much longer than the policy asks for a finished job is kept.
_MARGIN_S: Final = 60.0


class Disk:
    """Committed records by kind and id."""

    def __init__(self, policy: MarketPolicy) -> None:
        self.records: dict[type[Any], dict[str, Any]] = {kind: {} for kind in KINDS}
        self._policy = policy
        self._keep_s = max(policy.idempotency_s, policy.hold_s, policy.retain_s) + _MARGIN_S
        self._finished: deque[tuple[float, str]] = deque()
        self._leases_of: dict[str, dict[str, Lease]] = {}

    def commit(self, records: Iterable[Record]) -> None:
        """Take over records, each in place of the one with its id."""
        for record in records:
            if isinstance(record, Match | Transfer) and getattr(record, "kind", "") != "fund":
                continue  # no restart needs it
            kept = self.records[type(record)]
            if isinstance(record, Lease):
                self._leases_of.setdefault(record.job, {})[record.id] = record
            elif isinstance(record, Job) and record.finished_at is not None:
                known = kept.get(record.id)
                if known is None or known.finished_at is None:
                    self._finished.append((record.finished_at, record.id))
            kept[record.id] = record

    def leases_of(self, job: str) -> list[Lease]:
        """The leases of a job, in the order in which they were granted."""
        return list(self._leases_of.get(job, {}).values())

    def load(self, at: float) -> list[Record]:
        """Copies of what a restart at time `at` loads."""
        return [replace(record) for record in select_needed(self.records, at, self._policy)]

    def drop_old(self, at: float) -> None:
        """Drop the jobs that finished so long ago that nothing of them can matter."""
        jobs, leases = self.records[Job], self.records[Lease]
        while self._finished and self._finished[0][0] + self._keep_s < at:
            _, job = self._finished.popleft()
            if jobs[job].spot_check or any(_may_change(lease) for lease in self.leases_of(job)):
                self._finished.append((at, job))
                continue
            del jobs[job]
            for lease in self._leases_of.pop(job, {}):
                del leases[lease]


def _may_change(lease: Lease) -> bool:
    return lease.matures_at is not None or lease.blame_at is not None or lease.settled_at is None
