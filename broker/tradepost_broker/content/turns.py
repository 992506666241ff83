"""Turns for heavy work: one piece of each caller at a time, and a few of all callers.

A caller that brings much waits for itself. Another one waits for one piece of each caller before it, at most.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Gives turns; `total` of them at once."""

    def __init__(self, total: int) -> None:
        self._free = asyncio.Semaphore(total)
        self._of: dict[str, asyncio.Lock] = {}
        self._wanted: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, caller: str) -> AsyncIterator[None]:
        """Wait for a turn of `caller`, and have it until the context ends."""
        self._wanted[caller] += 1
        try:
            async with self._of.setdefault(caller, asyncio.Lock()), self._free:
                yield
        finally:
            self._wanted[caller] -= 1
            if not self._wanted[caller]:
                del self._wanted[caller], self._of[caller]
