"""The device's part of a heartbeat: the last readings, and how long stages took. Its size is bounded.

Stage names are the publishers' choice, so they are cut, and only the stages that ran last are kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from cachetools import FIFOCache

from tradepost.protocol import LATENCY_BUCKETS_MS, DeviceHealth
from tradepost.receipts import StageReport
from tradepost_worker.device.governor import Allowance, Readings

STAGES_MAX: Final = 16
_NAME_CHARS_MAX: Final = 120


class StageLatencies:
    """Counts runs of stages by how long they took, for the `STAGES_MAX` stages that ran last."""

    def __init__(self) -> None:
        # What was written last stays; reading, as an LRU cache would count, must not keep a stage.
        self._counts: FIFOCache[str, list[int]] = FIFOCache(STAGES_MAX)

    def note(self, pipeline: str, stages: Iterable[StageReport]) -> None:
        """Take in how long the stages of one run of a pipeline (by name) took."""
        for stage in stages:
            name = f"{pipeline[:_NAME_CHARS_MAX]}/{stage.stage[:_NAME_CHARS_MAX]}"
            counts = self._counts.get(name) or [0] * (len(LATENCY_BUCKETS_MS) + 1)
            counts[bisect_left(LATENCY_BUCKETS_MS, stage.wall_us / 1000)] += 1
            self._counts[name] = counts

    def read(self) -> dict[str, tuple[int, ...]]:
        """The counts, by pipeline/stage."""
        return {name: tuple(counts) for name, counts in self._counts.items()}


def device_health(
    readings: Readings, decision: Allowance, latencies: StageLatencies, *, queue: int, preemptions: int
) -> DeviceHealth:
    """What a heartbeat carries. A sensor that reads nonsense is left out."""
    return DeviceHealth(
        load_percent=_within(readings.load_percent, 0, 100),
        memory_free_bytes=readings.memory_free_bytes,
        disk_free_bytes=readings.disk_free_bytes,
        temperature_celsius=_within(readings.temperature_celsius, -273, 1000),
        battery_percent=_within(readings.battery_percent, 0, 100),
        on_mains=readings.on_mains,
        queue=queue,
        preemptions=preemptions,
        paused_by=decision.cause.value if decision.cause is not None else "",
        stage_latency=latencies.read(),
    )


def _within(value: float | None, least: float, most: float) -> float | None:
    return round(value, 1) if value is not None and least <= value <= most else None
