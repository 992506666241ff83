"""The broker's store on disk: one writer, whose transactions are durable before replies are sent.

A transaction collects what a batch of events changed, the last write of each record winning. `flush` writes
the rows; `commit` makes them durable. They are apart because writing rows costs the processor, so it runs on
the event loop's thread, while committing waits for the disk, so it runs in another: a thread that fetched the
interpreter's lock once for every row would wait longer than the disk takes. Readers have their own connection
and see only what is committed. What runs for every job goes straight to the driver: SQLAlchemy's care for a
statement costs more than SQLite's work on it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, Row, Select, Table, func, or_, select

from tradepost.audit_log.merkle import Edge
from tradepost.errors import UNDECODABLE, DatabaseDamaged, invariant
from tradepost_broker.market import recovery
from tradepost_broker.market.model import entities
from tradepost_broker.market.model.events import Event, MatchingEvent
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.sifting import LeftOut, Sifted, kind_of, sift
from tradepost_broker.storage import database, log_tree, tables
from tradepost_broker.storage.database_checks import RESTORE, is_disk_full
from tradepost_broker.storage.document_cache import DocumentCache
from tradepost_broker.storage.log_entries import logged_by
from tradepost_broker.storage.rows import CODECS, AnyRecord
from tradepost_broker.storage.shell_records import (
    Delivery,
    InlineInput,
    JoinToken,
    SetAside,
    SetAsideKind,
    unreadable,
)

T = TypeVar("T")

JOURNAL: Final[Table] = tables.metadata.tables["journal"]
_RUNS: Final[Table] = tables.metadata.tables["runs"]
_INSERT_EVENT: Final = "INSERT INTO journal (seq, at, kind, seed, body) VALUES (?, ?, ?, ?, ?)"
_INSERT_START: Final = (
    "INSERT OR REPLACE INTO runs (first_seq, at, version, policy, left_out) VALUES (?, ?, ?, ?, ?)"
)
#: The event loop must not stand still while another process has the lock: the engine tries again.
_DO_NOT_WAIT: Final = "PRAGMA busy_timeout=0"
_FORGET_UNREADABLE: Final = "DELETE FROM set_aside WHERE kind = ?"
_SEED_BYTES: Final = 16

#: What decoding a column raises if it is damaged: SQLite's columns may hold values of any type.
UNREADABLE: Final = (*UNDECODABLE, TypeError, ValueError)

log = logging.getLogger(__name__)

_encode_event: Final = msgspec.msgpack.Encoder().encode
_decode_event: Final = msgspec.msgpack.Decoder(Event).decode


class BrokerStart(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the market: events from `first_seq` on were decided under `policy` (msgpack).

    `left_out` are the records that it started without (msgpack).
    """

    first_seq: int
    at: float
    version: str
    policy: bytes
    left_out: bytes | None = None

    @property
    def without(self) -> list[tuple[str, str]]:
        """The records that the market started without, as pairs of kind and id."""
        if self.left_out is None:
            return []
        return msgspec.msgpack.decode(self.left_out, type=list[tuple[str, str]])


class Deletion(NamedTuple):
    """An SQL statement that deletes rows, or documents within rows, and its parameters."""

    statement: str
    parameters: tuple[Any, ...]


