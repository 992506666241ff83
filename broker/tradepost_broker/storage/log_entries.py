"""What the audit log covers: the journal, the market's starts, receipts, and credentials.

Each kind names the columns whose values are logged; they never change once written. What may change, such as
an output that is deleted after its time or the use of a join token, is not among them: it follows from the
journal, or is named in the receipt by its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from tradepost.audit_log.entries import entry
from tradepost_broker.storage.shell_records import ApiKey, Delivery, JoinToken


class Logged(NamedTuple):
    """One entry: its kind, the key of the record that it is about, and the bytes that are committed to."""

    kind: str
    record: str
    entry: bytes


@dataclass(frozen=True, kw_only=True)
class LoggedKind:
    """A kind of entry. The first of `columns` is the key of `table`, and every value has the given type."""

    name: str
    table: str
    columns: tuple[tuple[str, Callable[[Any], Any]], ...]

    def logged(self, row: Sequence[Any]) -> Logged:
        """The entry of a record, by the values of the columns; as written, or as SQLite returns them."""
        values = [
            None if value is None else convert(value)
            for value, (_, convert) in zip(row, self.columns, strict=True)
        ]
        return Logged(self.name, str(values[0]), entry(self.name, *values))

    @property
    def key(self) -> str:
        """The column that the records are found by."""
        return self.columns[0][0]

    @property
    def select(self) -> str:
        """A select of the columns of every record."""
        return f"SELECT {', '.join(name for name, _ in self.columns)} FROM {self.table}"  # noqa: S608


START: Final = LoggedKind(
    name="start",
    table="runs",
    columns=(("first_seq", int), ("at", float), ("version", str), ("policy", bytes), ("left_out", bytes)),
)
EVENT: Final = LoggedKind(
    name="event",
    table="journal",
    columns=(("seq", int), ("at", float), ("kind", str), ("seed", bytes), ("body", bytes)),
)
#: As `tradepost.audit_log.entries.receipt_entry` has it, which submitters compute.
RECEIPT: Final = LoggedKind(
    name="receipt",
    table="deliveries",
    columns=(("id", str), ("payload", bytes), ("public_key", bytes), ("signature", bytes)),
)
API_KEY: Final = LoggedKind(
    name="api_key", table="api_keys", columns=(("id", str), ("account", str), ("created_at", float))
)
JOIN_TOKEN: Final = LoggedKind(
    name="join_token",
    table="join_tokens",
    columns=(("id", str), ("owner", str), ("stake", int), ("auditor", int), ("expires_at", float)),
)

KINDS: Final = {kind.name: kind for kind in (START, EVENT, RECEIPT, API_KEY, JOIN_TOKEN)}


def logged_by(
    events: Sequence[Sequence[Any]],
    start: msgspec.Struct | None,
    records: Mapping[type[Any], Mapping[str, Any]],
    *,
    is_stored: Callable[[JoinToken], bool],
) -> list[Logged]:
    """What a transaction adds to the log, in order: `events` are rows of the journal, `records` are saved.

    A start is logged with its first event: until then, another start may replace it.
    """
    # As `EVENT.logged` gives it, without a conversion for each value: these are the most by far.
    entries = [
        Logged("event", str(seq), entry("event", seq, float(at), kind, seed, body))
        for seq, at, kind, seed, body in events
    ]
    if entries and start is not None:
        entries.insert(0, START.logged(msgspec.structs.astuple(start)))
    entries += [
        RECEIPT.logged((one.id, one.payload, one.public_key, one.signature))
        for one in records[Delivery].values()
    ]
    entries += [API_KEY.logged((one.id, one.account, one.created_at)) for one in records[ApiKey].values()]
    entries += [
        JOIN_TOKEN.logged((one.id, one.owner, one.stake_microcredits, one.auditor, one.expires_at))
        for one in records[JoinToken].values()
        if not (one.used_by and is_stored(one))  # else it was logged when it was issued
    ]
    return entries
