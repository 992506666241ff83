"""A database from before money had its unit in the names of fields loads, verifies and goes on.

`tests/data/broker/before_units_in_names.sql` is the dump of a database that such a broker wrote: two starts,
every kind of transfer, and a job that is still running.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tradepost_broker.market import Market
from tradepost_broker.market.ledger import SUPPLY_MICROCREDITS, Kind
from tradepost_broker.market.model.entities import Account, Candidate, Job, Lease, LeaseState, Match, Transfer
from tradepost_broker.market.model.events import (
    Funded,
    JobSubmitted,
    ReceiptDelivered,
    Restarted,
    Save,
    WorkerConnected,
    WorkerJoined,
)
from tradepost_broker.market.model.policy import recorded_policy
from tradepost_broker.storage.shell_records import ApiKey, Delivery, JoinToken
from tradepost_broker.storage.store import Store
from tradepost_broker.storage.verify_books import verify_books

DUMP = Path(__file__).parents[2] / "data" / "broker" / "before_units_in_names.sql"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "broker.sqlite3"
    connection = sqlite3.connect(path)
    connection.executescript(DUMP.read_text(encoding="utf-8"))
    connection.close()
    store = Store(path)
    yield store
    store.close()


def test_the_dump_has_the_names_from_before() -> None:
    dump = DUMP.read_text(encoding="utf-8")
    for name in ("max_price", "committed", "clearing_price", "bid", "stake", "amount"):
        assert name.encode().hex() in dump.lower() or f"{name} " in dump
    assert b"max_price_microcredits".hex() not in dump.lower()


def test_its_books_verify(store: Store) -> None:
    report = verify_books(store)
    assert report.differences == []
    assert (report.starts, report.total_microcredits) == (2, SUPPLY_MICROCREDITS)
    credentials = len(list(store.find(ApiKey))) + len(list(store.find(JoinToken)))
    receipts = len(list(store.find(Delivery)))
    assert report.logged == report.events + report.starts + receipts + credentials
    assert {transfer.kind for transfer in store.find(Transfer)} == {
        value for name, value in vars(Kind).items() if name.isupper()
    } - {Kind.PAY_BEGUN}


def test_its_amounts_are_read(store: Store) -> None:
    [funding] = [event for _, event in store.journal() if isinstance(event, Funded)]
    assert funding.amount_microcredits == 5_000_000
    assert {event.stake_microcredits for _, event in store.journal() if isinstance(event, WorkerJoined)} == {
        1_000
    }
    caps = [event.max_price_microcredits for _, event in store.journal() if isinstance(event, JobSubmitted)]
    assert caps == [job.max_price_microcredits for job in store.find(Job)]
    assert [token.stake_microcredits for token in store.find(JoinToken)] == [2_500_000]
    assert all(lease.price_microcredits > 0 for lease in store.find(Lease) if lease.paid_microcredits)
    assert all(match.candidates for match in store.find(Match))


def test_the_market_goes_on_from_it(store: Store) -> None:
    [*_, start] = store.starts()
    policy = recorded_policy(start.policy)
    at = max(event.at for _, event in store.journal()) + 1.0
    market = Market.restore(store.load(at=at, policy=policy), policy)
    store.record_start(at=at, version="next", policy=start.policy)
    lease, *_ = [each for each in store.find(Lease) if each.state is LeaseState.OPEN]
    worker = market.worker(lease.worker)
    assert worker is not None
    assert worker.offer is not None
    for event in (
        Restarted(at=at),
        Funded(at=at, transfer="new", account="alice", amount_microcredits=5),
        WorkerConnected(at=at, worker=worker.id, offer=worker.offer, open_leases=(lease.id,), seed=1),
        ReceiptDelivered(
            at=at,
            worker=worker.id,
            lease=lease.id,
            outcome="right",
            stage_hashes=(),
            agrees_with=(),
            seed=2,
        ),
    ):
        transaction = store.begin()
        transaction.journal(event)
        for instruction in market.handle(event):
            if isinstance(instruction, Save):
                transaction.save(instruction.record)
        transaction.flush()
        transaction.commit()
    assert verify_books(store).differences == []
    delivered = store.get(Lease, lease.id)
    assert delivered is not None
    assert delivered.state is LeaseState.DELIVERED
    assert delivered.price_microcredits == lease.price_microcredits


@pytest.mark.parametrize(
    "record",
    [
        Account(id="a", available_microcredits=1),
        Candidate(worker="w", bid_microcredits=1, score_microcredits=2),
        Funded(at=1.0, transfer="t", account="a", amount_microcredits=1),
        JoinToken(id="t", owner="o", stake_microcredits=1, auditor=False, expires_at=1.0),
    ],
)
def test_what_is_written_now_is_named_as_before(record: msgspec.Struct) -> None:
    assert b"microcredits" not in msgspec.msgpack.encode(record)
