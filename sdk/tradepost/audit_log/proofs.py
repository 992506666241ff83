"""Proofs that receipts are in a broker's audit log, verified offline.

A proof is JSON, `tradepost-log-proof/1`: a signed checkpoint, and for each receipt its place in the log, the
nonce of its entry and its audit path. With `since`, it also shows that the log extends the one of that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from tradepost.audit_log.checkpoint import (
    NOTE_CHARS_MAX,
    Checkpoint,
    verify_checkpoint,
    verify_kept_checkpoint,
)
from tradepost.audit_log.entries import NONCE_BYTES, commitment, receipt_entry
from tradepost.audit_log.merkle import HASH_BYTES, is_consistent, leaf_hash, root_from_inclusion
from tradepost.bounded import LongCount, Short
from tradepost.errors import InvalidProof, LogRewritten
from tradepost.receipts import Receipt, SignedReceipt, verify_receipt
from tradepost.short_repr import short_repr

FORMAT: Final = "tradepost-log-proof/1"

Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
#: No tree that fits into 63 bits needs more.
Path = Annotated[tuple[Hash, ...], msgspec.Meta(max_length=128)]


class LoggedReceipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the log has the receipt of a lease: entry `index`, its nonce, and the path to the root."""

    lease: Short
    index: LongCount
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    path: Path


class LogProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That receipts are in the log with this checkpoint (a signed note). `public_key` (DER) is the broker's.

    `consistency` leads from the log of `since` entries to this one, where it was asked for.
    """

    format: Short = FORMAT
    checkpoint: Annotated[str, msgspec.Meta(max_length=NOTE_CHARS_MAX)]
    public_key: Annotated[bytes, msgspec.Meta(max_length=256)]
    receipts: Annotated[tuple[LoggedReceipt, ...], msgspec.Meta(max_length=256)]
    since: LongCount | None = None
    consistency: Path = ()

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A receipt that the log has as entry `index` (from 0), and the checkpoint that shows it."""

    receipt: Receipt
    index: int
    checkpoint: Checkpoint


def verify_proof(
    proof: LogProof, receipts: Sequence[SignedReceipt], *, kept: str | None = None
) -> list[Inclusion]:
    """Where the log has each of `receipts`, once these steps have passed.

    1. The checkpoint is of the log of the broker with the proof's public key, and signed by it.
    2. Each receipt is valid, and names that broker.
    3. Each receipt's entry is in the log: its path leads to the checkpoint's root.
    4. With a checkpoint that was `kept` (a signed note): it is of the same log, and the log extends it.

    Raises `InvalidCheckpoint` (1), `InvalidReceipt` (2), `InvalidProof`, `InvalidKeptCheckpoint` or
    `LogRewritten` (4) at the first that does not.
    """
    if proof.format != FORMAT:
        raise InvalidProof(f"its format is {proof.format!r}; this version reads {FORMAT!r}")
    # Step 1
    checkpoint = verify_checkpoint(proof.checkpoint, proof.public_key)
    logged = {one.lease: one for one in proof.receipts}
    inclusions = []
    for signed in receipts:
        # Step 2
        receipt = verify_receipt(signed)
        if receipt.broker != checkpoint.broker:
            raise InvalidProof(f"the receipt is for broker {receipt.broker}, the log of {checkpoint.broker}")
        # Step 3
        if (place := logged.get(receipt.lease)) is None:
            raise InvalidProof(f"it has nothing about lease {receipt.lease}")
        leaf = leaf_hash(commitment(receipt_entry(receipt.lease, signed), place.nonce))
        if root_from_inclusion(leaf, place.index, checkpoint.size, place.path) != checkpoint.root:
            raise InvalidProof(f"the log does not have this receipt of lease {receipt.lease}")
        inclusions.append(Inclusion(receipt, place.index, checkpoint))
    # Step 4
    if kept is not None:
        _require_extends(proof, checkpoint, verify_kept_checkpoint(kept, proof.public_key))
    return inclusions


def _require_extends(proof: LogProof, checkpoint: Checkpoint, kept: Checkpoint) -> None:
    if kept.size == checkpoint.size and kept.root == checkpoint.root:
        return
    if proof.since != kept.size and kept.size < checkpoint.size:
        raise InvalidProof(
            f"the kept checkpoint has {kept.size} entries, and the proof shows nothing about that size",
            hint="Fetch it again, since the kept one: `tradepost receipt proof JOB --since FILE`.",
        )
    if kept.size > checkpoint.size:
        raise InvalidProof(
            f"the proof's checkpoint has {checkpoint.size} entries and is older than the kept one with "
            f"{kept.size}"
        )
    if not is_consistent(kept.size, kept.root, checkpoint.size, checkpoint.root, proof.consistency):
        raise LogRewritten(
            f"the log with {checkpoint.size} entries does not begin with the {kept.size} of the kept one"
        )
