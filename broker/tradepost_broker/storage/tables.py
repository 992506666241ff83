"""The broker's tables: the journal, the market's records, and what the shell keeps beside them.

A record that is only ever read whole has the columns that queries need and its struct as msgpack in `body`;
money and evidence have every field as a column, so that anyone can audit them with plain SQL. Text ids sort
by time, so new rows land at the end of each tree. Columns have the names of the struct's fields, without the
unit of money (`stored_names`), which is the microcredit. Times are Unix seconds.
`rows` maps structs to these tables; `migrations` makes them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from sqlalchemy import BigInteger, Index, LargeBinary, MetaData, text
from sqlmodel import Field, SQLModel

#: Every constraint has a name, so that migrations can change it.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING)

# A row of a small record is kept in its primary key's own tree: one tree to write instead of two.
_SMALL = {"sqlite_with_rowid": False}


class _Table(SQLModel):
    metadata: ClassVar[MetaData] = metadata


def _key(foreign_key: str | None = None) -> Any:
    return Field(primary_key=True, foreign_key=foreign_key) if foreign_key else Field(primary_key=True)


def _integer() -> Any:
    return Field(sa_type=BigInteger)


def _blob(*, nullable: bool = False) -> Any:
    return Field(sa_type=LargeBinary, nullable=nullable)


# What happened


#: A literal, or the database could not see that the index of such events serves a query.
OF_REVOCATIONS: Final = text("kind = 'revocations_issued'")


class JournalTable(_Table, table=True):
    """Every event that changed something, in order. `body` is the event as msgpack, without its seed."""

    __tablename__ = "journal"
    # Few events are of this kind, and a start looks whether there is one among very many others.
    __table_args__ = (Index("ix_journal_revocations", "seq", sqlite_where=OF_REVOCATIONS),)
    seq: int = _key()
    at: float
    kind: str
    seed: bytes | None = _blob(nullable=True)
    body: bytes = _blob()


class RunTable(_Table, table=True):
    """Each start of the market: the policy (msgpack) under which events from `first_seq` on were decided.

    `left_out` are the records (msgpack, pairs of kind and id) that it started without.
    """

    __tablename__ = "runs"
    first_seq: int = _key()
    at: float
    version: str
    policy: bytes = _blob()
    left_out: bytes | None = _blob(nullable=True)


# The audit log (`log_tree`)


class LogEntryTable(_Table, table=True):
    """Every entry of the audit log: which record it commits to, and the nonce of the commitment."""

    __tablename__ = "log_entries"
    __table_args__ = (Index("ix_log_entries_receipt", "record", sqlite_where=text("kind = 'receipt'")),)
    number: int = _key()
    kind: str
    record: str
    nonce: bytes = _blob()
    commitment: bytes = _blob()


class LogNodeTable(_Table, table=True):
    """The complete subtrees of the log's tree at every eighth height."""

    __tablename__ = "log_nodes"
    __table_args__ = (_SMALL,)
    height: int = _key()
    number: int = _key()
    hash: bytes = _blob()


class LogEdgeTable(_Table, table=True):
    """The right edge of the log's tree: its size, and the hashes of its complete subtrees. One row."""

    __tablename__ = "log_edge"
    id: int = _key()
    size: int
    hashes: bytes = _blob()


# The market's records, in the order in which foreign keys allow them to be written


class AccountTable(_Table, table=True):
    """`entities.Account`."""

    __tablename__ = "accounts"
    __table_args__ = (_SMALL,)
    id: str = _key()
    available: int = _integer()
    reserved: int = _integer()


class TransferTable(_Table, table=True):
    """`entities.Transfer`."""

    __tablename__ = "transfers"
    __table_args__ = (_SMALL,)
    id: str = _key()
    debit: str = Field(foreign_key="accounts.id")
    credit: str = Field(foreign_key="accounts.id")
    amount: int = _integer()
    kind: str
    at: float
    job: str
    lease: str


class PipelineTable(_Table, table=True):
    """`entities.Pipeline`."""

    __tablename__ = "pipelines"
    id: str = _key()
    name: str
    publisher: str
    body: bytes = _blob()


class WorkerTable(_Table, table=True):
    """`entities.Worker`."""

    __tablename__ = "workers"
    id: str = _key()
    owner: str
    standing: str
    body: bytes = _blob()


