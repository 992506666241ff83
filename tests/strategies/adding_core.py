"""An engine with a small core, and work for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event as ThreadEvent

from tradepost.errors import InsufficientFunds, TradepostError
from tradepost_broker.engine.engine import (
    BACKLOG_MAX,
    Decision,
    Engine,
    EngineLimits,
    EngineObservers,
    Moment,
)
from tradepost_broker.market.model.entities import Account
from tradepost_broker.market.model.events import (
    Event,
    Funded,
    Instruction,
    NotifyFinished,
    ReplyRefused,
    Save,
)
from tradepost_broker.storage.shell_records import ApiKey, InlineInput
from tradepost_broker.storage.store import Store, Transaction
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
            self.release.wait(60)
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


class KeepInput:
    """Work that keeps an inline input of a mebibyte."""

    def __init__(self, name: str) -> None:
        self._record = InlineInput(id=name, document=bytes(1 << 20))

    def decide(self, moment: Moment) -> Decision:
        return Decision(records=(self._record,))
