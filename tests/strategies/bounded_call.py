"""Calls that must end: one that hangs fails its test, and not the whole run.

Time is counted in short waits of the test's own thread. On a machine that does other things as well, these
take longer too, and so do not count its pauses as the call's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: A call that has not ended by then never will.
HANGS_S: Final = 120.0
#: How long one wait is.
TICK_S: Final = 0.05


def ticks(seconds: float) -> range:
    """The waits of `TICK_S` in this time."""
    return range(round(seconds / TICK_S))


def within(call: Callable[[], T], *, hangs_s: float = HANGS_S) -> T:
    """What `call` returns or raises, called in a thread of its own."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for _ in ticks(hangs_s):
        thread.join(TICK_S)
        if not thread.is_alive():
            break
    assert outcome, f"the call has not ended after {hangs_s} s"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
