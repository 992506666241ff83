"""Deletes documents: inputs, outputs and blocks, some time after their last use.

Receipts, evidence, transfers and the journal are kept for ever; they are small, and they are what proves.
Jobs cannot stay open for as long as documents are kept, so nothing goes that a worker may still ask for. An
account that needs room loses documents of its own finished jobs earlier, the oldest first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from tradepost_broker.content.account_quota import AccountQuota
from tradepost_broker.content.kept_documents import KeptDocuments
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import Delete
from tradepost_broker.storage.store import Deletion

SWEEP_S: Final = 60.0
#: Between two sweeps at least, however many accounts need room.
PAUSE_S: Final = 1.0

# The inline documents of jobs that finished within a span of time.
_FORGET_INPUTS: Final = (
    "DELETE FROM inputs WHERE id IN (SELECT id FROM jobs WHERE finished_at >= ? AND finished_at < ?)"
)
_FORGET_OUTPUTS: Final = (
    "UPDATE deliveries SET output = NULL WHERE id IN (SELECT leases.id FROM leases JOIN jobs"
    " ON leases.job = jobs.id WHERE jobs.finished_at >= ? AND jobs.finished_at < ?)"
)
_FORGET_INPUT: Final = "DELETE FROM inputs WHERE id = ?"
_FORGET_OUTPUTS_OF: Final = (
    "UPDATE deliveries SET output = NULL WHERE id IN (SELECT id FROM leases WHERE job = ?)"
)
_JOBS_AT_ONCE: Final = 100

log = logging.getLogger(__name__)


class Retention:
    """Deletes documents older than `kept_s`, and earlier where a quota needs it.

    `are_needed` says whether a job's documents may still be used.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        uploads: Uploads,
        documents: KeptDocuments,
        quota: AccountQuota,
        are_needed: Callable[[str], bool],
        kept_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._documents = documents
        self._quota = quota
        self._are_needed = are_needed
        self._engine = engine
        self._uploads = uploads
        self._kept_s = kept_s
        self._clock = clock
        self._forgotten_before = 0.0
        self._sweeping = asyncio.Lock()
        #: By account, the job up to which the documents of its jobs were deleted for want of room.
        self._forgotten_to: dict[str, str] = {}

    async def run(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception:  # the next sweep does what this one could not
                log.exception("Old documents could not be deleted", extra={"action": "sweep_failed"})
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_S):
                    await self._quota.room_wanted.wait()

    async def sweep(self) -> None:
        """Forget what has become too old since the last sweep, and what accounts need room for."""
        async with self._sweeping:
            await self._sweep()

    async def _sweep(self) -> None:
        self._quota.room_wanted.clear()
        for account in sorted(self._quota.crowded):
            await self._make_room(account)
        before = self._clock() - self._kept_s
        if before > self._forgotten_before:
            span = (self._forgotten_before, before)
            freed = self._documents.finished_within(span)
            await self._engine.ask(Delete([Deletion(_FORGET_INPUTS, span), Deletion(_FORGET_OUTPUTS, span)]))
            self._documents.subtract(freed)
            self._forgotten_before = before
        dropped = await self._uploads.drop_unused(before=before)
        if dropped:
            log.info("Deleted %d unused blocks", dropped, extra={"action": "blocks_forgotten"})

    async def _make_room(self, account: str) -> None:
        """Delete documents of the account's oldest finished jobs, until it has room or there are none."""
        after = forgotten_to = self._forgotten_to.get(account, "")
        before = self._quota.used_bytes(account)
        while not self._quota.is_roomy(account):
            found = self._documents.oldest_finished(account, after=after, limit=_JOBS_AT_ONCE)
            if not found:
                break
            for job, size_bytes in found:
                if self._quota.is_roomy(account):
                    break
                if not self._are_needed(job):
                    await self._forget(account, job, size_bytes)
                    if after == forgotten_to:
                        forgotten_to = job
                after = job
            await asyncio.sleep(0)
        # The next time starts where only jobs without documents have been, or at the oldest that is open now.
        oldest_open = self._documents.oldest_open(account)
        self._forgotten_to[account] = min(forgotten_to, oldest_open) if oldest_open else forgotten_to
        freed_bytes = before - self._quota.used_bytes(account)
        self._quota.end_making_room(account)
        if freed_bytes > 0:
            log.info(
                "Deleted %d bytes of documents of finished jobs of %s, whose quota needs room",
                freed_bytes,
                account,
                extra={"action": "documents_forgotten"},
            )

    async def _forget(self, account: str, job: str, size_bytes: int) -> None:
        if size_bytes:
            await self._engine.ask(
                Delete([Deletion(_FORGET_INPUT, (job,)), Deletion(_FORGET_OUTPUTS_OF, (job,))])
            )
            self._documents.subtract({account: size_bytes})
        for lease in self._documents.leases_with_blocks(job):
            await self._uploads.drop_output(lease)
