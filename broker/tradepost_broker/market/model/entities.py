"""The market's state: the records that the core changes and the shell keeps.

Each record is one row of one table. The core owns them while the broker runs; whatever `handle` changed comes
out as `Save` instructions, and a restart gives the same records back to `Market.restore`. Money is in
microcredits, times are Unix seconds (float), and every record is found by its `id`. No record is part of a
cycle, so the collector of garbage need not look through them (`gc=False`): there are very many.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from tradepost.errors import Problem
from tradepost.pipeline.manifest import WorkUnits
from tradepost.protocol import JobStatus, Offer, OnWrong, Preference, Requirements, Verification
from tradepost_broker.market.model.stored_names import without_unit


class Account(msgspec.Struct, gc=False, kw_only=True, rename=without_unit):
    """Credits of one owner for one purpose: `<purpose>:<owner>`, as `ledger` names them.

    `available_microcredits` may be spent; `reserved_microcredits` is set aside by open reservations. Neither
    is ever below zero.
    """

    id: str
    available_microcredits: int = 0
    reserved_microcredits: int = 0


class Transfer(msgspec.Struct, gc=False, kw_only=True, frozen=True, rename=without_unit):
    """An immutable movement of credits; `kind` says why. `id` makes it happen at most once."""

    id: str
    debit: str
    credit: str
    amount_microcredits: int
    kind: str
    at: float
    job: str = ""
    lease: str = ""


class Pipeline(msgspec.Struct, gc=False, kw_only=True, frozen=True):
    """The facts about a published pipeline that the market uses.

    `artifact_bytes` is what a worker without it must fetch. `memory_bytes` is the most that a stage may use.
    `kernel_stages` are the stages that are compared bit for bit; the others by tolerance. `publishers` are
    the ids of all who signed it, as its bundles claim, and `publisher` is the first; `artifacts` are CIDs.
    `claims` says which account claims which of them, the first publisher's first.
    """

    id: str
    name: str
    publisher: str
    providers: tuple[str, ...]
    memory_bytes: int
    artifact_bytes: int
    wall_s: float
    work_units_base: int
    work_units_per_mebibyte: int
    kernel_stages: tuple[str, ...]
    publishers: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()

    def units(self, input_bytes: int) -> int:
        """The work units of a job with an input of this size."""
        work = WorkUnits(base=self.work_units_base, per_mebibyte=self.work_units_per_mebibyte)
        return work.count(input_bytes)


class WorkerStanding(StrEnum):
    """Whether a worker may be given leases."""

    ACTIVE = "active"
    SUSPENDED = "suspended"  # its reputation is too low
    EXPELLED = "expelled"  # fraud was proven; its stake was taken


class Worker(msgspec.Struct, gc=False, kw_only=True):
    """A device that joined. `auditor` marks one that the operator trusts with reference runs.

    `examined_since` is set while its held results are checked because another device of its owner was
    expelled then. `tokens` are the ids of the tokens that it joined with, so that nobody joins
    with one of them again even if the token's own record was changed.
    """

    id: str
    owner: str
    device: str
    public_key: bytes
    joined_at: float
    auditor: bool = False
    standing: WorkerStanding = WorkerStanding.ACTIVE
    offer: Offer | None = None
    examined_since: float | msgspec.UnsetType = msgspec.UNSET  # not in the record of a worker that is not
    tokens: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET  # not in the record of one that named none

    def has_used(self, token: str) -> bool:
        """Whether it joined with the token with this id."""
        return self.tokens is not msgspec.UNSET and token in self.tokens


class Job(msgspec.Struct, gc=False, kw_only=True, rename=without_unit):
    """One request. `committed_microcredits` is the sum of the prices of its leases that may still be paid.

    `attempts` counts leases granted, `failures` those that were lost. `unmatched_since` is set while no
    standing offer, idle or busy, could take it. `spot_check` asks for a reference run of what was delivered.
    `paid_microcredits` is what the submitter paid, less what was clawed back. `accused` are leases whose
    results a reference run contradicts, while others are made to confirm that, until `accused_until`.
    `in_doubt_until` is set while its accepted result, which an expelled worker gave, waits for a reference
    run. `verdict_changed_at` is when the result was found wrong; `on_wrong` is what its submitter wants then.
    Of a job that is run again, `redone_after` is how many leases its first run had, and `spent_microcredits`
    what was paid and not clawed back then.
    """

    id: str
    account: str
    idempotency_key: str
    request_hash: str
    pipeline: str
    input: str
    input_bytes: int
    units: int
    max_price_microcredits: int
    confidence: float
    requirements: Requirements
    submitted_at: float
    deadline_at: float
    patience_s: float
    status: JobStatus = JobStatus.QUEUED
    attempts: int = 0
    failures: int = 0
    committed_microcredits: int = 0
    paid_microcredits: int = 0
    spot_check: bool = False
    unmatched_since: float | None = None
    finished_at: float | None = None
    accepted: tuple[str, ...] = ()
    verification: Verification | None = None
    problem: Problem | None = None
    accused: tuple[str, ...] = ()
    accused_until: float | None = None
    on_wrong: OnWrong = OnWrong.REDO
    in_doubt_until: float | None = None
    verdict_changed_at: float | None = None
    redone_after: int = 0
    spent_microcredits: int = 0
    preference: Preference | msgspec.UnsetType = msgspec.UNSET  # not in the record of a job without one

    @property
    def cap_microcredits(self) -> int:
        """What may be paid for the run at hand."""
        return self.max_price_microcredits - self.spent_microcredits


class LeasePurpose(StrEnum):
    """Why a lease was granted. It is never sent to the worker: checks look like ordinary work."""

    AUCTION = "auction"  # the winner of the job's auction
    REPLICA = "replica"  # drawn at random to confirm a result
    AUDIT = "audit"  # a reference run by an auditor


class LeaseState(StrEnum):
    """Where a lease is."""

    OPEN = "open"
    DELIVERED = "delivered"  # a receipt is in, no verdict yet
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    INCONCLUSIVE = "inconclusive"
    RETURNED = "returned"  # given back, or its worker failed
    PREEMPTED = "preempted"  # given back because its worker's owner wanted the device
    EXPIRED = "expired"
    RECALLED = "recalled"


class EvidenceKind(StrEnum):
    """One finding about one worker. `reputation.score` says what each is worth."""

    AGREED = "agreed"  # its result matched the accepted group of other owners
    AUDIT_PASSED = "audit_passed"  # its result matched a reference run
    OUTVOTED = "outvoted"  # its result was outside the accepted group; soft
    CONTRADICTED = "contradicted"  # a reference run contradicts it, which is not confirmed; soft
    AUDIT_FAILED = "audit_failed"  # reference runs of several auditors contradict it: fraud
    FAILED = "failed"  # it gave the lease back because the device failed
    EXPIRED = "expired"  # it let the lease expire
    WITHDRAWN = "withdrawn"  # an earlier finding does not count: the pipeline or the input was at fault

    @property
    def lowers_score(self) -> bool:
        """Whether it counts against its worker."""
        return self not in (EvidenceKind.AGREED, EvidenceKind.AUDIT_PASSED, EvidenceKind.WITHDRAWN)


#: An outcome that says how the pipeline failed begins so: `failed:<stage>:<code>`.
FAILED_PREFIX: Final = "failed:"


def is_failure(outcome: str) -> bool:
    """Whether an outcome says how the pipeline failed."""
    return outcome.startswith(FAILED_PREFIX)


class Lease(msgspec.Struct, gc=False, kw_only=True, rename=without_unit):
    """One attempt of one worker at one job.

    `outcome` identifies what was delivered (an output CID, or `failed:<stage>:<code>`); `stage_hashes` are
    (stage, output hash) in order, those done where it was preempted; `stage_wall_us` is how long each of them
    took, by its worker's clock, if there are several and all ran. `group` is the id of the first lease whose
    outcome this one agrees with.
    `matures_at` is when its payment leaves the hold; it is `None` before payment and after maturity.
    `blame_at` is when having lost it by absence becomes evidence; it is `None` if no receipt is awaited.
    `pending_evidence` is what having lost it is evidence of when its job has ended (`settling.blame`).
    `must_be_confirmed` says that its outcome is not accepted without another owner's that agrees.
    `shares` says, for each earlier result that this one agrees with, how much of the tolerance their
    difference takes. `run_failed` says that it was lost in a way that the job itself may be the cause of.
    `drawn_from` is from how many owners a replica was drawn, busy ones included, 0 if it
    was not drawn. `price_share` is how much of the market's price for the job its price is, at most 1.
    `recheck` says that a second result was asked for by chance, though this one would be believed alone.
    `absent_since` is when its worker's stream had closed, if the lease was lost by that.
    `contradicts` are earlier results that it cannot agree with, each with the kernel, or other stage, that
    proves it. Of a reference run these are all that it contradicts, with "" where there is no such stage.
    """

    id: str
    job: str
    worker: str
    attempt: int
    purpose: LeasePurpose
    price_microcredits: int
    nonce: bytes
    granted_at: float
    expires_at: float
    state: LeaseState = LeaseState.OPEN
    outcome: str = ""
    stage_hashes: tuple[tuple[str, str], ...] = ()
    stage_wall_us: tuple[int, ...] = ()
    group: str = ""
    problem: Problem | None = None
    paid_microcredits: int = 0
    matures_at: float | None = None
    blame_at: float | None = None
    settled_at: float | None = None
    pending_evidence: EvidenceKind | None = None
    must_be_confirmed: bool = False
    shares: dict[str, float] = msgspec.field(default_factory=dict)
    drawn_from: int = 0
    price_share: float = 1.0
    run_failed: bool = False
    recheck: bool = False
    absent_since: float | msgspec.UnsetType = msgspec.UNSET  # not in the record of a lease without it
    contradicts: dict[str, str] | msgspec.UnsetType = msgspec.UNSET  # not in the record of one without any


class Evidence(msgspec.Struct, gc=False, kw_only=True, frozen=True):
    """One verdict about one worker, kept permanently. `stage` is the stage at fault, if there is one.

    `checks` is how many passed checks it counts as for jobs of the same `account` in the same `pipeline`, and
    `vouched_checks` for those of other accounts. `partner` is the owner whose result confirmed this one, or
    stands against a run that failed.
    """

    id: str
    worker: str
    capability: str
    kind: EvidenceKind
    job: str
    lease: str
    at: float
    stage: str = ""
    detail: str = ""
    pipeline: str = ""
    account: str = ""
    partner: str = ""
    checks: float = 0.0
    vouched_checks: float = 0.0


class PipelineUse(msgspec.Struct, gc=False, kw_only=True):
    """How the jobs of one account on one pipeline end, by owner of the workers that tried them.

    Without an `account` it is about the jobs of all accounts. `outcomes` are (owner, balance of jobs that it
    gave a result of and that failed on it), in the order of their last change. `evidence` are the ids of what
    its jobs' failures have put on workers. While `quarantined_at` is set, its jobs get no leases, and
    `problem` says why. If that `follows_outcomes`, other outcomes end it.
    """

    id: str
    pipeline: str
    account: str
    outcomes: tuple[tuple[str, int], ...] = ()
    evidence: tuple[str, ...] = ()
    quarantined_at: float | None = None
    problem: Problem | None = None
    follows_outcomes: bool = False


class OwnerPair(msgspec.Struct, gc=False, kw_only=True, frozen=True):
    """Two owners, in order, that gave the same wrong results: `wrong` are (job, pipeline,
    from how few owners one was drawn or 0, when it was found).

    It is empty if so many newer ones are known that these were dropped, or if they were withdrawn.
    """

    id: str
    owner: str
    other: str
    wrong: tuple[tuple[str, str, int, float], ...] = ()


class CollusionFinding(msgspec.Struct, gc=False, kw_only=True):
    """Owners that gave the same wrong results in `co_wrong` jobs, more than chance explains; no proof.

    `expected` is how many would be likely of owners of the same kinds, `p_value` how probable so many are by
    chance, corrected for all sets of owners that could have been found. `jobs` are the newest of them. It has
    no effect once `withdrawn_at` is set: the results may have been right, or another finding includes it.
    """

    id: str  # that of the job which led to it
    found_at: float
    owners: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    co_wrong: int = 0
    expected: float = 0.0
    p_value: float = 1.0
    withdrawn_at: float | None = None


class Candidate(msgspec.Struct, gc=False, kw_only=True, frozen=True, rename=without_unit):
    """One offer in one match. `score_microcredits` is v - b; `lost_because` is empty for the winner."""

    worker: str
    bid_microcredits: int
    score_microcredits: int
    lost_because: str = ""


class Match(msgspec.Struct, gc=False, kw_only=True, frozen=True, rename=without_unit):
    """Why a worker got a lease: the best candidates, and how many offers were left out for which reason."""

    id: str  # the lease's
    job: str
    purpose: LeasePurpose
    clearing_price_microcredits: int
    candidates: tuple[Candidate, ...]
    left_out: dict[str, int]
    at: float


Record = (
    Account
    | Transfer
    | Pipeline
    | Worker
    | Job
    | Lease
    | Evidence
    | PipelineUse
    | OwnerPair
    | CollusionFinding
    | Match
)
