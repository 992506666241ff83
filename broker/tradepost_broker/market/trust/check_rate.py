"""How often a result is checked: by what its worker has shown, and by what it has to lose.

A worker that is honest until it is believed, and cheats from then on, gives `(1 - q) / q` wrong results
before the first check at rate q. That is many beside what it has shown when it is only just believed, and few
when it has passed ten times the checks. So q falls with its record. The draw is made from the secret seed of
the event that delivered the result: nobody can know it before the result is committed.
"""

from __future__ import annotations

import math


def checks_to_be_believed(confidence: float, *, fault_fraction: float) -> float:
    """The passed checks after which one result has this credibility: the inverse of Sarmenta's formula.

    0 where the confidence is not above what an unchecked worker has.
    """
    if confidence <= 1 - fault_fraction:
        return 0.0
    return fault_fraction / ((1 - fault_fraction) * math.e * (1 - confidence))


def check_rate(checks_passed: float, confidence: float, *, fault_fraction: float, rate_max: float) -> float:
    """The probability of a check of one result that is accepted alone; `rate_max` for one just believed."""
    needed = checks_to_be_believed(confidence, fault_fraction=fault_fraction)
    return rate_max * min(1.0, needed / checks_passed) if checks_passed > 0 else rate_max * (needed > 0)


def deterrent_rate(gain_microcredits: float, *, at_stake_microcredits: int) -> float:
    """The least probability of a check at which a cheat that gains this much gains nothing in expectation.

    `at_stake_microcredits` is what a proven cheat loses besides this gain: its stake, and what is held of it.
    From `(1 - q) * gain <= q * at_stake` follows `q >= gain / (gain + at_stake)`: 1 with nothing at stake.
    """
    if gain_microcredits <= 0:
        return 0.0
    return gain_microcredits / (gain_microcredits + at_stake_microcredits)


def is_covered(
    held_microcredits: int,
    price_microcredits: int,
    *,
    market_price_microcredits: int,
    stake_microcredits: int,
    checks_passed: float,
    results_per_check: float,
) -> bool:
    """Whether an owner may decide one more job alone, beside what is held of it and could still be undone.

    Its stake covers as many credits, and each check that it has passed so many results of this price, or of
    the market's price for the job if that is less: cheap results vouch for no expensive one.
    """
    result_microcredits = min(price_microcredits, market_price_microcredits)
    record_microcredits = checks_passed * results_per_check * result_microcredits
    return held_microcredits + price_microcredits <= stake_microcredits + record_microcredits
