"""Workers' newest heartbeats as a table for people; "-" stands for what a device does not measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from tradepost.protocol import DeviceHealth
from tradepost_broker.operator.messages import DeviceView

_ID_CHARS: Final = 12
_GIBIBYTE: Final = 1 << 30


def device_table(views: Sequence[DeviceView], *, now: float) -> Table:
    """One row for each device; `now` is in Unix seconds."""
    table = Table("worker", "heard", "leases", "load", "memory", "disk", "heat", "battery", "paused by")
    for view in views:
        health = view.health or DeviceHealth()
        battery = _said(health.battery_percent, "%")
        table.add_row(
            view.worker[:_ID_CHARS],
            f"{max(0.0, now - view.at):.0f} s ago",
            str(view.running),
            _said(health.load_percent, "%"),
            _free(health.memory_free_bytes),
            _free(health.disk_free_bytes),
            _said(health.temperature_celsius, " °C"),
            f"{battery}, mains" if health.on_mains else battery,
            health.paused_by,
        )
    return table


def _said(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f}{unit}"


def _free(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / _GIBIBYTE:.1f} GiB free"
