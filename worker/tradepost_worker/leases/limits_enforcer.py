"""Enforces the owner's limits on a running worker, as `DeviceMonitor` measures them.

Stopping work has three steps, in this order: the offer is withdrawn, running leases are given back (which
kills their runners), and the idle runners end, so that their memory is free too. The owner's command is read
ten times a second, the device four times, so that work stops within a second of what it stops for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from tradepost_worker.device.device_monitor import DeviceMonitor
from tradepost_worker.device.governor import Allowance, Cause
from tradepost_worker.device.limits import DeviceLimits
from tradepost_worker.device.owner_command import Mode
from tradepost_worker.leases.held_leases import HeldLeases
from tradepost_worker.supervision.cpu_throttle import CpuThrottle

LOOK_S: Final = 0.1
SENSE_S: Final = 0.25

log = logging.getLogger(__name__)


class LimitsEnforcer:
    """Carries out the decisions of `monitor`.

    `apply_limits` is called with limits that changed, `offer_capacity` changes what is offered, `end_runners`
    ends the runners, and `on_change` is called when what may be shown has changed: before the broker gets
    another offer, and when the leases and runners have ended.
    """

    def __init__(
        self,
        *,
        monitor: DeviceMonitor,
        leases: HeldLeases,
        throttle: CpuThrottle,
        apply_limits: Callable[[DeviceLimits], None],
        offer_capacity: Callable[[int], None],
        end_runners: Callable[[], Awaitable[None]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._monitor = monitor
        self._leases = leases
        self._throttle = throttle
        self._apply_limits = apply_limits
        self._offer_capacity = offer_capacity
        self._end_runners = end_runners
        self._on_change = on_change

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the worker within limits until `stop`, which a finished drain sets."""
        tasks = [
            asyncio.create_task(work)
            for work in (self._enforce_often(stop), self._sense(), self._throttle.keep())
        ]
        try:
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def enforce(self) -> bool:
        """Carry out the owner's command and the limits as they are now; whether a drain is done."""
        limits_changed = self._monitor.limits_changed()
        decision, command = self._monitor.decide()
        before, self._monitor.decision = self._monitor.decision, decision
        if limits_changed or decision != before:
            self._on_change()  # first: the status already gives the reason when the broker gets the offer
        if limits_changed:
            self._apply_limits(self._monitor.limits)
            log.info("The limits changed.", extra={"action": "limits_changed"})
        if decision != before:
            await self._carry_out(decision, before)
        if command.mode is not Mode.DRAIN or self._leases.unfinished:
            return False
        self._monitor.finish_drain()
        return True

    async def _carry_out(self, decision: Allowance, before: Allowance) -> None:
        self._throttle.percent = decision.cpu_percent
        self._offer_capacity(decision.capacity)
        if decision.cause is None:
            self._leases.resume()
        else:
            await self._leases.pause(_reason_for_broker(decision), finish=not decision.stops_work)
        if decision.stops_work:
            await self._end_runners()
        if before.cause is not decision.cause:
            _log(decision)
        self._on_change()  # again: fewer leases run now

    async def _enforce_often(self, stop: asyncio.Event) -> None:
        while not await self.enforce():  # noqa: ASYNC110 - what is awaited is a file and a clock
            await asyncio.sleep(LOOK_S)
        log.info("Everything is finished and delivered; stopping.", extra={"action": "drained"})
        stop.set()

    async def _sense(self) -> None:
        while True:
            await asyncio.sleep(SENSE_S)
            if await self._monitor.sense():
                self._on_change()


def _reason_for_broker(decision: Allowance) -> str:
    """Why leases come back. When somebody uses the device is the owner's business."""
    return "the device is in use" if decision.cause is Cause.OTHERS else decision.why


def _log(decision: Allowance) -> None:
    if decision.cause is None:
        log.info("Accepting leases again.", extra={"action": "resumed", "capacity": decision.capacity})
    elif decision.cause is Cause.DRAIN:
        log.info("Accepting no new leases: %s.", decision.why, extra={"action": "draining"})
    else:
        log.info("Paused: %s.", decision.why, extra={"action": "paused", "cause": decision.cause.value})
