"""The audit log commits with the journal, and names whatever in the database is not what was logged."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sample_records import WORKER, job, lease, pipeline
from tradepost.audit_log.checkpoint import Checkpoint
from tradepost.audit_log.entries import commitment, receipt_entry
from tradepost.audit_log.merkle import Edge, inclusion_path, leaf_hash, root_from_inclusion, root_of
from tradepost.errors import DatabaseDamaged, InvalidKeptCheckpoint
from tradepost.identity import Identity
from tradepost_broker.market.model.events import Tick
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.storage import database
from tradepost_broker.storage.log_tree import LogTree
from tradepost_broker.storage.shell_records import ApiKey, Delivery, JoinToken, PublishedCheckpoint
from tradepost_broker.storage.store import Reader, Store, Transaction
from tradepost_broker.storage.verify_books import verify_books
from tradepost_broker.storage.verify_log import LogReport, verify_log

BROKER = Identity.generate()
POLICY = msgspec.msgpack.encode(MarketPolicy())
RECORDS = (pipeline(), WORKER, job("j", finished_at=2.0), lease("j.1", "j"))
DELIVERY = Delivery(
    id="j.1", payload=b"{}", public_key=b"key", signature=b"s", output=b"out", output_cid="cid"
)
KEY = ApiKey(id="k", account="alice", created_at=1)  # type: ignore[arg-type]  # as a whole number comes too
TOKEN = JoinToken(id="t", owner="bob", stake_microcredits=5, auditor=True, expires_at=9.0)


def commit(store: Store, *records: object, events: int = 0) -> None:
    transaction = store.begin()
    fill(transaction, *records, events=events)
    transaction.flush()
    transaction.commit()


def fill(transaction: Transaction, *records: object, events: int = 0) -> None:
    for number in range(events):
        transaction.journal(Tick(at=float(number), seed=number))
    for record in records:
        transaction.save(record)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a start, 300 events, a receipt and credentials, and a checkpoint of all of it."""
    path = tmp_path_factory.mktemp("broker") / "broker.sqlite3"
    with closing(Store(path)) as store:
        store.record_start(at=0.0, version="1", policy=POLICY)
        for _ in range(30):
            commit(store, events=10)
        commit(store, *RECORDS, DELIVERY)
        commit(store, KEY, TOKEN)
        commit(store, msgspec.structs.replace(TOKEN, used_by="w"), events=1)
        publish(store)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(original, tmp_path))


def publish(store: Store) -> None:
    edge = store.log_edge
    note = Checkpoint(BROKER.id, edge.size, edge.root()).signed(BROKER)
    commit(store, PublishedCheckpoint(size=edge.size, note=note))


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store(path)) as store:
        yield store


def execute(path: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement, parameters)
        connection.commit()


def verified(path: Path, *kept: str) -> LogReport:
    """The report of what a reader finds, without the checks of a start."""
    with closing(Reader(database.open_snapshot(path))) as reader:
        return verify_log(reader, public_key=BROKER.public_key, kept=kept)


def test_everything_is_logged_once(store: Store) -> None:
    report = verify_log(store, public_key=BROKER.public_key)
    assert report.differences == []
    assert report.entries == {"start": 1, "event": 301, "receipt": 1, "api_key": 1, "join_token": 1}
    assert (report.size, report.root) == (305, store.log_edge.root())
    assert report.checkpoint_size == 305


def test_a_transaction_extends_the_log_when_it_commits(store: Store) -> None:
    before = store.log_edge
    transaction = store.begin()
    fill(transaction, events=3)
    transaction.flush()
    assert store.log_edge == before
    transaction.discard()
    assert store.log_edge == before
    commit(store, events=2)
    assert store.log_edge.size == before.size + 2
    assert verify_log(store).differences == []


def test_what_was_flushed_and_not_committed_is_not_in_the_log(path: Path) -> None:
    with closing(Store(path)) as store:
        before = store.log_edge
        transaction = store.begin()
        fill(transaction, events=3)
        transaction.flush()
    with closing(Store(path)) as store:
        assert store.log_edge == before
        commit(store, events=1)
        assert verify_log(store).differences == []


