"""What follows where a stage proves that two results contradict each other.

A kernel gives the same bytes wherever it runs. Where two results give other bytes from the same bytes, one of
them is wrong, even if a third agrees with both: that one ran on another execution provider, so that its
tolerance covers what the stages tell apart. So the two are never in one group, and a reference run that
proves a result wrong is not outweighed by other results of its group, nor by reference runs on other
providers, which merely cannot see it. Such a run of a second owner's auditor is enough, one of each: unlike a
model, a kernel cannot give another result in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tradepost_broker.market.model.entities import Job, Lease
from tradepost_broker.market.model.events import ReceiptDelivered
from tradepost_broker.market.settling.reference_runs import contradicted, is_proven, references
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.trust.verification import blamed_stage


def note(state: MarketState, lease: Lease, event: ReceiptDelivered) -> None:
    """Note the results of its job that a new one cannot agree with."""
    if state.policy.stage_proofs and event.proofs:
        lease.contradicts = dict(event.proofs)


def group_of(lease: Lease, peers: Sequence[Lease], agrees_with: frozenset[str]) -> str:
    """The group of a new result: the first with a result that it agrees with and none that it contradicts.

    Its own if there is no such group.
    """
    excluded = {peer.group for peer in peers if peer.id in contradicted(lease)}
    groups = (peer.group for peer in peers if peer.id in agrees_with and peer.group not in excluded)
    return next(groups, lease.id)


def agrees_with_any(lease: Lease, others: Iterable[Lease]) -> bool:
    """Whether a result agrees with one of the others itself, be it as a member of another group."""
    return any(_agree(lease, other) for other in others)


def note_contradicted(state: MarketState, audit: Lease, wrong: Sequence[Lease]) -> None:
    """Note which results a reference run contradicts: later runs of the job are counted with it."""
    if state.policy.stage_proofs and wrong:
        audit.contradicts = {lease.id: "" for lease in wrong} | dict(contradicted(audit))
        state.save(audit)


def stage_at_fault(lease: Lease, other: Lease) -> str:
    """The stage in which a result differs from another that contradicts it, "" if none does."""
    proof = contradicted(other).get(lease.id) or contradicted(lease).get(other.id)
    return proof or blamed_stage(lease.stage_hashes, other.stage_hashes)


def in_words(finding: str, audit: Lease, lease: Lease) -> str:
    """A finding of a reference run about a result, with the stage that proves it."""
    stage = contradicted(audit).get(lease.id)
    return f"{finding}: the output of stage {stage} must be the same bytes everywhere" if stage else finding


def is_confirmed(state: MarketState, job: Job, lease: Lease) -> bool:
    """Whether auditors of enough owners contradict an accused result.

    Without a proof that is so once all have run the job, since one that agrees would have cleared it.
    """
    if not is_proven(state, job, lease.id):
        return True
    owners = {
        state.workers[audit.worker].record.owner
        for audit in references(state, job)
        if lease.id in contradicted(audit)
    }
    return len(owners) >= state.policy.references_to_expel


def _agree(lease: Lease, other: Lease) -> bool:
    if other.id in contradicted(lease) or lease.id in contradicted(other):
        return False
    return lease.outcome == other.outcome or other.id in lease.shares or lease.id in other.shares
