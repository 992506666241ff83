"""Long work on the event loop in slices: between two of them, everyone else has a turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

#: After so long a piece of work gives the event loop back.
SLICE_S: Final = 0.005


async def paced(
    items: Iterable[T], *, slice_s: float = SLICE_S, monotonic: Callable[[], float] = time.perf_counter
) -> AsyncIterator[T]:
    """The items, one after the other; the loop has a turn whenever `slice_s` have passed since the last one.

    A slice is longer by what is done with one item. `monotonic` gives seconds.
    """
    began = monotonic()
    for item in items:
        yield item
        if monotonic() - began >= slice_s:
            await asyncio.sleep(0)
            began = monotonic()
