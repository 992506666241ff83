"""What the worker may do now, from the owner's command, the limits and the device.

It reads these; the governor decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from tradepost_worker.device.governor import Allowance, Governor, Readings
from tradepost_worker.device.limits import DeviceLimits
from tradepost_worker.device.owner_command import OwnerCommand, OwnerCommandFile


class Device(Protocol):
    """Reads the device; `Sensors` does."""

    def read(self, runners: Iterable[int] = (), *, with_input: bool = False) -> Readings:
        """The device now, with these processes as runners; when it was last used only `with_input`."""
        ...


class DeviceMonitor:
    """The last limits and readings, and the current decision.

    `read_limits` gives the limits as they are now, `runner_pids` the processes that count as runners, and
    `clock_skew_s` how far this device's clock is ahead of the broker's, if that is known.
    """

    def __init__(
        self,
        *,
        command_file: OwnerCommandFile,
        read_limits: Callable[[], DeviceLimits],
        device: Device,
        governor: Governor,
        runner_pids: Callable[[], tuple[int, ...]],
        clock_skew_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._command_file = command_file
        self._read_limits = read_limits
        self._device = device
        self._governor = governor
        self._runner_pids = runner_pids
        self._clock_skew_s = clock_skew_s
        self.limits = read_limits()
        self.readings = device.read(with_input=self.limits.looks_at_input)
        #: Set by the code that carries it out; until the first one, nothing is allowed.
        self.decision = Allowance(capacity=-1, cpu_percent=self.limits.cpu_percent)

    def limits_changed(self) -> bool:
        """Read the limits again; whether they are others."""
        before, self.limits = self.limits, self._read_limits()
        return self.limits != before

    def decide(self) -> tuple[Allowance, OwnerCommand]:
        """What is allowed now, and the owner's command from which that follows."""
        command = self._command_file.read()
        return self._governor.decide(self.readings, self.limits, command), command

    async def sense(self) -> bool:
        """Read the device again; whether that begins another second, which is often enough to be shown."""
        readings = await asyncio.to_thread(
            self._device.read, self._runner_pids(), with_input=self.limits.looks_at_input
        )
        before = self.readings
        self.readings = msgspec.structs.replace(readings, clock_skew_s=self._clock_skew_s())
        return int(before.at) != int(readings.at)

    def finish_drain(self) -> None:
        """Remove the owner's command: a drain is done, and the next worker works again."""
        self._command_file.clear()
