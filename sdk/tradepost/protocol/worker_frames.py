"""The worker's stream, GET /v1/worker: frames in both directions."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from tradepost.bounded import CidText, Count, Microcredits, Positive, Short
from tradepost.errors import Problem
from tradepost.pipeline.manifest import STAGES_MAX
from tradepost.protocol.message import Inline, Message, Nonce
from tradepost.receipts import SignedReceipt

VERSION: Final = 4
#: The versions of workers that a broker accepts. `versions` says what each of them knows.
VERSIONS_ACCEPTED: Final = (2, 3, VERSION)
HEARTBEAT_S: Final = 10.0


class Capabilities(Message, frozen=True, kw_only=True):
    """What a worker has: probed, not assumed. `providers` are execution providers that really loaded."""

    cores: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    memory_bytes: Count
    providers: Annotated[tuple[Short, ...], msgspec.Meta(max_length=16)]
    engines: Annotated[dict[Short, Short], msgspec.Meta(max_length=16)]
    isolation: Annotated[tuple[Short, ...], msgspec.Meta(max_length=16)] = ()


class Offer(Message, frozen=True, kw_only=True):
    """A worker's standing bid: a price per work unit, for up to `capacity` leases at once.

    `warm` are pipelines whose artifacts it has. The newest offer replaces the one before it.
    """

    price_per_unit_microcredits: Positive
    capacity: Annotated[int, msgspec.Meta(ge=0, le=4096)]
    capabilities: Capabilities
    warm: Annotated[tuple[CidText, ...], msgspec.Meta(max_length=256)] = ()


class Challenge(Message, frozen=True, tag="challenge"):
    """The broker's first frame: its key, a fresh nonce, and its signature over both sides' nonces.

    The signature is in the domain `challenge` over `worker_nonce + nonce`, so a worker knows that this is the
    broker whose id its join token named.
    """

    public_key: bytes
    nonce: Nonce
    signature: bytes


class Hello(Message, frozen=True, tag="hello"):
    """The worker's first frame, signed in the domain `hello` over `challenge.nonce + worker_nonce`."""

    version: Count
    public_key: Annotated[bytes, msgspec.Meta(max_length=256)]
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]
    offer: Offer
    open_leases: Annotated[tuple[Short, ...], msgspec.Meta(max_length=4096)] = ()


class Welcome(Message, frozen=True, tag="welcome", omit_defaults=True):
    """The worker is admitted. Of the leases that its hello named, `leases` are those that are still open.

    Open leases that the hello did not name follow as grants. `at` is the broker's time in Unix seconds, from
    version 3 on.
    """

    worker: Short
    leases: tuple[Short, ...] = ()
    at: float | None = None


class Refused(Message, frozen=True, tag="refused"):
    """The connection is refused, and closed after this frame."""

    problem: Problem


class UpdateOffer(Message, frozen=True, tag="offer"):
    """Replace the standing offer."""

    offer: Offer


#: Upper bounds of a latency histogram's buckets, in milliseconds; one more bucket is for what is slower.
LATENCY_BUCKETS_MS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class DeviceHealth(Message, frozen=True, kw_only=True, omit_defaults=True):
    """How a device is, as it says itself: for its operator's overview, never for its reputation.

    `None` where it has no sensor. `queue` are leases that run or wait for a runner, `preemptions` how many
    leases the owner took back since the worker started. `stage_latency` counts runs by pipeline/stage in
    `LATENCY_BUCKETS_MS`, of the stages that ran last.
    """

    load_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    memory_free_bytes: Count | None = None
    disk_free_bytes: Count | None = None
    temperature_celsius: Annotated[float, msgspec.Meta(ge=-273, le=1000)] | None = None
    battery_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    on_mains: bool | None = None
    queue: Count = 0
    preemptions: Count = 0
    paused_by: Short = ""
    stage_latency: Annotated[
        dict[Short, Annotated[tuple[Count, ...], msgspec.Meta(min_length=9, max_length=9)]],
        msgspec.Meta(max_length=16),
    ] = msgspec.field(default_factory=dict)


