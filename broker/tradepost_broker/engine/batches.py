"""Decides a batch of works in one transaction and commits it; what makes the core fail is set aside.

The core is then restored from the last commit, the piece at fault is rejected, and the rest of its batch,
whose replies were not given, is decided again, in order. Only what a restored core gives is released here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tradepost.errors import BrokerDefect
from tradepost_broker.engine.core_recovery import CoreRecovery, Failure
from tradepost_broker.engine.database_writer import DatabaseWriter
from tradepost_broker.engine.decisions import Outcome, Postponed, Work
from tradepost_broker.engine.limits import BATCH_BYTES_MAX
from tradepost_broker.engine.turns import Turns
from tradepost_broker.market.model.events import Instruction
from tradepost_broker.storage.store import Store, Transaction

log = logging.getLogger(__name__)


class BatchDecider:
    """Decides and commits batches. Without `recovery`, whatever makes the core fail is raised.

    `release` carries out durable instructions.
    """

    def __init__(
        self,
        *,
        turns: Turns,
        store: Store,
        recovery: CoreRecovery | None,
        writer: DatabaseWriter,
        release: Callable[[Sequence[Instruction]], None],
        batch_s_max: float,
    ) -> None:
        self._turns = turns
        self._store = store
        self._recovery = recovery
        self._writer = writer
        self._release = release
        self._batch_s_max = batch_s_max

    async def decide(self, works: Sequence[Work], committer: ThreadPoolExecutor) -> list[Outcome | Postponed]:
        """The outcomes of the first works, one at least, once they are durable.

        Those after the first ones are left undecided if they would hold the event loop for too long.
        Raises what makes a commit fail, and what breaks the ledger.
        """
        refusals: dict[int, BrokerDefect] = {}
        while True:
            transaction = self._store.begin()
            outcomes, failed = self._decide_first(works, refusals, transaction)
            if failed is None:
                failed = await self._writer.write(transaction, committer, only=len(works) == 1)
            if failed is not None:
                refusal = await self._restore(failed, committer)
                if failed.event is None and len(works) > 1:
                    # Which of them it was shows when each has a transaction of its own.
                    return [(await self.decide([work], committer))[0] for work in works]
                if refusal is not None:
                    refusals[len(outcomes) if len(outcomes) < len(works) else 0] = refusal
                continue
            transaction.remember()
            if self._recovery is not None:
                self._recovery.note_committed(transaction.events)
            return outcomes

    def _decide_first(
        self, works: Sequence[Work], refusals: Mapping[int, BrokerDefect], transaction: Transaction
    ) -> tuple[list[Outcome | Postponed], Failure | None]:
        """The outcomes of the first works, of one at least, up to one that makes the core fail."""
        began = time.perf_counter()
        outcomes: list[Outcome | Postponed] = []
        for place, work in enumerate(works):
            outcome = refusals.get(place) or self._turns.handle(work, transaction)
            if isinstance(outcome, Failure):
                return outcomes, outcome
            outcomes.append(outcome)
            if (
                time.perf_counter() - began >= self._batch_s_max
                or transaction.document_bytes >= BATCH_BYTES_MAX
            ):
                break
        return outcomes, None

    async def _restore(self, failed: Failure, committer: ThreadPoolExecutor) -> BrokerDefect | None:
        """Restore the core without what made it fail; the refusal of the work, if that is at fault."""
        self._store.begin().discard()
        if self._recovery is None:
            raise failed.cause
        if not failed.leaves_the_ledger_right:
            with contextlib.suppress(sqlite3.Error):  # if the disk is at fault, it stops all the same
                self._recovery.record_before_stop(failed, at=self._turns.now())
            raise failed.cause
        log.critical(
            "Work is set aside: %s", failed.reason, exc_info=failed.cause, extra={"action": "set_aside"}
        )
        restored = self._recovery.restore(failed, at=self._turns.now())
        await asyncio.get_running_loop().run_in_executor(committer, restored.transaction.commit)
        self._recovery.observe_restored()
        self._release(restored.instructions)
        return restored.refusal
