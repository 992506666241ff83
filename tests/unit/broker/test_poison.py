"""Work that makes the market fail is set aside alone: the market is as before, and others notice nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tradepost.errors import BrokerDefect, InvariantBroken, TradepostError, UnknownCid
from tradepost.protocol import JobStatus, Requirements
from tradepost_broker.engine.core_recovery import CoreRecovery
from tradepost_broker.engine.engine import Engine, Moment, Outcome, Postponed
from tradepost_broker.engine.work import EventWork, Keep
from tradepost_broker.market import Market, core
from tradepost_broker.market.handlers import timer
from tradepost_broker.market.matching import advance_job
from tradepost_broker.market.model.entities import Account, Evidence, Job, Lease, LeaseState
from tradepost_broker.market.model.events import (
    Event,
    Funded,
    Instruction,
    JobSubmitted,
    PipelinePublished,
    ReceiptDelivered,
    Restarted,
    SendAcknowledged,
    Tick,
    WorkerConnected,
    WorkerJoined,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.settling import settlement
from tradepost_broker.market.state.timers import TimerPurpose
from tradepost_broker.market.testing import make_offer, make_pipeline
from tradepost_broker.storage.shell_records import ApiKey, SetAside, SetAsideKind
from tradepost_broker.storage.store import Store
from tradepost_broker.storage.verify_books import verify_books
from tradepost_broker.testing import ManualClock

POLICY = MarketPolicy(audit_rate=0.0)


class Broker:
    """An engine on a real market and a real store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.released: list[Instruction] = []
        self.open()

    def open(self) -> None:
        self.store = Store(self.path)
        without = self.store.left_out()
        sifted = self.store.sift(at=self.clock.now, policy=POLICY, without=without)
        left_out = [*without, *((one.kind, one.id) for one in sifted.left_out)]
        self.market = Market.restore(sifted.records, POLICY, left_out=left_out)
        policy = msgspec.msgpack.encode(POLICY)
        self.store.record_start(at=self.clock.now, version="test", policy=policy, left_out=left_out)
        self.store.set_aside_unreadable(at=self.clock.now)
        self.engine = Engine(
            core=self.market,
            store=self.store,
            release=self.released.append,
            clock=self.clock,
            recovery=CoreRecovery(
                core=self.market, store=self.store, policy=POLICY, version="test", left_out=left_out
            ),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.engine.run())
        try:
            await self.do(lambda moment: Restarted(at=moment.at))
            yield
        finally:
            self.engine.stop()
            await task

    async def do(self, make: Callable[[Moment], Event]) -> list[Instruction]:
        return list(await self.engine.ask(EventWork(make)))

    async def set_up(self, workers: int = 1) -> None:
        await self.do(
            lambda moment: Funded(at=moment.at, transfer="f", account="alice", amount_microcredits=10_000_000)
        )
        await self.do(lambda moment: PipelinePublished(at=moment.at, pipeline=make_pipeline()))
        for name in (f"w{number}" for number in range(workers)):
            await self.do(lambda moment, name=name: joining(moment, name))  # type: ignore[misc]
            await self.do(lambda moment, name=name: connecting(moment, name))  # type: ignore[misc]

    async def submit(self, key: str) -> None:
        await self.do(lambda moment: submission(moment, key))

    async def tick(self) -> None:
        await self.do(lambda moment: Tick(at=moment.at, seed=moment.seed))

    async def deliver(self, lease: str) -> None:
        await self.do(lambda moment: delivery(moment, lease, self.worker_of(lease)))

    def worker_of(self, lease: str) -> str:
        found = self.store.get(Lease, lease)
        assert found is not None
        return found.worker

    def stored(self, job: str) -> Job:
        found = self.store.get(Job, job)
        assert found is not None
        return found

    def set_aside(self) -> dict[str, SetAside]:
        return {one.id: one for one in self.store.find(SetAside)}

    def reserved(self) -> int:
        account = self.store.get(Account, "credits:alice")
        assert account is not None
        return account.reserved_microcredits


def joining(moment: Moment, worker: str) -> WorkerJoined:
    return WorkerJoined(
        at=moment.at,
        worker=worker,
        owner=worker,
        device="d",
        public_key=b"k",
        auditor=False,
        stake_microcredits=1000,
    )


