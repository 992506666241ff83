"""Decides what the worker may take now. Pure: readings, limits and the owner's command in, a decision out.

The owner's command comes first, then hours, then what the sensors say. A limit whose sensor the device lacks
cannot be decided on, and `sensors.not_enforceable` says so. What a sensor stopped starts again only after the
readings were within limits for a while, so that a value at its limit does not stop and start work for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from tradepost_worker.device.limits import DeviceLimits, is_within
from tradepost_worker.device.owner_command import Mode, OwnerCommand
from tradepost_worker.wording import lasting, skewed

#: How long readings must be within limits before work starts again.
SETTLE_S: Final = 10.0
#: A clock that is further than this from the broker's is not set at all, and nothing it dates means anything.
CLOCK_SKEW_S_MAX: Final = 24 * 3600.0
#: A clock that is closer than this to the broker's is not worth mentioning.
CLOCK_SKEW_S_SHOWN: Final = 30.0
_MIB: Final = 1 << 20


class LastInput(msgspec.Struct, frozen=True, kw_only=True):
    """When somebody last used the device (Unix seconds), and where."""

    at: float
    where: str


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """The device at one time; `None` where there is no sensor.

    Loads are percent of all cores; `others_load_percent` leaves this worker out. `minute_of_day` is local.
    `last_input` is looked for only if a limit needs it. `clock_skew_s` is how far this device's clock is
    ahead of the broker's, as soon as a broker has stated its time.
    """

    at: float
    minute_of_day: int
    load_percent: float | None = None
    others_load_percent: float | None = None
    memory_free_bytes: int | None = None
    runners_memory_bytes: int = 0
    disk_free_bytes: int | None = None
    temperature_celsius: float | None = None
    on_mains: bool | None = None
    battery_percent: float | None = None
    last_input: LastInput | None = None
    clock_skew_s: float | None = None


class Cause(StrEnum):
    """Why the worker accepts no work."""

    OWNER = "owner"
    DRAIN = "drain"
    HOURS = "hours"
    MAINS = "mains"
    BATTERY = "battery"
    TEMPERATURE = "temperature"
    OTHERS = "others"
    MEMORY_FREE = "memory_free"
    MEMORY = "memory"
    DISK = "disk"
    CLOCK = "clock"


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What is allowed: up to `capacity` leases at `cpu_percent` of all cores.

    With a `cause`, nothing new is taken, and `why` says it to the owner; what runs is stopped, unless it may
    finish. `until` (Unix seconds) is when that ends by itself, where it is known.
    """

    capacity: int
    cpu_percent: int
    cause: Cause | None = None
    why: str = ""
    until: float | None = None

    @property
    def stops_work(self) -> bool:
        """Whether running leases are given back."""
        return self.cause not in (None, Cause.DRAIN)


class Governor:
    """Decides for a device that offers up to `capacity` leases. What a sensor stopped starts again after
    `settle_s` seconds within limits."""

    def __init__(self, *, capacity: int, settle_s: float = SETTLE_S) -> None:
        self._capacity = capacity
        self._settle_s = settle_s
        self._breach: tuple[Cause, str] | None = None
        self._breached_at = 0.0

    def decide(self, readings: Readings, limits: DeviceLimits, command: OwnerCommand) -> Allowance:
        """What the worker may do at the time of `readings`."""
        command = command.at(readings.at)
        breach = next(_breaches(readings, limits), None)
        if breach is not None:
            self._breach, self._breached_at = breach, readings.at
        elif readings.at - self._breached_at >= self._settle_s or readings.at < self._breached_at:
            self._breach = None
        if command.mode is Mode.PAUSE:
            why = "the owner paused the worker"
            if command.problem:
                why = f"the owner's command file is unreadable: {command.problem}"
            return self._nothing(limits, Cause.OWNER, why, command.until)
        if not is_within(limits.hours, readings.minute_of_day):
            return self._nothing(limits, Cause.HOURS, f"outside working hours ({limits.hours})")
        if self._breach is not None:
            return self._nothing(limits, *self._breach)
        if command.mode is Mode.DRAIN:
            return self._nothing(limits, Cause.DRAIN, "running leases are finished first")
        capacity = max(1, self._capacity * limits.cpu_percent // 100)
        return Allowance(capacity=capacity, cpu_percent=limits.cpu_percent)

    def _nothing(self, limits: DeviceLimits, cause: Cause, why: str, until: float | None = None) -> Allowance:
        return Allowance(capacity=0, cpu_percent=limits.cpu_percent, cause=cause, why=why, until=until)


def _breaches(now: Readings, limits: DeviceLimits) -> Iterator[tuple[Cause, str]]:
    """The limits that readings are beyond; what protects the device comes first."""
    most, least = limits.temperature_celsius_max, limits.battery_percent_min
    if most and now.temperature_celsius is not None and now.temperature_celsius > most:
        yield (
            Cause.TEMPERATURE,
            f"the processor is at {now.temperature_celsius:.0f} °C, the limit is {most} °C",
        )
    if limits.mains_only and now.on_mains is False:
        yield Cause.MAINS, "the device runs on battery"
    if now.battery_percent is not None and now.battery_percent < least:
        yield Cause.BATTERY, f"the battery is at {now.battery_percent:.0f}%, the limit is {least}%"
    if now.runners_memory_bytes > limits.memory_bytes_max:
        used, most = now.runners_memory_bytes // _MIB, limits.memory_bytes_max // _MIB
        yield Cause.MEMORY, f"the runners used {used:,} MiB of memory, the limit is {most:,} MiB"
    if now.memory_free_bytes is not None and now.memory_free_bytes < limits.memory_free_bytes_min:
        yield Cause.MEMORY_FREE, f"only {now.memory_free_bytes // _MIB:,} MiB of memory is free"
    if now.disk_free_bytes is not None and now.disk_free_bytes < limits.disk_free_bytes_min:
        yield Cause.DISK, f"only {now.disk_free_bytes // _MIB:,} MiB of disk is free"
    if now.clock_skew_s is not None and abs(now.clock_skew_s) > CLOCK_SKEW_S_MAX:
        yield Cause.CLOCK, f"this device's clock is {skewed(now.clock_skew_s)}"
    if limits.looks_at_input and now.last_input is not None:
        silent_s = max(0.0, now.at - now.last_input.at)
        if silent_s < limits.idle_input_s_min:
            ago = f"{now.last_input.where} was used {silent_s:.0f} s ago"
            yield Cause.OTHERS, f"{ago}; work resumes after {lasting(limits.idle_input_s_min)} without input"
    if not limits.idle_only:
        return
    others, most = now.others_load_percent, limits.idle_load_percent_max
    if others is None:  # the first reading has no load; until there is one, the device counts as busy
        yield Cause.OTHERS, "the processor load of other programs is not known yet"
    elif others > most:
        yield Cause.OTHERS, f"other programs use {others:.0f}% of the processor, the limit is {most}%"
