"""How unlikely it is that some owners were in error together so often by chance.

Of `trials` jobs that had equal wrong results, so many had them from within one set of owners; `expected` is
how many would have, if each job's results had fallen on owners at random. The probability is that of the
binomial tail, which bounds that of trials with different probabilities (Hoeffding, On the distribution of the
number of successes in independent trials, Ann. Math. Statist. 27 (1956) 713-721, theorem 4), and whose limit
for rare events is the Poisson tail. As every set of owners could have been looked at, it is multiplied by the
number of sets of that size (Bonferroni).
"""

from __future__ import annotations

import math

from tradepost_reputation.beta import beta_cdf


def binomial_tail(count: int, trials: int, probability: float) -> float:
    """The probability of `count` successes or more in so many trials: I_p(k, n - k + 1), DLMF 8.17.5."""
    if count <= 0 or probability >= 1:
        return 1.0
    if count > trials or probability <= 0:
        return 0.0
    return min(1.0, beta_cdf(probability, count, trials - count + 1))


def corrected_p_value(count: int, expected: float, *, trials: int, chosen: int, owners: int) -> float:
    """The probability that any `chosen` of `owners` have that many of the jobs by chance, at most 1.

    1 if `count` is not above what is expected by at least one job, since the bound does not hold there.
    """
    if trials < 1 or count < expected + 1:
        return 1.0
    tail = binomial_tail(count, trials, expected / trials)
    if tail == 0:
        return 0.0
    log_sets = math.lgamma(owners + 1) - math.lgamma(chosen + 1) - math.lgamma(owners - chosen + 1)
    return math.exp(min(0.0, math.log(tail) + log_sets))
