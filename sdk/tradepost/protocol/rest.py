"""REST bodies under `/v1`, as JSON; streams carry some of them too."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from tradepost.bounded import VERSION_PATTERN, AccountName, CidText, Count, Microcredits, Positive, Short
from tradepost.errors import Problem
from tradepost.protocol.job_bounds import (
    CONFIDENCE,
    CONFIDENCE_MAX,
    CONFIDENCE_MIN,
    DEADLINE_S,
    DEADLINE_S_MIN,
    IDEMPOTENCY_KEY_CHARS_MAX,
    ISOLATION_MAX,
    PATIENCE_S,
    PRICE_WEIGHT_MIN,
    SECONDS_MAX,
    WEIGHT_MAX,
)
from tradepost.protocol.message import Inline, Message
from tradepost.receipts import SignedReceipt


class EngineFloor(Message, frozen=True, kw_only=True):
    """The oldest version of an engine, such as `onnxruntime`, that a job accepts."""

    engine: Short
    version: Annotated[str, msgspec.Meta(max_length=64, pattern=VERSION_PATTERN)]


class Requirements(Message, frozen=True, kw_only=True):
    """What a job asks of a worker beyond its pipeline. Empty asks nothing.

    `isolation` names what the worker's sandbox must have achieved, for example `seccomp`. The worker must
    offer one of the execution `providers`, and report all of the `engines` in these versions or newer. Its
    reputation on the pipeline's class must be `score_min` at least. Its owner must be among `owners_only`,
    where given, and not among `owners_excluded`.
    """

    memory_bytes: Count = 0
    isolation: Annotated[tuple[Short, ...], msgspec.Meta(max_length=ISOLATION_MAX)] = ()
    # What is unset is left out, so that records, requests and their hashes are as before these fields.
    providers: Annotated[tuple[Short, ...], msgspec.Meta(max_length=16)] | msgspec.UnsetType = msgspec.UNSET
    engines: Annotated[tuple[EngineFloor, ...], msgspec.Meta(max_length=16)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    score_min: Annotated[float, msgspec.Meta(ge=0, le=1)] | msgspec.UnsetType = msgspec.UNSET
    owners_only: Annotated[tuple[AccountName, ...], msgspec.Meta(max_length=64)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    owners_excluded: Annotated[tuple[AccountName, ...], msgspec.Meta(max_length=64)] | msgspec.UnsetType = (
        msgspec.UNSET
    )


Preferred = Annotated[float, msgspec.Meta(ge=0, le=WEIGHT_MAX)]


class Preference(Message, frozen=True, kw_only=True):
    """How much it matters who gives a job's first result: the weights of one rule, by default the market's.

    `locality` weighs the time to fetch what a worker has not cached, `latency` the time that its owner's runs
    of the pipeline take, `load` its open leases. `price` is what they are weighed against: the higher it is,
    the less they count.
    """

    price: Annotated[float, msgspec.Meta(ge=PRICE_WEIGHT_MIN, le=WEIGHT_MAX)] = 1.0
    latency: Preferred = 0.0
    locality: Preferred = 1.0
    load: Preferred = 0.0


class JobStatus(StrEnum):
    """Where a job is. The transitions are in `tradepost_broker.market.model.job_states`."""

    QUEUED = "queued"
    RUNNING = "running"
    ACCEPTED = "accepted"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"  # its result was accepted, and was found wrong later

    @property
    def is_open(self) -> bool:
        """Whether the job has yet to end, be it for the first time or again."""
        return self in (JobStatus.QUEUED, JobStatus.RUNNING)


class OnWrong(StrEnum):
    """What happens to a job whose accepted result is found wrong. It is refunded in any case."""

    REDO = "redo"  # it gets another result
    REFUND = "refund"  # it is withdrawn


Confidence = Annotated[float, msgspec.Meta(ge=CONFIDENCE_MIN, le=CONFIDENCE_MAX)]
DeadlineS = Annotated[float, msgspec.Meta(ge=DEADLINE_S_MIN, le=SECONDS_MAX)]


class JobRequest(Message, frozen=True, kw_only=True):
    """One job. Exactly one of `input` (inline) and `input_cid` is given.

    `confidence` is the least probability with which the accepted result must be right. `patience_s` is how
    long the job may wait while no standing offer at all could take it. `on_wrong` says what happens if the
    accepted result is found wrong later. Raises nothing itself; the broker validates.
    """

    pipeline: CidText
    input: Inline | None = None
    input_cid: CidText | None = None
    max_price_microcredits: Positive
    confidence: Confidence = CONFIDENCE
    deadline_s: DeadlineS = DEADLINE_S
    patience_s: Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)] = PATIENCE_S
    requirements: Requirements = Requirements()
    on_wrong: OnWrong = OnWrong.REDO
    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=IDEMPOTENCY_KEY_CHARS_MAX)]
    preference: Preference | msgspec.UnsetType = msgspec.UNSET  # left out, as it was before this field


class EstimateRequest(Message, frozen=True, kw_only=True):
    """POST /v1/estimate: what a job would cost that is submitted now, and how long it would take.

    The fields are those of a `JobRequest`; the price cap may be left open.
    """

    pipeline: CidText
    input_bytes: Positive
    max_price_microcredits: Positive | None = None
    confidence: Confidence = CONFIDENCE
    deadline_s: DeadlineS = DEADLINE_S
    requirements: Requirements = Requirements()


class TypicalPrice(Message, frozen=True, kw_only=True):
    """What the job would pay in all at the median price of one result in the newest accepted jobs.

    It rests on `jobs` jobs of the pipeline, of all accounts, that ended at `since` or later.
    """

    price_microcredits: Microcredits
    jobs: Count
    since: float


class EstimateView(Message, frozen=True, kw_only=True):
    """What the market would do with a job, by the offers that stand. `None` is what is not known.

    With `cap_microcredits` the job gets a worker, which may be busy now: which are busy is not told, since
    that would say who has leases of undecided jobs. `results` is how many results the cheapest way needs.
    `owners` could run it: of a bounded number, those with the cheapest offers. `confidence_max` is the
    highest confidence that `max_price_microcredits`, or any price, can buy. `problem` is the error that the
    job would fail with.

    `latency_p50_s` and `latency_p90_s` are from submission to result, from the `measured_runs` newest
    measured runs of the pipeline and `wait_s`, the wait for a worker. `in_time` is whether the latter is
    within the deadline.
    """

    cap_microcredits: Microcredits | None
    results: Count
    owners: Count
    confidence_max: float | None
    typical_price: TypicalPrice | None
    wait_s: float | None
    latency_p50_s: float | None
    latency_p90_s: float | None
    measured_runs: Count
    in_time: bool | None
    problem: Problem | None


class Verification(Message, frozen=True, kw_only=True):
    """Why a result was accepted: who agreed, who did not, and the credibility that was reached."""

    credibility: float
    agreed: tuple[Short, ...] = ()
    disagreed: tuple[Short, ...] = ()


class JobView(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A job as its submitter sees it. `output` is inline where it is small enough, else by `output_cid`.

    `in_doubt_until` is set while its result waits for a reference run, because its worker was proven to cheat
    in another job. `verdict_changed_at` is when the result was found wrong, and replaced or withdrawn.
    """

    job: Short
    status: JobStatus
    pipeline: CidText
    submitted_at: float
    finished_at: float | None = None
    price_microcredits: Microcredits = 0
    output: bytes | None = None
    output_cid: CidText | None = None
    receipts: tuple[SignedReceipt, ...] = ()
    verification: Verification | None = None
    problem: Problem | None = None
    in_doubt_until: float | None = None
    verdict_changed_at: float | None = None


