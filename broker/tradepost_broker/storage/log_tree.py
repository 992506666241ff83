"""The audit log's tree in the database: entries, the nodes that are kept, and the right edge.

A transaction that logs anything writes its entries, the few nodes that they complete, and the new edge; so
the tree is durable with the journal, and never behind it. Other nodes are computed from at most 256 hashes.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from tradepost.audit_log.entries import NONCE_BYTES, commitment
from tradepost.audit_log.merkle import (
    HASH_BYTES,
    TILE_HEIGHT,
    Edge,
    edge_of,
    leaf_hash,
    root_of,
)
from tradepost.errors import DatabaseDamaged, invariant
from tradepost_broker.storage.database_checks import RESTORE
from tradepost_broker.storage.log_entries import EVENT, Logged

#: Reads rows by the driver's own SQL.
Rows = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]

_INSERT_ENTRY: Final = (
    "INSERT INTO log_entries (number, kind, record, nonce, commitment) VALUES (?, ?, ?, ?, ?)"
)
_INSERT_NODE: Final = "INSERT INTO log_nodes (height, number, hash) VALUES (?, ?, ?)"
_REPLACE_EDGE: Final = "INSERT OR REPLACE INTO log_edge (id, size, hashes) VALUES (1, ?, ?)"
_COMMITMENTS: Final = "SELECT commitment FROM log_entries WHERE number >= ? AND number < ? ORDER BY number"
_NODES: Final = "SELECT hash FROM log_nodes WHERE height = ? AND number >= ? AND number < ? ORDER BY number"
_RECEIPT: Final = "SELECT number, nonce FROM log_entries WHERE kind = 'receipt' AND record = ?"
_NEWEST: Final = "SELECT record FROM log_entries WHERE kind = ? ORDER BY number DESC LIMIT 1"
_HINT: Final = f"{RESTORE} `tradepost broker audit-log verify` names what does not fit."


class Place(NamedTuple):
    """Where an entry is, and the nonce of its commitment."""

    number: int
    nonce: bytes


def append(write: sqlite3.Connection, edge: Edge, logged: Sequence[Logged]) -> Edge:
    """Write entries behind those of `edge`, in the transaction of `write`; the new edge."""
    nonces, rows = secrets.token_bytes(NONCE_BYTES * len(logged)), []
    for place, (kind, record, entry) in enumerate(logged):
        nonce = nonces[place * NONCE_BYTES : (place + 1) * NONCE_BYTES]
        rows.append((edge.size + place, kind, record, nonce, commitment(entry, nonce)))
    extended, completed = edge.extended([leaf_hash(row[-1]) for row in rows])
    write.executemany(_INSERT_ENTRY, rows)
    if completed:
        write.executemany(_INSERT_NODE, [(node.height, node.index, node.hash) for node in completed])
    write.execute(_REPLACE_EDGE, (extended.size, b"".join(extended.hashes)))
    return extended


def restored_edge(rows: Rows, *, last_seq: int) -> Edge:
    """The edge that was stored, which must be that of the entries; `last_seq` is the newest event's number.

    Raises `DatabaseDamaged`.
    """
    try:
        return _restored_edge(rows, last_seq)
    except (TypeError, ValueError) as error:  # a column may hold a value of any type
        raise _damaged(str(error)) from error


def _restored_edge(rows: Rows, last_seq: int) -> Edge:
    edge = stored_edge(rows)
    [(size,)] = rows("SELECT coalesce(max(number) + 1, 0) FROM log_entries", ())
    if size != edge.size:
        raise _damaged(f"it has {size} entries, and its edge covers {edge.size}")
    if edge_of(size, LogTree(rows).node) != edge:
        raise _damaged(f"its edge of {size} entries is not that of its entries")
    newest = rows(_NEWEST, (EVENT.name,))
    logged_seq = int(newest[0][0]) if newest else 0
    if logged_seq != last_seq:
        raise _damaged(f"its newest event is {logged_seq}, that of the journal {last_seq}")
    return edge


def stored_edge(rows: Rows) -> Edge:
    """The edge as the database has it."""
    found = rows("SELECT size, hashes FROM log_edge", ())
    if not found:
        return Edge()
    size, hashes = found[0]
    return Edge(size, tuple(hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)))


class LogTree:
    """Reads the committed tree."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def node(self, height: int, number: int) -> bytes:
        """The hash of a complete subtree. Raises `DatabaseDamaged` if a part of it is missing."""
        level, rest = divmod(height, TILE_HEIGHT)
        return root_of(self.hashes(level, number << rest, 1 << rest))

    def hashes(self, level: int, start: int, count: int) -> list[bytes]:
        """So many hashes of a level of tiles, from number `start` on. Raises `DatabaseDamaged`."""
        if level == 0:
            return [leaf_hash(one) for one in self.commitments(start, count)]
        rows = self._rows(_NODES, (level * TILE_HEIGHT, start, start + count))
        return _complete([row[0] for row in rows], count, f"nodes of height {level * TILE_HEIGHT}", start)

    def commitments(self, start: int, count: int) -> list[bytes]:
        """The data of so many leaves, from number `start` on. Raises `DatabaseDamaged`."""
        rows = self._rows(_COMMITMENTS, (start, start + count))
        return _complete([row[0] for row in rows], count, "entries", start)

    def root(self, size: int) -> bytes:
        """The root of the first `size` entries."""
        return edge_of(size, self.node).root()

    def receipt(self, lease: str) -> Place | None:
        """Where the receipt of a lease is; `None` if none was delivered."""
        rows = self._rows(_RECEIPT, (lease,))
        invariant(len(rows) < 2, f"the audit log has several receipts of {lease}")
        return Place(*rows[0]) if rows else None


def _complete(found: list[bytes], count: int, what: str, start: int) -> list[bytes]:
    if len(found) != count:
        raise _damaged(f"of its {what} {start} to {start + count - 1}, it has {len(found)}")
    return found


def _damaged(problem: str) -> DatabaseDamaged:
    return DatabaseDamaged(f"the audit log does not fit: {problem}", hint=_HINT)
