"""Outputs count against the quota of the account whose job they are for. One that does not fit ends the job.

It is cancelled, as if its submitter had done so: the worker is not to blame, and no other worker could
deliver the result either. Where that cannot end the job, the output is kept all the same: a job may have
ended, as before its spot check, and the operator wants a reference run whatever the submitter has left.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tradepost_broker.content.account_quota import AccountQuota
from tradepost_broker.engine.engine import Decision, Moment, Postponed, Work
from tradepost_broker.engine.work import EventWork
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose
from tradepost_broker.market.model.events import CancelRequested, Instruction
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.storage.shell_records import Delivery, ShellRecord

log = logging.getLogger(__name__)


class OutputWithoutRoom(Exception):
    """An output does not fit into its submitter's quota, so `job` is to be cancelled."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.id)
        self.job = job


class OutputQuota:
    """The room for the outputs of leases in their submitters' quotas."""

    def __init__(self, *, market: Market, quota: AccountQuota) -> None:
        self._market = market
        self._quota = quota

    def require(self, lease: Lease, size_bytes: int) -> None:
        """Raise `OutputWithoutRoom` if `size_bytes` more do not fit, and cancelling can end the job."""
        job = self._market.job(lease.job)
        if job is None or self._quota.has_room(job.account, size_bytes):
            return
        if lease.purpose is not LeasePurpose.AUDIT and job.status not in FINAL:
            raise OutputWithoutRoom(job)

    def count(self, account: str, size_bytes: int) -> None:
        """Count an output that came inside a frame, and is kept from now on."""
        self._quota.count(account, size_bytes)


class CountedDelivery:
    """The work `delivery` of a result for `lease`, whose output counts for `account`; without room, the job
    ends.
    """

    def __init__(self, delivery: Work, *, lease: Lease, account: str, quota: OutputQuota) -> None:
        self._delivery = delivery
        self._lease = lease
        self._account = account
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
        if not size_bytes:
            return decision
        try:
            self._quota.require(self._lease, size_bytes)
        except OutputWithoutRoom as error:
            return cancel_without_room(error.job).decide(moment)
        return replace(decision, records_after=partial(self._count, size_bytes))

    def _count(self, size_bytes: int, _: Sequence[Instruction]) -> Sequence[ShellRecord]:
        self._quota.count(self._account, size_bytes)
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