def connecting(moment: Moment, worker: str) -> WorkerConnected:
    return WorkerConnected(at=moment.at, worker=worker, offer=make_offer(), seed=moment.seed)


def submission(moment: Moment, key: str) -> JobSubmitted:
    return JobSubmitted(
        at=moment.at,
        job=f"job-{key}",
        account="alice",
        idempotency_key=key,
        request_hash=key,
        pipeline="digits",
        input="input",
        input_bytes=1000,
        max_price_microcredits=100_000,
        confidence=0.75,
        deadline_s=300.0,
        patience_s=5.0,
        requirements=Requirements(),
        seed=moment.seed,
    )


def delivery(moment: Moment, lease: str, worker: str) -> ReceiptDelivered:
    return ReceiptDelivered(
        at=moment.at,
        worker=worker,
        lease=lease,
        outcome="right",
        stage_hashes=(),
        agrees_with=(),
        seed=moment.seed,
    )


def fails_after(handle: Callable[..., None], when: Callable[..., bool]) -> Callable[..., None]:
    """`handle`, which fails after it has changed the market, `when` it is given these arguments."""

    def handled(*arguments: Any) -> None:
        handle(*arguments)
        if when(*arguments):
            raise OverflowError("too large")

    return handled


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    broker = Broker(tmp_path / "broker.sqlite3")
    yield broker
    report = verify_books(broker.store)
    assert report.differences == []
    broker.store.close()


@pytest.fixture
def poisoned_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = core._HANDLERS[JobSubmitted]
    poison = fails_after(handler, lambda _, event: event.idempotency_key.startswith("poison"))
    monkeypatch.setitem(core._HANDLERS, JobSubmitted, poison)


async def together(broker: Broker, *keys: str) -> list[Outcome]:
    """Submit jobs in one batch; how each was answered, in the order of the answers."""
    outcomes: list[Outcome] = []
    for key in keys:
        work = EventWork(lambda moment, key=key: submission(moment, key))  # type: ignore[misc]
        broker.engine.submit(work, outcomes.append)
    await broker.do(lambda moment: Tick(at=moment.at, seed=moment.seed))
    return outcomes


@pytest.mark.usefixtures("poisoned_submission")
async def test_poison_is_refused_and_its_batch_is_done(broker: Broker) -> None:
    async with broker.running():
        await broker.set_up()
        outcomes = await together(broker, "a", "poison", "b")
        assert [isinstance(outcome, BrokerDefect) for outcome in outcomes] == [False, True, False]
        assert [job.id for job in broker.store.find(Job)] == ["job-a", "job-b"]
        assert broker.reserved() == 200_000
        assert broker.market.is_connected("w0")
        assert [lease.state for lease in broker.store.find(Lease)] == [LeaseState.OPEN] * 2


@pytest.mark.usefixtures("poisoned_submission")
async def test_no_reply_is_given_before_the_market_is_restored(broker: Broker) -> None:
    async with broker.running():
        await broker.set_up()
        answers: list[tuple[str, Job | None]] = []
        for key in ("a", "poison"):
            work = EventWork(lambda moment, key=key: submission(moment, key))  # type: ignore[misc]
            broker.engine.submit(
                work,
                lambda _, key=key: answers.append((key, broker.store.get(Job, f"job-{key}"))),  # type: ignore[misc]
            )
        await broker.tick()
        assert [(key, job is not None) for key, job in answers] == [("a", True), ("poison", False)]


@pytest.mark.usefixtures("poisoned_submission")
async def test_what_was_set_aside_is_not_met_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async with broker.running():
        await broker.set_up()
        await together(broker, "poison")
        [found] = broker.set_aside().values()
        assert (found.id, found.kind) == ("submission alice poison", SetAsideKind.EVENT)
        assert found.reason == "OverflowError: too large"
        assert found.event is not None
        assert msgspec.msgpack.decode(found.event)["idempotency_key"] == "poison"
    broker.store.close()
    broker.open()
    monkeypatch.undo()
    starts = len(broker.store.starts())
    async with broker.running():
        with pytest.raises(BrokerDefect):
            await broker.submit("poison")
        await broker.submit("fine")
        assert len(broker.store.starts()) == starts


