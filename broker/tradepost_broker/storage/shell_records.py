"""The shell's own records: credentials, content and signed receipts.

The core never sees these. They are written in the same transaction as the event that they belong to, by the
same path as the market's records: found by `id`, the last write of a transaction wins.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from tradepost.receipts import SignedReceipt
from tradepost_broker.market.model.stored_names import without_unit
from tradepost_broker.market.sifting import LeftOut

#: So much of a reason is kept.
REASON_CHARS_MAX: Final = 2000


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of an account; `id` is the key's sha-256 (hex), since the key itself is shown once only."""

    id: str
    account: str
    created_at: float


class JoinToken(msgspec.Struct, frozen=True, kw_only=True, rename=without_unit):
    """Lets one device join, once, as `owner`'s. `id` is the secret's sha-256 (hex).

    `used_by` is the id of the worker that joined with it, or empty.
    """

    id: str
    owner: str
    stake_microcredits: int
    auditor: bool
    expires_at: float
    used_by: str = ""


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A published pipeline, and every block of it, which are public from then on.

    `account` is the one that published it first, `bundle` holds that account's signatures, and `added` those
    of others, by account.
    """

    id: str
    account: str
    at: float
    manifest: bytes
    bundle: str
    blocks: tuple[str, ...]
    added: dict[str, str] = {}


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A block in the content store that `holder` put there: `account:<name>` or `lease:<id>`.

    A block belongs to each who sent its bytes: knowing a CID gives nobody access to it. `at` is when it was
    last put or submitted.
    """

    id: str
    holder: str
    cid: str
    size_bytes: int
    at: float

    @staticmethod
    def key(holder: str, cid: str) -> str:
        """The id of the upload of `cid` by `holder`."""
        return f"{holder}/{cid}"


class InlineInput(msgspec.Struct, frozen=True, kw_only=True):
    """A job's input document that came inside its request."""

    id: str
    document: bytes


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker delivered for a lease: the signed receipt, and the output unless it was uploaded.

    `output_cid` is empty where the outcome is a failure.
    """

    id: str
    payload: bytes
    public_key: bytes
    signature: bytes
    output: bytes | None
    output_cid: str

    @property
    def receipt(self) -> SignedReceipt:
        """The receipt as it was signed."""
        return SignedReceipt(payload=self.payload, public_key=self.public_key, signature=self.signature)


class SetAsideKind(StrEnum):
    """What was set aside."""

    EVENT = "event"  # work that made the market fail: it is rejected when it comes again
    JOB = "job"  # a job that made the market fail, which ended because of that
    LEFT_OUT = "left out"  # a record that made it fail again, and that the market goes on without
    UNREADABLE = "unreadable"  # a damaged record, or one that refers to what is missing; judged at each start


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a defect, or damage, kept the broker from processing. `reason` says what happened.

    `id` names it: an event as `pieces.piece_of` does, a job or another record as `<kind> <id>`. `event` is
    the event as it would be in the journal (msgpack), for the developer who looks for the defect.
    """

    id: str
    kind: SetAsideKind
    at: float
    reason: str
    event: bytes | None = None


def unreadable(one: LeftOut, at: float) -> SetAside:
    """How a record that cannot be read is set aside."""
    return SetAside(
        id=f"{one.kind} {one.id}", kind=SetAsideKind.UNREADABLE, at=at, reason=one.reason[:REASON_CHARS_MAX]
    )


class PublishedCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The newest checkpoint of the audit log that was published: a signed note, of `size` entries."""

    size: int
    note: str
    id: str = "newest"


ShellRecord = (
    PublishedCheckpoint | SetAside | ApiKey | JoinToken | Publication | Upload | InlineInput | Delivery
)
