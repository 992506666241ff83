"""How often the event loop has given others a turn."""

from __future__ import annotations

import asyncio


class LoopTurns:
    """Counts the turns of the running loop, from the next on, until it is stopped."""

    def __init__(self) -> None:
        self.count = 0
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def stop(self) -> None:
        """Count no more."""
        self._handle.cancel()
