"""Finds owners that give the same wrong results together, and keeps them apart from then on.

Whatever was found wrong counts: outvoted results, and those that reference runs contradict. A finding is no
proof: two devices with the same rare fault look alike. So it takes no stake and lowers no score. It makes the
owners one voice: they get no leases of the same job, do not confirm each other, and are not believed alone
(`rechecks`). The operator sees who it is, how often they erred together, how often was to be expected, and in
which jobs. If so much of it is withdrawn that chance explains the rest, the finding is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

from tradepost_broker.market.model.entities import (
    CollusionFinding,
    Evidence,
    EvidenceKind,
    Job,
    Lease,
    OwnerPair,
    is_failure,
)
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.trust.co_wrong import CoWrong, Excess

#: Jobs that a finding names, the newest.
_JOBS_MAX: Final = 32
_COUNTED: Final = (EvidenceKind.OUTVOTED, EvidenceKind.CONTRADICTED)


def note_wrong(state: MarketState, job: Job, wrong: Sequence[Lease]) -> None:
    """Note which owners gave the same wrong result of a job, and draw the conclusions.

    Equal failures are left out, because the job may be their cause.
    """
    if not state.policy.collusion_p_max:
        return
    for group in sorted({lease.group for lease in wrong if not is_failure(lease.outcome)}):
        together = {_owner(state, lease): lease for lease in wrong if lease.group == group}
        changed: list[CoWrong] = []
        for owner, other in combinations(sorted(together), 2):
            drawn_from = _drawn_from(state, together[owner], together[other])
            one = CoWrong(state.at, job.id, owner, other, job.pipeline, drawn_from)
            dropped = state.co_wrong.add(one)
            if dropped is not None:
                changed += [one, *dropped]
        if changed:
            _save_pairs(state, changed)
            _conclude(state, state.co_wrong.most_unlikely(together))


def withdraw(state: MarketState, evidence: Evidence) -> None:
    """Take in that a result was perhaps right: what it had part in does not count."""
    if evidence.kind not in _COUNTED:
        return
    owner = state.workers[evidence.worker].record.owner
    gone = state.co_wrong.withdraw(evidence.job, owner)
    _save_pairs(state, gone)
    for finding in {one.id: one for pair in gone if (one := state.finding_of(pair.owner))}.values():
        left = state.co_wrong.excess(finding.owners)
        if left.p_value > state.policy.collusion_p_max:
            finding.withdrawn_at = state.at
            state.save(finding)
            state.drop_finding(finding)


def _conclude(state: MarketState, excess: Excess) -> None:
    """Make a finding, or widen the one that these owners are part of already."""
    if excess.p_value > state.policy.collusion_p_max:
        return
    known = {one.id: one for owner in excess.owners if (one := state.finding_of(owner))}
    owners = set(excess.owners).union(*(one.owners for one in known.values()))
    if len(owners) > len(excess.owners):
        excess = state.co_wrong.excess(owners)
    finding = known[min(known)] if known else CollusionFinding(id=excess.jobs[-1], found_at=state.at)
    for other in known.values():
        if other is not finding:
            other.withdrawn_at = state.at
            state.save(other)
            state.drop_finding(other)
    finding.owners = tuple(sorted(owners))
    finding.jobs = excess.jobs[-_JOBS_MAX:]
    finding.co_wrong = len(excess.jobs)
    finding.expected = float(f"{excess.expected:.6g}")
    finding.p_value = float(f"{excess.p_value:.3g}")
    state.save(finding)
    state.add_finding(finding)


def _save_pairs(state: MarketState, changed: Sequence[CoWrong]) -> None:
    for owner, other in sorted({(one.owner, one.other) for one in changed}):
        kept = state.co_wrong.of(owner, other)
        wrong = tuple((one.job, one.pipeline, one.drawn_from, one.at) for one in kept)
        state.save(OwnerPair(id=f"{owner}\x1f{other}", owner=owner, other=other, wrong=wrong))


def _drawn_from(state: MarketState, lease: Lease, other: Lease) -> int:
    """From how many owners one of two was drawn, if they were few; 0 if many could have been."""
    drawn_from = max(lease.drawn_from, other.drawn_from, 1)
    return drawn_from if drawn_from < state.policy.draw_owners_min else 0


def _owner(state: MarketState, lease: Lease) -> str:
    return state.workers[lease.worker].record.owner
