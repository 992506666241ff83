"""Requests and replies of the operator's endpoints. Light to import, for the operator's commands."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from tradepost.bounded import AccountName, Count, Microcredits, Positive, Short
from tradepost.protocol import DeviceHealth

#: How long a join token may be valid, in seconds.
TTL_S_MAX: Final = 30 * 24 * 3600


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request or a reply of the operator's endpoints. Money is in microcredits."""


class NewAccount(_Body, frozen=True, kw_only=True):
    """POST /v1/admin/accounts: a name, and credits from the treasury to start with."""

    name: AccountName
    funds_microcredits: Microcredits = 0


class NewApiKey(_Body, frozen=True, kw_only=True):
    """The account's new key, which is never shown again."""

    account: str
    api_key: str
    available_microcredits: Microcredits


class Funding(_Body, frozen=True, kw_only=True):
    """POST /v1/admin/fund: credits from the treasury, once for each `transfer` id."""

    account: AccountName
    amount_microcredits: Positive
    transfer: Short = ""


class NewToken(_Body, frozen=True, kw_only=True):
    """POST /v1/admin/tokens: a single-use join token; `stake` comes from the treasury when it is used."""

    owner: AccountName
    stake_microcredits: Microcredits = 0
    auditor: bool = False
    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=TTL_S_MAX)] = 3600.0


class IssuedToken(_Body, frozen=True, kw_only=True):
    """The token, which is never shown again: `<secret>.<broker's key id>`."""

    token: str
    owner: str
    expires_at: float


class NewRevocations(_Body, frozen=True, kw_only=True):
    """POST /v1/admin/revocations: a revocation list's bytes, and the operator's Sigstore bundle over them."""

    document: Annotated[bytes, msgspec.Meta(max_length=1 << 20)]
    bundle: Annotated[str, msgspec.Meta(max_length=64 << 10)]


class EnforcedRevocations(_Body, frozen=True, kw_only=True):
    """The list that is enforced now, and to how many connected workers it was sent."""

    version: int
    workers: int


class SetAsideView(_Body, frozen=True, kw_only=True):
    """Something that the broker could not process, what kind of thing it is, when that was, and why."""

    id: str
    kind: str
    at: float
    reason: str


class Readmission(_Body, frozen=True, kw_only=True):
    """POST /v1/admin/set-aside: what is to be tried again, by the id in the list."""

    id: Annotated[str, msgspec.Meta(max_length=1024)]


class JobSummary(_Body, frozen=True, kw_only=True):
    """One job in the operator's list."""

    job: str
    account: str
    pipeline: str
    status: str
    submitted_at: float
    finished_at: float | None
    paid_microcredits: Microcredits


class DeviceView(_Body, frozen=True, kw_only=True):
    """GET /v1/admin/devices: a worker's newest heartbeat, unverified, which arrived at `at` (Unix seconds).

    `health` is `None` if the worker sends none.
    """

    worker: str
    at: float
    running: Count
    health: DeviceHealth | None


class StallView(_Body, frozen=True, kw_only=True):
    """GET /v1/admin/stalls: the stalls of the event loop at one place, since the start, in seconds.

    `place` is our innermost function there, then its callers. The newest ended at `newest_at` (Unix seconds).
    """

    place: str
    count: Count
    total_s: float
    longest_s: float
    newest_at: float