async def test_a_defect_before_the_core_refuses_its_work_alone(broker: Broker) -> None:
    def broken(moment: Moment) -> Event:
        raise ZeroDivisionError

    async with broker.running():
        with pytest.raises(BrokerDefect):
            await broker.do(broken)
        await broker.set_up()
        assert len(broker.store.starts()) == 1


async def test_records_that_cannot_be_written_are_found_among_their_batch(broker: Broker) -> None:
    async with broker.running():
        await broker.set_up()
        outcomes: list[Outcome] = []
        key = ApiKey(id="k", account="alice", created_at=1.0)
        for work in (
            EventWork(lambda moment: submission(moment, "a")),
            Keep(ApiKey(id="bad", account="alice", created_at=1 << 80)),  # type: ignore[arg-type]
            Keep(key),
        ):
            broker.engine.submit(work, outcomes.append)
        await broker.tick()
        assert [isinstance(outcome, BrokerDefect) for outcome in outcomes] == [False, True, False]
        assert broker.stored("job-a").status is JobStatus.RUNNING
        assert broker.store.get(ApiKey, "k") == key


async def test_a_delivery_that_makes_the_market_fail_blames_nobody(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = core._HANDLERS[ReceiptDelivered]
    poison = fails_after(handler, lambda _, event: event.worker == "w0")
    monkeypatch.setitem(core._HANDLERS, ReceiptDelivered, poison)
    async with broker.running():
        await broker.set_up(workers=2)
        await broker.submit("a")
        lease = next(lease for lease in broker.store.find(Lease))
        other = "w1" if lease.worker == "w0" else "w0"
        if lease.worker != "w0":
            pytest.fail("the auction is won by the lower id")
        with pytest.raises(BrokerDefect):
            await broker.deliver(lease.id)
        acknowledged = [one for one in broker.released if isinstance(one, SendAcknowledged)]
        assert acknowledged[-1].lease == lease.id
        assert acknowledged[-1].problem is not None
        assert acknowledged[-1].problem.fault == "broker"
        leases = {one.id: one for one in broker.store.find(Lease)}
        assert leases.pop(lease.id).state is LeaseState.RETURNED
        [again] = leases.values()
        assert (again.worker, again.state) == (other, LeaseState.OPEN)
        await broker.deliver(again.id)
        assert broker.stored("job-a").status is JobStatus.ACCEPTED
        assert list(broker.store.find(Evidence)) == []


async def test_a_job_that_makes_the_market_fail_ends_and_is_refunded(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker.running():
        await broker.set_up()
        await broker.submit("poison")
        await broker.submit("fine")
        poisoned = broker.store.get(Lease, "job-poison.1")
        assert poisoned is not None
        handlers = dict(timer._HANDLERS)
        fails = fails_after(handlers[TimerPurpose.DEADLINE], lambda _, job: job == "job-poison")
        monkeypatch.setitem(timer._HANDLERS, TimerPurpose.DEADLINE, fails)
        broker.clock.now += 301.0
        await broker.tick()
        await broker.tick()
        failed = broker.stored("job-poison")
        assert (failed.status, failed.problem and failed.problem.code) == (JobStatus.FAILED, "broker-defect")
        assert broker.stored("job-fine").problem is not None
        assert broker.reserved() == 0
        assert {one.id: one.kind for one in broker.set_aside().values()} == {
            "job job-poison": SetAsideKind.JOB
        }
        assert [one for one in broker.store.find(Evidence) if one.job == "job-poison"] == []


async def test_a_job_that_cannot_even_end_is_left_out(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker.running():
        await broker.set_up()
        await broker.submit("poison")
        finish = fails_after(settlement._finish, lambda _, job, *__: job.id == "job-poison")
        monkeypatch.setattr(settlement, "_finish", finish)
        broker.clock.now += 301.0
        await broker.tick()
        await broker.submit("fine")
        assert broker.market.job("job-poison") is None
        assert broker.set_aside()["job job-poison"].kind is SetAsideKind.LEFT_OUT
        # Its cap stays reserved until the operator looks after it.
        assert (broker.stored("job-poison").status, broker.reserved()) == (JobStatus.RUNNING, 200_000)
    broker.store.close()
    broker.open()
    async with broker.running():
        assert broker.market.job("job-poison") is None
        assert broker.market.job("job-fine") is not None


async def test_a_job_that_fails_when_it_is_advanced_costs_others_nothing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = advance_job._next_step

    def fails(state: Any, job: Job) -> Any:
        if job.id == "job-poison" and state.jobs_to_advance is not None and job.attempts:
            raise MemoryError
        return advance(state, job)

    async with broker.running():
        await broker.set_up()
        await broker.submit("poison")
        monkeypatch.setattr(advance_job, "_next_step", fails)
        await broker.deliver("job-poison.1")
        assert broker.stored("job-poison").status is JobStatus.FAILED
        await broker.submit("fine")
        await broker.deliver("job-fine.1")
        assert broker.stored("job-fine").status is JobStatus.ACCEPTED


async def test_what_would_break_the_ledger_stops_the_process_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(state: Any, event: JobSubmitted) -> None:
        if event.idempotency_key == "poison":
            raise InvariantBroken("a sum is wrong")
        return handler(state, event)

    handler = core._HANDLERS[JobSubmitted]
    monkeypatch.setitem(core._HANDLERS, JobSubmitted, breaks)
    async with broker.running():
        await broker.set_up()
    broker.store.close()
    broker.open()
    task = asyncio.create_task(broker.engine.run())
    outcomes = [asyncio.create_task(broker.submit(key)) for key in ("before", "poison")]
    with pytest.raises(InvariantBroken, match="a sum is wrong"):
        await task
    assert all(
        isinstance(error, TradepostError) for error in await asyncio.gather(*outcomes, return_exceptions=True)
    )
    assert broker.store.get(Job, "job-before") is None
    broker.store.close()
    broker.open()
    async with broker.running():
        with pytest.raises(BrokerDefect):
            await broker.submit("poison")


class Unpreparable:
    """A delivery whose preparation fails."""

    def __init__(self, lease: str, error: Exception) -> None:
        self._lease = lease
        self._error = error

    def decide(self, moment: Moment) -> Postponed:
        return Postponed(self._prepare, lease=self._lease)

    async def _prepare(self) -> None:
        raise self._error


@pytest.mark.parametrize("error", [MemoryError(), UnknownCid("a block of an earlier result is lost")])
async def test_a_delivery_that_cannot_be_prepared_is_set_aside(broker: Broker, error: Exception) -> None:
    async with broker.running():
        await broker.set_up()
        await broker.submit("a")
        with pytest.raises(BrokerDefect):
            await broker.engine.ask(Unpreparable("job-a.1", error))
        assert broker.set_aside().keys() == {"delivery job-a.1"}
        ended = broker.store.get(Lease, "job-a.1")
        assert ended is not None
        assert ended.state is LeaseState.RETURNED
        assert list(broker.store.find(Evidence)) == []
        with pytest.raises(BrokerDefect):
            await broker.deliver("job-a.1")


@pytest.mark.parametrize("error", [OSError(28, "no space"), sqlite3.OperationalError("locked")])
async def test_a_preparation_that_lacks_the_disk_is_tried_again(broker: Broker, error: Exception) -> None:
    async with broker.running():
        await broker.set_up()
        await broker.submit("a")
        with pytest.raises(TradepostError) as raised:
            await broker.engine.ask(Unpreparable("job-a.1", error))
        assert not isinstance(raised.value, BrokerDefect)
        assert broker.set_aside() == {}
        await broker.deliver("job-a.1")
        assert broker.stored("job-a").status is JobStatus.ACCEPTED


async def test_a_reply_or_an_instruction_that_fails_stops_nothing(broker: Broker) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("nobody there")

    async with broker.running():
        await broker.set_up()
        broker.engine._release = fails
        broker.engine.submit(EventWork(lambda moment: submission(moment, "a")), fails)
        await broker.submit("b")
        assert broker.stored("job-a").status is JobStatus.RUNNING
