"""The device's sensors, read through psutil, and the limits that it cannot enforce without one.

Loads are means over the last `LOAD_READINGS` readings, so the first one has none. The agent and its runners
are subtracted from the device's load: what is left are others, the owner above all.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from tradepost_worker.device.capacity import DeviceCapacity
from tradepost_worker.device.governor import Readings
from tradepost_worker.device.last_input import InputSensor, unseen_input
from tradepost_worker.device.process_use import cpu_s, resident_bytes

#: A load is a mean over the last so many readings.
LOAD_READINGS: Final = 4

#: Sensors that say how hot the processor or the whole board is, as far as Linux drivers are named alike.
_PROCESSOR_SENSORS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz", "soc_thermal")


class Sensors:
    """Reads the device. `folder` is where the cache lives, `measure` gives the processor seconds of a
    process, and `clock` Unix seconds."""

    def __init__(
        self,
        folder: Path,
        *,
        measure: Callable[[int], float] = cpu_s,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._measure = measure
        self._clock = clock
        self._agent_pid = os.getpid()
        self._capacity = DeviceCapacity()
        self._input = InputSensor()
        # Device busy, device total, own: seconds.
        self._times: deque[tuple[float, float, float]] = deque(maxlen=LOAD_READINGS)
        self._own_ended_s = 0.0
        self._own_by_pid: dict[int, float] = {}

    def read(self, runners: Iterable[int] = (), *, with_input: bool = False) -> Readings:
        """The device now, with these processes as runners; when it was last used only `with_input`."""
        runners = tuple(runners)
        load, others = self._loads(runners)
        power = battery()
        now = self._clock()
        local = time.localtime(now)
        return Readings(
            at=now,
            minute_of_day=60 * local.tm_hour + local.tm_min,
            load_percent=load,
            others_load_percent=others,
            memory_free_bytes=self._capacity.memory_free_bytes,
            runners_memory_bytes=sum(_resident_bytes(pid) for pid in runners),
            disk_free_bytes=_disk_free_bytes(self._folder),
            temperature_celsius=temperature_celsius(),
            on_mains=None if power is None else power.power_plugged,
            battery_percent=None if power is None else power.percent,
            last_input=self._input.read(now) if with_input else None,
        )

    def _loads(self, runners: Iterable[int]) -> tuple[float | None, float | None]:
        times = psutil.cpu_times()
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        now = (total - times.idle - getattr(times, "iowait", 0.0), total, self._own_cpu_s(runners))
        before = self._times[0] if self._times else now
        self._times.append(now)
        if (passed_s := now[1] - before[1]) <= 0:
            return None, None
        busy_s, own_s = now[0] - before[0], now[2] - before[2]
        # The clocks of processes and of the device are read one after the other and rounded apart.
        others = min(100.0, max(0.0, 100 * (busy_s - own_s) / passed_s))
        return min(100.0, max(0.0, 100 * busy_s / passed_s)), others

    def _own_cpu_s(self, runners: Iterable[int]) -> float:
        """Processor time of the agent and all its runners, those that have ended included."""
        by_pid = {pid: self._measure(pid) for pid in runners}
        for pid, spent_s in self._own_by_pid.items():
            if by_pid.get(pid) is None or by_pid[pid] < spent_s:
                self._own_ended_s += spent_s
        self._own_by_pid = by_pid
        return self._measure(self._agent_pid) + self._own_ended_s + sum(by_pid.values())


def not_enforceable(settings: Mapping[str, Any], *, gpu_providers: Iterable[str] = ()) -> dict[str, str]:
    """The limits among `settings` that this device cannot hold, with the reason."""
    lacking = {}
    if settings.get("temperature_celsius_max") and temperature_celsius() is None:
        lacking["temperature_celsius_max"] = "no temperature sensor can be read"
    if battery() is None and settings.get("battery_percent_min"):
        lacking["battery_percent_min"] = "there is no battery, or it cannot be read"
    if settings.get("mains_only") and not _power_is_readable():
        lacking["mains_only"] = "the power supply cannot be read"
    looks_at_input = settings.get("idle_only") and settings.get("idle_input_s_min")
    if looks_at_input and (unseen := unseen_input()):
        lacking["idle_input_s_min"] = unseen
    if settings.get("cores_max", 4096) < (os.cpu_count() or 1) and not hasattr(os, "sched_setaffinity"):
        lacking["cores_max"] = "this system cannot bind processes to cores; cpu_percent is enforced"
    if 0 < settings.get("gpu_percent", 100) < 100:
        used = ", ".join(gpu_providers) or "no GPU provider is installed"
        lacking["gpu_percent"] = f"the use of a GPU cannot be measured here ({used}); GPUs are not offered"
    return lacking


def temperature_celsius() -> float | None:
    """The hottest processor sensor; `None` if none can be read."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    try:
        sensors = psutil.sensors_temperatures()
    except (OSError, ValueError):  # a driver that lists a sensor and does not read it
        return None
    found = [entry.current for name in _PROCESSOR_SENSORS for entry in sensors.get(name, ())]
    return max(found, default=None)


def battery() -> Any:
    """psutil's `percent` and `power_plugged`; `None` if there is no battery, or none can be read."""
    if not hasattr(psutil, "sensors_battery"):
        return None
    try:
        return psutil.sensors_battery()
    except (OSError, ValueError):  # no /sys, as in a bare container
        return None


def _power_is_readable() -> bool:
    """Whether psutil can tell a device without a battery from one whose battery it cannot see."""
    if not hasattr(psutil, "sensors_battery"):
        return False
    try:
        psutil.sensors_battery()
    except (OSError, ValueError):
        return False
    return True


def _resident_bytes(pid: int) -> int:
    try:
        return resident_bytes(psutil.Process(pid))
    except psutil.Error:
        return 0


def _disk_free_bytes(folder: Path) -> int | None:
    try:
        return int(psutil.disk_usage(str(folder)).free)
    except OSError:
        return None
