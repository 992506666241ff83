"""A worker's score: the 5% quantile of Beta(good + 1, bad + 1), a bound that it exceeds with 95% confidence.

Good and soft bad evidence is forgotten exponentially, by whole days, so that a score speaks of the worker as
it is now; fraud is never forgotten. The caller says what each piece of evidence weighs and which day it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from tradepost_reputation.beta import beta_quantile

QUANTILE: Final = 0.05
DAY_S: Final = 86_400
#: One proven fraud outweighs any record that a worker can build up.
FRAUD_WEIGHT: Final = 1000.0
#: What is withdrawn, and what it is taken from, are multiples of this, which floats add up exactly.
_STEP: Final = 2.0**-30
#: Less than this is left of a sum only by rounding: the weights are multiples of 1/8, faded for a while.
_REST: Final = 2.0**-20


class Weight(NamedTuple):
    """What one piece of evidence adds to a record. `checks` may be negative: it cancels passed checks.

    Use multiples of 1/8, which floats add up exactly in any order.
    """

    good: float = 0.0
    bad: float = 0.0
    fraud: float = 0.0
    checks: float = 0.0


_NOTHING: Final = Weight()


class TrackRecord(NamedTuple):
    """A tally as of one day, after decay."""

    good: float
    bad: float
    fraud: float
    checks: float

    @property
    def score(self) -> float:
        """The score of this record."""
        return score(self.good, self.bad + FRAUD_WEIGHT * self.fraud)


@dataclass(slots=True)
class Tally:
    """The running record of one worker in one capability class, and how often each kind of evidence came.

    Evidence of one day is summed before anything is forgotten, so its order within the day does not matter.
    """

    half_life_days: float
    counts: dict[str, int] = field(default_factory=dict)
    _day: int = 0
    _past: Weight = _NOTHING
    _today: Weight = _NOTHING

    def add(self, kind: str, weight: Weight, *, day: int) -> None:
        """Take one piece of evidence of `day` (days since the epoch) into account."""
        if day > self._day:
            self._past, self._today, self._day = self._faded(day), _NOTHING, day
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._today = Weight(*(old + new for old, new in zip(self._today, weight, strict=True)))

    def withdraw(self, kind: str, weight: Weight, *, day: int) -> None:
        """Undo one `add` of the same arguments, whatever was added since. The order does not matter."""
        self.counts[kind] -= 1
        if not self.counts[kind]:
            del self.counts[kind]
        if day == self._day:
            self._today = Weight(*map(_without, self._today, weight))
            return
        fade = 0.5 ** ((self._day - day) / self.half_life_days)
        past = self._past
        self._past = Weight(
            good=_without(past.good, weight.good * fade),
            bad=_without(past.bad, weight.bad * fade),
            fraud=past.fraud - weight.fraud,
            checks=_without(past.checks, weight.checks * fade),
        )

    def record(self, *, day: int) -> TrackRecord:
        """The record as of `day`."""
        faded = self._faded(max(day, self._day))
        return TrackRecord(faded.good, faded.bad, faded.fraud, max(0.0, faded.checks))

    def _faded(self, day: int) -> Weight:
        fade = 0.5 ** ((day - self._day) / self.half_life_days)
        past, today = self._past, self._today
        return Weight(
            good=(past.good + today.good) * fade,
            bad=(past.bad + today.bad) * fade,
            fraud=past.fraud + today.fraud,
            checks=(past.checks + today.checks) * fade,
        )


def _without(total: float, part: float) -> float:
    """A sum without a part of it."""
    left = (round(total / _STEP) - round(part / _STEP)) * _STEP
    return left if abs(left) >= _REST else 0.0


def score(good: float, bad: float) -> float:
    """The 5% quantile of Beta(good + 1, bad + 1), in (0, 1), rounded to the worker's disadvantage.

    The weights are rounded to steps of at most 1/64 (good down, bad up), so that few values are computed.
    """
    return _quantile(_coarse(good, up=False), _coarse(bad, up=True))


def _coarse(weight: float, *, up: bool) -> float:
    step = 2.0 ** max(-2, math.frexp(weight)[1] - 7)
    units = weight / step
    return step * (math.ceil(units) if up else math.floor(units))


@lru_cache(maxsize=1 << 16)
def _quantile(good: float, bad: float) -> float:
    return beta_quantile(QUANTILE, good + 1, bad + 1)
