"""Runs a journal's market again under another policy, with workers that behave as they were observed to.

What came from outside happens again at its time: credits, pipelines, workers and their offers, jobs and
cancellations. What followed from the market's own decisions is decided anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import replace

from tradepost.errors import WorkerLost
from tradepost_broker.market.core import Market
from tradepost_broker.market.model.entities import Lease
from tradepost_broker.market.model.events import (
    Event,
    LeaseGivenBack,
    LeaseProgressed,
    MatchingEvent,
    NotifyFinished,
    ReceiptDelivered,
    ReplySubmitted,
    Save,
    SendGrant,
    Tick,
    WorkerConnected,
    goes_on,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.replay.observed import Observed
from tradepost_broker.simulation.world.broker import GO_ON_S, TICK_S
from tradepost_broker.simulation.world.schedule import Schedule, seeded
from tradepost_broker.storage.verify_books import KINDS

_GAVE_BACK: Final = WorkerLost("as it was observed to").to_problem()
#: Between ticks while no job is open, in seconds.
_IDLE_TICK_S: Final = 60.0
#: How long the market may go on after the last event, in seconds.
_AFTER_S: Final = 3_600.0


class Rerun:
    """One run of a journal's market under `policy`. `records` is what it decided."""

    def __init__(self, policy: MarketPolicy, observed: Observed, *, seed: int) -> None:
        self.records: dict[type[Any], dict[str, Any]] = {kind: {} for kind in KINDS}
        self._market = Market(policy=policy)
        self._policy = policy
        self._observed = observed
        self._rng = seeded(seed, "observed answers")
        self._schedule = Schedule(0.0)
        self._open_jobs: set[str] = set()
        self._answered: set[str] = set()
        self._next_tick_at = math.inf
        self._end_at = 0.0

    def run(self, events: Iterable[Event]) -> None:
        """Let everything happen that `events` brought from outside."""
        for event in events:
            if isinstance(event, ReceiptDelivered | LeaseGivenBack | LeaseProgressed | Tick):
                continue
            brought = replace(event, open_leases=()) if isinstance(event, WorkerConnected) else event
            self._schedule.when(event.at, self._handle, brought)
            self._end_at = event.at + _AFTER_S + self._policy.hold_s
        while self._schedule.step():
            pass

    def _tick_within(self, delay_s: float) -> None:
        """Have the next tick no later than after `delay_s`."""
        at = self._schedule.at + delay_s
        if at < min(self._next_tick_at, self._end_at):
            self._next_tick_at = at
            self._schedule.when(at, self._tick)

    def _tick(self) -> None:
        if self._schedule.at != self._next_tick_at:
            return  # an earlier one has taken its place
        self._next_tick_at = math.inf
        self._handle(Tick(at=self._schedule.at, seed=self._rng.getrandbits(128)))

    def _handle(self, event: Event) -> None:
        if isinstance(event, MatchingEvent) and event.seed == 0:
            event = replace(event, seed=self._rng.getrandbits(128))
        answer = self._market.handle(event)
        for instruction in answer:
            match instruction:
                case Save(record):
                    self.records[type(record)][record.id] = record
                case ReplySubmitted(job):
                    self._open_jobs.add(job)
                case NotifyFinished(job):
                    self._open_jobs.discard(job)
                case SendGrant(lease, _):
                    self._grant(lease)
        if goes_on(answer):
            self._tick_within(GO_ON_S)
        else:
            self._tick_within(TICK_S if self._open_jobs else _IDLE_TICK_S)

    def _grant(self, lease_id: str) -> None:
        lease = self._market.lease(lease_id)
        if lease is None or lease_id in self._answered:
            return
        self._answered.add(lease_id)
        answer = self._observed.answer(lease.worker, lease.job, self._rng)
        self._schedule.after(answer.after_s, self._answer, replace(lease))

    def _answer(self, lease: Lease) -> None:
        answer = self._observed.answer(lease.worker, lease.job, self._rng)
        at, seed = self._schedule.at, self._rng.getrandbits(128)
        if answer.reason is not None:
            self._handle(
                LeaseGivenBack(
                    at=at,
                    seed=seed,
                    worker=lease.worker,
                    lease=lease.id,
                    reason=answer.reason,
                    problem=_GAVE_BACK,
                    stage_hashes=answer.stage_hashes,
                )
            )
            return
        peers = self._market.results_of(lease.job) if self._market.job(lease.job) else []
        self._handle(
            ReceiptDelivered(
                at=at,
                seed=seed,
                worker=lease.worker,
                lease=lease.id,
                outcome=answer.outcome,
                stage_hashes=answer.stage_hashes,
                stage_wall_us=answer.stage_wall_us,
                agrees_with=tuple(
                    peer.id
                    for peer in peers
                    if peer.id != lease.id and self._observed.agree(lease.job, peer.outcome, answer.outcome)
                ),
            )
        )
