"""All coefficients of the market. `docs/market.md` explains how each is used.

A quantity in `bids` is a multiple of the typical bid for the job at hand, so one policy fits cheap jobs and
dear ones alike. Changing the policy changes no record: a journal can be replayed under another one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from tradepost.bounded import Count, Positive

#: A century: longer than any market, and far below what a date or a timer can hold.
SECONDS_MAX: Final = 100 * 365.25 * 24 * 3600
WEIGHT_MAX: Final = 1e6

Seconds = Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)]
Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
Weight = Annotated[float, msgspec.Meta(ge=0, le=WEIGHT_MAX)]


class MarketPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the market values, verifies, pays and waits. The defaults suit a market of untrusted parties."""

    # Verification
    #: f: the share of workers believed faulty before any evidence.
    fault_fraction: Annotated[float, msgspec.Meta(ge=1e-6, le=0.499)] = 0.2
    #: q: the probability that a delivered result is checked against a reference run.
    audit_rate: Ratio = 0.1
    #: The probability that a result of a worker that is only just believed alone is checked; it falls with
    #: its record. 0: such results are checked like all others.
    recheck_rate: Ratio = 0.5
    #: What a wrong result gains its worker at most, in prices of its lease: it is checked so often that this
    #: never pays, given its stake and what is held of it. 0, or no `audit_rate`: whatever it has to lose.
    cheat_gain_prices: Weight = 1.0
    #: The most that the probability of a check rises to for results of two owners who agree with each other
    #: more than draws explain. 0: they are checked like all others.
    agreeing_check_rate: Ratio = 0.5
    #: An owner is believed alone as long as its payments that are held are covered: by its stakes, and by so
    #: many results for each check that it has passed. 0: whatever is held.
    exposure_results: Weight = 10.0
    #: A job with this many results and no decision is given up.
    results_max: Positive = 9
    #: Reference runs of one job that may be lost before it is decided without one.
    audits_lost_max: Positive = 3
    #: Auditors of so many owners must contradict a result, each twice, before its worker is expelled.
    references_to_expel: Positive = 2
    #: Whether the other devices of an owner of whom one is expelled get no leases until what they were paid
    #: for and is held is re-examined. Not without `reexamine_s`.
    owner_examined: bool = True
    #: Whether a payment that must be held longer waits for what is due before it, if a tick comes late too.
    matures_in_order: bool = True
    #: Whether the verdict on a job is retracted if none of its accepted results is right, and given again if
    #: one of them is cleared; else it is retracted if none of all its results is right.
    verdict_by_accepted: bool = True
    #: Whether a kernel that gave other bytes from the same bytes contradicts a result, whatever other results
    #: it agrees with within a tolerance; else a result is right if its group is.
    stage_proofs: bool = True
    #: Spot checks that may wait for an auditor; beyond, none are chosen.
    audit_backlog_max: Count = 1_000
    #: Whether results that are in doubt take no room of the spot checks that may wait.
    reexamined_apart: bool = True
    #: Contested jobs that may wait for each reference run that auditors can make at once; further ones are
    #: decided by more results. 0 is no limit.
    contested_per_run_max: Weight = 2.0
    #: Whether accounts and pipelines share auditors' time fairly, and a lost reference run goes to another
    #: auditor.
    fair_audits: bool = True
    #: Whether an auditor that may not run the first job of a pipeline that waits looks at others whose
    #: reference runs so far, or whose needs, are different.
    audits_by_terms: bool = True

    # Valuing a bid
    #: What a failed lease costs its submitter.
    failure_cost_bids: Weight = 1.0
    #: What a second of delay costs.
    delay_cost_bids_per_s: Weight = 0.02
    #: What an open lease of a worker costs a job that prefers those with few.
    load_cost_bids: Weight = 0.1
    #: How fast a worker is assumed to fetch artifacts that it has not cached.
    fetch_bytes_per_s: Positive = 10 << 20
    #: Whether what a bid is worth, and its price, depend on no bid of its own; else on the median of the bids
    #: at hand.
    bids_independent: bool = True

    # Matching
    #: Cheapest eligible offers that one auction weighs.
    candidates_max: Positive = 32
    #: Offers that one search looks at before it stops.
    scan_max: Positive = 256
    #: Offers that are drawn at random if a search ended at offers that are not eligible.
    hidden_draws_max: Count = 8
    #: Owners that a draw for a replica is opened to, cheapest first, before price matters.
    draw_owners_min: Positive = 16
    #: The share of owners, those with the highest bids, whose bids do not raise what replicas are paid.
    draw_highest_share: Annotated[float, msgspec.Meta(ge=0, le=0.999)] = 0.25
    #: Nor do bids above this multiple of the median; 0 is no bound.
    draw_bid_medians_max: Weight = 1.5
    #: Losers that a match names.
    losers_recorded_max: Count = 4
    #: Whether a match in the first `reconnect_s` after a restart counts the offers that are not back yet.
    absent_recorded: bool = True
    #: Whether those offers count for the price, as those of busy workers do, and what earlier winners asked
    #: is known after a restart.
    absent_compete: bool = True
    #: Failed matches of waiting jobs after which the search stops, when one worker has capacity again.
    rematches_max: Positive = 32
    #: Waiting jobs of one kind that are looked at when a worker has capacity again.
    waiting_looks_max: Positive = 500
    #: Jobs that one event advances beyond, and reviews or ends as time passes; further ones wait for the next
    #: tick. Each takes about a millisecond. 0 is no limit.
    jobs_per_event_max: Count = 16

    # Leases
    #: Time beyond the pipeline's own wall-clock limit for transfers and queueing.
    lease_grace_s: Seconds = 20.0
    #: How long a lease outlives its worker's connection.
    reconnect_s: Seconds = 20.0
    #: For how long after its own end a lease lost by absence may be answered by a receipt, so that it is no
    #: evidence.
    late_receipt_s: Seconds = 600.0
    #: Leases of one job that may be lost before it fails, and those of proven workers among them, if there
    #: are proven ones that have not tried it.
    attempts_max: Positive = 5
    attempts_proven_max: Count = 2
    #: Whether a job that only proven workers may have any more waits for no others: if those ask too much,
    #: its patience runs.
    proven_price_counts: bool = True
    #: Whether a lost lease excludes all devices of its owner, and an owner's first preemption of a job costs
    #: the job no attempt.
    losses_by_owner: bool = True
    #: Whether a job whose leases were mostly lost because of a time limit ends with that error, else with
    #: `worker-lost`.
    lost_by_cause: bool = True
    #: The least share of its price that a lease costs its submitter once it was granted, if its job is
    #: cancelled or fails by its own doing. 0: such work is not paid.
    begun_share: Ratio = 0.1
    #: Jobs of an account on a pipeline get no more leases once they failed on this many owners, if that is
    #: more than gave results. 0: never.
    quarantine_owners: Count = 3
    #: Late leases of one job for which others are granted at once, before they end. 0: none.
    hedges_max: Count = 3
    #: A lease is late after this many times what its pipeline's runs take, and `late_s_min` more.
    late_after_runs: Annotated[float, msgspec.Meta(ge=1, le=WEIGHT_MAX)] = 2.0
    late_s_min: Seconds = 2.0
    #: Leases that an owner may break off; those that each accepted result adds, up to the former.
    break_offs_free: Weight = 6.0
    break_offs_earned: Weight = 0.5
    #: For how long an owner who broke off more gets no new leases, the first time, and at most. Each time is
    #: twice as long as the one before. 0: never.
    cool_off_s: Seconds = 60.0
    cool_off_s_max: Seconds = 3_600.0
    #: Whether a lease that was open while the broker was away blames nobody when it is given back as failed.
    interrupted_excused: bool = True
    #: Open leases of a worker that has not passed `proven_checks` checks.
    exposure_leases_max: Positive = 4
    proven_checks: Weight = 10.0

    # Evidence: what each kind weighs, in good or bad results
    half_life_days: Annotated[float, msgspec.Meta(ge=0.001, le=36_525)] = 30.0
    agreed_weight: Weight = 1.0
    audit_passed_weight: Weight = 1.0
    #: Passed checks that one agreement counts as. Less than a reference run: colluders can stage it.
    agreed_checks: Weight = 0.25
    outvoted_weight: Weight = 1.0
    lost_weight: Weight = 0.5
    #: Failed runs that the jobs of one account, and the results of one other owner, count against a worker
    #: for; within a half-life. A reference run adds to that. 0: no limit.
    failures_counted_max: Count = 2
    #: Whether a lost lease is evidence only when its job has ended; else some are at once.
    lost_at_end: bool = True
    #: Whether the leases that a device loses by one absence count as one.
    absence_counts_once: bool = True
    #: Passed checks that one outvoted result cancels.
    outvoted_checks: Weight = 10.0
    #: Whether checks count by pipeline, submitter and independent partner; else by capability class alone.
    independent_partners: bool = True
    #: The checks that agreements with one partner count for, in one pipeline.
    partner_checks_max: Weight = 1.0
    #: The checks that one submitter vouches for to all others, in one pipeline.
    vouched_checks_max: Weight = 0.5
    #: Owners are kept apart if they give the same wrong results so often that this is how probable it is by
    #: chance, corrected for all sets of owners that could be found. 0: never.
    collusion_p_max: Ratio = 1e-4
    #: A worker with at least this much evidence and a score below this is suspended.
    suspend_evidence_min: Weight = 5.0
    suspend_below_score: Ratio = 0.2

    # Money and memory
    #: How long a payment is held before it matures.
    hold_s: Seconds = 600.0
    #: For how long results of an expelled worker that were accepted, and whose payments were still held, wait
    #: for a reference run. 0: they are not re-examined, and no verdict changes.
    reexamine_s: Seconds = 3_600.0
    #: How long a finished job stays in memory.
    retain_s: Seconds = 300.0
    #: How long after its job has finished an idempotency key is honoured. At least `retain_s`.
    idempotency_s: Seconds = 1_800.0


