"""Long work gives the event loop back in between."""

from __future__ import annotations

import asyncio

from tradepost_broker.streams.pace import SLICE_S, paced
from tradepost_broker.testing import ManualClock


class Turns:
    """Counts the turns of the loop until it is stopped."""

    def __init__(self) -> None:
        self.count = 0
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def stop(self) -> None:
        """Count no more."""
        self._handle.cancel()


async def test_a_turn_after_each_slice() -> None:
    clock, turns = ManualClock(0.0), Turns()
    seen = []
    async for item in paced(range(10), monotonic=clock):
        seen.append((item, turns.count))
        clock.advance(SLICE_S * 0.4)
    turns.stop()
    assert [item for item, _ in seen] == list(range(10))
    assert [count for _, count in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


async def test_quick_work_is_not_interrupted() -> None:
    turns = Turns()
    async for _ in paced(range(10_000), monotonic=ManualClock()):
        pass
    turns.stop()
    assert turns.count == 0
