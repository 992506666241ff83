"""Readings of workers' devices, unverified: the newest heartbeat of each.

It is for the operator alone, who looks after a fleet with it, and stays in memory: it is nobody's evidence,
moves no money, and the market core never sees it. What a heartbeat may hold is bounded by the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cachetools import FIFOCache

from tradepost.protocol import Heartbeat
from tradepost_broker.operator.messages import DeviceView

READINGS_MAX: Final = 10_000


class DeviceReadings:
    """The newest readings of the `readings_max` workers that reported last. `clock` gives Unix seconds."""

    def __init__(self, *, clock: Callable[[], float], readings_max: int = READINGS_MAX) -> None:
        self._clock = clock
        self._readings: FIFOCache[str, DeviceView] = FIFOCache(readings_max)

    def note(self, worker: str, heartbeat: Heartbeat) -> None:
        """Take a worker's heartbeat in place of the one before it."""
        self._readings.pop(worker, None)  # so that it becomes the newest
        self._readings[worker] = DeviceView(
            worker=worker, at=self._clock(), running=heartbeat.running, health=heartbeat.health
        )

    def all(self) -> list[DeviceView]:
        """The readings, newest first."""
        return list(self._readings.values())[::-1]
