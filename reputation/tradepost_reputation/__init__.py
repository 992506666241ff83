"""Computes from evidence how far a worker and a result can be trusted. Pure functions of their arguments.

`score` ranks workers (the low end of a Beta distribution over their record), `checks` says how many passed
checks a submitter may count, `blame` who stands for how many failures, `credibility` decides by the checks
whether a result may be accepted (Sarmenta's formulas), and `explain` says in words where the numbers come
from.
"""

from tradepost_reputation.beta import beta_quantile
from tradepost_reputation.blame import BlameRecord, Witnesses, has_room
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
    "BlameRecord",
    "CheckRecord",
    "Counted",
    "Finding",
    "Tally",
    "TrackRecord",
    "Weight",
    "Witnesses",
    "beta_quantile",
    "corrected_p_value",
    "credibility_of_groups",
    "credibility_of_worker",
    "explain",
    "has_room",
    "in_steps",
    "log_odds",
    "results_needed",
    "score",
]