class JobEntry(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A job in a list. `GET /v1/jobs/{job}` has its receipts, and `…/output` its output."""

    job: Short
    status: JobStatus
    pipeline: CidText
    input_cid: CidText
    submitted_at: float
    finished_at: float | None
    price_microcredits: Microcredits
    verdict_changed_at: float | None = None


class JobList(Message, frozen=True, kw_only=True):
    """GET /v1/jobs: jobs of the account, newest first. `older` is the `before` of the next page, if any."""

    jobs: tuple[JobEntry, ...]
    older: Short | None


class QuarantineView(Message, frozen=True, kw_only=True):
    """DELETE /v1/quarantines/{pipeline}: whether the account's jobs on a pipeline still get no leases."""

    pipeline: Short
    quarantined: bool


class AccountView(Message, frozen=True, kw_only=True):
    """GET /v1/account: what may be spent, and what is set aside for open jobs."""

    account: Short
    available_microcredits: Microcredits
    reserved_microcredits: Microcredits


class JoinRequest(Message, frozen=True, kw_only=True):
    """POST /v1/workers: a device asks to join. The signature is in the domain `join` over the token."""

    token: Short
    public_key: Annotated[bytes, msgspec.Meta(max_length=256)]
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]
    device: Short


class JoinReply(Message, frozen=True, kw_only=True):
    """The device is a worker now. `broker` is the broker's key id, which the token also names.

    `revocations_key` is the public key (PEM) of the operator who may revoke, which the worker keeps; empty
    where nobody may.
    """

    worker: Short
    owner: Short
    broker: Short
    stake_microcredits: Microcredits
    revocations_key: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class PublishRequest(Message, frozen=True, kw_only=True):
    """POST /v1/pipelines: a manifest block, its blocks uploaded, and who signed it.

    `bundle` holds the Sigstore bundles (JSON) over the block, one to eight, each on a line.
    """

    manifest: Annotated[bytes, msgspec.Meta(max_length=256 << 10)]
    bundle: Annotated[str, msgspec.Meta(max_length=64 << 10)]


class PipelineView(Message, frozen=True, kw_only=True):
    """A published pipeline, with what a worker needs in order to check it for itself."""

    pipeline: CidText
    manifest: bytes
    bundle: str