def test_a_start_is_logged_with_its_first_event(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite3"
    for version in ("1", "2"):  # the second replaces the first, which decided nothing
        with closing(Store(path)) as store:
            store.record_start(at=0.0, version=version, policy=POLICY)
            assert store.log_edge == Edge()
            assert verify_log(store).differences == []
    with closing(Store(path)) as store:  # as after a crash, before the next start is recorded
        commit(store, events=1)
        report = verify_log(store)
    assert (report.entries, report.differences) == ({"start": 1, "event": 1}, [])


def test_a_token_that_is_issued_and_used_at_once_is_logged_once(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "broker.sqlite3")) as store:
        commit(store, TOKEN, msgspec.structs.replace(TOKEN, used_by="w"))
        report = verify_log(store)
    assert (report.entries, report.differences) == ({"join_token": 1}, [])


def test_a_deleted_output_leaves_the_receipt_in_the_log(path: Path) -> None:
    execute(path, "UPDATE deliveries SET output = NULL")
    assert verified(path).differences == []


def test_receipts_are_proven_by_the_tree_in_the_database(store: Store) -> None:
    tree, size = LogTree(store.rows), store.log_edge.size
    place = tree.receipt("j.1")
    assert place is not None
    leaf = leaf_hash(commitment(receipt_entry("j.1", DELIVERY.receipt), place.nonce))
    for at in (place.number + 1, size - 1, size):
        path = inclusion_path(place.number, at, tree.node)
        assert root_from_inclusion(leaf, place.number, at, path) == tree.root(at)
    assert tree.root(size) == store.log_edge.root()
    assert tree.receipt("j.2") is None


