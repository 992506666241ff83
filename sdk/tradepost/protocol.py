"""The wire: every message between client, broker and worker, as strictly decoded structs.

Two WebSocket streams carry msgpack, one tagged union each way; a message is an array of frames, so that a
busy side sends many in one write. REST bodies under `/v1` are the same structs as JSON (bytes as base64).
Every frame is idempotent by the id it names: after a reconnect both sides repeat what was not acknowledged,
and nothing happens twice. Money is in microcredits (1 credit = 1,000,000), times are Unix seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec

from tradepost.errors import UNDECODABLE, Problem, ProtocolError
from tradepost.plain_text import Short
from tradepost.receipts import SignedReceipt

VERSION: Final = 1
MICROCREDITS_PER_CREDIT: Final = 1_000_000

#: Documents up to this size travel inside a frame; larger ones as blocks, by CID.
INLINE_BYTES_MAX: Final = 1 << 20
#: A WebSocket message beyond this size is refused before it is read.
MESSAGE_BYTES_MAX: Final = 8 << 20
FRAMES_MAX: Final = 256
HEARTBEAT_S: Final = 10.0

CidText = Annotated[str, msgspec.Meta(max_length=64)]
Microcredits = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Inline = Annotated[bytes, msgspec.Meta(max_length=INLINE_BYTES_MAX)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message or a part of one: immutable, nothing unknown accepted."""


class Requirements(_Message, frozen=True, kw_only=True):
    """What a job asks of a worker beyond its pipeline. Empty asks nothing.

    `isolation` names what the worker's sandbox must have achieved, for example `seccomp`.
    """

    memory_bytes: Count = 0
    isolation: Annotated[tuple[Short, ...], msgspec.Meta(max_length=8)] = ()


class Capabilities(_Message, frozen=True, kw_only=True):
    """What a worker has: probed, not assumed. `providers` are execution providers that really loaded."""

    cores: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    memory_bytes: Count
    providers: Annotated[tuple[Short, ...], msgspec.Meta(max_length=16)]
    engines: Annotated[dict[Short, Short], msgspec.Meta(max_length=16)]
    isolation: Annotated[tuple[Short, ...], msgspec.Meta(max_length=16)] = ()


class Offer(_Message, frozen=True, kw_only=True):
    """A worker's standing bid: a price per work unit, for up to `capacity` leases at once.

    `warm` are pipelines whose artifacts it has. The newest offer replaces the one before it.
    """

    price_per_unit_microcredits: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    capacity: Annotated[int, msgspec.Meta(ge=0, le=4096)]
    capabilities: Capabilities
    warm: Annotated[tuple[CidText, ...], msgspec.Meta(max_length=256)] = ()


class JobStatus(StrEnum):
    """Where a job is. The transitions are in `tradepost_broker.market.model.job_states`."""

    QUEUED = "queued"
    RUNNING = "running"
    ACCEPTED = "accepted"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobRequest(_Message, frozen=True, kw_only=True):
    """One job. Exactly one of `input` (inline) and `input_cid` is given.

    `confidence` is the least probability with which the accepted result must be right. `patience_s` is how
    long the job may wait while no standing offer at all could take it. Raises nothing itself; the broker
    validates.
    """

    pipeline: CidText
    input: Inline | None = None
    input_cid: CidText | None = None
    max_price_microcredits: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    confidence: Annotated[float, msgspec.Meta(ge=0.5, le=0.999999)] = 0.95
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=7 * 24 * 3600)] = 300.0
    patience_s: Annotated[float, msgspec.Meta(ge=0, le=7 * 24 * 3600)] = 5.0
    requirements: Requirements = Requirements()
    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Verification(_Message, frozen=True, kw_only=True):
    """Why a result was accepted: who agreed, who did not, and the credibility that was reached."""

    credibility: float
    agreed: tuple[Short, ...] = ()
    disagreed: tuple[Short, ...] = ()


