"""The engine tells nobody anything that is not durable, keeps order, and stops when it cannot write."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from adding_core import AddingCore, Funding, HeldStore, KeepInput, running
from tradepost.errors import BrokerUnavailable, InsufficientFunds, TradepostError, UnknownJob
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
    Work,
)
from tradepost_broker.engine.work import Keep
from tradepost_broker.market.model.entities import Account
from tradepost_broker.market.model.events import (
    Event,
    Funded,
    Instruction,
    NotifyFinished,
    Tick,
)
from tradepost_broker.storage.shell_records import ApiKey
from tradepost_broker.storage.store import Deletion, Store
from tradepost_broker.testing import ManualClock


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


class EmptyTick:
    """Work that is a tick with nothing to do."""

    def decide(self, moment: Moment) -> Decision:
        return Decision(event=Tick(at=moment.at, seed=moment.seed))


async def test_an_answer_means_that_it_is_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    async with running(store) as engine:
        await engine.ask(Funding(5))
        assert store.get(Account, "credits:alice") == Account(id="credits:alice", available_microcredits=5)
        assert store.get(ApiKey, "t") is not None
        assert [event for _, event in store.journal()] == [
            Funded(at=ManualClock().now, transfer="t", account="alice", amount_microcredits=5)
        ]


async def test_nothing_is_told_while_the_commit_is_under_way(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "db")
    released: list[Instruction] = []
    async with running(store, released=released) as engine:
        asking = asyncio.create_task(engine.ask(Funding(5)))
        await asyncio.to_thread(store.committing.wait, 60)
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
    await asyncio.to_thread(store.committing.wait, 60)
    others = [asyncio.create_task(engine.ask(Funding(1, f"t{n}"))) for n in range(BATCH_MAX - 1)]
    await asyncio.sleep(0)
    store.release.set()
    await asyncio.gather(first, *others)
    engine.stop()
    await task
    store.close()
    assert batches[:2] == [1, BATCH_MAX - 1]


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
