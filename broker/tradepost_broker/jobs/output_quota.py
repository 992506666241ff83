"""Outputs count against the quota of the account whose job they are for. One that does not fit ends the job.

It is cancelled, as if its submitter had done so: the worker is not to blame, and no other worker could
deliver the result either.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tradepost_broker.content.account_quota import AccountQuota
from tradepost_broker.engine.engine import Decision, Moment, Postponed, Work
from tradepost_broker.engine.work import EventWork
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.events import CancelRequested, Instruction
from tradepost_broker.storage.shell_records import Delivery, ShellRecord

log = logging.getLogger(__name__)


class CountedDelivery:
    """The work `delivery` of a result for `job`, whose output counts; if there is no room, the job ends."""

    def __init__(self, delivery: Work, *, job: Job, quota: AccountQuota) -> None:
        self._delivery = delivery
        self._job = job
        self._quota = quota

    def decide(self, moment: Moment) -> Decision | Postponed:
        """What the delivery decides, or the end of the job."""
        decision = self._delivery.decide(moment)
        if isinstance(decision, Postponed):
            return decision
        kept = [
            one.output for one in decision.records if isinstance(one, Delivery) and one.output is not None
        ]
        size_bytes = sum(map(len, kept))
        if size_bytes and not self._quota.has_room(self._job.account, size_bytes):
            return cancel_without_room(self._job).decide(moment)
        return replace(decision, records_after=partial(self._count, size_bytes))

    def _count(self, size_bytes: int, _: Sequence[Instruction]) -> Sequence[ShellRecord]:
        self._quota.count(self._job.account, size_bytes)
        return ()


def cancel_without_room(job: Job) -> EventWork:
    """The work that ends a job whose output does not fit into its submitter's quota."""
    log.warning(
        "Job %s is cancelled: its output does not fit into the quota of %s",
        job.id,
        job.account,
        extra={"action": "output_without_room", "job": job.id},
    )
    return EventWork(
        lambda moment: CancelRequested(at=moment.at, job=job.id, account=job.account, seed=moment.seed)
    )
