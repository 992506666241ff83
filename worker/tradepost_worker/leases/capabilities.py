"""Probes what a device can offer.

Providers, engine versions and isolation are what a locked-down runner reports of itself, so a provider that
works only outside the sandbox is not offered.
"""

from __future__ import annotations

import logging

from tradepost.protocol import Capabilities
from tradepost_worker.runner.messages import Ready
from tradepost_worker.settings import Settings, available_cores

log = logging.getLogger(__name__)


def probe_capabilities(ready: Ready, settings: Settings) -> Capabilities:
    """The device's capabilities, given what a fresh runner said. Layers that it lacks are logged."""
    for layer, reason in ready.isolation.refused.items():
        log.warning(
            "The sandbox layer %s is not available: %s",
            layer,
            reason,
            extra={"action": "isolation_refused", "layer": layer},
        )
    return Capabilities(
        cores=available_cores(),
        memory_bytes=settings.memory_bytes_max,
        providers=_allowed(ready.providers, settings.gpu_percent),
        engines=ready.engines,
        isolation=ready.isolation.achieved,
    )


def _allowed(providers: tuple[str, ...], gpu_percent: int) -> tuple[str, ...]:
    """The providers, without GPUs if the owner wants less than all of them: their use cannot be measured, and
    what cannot be measured is not lent."""
    return providers if gpu_percent == 100 else tuple(name for name in providers if name == "cpu")
