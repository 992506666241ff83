"""All coefficients of the market. `docs/market.md` explains how each is used.

A quantity in `bids` is a multiple of the typical bid for the job at hand, so one policy fits cheap jobs and
dear ones alike. Changing the policy changes no record: a journal can be replayed under another one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from tradepost.bounded import Count, Positive

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
Weight = Annotated[float, msgspec.Meta(ge=0)]


class MarketPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the market values, verifies, pays and waits. The defaults suit a market of untrusted parties."""

    # Verification
    #: f: the share of workers believed faulty before any evidence.
    fault_fraction: Annotated[float, msgspec.Meta(gt=0, lt=0.5)] = 0.2
    #: q: the probability that a delivered result is checked against a reference run.
    audit_rate: Ratio = 0.1
    #: A job with this many results and no decision is given up.
    results_max: Positive = 9
    #: Reference runs of one job that may be lost before it is decided without one.
    audits_lost_max: Positive = 3
    #: Auditors of so many owners must contradict a result, each twice, before its worker is expelled.
    references_to_expel: Positive = 2
    #: Spot checks that may wait for an auditor; beyond, none are chosen.
    audit_backlog_max: Count = 1_000

    # Valuing a bid
    #: What a failed lease costs its submitter.
    failure_cost_bids: Weight = 1.0
    #: What a second of delay costs.
    delay_cost_bids_per_s: Weight = 0.02
    #: How fast a worker is assumed to fetch artifacts that it has not cached.
    fetch_bytes_per_s: Positive = 10 << 20

    # Matching
    #: Cheapest eligible offers that one auction weighs.
    candidates_max: Positive = 32
    #: Offers that one search looks at before it stops.
    scan_max: Positive = 256
    #: Owners that a draw for a replica is opened to, cheapest first, before price matters.
    draw_owners_min: Positive = 16
    #: Losers that a match names.
    losers_recorded_max: Count = 4
    #: Failed matches of waiting jobs after which the search stops, when one worker has capacity again.
    rematches_max: Positive = 32
    #: Waiting jobs of one kind that are looked at when a worker has capacity again.
    waiting_looks_max: Positive = 500

    # Leases
    #: Time beyond the pipeline's own wall-clock limit for transfers and queueing.
    lease_grace_s: Seconds = 20.0
    #: How long a lease outlives its worker's connection.
    reconnect_s: Seconds = 20.0
    #: For how long after its own end a lease lost by absence may be answered by a receipt, so that it is no
    #: evidence.
    late_receipt_s: Seconds = 600.0
    #: Leases of one job that may be lost before it fails.
    attempts_max: Positive = 5
    #: Whether a lost lease excludes all devices of its owner, and an owner's first preemption of a job costs
    #: the job no attempt.
    losses_by_owner: bool = True
    #: The least share of its price that a lease costs its submitter once it was granted, if its job is
    #: cancelled or fails by its own doing. 0: such work is not paid.
    begun_share: Ratio = 0.1
    #: Jobs of an account on a pipeline get no more leases once they failed on this many owners, if that is
    #: more than gave results. 0: never.
    quarantine_owners: Count = 3
    #: Open leases of a worker that has not passed `proven_checks` checks.
    exposure_leases_max: Positive = 4
    proven_checks: Weight = 10.0

    # Evidence: what each kind weighs, in good or bad results
    half_life_days: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    agreed_weight: Weight = 1.0
    audit_passed_weight: Weight = 1.0
    #: Passed checks that one agreement counts as. Less than a reference run: colluders can stage it.
    agreed_checks: Weight = 0.25
    outvoted_weight: Weight = 1.0
    lost_weight: Weight = 0.5
    #: Passed checks that one outvoted result cancels.
    outvoted_checks: Weight = 10.0
    #: A worker with at least this much evidence and a score below this is suspended.
    suspend_evidence_min: Weight = 5.0
    suspend_below_score: Ratio = 0.2

    # Money and memory
    #: How long a payment is held before it matures.
    hold_s: Seconds = 600.0
    #: How long a finished job stays in memory.
    retain_s: Seconds = 300.0
    #: How long after its job has finished an idempotency key is honoured. At least `retain_s`.
    idempotency_s: Seconds = 1_800.0


#: The rules of starts that were recorded before these settings existed.
_EARLIER_RULES: Final = {
    "losses_by_owner": False,
    "begun_share": 0.0,
    "quarantine_owners": 0,
    "references_to_expel": 1,
}


def recorded_policy(recorded: bytes) -> MarketPolicy:
    """The policy of an earlier start as it was recorded (msgpack), so that a replay decides by its rules.

    Raises an error of msgspec if it is damaged.
    """
    settings = msgspec.msgpack.decode(recorded, type=dict[str, Any])
    return msgspec.convert(_EARLIER_RULES | settings, MarketPolicy)
