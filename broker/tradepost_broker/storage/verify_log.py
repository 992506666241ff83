"""Verifies the audit log: hashes every record that it covers again, and compares with what was logged.

The leaves lead to the tree's root, which the signed checkpoints commit to. Who can write the database can
change a record and all hashes above it; only the broker's key, and those who kept a checkpoint, stand against
that. What was logged after the newest checkpoint is therefore covered by the hashes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from tradepost.audit_log.checkpoint import Checkpoint, verify_checkpoint, verify_kept_checkpoint
from tradepost.audit_log.entries import commitment
from tradepost.audit_log.merkle import Edge, Node, leaf_hash
from tradepost.errors import InvalidCheckpoint
from tradepost_broker.storage.differences import Differences
from tradepost_broker.storage.log_entries import KINDS, START, LoggedKind
from tradepost_broker.storage.log_tree import stored_edge
from tradepost_broker.storage.shell_records import PublishedCheckpoint
from tradepost_broker.storage.store import Reader

_ENTRIES: Final = "SELECT number, kind, record, nonce, commitment FROM log_entries ORDER BY number"
_NODES: Final = "SELECT height, number, hash FROM log_nodes ORDER BY height, number"
_REPEATED: Final = "SELECT record FROM log_entries WHERE kind = ? GROUP BY record HAVING count(*) > 1"
#: A broker serves requests when it has published a checkpoint of its start; an event of that start, and those
#: that a migration logged, may be without one.
_SERVED: Final = (
    "SELECT 1 FROM log_entries JOIN journal ON journal.seq = CAST(log_entries.record AS INTEGER) "
    "WHERE log_entries.kind = 'event' AND journal.kind NOT IN ('restarted', 'revocations_issued') "
    "AND number > (SELECT min(number) FROM log_entries WHERE kind IN ('api_key', 'join_token', 'receipt')) "
    "LIMIT 1"
)
_NEWEST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM journal"


class LogReport(Differences, kw_only=True):
    """What was hashed again, by kind of entry, and the first differences: none if the log fits its records.

    `checkpoint_size` is the size of the newest checkpoint that was published; `None` if there is none.
    """

    size: int = 0
    root: bytes = b""
    entries: dict[str, int] = msgspec.field(default_factory=dict)
    checkpoint_size: int | None = None


def verify_log(reader: Reader, *, public_key: bytes | None = None, kept: Sequence[str] = ()) -> LogReport:
    """Compare every entry with its record, the tree with the entries, and the checkpoints with the tree.

    `public_key` (DER) is the broker's; without it, signatures are not verified. `kept` are checkpoints that
    somebody kept, as signed notes. Raises `InvalidKeptCheckpoint` for one that the broker
    did not sign.
    """
    report = LogReport()
    checkpoints = [] if public_key is None else [verify_kept_checkpoint(note, public_key) for note in kept]
    published = _published(reader, report, public_key)
    if published is not None:
        report.checkpoint_size = published.size
        checkpoints.append(published)
    edge = _check_tree(reader, report, checkpoints)
    report.size, report.root = edge.size, edge.root()
    for kind in KINDS.values():
        _check_completeness(reader, report, kind)
    return report


def _published(reader: Reader, report: LogReport, public_key: bytes | None) -> Checkpoint | None:
    """The newest checkpoint, if its signature can be verified, and is the broker's."""
    if public_key is None:
        return None
    found = False
    for record in reader.find_readable(PublishedCheckpoint):
        found = True
        try:
            checkpoint = verify_checkpoint(record.note, public_key)
        except InvalidCheckpoint as error:
            report.differs(f"the newest checkpoint is not valid: {error}")
        else:
            if checkpoint.size != record.size:
                report.differs(f"the newest checkpoint is of {checkpoint.size} entries, not {record.size}")
            return checkpoint
    if not found and reader.rows(_SERVED):
        report.differs("the newest checkpoint is missing: one was published before the log's newest events")
    return None


def _check_tree(reader: Reader, report: LogReport, checkpoints: Sequence[Checkpoint]) -> Edge:
    """Rebuild the tree from the entries, each compared with its record; the edge that it has in the end."""
    edge, nodes = Edge(), list[Node]()
    waiting = sorted(checkpoints, key=lambda one: one.size)
    for number, leaf in _checked_leaves(reader, report):
        while waiting and waiting[0].size <= edge.size:
            _check_root(report, waiting.pop(0), edge)
        if number != edge.size:
            report.differs(f"entry {edge.size} is missing: after it comes {number}")
            break  # no tree can be built from here on
        edge, completed = edge.extended([leaf])
        nodes += completed
    for checkpoint in waiting:
        _check_root(report, checkpoint, edge)
    if stored_edge(reader.rows) != edge:
        report.differs(f"the stored edge of the tree is not that of the {edge.size} entries")
    stored = [Node(*row) for row in reader.rows(_NODES)]
    if stored != sorted(nodes, key=lambda node: (node.height, node.index)):
        report.differs("the stored nodes of the tree are not those of the entries")
    return edge


def _check_root(report: LogReport, checkpoint: Checkpoint, edge: Edge) -> None:
    if checkpoint.size > edge.size:
        report.differs(f"a checkpoint of {checkpoint.size} entries was published; the log has {edge.size}")
    elif checkpoint.root != edge.root():
        report.differs(f"the first {checkpoint.size} entries are not those that their checkpoint commits to")


def _checked_leaves(reader: Reader, report: LogReport) -> Iterator[tuple[int, bytes]]:
    """Each entry's number, and the hash of its leaf as the tree has it."""
    finders = {kind.name: _finder(reader, kind) for kind in KINDS.values()}
    for number, kind, record, nonce, committed in reader.each(_ENTRIES):
        report.entries[kind] = report.entries.get(kind, 0) + 1
        if kind not in finders:
            report.differs(f"entry {number} is of an unknown kind, {kind}")
        elif (row := finders[kind](record)) is None:
            report.differs(f"entry {number}: the {kind} {record} is missing from {KINDS[kind].table}")
        elif not _commits_to(KINDS[kind], row, nonce, committed):
            report.differs(f"entry {number}: the {kind} {record} is not what was logged")
        yield number, leaf_hash(committed if isinstance(committed, bytes) else b"")


def _commits_to(kind: LoggedKind, row: tuple[Any, ...], nonce: bytes, committed: bytes) -> bool:
    try:
        return commitment(kind.logged(row).entry, nonce) == committed
    except (TypeError, ValueError):  # SQLite's columns may hold values of any type
        return False


def _finder(reader: Reader, kind: LoggedKind) -> Callable[[str], tuple[Any, ...] | None]:
    statement = f"{kind.select} WHERE {kind.key} = ?"

    def find(record: str) -> tuple[Any, ...] | None:
        rows = reader.rows(statement, (record,))
        return rows[0] if rows else None

    return find


def _check_completeness(reader: Reader, report: LogReport, kind: LoggedKind) -> None:
    """Every record of a kind must be in the log, and once."""
    unlogged = (
        f"SELECT CAST({kind.key} AS TEXT) FROM {kind.table} "  # noqa: S608 - our own names
        "EXCEPT SELECT record FROM log_entries WHERE kind = ? LIMIT 20"
    )
    for (record,) in reader.rows(unlogged, (kind.name,)):
        if kind is START and int(record) > reader.rows(_NEWEST_SEQ)[0][0]:
            continue  # logged with its first event
        report.differs(f"the {kind.name} {record} is not in the log")
    for (record,) in reader.rows(_REPEATED, (kind.name,)):
        report.differs(f"the {kind.name} {record} was logged more than once")
