"""An audit log over the journal, the starts, receipts and credentials, and the newest checkpoint of it.

What is in the database becomes its first entries: starts and events in their order, then the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final

import sqlalchemy as sa
from alembic import op

from tradepost.audit_log.merkle import Edge
from tradepost_broker.storage import database
from tradepost_broker.storage.log_entries import (
    API_KEY,
    EVENT,
    JOIN_TOKEN,
    RECEIPT,
    START,
    Logged,
    LoggedKind,
)
from tradepost_broker.storage.log_tree import append

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ENTRIES: Final = 1000


def upgrade() -> None:
    """Add the tables, and log what there is."""
    op.create_table(
        "log_entries",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("record", sa.String(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_log_entries")),
    )
    op.create_index(
        "ix_log_entries_receipt",
        "log_entries",
        ["record"],
        sqlite_where=sa.text("kind = 'receipt'"),
    )
    op.create_table(
        "log_nodes",
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("height", "number", name=op.f("pk_log_nodes")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "log_edge",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_edge")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
    )
    driver, edge, entries = database.driver_of(op.get_bind()), Edge(), _entries()
    while some := list(islice(entries, _ENTRIES)):
        edge = append(driver, edge, some)


def _entries() -> Iterator[Logged]:
    return chain(_journal(), *(_of(kind, kind.key) for kind in (RECEIPT, API_KEY, JOIN_TOKEN)))


def _journal() -> Iterator[Logged]:
    """Each event, behind the start whose first one it is. A start without an event is logged later."""
    starts = {row[0]: row for row in _rows(START, START.key)}
    for row in _rows(EVENT, EVENT.key):
        if row[0] in starts:
            yield START.logged(starts[row[0]])
        yield EVENT.logged(row)


def _of(kind: LoggedKind, order: str) -> Iterator[Logged]:
    return map(kind.logged, _rows(kind, order))


def _rows(kind: LoggedKind, order: str) -> Iterable[tuple[object, ...]]:
    return database.driver_of(op.get_bind()).execute(f"{kind.select} ORDER BY {order}")
