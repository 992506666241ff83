"""The dashboard's data, as structs. Money is in microcredits, times are Unix seconds."""

from __future__ import annotations

import msgspec

from tradepost.bounded import Microcredits


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """A view."""


class EvidenceView(_View, frozen=True, kw_only=True):
    """One finding about a worker."""

    kind: str
    capability: str
    job: str
    lease: str
    at: float
    stage: str
    detail: str


class ReputationView(_View, frozen=True, kw_only=True):
    """A worker's reputation in one capability class, and how it follows from the evidence."""

    capability: str
    score: float
    credibility: float
    explanation: tuple[str, ...]


class WorkerView(_View, frozen=True, kw_only=True):
    """A worker's public standing. `score` is the lowest of its reputations.

    `accepted` counts the results that were paid, `held` is paid and not yet matured, `slashed` is stake that
    was taken. `evidence` is the newest first; in lists of workers it is left out.
    """

    worker: str
    owner: str
    device: str
    auditor: bool
    standing: str
    connected: bool
    joined_at: float
    price_per_unit_microcredits: Microcredits | None
    capacity: int
    score: float
    accepted: int
    stake_microcredits: Microcredits
    held_microcredits: Microcredits
    earned_microcredits: Microcredits
    slashed_microcredits: Microcredits
    evidence_counts: dict[str, int]
    reputations: tuple[ReputationView, ...] = ()
    evidence: tuple[EvidenceView, ...] = ()


class CandidateView(_View, frozen=True, kw_only=True):
    """One offer in one match; `lost_because` is empty for the winner."""

    worker: str
    bid_microcredits: int
    score_microcredits: int
    lost_because: str


class SettledLeaseView(_View, frozen=True, kw_only=True):
    """One attempt at a job that has ended, as everyone may see it: the worker, the price, the match.

    What was delivered belongs to the job's submitter, so it is not here. `left_out` counts, by reason, the
    offers that were not eligible. A `sole_bidder` competed with no other offer: only the cap bounded its
    price.
    """

    lease: str
    job: str
    worker: str
    state: str
    granted_at: float
    price_microcredits: Microcredits
    paid_microcredits: Microcredits
    candidates: tuple[CandidateView, ...]
    left_out: dict[str, int]
    sole_bidder: bool


class ComparedStageView(_View, frozen=True, kw_only=True):
    """How one stage of a result compares with the same stage of the result that the job's submitter got.

    `kind` is `kernel` or `model`. `match` is `equal`; `contradicts`, of a kernel that gave other bytes from
    the same bytes; `within tolerance` or, if the result was rejected, `differs`, of a model that did;
    `follows`, after a stage that is not equal; or `absent`, if a run did not come so far.
    """

    stage: str
    kind: str
    match: str


class LeaseView(_View, frozen=True, kw_only=True):
    """One attempt at a job that has ended, for those whom the job concerns.

    `outcome` is what was delivered: for the submitter alone, and empty unless there was a verdict on it.
    `left_out` counts, by reason, the offers that were not eligible. A `sole_bidder` competed with no other
    offer: only the cap bounded its price. `stages` compares it with the job's result; it is empty for that
    result itself, and where there was no verdict.
    """

    lease: str
    job: str
    worker: str
    attempt: int
    purpose: str
    state: str
    granted_at: float
    price_microcredits: Microcredits
    paid_microcredits: Microcredits
    outcome: str
    agrees_with: str
    problem: str
    candidates: tuple[CandidateView, ...]
    left_out: dict[str, int]
    sole_bidder: bool
    stages: tuple[ComparedStageView, ...] = ()


class PricesView(_View, frozen=True, kw_only=True):
    """What results were paid in one capability class, per work unit: the 10%, 50% and 90% quantiles."""

    capability: str
    results: int
    low_microcredits: Microcredits
    median_microcredits: Microcredits
    high_microcredits: Microcredits


class MinuteView(_View, frozen=True, kw_only=True):
    """How many jobs ended in the minute that began at `at`."""

    at: float
    jobs: int


class ResultsView(_View, frozen=True, kw_only=True):
    """How many jobs ended with so many results; jobs with several had them compared."""

    results: int
    jobs: int