class Heartbeat(Message, frozen=True, tag="heartbeat", omit_defaults=True):
    """The worker is alive, running this many leases. `health` is shown to the broker's operator.

    `stages_done`, from version 4 on, is how many stages are done of each lease that runs, where any are. It
    is a claim: the broker hedges a lease early where it is missing, and never later because of it.
    """

    running: Count
    health: DeviceHealth | None = None
    stages_done: Annotated[
        dict[Short, Annotated[int, msgspec.Meta(ge=1, le=STAGES_MAX)]], msgspec.Meta(max_length=4096)
    ] = msgspec.field(default_factory=dict)


class Grant(Message, frozen=True, tag="grant", omit_defaults=True):
    """A lease: run this job, once, before `expires_at`. Exactly one of `input` and `input_cid` is given.

    `expires_at` is by the broker's clock, and is what a receipt names. `left_s`, from version 3 on, is how
    long that is from when the broker sends the grant: a worker's clock may be wrong, so it counts from there.
    """

    lease: Short
    job: Short
    attempt: int
    pipeline: CidText
    nonce: Nonce
    expires_at: int
    price_microcredits: Microcredits
    input: bytes | None = None
    input_cid: CidText | None = None
    left_s: float | None = None


class Deliver(Message, frozen=True, tag="deliver"):
    """A finished lease. `output` is inline up to the cap; a larger one was uploaded before."""

    lease: Short
    receipt: SignedReceipt
    output: Inline | None = None


class GiveBackReason(StrEnum):
    """Why a worker returns a lease without a result."""

    FAILED = "failed"  # the device or its runner failed
    EXHAUSTED = "exhausted"  # the lease's time, or the pipeline's time limit, was over before the run ended
    REFUSED = "refused"  # the owner's trust policy or limits do not allow the pipeline
    PREEMPTED = "preempted"  # the owner wanted the device back


class GiveBack(Message, frozen=True, tag="give_back"):
    """A lease returned without a result.

    If it was preempted after some of its stages, `receipt` reports these, with the outcome `Preempted`.
    """

    lease: Short
    reason: GiveBackReason
    problem: Problem
    receipt: SignedReceipt | None = None


class Acknowledged(Message, frozen=True, tag="acknowledged"):
    """The broker has this lease's end durably; the worker may forget it. A late result has a problem."""

    lease: Short
    problem: Problem | None = None


class Settled(Message, frozen=True, tag="settled"):
    """What became of a delivered lease: the verdict, what was earned, and why in one sentence."""

    lease: Short
    verdict: Short
    earned_microcredits: Microcredits
    reason: str


class Finding(Message, frozen=True, tag="finding"):
    """Evidence that lowers this worker's score: about which lease, of which kind, and why.

    `at` is in Unix seconds; `stage` is the stage at fault, if there is one. From version 3 on.
    `GET /v1/workers/{worker}` lists it as well: a worker that was not connected reads it there.
    There is at most one finding of each kind about a lease.
    """

    lease: Short
    kind: Short
    at: float
    stage: str = ""
    detail: str = ""


class Recall(Message, frozen=True, tag="recall"):
    """Stop a lease: its job was cancelled or decided without it."""

    lease: Short


class Revocations(Message, frozen=True, tag="revocations"):
    """What the operator forbids: a revocation list's bytes, and the Sigstore bundle (JSON) over them.

    Sent before anything else where the broker has one, and when there is a newer one. The worker believes it
    only for the operator's signature, never because the broker sent it.
    """

    document: Inline
    bundle: Annotated[str, msgspec.Meta(max_length=64 << 10)]


ToBrokerFromWorker = Hello | UpdateOffer | Heartbeat | Deliver | GiveBack


ToWorker = Challenge | Welcome | Refused | Grant | Acknowledged | Settled | Finding | Recall | Revocations
