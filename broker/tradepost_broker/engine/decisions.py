"""What the engine decides with: works, their turns, and what comes of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tradepost.errors import TradepostError
from tradepost_broker.market.model.events import Event, Instruction
from tradepost_broker.storage.shell_records import ShellRecord
from tradepost_broker.storage.store import Deletion

T = TypeVar("T")


class Core(Protocol):
    """The part of the market that decides."""

    def handle(self, event: Event) -> list[Instruction]:
        """Decide."""
        ...

    @property
    def changed(self) -> bool:
        """Whether the newest event may have changed anything, so that the journal must have it."""
        ...


class Records(Protocol):
    """The records after all earlier work, whether committed yet or not."""

    def get(self, kind: type[T], id_: str) -> T | None:
        """The record of this kind and id, or `None`."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """The turn of one work in the total order: its time (Unix seconds), a fresh seed, the records."""

    at: float
    seed: int
    records: Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The effects of one work, in one transaction. If the core rejects the event, there are none.

    `event` goes to the core, unless it is `None`. `records` and `deletions` are what the shell writes and
    deletes. `records_after` gives further records that depend on the core's instructions.
    """

    event: Event | None = None
    records: Sequence[ShellRecord] = ()
    records_after: Callable[[Sequence[Instruction]], Sequence[ShellRecord]] | None = None
    deletions: Sequence[Deletion] = ()


@dataclass(frozen=True, slots=True)
class Postponed:
    """The work cannot be decided before `prepare` has run, outside the turn; then it gets another turn.

    `prepare` starts when all earlier work is durable. What it raises refuses the work; an error of the disk
    does so for the time being. Work that delivers what a worker sent for `lease` is set aside otherwise: what
    the broker lacks is not the worker's fault, and to try it again would fail again.
    """

    prepare: Callable[[], Awaitable[None]]
    lease: str = ""


class Work(Protocol):
    """A change that a session or a request asks for."""

    def decide(self, moment: Moment) -> Decision | Postponed:
        """What is to be done, decided in the work's turn. Changes nothing itself, and does no I/O but for
        reading single records.

        Raises a `TradepostError` to refuse; then nothing is written.
        """
        ...


#: What the core answered, or why nothing was done.
Outcome = Sequence[Instruction] | TradepostError
#: Told the outcome once it is durable, before any of its instructions is released.
Reply = Callable[[Outcome], None]
