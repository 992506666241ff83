"""The core's inputs and outputs: `Market.handle(event) -> list[Instruction]`.

Every event carries its time, and a `MatchingEvent` the seed of its random choices, so the journal of events
replays to the same state. The shell validates what needs I/O or cryptography first (signatures, hashes, API
keys, whether content is present) and makes ids; the core decides everything else, refusals included.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tradepost.errors import Problem
from tradepost.protocol import GiveBackReason, Offer, OnWrong, Preference, Requirements
from tradepost_broker.market.model.entities import Pipeline, Record
from tradepost_broker.market.model.stored_names import without_unit
from tradepost_signing.policy.revocation import RevocationDocument


class _Event(msgspec.Struct, frozen=True, kw_only=True, rename=without_unit):
    """Something that happened, at a time."""

    at: float


class MatchingEvent(_Event, frozen=True, kw_only=True):
    """An event after which jobs and workers are matched; `seed` (128 bits) makes every random choice."""

    seed: int


class Funded(_Event, frozen=True, kw_only=True, tag="funded"):
    """The operator moved credits from the treasury to an account, once per `transfer`."""

    transfer: str
    account: str
    amount_microcredits: int


class PipelinePublished(_Event, frozen=True, kw_only=True, tag="pipeline_published"):
    """A pipeline was checked and the broker has its blocks. `account` brought it, or signatures for it."""

    pipeline: Pipeline
    account: str = ""


class WorkerJoined(_Event, frozen=True, kw_only=True, tag="worker_joined"):
    """A device joined with a token; `stake_microcredits` comes from the treasury, as the token says.

    `token` is the token's id: its sha-256 (hex). It is empty in journals from before events had it.
    """

    worker: str
    owner: str
    device: str
    public_key: bytes
    auditor: bool
    stake_microcredits: int
    token: str = ""


class WorkerConnected(MatchingEvent, frozen=True, kw_only=True, tag="worker_connected"):
    """A worker's stream opened, with its standing offer and the leases that it still works on or holds."""

    worker: str
    offer: Offer
    open_leases: tuple[str, ...] = ()


class OfferUpdated(MatchingEvent, frozen=True, kw_only=True, tag="offer_updated"):
    """A worker replaced its standing offer."""

    worker: str
    offer: Offer


class WorkerDisconnected(_Event, frozen=True, kw_only=True, tag="worker_disconnected"):
    """A worker's stream closed. Its leases stay open until they expire: it may come back with results."""

    worker: str


class JobSubmitted(MatchingEvent, frozen=True, kw_only=True, tag="job_submitted"):
    """A request passed the shell's checks. `job` is fresh; a repeated idempotency key ignores it."""

    job: str
    account: str
    idempotency_key: str
    request_hash: str
    pipeline: str
    input: str
    input_bytes: int
    max_price_microcredits: int
    confidence: float
    deadline_s: float
    patience_s: float
    requirements: Requirements
    on_wrong: OnWrong = OnWrong.REDO
    preference: Preference | msgspec.UnsetType = msgspec.UNSET


class CancelRequested(MatchingEvent, frozen=True, kw_only=True, tag="job_cancelled"):
    """The submitter cancels a job."""

    job: str
    account: str


class ReceiptDelivered(MatchingEvent, frozen=True, kw_only=True, tag="receipt_delivered"):
    """A receipt whose signature, worker, job, pipeline, input and nonce the shell has checked.

    `agrees_with` are the leases of the same job whose outcome equals this one, bit for bit or within the
    tolerance of the models that differ; the shell compares, since it has the bytes. `stage_wall_us` is how
    long each stage took, by the worker's clock, where there are several and all ran. `shares` says for each
    of `agrees_with`, in order, how much of the tolerance the difference takes, and is empty where all are
    equal. An outcome that `must_be_confirmed` is not accepted from one worker alone; a failure never is.
    `proofs` are the leases that it cannot agree with, whatever the outputs are, each with the stage: a kernel
    gave other bytes from the same bytes, or an output is not the one that the receipt commits to.
    """

    worker: str
    lease: str
    outcome: str
    stage_hashes: tuple[tuple[str, str], ...]
    stage_wall_us: tuple[int, ...] = ()
    agrees_with: tuple[str, ...]
    shares: tuple[float, ...] = ()
    must_be_confirmed: bool = False
    problem: Problem | None = None
    proofs: tuple[tuple[str, str], ...] = ()


