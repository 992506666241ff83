"""How many passed checks a submitter may count for a worker: by pipeline, submitter and partner, with bounds.

Submitters, publishers and workers can stage checks among themselves. So a worker's checks are kept for each
pipeline and submitter. A submitter counts its own in full. What other submitters found in the same pipeline
counts up to `vouched_max` for each of them, and nothing in other pipelines. Of agreements, each partner that
confirms a worker counts up to `partner_max` for each pipeline. `docs/verification.md` derives the bounds.

A bound is applied when a finding is made, to what has not decayed by then. What each finding counts is kept
with it, so that adding up again gives the same sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

#: What a finding counts is a multiple of this, which floats add up exactly in any order.
_STEP: Final = 2.0**-10


class Counted(NamedTuple):
    """What one finding counts: `checks` for jobs of its submitter, `vouched` for those of all others."""

    checks: float = 0.0
    vouched: float = 0.0


NOTHING: Final = Counted()


class Finding(NamedTuple):
    """Where a finding comes from. `partner` is the owner that confirmed a result; "" for a reference run."""

    pipeline: str
    submitter: str
    partner: str = ""


def in_steps(amount: float) -> float:
    """The nearest amount that findings may count."""
    return round(amount / _STEP) * _STEP


class DecayingSum:
    """A sum that halves every `half_life_days`, by whole days. Order within a day does not matter."""

    __slots__ = ("_day", "_half_life_days", "_past", "_today")

    def __init__(self, half_life_days: float) -> None:
        self._half_life_days = half_life_days
        self._day = 0
        self._past = 0.0
        self._today = 0.0

    def add(self, amount: float, day: int) -> None:
        """Add an amount on `day` (days since the epoch)."""
        if day > self._day:
            self._past, self._today, self._day = self.on(day), 0.0, day
        self._today += amount

    def on(self, day: int) -> float:
        """The sum as of `day`."""
        total = self._past + self._today
        return total if day <= self._day else float(total * 0.5 ** ((day - self._day) / self._half_life_days))


class CheckRecord:
    """The checks of one worker. `count` says what a new one counts, `add` keeps it."""

    __slots__ = (
        "_by_partner",
        "_found",
        "_half_life_days",
        "_partner_max",
        "_total",
        "_vouched",
        "_vouched_max",
    )

    def __init__(self, half_life_days: float, *, partner_max: float, vouched_max: float) -> None:
        self._half_life_days = half_life_days
        self._partner_max = partner_max
        self._vouched_max = vouched_max
        #: By pipeline and submitter, both parts of what was counted.
        self._found: dict[tuple[str, str], tuple[DecayingSum, DecayingSum]] = {}
        self._vouched: dict[str, DecayingSum] = {}
        self._by_partner: dict[tuple[str, str], DecayingSum] = {}
        self._total = DecayingSum(half_life_days)

    def count(self, amount: float, finding: Finding, *, vouchers: Iterable[str], day: int) -> Counted:
        """What a finding of `amount` checks counts on `day`. A negative amount cancels checks.

        `vouchers` are the submitters under one hand with the finding's, itself included: together they
        vouch for as much as one. There are none if that hand cannot vouch for this worker.
        """
        if finding.partner:
            room = self._partner_max - self.confirmed(finding.pipeline, finding.partner, day)
            amount = min(amount, max(0.0, room))
        amount = math.floor(amount / _STEP) * _STEP
        vouched = sum(self._vouched_by(finding.pipeline, one, day) for one in vouchers) if vouchers else 0.0
        up, down = self._vouched_max - vouched, self._vouched_max + vouched
        limited = max(min(amount, up), -down) if vouchers else 0.0
        return Counted(amount, math.trunc(limited / _STEP) * _STEP)

    def add(self, counted: Counted, finding: Finding, day: int) -> None:
        """Keep what a finding of `day` was counted as."""
        key = finding.pipeline, finding.submitter
        if key not in self._found:
            self._found[key] = self._new(), self._new()
        own, vouched = self._found[key]
        own.add(counted.checks, day)
        vouched.add(counted.vouched, day)
        self._total.add(counted.checks, day)
        self._vouched.setdefault(finding.pipeline, self._new()).add(counted.vouched, day)
        if finding.partner:
            partner = finding.pipeline, finding.partner
            self._by_partner.setdefault(partner, self._new()).add(counted.checks, day)

    def passed(self, pipeline: str, submitter: str, day: int) -> float:
        """The checks that count for a job of `submitter` in `pipeline`."""
        vouched = self._vouched.get(pipeline)
        if vouched is None:
            return 0.0
        own = self._found.get((pipeline, submitter))
        checks = vouched.on(day) if own is None else vouched.on(day) - own[1].on(day) + own[0].on(day)
        return max(0.0, checks)

    def confirmed(self, pipeline: str, partner: str, day: int) -> float:
        """The checks that agreements with one partner count for in a pipeline."""
        known = self._by_partner.get((pipeline, partner))
        return known.on(day) if known else 0.0

    def most(self, day: int) -> float:
        """The most checks that count for any submitter in any pipeline."""
        return max((self.passed(*key, day) for key in self._found), default=0.0)

    def total(self, day: int) -> float:
        """All checks together, each as its own submitter counts it."""
        return max(0.0, self._total.on(day))

    def _new(self) -> DecayingSum:
        return DecayingSum(self._half_life_days)

    def _vouched_by(self, pipeline: str, submitter: str, day: int) -> float:
        known = self._found.get((pipeline, submitter))
        return known[1].on(day) if known else 0.0
