"""Who is told what the engine does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tradepost_broker.market.model.events import Event, Instruction


@dataclass(frozen=True, kw_only=True)
class EngineObservers:
    """What the engine calls, beside replies.

    `decided` is called in the turn of each event that the core accepted, before the commit; `batch` with the
    number of works of each batch and the seconds that it took; `blocked` when nothing can be written any
    more, and when it can be again.
    """

    decided: Callable[[Event, Sequence[Instruction]], None] = lambda _event, _instructions: None
    batch: Callable[[int, float], None] = lambda _works, _seconds: None
    blocked: Callable[[bool], None] = lambda _is_blocked: None


NO_OBSERVERS: Final = EngineObservers()