class LeaseGivenBack(MatchingEvent, frozen=True, kw_only=True, tag="lease_given_back"):
    """A worker returned a lease without a result.

    `stage_hashes` are the stages that it had done when its owner preempted it, from a receipt that the shell
    has checked. `forged` says that a receipt came which the shell has refused.
    """

    worker: str
    lease: str
    reason: GiveBackReason
    problem: Problem
    stage_hashes: tuple[tuple[str, str], ...] = ()
    forged: bool = False


class QuarantineLifted(MatchingEvent, frozen=True, kw_only=True, tag="quarantine_lifted"):
    """An account lets its jobs on a pipeline be leased again, though they failed on everybody."""

    account: str
    pipeline: str


class LeaseProgressed(_Event, frozen=True, kw_only=True, tag="lease_progressed"):
    """A worker says that so many stages of a lease are done, more than before."""

    worker: str
    lease: str
    stages_done: int


class RevocationsIssued(MatchingEvent, frozen=True, kw_only=True, tag="revocations_issued"):
    """The operator's newest revocation list, whose signature the shell has checked.

    Brought again after every restart, before any worker can come: the core keeps no record of it.
    """

    document: RevocationDocument


class DefectFound(MatchingEvent, frozen=True, kw_only=True, tag="defect_found"):
    """The core failed with an exception because of this job, or of what a worker sent for this lease.

    One of the two is empty. The core has been restored since; the work at fault was set aside.
    """

    job: str = ""
    lease: str = ""


class Restarted(_Event, frozen=True, kw_only=True, tag="restarted"):
    """The broker started again on its records: every stream is closed until its worker comes back."""


class Tick(MatchingEvent, frozen=True, kw_only=True, tag="tick"):
    """Time passed: leases, deadlines, patience and holds are reviewed.

    `arrived` are leases whose receipt the broker has, and is still checking: these do not expire meanwhile.
    """

    arrived: tuple[str, ...] = ()


Event = (
    Funded
    | PipelinePublished
    | WorkerJoined
    | WorkerConnected
    | OfferUpdated
    | WorkerDisconnected
    | JobSubmitted
    | CancelRequested
    | ReceiptDelivered
    | LeaseGivenBack
    | QuarantineLifted
    | LeaseProgressed
    | RevocationsIssued
    | DefectFound
    | Restarted
    | Tick
)


class Save(msgspec.Struct, frozen=True):
    """Write this record in the event's transaction, replacing the row with its id."""

    record: Record


class SendGrant(msgspec.Struct, frozen=True):
    """Dispatch this open lease to its worker."""

    lease: str
    worker: str


class SendRecall(msgspec.Struct, frozen=True):
    """Tell the worker to stop."""

    lease: str
    worker: str


class SendAcknowledged(msgspec.Struct, frozen=True):
    """Tell the worker that the lease's end is durable; `problem` if its result came too late."""

    lease: str
    worker: str
    problem: Problem | None = None


class SendSettled(msgspec.Struct, frozen=True):
    """Tell the worker the verdict, what it earned, and why."""

    lease: str
    worker: str
    verdict: str
    earned_microcredits: int
    reason: str


class ReplySubmitted(msgspec.Struct, frozen=True):
    """Answer the submission: the job's id (the earlier one's for a repeated key)."""

    job: str


class ReplyRefused(msgspec.Struct, frozen=True):
    """Answer the event's sender with a refusal; nothing else changed."""

    problem: Problem


class NotifyFinished(msgspec.Struct, frozen=True):
    """A job ended: notify its watchers."""

    job: str


class NotifyVerdictChanged(msgspec.Struct, frozen=True):
    """The result of a job that had ended was found wrong: notify its submitter."""

    job: str


class SendRevocations(msgspec.Struct, frozen=True):
    """Tell every connected worker the newest revocation list."""

    version: int


class WorkGoesOn(msgspec.Struct, frozen=True):
    """Nothing to carry out: a part of the market's work was done, which the journal must have.

    If there `is_more` of it, a tick soon goes on with it.
    """

    is_more: bool


def goes_on(answer: Sequence[object]) -> bool:
    """Whether the market has more to do than the event with this answer could: the next tick comes soon."""
    return any(isinstance(one, WorkGoesOn) and one.is_more for one in answer)


Instruction = (
    Save
    | SendGrant
    | SendRecall
    | SendAcknowledged
    | SendSettled
    | SendRevocations
    | ReplySubmitted
    | ReplyRefused
    | NotifyFinished
    | NotifyVerdictChanged
    | WorkGoesOn
)