class JobView(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A job as its submitter sees it. `output` is inline where it is small enough, else by `output_cid`."""

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


# The client's stream, GET /v1/client


class Submit(_Message, frozen=True, tag="submit"):
    """Submit a job; `ref` is the client's own number for the reply."""

    ref: int
    request: JobRequest


class Watch(_Message, frozen=True, tag="watch"):
    """Send `Finished` for these jobs, at once if they have finished already."""

    jobs: Annotated[tuple[Short, ...], msgspec.Meta(max_length=4096)]


class CancelJob(_Message, frozen=True, tag="cancel"):
    """Cancel a job; what was reserved is refunded."""

    job: Short


class Submitted(_Message, frozen=True, tag="submitted"):
    """The job is durable. Its end will be sent as `Finished` without asking."""

    ref: int
    job: Short


class Rejected(_Message, frozen=True, tag="rejected"):
    """The submission was refused; nothing was reserved."""

    ref: int
    problem: Problem


class Finished(_Message, frozen=True, tag="finished"):
    """A job has ended."""

    view: JobView


ToBrokerFromClient = Submit | Watch | CancelJob
ToClient = Submitted | Rejected | Finished


# The worker's stream, GET /v1/worker


class Challenge(_Message, frozen=True, tag="challenge"):
    """The broker's first frame: its key, a fresh nonce, and its signature over both sides' nonces.

    The signature is in the domain `challenge` over `worker_nonce + nonce`, so a worker knows that this is the
    broker whose id its join token named.
    """

    public_key: bytes
    nonce: Nonce
    signature: bytes


class Hello(_Message, frozen=True, tag="hello"):
    """The worker's first frame, signed in the domain `hello` over `challenge.nonce + worker_nonce`."""

    version: int
    public_key: Annotated[bytes, msgspec.Meta(max_length=256)]
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]
    offer: Offer
    open_leases: Annotated[tuple[Short, ...], msgspec.Meta(max_length=4096)] = ()


class Welcome(_Message, frozen=True, tag="welcome"):
    """The worker is admitted; `leases` are those that the broker holds open for it."""

    worker: Short
    leases: tuple[Short, ...] = ()


class Refused(_Message, frozen=True, tag="refused"):
    """The connection is refused, and closed after this frame."""

    problem: Problem


class UpdateOffer(_Message, frozen=True, tag="offer"):
    """Replace the standing offer."""

    offer: Offer


#: Upper bounds of a latency histogram's buckets, in milliseconds; one more bucket is for what is slower.
LATENCY_BUCKETS_MS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class DeviceHealth(_Message, frozen=True, kw_only=True, omit_defaults=True):
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
    ] = {}


class Heartbeat(_Message, frozen=True, tag="heartbeat"):
    """The worker is alive, running this many leases. `health` is shown to the broker's operator."""

    running: Count
    health: DeviceHealth | None = None


class Grant(_Message, frozen=True, tag="grant"):
    """A lease: run this job, once, before `expires_at`. Exactly one of `input` and `input_cid` is given."""

    lease: Short
    job: Short
    attempt: int
    pipeline: CidText
    nonce: Nonce
    expires_at: int
    price_microcredits: Microcredits
    input: bytes | None = None
    input_cid: CidText | None = None


class Deliver(_Message, frozen=True, tag="deliver"):
    """A finished lease. `output` is inline up to the cap; a larger one was uploaded before."""

    lease: Short
    receipt: SignedReceipt
    output: Inline | None = None


class GiveBackReason(StrEnum):
    """Why a worker returns a lease without a result."""

    FAILED = "failed"  # the device or its runner failed
    REFUSED = "refused"  # the owner's trust policy or limits do not allow the pipeline
    PREEMPTED = "preempted"  # the owner wanted the device back


class GiveBack(_Message, frozen=True, tag="give_back"):
    """A lease returned without a result.

    If it was preempted after some of its stages, `receipt` reports these, with the outcome `Preempted`.
    """

    lease: Short
    reason: GiveBackReason
    problem: Problem
    receipt: SignedReceipt | None = None


class Acknowledged(_Message, frozen=True, tag="acknowledged"):
    """The broker has this lease's end durably; the worker may forget it. A late result has a problem."""

    lease: Short
    problem: Problem | None = None


