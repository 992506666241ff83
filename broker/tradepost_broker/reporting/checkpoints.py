"""Publishes checkpoints of the audit log: signed, durable, and only so often.

The size of the log grows with every event. Shown at once it would tell everybody when a result is delivered,
so a checkpoint is published after `every_s` at the earliest, and proofs and tiles are of published sizes.
"""

from __future__ import annotations

import asyncio
import logging

from tradepost.audit_log.checkpoint import Checkpoint, verify_checkpoint
from tradepost.errors import DatabaseDamaged, InvalidCheckpoint, TradepostError
from tradepost.identity import Identity
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import Keep
from tradepost_broker.storage.database_checks import RESTORE
from tradepost_broker.storage.log_tree import LogTree
from tradepost_broker.storage.shell_records import PublishedCheckpoint
from tradepost_broker.storage.store import Store

log = logging.getLogger(__name__)


class CheckpointPublisher:
    """Signs and publishes checkpoints of the log in `store` as `broker`.

    Raises `DatabaseDamaged` if the log does not begin with the newest checkpoint that was published.
    """

    def __init__(self, *, store: Store, engine: Engine, broker: Identity, every_s: float) -> None:
        self._store = store
        self._engine = engine
        self._broker = broker
        self._every_s = every_s
        self._next = asyncio.Event()
        self._newest = self._restored()

    @property
    def size(self) -> int:
        """How many entries the newest published checkpoint covers; 0 before the first."""
        return 0 if self._newest is None else self._newest.size

    @property
    def note(self) -> str:
        """The newest published checkpoint, as a signed note; "" before the first."""
        return "" if self._newest is None else self._newest.note

    async def run(self) -> None:
        """Publish a checkpoint every `every_s` seconds if the log has grown, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.publish()
            except TradepostError as error:  # the next one covers what this one would have
                log.warning(
                    "No checkpoint was published: %s", error, extra={"action": "checkpoint_not_published"}
                )

    async def publish(self) -> None:
        """Publish a checkpoint of what is committed now, unless the newest one covers it already."""
        edge = self._store.log_edge
        if edge.size == self.size:
            return
        note = Checkpoint(self._broker.id, edge.size, edge.root()).signed(self._broker)
        published = PublishedCheckpoint(size=edge.size, note=note)
        await self._engine.ask(Keep(published))
        self._newest = published
        self._next.set()
        self._next = asyncio.Event()

    async def covers(self, number: int, *, wait_s: float) -> bool:
        """Whether a published checkpoint covers entry `number`, now or within `wait_s` seconds."""
        try:
            async with asyncio.timeout(wait_s):
                while self.size <= number:
                    await self._next.wait()
        except TimeoutError:
            return False
        return True

    def _restored(self) -> PublishedCheckpoint | None:
        newest = self._store.get(PublishedCheckpoint, "newest")
        if newest is None:
            return None
        try:
            checkpoint = verify_checkpoint(newest.note, self._broker.public_key)
        except InvalidCheckpoint as error:
            raise DatabaseDamaged(f"the newest checkpoint of the audit log: {error}", hint=RESTORE) from None
        size = self._store.log_edge.size
        if checkpoint.size != newest.size or checkpoint.size > size:
            raise DatabaseDamaged(
                f"a checkpoint of {checkpoint.size} entries was published; the audit log has {size}",
                hint=RESTORE,
            )
        if LogTree(self._store.rows).root(checkpoint.size) != checkpoint.root:
            raise DatabaseDamaged(
                f"the first {checkpoint.size} entries of the audit log are not those that were published",
                hint=RESTORE,
            )
        return newest
