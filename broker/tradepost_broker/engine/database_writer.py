"""Makes transactions durable, and waits while the database cannot be written: locked, or its disk full.

Requests are answered with that meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tradepost_broker.engine.blocked import BlockedReason, locked_out, no_room
from tradepost_broker.engine.core_recovery import Failure
from tradepost_broker.storage.store import Store, Transaction

#: For how long another process may lock the database before requests are answered with that.
LOCKED_S_MAX: Final = 1.0
LOCKED_RETRY_S: Final = 0.02
#: How often a transaction that found no room on the disk is written again.
FULL_RETRY_S: Final = 0.25

log = logging.getLogger(__name__)


class DatabaseWriter:
    """Writes the transactions of `store`. `blocked` is why nothing can be written now, if that is so.

    `is_stopping` says whether to give up. `reject` answers the requests at hand with an error for each, and
    `observe_blocked` is called when nothing can be written any more, and when it can be again.
    """

    def __init__(
        self,
        *,
        store: Store,
        is_stopping: Callable[[], bool],
        reject: Callable[[BlockedReason], None],
        observe_blocked: Callable[[bool], None],
    ) -> None:
        self.blocked: BlockedReason | None = None
        self._store = store
        self._is_stopping = is_stopping
        self._reject = reject
        self._observe_blocked = observe_blocked

    async def write(
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
        if self._is_stopping():
            raise full
        if self.blocked is not no_room:
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
            if self._is_stopping():
                raise locked_out(begun=True)
            if self.blocked is None and time.monotonic() - began >= LOCKED_S_MAX:
                log.error("Another process has locked the database", extra={"action": "database_locked"})
                self._block(locked_out)
            await asyncio.sleep(LOCKED_RETRY_S)
        if self.blocked is locked_out:
            self._end_block()

    def _block(self, reason: BlockedReason) -> None:
        """Answer requests with this error from now on: those at hand, which may still be carried out, too."""
        if self.blocked is None:
            self._observe_blocked(True)
        self.blocked = reason
        self._reject(reason)

    def _end_block(self) -> None:
        if self.blocked is not None:
            log.info("The database can be written again", extra={"action": "database_writable"})
            self._observe_blocked(False)
        self.blocked = None


def _flush(transaction: Transaction, *, only: bool) -> Failure | None:
    """Write the rows; how that failed, with the event if `only` one work can be at fault."""
    try:
        transaction.flush()
    except Exception as error:
        return Failure(transaction.events[0] if only and transaction.events else None, error)
    return None
