"""Converts structs to rows and back: one codec for each kind of record.

A table either has a `body` column, the whole struct as msgpack, beside the columns that queries filter by;
or it has a column for every field. Columns have the stored names of fields (`stored_names`). The SQL is
compiled once, since SQLAlchemy's own compiling and binding would cost more than SQLite's work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import Table, bindparam, select
from sqlalchemy.dialects import sqlite
from sqlmodel import SQLModel

from tradepost_broker.market.model import entities
from tradepost_broker.storage import shell_records, tables

T = TypeVar("T")
AnyRecord = entities.Record | shell_records.ShellRecord

_DIALECT: Final = sqlite.dialect()
_BODY: Final = "body"
_encode: Final = msgspec.msgpack.Encoder().encode


class RowCodec(Generic[T]):
    """Writes and reads records of one kind; `kind` has an `id`, which is the table's primary key.

    Rows of an `immutable` kind are only ever inserted: a second one with the same id fails.
    """

    def __init__(self, kind: type[T], table: type[SQLModel], *, immutable: bool = False) -> None:
        self.kind = kind
        self.table: Table = tables.metadata.tables[str(table.__tablename__)]
        self.has_body = _BODY in self.table.c
        self._columns = [column.name for column in self.table.columns if column.name != _BODY]
        fields = {field.encode_name: field.name for field in _fields(kind)}
        # Two names or more, so that it gives a tuple also for a table with one column.
        self._values: Callable[[T], tuple[Any, ...]] = attrgetter(
            *(fields[column] for column in self._columns), "id"
        )
        self._decoder = msgspec.msgpack.Decoder(kind)
        self.insert = self._insert(immutable)
        self.select = self._compiled(select(self.table).where(self.table.c.id == bindparam("id")))

    def to_row(self, record: T) -> tuple[Any, ...]:
        """The values of `record` in the order of the table's columns."""
        values = self._values(record)[:-1]
        return (*values, _encode(record)) if self.has_body else values

    def from_row(self, row: Sequence[Any]) -> T:
        """The record in a row that has all of the table's columns, in order."""
        if self.has_body:
            return self._decoder.decode(row[-1])
        return msgspec.convert(dict(zip(self._columns, row, strict=True)), self.kind, strict=False)

    def _insert(self, immutable: bool) -> str:
        statement = sqlite.insert(self.table)
        if not immutable:
            changed = {c.name: statement.excluded[c.name] for c in self.table.c if c.name != "id"}
            statement = statement.on_conflict_do_update(index_elements=["id"], set_=changed)
        return self._compiled(statement)

    @staticmethod
    def _compiled(statement: Any) -> str:
        return str(statement.compile(dialect=_DIALECT))


def _fields(kind: type[Any]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _codecs() -> dict[type[Any], RowCodec[Any]]:
    codecs: list[RowCodec[Any]] = [
        RowCodec(entities.Account, tables.AccountTable),
        RowCodec(entities.Transfer, tables.TransferTable, immutable=True),
        RowCodec(entities.Pipeline, tables.PipelineTable),
        RowCodec(entities.Worker, tables.WorkerTable),
        RowCodec(entities.Job, tables.JobTable),
        RowCodec(entities.Lease, tables.LeaseTable),
        RowCodec(entities.Evidence, tables.EvidenceTable, immutable=True),
        RowCodec(entities.PipelineUse, tables.PipelineUseTable),
        RowCodec(entities.OwnerPair, tables.OwnerPairTable),
        RowCodec(entities.CollusionFinding, tables.CollusionFindingTable),
        RowCodec(entities.Match, tables.MatchTable, immutable=True),
        RowCodec(shell_records.ApiKey, tables.ApiKeyTable, immutable=True),
        RowCodec(shell_records.JoinToken, tables.JoinTokenTable),
        RowCodec(shell_records.Publication, tables.PublicationTable),
        RowCodec(shell_records.Upload, tables.UploadTable),
        RowCodec(shell_records.InlineInput, tables.InputTable, immutable=True),
        RowCodec(shell_records.Delivery, tables.DeliveryTable, immutable=True),
        RowCodec(shell_records.PublishedCheckpoint, tables.CheckpointTable),
        RowCodec(shell_records.SetAside, tables.SetAsideTable),
    ]
    return {codec.kind: codec for codec in codecs}


#: By kind of record, in the order in which foreign keys allow a transaction to write them.
CODECS: Final = _codecs()
