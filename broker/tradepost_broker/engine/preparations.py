"""What works need before they can be decided, done outside the turn; then they get another turn."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from functools import partial

from tradepost.errors import BrokerUnavailable, TradepostError
from tradepost_broker.engine.decisions import Postponed, Reply, Work

log = logging.getLogger(__name__)


class Preparations:
    """The preparations under way.

    `submit` and `set_aside_delivery` are the engine's; `on_change` is called when `count` has changed.
    """

    def __init__(
        self,
        *,
        submit: Callable[[Work, Reply], None],
        set_aside_delivery: Callable[[str, Exception, Reply], None],
        on_change: Callable[[], None],
    ) -> None:
        self._submit = submit
        self._set_aside_delivery = set_aside_delivery
        self._on_change = on_change
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    def start(self, work: Work, reply: Reply, postponed: Postponed) -> None:
        """Prepare a work, then submit it again; `reply` is told if that fails or is cancelled."""
        task = asyncio.create_task(self._prepare(work, reply, postponed), name="tradepost-preparation")
        self._tasks.add(task)
        self._on_change()
        task.add_done_callback(partial(self._end, reply=reply))

    async def cancel(self) -> None:
        """Cancel all, and wait for their ends."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, task: asyncio.Task[None], *, reply: Reply) -> None:
        self._tasks.discard(task)
        self._on_change()
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
                self._set_aside_delivery(postponed.lease, error, reply)
            elif isinstance(error, TradepostError):
                log.warning("Rejected a request: %s", error, extra={"action": "preparation_refused"})
                reply(error)
            else:
                log.exception("A request could not be prepared", extra={"action": "defect"})
                reply(BrokerUnavailable("the broker failed before this was durable"))
        else:
            self._submit(work, reply)
