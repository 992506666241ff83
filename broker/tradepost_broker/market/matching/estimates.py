"""What the market would do with a job, by the offers that stand. Asking changes nothing.

The job is put together as for a submission, but kept out of the state, and judged by the functions that match
jobs and let them fail. So with no event between, a job that is submitted with the estimate's cap waits for a
worker or has one, and one that nobody could take fails for the reason that the estimate gave.

Which workers are busy does not matter: a cheat that asked about one owner after another would learn who has
the leases of a job that is undecided. What was not measured is not made up: without accepted jobs of the
pipeline there is no typical price, without measured runs no latency. Of others' open jobs, only how many wait
counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tradepost.errors import UnknownPipeline
from tradepost.money import MICROCREDITS_MAX
from tradepost.protocol import EstimateRequest, EstimateView, TypicalPrice
from tradepost_broker.market.matching import failure_reasons
from tradepost_broker.market.matching.eligible_offers import EligibleOffers
from tradepost_broker.market.matching.least_cap import Cap, OwnersBids
from tradepost_broker.market.matching.outlook import Outlook, outlook_with, plan_with
from tradepost_broker.market.matching.scoring import Bidder
from tradepost_broker.market.matching.viability import auditor_available
from tradepost_broker.market.matching.worker_filter import check_providers
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.settling import quarantine, revocation
from tradepost_broker.market.state.market_state import UNSUBMITTED, MarketState
from tradepost_reputation import log_odds

#: Workers that are asked why they refused the pipeline, where all that could run it did.
_REFUSALS_LOOKED_AT: Final = 1_000
#: The confidence that is shown is rounded down to so many parts, and is at most what a job may ask.
_CONFIDENCE_PARTS: Final = 1_000_000


def estimate(state: MarketState, account: str, request: EstimateRequest) -> EstimateView:
    """What a job of `account` would cost, how long it would take, and what would keep it from a worker.

    Raises what a submission would be refused with: `UnknownPipeline`, `Revoked`, `PipelineQuarantined` or
    `InvalidRequest`.
    """
    job = _asked_about(state, account, request)
    missing = log_odds(job.confidence)
    owners = EligibleOffers(state, job).cheapest_by_owner(owners_max=state.policy.scan_max, busy_too=True)
    bids = _bids(state, job, owners)
    cap = _least_cap(bids, missing)
    is_enough = cap is not None and request.max_price_microcredits is None
    prospect = Outlook.POSSIBLE if is_enough else _prospect(state, job, owners, missing)
    problem = None
    if prospect is not Outlook.POSSIBLE:
        best = plan_with(state, job, owners, missing)
        problem = failure_reasons.unmatched(
            state, job, prospect, best, workers_max=_REFUSALS_LOOKED_AT
        ).to_problem()
    results = cap.results if cap is not None else 0
    wait_s = _wait_s(state)
    p50_s, p90_s = (_run_s(state, job, results, share) for share in (0.5, 0.9))
    latency_p90_s = _sum(wait_s, p90_s)
    return EstimateView(
        cap_microcredits=cap.microcredits if cap is not None else None,
        results=results,
        owners=len(owners),
        confidence_max=_confidence_max(bids, job.max_price_microcredits),
        typical_price=_typical_price(state, job, results),
        wait_s=wait_s,
        latency_p50_s=_sum(wait_s, p50_s),
        latency_p90_s=latency_p90_s,
        measured_runs=len(state.run_times.newest_s_per_unit(job.pipeline)),
        in_time=None if latency_p90_s is None else latency_p90_s <= request.deadline_s,
        problem=problem,
    )


def _asked_about(state: MarketState, account: str, request: EstimateRequest) -> Job:
    """The job as a submission would make it; without a cap, with the highest that there is."""
    pipeline = state.pipelines.get(request.pipeline)
    if pipeline is None:
        raise UnknownPipeline(request.pipeline)
    revocation.check(state, pipeline)
    quarantine.check(state, pipeline.id, account)
    check_providers(pipeline, request.requirements)
    return Job(
        id=UNSUBMITTED,
        account=account,
        idempotency_key="",
        request_hash="",
        pipeline=pipeline.id,
        input="",
        input_bytes=request.input_bytes,
        units=pipeline.units(request.input_bytes),
        max_price_microcredits=request.max_price_microcredits or MICROCREDITS_MAX,
        confidence=request.confidence,
        requirements=request.requirements,
        submitted_at=state.at,
        deadline_at=state.at + request.deadline_s,
        patience_s=0.0,
    )


def _prospect(state: MarketState, job: Job, owners: Sequence[Bidder], log_odds_missing: float) -> Outlook:
    """As `outlook` finds it, from the owners that it would find."""
    found = outlook_with(state, job, owners[: state.policy.candidates_max], log_odds_missing)
    if found is Outlook.POSSIBLE:
        return found
    return outlook_with(state, job, owners, log_odds_missing)


def _bids(state: MarketState, job: Job, owners: Sequence[Bidder]) -> list[OwnersBids]:
    """The owners that a job's outlook looks at first, and then."""
    policy = state.policy
    has_auditor = auditor_available(state, job)
    groups = [owners[: policy.candidates_max], owners[policy.candidates_max :] and owners]
    return [
        OwnersBids(group, policy.results_max if has_auditor else min(policy.results_max, len(group)))
        for group in groups
        if group
    ]


def _least_cap(bids: Sequence[OwnersBids], log_odds_missing: float) -> Cap | None:
    """The least cap that a submission may have."""
    caps = [cap for one in bids if (cap := one.least_cap(log_odds_missing)) is not None]
    return min((cap for cap in caps if cap.microcredits <= MICROCREDITS_MAX), default=None)


def _confidence_max(bids: Sequence[OwnersBids], cap_microcredits: int) -> float | None:
    """The most confidence that a cap buys; `None` if it pays for no result."""
    reached = max((one.log_odds_for(cap_microcredits) for one in bids), default=0.0)
    confidence = 1 / (1 + math.exp(-reached))
    parts = min(math.floor(confidence * _CONFIDENCE_PARTS), _CONFIDENCE_PARTS - 1)
    return parts / _CONFIDENCE_PARTS if reached else None


def _typical_price(state: MarketState, job: Job, results: int) -> TypicalPrice | None:
    paid = state.recent_jobs.paid(job.pipeline)
    if paid is None or not results:
        return None
    price_microcredits = math.ceil(paid.per_unit_microcredits * job.units * results)
    return TypicalPrice(
        price_microcredits=min(price_microcredits, MICROCREDITS_MAX), jobs=paid.jobs, since=paid.since
    )


def _wait_s(state: MarketState) -> float | None:
    """How long the job would wait: those that wait go before it, as fast as jobs end."""
    if not len(state.job_queue):
        return 0.0
    ends_per_s = state.recent_jobs.ends_per_s(state.at)
    return None if ends_per_s is None else (len(state.job_queue) + 1) / ends_per_s


def _run_s(state: MarketState, job: Job, results: int, share: float) -> float | None:
    """Within which time, in `share` of cases, the slowest of so many runs is done."""
    times = state.run_times.newest_s_per_unit(job.pipeline)
    if not times or not results:
        return None
    place = math.ceil(math.pow(share, 1 / results) * len(times)) - 1
    return times[place] * job.units


def _sum(wait_s: float | None, run_s: float | None) -> float | None:
    return None if wait_s is None or run_s is None else wait_s + run_s
