"""Puts the market back to the last commit after a piece of work made it fail half-way, without that piece.

What the records hold is read from the store, as after a restart of the process. What they do not hold is kept
here, as of the last commit, and brought to the restored market as events: who is connected, and the newest
revocation list. All of it is journalled, as a start of the market, so that a replay does the same.

At fault is a job, if one was being looked at: it ends, and if even that makes the market fail, the market
goes on without it. Otherwise the event is at fault: it is rejected, also when its sender repeats it.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Protocol

import msgspec
from sqlalchemy import select

from tradepost.errors import BrokerDefect, InvariantBroken, StateBroken
from tradepost_broker.engine.pieces import delivery_of, lease_of, piece_of, written
from tradepost_broker.market.model.entities import Job, Lease, Record, Worker
from tradepost_broker.market.model.events import (
    DefectFound,
    Event,
    Instruction,
    Restarted,
    RevocationsIssued,
    Save,
    WorkerConnected,
    WorkerDisconnected,
)
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.sifting import kind_of
from tradepost_broker.market.state.seeded_random import SEED_BITS
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import REASON_CHARS_MAX, SetAside, SetAsideKind, unreadable
from tradepost_broker.storage.store import Store, Transaction


class RestorableCore(Protocol):
    """The part of the market that is restored."""

    def handle(self, event: Event) -> list[Instruction]:
        """Decide."""
        ...

    def recover(self, records: Iterable[Record], *, left_out: Iterable[tuple[str, str]] = ()) -> None:
        """Become what these records describe."""
        ...

    @property
    def job_at_hand(self) -> str:
        """The job that was looked at last; "" if it was the event itself."""
        ...

    def job(self, job: str) -> Job | None:
        """A job in memory."""
        ...

    def worker(self, worker: str) -> Worker | None:
        """A worker that joined."""
        ...

    def open_leases_of(self, worker: str) -> list[Lease]:
        """The leases that a worker is expected to work on."""
        ...


@dataclass(frozen=True)
class Failure:
    """A piece of work made the core, or the writing of its records, fail with `cause`.

    `event` is its event, if it is known and has one; `job` is the job that was being looked at, if any.
    """

    event: Event | None
    cause: Exception
    job: str = ""

    @property
    def reason(self) -> str:
        """The cause in words."""
        return f"{type(self.cause).__name__}: {self.cause}"[:REASON_CHARS_MAX]

    @property
    def leaves_the_ledger_right(self) -> bool:
        """Whether a restored core helps: not if the ledger, the disk or the database is at fault."""
        match self.cause:
            case StateBroken() | sqlite3.IntegrityError() | sqlite3.DataError():
                return True
            case InvariantBroken() | sqlite3.Error():
                return False
            case _:
                return True


class Restored(NamedTuple):
    """A restored market: what is to be committed, then released. `refusal` is for the work at fault."""

    transaction: Transaction
    instructions: list[Instruction]
    refusal: BrokerDefect | None


class CoreRecovery:
    """Restores `core` from `store`. `left_out` are the records (kind and id) that it
    started without.

    `observe_restored` is called when a restored market is durable.
    """

    def __init__(
        self,
        *,
        core: RestorableCore,
        store: Store,
        policy: MarketPolicy,
        version: str,
        left_out: Iterable[tuple[str, str]] = (),
        observe_restored: Callable[[], None] = lambda: None,
    ) -> None:
        self.observe_restored = observe_restored
        self._core = core
        self._store = store
        self._policy = policy
        self._version = version
        self._left_out = set(left_out)
        table = CODECS[SetAside].table
        events = select(table.c.id).where(table.c.kind == SetAsideKind.EVENT)
        self._rejected = {row[0] for row in store.query(events)}
        self._connected: dict[str, None] = {}
        self._revocations: RevocationsIssued | None = None

    def refusal(self, event: Event) -> BrokerDefect | None:
        """Why the event is rejected, if its work was set aside before."""
        if not self._rejected:
            return None
        piece = piece_of(event)
        return _refusal(piece) if piece in self._rejected else None

    def readmit(self, piece: str) -> None:
        """Reject an event no more, now that its record is gone."""
        self._rejected.discard(piece)

    def note_committed(self, events: Iterable[Event]) -> None:
        """Remember of committed events what no record holds."""
        for event in events:
            match event:
                case WorkerConnected(worker=worker):
                    self._connected[worker] = None
                case WorkerDisconnected(worker=worker):
                    self._connected.pop(worker, None)
                case Restarted():
                    self._connected.clear()
                case RevocationsIssued():
                    self._revocations = event
                case _:
                    pass

    def failure(self, event: Event | None, cause: Exception) -> Failure:
        """How the core has just failed."""
        return Failure(event, cause, self._core.job_at_hand)

    def restore(self, failed: Failure, *, at: float) -> Restored:
        """Put the core back to the last commit, and set aside what made it fail.

        Raises `InvariantBroken` if the ledger is wrong, and what makes the core fail again through no job.
        """
        records = self._load(at)
        ending: DefectFound | None = None
        refusal: BrokerDefect | None = None
        if failed.job and self._core.job(failed.job) is not None:
            if self._is_open(failed.job):
                records.append(_of_job(SetAsideKind.JOB, failed, at))
                ending = DefectFound(at=at, job=failed.job, seed=_seed())
            else:  # it cannot end once more
                records.append(self._leave_out(failed, at))
                records += self._load(at)
        else:
            refusal = _refusal("" if failed.event is None else piece_of(failed.event))
            records += self._reject(failed, at)
            if failed.event is not None and (lease := lease_of(failed.event)):
                ending = DefectFound(at=at, lease=lease, seed=_seed())
        while True:
            transaction = self._start(records, at)
            try:
                instructions = self._bring(transaction, ending, at)
            except Exception as error:
                again = self.failure(None, error)
                if not again.job or not again.leaves_the_ledger_right:
                    raise
                transaction.discard()
                records.append(self._leave_out(again, at))
                records += self._load(at)
            else:
                transaction.flush()
                return Restored(transaction, instructions, refusal)

    def set_aside_delivery(self, lease: str, cause: Exception, *, at: float) -> tuple[DefectFound, SetAside]:
        """What ends a lease whose delivery cannot be prepared, and how the delivery is set aside."""
        piece = delivery_of(lease)
        self._rejected.add(piece)
        reason = Failure(None, cause).reason
        return DefectFound(at=at, lease=lease, seed=_seed()), SetAside(
            id=piece, kind=SetAsideKind.EVENT, at=at, reason=reason
        )

    def record_before_stop(self, failed: Failure, *, at: float) -> None:
        """Set aside, durably, what broke the ledger, so that the next start does not meet it again."""
        transaction = self._store.begin()
        for record in [self._leave_out(failed, at)] if failed.job else self._reject(failed, at):
            transaction.save(record)
        transaction.flush()
        transaction.commit()

    def _load(self, at: float) -> list[SetAside]:
        """Restore the core from its records; those that it has to go on without."""
        sifted = self._store.sift(at=at, policy=self._policy, without=self._left_out)
        self._left_out |= {(one.kind, one.id) for one in sifted.left_out}
        self._core.recover(sifted.records, left_out=self._left_out)
        return [unreadable(one, at) for one in sifted.left_out]

    def _start(self, records: Sequence[SetAside], at: float) -> Transaction:
        transaction = self._store.begin()
        policy = msgspec.msgpack.encode(self._policy)
        transaction.start(at=at, version=self._version, policy=policy, left_out=self._left_out)
        for record in records:
            transaction.save(record)
        return transaction

    def _bring(self, transaction: Transaction, ending: DefectFound | None, at: float) -> list[Instruction]:
        """Tell the restored core what no record holds, and what has to end.

        A job ends first, before anything looks at it; a lease last, when there is somebody else to get one.
        """
        instructions: list[Instruction] = []
        first = [ending] if ending is not None and ending.job else []
        last = [ending] if ending is not None and ending.lease else []
        for event in chain([Restarted(at=at)], first, self._unrecorded(at), last):
            decided = self._core.handle(event)
            transaction.journal(event)
            for instruction in decided:
                if isinstance(instruction, Save):
                    transaction.save(instruction.record)
            instructions += decided
        return instructions

    def _unrecorded(self, at: float) -> Iterator[Event]:
        if self._revocations is not None:
            yield msgspec.structs.replace(self._revocations, at=at, seed=_seed())
        for worker in self._connected:
            record = self._core.worker(worker)
            if record is not None and record.offer is not None:
                open_leases = tuple(lease.id for lease in self._core.open_leases_of(worker))
                yield WorkerConnected(
                    at=at, worker=worker, offer=record.offer, open_leases=open_leases, seed=_seed()
                )

    def _is_open(self, job: str) -> bool:
        known = self._core.job(job)
        return known is not None and known.status not in FINAL

    def _leave_out(self, failed: Failure, at: float) -> SetAside:
        """Restore the market without the job at fault from now on."""
        self._left_out.add((kind_of(Job), failed.job))
        return _of_job(SetAsideKind.LEFT_OUT, failed, at)

    def _reject(self, failed: Failure, at: float) -> list[SetAside]:
        """Reject the event at fault from now on, if it has a name by which it is known again."""
        piece = "" if failed.event is None else piece_of(failed.event)
        if failed.event is None or not piece:
            return []
        self._rejected.add(piece)
        kind = SetAsideKind.EVENT
        return [SetAside(id=piece, kind=kind, at=at, reason=failed.reason, event=written(failed.event))]


def _of_job(kind: SetAsideKind, failed: Failure, at: float) -> SetAside:
    event = None if failed.event is None else written(failed.event)
    return SetAside(id=f"{kind_of(Job)} {failed.job}", kind=kind, at=at, reason=failed.reason, event=event)


def _refusal(piece: str) -> BrokerDefect:
    return BrokerDefect(piece)


def _seed() -> int:
    return secrets.randbits(SEED_BITS)
