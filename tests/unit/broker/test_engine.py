"""The engine tells nobody anything that is not durable, keeps order, and stops when it cannot write."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from threading import Event as ThreadEvent

import pytest

from tradepost.errors import BrokerUnavailable, DiskFull, Fault, InsufficientFunds, TradepostError, UnknownJob
from tradepost_broker.engine.engine import (
    BACKLOG_MAX,
    BATCH_BYTES_MAX,
    BATCH_MAX,
    Decision,
    Engine,
    EngineLimits,
    EngineObservers,
    Moment,
    Outcome,
    Postponed,
    Work,
)
from tradepost_broker.engine.work import Keep
from tradepost_broker.market.model.entities import Account
from tradepost_broker.market.model.events import (
    Event,
    Funded,
    Instruction,
    NotifyFinished,
    ReplyRefused,
    Save,
    Tick,
)
from tradepost_broker.storage.database_checks import typed_errors
from tradepost_broker.storage.shell_records import ApiKey, InlineInput
from tradepost_broker.storage.store import Deletion, Store, Transaction
from tradepost_broker.testing import ManualClock


class AddingCore:
    """Adds each funding to one account, refuses negative amounts, and breaks at 13."""

    def __init__(self) -> None:
        self.account = Account(id="credits:alice")
        self.changed = False

    def handle(self, event: Event) -> list[Instruction]:
        self.changed = isinstance(event, Funded)
        if not isinstance(event, Funded):
            return []
        if event.amount_microcredits < 0:
            return [ReplyRefused(InsufficientFunds("no").to_problem())]
        if event.amount_microcredits == 13:
            raise RuntimeError("a defect")
        self.account.available_microcredits += event.amount_microcredits
        return [NotifyFinished(event.transfer), Save(self.account)]


class Funding:
    """Work that funds alice."""

    def __init__(self, amount: int, name: str = "t", *, refuse: TradepostError | None = None) -> None:
        self._amount = amount
        self._name = name
        self._refuse = refuse

    def decide(self, moment: Moment) -> Decision:
        if self._refuse is not None:
            raise self._refuse
        return Decision(
            event=Funded(
                at=moment.at, transfer=self._name, account="alice", amount_microcredits=self._amount
            ),
            records=(ApiKey(id=self._name, account="alice", created_at=moment.at),),
        )


class FundingWithFollowUp:
    """Work that funds alice, keeps the core's answer as a record, and deletes the key `old`."""

    def __init__(self, amount: int) -> None:
        self._amount = amount

    def decide(self, moment: Moment) -> Decision:
        return Decision(
            event=Funded(at=moment.at, transfer="t", account="alice", amount_microcredits=self._amount),
            records_after=lambda instructions: [
                ApiKey(id=f"after-{len(instructions)}", account="alice", created_at=moment.at)
            ],
            deletions=[Deletion("DELETE FROM api_keys WHERE id = ?", ("old",))],
        )


class FundingOnceReady:
    """Work that funds alice after a preparation that the test ends, or fails with an error."""

    def __init__(self, name: str = "t") -> None:
        self._name = name
        self.started = asyncio.Event()
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def decide(self, moment: Moment) -> Decision | Postponed:
        if not self.end.done():
            return Postponed(self._prepare)
        return Decision(
            event=Funded(at=moment.at, transfer=self._name, account="alice", amount_microcredits=1)
        )

    async def _prepare(self) -> None:
        self.started.set()
        await self.end


class EmptyTick:
    """Work that is a tick with nothing to do."""

    def decide(self, moment: Moment) -> Decision:
        return Decision(event=Tick(at=moment.at, seed=moment.seed))


