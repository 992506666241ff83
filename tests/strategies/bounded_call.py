"""Calls that must end: one that hangs fails its test, and not the whole run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: A call that has not ended by then never will.
HANGS_S: Final = 120.0


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
    thread.join(hangs_s)
    assert outcome, f"the call has not ended after {hangs_s} s"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
