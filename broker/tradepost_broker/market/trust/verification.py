"""Verifies a job's results: the stage at fault, and the next step.

Results that agree form a group. A group's credibility follows from the records of the workers in it and of
those who disagree (`tradepost_reputation.credibility`); it is accepted at the job's confidence. A
disagreement is settled by a reference run where an auditor can make one, else by more replicas. The rules are
in `docs/verification.md`; this module only decides, `advance_job` and `settlement` act.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tradepost_reputation import credibility_of_groups, log_odds
from tradepost_reputation.credibility import ENOUGH


def blamed_stage(stages: Sequence[tuple[str, str]], reference: Sequence[tuple[str, str]]) -> str:
    """The first stage, of (stage, output hash) in order, whose output is not the reference's; "" if none.

    A run that stopped early is blamed on the first stage that it has no output for.
    """
    have = dict(stages)
    for stage, output in reference:
        if have.get(stage) != output:
            return stage
    return next((stage for stage, _ in stages if stage not in dict(reference)), "")


@dataclass(frozen=True, slots=True)
class GroupedResult:
    """One delivered, undecided result: its lease, the group it agrees with, its worker's log odds.

    `must_be_confirmed` says that no worker is believed alone: for failures, and outputs that are not finite.
    """

    lease: str
    group: str
    log_odds: float
    must_be_confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Accept:
    """The results of `group` are right with probability `credibility`."""

    group: str
    credibility: float


@dataclass(frozen=True, slots=True)
class NeedReplica:
    """Another result is needed: so many log odds are missing, even if all open leases should agree."""

    log_odds_missing: float


@dataclass(frozen=True, slots=True)
class NeedAudit:
    """A reference run decides."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is open may be enough."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No confidence was reached with as many results as policy allows."""

    credibility: float


NextStep = Accept | NeedReplica | NeedAudit | Wait | GiveUp


def decide(
    results: Sequence[GroupedResult],
    *,
    open_log_odds: Sequence[float],
    confidence: float,
    auditor_available: bool,
    results_max: int,
) -> NextStep:
    """What to do for a job with these delivered results and these leases still open.

    1. Results that contradict each other go to an auditor, if one can run the job.
    2. The most credible group is accepted if it reaches the confidence, and has two results where they must
       be confirmed.
    3. If it would be accepted should all open leases agree with it, they are waited for.
    4. Otherwise another replica is needed, up to `results_max` results in all.
    """
    groups = grouped(results)
    # Step 1
    if len(groups) > 1 and auditor_available:
        return NeedAudit()
    # Step 2
    leader, credibility = most_credible(groups)
    missing = _log_odds_missing(groups, leader, confidence)
    is_alone = len(groups.get(leader, ())) == 1 and any(
        result.must_be_confirmed for result in results if result.group == leader
    )
    if leader and missing <= ENOUGH and not is_alone:
        return Accept(leader, credibility)
    # Step 3
    missing -= sum(open_log_odds)
    if open_log_odds and missing <= ENOUGH:
        return Wait()
    # Step 4
    if len(results) + len(open_log_odds) < results_max:
        return NeedReplica(missing)
    return Wait() if open_log_odds else GiveUp(credibility)


def grouped(results: Sequence[GroupedResult]) -> dict[str, list[float]]:
    """The log odds of the results in each group, groups in order of their first result."""
    groups: dict[str, list[float]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result.log_odds)
    return groups


def most_credible(groups: dict[str, list[float]]) -> tuple[str, float]:
    """The leading group, the earlier of equals, and its credibility; ("", 0.0) without results."""
    if not groups:
        return "", 0.0
    credibilities = credibility_of_groups(list(groups.values()))
    return max(zip(groups, credibilities, strict=True), key=lambda pair: pair[1])


def _log_odds_missing(groups: dict[str, list[float]], leader: str, confidence: float) -> float:
    """How many more log odds the leader needs for `confidence` against all other groups."""
    others = [sum(members) for group, members in groups.items() if group != leader]
    against = float(np.logaddexp.reduce([0.0, *others])) if others else 0.0
    return log_odds(confidence) + against - sum(groups.get(leader, ()))