class HeldStore(Store):
    """A store whose commits wait until `release` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.release = ThreadEvent()
        self.committing = ThreadEvent()

    def begin(self) -> Transaction:
        transaction = super().begin()
        commit = transaction.commit

        def held() -> None:
            self.committing.set()
            self.release.wait(10)
            commit()

        transaction.commit = held  # type: ignore[method-assign]
        return transaction


@asynccontextmanager
async def running(
    store: Store,
    *,
    core: AddingCore | None = None,
    released: list[Instruction] | None = None,
    backlog_max: int = BACKLOG_MAX,
    blocked: list[bool] | None = None,
) -> AsyncIterator[Engine]:
    engine = Engine(
        core=core or AddingCore(),
        store=store,
        release=(lambda _: None) if released is None else released.append,
        clock=ManualClock(),
        limits=EngineLimits(backlog_max=backlog_max),
        observers=EngineObservers(blocked=(lambda _: None) if blocked is None else blocked.append),
    )
    task = asyncio.create_task(engine.run())
    yield engine
    engine.stop()
    await task
    store.close()


async def test_an_answer_means_that_it_is_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        await engine.ask(Funding(5))
        assert store.get(Account, "credits:alice") == Account(id="credits:alice", available_microcredits=5)
        assert store.get(ApiKey, "t") is not None
        assert [event for _, event in store.journal()] == [
            Funded(at=ManualClock().now, transfer="t", account="alice", amount_microcredits=5)
        ]


def finished(released: list[Instruction]) -> list[str]:
    return [one.job for one in released if isinstance(one, NotifyFinished)]


@contextmanager
def full_database(store: Store) -> Iterator[None]:
    """Within this, the database of `store` cannot grow."""
    pages = store._write.execute("PRAGMA page_count").fetchone()[0]
    store._write.execute(f"PRAGMA max_page_count = {pages}")
    yield
    store._write.execute(f"PRAGMA max_page_count = {1 << 30}")


async def test_a_full_disk_rejects_requests_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, released, blocked = Store(tmp_path / "db"), list[Instruction](), list[bool]()
    store._write.execute("PRAGMA foreign_keys=OFF")  # inputs without jobs
    async with running(store, released=released, blocked=blocked) as engine:
        await engine.ask(Funding(5, "before"))
        with full_database(store):
            begun = asyncio.create_task(engine.ask(KeepInput("input")))
            funding = asyncio.create_task(engine.ask(Funding(7, "begun")))
            for asked in (begun, funding):
                with pytest.raises(DiskFull, match="the disk is full; the request may still be") as caught:
                    await asked
                assert "Free space on the disk of the broker's data folder" in caught.value.hint
                assert caught.value.fault is Fault.OPERATOR
            with pytest.raises(DiskFull, match="the disk is full; nothing was done"):
                await engine.ask(Funding(11, "rejected"))
            assert finished(released) == ["before"]
            told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            engine.submit(Funding(2, "waits"), told.set_result)
        assert not isinstance(await told, TradepostError)
        assert await engine.ask(Funding(1, "after"))
    assert finished(released) == ["before", "begun", "waits", "after"]
    again = Store(tmp_path / "db")
    assert again.get(Account, "credits:alice") == Account(
        id="credits:alice", available_microcredits=5 + 7 + 2 + 1
    )
    assert [seq for seq, _ in again.journal()] == [1, 2, 3, 4]
    assert blocked == [True, False]
    assert again.get(ApiKey, "rejected") is None
    again.close()
    assert [one.action for one in caplog.records if hasattr(one, "action")].count("disk_full") == 1


async def test_an_engine_that_stops_on_a_full_disk_raises_that(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    store._write.execute("PRAGMA foreign_keys=OFF")
    engine = Engine(core=AddingCore(), store=store, release=lambda _: None, clock=ManualClock())
    task = asyncio.create_task(engine.run())
    with full_database(store):
        with pytest.raises(DiskFull):
            await engine.ask(KeepInput("input"))
        engine.stop()
        with pytest.raises(DiskFull, match="database or disk is full"), typed_errors(tmp_path / "db"):
            await task
    store.close()


async def test_nothing_is_told_while_the_commit_is_under_way(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "db")
    released: list[Instruction] = []
    async with running(store, released=released) as engine:
        asking = asyncio.create_task(engine.ask(Funding(5)))
        await asyncio.to_thread(store.committing.wait, 10)
        assert not asking.done()
        assert released == []
        store.release.set()
        await asking
        assert released[0] == NotifyFinished("t")


async def test_work_that_comes_during_a_commit_makes_one_batch(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "db")
    batches: list[int] = []
    engine = Engine(
        core=AddingCore(),
        store=store,
        release=lambda _: None,
        clock=ManualClock(),
        observers=EngineObservers(batch=lambda works, _: batches.append(works)),
        limits=EngineLimits(batch_s_max=math.inf),
    )
    task = asyncio.create_task(engine.run())
    first = asyncio.create_task(engine.ask(Funding(1, "first")))
    await asyncio.to_thread(store.committing.wait, 10)
    others = [asyncio.create_task(engine.ask(Funding(1, f"t{n}"))) for n in range(BATCH_MAX - 1)]
    await asyncio.sleep(0)
    store.release.set()
    await asyncio.gather(first, *others)
    engine.stop()
    await task
    store.close()
    assert batches[:2] == [1, BATCH_MAX - 1]


class KeepInput:
    """Work that keeps an inline input of a mebibyte."""

    def __init__(self, name: str) -> None:
        self._record = InlineInput(id=name, document=bytes(1 << 20))

    def decide(self, moment: Moment) -> Decision:
        return Decision(records=(self._record,))


@pytest.mark.parametrize(
    ("work", "batch_s_max", "in_a_batch"),
    [
        (lambda name: Funding(1, name), 0.0, 1),
        (lambda name: Funding(1, name), math.inf, 10),
        (KeepInput, math.inf, BATCH_BYTES_MAX >> 20),
    ],
    ids=["time", "no limit", "bytes"],
)
async def test_a_batch_that_would_hold_up_others_is_cut_short(
    tmp_path: Path, work: Callable[[str], Work], batch_s_max: float, in_a_batch: int
) -> None:
    store = Store(tmp_path / "db")
    store._write.execute("PRAGMA foreign_keys=OFF")  # inputs without jobs
    batches: list[int] = []
    told: list[int] = []
    ended = asyncio.Event()
    engine = Engine(
        core=AddingCore(),
        store=store,
        release=lambda _: None,
        clock=ManualClock(),
        observers=EngineObservers(batch=lambda works, _: batches.append(works)),
        limits=EngineLimits(batch_s_max=batch_s_max),
    )

    def reply(number: int, outcome: Outcome) -> None:
        assert not isinstance(outcome, TradepostError)
        told.append(number)
        if number == 0:
            engine.submit(work("t10"), partial(reply, 10))
        if number == 10:
            ended.set()

    for number in range(10):
        engine.submit(work(f"t{number}"), partial(reply, number))
    task = asyncio.create_task(engine.run())
    await ended.wait()
    engine.stop()
    await task
    store.close()
    assert told == list(range(11)), "in the order in which they came"
    assert max(batches) == in_a_batch
    assert sum(batches) == 11


async def test_replies_come_in_order_and_before_instructions(tmp_path: Path) -> None:
    told: list[str] = []
    store = Store(tmp_path / "db")
    engine = Engine(
        core=AddingCore(),
        store=store,
        release=lambda instruction: told.append(type(instruction).__name__),
        clock=ManualClock(),
    )
    ended = asyncio.Event()

    def reply(name: str) -> None:
        told.append(name)
        if name == "second":
            ended.set()

    engine.submit(Funding(1, "a"), lambda _: reply("first"))
    engine.submit(Funding(1, "b"), lambda _: reply("second"))
    task = asyncio.create_task(engine.run())
    await ended.wait()
    engine.stop()
    await task
    store.close()
    assert told == ["first", "NotifyFinished", "Save", "second", "NotifyFinished", "Save"]


@pytest.mark.parametrize(
    ("work", "error"),
    [(Funding(-1), InsufficientFunds), (Funding(1, refuse=UnknownJob("no")), UnknownJob)],
    ids=["by the core", "by the shell"],
)
async def test_a_refusal_writes_nothing(tmp_path: Path, work: Funding, error: type[TradepostError]) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        with pytest.raises(error):
            await engine.ask(work)
        assert store.last_seq == 0
        assert store.get(ApiKey, "t") is None


async def test_a_decision_has_records_after_the_core_and_deletions(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        await engine.ask(Keep(ApiKey(id="old", account="alice", created_at=1.0)))
        await engine.ask(FundingWithFollowUp(5))
        assert [key.id for key in store.find(ApiKey)] == ["after-2"]


async def test_a_refused_decision_deletes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        await engine.ask(Keep(ApiKey(id="old", account="alice", created_at=1.0)))
        with pytest.raises(InsufficientFunds):
            await engine.ask(FundingWithFollowUp(-1))
        assert [key.id for key in store.find(ApiKey)] == ["old"]


async def test_events_are_observed_in_their_turn_unless_refused(tmp_path: Path) -> None:
    store, observed = Store(tmp_path / "db"), list[Event]()
    engine = Engine(
        core=AddingCore(),
        store=store,
        release=lambda _: None,
        clock=ManualClock(),
        observers=EngineObservers(decided=lambda event, _: observed.append(event)),
    )
    for amount in (5, -1):
        engine.submit(Funding(amount), lambda _: None)
    task = asyncio.create_task(engine.run())
    await engine.ask(EmptyTick())
    engine.stop()
    await task
    store.close()
    assert [type(event) for event in observed] == [Funded, Tick]


async def test_what_changes_nothing_is_not_journalled(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        await engine.ask(EmptyTick())
        assert store.last_seq == 0
        await engine.ask(Funding(5))
        assert store.last_seq == 1


async def test_a_defect_in_the_core_stops_the_engine(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    engine = Engine(core=AddingCore(), store=store, release=lambda _: None, clock=ManualClock())
    outcomes: list[Outcome] = []
    engine.submit(Funding(1, "before"), outcomes.append)
    engine.submit(Funding(13, "defect"), outcomes.append)
    with pytest.raises(RuntimeError, match="a defect"):
        await engine.run()
    assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
    assert len(outcomes) == 2
    with pytest.raises(BrokerUnavailable):
        await engine.ask(Funding(1, "after"))
    assert store.get(Account, "credits:alice") is None
    store.close()


async def test_a_commit_that_fails_stops_the_engine(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "db")
    store.release.set()
    engine = Engine(core=AddingCore(), store=store, release=lambda _: None, clock=ManualClock())
    outcomes: list[Outcome] = []
    engine.submit(Funding(1), outcomes.append)
    store._write.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        await engine.run()
    assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable]


async def test_time_never_runs_backwards(tmp_path: Path) -> None:
    store, clock = Store(tmp_path / "db"), ManualClock(100.0)
    engine = Engine(core=AddingCore(), store=store, release=lambda _: None, clock=clock)
    task = asyncio.create_task(engine.run())
    await engine.ask(Funding(1, "a"))
    clock.now = 50.0
    await engine.ask(Funding(1, "b"))
    engine.stop()
    await task
    assert [event.at for _, event in store.journal()] == [100.0, 100.0]
    store.close()


async def test_postponed_work_delays_no_other_and_gets_another_turn(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        postponed = FundingOnceReady("postponed")
        asking = asyncio.create_task(engine.ask(postponed))
        await postponed.started.wait()
        await engine.ask(Funding(1, "other"))
        assert not asking.done()
        postponed.end.set_result(None)
        await asking
        assert [event.transfer for _, event in store.journal() if isinstance(event, Funded)] == [
            "other",
            "postponed",
        ]


async def test_a_preparation_starts_when_earlier_work_is_durable(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "db")
    async with running(store) as engine:
        postponed = FundingOnceReady("postponed")
        engine.submit(Funding(1, "earlier"), lambda _: None)
        asking = asyncio.create_task(engine.ask(postponed))
        await asyncio.to_thread(store.committing.wait, 10)
        assert not postponed.started.is_set()
        store.release.set()
        await postponed.started.wait()
        assert store.last_seq == 1
        postponed.end.set_result(None)
        await asking


@pytest.mark.parametrize(
    ("failure", "error"),
    [(UnknownJob("no"), UnknownJob), (OSError("a defect"), BrokerUnavailable)],
    ids=["refused", "a defect"],
)
async def test_a_preparation_that_fails_refuses_its_work_alone(
    tmp_path: Path, failure: Exception, error: type[TradepostError]
) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        postponed = FundingOnceReady()
        asking = asyncio.create_task(engine.ask(postponed))
        await postponed.started.wait()
        postponed.end.set_exception(failure)
        with pytest.raises(error):
            await asking
        await engine.ask(Funding(1, "other"))
        assert store.last_seq == 1


async def test_a_stop_refuses_work_that_is_being_prepared(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        postponed = FundingOnceReady()
        asking = asyncio.create_task(engine.ask(postponed))
        await postponed.started.wait()
    with pytest.raises(BrokerUnavailable):
        await asking


async def test_work_that_is_being_prepared_counts_as_backlog(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    async with running(store, backlog_max=1) as engine:
        postponed = FundingOnceReady()
        engine.submit(postponed, lambda _: None)
        await postponed.started.wait()
        waiting = asyncio.create_task(engine.ready())
        await asyncio.sleep(0)
        assert not waiting.done()
        postponed.end.set_result(None)
        await waiting


async def test_who_brings_work_waits_while_the_backlog_is_full(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    engine = Engine(core=AddingCore(), store=store, release=lambda _: None, clock=ManualClock())
    for n in range(BACKLOG_MAX):
        engine.submit(Funding(1, f"t{n}"), lambda _: None)
    waiting = asyncio.create_task(engine.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    task = asyncio.create_task(engine.run())
    await waiting
    engine.stop()
    await task
    assert store.get(Account, "credits:alice") == Account(
        id="credits:alice", available_microcredits=BACKLOG_MAX
    )
    store.close()
