"""The figures of one run, as `--json` prints them. Money is in microcredits, times are in seconds."""

from __future__ import annotations

import msgspec


class ConfidenceFigures(msgspec.Struct, kw_only=True):
    """What customers got at one confidence.

    `wrong_accepted` counts wrong results when the job ended, `wrong_at_maturity` those of them that no
    reference run had contradicted, and that were not withdrawn. `redundancy` is results per accepted job.
    `corrected` are jobs that got a reference run's result instead, `redone` those that were run again,
    `withdrawn` those that lost their result, and `withdrawn_right` those of the latter two whose result was
    right.
    """

    confidence: float
    jobs: int = 0
    accepted: int = 0
    failed: int = 0
    cancelled: int = 0
    wrong_accepted: int = 0
    wrong_at_maturity: int = 0
    corrected: int = 0
    redone: int = 0
    withdrawn: int = 0
    withdrawn_right: int = 0
    results: int = 0
    latency_p50_s: float = 0.0
    latency_p95_s: float = 0.0

    @property
    def redundancy(self) -> float:
        """Results per accepted job."""
        return self.results / self.accepted if self.accepted else 0.0


class TeamFigures(msgspec.Struct, kw_only=True):
    """What became of the workers of one model, and of their hand's money.

    `profit_microcredits` is what the hand's workers were paid, less what was clawed back or slashed, what its
    accounts spent and what its runs cost. `unpaid_results` are right outcomes that its accounts could read
    and did not pay for.
    """

    model: str
    hostile: bool
    workers: int = 0
    leases: int = 0
    results: int = 0
    wrong_results: int = 0
    wrong_accepted: int = 0
    leases_lost: int = 0
    paid_microcredits: int = 0
    clawed_back_microcredits: int = 0
    slashed_microcredits: int = 0
    spent_microcredits: int = 0
    work_microcredits: int = 0
    unpaid_results: int = 0
    suspended: int = 0
    expelled: int = 0

    @property
    def profit_microcredits(self) -> int:
        """What its hand gained."""
        lost = self.clawed_back_microcredits + self.slashed_microcredits
        return self.paid_microcredits - lost - self.spent_microcredits - self.work_microcredits


class RunFigures(msgspec.Struct, kw_only=True):
    """One run: the same scenario and seed give the same figures and the same digest."""

    scenario: str
    seed: int
    digest: str
    virtual_s: float
    events: int
    crashes: int
    spot_check_rate: float
    confidences: list[ConfidenceFigures]
    teams: list[TeamFigures]
    honest_suspended: int
    honest_slashed: int


class Speed(msgspec.Struct, kw_only=True):
    """How fast the machine simulated a run: no part of its digest."""

    real_s: float
    core_s: float
    jobs: int
    virtual_s: float

    @property
    def times_real_time(self) -> float:
        """Virtual seconds per real second."""
        return self.virtual_s / self.real_s if self.real_s else 0.0

    @property
    def core_jobs_per_s(self) -> float:
        """Jobs per second that the core took in itself."""
        return self.jobs / self.core_s if self.core_s else 0.0