class ActivityView(_View, frozen=True, kw_only=True):
    """What the newest ended jobs of the market tell about it.

    `jobs` are those looked at, the newest of which ended at `until`; `by_minute` are the minutes up to that
    one. The waits are from submission to the first lease, in seconds: the 50% and the 90% quantile.
    `results_mean` is how many results a job took. All are absent without such jobs.
    """

    jobs: int
    until: float | None = None
    by_minute: tuple[MinuteView, ...] = ()
    wait_s_median: float | None = None
    wait_s_high: float | None = None
    prices: tuple[PricesView, ...] = ()
    results: tuple[ResultsView, ...] = ()
    results_mean: float | None = None


class DashboardView(_View, frozen=True, kw_only=True):
    """An overview of the market. `version` follows from the content, and changes with it.

    `jobs` counts jobs by status; `leases` are those of jobs that have ended, the newest first.
    """

    version: int
    broker: str
    jobs: dict[str, int]
    activity: ActivityView
    workers: tuple[WorkerView, ...]
    leases: tuple[SettledLeaseView, ...]


class ScorePointView(_View, frozen=True, kw_only=True):
    """A worker's score from `at` on: exceeded with 95% confidence, and `high` with 5%."""

    at: float
    score: float
    high: float


class ScoreHistoryView(_View, frozen=True, kw_only=True):
    """A worker's score over time in one capability class, oldest first.

    If it `is_cut`, it begins with the oldest of the newest findings, as if there had been none before.
    """

    capability: str
    points: tuple[ScorePointView, ...]
    is_cut: bool


class WorkersPageView(_View, frozen=True, kw_only=True):
    """A page of the list of workers. `version` follows from the content, and changes with it.

    `found` counts all that match; `find`, `standing` and `sort` are what was asked for. `after` is the cursor
    of the next page, and empty on the last.
    """

    version: int
    found: int
    find: str
    standing: str
    sort: str
    workers: tuple[WorkerView, ...]
    after: str


class WorkerPageView(_View, frozen=True, kw_only=True):
    """One worker, as its page shows it. `version` follows from the content, and changes with it.

    `why` explains its state in a sentence. The evidence of `worker` is one page of it, newest first; `before`
    is the cursor of the next, older page, and empty on the last.
    """

    version: int
    why: str
    worker: WorkerView
    history: tuple[ScoreHistoryView, ...]
    before: str


class ListedPipelineView(_View, frozen=True, kw_only=True):
    """A pipeline in a list. `recent_price_microcredits` is per work unit, and absent without a recent job."""

    pipeline: str
    name: str
    publisher: str
    signers: int
    work_units_base: int
    work_units_per_mebibyte: int
    recent_jobs: int
    recent_price_microcredits: Microcredits | None


class PipelinesPageView(_View, frozen=True, kw_only=True):
    """A page of the list of pipelines. `version` follows from the content, and changes with it.

    `found` counts all that match `find`. Recent jobs are among the `recent_max` newest ended jobs of the
    market. `after` is the cursor of the next page, and empty on the last.
    """

    version: int
    found: int
    find: str
    recent_max: int
    pipelines: tuple[ListedPipelineView, ...]
    after: str


class StageView(_View, frozen=True, kw_only=True):
    """One stage: a `kernel` or a `model`. `sources` are the stages whose outputs it takes, or `input`.

    `tolerance` is empty for a kernel, which is compared bit for bit.
    """

    name: str
    kind: str
    artifact: str
    sources: tuple[str, ...]
    providers: tuple[str, ...]
    tolerance: str
    memory_bytes: int


class PipelinePageView(_View, frozen=True, kw_only=True):
    """One pipeline, as its page shows it. `version` follows from the content, and changes with it.

    `edition` is the version that its publisher gave it; `outputs` are the stages that its output is taken of.
    """

    version: int
    pipeline: str
    name: str
    edition: str
    description: str
    stages: tuple[StageView, ...]
    outputs: tuple[str, ...]
    wall_ms: int
    input_bytes_max: int
    output_bytes_max: int
    work_units_base: int
    work_units_per_mebibyte: int
    signers: tuple[str, ...]
    recent_max: int
    prices: PricesView | None
