"""Carries out the owner's will while the worker runs: looks at the owner's word and at the device, has the
governor decide, and makes the decision so.

Stopping work takes three things, in this order: the offer is withdrawn, running leases are given back (which
kills their runners), and the idle runners end, so that their memory is free too. The word is looked at ten
times a second, the device four times, so that work stops within a second of what it stops for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from tradepost_worker.device.governor import Cause, Decision, Governor, Readings
from tradepost_worker.device.limits import Limits
from tradepost_worker.device.owner_command import Mode, OwnersWordFile
from tradepost_worker.leases.held_leases import Leases
from tradepost_worker.supervision.cpu_throttle import CpuShare

LOOK_S: Final = 0.1
SENSE_S: Final = 0.25

log = logging.getLogger(__name__)


class Device(Protocol):
    """Reads the device; `Sensors` does."""

    def read(self, runners: Iterable[int] = (), *, with_input: bool = False) -> Readings:
        """The device now, with these processes as runners; when it was last used only `with_input`."""
        ...


class Steward:
    """Keeps one worker within its owner's will.

    `read_limits` gives the limits in force and `hold` is told of others, `runner_pids` are the runners alive
    and `end_runners` ends them, `offer_capacity` changes what is offered, and `on_change` is called when what
    may be shown has changed.
    """

    def __init__(
        self,
        *,
        word: OwnersWordFile,
        read_limits: Callable[[], Limits],
        hold: Callable[[Limits], None],
        sensors: Device,
        governor: Governor,
        leases: Leases,
        runner_pids: Callable[[], tuple[int, ...]],
        share: CpuShare,
        offer_capacity: Callable[[int], None],
        end_runners: Callable[[], Awaitable[None]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._word = word
        self._read_limits = read_limits
        self._sensors = sensors
        self._governor = governor
        self._leases = leases
        self._hold = hold
        self._runner_pids = runner_pids
        self._share = share
        self._offer_capacity = offer_capacity
        self._end_runners = end_runners
        self._on_change = on_change
        self.limits = read_limits()
        self.readings = sensors.read(with_input=self.limits.looks_at_input)
        self.decision = Decision(capacity=-1, cpu_percent=self.limits.cpu_percent)  # nothing decided yet

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the worker within limits until `stop`, which a finished drain sets."""
        tasks = [
            asyncio.create_task(work) for work in (self._look_often(stop), self._sense(), self._share.keep())
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

    async def look(self) -> bool:
        """Obey the owner's word and the limits as they are now; whether a drain is done."""
        if (limits := self._read_limits()) != self.limits:
            self.limits = limits
            self._hold(limits)
            log.info("The limits changed.", extra={"action": "limits_changed"})
        word = self._word.read()
        decision = self._governor.decide(self.readings, self.limits, word)
        if decision != self.decision:
            await self._obey(decision)
        if word.mode is not Mode.DRAIN or self._leases.unfinished:
            return False
        self._word.forget()
        return True

    async def _obey(self, decision: Decision) -> None:
        before, self.decision = self.decision, decision
        self._share.percent = decision.cpu_percent
        self._offer_capacity(decision.capacity)
        if decision.cause is None:
            self._leases.resume()
        else:
            await self._leases.pause(_said_to_broker(decision), finish=not decision.stops_work)
        if decision.stops_work:
            await self._end_runners()
        if before.cause is not decision.cause:
            _tell(decision)
        self._on_change()

    async def _look_often(self, stop: asyncio.Event) -> None:
        while not await self.look():  # noqa: ASYNC110 - what is awaited is a file and a clock
            await asyncio.sleep(LOOK_S)
        log.info("Everything is finished and delivered; stopping.", extra={"action": "drained"})
        stop.set()

    async def _sense(self) -> None:
        while True:
            await asyncio.sleep(SENSE_S)
            before, self.readings = (
                self.readings,
                await asyncio.to_thread(
                    self._sensors.read, self._runner_pids(), with_input=self.limits.looks_at_input
                ),
            )
            if int(before.at) != int(self.readings.at):  # once a second is enough to be shown
                self._on_change()


def _said_to_broker(decision: Decision) -> str:
    """Why leases come back. When somebody types is the owner's business."""
    return "the device is in use" if decision.cause is Cause.OTHERS else decision.why


def _tell(decision: Decision) -> None:
    if decision.cause is None:
        log.info("Accepting leases again.", extra={"action": "resumed", "capacity": decision.capacity})
    elif decision.cause is Cause.DRAIN:
        log.info("Accepting no new leases: %s.", decision.why, extra={"action": "draining"})
    else:
        log.info("Paused: %s.", decision.why, extra={"action": "paused", "cause": decision.cause.value})
