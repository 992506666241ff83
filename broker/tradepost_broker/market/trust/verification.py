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
from tradepost.pipeline.tolerances import CEILINGS
from tradepost_reputation import credibility_of_groups, log_odds
from tradepost_reputation.credibility import ENOUGH

#: Values of a tensor that are compared in one step: temporary arrays stay small, and other threads can run.
_VALUES_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True)
class Agreement:
    """Whether two outcomes agree, and if not, the first difference in words.

    `share` is how much of the tolerance the value that differs most has used, 0 to 1 where they agree.
    """

    agrees: bool
    difference: str = ""
    share: float = 0.0


def compare_documents(
    a: TensorDocument, b: TensorDocument, tolerance: Tolerance, *, has_reference: bool = True
) -> Agreement:
    """Whether `a` is the same result as the reference `b`.

    Metadata, names, dtypes and shapes must be equal, and so must integers and booleans; floats may differ by
    `atol + rtol * |b|`, and NaN equals NaN. Bits that are equal always agree. The tolerance is lowered to the
    ceiling of each tensor's dtype. Without a reference, the smaller of both stands for `b`, so that the
    order does not matter and a large value makes no room for itself.
    """
    if dict(a.metadata) != dict(b.metadata):
        return Agreement(False, "the metadata differs")
    if set(a.tensors) != set(b.tensors):
        return Agreement(False, f"it has tensors {sorted(a.tensors)}, the reference {sorted(b.tensors)}")
    share = 0.0
    for name in sorted(a.tensors):
        difference, used = _difference(a[name], b[name], tolerance, has_reference=has_reference)
        if difference:
            return Agreement(False, f"tensor {name!r} {difference}")
        share = max(share, used)
    return Agreement(True, share=share)


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


def _difference(a: Tensor, b: Tensor, tolerance: Tolerance, *, has_reference: bool) -> tuple[str, float]:
    """How `a` differs from the reference `b`, "" if it does not, and the share of the tolerance used."""
    if dtype_name(a) != dtype_name(b) or a.shape != b.shape:
        return f"is {dtype_name(a)}{list(a.shape)}, the reference {dtype_name(b)}{list(b.shape)}", 0.0
    tolerance = tolerance.within(CEILINGS.get(dtype_name(a), tolerance))
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    differences, share = 0, 0.0
    for start in range(0, a.size, _VALUES_AT_ONCE):
        part = slice(start, start + _VALUES_AT_ONCE)
        count, used = _count_differences(flat_a[part], flat_b[part], tolerance, has_reference=has_reference)
        differences, share = differences + count, max(share, used)
    if not differences:
        return "", share
    beyond = " beyond tolerance" if a.dtype.kind == "f" else ""
    return f"differs{beyond} in {differences} of {a.size} values", share


def _count_differences(
    a: Tensor, b: Tensor, tolerance: Tolerance, *, has_reference: bool
) -> tuple[int, float]:
    """In how many values `a` is not the reference `b`, and the share of the tolerance that the others use."""
    if np.array_equal(a.view(np.uint8), b.view(np.uint8)):  # unlike `tobytes`, it lets other threads run
        return 0, 0.0
    if a.dtype.kind != "f":
        # At least one: booleans of unequal bits can have the same value.
        return int(np.count_nonzero(a != b)) or 1, 0.0
    # Through doubles: in half precision the tolerance itself would round away or overflow.
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    equal = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
    size = np.abs(wide_b) if has_reference else np.minimum(np.abs(wide_a), np.abs(wide_b))
    allowed = tolerance.atol + tolerance.rtol * size
    with np.errstate(invalid="ignore", over="ignore"):  # infinities, or values too far apart
        apart = np.abs(wide_a - wide_b)
    close = equal | (np.isfinite(apart) & (apart <= allowed))
    within = close & ~equal
    share = float((apart[within] / allowed[within]).max(initial=0.0))
    return int((~close).sum()), share