#: The rules of starts that were recorded before these settings existed.
_EARLIER_RULES: Final = {
    "losses_by_owner": False,
    "lost_by_cause": False,
    "begun_share": 0.0,
    "quarantine_owners": 0,
    "references_to_expel": 1,
    "absent_recorded": False,
    "absent_compete": False,
    "interrupted_excused": False,
    "hedges_max": 0,
    "cool_off_s": 0.0,
    "attempts_proven_max": 0,
    "proven_price_counts": False,
    "hidden_draws_max": 0,
    "draw_highest_share": 0.0,
    "draw_bid_medians_max": 0.0,
    "independent_partners": False,
    "fair_audits": False,
    "jobs_per_event_max": 0,
    "bids_independent": False,
    "reexamine_s": 0.0,
    "recheck_rate": 0.0,
    "contested_per_run_max": 0.0,
    "collusion_p_max": 0.0,
    "failures_counted_max": 0,
    "lost_at_end": False,
    "verdict_by_accepted": False,
    "audits_by_terms": False,
    "cheat_gain_prices": 0.0,
    "exposure_results": 0.0,
    "agreeing_check_rate": 0.0,
    "owner_examined": False,
    "reexamined_apart": False,
    "absence_counts_once": False,
    "matures_in_order": False,
    "stage_proofs": False,
}


def recorded_policy(recorded: bytes) -> MarketPolicy:
    """The policy of an earlier start as it was recorded (msgpack), so that a replay decides by its rules.

    Raises an error of msgspec if it is damaged.
    """
    settings = msgspec.msgpack.decode(recorded, type=dict[str, Any])
    return msgspec.convert(_EARLIER_RULES | settings, MarketPolicy)