class Settled(_Message, frozen=True, tag="settled"):
    """What became of a delivered lease: the verdict, what was earned, and why in one sentence."""

    lease: Short
    verdict: Short
    earned_microcredits: Microcredits
    reason: str


class Recall(_Message, frozen=True, tag="recall"):
    """Stop a lease: its job was cancelled or decided without it."""

    lease: Short


class Revocations(_Message, frozen=True, tag="revocations"):
    """What the operator forbids: a revocation list's bytes, and the Sigstore bundle (JSON) over them.

    Sent before anything else where the broker has one, and when there is a newer one. The worker believes it
    only for the operator's signature, never because the broker sent it.
    """

    document: Inline
    bundle: Annotated[str, msgspec.Meta(max_length=64 << 10)]


ToBrokerFromWorker = Hello | UpdateOffer | Heartbeat | Deliver | GiveBack
ToWorker = Challenge | Welcome | Refused | Grant | Acknowledged | Settled | Recall | Revocations


# REST bodies


class JoinRequest(_Message, frozen=True, kw_only=True):
    """POST /v1/workers: a device asks to join. The signature is in the domain `join` over the token."""

    token: Short
    public_key: Annotated[bytes, msgspec.Meta(max_length=256)]
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]
    device: Short


class JoinReply(_Message, frozen=True, kw_only=True):
    """The device is a worker now. `broker` is the broker's key id, which the token also names.

    `revocations_key` is the public key (PEM) of the operator who may revoke, which the worker keeps; empty
    where nobody may.
    """

    worker: Short
    owner: Short
    broker: Short
    stake_microcredits: Microcredits
    revocations_key: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class PublishRequest(_Message, frozen=True, kw_only=True):
    """POST /v1/pipelines: a manifest block, its blocks uploaded, and who signed it.

    `bundle` holds the Sigstore bundles (JSON) over the block, one to eight, each on a line.
    """

    manifest: Annotated[bytes, msgspec.Meta(max_length=256 << 10)]
    bundle: Annotated[str, msgspec.Meta(max_length=64 << 10)]


class PipelineView(_Message, frozen=True, kw_only=True):
    """A published pipeline, with what a worker needs in order to check it for itself."""

    pipeline: CidText
    manifest: bytes
    bundle: str


class _Codec:
    """Encodes arrays of frames of one direction and decodes those of the other, within the caps."""

    def __init__(self, incoming: Any) -> None:
        # The count is refused before anything is decoded: small frames are many in a message.
        self._decoder = msgspec.msgpack.Decoder(
            Annotated[list[incoming], msgspec.Meta(max_length=FRAMES_MAX)]
        )
        self._encoder = msgspec.msgpack.Encoder()

    def encode(self, frames: list[Any]) -> bytes:
        """The message that carries `frames`."""
        return self._encoder.encode(frames)

    def encode_frame(self, frame: Any) -> bytes:
        """One frame, for `join`: who queues frames encoded knows how many bytes wait."""
        return self._encoder.encode(frame)

    @staticmethod
    def join(frames: list[bytes]) -> bytes:
        """The message that carries these encoded frames: a msgpack array (array 16)."""
        return b"".join((b"\xdc", len(frames).to_bytes(2, "big"), *frames))

    def decode(self, message: bytes) -> list[Any]:
        """The frames of a message. Raises `ProtocolError`."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise ProtocolError(f"a message of {len(message):,} bytes; the limit is {MESSAGE_BYTES_MAX:,}")
        try:
            frames: list[Any] = self._decoder.decode(message)
        except UNDECODABLE as error:
            raise ProtocolError(f"not a message of this protocol: {error}") from None
        return frames


def broker_codec_for_workers() -> _Codec:
    """What the broker uses on a worker's stream."""
    return _Codec(ToBrokerFromWorker)


def broker_codec_for_clients() -> _Codec:
    """What the broker uses on a client's stream."""
    return _Codec(ToBrokerFromClient)


def worker_codec() -> _Codec:
    """What a worker uses."""
    return _Codec(ToWorker)


def client_codec() -> _Codec:
    """What a client uses."""
    return _Codec(ToClient)
