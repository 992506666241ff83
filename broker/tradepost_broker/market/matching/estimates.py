"""What the market would do with a job that is submitted now. Asking changes nothing.

The job is put together as for a submission, but kept out of the state, and judged by the functions that match
jobs and let them fail. So with no event between, a job that is submitted with the estimate's cap is matched,
and one that nobody could take fails for the reason that the estimate gave.

What was not measured is not made up: without accepted jobs of the pipeline there is no typical price, without
measured runs no latency. What others' open jobs hold stays with them: only how many jobs wait is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from tradepost.errors import UnknownPipeline
from tradepost.money import MICROCREDITS_MAX
from tradepost.protocol import EstimateRequest, EstimateView, TypicalPrice
from tradepost_broker.market.matching import failure_reasons
from tradepost_broker.market.matching.eligible_offers import EligibleOffers
from tradepost_broker.market.matching.least_cap import Cap, Step, least_cap, step_of_owners, steps_of
from tradepost_broker.market.matching.matching import choose
from tradepost_broker.market.matching.outlook import Outlook, outlook_with, plan_with
from tradepost_broker.market.matching.scoring import Bidder
from tradepost_broker.market.matching.viability import auditor_available
from tradepost_broker.market.matching.worker_filter import check_providers
from tradepost_broker.market.model.amounts import AMOUNT_MAX_MICROCREDITS
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.settling import quarantine, revocation
from tradepost_broker.market.state.market_state import UNSUBMITTED, MarketState
from tradepost_reputation import log_odds

#: Workers that are asked why they refused the pipeline, where all that could run it did.
_REFUSALS_LOOKED_AT: Final = 1_000
#: The confidence that is shown is rounded down to so many parts, and is at most what a job may ask.
_CONFIDENCE_PARTS: Final = 1_000_000


class _Ways(NamedTuple):
    """The ways to a result: by an auction now, and by the workers that are idle at some time."""

    now: Sequence[Step]
    sometime: Sequence[Step]

    def least(self, log_odds_missing: float) -> tuple[Cap | None, Cap | None]:
        """The least cap now, and the least at some time, which is never more."""
        now = _payable(least_cap(self.now, log_odds_missing))
        caps = [now, *(_payable(least_cap([step], log_odds_missing)) for step in self.sometime)]
        return now, min((cap for cap in caps if cap is not None), default=None)

    def confidence_max(self, cap_microcredits: int) -> float | None:
        """The most confidence that a job with this cap is matched with."""
        reached = max(
            (
                step.log_odds_for(cap_microcredits)
                for step in (*self.now, *self.sometime)
                if step.from_microcredits <= cap_microcredits < step.to_microcredits
            ),
            default=0.0,
        )
        confidence = 1 / (1 + math.exp(-reached))
        parts = min(math.floor(confidence * _CONFIDENCE_PARTS), _CONFIDENCE_PARTS - 1)
        return parts / _CONFIDENCE_PARTS if reached else None


def estimate(state: MarketState, account: str, request: EstimateRequest) -> EstimateView:
    """What a job of `account` would cost, how long it would take, and what would keep it from a worker.

    Raises what a submission would be refused with: `UnknownPipeline`, `Revoked`, `PipelineQuarantined` or
    `InvalidRequest`.
    """
    job = _asked_about(state, account, request)
    missing = log_odds(job.confidence)
    eligible = EligibleOffers(state, job)
    owners = eligible.standing_owners()
    ways = _ways(state, job, eligible, owners.cheapest)
    cap_now, cap = ways.least(missing)
    is_capped = request.max_price_microcredits is not None
    if is_capped or cap is None:
        starts_now = cap is not None and choose(state, job, missing) is not None
        prospect = Outlook.POSSIBLE if starts_now else _prospect(state, job, owners.cheapest, missing)
    else:
        starts_now, prospect = cap_now is not None, Outlook.POSSIBLE
    problem = None
    if prospect is not Outlook.POSSIBLE:
        best = plan_with(state, job, owners.cheapest, missing)
        problem = failure_reasons.unmatched(
            state, job, prospect, best, workers_max=_REFUSALS_LOOKED_AT
        ).to_problem()
    results = cap.results if cap is not None else 0
    wait_s = _wait_s(state, is_idle=starts_now and owners.idle >= results)
    p50_s, p90_s = (_run_s(state, job, results, share) for share in (0.5, 0.9))
    latency_p90_s = _sum(wait_s, p90_s)
    return EstimateView(
        cap_microcredits=cap.microcredits if cap is not None else None,
        cap_now_microcredits=cap_now.microcredits if cap_now is not None else None,
        results=results,
        owners_idle=owners.idle,
        owners_busy=len(owners.cheapest) - owners.idle,
        starts_now=starts_now,
        confidence_max=ways.confidence_max(job.max_price_microcredits),
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


def _ways(state: MarketState, job: Job, eligible: EligibleOffers, owners: Sequence[Bidder]) -> _Ways:
    policy = state.policy
    if not owners:
        return _Ways((), ())
    has_auditor = auditor_available(state, job)

    def results_max(owners_known: int) -> int:
        return policy.results_max if has_auditor else min(policy.results_max, owners_known)

    # As many owners as `outlook` looks at first, and then.
    few = owners[: policy.candidates_max]
    sometime = [step_of_owners(few, results_max(len(few)))]
    if len(few) < len(owners):
        sometime.append(step_of_owners(owners, results_max(len(owners))))
    field = eligible.competing(bid_microcredits_max=AMOUNT_MAX_MICROCREDITS, limit=policy.candidates_max)
    bids_microcredits = [owner.bid_microcredits for owner in owners[: policy.results_max]]
    return _Ways(list(steps_of(field, bids_microcredits, results_max(len(bids_microcredits)))), sometime)


def _payable(cap: Cap | None) -> Cap | None:
    """The cap, if a submission may have it."""
    return cap if cap is not None and cap.microcredits <= MICROCREDITS_MAX else None


def _typical_price(state: MarketState, job: Job, results: int) -> TypicalPrice | None:
    paid = state.recent_jobs.paid(job.pipeline)
    if paid is None or not results:
        return None
    price_microcredits = math.ceil(paid.per_unit_microcredits * job.units * results)
    return TypicalPrice(
        price_microcredits=min(price_microcredits, MICROCREDITS_MAX), jobs=paid.jobs, since=paid.since
    )


def _wait_s(state: MarketState, *, is_idle: bool) -> float | None:
    """How long the job would wait for workers: those that wait go before it, as fast as jobs end."""
    if is_idle:
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
