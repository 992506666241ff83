"""Pays preempted work by stage, when the job's result confirms the stages.

A lease that was preempted reports the stages that it had done. If the job ends with a verified result, it is
paid for those from the first on whose hashes are the result's. The shares come from the clocks of the workers
that gave the result, never from its own; of several, the least counts. Four bounds keep breaking off from
being a trade: an owner is paid once for a job, so nobody hands its own work on to itself; all such payments
of a job together are at most what one result was paid, so a ring of owners cannot multiply it; they come out
of what is left of the cap; and the last stage is never among them. `docs/market.md` has the reasoning.

The functions here only say what is due; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

from tradepost_broker.market.model.entities import Lease, LeasePurpose, LeaseState
from tradepost_broker.market.model.policy import MarketPolicy


class StagePayment(NamedTuple):
    """The payment of one preempted lease for its first `stages` stages, in microcredits."""

    lease: Lease
    stages: int
    amount_microcredits: int


def preempted(leases: Sequence[Lease]) -> list[Lease]:
    """Those that were preempted after some of their stages, reference runs aside."""
    return [
        lease
        for lease in leases
        if lease.state is LeaseState.PREEMPTED
        and lease.stage_hashes
        and lease.purpose is not LeasePurpose.AUDIT
    ]


def set_aside(leases: Sequence[Lease], cap_microcredits: int, policy: MarketPolicy) -> int:
    """How much of the cap the next auction leaves to preempted leases of the job, if bids allow.

    At most half, since together they are paid no more than a result. Without it, a worker that bids alone
    would be paid all of the cap, and nothing were left for them.
    """
    dearest_microcredits = max((lease.price_microcredits for lease in preempted(leases)), default=0)
    if policy.bids_independent:
        return min(dearest_microcredits, cap_microcredits // 2)
    return dearest_microcredits // 2


def due(
    leases: Sequence[Lease],
    accepted: Sequence[Lease],
    *,
    owner_of: Callable[[Lease], str],
    left_microcredits: int,
) -> list[StagePayment]:
    """What the preempted ones of a job's `leases` are due, now that it ends with the `accepted` ones.

    `left_microcredits` is what is left of the job's reservation once these are paid. Who got furthest comes
    first.
    """
    left_microcredits = min(left_microcredits, max(lease.paid_microcredits for lease in accepted))
    paid_owners = {owner_of(lease) for lease in accepted}
    claims = [(confirmed_stages(lease, accepted), lease) for lease in preempted(leases)]
    payments: list[StagePayment] = []
    for stages, lease in sorted(claims, key=lambda claim: (-claim[0], claim[1].attempt)):
        amount_microcredits = min(_worth(lease.price_microcredits, stages, accepted), left_microcredits)
        if amount_microcredits and owner_of(lease) not in paid_owners:
            paid_owners.add(owner_of(lease))
            left_microcredits -= amount_microcredits
            payments.append(StagePayment(lease, stages, amount_microcredits))
    return payments


def confirmed_stages(lease: Lease, results: Sequence[Lease]) -> int:
    """How many stages of a lease, from the first on, have the same hashes as one of `results`."""
    return max((_common(lease, result) for result in results), default=0)


def _common(lease: Lease, result: Lease) -> int:
    pairs = zip(lease.stage_hashes, result.stage_hashes, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _worth(price_microcredits: int, stages: int, results: Sequence[Lease]) -> int:
    """The least share of `price_microcredits` that the first `stages` took by the clock of any of `results`.

    Where no result says how long its stages took, it is nothing: to share equally would make the cheap ones a
    bargain.
    """
    clocks = [result.stage_wall_us for result in results if sum(result.stage_wall_us)]
    return min((price_microcredits * sum(clock[:stages]) // sum(clock) for clock in clocks), default=0)
