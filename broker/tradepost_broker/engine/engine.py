"""The single writer: runs the market core on every event, in order, with group commit.

Work that arrives while one batch commits becomes the next batch, so batches grow with the load and an idle
broker answers at the disk's own speed. A batch ends early rather than hold the event loop for long.

For each batch (`batches`), the core handles its events, and journal and records go to the database in one
transaction. Only after the commit are replies given and instructions released. So what anyone is told is
durable. If a commit fails, the state in memory is ahead of the disk: the engine stops, and the process with
it, and a restart continues from the last commit. Only on a full disk is the transaction kept and written
again (`database_writer`). A piece of work that makes the core fail is set aside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tradepost.errors import BrokerDefect, BrokerUnavailable, TradepostError
from tradepost_broker.engine.batches import BatchDecider
from tradepost_broker.engine.blocked import BlockedReason
from tradepost_broker.engine.core_recovery import CoreRecovery
from tradepost_broker.engine.database_writer import DatabaseWriter
from tradepost_broker.engine.decisions import (
    Core,
    Decision,
    Moment,
    Outcome,
    Postponed,
    Records,
    Reply,
    Work,
)
from tradepost_broker.engine.limits import BACKLOG_MAX, BATCH_BYTES_MAX, BATCH_MAX, LIMITS, EngineLimits
from tradepost_broker.engine.observers import NO_OBSERVERS, EngineObservers
from tradepost_broker.engine.pieces import delivery_of
from tradepost_broker.engine.preparations import Preparations
from tradepost_broker.engine.turns import Turns
from tradepost_broker.engine.work import SetAsideDelivery
from tradepost_broker.market.model.events import Instruction
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.pace import paced

__all__ = [
    "BACKLOG_MAX",
    "BATCH_BYTES_MAX",
    "BATCH_MAX",
    "TICK_S",
    "Core",
    "Decision",
    "Engine",
    "EngineLimits",
    "EngineObservers",
    "Moment",
    "Outcome",
    "Postponed",
    "Records",
    "Reply",
    "Work",
]

TICK_S: Final = 0.25

log = logging.getLogger(__name__)


class Engine:
    """Handles work in batches. `run` does it, until `stop`; `submit` and `ask` bring it work.

    `recovery` restores the core; without it, whatever makes the core fail stops the engine.
    `release` carries out one instruction that is durable. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        *,
        core: Core,
        store: Store,
        release: Callable[[Instruction], None],
        recovery: CoreRecovery | None = None,
        clock: Callable[[], float] = time.time,
        observers: EngineObservers = NO_OBSERVERS,
        limits: EngineLimits = LIMITS,
    ) -> None:
        self._recovery = recovery
        self._release = release
        self._clock = clock
        self._observe_batch = observers.batch
        self._backlog_max = limits.backlog_max
        self._writer = DatabaseWriter(
            store=store,
            is_stopping=lambda: self._stopping,
            reject=self._reject_asked,
            observe_blocked=observers.blocked,
        )
        self._batches = BatchDecider(
            turns=Turns(core=core, recovery=recovery, clock=clock, observe_decided=observers.decided),
            store=store,
            recovery=recovery,
            writer=self._writer,
            release=self._release_all,
            batch_s_max=limits.batch_s_max,
        )
        self._preparations = Preparations(
            submit=self.submit, set_aside_delivery=self.set_aside_delivery, on_change=self._update_room
        )
        self._queue: deque[tuple[Work, Reply]] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = False
        self._failed = False
        self._asked: set[asyncio.Future[Sequence[Instruction]]] = set()

    def now(self) -> float:
        """The time in Unix seconds, by the clock that stamps events."""
        return self._clock()

    def submit(self, work: Work, reply: Reply) -> None:
        """Have `work` done; `reply` is told the outcome. Never waits: see `ready`."""
        if self._stopping or self._failed:
            reply(BrokerUnavailable("the broker is stopping"))
            return
        self._queue.append((work, reply))
        self._arrived.set()
        self._update_room()

    def set_aside_delivery(self, lease: str, cause: Exception, reply: Reply) -> None:
        """End a lease without blame, as what came for it cannot be processed; then `reply` is told."""
        if self._recovery is None:
            raise cause
        self.submit(
            SetAsideDelivery(self._recovery, lease, cause), lambda outcome: reply(_defect(outcome, lease))
        )

    async def ready(self) -> None:
        """Wait while the backlog is full."""
        await self._room.wait()

    async def ask(self, work: Work) -> Sequence[Instruction]:
        """Have `work` done; what the core answered, durably. Raises why it was refused."""
        if self._writer.blocked is None:  # where it is, the backlog may be full for long
            await self.ready()
        if self._writer.blocked is not None:
            raise self._writer.blocked(begun=False)
        future: asyncio.Future[Sequence[Instruction]] = asyncio.get_running_loop().create_future()
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)

        def reply(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, TradepostError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.submit(work, reply)
        return await future

    def stop(self) -> None:
        """Refuse further work, and work that is being prepared; `run` returns when the rest is done."""
        self._stopping = True
        self._arrived.set()

    async def run(self) -> None:
        """Do the work. Raises what made the core or a commit fail."""
        with ThreadPoolExecutor(1, thread_name_prefix="tradepost-commit") as committer:
            try:
                while not (self._stopping and not self._queue):
                    await self._arrived.wait()
                    # One turn of the loop, so that all that is ready now becomes one batch.
                    await asyncio.sleep(0)
                    await self._do_batch(self._take(), committer)
            except BaseException:
                self._failed = True
                raise
            finally:
                while self._queue:
                    _, reply = self._queue.popleft()
                    reply(BrokerUnavailable("the broker stopped before this was durable"))
                await self._preparations.cancel()

    def _take(self) -> list[tuple[Work, Reply]]:
        batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
        if not self._queue and not self._stopping:
            self._arrived.clear()
        self._update_room()
        return batch

    def _update_room(self) -> None:
        if len(self._queue) + self._preparations.count < self._backlog_max:
            self._room.set()
        else:
            self._room.clear()

    async def _do_batch(self, batch: list[tuple[Work, Reply]], committer: ThreadPoolExecutor) -> None:
        began = time.perf_counter()
        try:
            outcomes = await self._batches.decide([work for work, _ in batch], committer)
        except BaseException as error:
            log.critical("The engine failed and stops: %s", error, extra={"action": "engine_failed"})
            for _, reply in batch:
                reply(BrokerUnavailable("the broker failed before this was durable"))
            raise
        decided, others = batch[: len(outcomes)], batch[len(outcomes) :]
        if others:
            self._put_back(others)
        self._observe_batch(len(decided), time.perf_counter() - began)
        async for (work, reply), outcome in paced(zip(decided, outcomes, strict=True)):
            if isinstance(outcome, Postponed):
                self._preparations.start(work, reply, outcome)
                continue
            _tell(reply, outcome)
            if not isinstance(outcome, TradepostError):
                self._release_all(outcome)

    def _put_back(self, batch: list[tuple[Work, Reply]]) -> None:
        """Let works of a batch that was cut short be the next ones."""
        self._queue.extendleft(reversed(batch))
        self._arrived.set()
        self._update_room()

    def _release_all(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            try:
                self._release(instruction)
            except Exception:  # it is durable: whom it concerns learns of it when they ask again
                log.exception("An instruction could not be carried out", extra={"action": "defect"})

    def _reject_asked(self, reason: BlockedReason) -> None:
        for future in list(self._asked):
            if not future.done():
                future.set_exception(reason(begun=True))


def _defect(outcome: Outcome, lease: str) -> TradepostError:
    """What is replied to work that was set aside with this outcome."""
    return outcome if isinstance(outcome, TradepostError) else BrokerDefect(delivery_of(lease))


def _tell(reply: Reply, outcome: Outcome) -> None:
    try:
        reply(outcome)
    except Exception:  # it is durable all the same
        log.exception("A reply could not be given", extra={"action": "defect"})
