"""Receipts: what a worker signs about a finished lease, checkable offline by anyone.

The signed bytes are `Receipt` as JSON with sorted keys and no white space (RFC 8785; the only numbers are
integers), in the signature domain `receipt`: any tool can read them. They name broker, job, lease and
attempt, commit to the pipeline, the input, the outcome and every stage's output, and carry the lease's nonce
and expiry, so a receipt answers one question once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Final

import msgspec

from tradepost import identity
from tradepost.bounded import LongCount, Short
from tradepost.content.ipld.cids import Cid, cid_of_block
from tradepost.errors import STAGE_FAILURES, UNDECODABLE, InvalidReceipt, InvalidSignature, TradepostError
from tradepost.schema_errors import describe_mismatch
from tradepost.short_repr import short_repr

FORMAT: Final = "tradepost-receipt/1"
RECEIPT_BYTES_MAX: Final = 64 << 10
_DOMAIN: Final = "receipt"


class StageReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one stage did. `output` is the sha-256 (hex) of its output document.

    `fuel` is what a kernel used (0 for a model); `provider` is the execution provider that ran a model
    ("" for a kernel); `wall_us` is the worker's own clock, which nothing is paid by.
    """

    stage: Short
    output: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    fuel: LongCount = 0
    provider: Short = ""
    wall_us: LongCount = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="failed"):
    """The pipeline failed in the same way that it would anywhere: the stage and the error's code."""

    stage: Short
    code: Short
    detail: Annotated[str, msgspec.Meta(max_length=2048)] = ""


class Returned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="returned"):
    """The pipeline returned an output document with this CID (of the bytes as one file)."""

    output: Short
    output_bytes: LongCount


class Preempted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="preempted"):
    """The device's owner wanted it back: the stages reported are done, and there is no result."""


#: What a job can end with, and what else a lease can.
JobOutcome = Returned | Failed
LeaseOutcome = JobOutcome | Preempted


class Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ended lease. `broker` and `worker` are key ids; times are Unix seconds."""

    format: Short = FORMAT
    broker: Short
    job: Short
    lease: Short
    attempt: LongCount
    worker: Short
    pipeline: Short
    input: Short
    outcome: LeaseOutcome
    stages: Annotated[tuple[StageReport, ...], msgspec.Meta(max_length=32)]
    engines: Annotated[dict[Short, Short], msgspec.Meta(max_length=16)]
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    expires_at: LongCount


class SignedReceipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A receipt's canonical bytes, the worker's public key (DER) and its signature over them."""

    payload: Annotated[bytes, msgspec.Meta(max_length=RECEIPT_BYTES_MAX)]
    public_key: Annotated[bytes, msgspec.Meta(max_length=256)]
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]

    def __repr__(self) -> str:
        return short_repr(self)

    def cid(self) -> Cid:
        """The receipt's own address."""
        return cid_of_block(self.payload, "raw")


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Receipt)


def sign_receipt(receipt: Receipt, worker: identity.Identity) -> SignedReceipt:
    """`receipt`, signed by the worker it names."""
    payload = _encoder.encode(receipt)
    return SignedReceipt(
        payload=payload, public_key=worker.public_key, signature=worker.sign(_DOMAIN, payload)
    )


def verify_receipt(signed: SignedReceipt) -> Receipt:
    """The receipt, once these steps have passed; raises `InvalidReceipt` at the first that does not.

    1. The signature is the public key's, over the payload, in the domain `receipt`.
    2. The payload is a receipt in canonical form, of a known format.
    3. The receipt names the worker whose key signed it.
    """
    # Step 1
    try:
        identity.verify(signed.public_key, _DOMAIN, signed.payload, signed.signature)
    except InvalidSignature as error:
        raise InvalidReceipt(str(error)) from None
    except TradepostError as error:
        raise InvalidReceipt(f"the public key cannot be used: {error}") from None
    # Step 2
    receipt = _decode(signed.payload)
    # Step 3
    if receipt.worker != identity.key_id(signed.public_key):
        raise InvalidReceipt(f"it names worker {receipt.worker}, but another key signed it")
    return receipt


def are_first_stages(reports: Iterable[StageReport], names: Sequence[str]) -> bool:
    """Whether the reports are of the first of a pipeline's stages, in its order: none, some or all.

    `names` are those of the pipeline's stages.
    """
    reported = [report.stage for report in reports]
    return reported == list(names[: len(reported)])


def is_stage_failure(stage: str | None, code: str, names: Collection[str]) -> bool:
    """Whether a pipeline with stages of these names can fail so on every device: with this code, here."""
    return stage in names and code in STAGE_FAILURES


def document_hash(document: bytes) -> str:
    """The sha-256 (hex) by which receipts name a stage's output document."""
    return hashlib.sha256(document).hexdigest()


def _decode(payload: bytes) -> Receipt:
    try:
        receipt = _decoder.decode(payload)
    except UNDECODABLE as error:
        raise InvalidReceipt(f"not a receipt: {describe_mismatch(error, whole='the payload')}") from None
    if receipt.format != FORMAT:
        raise InvalidReceipt(f"its format is {receipt.format!r}; this version reads {FORMAT!r}")
    if _encoder.encode(receipt) != payload:
        raise InvalidReceipt("the payload is not in canonical form")
    return receipt
