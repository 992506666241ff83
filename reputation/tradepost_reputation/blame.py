"""How much of a worker's failures each witness stands for, so that nobody alone can ruin a score.

A run fails because of the device, or because of the job that was made for it. A witness is a name whose word
the blame rests on: the account whose job it was, or the owner whose result says that the job could be done.
What a witness stands for is counted in findings, and halves with time like the findings themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from tradepost_reputation.checks import DecayingSum

#: Halved and withdrawn findings do not add up exactly.
_SLACK: Final = 1e-6


class Witnesses(NamedTuple):
    """Whose word a finding rests on: the account of the job, and the owner of another result of it."""

    account: str
    partner: str


class BlameRecord:
    """The findings of one worker by witness. An account and an owner of the same name are two witnesses."""

    __slots__ = ("_by_account", "_by_partner", "_half_life_days")

    def __init__(self, half_life_days: float) -> None:
        self._half_life_days = half_life_days
        self._by_account: dict[str, DecayingSum] = {}
        self._by_partner: dict[str, DecayingSum] = {}

    def add(self, witnesses: Witnesses, day: int, *, amount: float = 1.0) -> None:
        """Count a finding of `day` (days since the epoch); a negative amount withdraws it."""
        for known, name in self._both(witnesses):
            if name not in known:
                known[name] = DecayingSum(self._half_life_days)
            known[name].add(amount, day)

    def by_accounts(self, accounts: Iterable[str], day: int) -> float:
        """What these accounts stand for together, in findings that have not decayed by `day`."""
        return _total(self._by_account, accounts, day)

    def by_partners(self, partners: Iterable[str], day: int) -> float:
        """What these owners stand for together, in findings that have not decayed by `day`."""
        return _total(self._by_partner, partners, day)

    def _both(self, witnesses: Witnesses) -> tuple[tuple[dict[str, DecayingSum], str], ...]:
        return (self._by_account, witnesses.account), (self._by_partner, witnesses.partner)


def has_room(findings: float, findings_max: float) -> bool:
    """Whether witnesses who stand for so many `findings` may stand for one more."""
    return findings + 1 <= findings_max + _SLACK


def _total(known: dict[str, DecayingSum], names: Iterable[str], day: int) -> float:
    return sum(known[name].on(day) for name in sorted(names) if name in known)
