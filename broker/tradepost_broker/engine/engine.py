"""The single writer: runs the market core on every event, in order, with group commit.

Work that arrives while one batch commits becomes the next batch, so batches grow with the load and an idle
broker answers at the disk's own speed. A batch ends early rather than hold the event loop for long.

For each batch: the core handles its events, journal and records go to the database in one transaction, and
only after the commit are replies given and instructions released. What anyone is told is therefore durable.
If a commit fails, the state in memory is ahead of the disk: the engine stops, and the process with it; a
restart continues from the last commit. Only on a full disk the transaction is kept, and written again until
there is room: meanwhile all requests are rejected with that.

A piece of work that makes the core fail must not do that. The core is restored from the last commit, the
piece is set aside and rejected, and the rest of its batch, whose replies were not given, is decided again, in
order. Only what would break the ledger stops the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from tradepost.errors import BrokerDefect, BrokerUnavailable, TradepostError
from tradepost_broker.engine.blocked import BlockedReason, locked_out, no_room
from tradepost_broker.engine.core_recovery import CoreRecovery, Failure
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
from tradepost_broker.engine.pieces import delivery_of
from tradepost_broker.engine.work import SetAsideDelivery
from tradepost_broker.market.model.events import Event, Instruction, ReplyRefused, Save
from tradepost_broker.market.state.seeded_random import SEED_BITS
from tradepost_broker.storage.store import Store, Transaction
from tradepost_broker.streams.pace import paced

__all__ = [
    "BACKLOG_MAX",
    "BATCH_BYTES_MAX",
    "BATCH_MAX",
    "TICK_S",
    "Core",
    "Decision",
    "Engine",
    "Moment",
    "Outcome",
    "Postponed",
    "Records",
    "Reply",
    "Work",
]

BATCH_MAX: Final = 256
#: After so many seconds of deciding, or with so many bytes of documents, a batch is committed as it is: while
#: works are decided and their rows written, the event loop does nothing else.
BATCH_S_MAX: Final = 0.02
BATCH_BYTES_MAX: Final = 4 << 20
#: Work that may wait, for its turn or its preparation, before `ready` makes those who bring more wait too.
BACKLOG_MAX: Final = 4096
TICK_S: Final = 0.25
#: For how long another process may lock the database before requests are answered with that.
LOCKED_S_MAX: Final = 1.0
LOCKED_RETRY_S: Final = 0.02
#: How often a transaction that found no room on the disk is written again.
FULL_RETRY_S: Final = 0.25

log = logging.getLogger(__name__)


class Engine:
    """Handles work in batches. `run` does it, until `stop`; `submit` and `ask` bring it work.

    `recovery` restores the core; without it, whatever makes the core fail stops the engine.
    `release` carries out one instruction that is durable. `observe_decided` is called in the turn of each
    event that the core accepted, before the commit; `observe_blocked` when nothing can be written any more,
    and when it can be again. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        *,
        core: Core,
        store: Store,
        release: Callable[[Instruction], None],
        recovery: CoreRecovery | None = None,
        clock: Callable[[], float] = time.time,
        observe_decided: Callable[[Event, Sequence[Instruction]], None] = lambda _event, _instructions: None,
        observe_batch: Callable[[int, float], None] = lambda _works, _seconds: None,
        observe_blocked: Callable[[bool], None] = lambda _is_blocked: None,
        backlog_max: int = BACKLOG_MAX,
        batch_s_max: float = BATCH_S_MAX,
    ) -> None:
        self._batch_s_max = batch_s_max
        self._backlog_max = backlog_max
        self._core = core
        self._store = store
        self._recovery = recovery
        self._release = release
        self._clock = clock
        self._observe_decided = observe_decided
        self._observe_batch = observe_batch
        self._observe_blocked = observe_blocked
        self._queue: deque[tuple[Work, Reply]] = deque()
        self._preparations: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = False
        self._failed = False
        self._blocked: BlockedReason | None = None
        self._locked_s_max = LOCKED_S_MAX
        self._asked: set[asyncio.Future[Sequence[Instruction]]] = set()
        self._at = 0.0

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
        if self._blocked is None:  # where it is, the backlog may be full for long
            await self.ready()
        if self._blocked is not None:
            raise self._blocked(begun=False)
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
                self._refuse_all(BrokerUnavailable("the broker stopped before this was durable"))
                await self._cancel_preparations()

    def _take(self) -> list[tuple[Work, Reply]]:
        batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
        if not self._queue and not self._stopping:
            self._arrived.clear()
        self._update_room()
        return batch

    def _update_room(self) -> None:
        if len(self._queue) + len(self._preparations) < self._backlog_max:
            self._room.set()
        else:
            self._room.clear()

    async def _do_batch(self, batch: list[tuple[Work, Reply]], committer: ThreadPoolExecutor) -> None:
        began = time.perf_counter()
        try:
            outcomes = await self._decide_all([work for work, _ in batch], committer)
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
                self._start_preparation(work, reply, outcome)
                continue
            _tell(reply, outcome)
            if not isinstance(outcome, TradepostError):
                self._release_all(outcome)

    def _put_back(self, batch: list[tuple[Work, Reply]]) -> None:
        """Let works of a batch that was cut short be the next ones."""
        self._queue.extendleft(reversed(batch))
        self._arrived.set()
        self._update_room()

    async def _decide_all(
        self, works: Sequence[Work], committer: ThreadPoolExecutor
    ) -> list[Outcome | Postponed]:
        """Decide works in one transaction and commit it; what makes the core fail is set aside.

        Those after the first ones are left undecided if they would hold the event loop for too long.
        """
        refusals: dict[int, BrokerDefect] = {}
        while True:
            transaction = self._store.begin()
            outcomes, failed = self._decide(works, refusals, transaction)
            if failed is None:
                failed = await self._write(transaction, committer, only=len(works) == 1)
            if failed is not None:
                refusal = await self._restore(failed, committer)
                if failed.event is None and len(works) > 1:
                    # Which of them it was shows when each has a transaction of its own.
                    return [(await self._decide_all([work], committer))[0] for work in works]
                if refusal is not None:
                    refusals[len(outcomes) if len(outcomes) < len(works) else 0] = refusal
                continue
            transaction.remember()
            if self._recovery is not None:
                self._recovery.note_committed(transaction.events)
            return outcomes

    def _decide(
        self, works: Sequence[Work], refusals: Mapping[int, BrokerDefect], transaction: Transaction
    ) -> tuple[list[Outcome | Postponed], Failure | None]:
        """The outcomes of the first works, of one at least, up to one that makes the core fail."""
        began = time.perf_counter()
        outcomes: list[Outcome | Postponed] = []
        for place, work in enumerate(works):
            outcome = refusals.get(place) or self._handle(work, transaction)
            if isinstance(outcome, Failure):
                return outcomes, outcome
            outcomes.append(outcome)
            if (
                time.perf_counter() - began >= self._batch_s_max
                or transaction.document_bytes >= BATCH_BYTES_MAX
            ):
                break
        return outcomes, None

    async def _write(
        self, transaction: Transaction, committer: ThreadPoolExecutor, *, only: bool
    ) -> Failure | None:
        """Make the transaction durable; how writing its rows failed, with the event if `only` it can be.

        While the disk is full, it is written again and again: nobody was told what was decided, so it is as
        right later, and the core need not go back to before it.
        """
        while not transaction.is_empty:
            try:
                await self._take_lock(transaction)
                failed = _flush(transaction, only=only)
                if failed is None:
                    await asyncio.get_running_loop().run_in_executor(committer, transaction.commit)
                    self._end_block()
                    break
                if not self._store.is_disk_full(failed.cause):
                    return failed
                full = failed.cause
            except sqlite3.Error as error:
                if not self._store.is_disk_full(error):
                    raise
                full = error
            transaction.undo()
            await self._wait_for_room(full)
        return None

    async def _wait_for_room(self, full: Exception) -> None:
        """Let a moment pass on a full disk. Requests are answered with that meanwhile."""
        if self._stopping:
            raise full
        if self._blocked is not no_room:
            log.error(
                "The disk is full: nothing is written, and requests are rejected, until space is freed on "
                "the disk of the data folder",
                extra={"action": "disk_full"},
            )
            self._block(no_room)
        await asyncio.sleep(FULL_RETRY_S)

    async def _take_lock(self, transaction: Transaction) -> None:
        """Wait while another process has the database's lock. Requests are answered with that meanwhile."""
        began = time.monotonic()
        while not transaction.take_lock():
            if self._stopping:
                raise locked_out(begun=True)
            if self._blocked is None and time.monotonic() - began >= self._locked_s_max:
                log.error("Another process has locked the database", extra={"action": "database_locked"})
                self._block(locked_out)
            await asyncio.sleep(LOCKED_RETRY_S)
        if self._blocked is locked_out:
            self._end_block()

    def _block(self, reason: BlockedReason) -> None:
        """Answer requests with this error from now on: those at hand, which may still be carried out, too."""
        if self._blocked is None:
            self._observe_blocked(True)
        self._blocked = reason
        for future in list(self._asked):
            if not future.done():
                future.set_exception(reason(begun=True))

    def _end_block(self) -> None:
        if self._blocked is not None:
            log.info("The database can be written again", extra={"action": "database_writable"})
            self._observe_blocked(False)
        self._blocked = None

    async def _restore(self, failed: Failure, committer: ThreadPoolExecutor) -> BrokerDefect | None:
        """Restore the core without what made it fail; the refusal of the work, if that is at fault."""
        self._store.begin().discard()
        if self._recovery is None:
            raise failed.cause
        if not failed.leaves_the_ledger_right:
            with contextlib.suppress(sqlite3.Error):  # if the disk is at fault, it stops all the same
                self._recovery.record_before_stop(failed, at=self._now())
            raise failed.cause
        log.critical(
            "Work is set aside: %s", failed.reason, exc_info=failed.cause, extra={"action": "set_aside"}
        )
        restored = self._recovery.restore(failed, at=self._now())
        await asyncio.get_running_loop().run_in_executor(committer, restored.transaction.commit)
        self._recovery.observe_restored()
        self._release_all(restored.instructions)
        return restored.refusal

    def _release_all(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            try:
                self._release(instruction)
            except Exception:  # it is durable: whom it concerns learns of it when they ask again
                log.exception("An instruction could not be carried out", extra={"action": "defect"})

    def _start_preparation(self, work: Work, reply: Reply, postponed: Postponed) -> None:
        task = asyncio.create_task(self._prepare(work, reply, postponed), name="tradepost-preparation")
        self._preparations.add(task)
        self._update_room()
        task.add_done_callback(partial(self._end_preparation, reply=reply))

    def _end_preparation(self, task: asyncio.Task[None], *, reply: Reply) -> None:
        self._preparations.discard(task)
        self._update_room()
        if task.cancelled():  # also before its first step, so this stands here and not in the task
            reply(BrokerUnavailable("the broker stopped before this was durable"))

    async def _prepare(self, work: Work, reply: Reply, postponed: Postponed) -> None:
        try:
            await postponed.prepare()
        except (OSError, sqlite3.Error):
            log.exception("A request could not be prepared", extra={"action": "defect"})
            reply(BrokerUnavailable("the broker failed before this was durable"))
        except Exception as error:
            if postponed.lease:
                log.exception("A delivery could not be prepared", extra={"action": "defect"})
                self.set_aside_delivery(postponed.lease, error, reply)
            elif isinstance(error, TradepostError):
                log.warning("Rejected a request: %s", error, extra={"action": "preparation_refused"})
                reply(error)
            else:
                log.exception("A request could not be prepared", extra={"action": "defect"})
                reply(BrokerUnavailable("the broker failed before this was durable"))
        else:
            self.submit(work, reply)

    async def _cancel_preparations(self) -> None:
        preparations = list(self._preparations)
        for task in preparations:
            task.cancel()
        await asyncio.gather(*preparations, return_exceptions=True)

    def _now(self) -> float:
        # Time never runs backwards in the journal, whatever the system's clock does.
        self._at = max(self._at, self._clock())
        return self._at

    def _handle(self, work: Work, transaction: Transaction) -> Outcome | Postponed | Failure:
        moment = Moment(self._now(), secrets.randbits(SEED_BITS), transaction)
        try:
            decision = work.decide(moment)
        except TradepostError as error:
            return error
        except Exception:  # nothing has changed yet
            log.exception("A request could not be decided", extra={"action": "defect"})
            return BrokerDefect("the request could not be decided")
        if isinstance(decision, Postponed):
            return decision
        event = decision.event
        if event is not None and self._recovery is not None and (refusal := self._recovery.refusal(event)):
            return refusal
        try:
            return self._apply(decision, transaction)
        except Exception as error:
            return Failure(event, error) if self._recovery is None else self._recovery.failure(event, error)

    def _apply(self, decision: Decision, transaction: Transaction) -> Outcome:
        event = decision.event
        instructions: Sequence[Instruction] = () if event is None else self._core.handle(event)
        for instruction in instructions:
            if isinstance(instruction, ReplyRefused):
                return TradepostError.from_problem(instruction.problem)
        if event is not None:
            self._observe_decided(event, instructions)
            if self._core.changed:
                transaction.journal(event)
        for instruction in instructions:
            if isinstance(instruction, Save):
                transaction.save(instruction.record)
        for record in decision.records:
            transaction.save(record)
        if decision.records_after is not None:
            for record in decision.records_after(instructions):
                transaction.save(record)
        for deletion in decision.deletions:
            transaction.delete(deletion)
        return instructions

    def _refuse_all(self, error: TradepostError) -> None:
        while self._queue:
            _, reply = self._queue.popleft()
            reply(error)


def _flush(transaction: Transaction, *, only: bool) -> Failure | None:
    """Write the rows; how that failed, with the event if `only` one work can be at fault."""
    try:
        transaction.flush()
    except Exception as error:
        return Failure(transaction.events[0] if only and transaction.events else None, error)
    return None


def _defect(outcome: Outcome, lease: str) -> TradepostError:
    """What is replied to work that was set aside with this outcome."""
    return outcome if isinstance(outcome, TradepostError) else BrokerDefect(delivery_of(lease))


def _tell(reply: Reply, outcome: Outcome) -> None:
    try:
        reply(outcome)
    except Exception:  # it is durable all the same
        log.exception("A reply could not be given", extra={"action": "defect"})