class Reader:
    """Reads committed records through one connection."""

    def __init__(self, connection: Connection) -> None:
        self._reader = connection
        self._read = database.driver_of(connection)
        #: The records that could not be read since the start, by kind and id.
        self.unreadable: dict[tuple[str, str], LeftOut] = {}

    def close(self) -> None:
        """Close the connection."""
        database.close(self._reader)

    def get(self, kind: type[T], id_: str) -> T | None:
        """The record of this kind and id, or `None`."""
        codec = CODECS[kind]
        row = self._read.execute(codec.select, (id_,)).fetchone()
        return None if row is None else codec.from_row(row)

    def find(self, kind: type[T], statement: Select[Any] | None = None) -> Iterator[T]:
        """The records that `statement`, a select of the kind's table, gives; without it, all."""
        codec = CODECS[kind]
        rows = self._reader.execute(select(codec.table) if statement is None else statement)
        return (codec.from_row(row) for row in rows)

    def find_readable(self, kind: type[T], statement: Select[Any] | None = None) -> Iterator[T]:
        """As `find`, but skips a row that cannot be read, and notes it in `unreadable`."""
        return (record for _, record in self._readable(kind, statement, self.note_unreadable))

    def readable_rows(self, kind: type[T]) -> Iterator[tuple[Row[Any], T]]:
        """Every row of a kind with its record; one that cannot be read is skipped, as by `find_readable`."""
        return self._readable(kind, None, self.note_unreadable)

    def note_unreadable(self, one: LeftOut) -> None:
        """Note, and log once, that a record cannot be read."""
        if (one.kind, one.id) not in self.unreadable:
            self.unreadable[one.kind, one.id] = one
            log.error(
                "The %s %s is left out: %s", one.kind, one.id, one.reason, extra={"action": "record_left_out"}
            )

    def _readable(
        self, kind: type[T], statement: Select[Any] | None, note: Callable[[LeftOut], None]
    ) -> Iterator[tuple[Row[Any], T]]:
        codec = CODECS[kind]
        for row in self._reader.execute(select(codec.table) if statement is None else statement):
            try:
                record = codec.from_row(row)
            except Exception as error:  # damage takes any form
                reason = f"its row cannot be read: {type(error).__name__}: {error}"
                note(LeftOut(kind_of(kind), str(row.id), reason))
            else:
                yield row, record

    def query(self, statement: Select[Any]) -> list[Any]:
        """The rows of any other read."""
        return list(self._reader.execute(statement))

    def last_at(self) -> float:
        """The time of the newest event, in Unix seconds; 0 if there is none. Raises `DatabaseDamaged`."""
        newest = self.rows("SELECT at FROM journal ORDER BY seq DESC LIMIT 1")
        try:
            return float(newest[0][0]) if newest else 0.0
        except UNREADABLE as error:
            raise DatabaseDamaged(f"the time of the newest event: {error}", hint=RESTORE) from None

    def define(self, name: str, function: Callable[[Any], Any]) -> None:
        """Let statements of this connection call a pure function of one argument by `name`."""
        self._read.create_function(name, 1, function, deterministic=True)

    def rows(
        self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows of a read in the driver's own SQL."""
        return self._read.execute(statement, parameters).fetchall()

    def each(self, statement: str) -> Iterator[tuple[Any, ...]]:
        """As `rows` without parameters, one row at a time."""
        return iter(self._read.execute(statement))

    def load(self, *, at: float, policy: MarketPolicy) -> list[entities.Record]:
        """The records that `Market.restore` needs at time `at`, as `recovery.needed` declares them."""
        return self.sift(at=at, policy=policy).records

    def sift(self, *, at: float, policy: MarketPolicy, without: Iterable[tuple[str, str]] = ()) -> Sifted:
        """As `load`, less those that cannot be read or refer to what is missing, and less those in `without`.

        Raises `InvariantBroken` if it is an account, without which the ledger cannot be right.
        """
        unreadable: list[LeftOut] = []
        records = [
            record
            for kind, conditions in recovery.needed(at, policy).items()
            for _, record in self._readable(kind, _selecting(kind, conditions), unreadable.append)
        ]
        for one in unreadable:
            invariant(one.kind != kind_of(entities.Account), f"account {one.id}: {one.reason}")
        sifted = sift(records, without=[*without, *((one.kind, one.id) for one in unreadable)])
        left_out = [*unreadable, *sifted.left_out]
        for one in left_out:
            self.note_unreadable(one)
        return Sifted(sifted.records, left_out)

    def journal(self, note_unreadable: Callable[[str], None] | None = None) -> Iterator[tuple[int, Event]]:
        """Every journalled event with its number, in order.

        One that cannot be read is skipped and noted; without `note_unreadable` it raises an error of msgspec.
        """
        statement = select(JOURNAL.c.seq, JOURNAL.c.seed, JOURNAL.c.body).order_by(JOURNAL.c.seq)
        for seq, seed, body in self._reader.execute(statement.execution_options(yield_per=1000)):
            try:
                event = _decode_event(body)
                if isinstance(event, MatchingEvent):
                    event = replace(event, seed=int.from_bytes(seed, "big"))
            except UNREADABLE as error:
                if note_unreadable is None:
                    raise
                note_unreadable(f"event {seq} cannot be read: {error}")
                continue
            yield seq, event

    def has_revocations(self) -> bool:
        """Whether the market has enforced a revocation list since its last start, which enforces it again."""
        since = select(func.max(_RUNS.c.first_seq)).scalar_subquery()
        events = select(JOURNAL.c.seq).where(JOURNAL.c.seq >= since, tables.OF_REVOCATIONS)
        return self._reader.scalar(events.limit(1)) is not None

    def starts(self) -> list[BrokerStart]:
        """Every start of the broker, oldest first."""
        rows = self._reader.execute(select(_RUNS).order_by(_RUNS.c.first_seq)).mappings()
        return [BrokerStart(**row) for row in rows]


class Store(Reader):
    """The database at `path`, migrated when it is opened; reads see a commit at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with ExitStack() as opened:
            self._writer = database.open_writer(path)
            opened.callback(database.close, self._writer)
            self._write = database.driver_of(self._writer)
            self._write.execute(_DO_NOT_WAIT)
            super().__init__(database.open_reader(path))
            opened.callback(super().close)
            self._last_seq: int = self._reader.scalar(select(func.max(JOURNAL.c.seq))) or 0
            self._committed_seq = self._last_seq
            self._documents = DocumentCache()
            self._log_edge = log_tree.restored_edge(self.rows, last_seq=self._last_seq)
            #: A start that is logged with its first event: until then, another start may replace it.
            self._unlogged_start = next(
                (one for one in self.starts() if one.first_seq > self._last_seq), None
            )
            opened.pop_all()  # nothing failed, so both stay open

    def get(self, kind: type[T], id_: str) -> T | None:
        """The committed record of this kind and id, or `None`."""
        recent: T | None = self._documents.get(kind, id_)
        return super().get(kind, id_) if recent is None else recent

    def close(self) -> None:
        """Close the database; a transaction that was not committed is gone."""
        database.close(self._writer)
        super().close()

    def is_disk_full(self, error: Exception) -> bool:
        """Whether a transaction failed for want of room, so that it can be undone and written again."""
        return is_disk_full(error, self._path)

    def open_reader(self) -> Reader:
        """Another connection that reads, for one other thread."""
        return Reader(database.open_reader(self._path))

    def set_aside_unreadable(self, *, at: float) -> None:
        """Keep, durably, which records cannot be read now, in place of what an earlier start found."""
        transaction = self.begin()
        transaction.delete_first(Deletion(_FORGET_UNREADABLE, (SetAsideKind.UNREADABLE.value,)))
        for one in self.unreadable.values():
            transaction.save(unreadable(one, at))
        transaction.flush()
        transaction.commit()

    def left_out(self) -> list[tuple[str, str]]:
        """The jobs that the market goes on without, because they made it fail: pairs of kind and id."""
        table = CODECS[SetAside].table
        ids = select(table.c.id).where(table.c.kind == SetAsideKind.LEFT_OUT)
        return [(kind, id_) for kind, _, id_ in (row[0].partition(" ") for row in self.query(ids))]

    @property
    def last_seq(self) -> int:
        """The number of the newest committed event."""
        return self._committed_seq

    @property
    def log_edge(self) -> Edge:
        """The right edge of the audit log as committed."""
        return self._log_edge

    def begin(self) -> Transaction:
        """A new transaction; the one before it must have been committed."""
        return Transaction(self)

    def record_start(
        self,
        *,
        at: float,
        version: str,
        policy: bytes,
        left_out: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Note, durably, that events from here on are decided under `policy`, without `left_out`."""
        transaction = self.begin()
        transaction.start(at=at, version=version, policy=policy, left_out=left_out)
        transaction.flush()
        transaction.commit()


def _selecting(kind: type[Any], conditions: Sequence[recovery.Condition] | None) -> Select[Any]:
    """A select of the rows of a kind for which any of `conditions` holds; without conditions, of all."""
    table = CODECS[kind].table
    if conditions is None:
        return select(table)
    return select(table).where(or_(*(_clause(table, condition) for condition in conditions)))


def _clause(table: Table, condition: recovery.Condition) -> ColumnElement[bool]:
    column: ColumnElement[Any] = table.c[condition.field]
    if isinstance(condition, recovery.Related):
        related = _selecting(condition.kind, condition.conditions)
        key = CODECS[condition.kind].table.c[condition.key]
        return column.in_(related.with_only_columns(key))
    clause: ColumnElement[bool]
    match condition.comparison:
        case recovery.Is.UNSET:
            clause = column.is_(None)
        case recovery.Is.SET:
            clause = column.is_not(None)
        case recovery.Is.TRUE:
            clause = column
        case recovery.Is.EQUAL_TO:
            clause = column == condition.value
        case recovery.Is.AT_LEAST:
            clause = column >= condition.value
    return clause


class Transaction:
    """Writes that happen together or not at all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: The events that were journalled, in order.
        self.events: list[Event] = []
        self._rows: list[tuple[int, float, str, bytes | None, bytes]] = []
        self._records: dict[type[Any], dict[str, Any]] = {kind: {} for kind in CODECS}
        self._deletions: list[Deletion] = []
        self._deletions_first: list[Deletion] = []
        self._start: BrokerStart | None = None
        self._log_edge: Edge | None = None
        self.is_empty = True
        #: Bytes of the documents of jobs among the records.
        self.document_bytes = 0

    def start(
        self, *, at: float, version: str, policy: bytes, left_out: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Note that events from here on are decided by a market that was restored."""
        self._start = BrokerStart(
            first_seq=self._store._last_seq + 1,
            at=at,
            version=version,
            policy=policy,
            left_out=_encode_event(sorted(set(left_out))),
        )
        self.is_empty = False

    def journal(self, event: Event) -> None:
        """Add an event to the journal, with the next number."""
        self._store._last_seq += 1
        seed: bytes | None = None
        if isinstance(event, MatchingEvent):
            # Apart from the body: 128 bits do not fit into msgpack's integers.
            seed = event.seed.to_bytes(_SEED_BYTES, "big")
        self.events.append(event)
        self._rows.append(
            (
                self._store._last_seq,
                event.at,
                str(event.__struct_config__.tag),
                seed,
                _encode_event(replace(event, seed=0) if seed is not None else event),
            )
        )
        self.is_empty = False

    def save(self, record: AnyRecord) -> None:
        """Write `record`, as it is when the transaction is flushed, in place of the row with its id."""
        self._records[type(record)][record.id] = record
        self.is_empty = False
        if isinstance(record, InlineInput):
            self.document_bytes += len(record.document)
        elif isinstance(record, Delivery):
            self.document_bytes += len(record.output or b"")

    def delete(self, deletion: Deletion) -> None:
        """Run a deletion, after the records were written."""
        self._deletions.append(deletion)
        self.is_empty = False

    def get(self, kind: type[T], id_: str) -> T | None:
        """The record of this kind and id: as this transaction has it, else as committed, else `None`."""
        record: T | None = self._records[kind].get(id_)
        return self._store.get(kind, id_) if record is None else record

    def delete_first(self, deletion: Deletion) -> None:
        """Run a deletion before the records are written."""
        self._deletions_first.append(deletion)
        self.is_empty = False

    def _is_stored(self, token: JoinToken) -> bool:
        return self._store.get(JoinToken, token.id) is not None

    def take_lock(self) -> bool:
        """Take the lock that writers need, without waiting; whether it was free. `flush` then needs not wait.

        The lock is another process's while that writes, such as a backup or a database shell.
        """
        try:
            self._store._write.execute(database.BEGIN)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def flush(self) -> None:
        """Write the rows. Nothing is durable, and no reader sees anything, before `commit`."""
        write = self._store._write
        if not write.in_transaction:
            write.execute(database.WAIT)
            write.execute(database.BEGIN)
            write.execute(_DO_NOT_WAIT)
        for statement, parameters in self._deletions_first:
            write.execute(statement, parameters)
        if self._start is not None:
            # A start that decided nothing leaves no trace: the next one has the same first event.
            write.execute(_INSERT_START, msgspec.structs.astuple(self._start))
        write.executemany(_INSERT_EVENT, self._rows)
        for kind, records in self._records.items():
            if records:
                codec = CODECS[kind]
                write.executemany(codec.insert, [codec.to_row(record) for record in records.values()])
        start = self._start or self._store._unlogged_start
        if logged := logged_by(self._rows, start, self._records, is_stored=self._is_stored):
            self._log_edge = log_tree.append(write, self._store._log_edge, logged)
        for statement, parameters in self._deletions:
            write.execute(statement, parameters)

    def undo(self) -> None:
        """Undo what was flushed, to flush it again: the transaction stays as it is."""
        self._store._write.rollback()

    def discard(self) -> None:
        """Undo what was flushed, and forget the rest: the numbers of its events are free again."""
        self._store._write.rollback()
        self._store._last_seq = self._store._committed_seq

    def commit(self) -> None:
        """Make what was flushed durable. May run in another thread than `flush`, but not at the same time."""
        self._store._write.commit()
        self._store._committed_seq = self._store._last_seq
        if self._rows:
            self._store._unlogged_start = None
        elif self._start is not None:
            self._store._unlogged_start = self._start
        if self._log_edge is not None:
            self._store._log_edge = self._log_edge

    def remember(self) -> None:
        """Keep the documents that were committed at hand."""
        for kind in (InlineInput, Delivery):
            for record in self._records[kind].values():
                self._store._documents.add(record)
