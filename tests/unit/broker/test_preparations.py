"""Work that needs a preparation waits for it alone, and then gets another turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adding_core import Funding, HeldStore, running
from tradepost.errors import BrokerUnavailable, TradepostError, UnknownJob
from tradepost_broker.engine.engine import Decision, Moment, Postponed
from tradepost_broker.market.model.events import Funded
from tradepost_broker.storage.store import Store


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
        await asyncio.to_thread(store.committing.wait, 60)
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
