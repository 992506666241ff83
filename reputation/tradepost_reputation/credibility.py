"""How credible a result is: Sarmenta's credibility-based fault tolerance.

Source: L. F. G. Sarmenta, "Sabotage-tolerance mechanisms for volunteer computing systems", Future Generation
Computer Systems 18 (2002) 561-572. `fault_fraction` is f, an upper bound on the fraction of workers that are
faulty. A worker is credible by the k checks that it passed, a group of equal results by the workers in it.

With the odds o = c / (1 - c) of each result, the group formula of that paper becomes
`product(o in group) / (1 + sum over groups of product(o))`: independent results add up their log odds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

#: Nobody is beyond doubt: this keeps log odds finite.
CREDIBILITY_MAX: Final = 1 - 1e-9
#: Log odds that are missing by rounding only.
ENOUGH: Final = 1e-9


def credibility_of_worker(checks_passed: float, *, fault_fraction: float, blacklisting: bool = True) -> float:
    """The probability that one more result of a worker is right after `checks_passed` (k) checks.

    With blacklisting, a worker that fails a check is gone, and c = 1 - f / ((1 - f) k e); without it,
    c = 1 - f / k. Unchecked workers have c = 1 - f, and no check makes that less. 0 < f < 0.5.
    """
    if not 0 < fault_fraction < 0.5:
        raise ValueError(f"a fault fraction of {fault_fraction} leaves nothing to decide by")
    unchecked = 1 - fault_fraction
    if checks_passed <= 0:
        return unchecked
    doubt = fault_fraction / checks_passed
    if blacklisting:
        doubt /= (1 - fault_fraction) * math.e
    return min(max(unchecked, 1 - doubt), CREDIBILITY_MAX)


def log_odds(credibility: float) -> float:
    """log(c / (1 - c)), within what `CREDIBILITY_MAX` allows."""
    bounded = min(max(credibility, 1 - CREDIBILITY_MAX), CREDIBILITY_MAX)
    return math.log(bounded / (1 - bounded))


def credibility_of_groups(groups: Sequence[Sequence[float]]) -> list[float]:
    """The probability that each group is the right one, given its members' log odds, one result each.

    The probabilities sum to less than one: the rest is that every group is wrong.
    """
    sums = [sum(group) for group in groups]
    peak = max(0.0, *sums) if sums else 0.0  # subtracted before exp(), which would overflow
    weights = [math.exp(total - peak) for total in sums]
    whole = math.exp(-peak) + sum(weights)
    return [weight / whole for weight in weights]


def results_needed(log_odds_missing: float, typical_log_odds: float) -> int:
    """How many more agreeing results of typical workers make up for `log_odds_missing`."""
    if log_odds_missing <= ENOUGH:
        return 0
    if typical_log_odds <= 0:
        raise ValueError("results that are as likely wrong as right never add up")
    return math.ceil(log_odds_missing / typical_log_odds - ENOUGH)
