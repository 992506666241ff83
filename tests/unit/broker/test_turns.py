"""Turns: one at a time for each caller, and in all no more than a few."""

from __future__ import annotations

import asyncio

from tradepost_broker.content.turns import Turns


async def test_a_caller_waits_for_itself_and_others_do_not() -> None:
    turns, order = Turns(2), list[str]()
    go_on = {name: asyncio.Event() for name in ("a1", "a2", "a3", "b1", "c1")}

    async def work(name: str) -> None:
        async with turns.of(name[0]):
            order.append(name)
            await go_on[name].wait()

    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(name)) for name in go_on]
    await settle()
    assert order == ["a1", "b1"], "two at once, of two callers"
    go_on["b1"].set()
    await settle()
    assert order == ["a1", "b1", "c1"], "the second of a waits for the first"
    go_on["a1"].set()
    await settle()
    assert order == ["a1", "b1", "c1", "a2"]
    for event in go_on.values():
        event.set()
    await asyncio.gather(*tasks)
    assert order[-1] == "a3"


async def test_a_turn_that_fails_or_is_cancelled_leaves_nothing() -> None:
    turns = Turns(1)
    async with turns.of("a"):
        waiting = asyncio.create_task(_enter(turns, "a"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    for caller in ("a", "b"):
        await _enter(turns, caller)
    assert not turns._of, "callers are forgotten"
    assert not turns._wanted


async def _enter(turns: Turns, caller: str) -> None:
    async with turns.of(caller):
        pass
