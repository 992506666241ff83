"""Computes from evidence how far a worker and a result can be trusted. Pure functions of their arguments.

`score` ranks workers (the low end of a Beta distribution over their record), `checks` says how many passed
checks a submitter may count, `credibility` decides by them whether a result may be accepted (Sarmenta's
formulas), and `explain` says in words where the numbers come from.
"""

from tradepost_reputation.beta import beta_quantile
from tradepost_reputation.checks import CheckRecord, Counted, Finding, in_steps
from tradepost_reputation.collusion import corrected_p_value
from tradepost_reputation.credibility import (
    credibility_of_groups,
    credibility_of_worker,
    log_odds,
    results_needed,
)
from tradepost_reputation.explain import explain
from tradepost_reputation.score import Tally, TrackRecord, Weight, score

__all__ = [
    "CheckRecord",
    "Counted",
    "Finding",
    "Tally",
    "TrackRecord",
    "Weight",
    "beta_quantile",
    "corrected_p_value",
    "credibility_of_groups",
    "credibility_of_worker",
    "explain",
    "in_steps",
    "log_odds",
    "results_needed",
    "score",
]
