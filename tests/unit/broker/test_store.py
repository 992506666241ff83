"""The store keeps what a transaction wrote, all or nothing, and gives back what a restart needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from sample_records import WORKER, job, lease, pipeline
from tradepost_broker.market.ledger import Kind
from tradepost_broker.market.model.entities import (
    Account,
    Job,
    Lease,
    Transfer,
)
from tradepost_broker.market.model.events import Event, Funded, Tick
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.recovery import select_needed
from tradepost_broker.storage import database
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import InlineInput, JoinToken
from tradepost_broker.storage.store import Reader, Store
from tradepost_broker.storage.verify_books import KINDS, Records

POLICY = MarketPolicy()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "broker.sqlite3")
    yield store
    store.close()


def commit(store: Store, *records: object) -> None:
    transaction = store.begin()
    for record in records:
        transaction.save(record)  # type: ignore[arg-type]
    transaction.flush()
    transaction.commit()


def some_of_everything() -> list[Any]:
    checked = job("checked", finished_at=10.0)
    checked.spot_check = True
    return [
        Account(id="a", available_microcredits=1),
        Account(id="b"),
        Transfer(id="funding", debit="a", credit="b", amount_microcredits=1, kind=Kind.FUND, at=1.0),
        Transfer(id="payment", debit="a", credit="b", amount_microcredits=1, kind=Kind.PAY, at=1.0),
        pipeline(),
        WORKER,
        job("open"),
        job("old", finished_at=10.0),
        job("held", finished_at=10.0),
        checked,
        job("recent", finished_at=90.0),
        lease("of-open", "open"),
        lease("of-old", "old"),
        lease("of-held", "held", matures_at=200.0),
        lease("of-recent", "recent"),
    ]


def test_what_was_committed_is_read_again_equal(store: Store) -> None:
    records: list[Any] = [
        Account(id="a", available_microcredits=5, reserved_microcredits=1),
        pipeline(),
        WORKER,
        job("j"),
        lease("l", "j"),
    ]
    commit(store, *records)
    for record in records:
        assert store.get(type(record), record.id) == record


@given(available=st.integers(0, 2**62), reserved=st.integers(0, 2**62), auditor=st.booleans())
def test_rows_give_back_the_record(available: int, reserved: int, auditor: bool) -> None:
    account = Account(id="a", available_microcredits=available, reserved_microcredits=reserved)
    token = JoinToken(id="t", owner="o", stake_microcredits=available, auditor=auditor, expires_at=1.5)
    for record in (account, token):
        codec = CODECS[type(record)]
        assert codec.from_row(codec.to_row(record)) == record


def test_the_last_write_of_a_record_wins(store: Store) -> None:
    commit(store, Account(id="a", available_microcredits=1), Account(id="a", available_microcredits=2))
    commit(store, Account(id="a", available_microcredits=3))
    assert store.get(Account, "a") == Account(id="a", available_microcredits=3)


def test_nothing_is_seen_before_the_commit(store: Store) -> None:
    transaction = store.begin()
    transaction.save(Account(id="a", available_microcredits=1))
    assert transaction.get(Account, "a") is not None
    transaction.flush()
    assert store.get(Account, "a") is None
    transaction.commit()
    assert store.get(Account, "a") is not None


def test_what_was_not_committed_is_gone_after_a_restart(tmp_path: Path) -> None:
    first = Store(tmp_path / "broker.sqlite3")
    transaction = first.begin()
    transaction.journal(Funded(at=1.0, transfer="t", account="a", amount_microcredits=1))
    transaction.save(Account(id="a", available_microcredits=1))
    transaction.flush()
    first.close()
    second = Store(tmp_path / "broker.sqlite3")
    assert second.get(Account, "a") is None
    assert list(second.journal()) == []
    second.close()


def test_a_transfer_is_written_once(store: Store) -> None:
    transfer = Transfer(id="t", debit="a", credit="b", amount_microcredits=1, kind="pay", at=1.0)
    commit(store, Account(id="a"), Account(id="b"), transfer)
    with pytest.raises(sqlite3.IntegrityError):
        commit(store, transfer)


def test_a_row_whose_parent_is_missing_is_refused(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        commit(store, InlineInput(id="no such job", document=b"x"))


def test_the_journal_keeps_order_and_seeds_of_128_bits(store: Store) -> None:
    events: list[Event] = [
        Tick(at=1.0, seed=2**128 - 1),
        Funded(at=2.0, transfer="t", account="a", amount_microcredits=3),
    ]
    for event in events:
        transaction = store.begin()
        transaction.journal(event)
        transaction.flush()
        transaction.commit()
    assert list(store.journal()) == list(enumerate(events, start=1))
    assert store.last_seq == 2


def test_a_restart_loads_what_can_still_matter(store: Store) -> None:
    commit(store, *some_of_everything())
    records = store.load(at=50.0 + POLICY.idempotency_s, policy=POLICY)
    assert {one.id for one in records if isinstance(one, Job)} == {"open", "held", "checked", "recent"}
    assert {one.id for one in records if isinstance(one, Lease)} == {"of-open", "of-held", "of-recent"}
    assert {one.id for one in records if isinstance(one, Transfer)} == {"funding"}


def test_a_replay_loads_the_same_as_a_restart(store: Store) -> None:
    written = [*some_of_everything()]
    commit(store, *written)
    by_kind: Records = {kind: {} for kind in KINDS}
    for record in written:
        by_kind[type(record)][record.id] = record

    def sorted_by_id(records: Iterable[Any]) -> list[Any]:
        return sorted(records, key=lambda record: (type(record).__name__, record.id))

    for since in (0.0, 50.0, 100.0):
        at = since + POLICY.idempotency_s
        loaded = sorted_by_id(store.load(at=at, policy=POLICY))
        assert sorted_by_id(select_needed(by_kind, at, POLICY)) == loaded


def test_a_start_need_not_read_the_journal_for_revocations(store: Store) -> None:
    asked: list[str] = []
    connection = store._reader.connection.driver_connection
    assert connection is not None
    connection.set_trace_callback(asked.append)
    assert not store.has_revocations()
    connection.set_trace_callback(None)
    [query] = [one for one in asked if one.startswith("SELECT journal")]
    plan = " ".join(step for *_, step in store.rows(f"EXPLAIN QUERY PLAN {query}"))
    assert "USING INDEX ix_journal_revocations" in plan


def test_a_snapshot_does_not_move(store: Store, tmp_path: Path) -> None:
    commit(store, Account(id="a", available_microcredits=1))
    snapshot = Reader(database.open_snapshot(tmp_path / "broker.sqlite3"))
    commit(store, Account(id="a", available_microcredits=2))
    assert snapshot.get(Account, "a") == Account(id="a", available_microcredits=1)
    assert store.get(Account, "a") == Account(id="a", available_microcredits=2)
    snapshot.close()


def test_each_start_notes_the_policy_it_decides_under(store: Store) -> None:
    store.record_start(at=1.0, version="1", policy=b"old")
    store.record_start(at=2.0, version="1", policy=b"new")  # the start before it decided nothing
    transaction = store.begin()
    transaction.journal(Tick(at=1.0, seed=1))
    transaction.flush()
    transaction.commit()
    store.record_start(at=3.0, version="2", policy=b"newer")
    assert [(run.first_seq, run.policy) for run in store.starts()] == [(1, b"new"), (2, b"newer")]


def test_a_database_that_cannot_be_read_is_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite3"
    with closing(Store(path)) as store:
        store.record_start(at=1.0, version="1", policy=b"policy")
        store._write.execute("UPDATE runs SET version = CAST(x'ff' AS TEXT)")
        store._write.commit()
    with pytest.raises(OperationalError, match="Could not decode to UTF-8"):
        Store(path)
    # The last connection that is closed removes the log.
    assert [file.name for file in tmp_path.iterdir()] == ["broker.sqlite3"]
