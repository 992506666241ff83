"""The broker's engine in virtual time: batches, commits, crashes, and restarts from what was committed.

As the real engine does, it lets the core handle a batch of work, commits what changed, and only then replies
and releases instructions. Each batch that changes something has three write points at which the machine may
crash: before the commit (all of the batch is lost), after it (nothing of it was sent), and halfway through
what is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from enum import IntEnum
from random import Random
from typing import Final, NamedTuple

import msgspec

from tradepost_broker.market.core import Market
from tradepost_broker.market.model.events import (
    Event,
    Instruction,
    MatchingEvent,
    Restarted,
    Save,
    Tick,
    goes_on,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.world.disk import Disk
from tradepost_broker.simulation.world.network import Network
from tradepost_broker.simulation.world.schedule import seeded

BATCH_MAX: Final = 256
COMMIT_S: Final = 0.002
TICK_S: Final = 0.25
#: Until the next tick where one had more to do than an event may.
GO_ON_S: Final = 0.02
_INSIST_S: Final = 5.0
_DROP_OLD_EVERY: Final = 4096

_encode: Final = msgspec.msgpack.Encoder().encode


class _Decided(NamedTuple):
    """An event, what the market answered, and whether the journal must have it."""

    event: Event
    answer: list[Instruction]
    changed: bool


class WritePoint(IntEnum):
    """Where in a batch the machine can crash."""

    BEFORE_COMMIT = 0
    AFTER_COMMIT = 1
    HALF_RELEASED = 2


class Turn(NamedTuple):
    """The turn of one work: its time, its seed, and the market as it is then."""

    at: float
    seed: int
    market: Market


#: Makes an event when its turn comes, or nothing if it has become pointless.
Work = Callable[[Turn], Event | None]
Reply = Callable[[Sequence[Instruction]], None]


class Observer:
    """What is told of everything that the market does. Each method may be overridden; none does anything."""

    def decided(self, event: Event, answer: Sequence[Instruction], market: Market) -> None:
        """The market decided an event, which will be committed."""

    def restarted(self, crashed: Market | None, restored: Market) -> None:
        """The market was restored, and both have handled `Restarted`.

        `crashed` is the one before, unless it had decided something that was never committed.
        """


class SimulatedBroker:
    """Takes work, gives it to the market, and passes instructions on to `release`.

    `crash_points` are numbers of write points, counted from 0, at which it crashes in any case. `timer` gives
    seconds of real time, to measure the core's share; it decides nothing.
    """

    def __init__(
        self,
        *,
        policy: MarketPolicy,
        network: Network,
        release: Callable[[Instruction], None],
        observers: Sequence[Observer],
        seed: int,
        crash_points: frozenset[int] = frozenset(),
        timer: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.market = Market(policy=policy)
        self.disk = Disk(policy)
        self.write_points = 0
        self.crashes = 0
        self.events = 0
        self.core_s = 0.0
        #: Journalled events, if `keep_journal` is set before the first one.
        self.journal: list[Event] = []
        self.keep_journal = False
        self.policy = policy
        self._network = network
        self._schedule = network.schedule
        self._release = release
        self._observers = observers
        self._seeds = seeded(seed, "events")
        self._crash_rng: Random = seeded(seed, "crashes")
        self._crash_points = crash_points
        self._timer = timer
        self._queue: list[tuple[Work, Reply | None]] = []
        self._flush_is_due = False
        self._run = 0
        self._is_going_on = False
        self._digest = hashlib.blake2b(digest_size=16)
        self._schedule.after(TICK_S, self._tick, self._run)

    @property
    def digest(self) -> str:
        """A digest of every committed event and every answer so far."""
        return self._digest.hexdigest()

    def submit(self, work: Work, reply: Reply | None = None) -> None:
        """Have work done; `reply` gets the answer when it is durable."""
        if not self._network.broker_is_up:
            return
        self._queue.append((work, reply))
        if not self._flush_is_due:
            self._flush_is_due = True
            self._schedule.after(COMMIT_S, self._flush, self._run)

    def insist(self, work: Work, then: Callable[[], None] = lambda: None) -> None:
        """Have work done that is submitted again and again until it is durable; then call `then`, once."""
        durable: list[bool] = []

        def reply(_answer: Sequence[Instruction]) -> None:
            if not durable:
                durable.append(True)
                then()

        def attempt() -> None:
            if not durable:
                self.submit(work, reply)
                self._schedule.after(_INSIST_S, attempt)

        attempt()

    def crash(self, point: WritePoint = WritePoint.HALF_RELEASED) -> None:
        """Lose everything that was not committed, and be down for a while."""
        crashed = None if point is WritePoint.BEFORE_COMMIT else self.market
        self.crashes += 1
        self._run += 1
        self._is_going_on = False
        self._queue.clear()
        self._flush_is_due = False
        self._network.broker_is_up = False
        self._network.break_all()
        down_s = self._network.faults.down_s * self._crash_rng.random()
        self._schedule.after(down_s, self._restart, crashed)

    def _restart(self, crashed: Market | None) -> None:
        at = self._schedule.at
        self.market = Market.restore(self.disk.load(at), self.policy)
        self._network.broker_is_up = True
        restarted = Restarted(at=at)
        self._commit(self._handle(restarted))
        if crashed is not None:
            crashed.handle(restarted)
        for observer in self._observers:
            observer.restarted(crashed, self.market)
        self._schedule.after(TICK_S, self._tick, self._run)

    def _tick(self, run: int) -> None:
        if run == self._run:
            self._schedule.after(TICK_S, self._tick, run)
            if not self._is_going_on:
                self._go_on(run)

    def _go_on(self, run: int) -> None:
        """Let the market look at the time, and again soon while it has more to do than one event may."""

        def reply(answer: Sequence[Instruction]) -> None:
            self._is_going_on = goes_on(answer)
            if self._is_going_on:
                self._schedule.after(GO_ON_S, self._go_on, run)

        if run == self._run:
            self.submit(lambda turn: Tick(at=turn.at, seed=turn.seed), reply)

    def _flush(self, run: int) -> None:
        if run != self._run:
            return
        batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
        self._flush_is_due = bool(self._queue)
        if self._flush_is_due:
            self._schedule.after(COMMIT_S, self._flush, run)
        decided = [(self._turn(work), reply) for work, reply in batch]
        changes = any(one is not None and one.answer for one, _ in decided)
        crash = self._next_crash() if changes else None
        if crash is WritePoint.BEFORE_COMMIT:
            self.crash(crash)
            return
        for one, _ in decided:
            if one is not None:
                self._commit(one)
        if crash is WritePoint.AFTER_COMMIT:
            self.crash(crash)
            return
        sent = decided if crash is None else decided[: len(decided) // 2]
        for one, reply in sent:
            if one is None:
                continue
            if reply is not None:
                reply(one.answer)
            for instruction in one.answer:
                if not isinstance(instruction, Save):
                    self._release(instruction)
        if crash is WritePoint.HALF_RELEASED:
            self.crash(crash)

    def _next_crash(self) -> WritePoint | None:
        first, self.write_points = self.write_points, self.write_points + len(WritePoint)
        if self._crash_points:
            for point in WritePoint:
                if first + point in self._crash_points:
                    return point
        rate = self._network.faults.crash
        if rate and self._crash_rng.random() < rate:
            return self._crash_rng.choice(list(WritePoint))
        return None

    def _turn(self, work: Work) -> _Decided | None:
        event = work(Turn(self._schedule.at, self._seeds.getrandbits(128), self.market))
        return None if event is None else self._handle(event)

    def _handle(self, event: Event) -> _Decided:
        began = self._timer()
        answer = self.market.handle(event)
        self.core_s += self._timer() - began
        return _Decided(event, answer, self.market.changed)

    def _commit(self, decided: _Decided) -> None:
        event, answer, changed = decided
        if not answer and not changed:
            return
        self.events += 1
        self._digest.update(_encoded(event))
        self._digest.update(_encode(answer))
        if self.keep_journal and changed:
            self.journal.append(event)
        for observer in self._observers:
            observer.decided(event, answer, self.market)
        self.disk.commit(one.record for one in answer if isinstance(one, Save))
        if self.events % _DROP_OLD_EVERY == 0:
            self.disk.drop_old(self._schedule.at)


def _encoded(event: Event) -> bytes:
    """An event's bytes; its seed is apart, since 128 bits do not fit into msgpack's integers."""
    if isinstance(event, MatchingEvent):
        return _encode(msgspec.structs.replace(event, seed=0)) + event.seed.to_bytes(16, "big")
    return _encode(event)
