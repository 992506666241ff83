"""Deletes documents: inputs, outputs and blocks, some time after their last use.

Receipts, evidence, transfers and the journal are kept for ever; they are small, and they are what proves.
Jobs cannot stay open for as long as documents are kept, so nothing goes that a worker may still ask for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import Delete
from tradepost_broker.storage.store import Deletion

SWEEP_S: Final = 60.0

# The inline documents of jobs that finished within a span of time.
_FORGET_INPUTS: Final = (
    "DELETE FROM inputs WHERE id IN (SELECT id FROM jobs WHERE finished_at >= ? AND finished_at < ?)"
)
_FORGET_OUTPUTS: Final = (
    "UPDATE deliveries SET output = NULL WHERE id IN (SELECT leases.id FROM leases JOIN jobs"
    " ON leases.job = jobs.id WHERE jobs.finished_at >= ? AND jobs.finished_at < ?)"
)

log = logging.getLogger(__name__)


class Retention:
    """Deletes documents older than `kept_s`."""

    def __init__(
        self, *, engine: Engine, uploads: Uploads, kept_s: float, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._uploads = uploads
        self._kept_s = kept_s
        self._clock = clock
        self._forgotten_before = 0.0

    async def run(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception:  # the next sweep does what this one could not
                log.exception("Old documents could not be deleted", extra={"action": "sweep_failed"})
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Forget what has become too old since the last sweep."""
        before = self._clock() - self._kept_s
        if before > self._forgotten_before:
            span = (self._forgotten_before, before)
            await self._engine.ask(Delete([Deletion(_FORGET_INPUTS, span), Deletion(_FORGET_OUTPUTS, span)]))
            self._forgotten_before = before
        dropped = await self._uploads.drop_unused(before=before)
        if dropped:
            log.info("Deleted %d unused blocks", dropped, extra={"action": "blocks_forgotten"})
