"""Verifies the ledger: recomputes every balance from the transfers, and every record from the journal.

Independent ways to the same numbers. First the balances are recomputed from the immutable transfers. Then
the journal is replayed from the first event, with a restart where the broker restarted, and every record that
comes out must be the one in the tables. Last, whatever the audit log covers is hashed again: the journal
itself, receipts and credentials. Documents are compared with the CIDs that the journal names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tradepost.content import add_bytes
from tradepost.errors import Problem
from tradepost_broker.market import Market
from tradepost_broker.market.ledger import SUPPLY_MICROCREDITS, TREASURY
from tradepost_broker.market.model.entities import (
    Account,
    CollusionFinding,
    Evidence,
    Job,
    Lease,
    Match,
    OwnerPair,
    Pipeline,
    PipelineUse,
    Transfer,
    Worker,
    is_failure,
)
from tradepost_broker.market.model.events import Event, Instruction, ReplyRefused, Save
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.recovery import select_needed
from tradepost_broker.market.sifting import kind_of, sift
from tradepost_broker.storage.differences import Differences
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import Delivery, InlineInput
from tradepost_broker.storage.store import UNREADABLE, BrokerStart, Reader
from tradepost_broker.storage.verify_log import verify_log
from tradepost_broker.storage.verify_shell_records import JoinsOfTheJournal, check_shell_records

KINDS: Final[tuple[type[Any], ...]] = (
    Account,
    Transfer,
    Pipeline,
    Worker,
    Job,
    Lease,
    Evidence,
    PipelineUse,
    OwnerPair,
    CollusionFinding,
    Match,
)

Records = dict[type[Any], dict[str, Any]]


class BooksReport(Differences, kw_only=True):
    """What was compared, by kind of record, and the first differences: none if the ledger is right."""

    total_microcredits: int = 0
    transfers: int = 0
    events: int = 0
    starts: int = 0
    compared: dict[str, int] = msgspec.field(default_factory=dict)
    logged: int = 0


def verify_books(reader: Reader, *, public_key: bytes | None = None) -> BooksReport:
    """Compare balances with transfers, records with the journal's replay, and all of it with the audit log.

    `public_key` (DER) is the broker's, which signs the log's checkpoints.
    """
    report = BooksReport()
    _check_balances(reader, report)
    joins = JoinsOfTheJournal()
    records = _check_replay(reader, report, joins)
    check_shell_records(reader, records, joins, report)
    _check_documents(reader, records, report)
    _check_log(reader, report, public_key)
    for one in reader.unreadable.values():
        report.differs(f"{one.kind} {one.id}: {one.reason}")
    return report


def _check_balances(reader: Reader, report: BooksReport) -> None:
    accounts = {account.id: account for account in reader.find_readable(Account)}
    balances: Counter[str] = Counter({TREASURY: SUPPLY_MICROCREDITS} if accounts else {})
    for transfer in reader.find_readable(Transfer):
        report.transfers += 1
        balances[transfer.debit] -= transfer.amount_microcredits
        balances[transfer.credit] += transfer.amount_microcredits
    for name in sorted(accounts.keys() | balances.keys()):
        account = accounts.get(name, Account(id=name))
        held_microcredits = account.available_microcredits + account.reserved_microcredits
        if held_microcredits != balances[name]:
            report.differs(f"account {name} has {held_microcredits}; its transfers give {balances[name]}")
        if account.available_microcredits < 0 or account.reserved_microcredits < 0:
            report.differs(f"account {name} is below zero: {account}")
    reserved_microcredits = sum(account.reserved_microcredits for account in accounts.values())
    promised_microcredits = sum(
        job.max_price_microcredits for job in reader.find_readable(Job) if job.finished_at is None
    )
    unknown = any(kind == kind_of(Job) for kind, _ in reader.unreadable)
    if reserved_microcredits != promised_microcredits and not (
        unknown and reserved_microcredits > promised_microcredits
    ):
        report.differs(
            f"{reserved_microcredits} are reserved; the open jobs' caps give {promised_microcredits}"
        )
    report.total_microcredits = sum(
        one.available_microcredits + one.reserved_microcredits for one in accounts.values()
    )
    if accounts and report.total_microcredits != SUPPLY_MICROCREDITS:
        report.differs(f"all accounts give {report.total_microcredits}; the supply is {SUPPLY_MICROCREDITS}")


def _check_log(reader: Reader, report: BooksReport, public_key: bytes | None) -> None:
    log = verify_log(reader, public_key=public_key)
    report.logged = log.size
    report.include(log.differences_count, log.differences)


def _check_documents(reader: Reader, records: Records, report: BooksReport) -> None:
    """The documents that are kept must be those that the journal names by CID."""
    for delivery in reader.find_readable(Delivery):
        lease = records[Lease].get(delivery.id)
        cid = "" if lease is None or is_failure(lease.outcome) else lease.outcome
        if delivery.output_cid != cid:
            report.differs(f"delivery {delivery.id} names output {delivery.output_cid}; the journal, {cid}")
        elif delivery.output is not None and add_bytes(delivery.output, put=None) != cid:
            report.differs(f"delivery {delivery.id}: its output is not {cid}")
    for document in reader.find_readable(InlineInput):
        job = records[Job].get(document.id)
        if job is None or add_bytes(document.document, put=None) != job.input:
            report.differs(f"input of job {document.id}: it is not the one that was submitted")


def _check_replay(reader: Reader, report: BooksReport, joins: JoinsOfTheJournal) -> Records:
    replayed = replay(reader, report, observe=joins.observe)
    for kind in KINDS:
        stored = _stored(reader, kind, report)
        report.compared[kind.__name__.lower()] = len(stored)
        for id_ in stored.keys() | replayed[kind].keys():
            if (kind_of(kind), id_) in reader.unreadable:
                continue  # which is a difference of its own
            if _without_wording(stored.get(id_)) != _without_wording(replayed[kind].get(id_)):
                report.differs(
                    f"{kind.__name__.lower()} {id_}: stored {stored.get(id_)}; "
                    f"replayed {replayed[kind].get(id_)}"
                )
    return replayed


def _without_wording(record: Any) -> Any:
    """The record without the texts of its problem, which another version may word differently."""
    problem: Problem | None = getattr(record, "problem", None)
    if problem is None:
        return record
    plain = msgspec.structs.replace(problem, title="", detail="", hint="")
    return msgspec.structs.replace(record, problem=plain)


def _stored(reader: Reader, kind: type[Any], report: BooksReport) -> dict[str, Any]:
    """Every record of a kind, whose columns must say the same as its body."""
    codec = CODECS[kind]
    records: dict[str, Any] = {}
    for row, record in reader.readable_rows(kind):
        records[record.id] = record
        if codec.to_row(record) != tuple(row):
            report.differs(f"{kind.__name__.lower()} {record.id}: its columns differ from its body")
    return records


def replay(
    reader: Reader, report: BooksReport, *, observe: Callable[[Event], None] = lambda _event: None
) -> Records:
    """Every record that the journal's events lead to, from nothing. `observe` is given each event."""
    records: Records = {kind: {} for kind in KINDS}
    starts = {start.first_seq: start for start in reader.starts()}
    market = Market(policy=MarketPolicy())
    for seq, event in reader.journal(report.differs):
        if seq in starts:
            report.starts += 1
            market = _restarted(records, starts[seq], report)
        report.events += 1
        observe(event)
        for instruction in _handled(market, seq, event, report):
            if isinstance(instruction, Save):
                records[type(instruction.record)][instruction.record.id] = instruction.record
            elif isinstance(instruction, ReplyRefused):
                report.differs(f"event {seq} was accepted, but the replay rejects it: {instruction.problem}")
    return records


def _handled(market: Market, seq: int, event: Event, report: BooksReport) -> list[Instruction]:
    """The market's answer; none, and a difference, if it lacks what a damaged event would have given."""
    try:
        return market.handle(event)
    except Exception as error:  # what is missing makes any of its defects show
        report.differs(f"event {seq} cannot be replayed: {type(error).__name__}: {error}")
        return []


def _restarted(records: Records, start: BrokerStart, report: BooksReport) -> Market:
    """The market as after this start; as after one under the default policy if the start is damaged."""
    at, policy, without = 0.0, MarketPolicy(), list[tuple[str, str]]()
    try:
        at, policy, without = float(start.at), recorded_policy(start.policy), start.without
    except UNREADABLE as error:
        report.differs(f"the start {start.first_seq} cannot be read: {error}")
    # Copies: the market changes its own.
    loaded = [msgspec.structs.replace(record) for record in select_needed(records, at, policy)]
    return Market.restore(sift(loaded, without=without).records, policy, left_out=without)
