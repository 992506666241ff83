"""How the owners of workers keep to the leases that they take.

A lease that an owner breaks off is free within a budget, which results fill again. Beyond it, the owner's
devices get no new leases for a while, each time twice as long. That is all: it is not evidence, costs no
credits, and never keeps a device working.

A lease that was late, and whose job another owner finished, is a hold. The first one is excused. The owner's
next lease, alone, gets all the time it has, so that a slow device can show how long it takes: its trial.
A trial that ends as a hold is evidence, and so is every later hold, until the owner has a result again.

None of it is in the records, so a restart begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from tradepost_broker.market.model.policy import MarketPolicy


class Lateness(Enum):
    """What it means that a lease is late."""

    UNMEASURED = "it is not known how long runs take"
    URGENT = "another worker has only just enough time left"
    CERTAIN = "it takes longer than runs of others, and longer than its owner's own"


@dataclass(slots=True)
class LeaseWatch:
    """What the broker knows of an ordinary lease while its job is open.

    `late_at` is when it is late, which means what `lateness` says. `is_late` is set then, or before if a
    report of a finished stage is overdue. `run_s` is the time from its grant to its receipt, `stages_s` those
    to the reports of its stages.
    """

    lateness: Lateness
    late_at: float
    fetch_s: float = 0.0
    is_late: bool = False
    run_s: float | None = None
    stages_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Commitments:
    """One owner's. `budget` is how many more leases it may break off."""

    budget: float
    cooling_until: float = 0.0
    coolings: int = 0
    #: Whether a hold was excused since the owner's newest result, the lease that is its trial, and whether
    #: that was a hold as well.
    is_warned: bool = False
    trial: str = ""
    has_failed_trial: bool = False

    def is_cooling_off(self, at: float) -> bool:
        """Whether its devices get no new leases now."""
        return at < self.cooling_until

    def charge(self, policy: MarketPolicy, at: float) -> bool:
        """Take in that a lease was broken off. Whether the owner must cool off from now on.

        While it cools off, nothing more is charged: a household that switches all of its devices off breaks
        off many leases at once.
        """
        if self.is_cooling_off(at):
            return False
        self.budget -= 1
        if self.budget >= 0:
            return False
        self.budget = 0.0
        self.cooling_until = at + min(policy.cool_off_s_max, policy.cool_off_s * 2.0**self.coolings)
        self.coolings = min(self.coolings + 1, 64)
        return True

    def credit(self, policy: MarketPolicy) -> None:
        """Take in that a result was accepted."""
        self.is_warned = self.has_failed_trial = False
        self.trial = ""
        self.budget = min(policy.break_offs_free, self.budget + policy.break_offs_earned)
        if self.budget == policy.break_offs_free:
            self.coolings = 0

    def hold(self, lease: str) -> bool:
        """Take in that a late lease was a hold. Whether it is evidence."""
        if lease == self.trial:
            self.trial = ""
            self.has_failed_trial = True
        self.is_warned = True
        return self.has_failed_trial

    def begin_trial(self, lease: str) -> bool:
        """Let a new lease be the owner's trial, if it is due one. Whether it is."""
        if not self.is_warned or self.has_failed_trial or self.trial:
            return False
        self.trial = lease
        return True

    def end_trial(self, lease: str) -> None:
        """Take in that a lease has ended in a way that shows nothing: the next one is the trial."""
        if lease == self.trial:
            self.trial = ""
