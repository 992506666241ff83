"""Probes what a device can offer.

Providers, engine versions and isolation are what a locked-down runner reports of itself, so a provider that
works only outside the sandbox is not offered.
"""

from __future__ import annotations

import logging

from tradepost.plurals import counted
from tradepost.protocol import Capabilities
from tradepost_worker.device.capacity import DeviceCapacity
from tradepost_worker.runner.messages import Ready
from tradepost_worker.settings import Settings

log = logging.getLogger(__name__)


def probe_capabilities(ready: Ready, settings: Settings) -> Capabilities:
    """The device's capabilities, given what a fresh runner said. What limits them is logged."""
    for layer, reason in ready.isolation.refused.items():
        log.warning(
            "The sandbox layer %s is not available: %s",
            layer,
            reason,
            extra={"action": "isolation_refused", "layer": layer},
        )
    device = DeviceCapacity()
    if device.is_limited:
        log.info(
            "A control group (a container) limits this device to %s MiB of memory and %s. It gets no "
            "pipelines that need more than %s MiB.",
            f"{device.memory_bytes >> 20:,}",
            counted(device.cores, "core"),
            f"{settings.memory_bytes_max >> 20:,}",
            extra={"action": "device_limited", "memory_bytes": device.memory_bytes, "cores": device.cores},
        )
    return Capabilities(
        cores=device.cores,
        memory_bytes=settings.memory_bytes_max,
        providers=_allowed(ready.providers, settings.gpu_percent),
        engines=ready.engines,
        isolation=ready.isolation.achieved,
    )


def _allowed(providers: tuple[str, ...], gpu_percent: int) -> tuple[str, ...]:
    """The providers, without GPUs if the owner wants less than all of them: their use cannot be measured, and
    what cannot be measured is not lent."""
    return providers if gpu_percent == 100 else tuple(name for name in providers if name == "cpu")