TAMPERED = {
    "an event": (
        "UPDATE journal SET body = x'00' WHERE seq = 7",
        "entry 7: the event 7 is not what was logged",
    ),
    "a time": ("UPDATE journal SET at = 99 WHERE seq = 7", "entry 7: the event 7 is not"),
    "a seed": ("UPDATE journal SET seed = x'00' WHERE seq = 7", "entry 7: the event 7 is not"),
    "a body of another type": (
        "UPDATE journal SET body = 'text' WHERE seq = 7",
        "entry 7: the event 7 is not",
    ),
    "a missing event": ("DELETE FROM journal WHERE seq = 7", "entry 7: the event 7 is missing from journal"),
    "an added event": (
        "INSERT INTO journal SELECT 1000, at, kind, seed, body FROM journal WHERE seq = 7",
        "the event 1000 is not in the log",
    ),
    "a policy": ("UPDATE runs SET policy = x'80'", "entry 0: the start 1 is not what was logged"),
    "a receipt": (
        "UPDATE deliveries SET payload = x'7b'",
        "entry 301: the receipt j.1 is not what was logged",
    ),
    "a signature": ("UPDATE deliveries SET signature = x'7b'", "entry 301: the receipt j.1 is not"),
    "a missing receipt": ("DELETE FROM deliveries", "entry 301: the receipt j.1 is missing from deliveries"),
    "an added key": ("INSERT INTO api_keys VALUES ('m', 'mallory', 1.0)", "the api_key m is not in the log"),
    "a key": ("UPDATE api_keys SET account = 'mallory'", "entry 302: the api_key k is not what was logged"),
    "a token": ("UPDATE join_tokens SET stake = 50", "entry 303: the join_token t is not what was logged"),
    "a commitment": (
        "UPDATE log_entries SET commitment = x'00' WHERE number = 7",
        "entry 7: the event 7 is not",
    ),
    "a commitment of another type": ("UPDATE log_entries SET commitment = 1 WHERE number = 7", "entry 7: "),
    "a nonce": ("UPDATE log_entries SET nonce = 1 WHERE number = 7", "entry 7: the event 7 is not"),
    "a kind": ("UPDATE log_entries SET kind = 'x' WHERE number = 7", "entry 7 is of an unknown kind, x"),
    "a missing entry": ("DELETE FROM log_entries WHERE number = 7", "entry 7 is missing: after it comes 8"),
    "a cut log": ("DELETE FROM log_entries WHERE number > 299", "a checkpoint of 305 entries was published"),
    "an entry twice": (
        "UPDATE log_entries SET record = '8' WHERE number = 7",
        "entry 7: the event 8 is not what was logged",
    ),
    "a node": ("UPDATE log_nodes SET hash = x'00'", "the stored nodes of the tree are not"),
    "an edge": ("UPDATE log_edge SET size = 4", "the stored edge of the tree is not"),
    "a checkpoint": (
        "UPDATE checkpoints SET note = replace(note, '305', '304')",
        "the newest checkpoint is not valid",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_is_not_as_logged_is_named(what: str, path: Path) -> None:
    statement, named = TAMPERED[what]
    execute(path, statement)
    report = verified(path)
    assert report.differences_count
    assert report.differences[0].startswith(named)


def test_verify_books_fails_on_a_changed_receipt(path: Path) -> None:
    """The rest of this database is made up, so that the replay differs too."""
    execute(path, "UPDATE deliveries SET signature = x'00'")
    with closing(Store(path)) as store:
        assert "entry 301: the receipt j.1 is not what was logged" in verify_books(store).differences


def rewrite(path: Path, number: int) -> None:
    """Change an entry's commitment, and everything in the database that follows from it."""
    execute(path, "UPDATE log_entries SET commitment = x'01' WHERE number = ?", number)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT commitment FROM log_entries ORDER BY number").fetchall()
    edge, nodes = Edge().extended(leaf_hash(row[0]) for row in rows)
    execute(path, "UPDATE log_edge SET hashes = ?", b"".join(edge.hashes))
    for node in nodes:
        execute(
            path,
            "UPDATE log_nodes SET hash = ? WHERE height = ? AND number = ?",
            node.hash,
            node.height,
            node.index,
        )


def test_who_rewrites_the_tree_too_is_stopped_by_the_checkpoint(path: Path) -> None:
    with closing(Store(path)) as store:
        commit(store, events=1)  # after the checkpoint
    rewrite(path, 0)
    with closing(Store(path)) as store:  # every hash fits, so a start alone does not notice
        report = verify_log(store, public_key=BROKER.public_key)
    assert "the first 305 entries are not those that their checkpoint commits to" in report.differences


def test_a_checkpoint_that_was_kept_stands_against_who_has_the_key(path: Path) -> None:
    with closing(Store(path)) as store:
        kept = Checkpoint(BROKER.id, 280, LogTree(store.rows).root(280)).signed(BROKER)
    assert verified(path, kept).differences == []
    rewrite(path, 3)
    with closing(Store(path)) as store:
        publish(store)
    differences = verified(path, kept).differences
    assert "the first 280 entries are not those that their checkpoint commits to" in differences
    with pytest.raises(InvalidKeptCheckpoint):
        verified(path, Checkpoint(BROKER.id, 280, root_of([])).signed(Identity.generate()))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log_edge SET size = 4",
        "UPDATE log_edge SET hashes = x'00'",
        "UPDATE log_edge SET hashes = 'text'",
        "DELETE FROM log_edge",
        "DELETE FROM log_entries WHERE number = 304",
        "DELETE FROM log_entries WHERE number = 290",
        "UPDATE log_entries SET commitment = x'00' WHERE number = 304",
        "UPDATE log_entries SET commitment = 'text' WHERE number = 304",
        "DELETE FROM log_nodes",
        "DELETE FROM journal WHERE seq = 301",
        "INSERT INTO journal SELECT 1000, at, kind, seed, body FROM journal WHERE seq = 7",
    ],
)
def test_a_start_refuses_a_log_that_does_not_fit(statement: str, path: Path) -> None:
    execute(path, statement)
    with pytest.raises(DatabaseDamaged, match="the audit log does not fit"):
        Store(path)


def test_a_restart_restores_the_edge(path: Path) -> None:
    for count in (1, 255, 256, 300):
        with closing(Store(path)) as store:
            commit(store, events=count)
            edge = store.log_edge
        with closing(Store(path)) as store:
            assert store.log_edge == edge
            assert verify_log(store, public_key=BROKER.public_key).differences == []
