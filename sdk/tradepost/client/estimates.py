"""What a job would cost, as a program sees it before it submits one."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from tradepost.client.arguments import pipeline_cid, whole_number
from tradepost.client.inputs import Inputs, document_bytes
from tradepost.client.job_request import (
    checked_confidence,
    checked_deadline_s,
    checked_requirements,
)
from tradepost.errors import Problem, TradepostError
from tradepost.money import Credits, to_credits, to_microcredits, with_unit
from tradepost.plurals import counted
from tradepost.protocol import EstimateRequest, EstimateView, Requirements
from tradepost.protocol.job_bounds import BYTES_MAX, CONFIDENCE, DEADLINE_S


@dataclass(frozen=True, kw_only=True, repr=False)
class Estimate:
    """What the market would do with a job, by the offers that stand; `None` is what is not known.

    `cap` is the least `max_price`, in credits, with which it gets a worker, which may be busy now. `results`
    is how many results the cheapest way needs, and `typical_price` what these cost, in credits, at the median
    of the `typical_jobs` newest accepted jobs of the pipeline.

    `problem` is the error that it would fail with for the `max_price` that was asked about, and
    `confidence_max` the most that this price, or any, can buy. `owners` counts those that could run it.

    `latency_p50_s` and `latency_p90_s` are from submission to result, by the `measured_runs` newest runs and
    `wait_s`, the wait for a worker; `in_time` is whether the latter is within the deadline.
    """

    cap: Decimal | None
    results: int
    typical_price: Decimal | None
    typical_jobs: int
    confidence_max: float | None
    owners: int
    wait_s: float | None
    latency_p50_s: float | None
    latency_p90_s: float | None
    measured_runs: int
    in_time: bool | None
    problem: Problem | None

    def __repr__(self) -> str:
        if self.problem is not None:
            return f"<Estimate: {self.problem.code}>"
        price = "unknown" if self.cap is None else with_unit(self.cap)
        latency = "unknown" if self.latency_p50_s is None else f"{self.latency_p50_s:.3g} s"
        return f"<Estimate: cap {price}, {counted(self.results, 'result')}, latency {latency}>"

    def raise_for_problem(self) -> None:
        """Raise the error that the job would fail with, if it would."""
        if self.problem is not None:
            raise TradepostError.from_problem(self.problem)


def estimate_request(
    pipeline: str,
    inputs: Inputs | int,
    *,
    max_price: Credits | None = None,
    confidence: float = CONFIDENCE,
    deadline_s: float = DEADLINE_S,
    requirements: Requirements | None = None,
) -> EstimateRequest:
    """The request that `AsyncClient.estimate` sends. Raises as `prepare_job` does."""
    cid = pipeline_cid(pipeline)
    price = None if max_price is None else to_microcredits(max_price, name="max_price", microcredits_min=1)
    confidence = checked_confidence(confidence)
    deadline_s = checked_deadline_s(deadline_s)
    required = checked_requirements(requirements)
    if isinstance(inputs, int):
        size_bytes = whole_number("inputs", inputs, 1, BYTES_MAX)
    else:
        size_bytes = len(document_bytes(inputs))
    return EstimateRequest(
        pipeline=cid,
        input_bytes=size_bytes,
        max_price_microcredits=price,
        confidence=confidence,
        deadline_s=deadline_s,
        requirements=required,
    )


def estimate_of(view: EstimateView) -> Estimate:
    """The estimate in a broker's reply."""
    typical = view.typical_price
    return Estimate(
        cap=_credits(view.cap_microcredits),
        results=view.results,
        typical_price=None if typical is None else to_credits(typical.price_microcredits),
        typical_jobs=0 if typical is None else typical.jobs,
        confidence_max=view.confidence_max,
        owners=view.owners,
        wait_s=view.wait_s,
        latency_p50_s=view.latency_p50_s,
        latency_p90_s=view.latency_p90_s,
        measured_runs=view.measured_runs,
        in_time=view.in_time,
        problem=view.problem,
    )


def _credits(microcredits: int | None) -> Decimal | None:
    return None if microcredits is None else to_credits(microcredits)
