"""Why a job found no worker, or no agreement: the typed error, with what would have matched.

Counts come from whole buckets where they can (so they cost nothing), and from at most `scan_max` offers where
a worker's own state matters. Every hint names something that the submitter can change.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from tradepost.errors import (
    DeadlineExceeded,
    LeaseTimeout,
    NoEligibleWorker,
    NotVerified,
    PriceCapTooLow,
    Problem,
    TradepostError,
    UntrustedPipeline,
    WorkerLost,
)
from tradepost.money import MICROCREDITS_MAX, counted_credits
from tradepost.plurals import counted, noun
from tradepost_broker.market.matching.eligible_offers import EligibleOffers
from tradepost_broker.market.matching.outlook import Outlook, Plan, plan
from tradepost_broker.market.matching.worker_filter import ENGINE_BELOW, OWNER_NOT_ALLOWED, SCORE_BELOW
from tradepost_broker.market.model.entities import Job, LeaseState
from tradepost_broker.market.model.lease_states import LOST
from tradepost_broker.market.state.market_state import MarketState

#: Causes of lost leases that are the job's or its pipeline's doing, by their codes. Those that a worker
#: finds in a stage are delivered with a receipt instead.
_OF_THE_JOB: Final = {error.code(): error for error in (DeadlineExceeded, LeaseTimeout)}
#: Of those who signed a pipeline, as the facts of an error list them.
_PUBLISHERS_SHOWN: Final = 16


class _Filtered(NamedTuple):
    """How offers that a requirement leaves out are described, what it is on, and the name of their count."""

    described: str
    subject: str
    fact: str


_FILTERED: Final = {
    OWNER_NOT_ALLOWED: _Filtered("of owners that the job does not allow", "owners", "owner_not_allowed"),
    ENGINE_BELOW: _Filtered("with engines older than the job requires", "engines", "lack_engine"),
    SCORE_BELOW: _Filtered("with scores below what the job requires", "the score", "lack_score"),
}


def explain(state: MarketState, job: Job, log_odds_missing: float, prospect: Outlook) -> TradepostError:
    """The error of a job whose patience is over while nobody could take it."""
    results = state.ordinary_leases(job, LeaseState.DELIVERED)
    delivered = len(results)
    if delivered == 1 and results[0].problem is not None:
        return _unconfirmed_failure(results[0].problem)
    if delivered:
        return _not_confirmed(state, job, delivered, prospect)
    if _losses(state, job):
        return worker_lost(state, job)
    return unmatched(state, job, prospect, plan(state, job, log_odds_missing))


def unmatched(
    state: MarketState, job: Job, prospect: Outlook, best: Plan | None, *, workers_max: int | None = None
) -> TradepostError:
    """The error of a job without any lease that nobody could take; `best` is the plan for it.

    At most `workers_max` workers are asked why they refused the pipeline; without it, all are.
    """
    if prospect is Outlook.TOO_DEAR and best is not None:
        return _price_cap_too_low(job, best)
    ineligible = EligibleOffers(state, job, again=True).count_ineligible()
    refused = ineligible["refused"]
    problems = _refusals(state, job, workers_max) if refused else []
    if refused and best is None and _is_trust(problems):
        pipeline = state.pipelines[job.pipeline]
        return UntrustedPipeline(
            f"{counted(refused, 'worker')} could run pipeline {job.pipeline}, and "
            f"{noun(refused, 'it', 'all')} refused it",
            workers=refused,
            publishers=list(pipeline.publishers or (pipeline.publisher,))[:_PUBLISHERS_SHOWN],
        )
    return _no_eligible_worker(state, job, best, ineligible, problems)


def worker_lost(state: MarketState, job: Job) -> TradepostError:
    """The error of a job whose leases were all lost; it names why most of them were.

    Where that is the job's time or its pipeline's, the error is the one of that cause: neither another worker
    nor another time would help.
    """
    problems = [lease.problem for lease in state.leases_of[job.id] if lease.state in LOST and lease.problem]
    losses = _losses(state, job)
    lost = counted(losses, "lease was lost", "leases were lost")
    if not problems:
        return WorkerLost(lost, leases_lost=losses)
    counts = Counter(problem.code for problem in problems)
    # Of several causes that are as frequent, the one that was met last.
    cause = max(reversed(problems), key=lambda problem: counts[problem.code])
    detail = f"{lost}; the cause of {counts[cause.code]} of them: {cause.detail or cause.title}"
    error = _OF_THE_JOB.get(cause.code) if state.policy.lost_by_cause else None
    return (error or WorkerLost)(detail, leases_lost=losses)


def _losses(state: MarketState, job: Job) -> int:
    """How many leases were lost, those included that cost the job no attempt."""
    if not state.policy.losses_by_owner:
        return job.failures
    forgiven, known = 0, set[str]()
    for lease in state.leases_of[job.id]:
        if lease.state in LOST:
            loser = state.loser(state.workers[lease.worker])
            forgiven += lease.state is LeaseState.PREEMPTED and loser not in known
            known.add(loser)
    return job.failures + forgiven


def not_verified(state: MarketState, job: Job, credibility: float) -> TradepostError:
    """The error of a job that has all the results that policy allows, and no agreement."""
    results = len(state.ordinary_leases(job, LeaseState.DELIVERED))
    return NotVerified(
        f"{counted(results, 'result')} reached credibility {credibility:.4f} of {job.confidence:g}",
        results=results,
        credibility=credibility,
        confidence=job.confidence,
    )


def deadline_exceeded(state: MarketState, job: Job) -> TradepostError:
    """The error of a job whose time is over, saying what it was still waiting for."""
    delivered = len(state.ordinary_leases(job, LeaseState.DELIVERED))
    running = len(state.ordinary_leases(job, LeaseState.OPEN))
    if running:
        awaited = counted(running, "lease was still open", "leases were still open")
    elif delivered:
        awaited = "its results were not confirmed yet"
    else:
        awaited = "no worker had free capacity"
    return DeadlineExceeded(
        f"after {job.deadline_at - job.submitted_at:g} s {awaited}",
        results=delivered,
        open_leases=running,
        hint="Set a longer deadline_s, or raise max_price to reach more workers.",
    )


def _unconfirmed_failure(problem: Problem) -> TradepostError:
    """The failure that one worker reported, which its submitter may want to know all the same."""
    detail = f"{problem.detail} (reported by one worker; no other owner could confirm it, so it is not paid)"
    return TradepostError.from_problem(msgspec.structs.replace(problem, detail=detail.strip()))


def _not_confirmed(state: MarketState, job: Job, delivered: int, prospect: Outlook) -> TradepostError:
    left_microcredits = job.cap_microcredits - job.committed_microcredits
    if prospect is Outlook.TOO_DEAR:
        left = counted_credits(left_microcredits)
        reason = f"what is left of the cap, {left}, is too little for another result"
    else:
        counts = EligibleOffers(state, job).count_ineligible()
        reason = f"no worker of another owner can run it{_listed(counts)}"
    return NotVerified(
        f"confidence {job.confidence:g} needs more than {counted(delivered, 'result')}, and {reason}",
        results=delivered,
        confidence=job.confidence,
        left_of_cap_microcredits=left_microcredits,
    )


def _price_cap_too_low(job: Job, best: Plan) -> TradepostError:
    hints = []
    if best.cap_microcredits <= MICROCREDITS_MAX:
        hints.append(f"max_price {counted_credits(best.cap_microcredits)} would match")
    if fewer := best.affordable(job.cap_microcredits):
        results = counted(fewer, "result")
        hints.append(f"confidence {best.confidence(fewer):.4g} would match too; it needs {results}")
    return PriceCapTooLow(
        f"{counted(best.results, 'result')} would cost {counted_credits(best.cap_microcredits)} at the "
        f"standing prices; the cap is {counted_credits(job.cap_microcredits)}",
        hint="; ".join(hints or ["No cap is high enough"]) + ".",
        lowest_total_microcredits=best.cap_microcredits,
        cap_microcredits=job.cap_microcredits,
        results_needed=best.results,
    )


def _no_eligible_worker(
    state: MarketState, job: Job, best: Plan | None, ineligible: Counter[str], problems: list[Problem]
) -> TradepostError:
    need = state.need(job)
    lacking = state.offers.lacking(need)
    memory, refused = lacking.get("memory", 0) + ineligible["memory"], ineligible["refused"]
    counts = {
        f"without {' or '.join(need.providers)}": lacking.get("provider", 0),
        f"with too little memory ({need.memory_bytes / 2**30:.3g} GiB needed)": memory,
        f"without the isolation ({', '.join(need.isolation)})": lacking.get("isolation", 0),
        f"refused the pipeline{_why_refused(problems)}": refused,
        "with engines older than the operator allows": len(state.too_old),
        **{words.described: ineligible[reason] for reason, words in _FILTERED.items()},
    }
    detail = f"{counted(len(state.offers), 'standing offer')}{_listed(counts)}{_too_few(state, job, best)}"
    return NoEligibleWorker(
        detail,
        hint=_hint(state, job, best, ineligible),
        offers=len(state.offers),
        lack_provider=lacking.get("provider", 0),
        lack_memory=memory,
        lack_isolation=lacking.get("isolation", 0),
        refused=refused,
        engine_too_old=len(state.too_old),
        **_filtered_facts(ineligible),
    )


def _filtered_facts(ineligible: Counter[str]) -> dict[str, Any]:
    return {words.fact: ineligible[reason] for reason, words in _FILTERED.items() if ineligible[reason]}


def _too_few(state: MarketState, job: Job, best: Plan | None) -> str:
    if best is None:
        return ""
    needed = f"confidence {job.confidence:g} needs {counted(best.results, 'result')} of different owners"
    if best.results > state.policy.results_max:
        return f"; {needed}, but the market leases at most {state.policy.results_max}"
    return f"; {counted(len(best.owner_bids_microcredits), 'owner')} could run it, and {needed}"


def _hint(state: MarketState, job: Job, best: Plan | None, ineligible: Counter[str]) -> str:
    if best is not None:
        owners = len(best.owner_bids_microcredits)
        results = counted(owners, "result")
        return f"Confidence {best.confidence(owners):.4g} needs {results}; or wait for more owners."
    if not len(state.offers):
        return "No worker has an offer now: connect a worker, or set a longer patience_s."
    need = state.need(job)
    pipeline = state.pipelines[job.pipeline]
    relaxed = {
        "the requirement on memory": need._replace(memory_bytes=pipeline.memory_bytes),
        "the requirement on isolation": need._replace(isolation=()),
        "both requirements": need._replace(memory_bytes=pipeline.memory_bytes, isolation=()),
    }
    if job.requirements.providers:
        relaxed["the requirement on providers"] = need._replace(providers=pipeline.providers)
    for what, other in relaxed.items():
        matching = sum(len(bucket.standing) for bucket in state.offers.fitting(other))
        if other != need and matching and not state.offers.fitting(need):
            return f"Without {what}, {counted(matching, 'offer')} would match."
    for reason, words in _FILTERED.items():
        if ineligible[reason]:
            offers = counted(ineligible[reason], "offer")
            return f"Without the requirement on {words.subject}, {offers} could match."
    if job.requirements.owners_only:
        return "None of the owners that the job allows has an offer that fits; allow others, or wait for one."
    return "A worker with what the pipeline needs would match; set a longer patience_s to wait for one."


def _refusals(state: MarketState, job: Job, workers_max: int | None) -> list[Problem]:
    """Why connected workers refused the job's pipeline, as far as so many workers did."""
    problems = (
        worker.refused.get(job.pipeline)
        for worker in islice(state.workers.values(), workers_max)
        if worker.connected
    )
    return [problem for problem in problems if problem is not None]


def _is_trust(problems: list[Problem]) -> bool:
    """Whether it is the owners' trust policies that keep all workers from the pipeline."""
    return all(problem.code == UntrustedPipeline.code() for problem in problems)


def _why_refused(problems: list[Problem]) -> str:
    """The most common reason with which workers refused the job's pipeline."""
    if not problems:
        return ""
    counts = Counter(f"{problem.title} {problem.detail}".strip() for problem in problems)
    return f" ({max(sorted(counts), key=counts.__getitem__)})"


def _listed(counts: dict[str, int]) -> str:
    listed = "; ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    return f": {listed}" if listed else ""