class JobTable(_Table, table=True):
    """`entities.Job`."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_account", "account", "id"),
        Index("ix_jobs_open", "id", sqlite_where=text("finished_at IS NULL")),
        Index("ix_jobs_finished_at", "finished_at", sqlite_where=text("finished_at IS NOT NULL")),
        Index("ix_jobs_spot_check", "id", sqlite_where=text("spot_check")),
        Index(
            "ix_jobs_verdict_changed_at",
            "account",
            "verdict_changed_at",
            sqlite_where=text("verdict_changed_at IS NOT NULL"),
        ),
        _SMALL,
    )
    id: str = _key()
    account: str
    pipeline: str = Field(foreign_key="pipelines.id")
    status: str
    finished_at: float | None
    spot_check: bool
    verdict_changed_at: float | None
    body: bytes = _blob()


class LeaseTable(_Table, table=True):
    """`entities.Lease`."""

    __tablename__ = "leases"
    __table_args__ = (
        Index("ix_leases_held", "matures_at", sqlite_where=text("matures_at IS NOT NULL")),
        _SMALL,
    )
    id: str = _key()
    job: str = Field(foreign_key="jobs.id", index=True)
    worker: str = Field(foreign_key="workers.id")
    state: str
    matures_at: float | None
    body: bytes = _blob()


class EvidenceTable(_Table, table=True):
    """`entities.Evidence`."""

    __tablename__ = "evidence"
    __table_args__ = (Index("ix_evidence_worker_at", "worker", "at"), _SMALL)
    id: str = _key()
    worker: str = Field(foreign_key="workers.id")
    capability: str
    kind: str
    job: str = Field(index=True)
    lease: str
    at: float
    stage: str
    detail: str
    pipeline: str
    account: str
    partner: str
    checks: float
    vouched_checks: float


class PipelineUseTable(_Table, table=True):
    """`entities.PipelineUse`."""

    __tablename__ = "pipeline_uses"
    __table_args__ = (_SMALL,)
    id: str = _key()
    pipeline: str = Field(foreign_key="pipelines.id")
    body: bytes = _blob()


class OwnerPairTable(_Table, table=True):
    """`entities.OwnerPair`."""

    __tablename__ = "owner_pairs"
    __table_args__ = (_SMALL,)
    id: str = _key()
    body: bytes = _blob()


class CollusionFindingTable(_Table, table=True):
    """`entities.CollusionFinding`."""

    __tablename__ = "collusion_findings"
    __table_args__ = (_SMALL,)
    id: str = _key()
    found_at: float
    withdrawn_at: float | None
    body: bytes = _blob()


class MatchTable(_Table, table=True):
    """`entities.Match`."""

    __tablename__ = "matches"
    __table_args__ = (_SMALL,)
    id: str = _key("leases.id")
    body: bytes = _blob()


# What the shell keeps (`shell_records`)


class ApiKeyTable(_Table, table=True):
    """`shell_records.ApiKey`."""

    __tablename__ = "api_keys"
    id: str = _key()
    account: str
    created_at: float


class JoinTokenTable(_Table, table=True):
    """`shell_records.JoinToken`."""

    __tablename__ = "join_tokens"
    id: str = _key()
    owner: str
    stake: int = _integer()
    auditor: bool
    expires_at: float
    used_by: str


class PublicationTable(_Table, table=True):
    """`shell_records.Publication`."""

    __tablename__ = "publications"
    id: str = _key("pipelines.id")
    account: str
    body: bytes = _blob()


class UploadTable(_Table, table=True):
    """`shell_records.Upload`."""

    __tablename__ = "uploads"
    __table_args__ = (_SMALL,)
    id: str = _key()
    holder: str = Field(index=True)
    cid: str = Field(index=True)
    size_bytes: int = _integer()
    at: float = Field(index=True)


class InputTable(_Table, table=True):
    """`shell_records.InlineInput`."""

    __tablename__ = "inputs"
    id: str = _key("jobs.id")
    document: bytes = _blob()


class DeliveryTable(_Table, table=True):
    """`shell_records.Delivery`: the signed receipt of a lease, and its output."""

    __tablename__ = "deliveries"
    id: str = _key("leases.id")
    payload: bytes = _blob()
    public_key: bytes = _blob()
    signature: bytes = _blob()
    output: bytes | None = _blob(nullable=True)
    output_cid: str


class CheckpointTable(_Table, table=True):
    """`shell_records.PublishedCheckpoint`."""

    __tablename__ = "checkpoints"
    id: str = _key()
    size: int = _integer()
    note: str


class SetAsideTable(_Table, table=True):
    """`shell_records.SetAside`."""

    __tablename__ = "set_aside"
    id: str = _key()
    kind: str
    at: float
    reason: str
    event: bytes | None = _blob(nullable=True)
