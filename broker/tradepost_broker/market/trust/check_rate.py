"""How often a result that would be believed alone is checked all the same.

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
