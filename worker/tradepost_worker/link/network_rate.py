"""Limits the agent's network rate. Runners have no network, so there is no other traffic.

Content counts, which is what there is much of: blocks fetched and blocks uploaded. Each is paid for after it
came and before it goes, by waiting, so the mean holds and a block is never cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class NetworkRate:
    """At most `bytes_per_s_max` bytes per second on average; 0 means no limit."""

    def __init__(
        self,
        bytes_per_s_max: int = 0,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.bytes_per_s_max = bytes_per_s_max
        self._monotonic = monotonic
        self._sleep = sleep
        self._free_at_s = 0.0

    async def take(self, size_bytes: int) -> None:
        """Wait until this much may have been moved."""
        if not self.bytes_per_s_max:
            return
        now_s = self._monotonic()
        self._free_at_s = max(self._free_at_s, now_s) + size_bytes / self.bytes_per_s_max
        await self._sleep(self._free_at_s - now_s)
