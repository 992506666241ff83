"""Long work gives the event loop back in between."""

from __future__ import annotations

from tests.strategies.loop_turns import LoopTurns

from tradepost_broker.streams.pace import SLICE_S, paced
from tradepost_broker.testing import ManualClock


async def test_a_turn_after_each_slice() -> None:
    clock, turns = ManualClock(0.0), LoopTurns()
    seen = []
    async for item in paced(range(10), monotonic=clock):
        seen.append((item, turns.count))
        clock.advance(SLICE_S * 0.4)
    turns.stop()
    assert [item for item, _ in seen] == list(range(10))
    assert [count for _, count in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


async def test_quick_work_is_not_interrupted() -> None:
    turns = LoopTurns()
    async for _ in paced(range(10_000), monotonic=ManualClock()):
        pass
    turns.stop()
    assert turns.count == 0
