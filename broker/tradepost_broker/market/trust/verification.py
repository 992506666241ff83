"""Verifies a job's results: comparison, the stage at fault, and the next step.

Results that agree form a group. A group's credibility follows from the records of the workers in it and of
those who disagree (`tradepost_reputation.credibility`); it is accepted at the job's confidence. A
disagreement is settled by a reference run where an auditor can make one, else by more replicas. The rules are
in `docs/verification.md`; this module only decides, `advance_job` and `settlement` act.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tradepost.pipeline.manifest import Tolerance
from tradepost.pipeline.tensors import Tensor, TensorDocument, dtype_name
from tradepost_reputation import credibility_of_groups, log_odds
from tradepost_reputation.credibility import ENOUGH

#: Values of a tensor that are compared in one step: temporary arrays stay small, and other threads can run.
_VALUES_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True)
class Agreement:
    """Whether two outcomes agree, and if not, the first difference in words."""

    agrees: bool
    difference: str = ""


def compare_documents(a: TensorDocument, b: TensorDocument, tolerance: Tolerance) -> Agreement:
    """Whether `a` is the same result as the reference `b`.

    Metadata, names, dtypes and shapes must be equal, and so must integers and booleans; floats may differ by
    `atol + rtol * |b|`, and NaN equals NaN. Bits that are equal always agree.
    """
    if dict(a.metadata) != dict(b.metadata):
        return Agreement(False, "the metadata differs")
    if set(a.tensors) != set(b.tensors):
        return Agreement(False, f"it has tensors {sorted(a.tensors)}, the reference {sorted(b.tensors)}")
    for name in sorted(a.tensors):
        if difference := _difference(a[name], b[name], tolerance):
            return Agreement(False, f"tensor {name!r} {difference}")
    return Agreement(True)


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
    """One delivered, undecided result: its lease, the group it agrees with, its worker's log odds."""

    lease: str
    group: str
    log_odds: float


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
    2. The most credible group is accepted if it reaches the confidence.
    3. If it would reach it should all open leases agree with it, they are waited for.
    4. Otherwise another replica is needed, up to `results_max` results in all.
    """
    groups = grouped(results)
    # Step 1
    if len(groups) > 1 and auditor_available:
        return NeedAudit()
    # Step 2
    leader, credibility = most_credible(groups)
    missing = _log_odds_missing(groups, leader, confidence)
    if leader and missing <= ENOUGH:
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


def _difference(a: Tensor, b: Tensor, tolerance: Tolerance) -> str:
    """How `a` differs from the reference `b`; "" if it does not."""
    if dtype_name(a) != dtype_name(b) or a.shape != b.shape:
        return f"is {dtype_name(a)}{list(a.shape)}, the reference {dtype_name(b)}{list(b.shape)}"
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    differences = sum(
        _count_differences(
            flat_a[start : start + _VALUES_AT_ONCE], flat_b[start : start + _VALUES_AT_ONCE], tolerance
        )
        for start in range(0, a.size, _VALUES_AT_ONCE)
    )
    if not differences:
        return ""
    beyond = " beyond tolerance" if a.dtype.kind == "f" else ""
    return f"differs{beyond} in {differences} of {a.size} values"


def _count_differences(a: Tensor, b: Tensor, tolerance: Tolerance) -> int:
    """In how many values `a` is not the reference `b`."""
    if np.array_equal(a.view(np.uint8), b.view(np.uint8)):  # unlike `tobytes`, it lets other threads run
        return 0
    if a.dtype.kind != "f":
        # At least one: booleans of unequal bits can have the same value.
        return int(np.count_nonzero(a != b)) or 1
    # Through doubles: in half precision the tolerance itself would round away or overflow.
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    close = np.isclose(wide_a, wide_b, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True)
    return int((~close).sum())
