"""Which standing offers are eligible for one job's next lease, at this moment.

Eligible is an offer that can do what the job needs, whose worker may have it: its owner has no live lease of
the job and did not lose one before (unless there is nobody else), and the worker did not refuse the pipeline
since it connected. Looking is bounded: `scan_max` offers that are not eligible end a search. If it found none
by then, a few are drawn at random instead, so that an owner with very many devices hides nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from tradepost.protocol import Offer
from tradepost_broker.market.matching.scoring import Bidder
from tradepost_broker.market.matching.worker_filter import OWNER_NOT_ALLOWED, SCORE_BELOW, WorkerFilter
from tradepost_broker.market.model.amounts import AMOUNT_MAX_MICROCREDITS, bid_for
from tradepost_broker.market.model.entities import Job, WorkerStanding
from tradepost_broker.market.state import seeded_random
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.offer_book import Entry, PriceList, Seat, fits
from tradepost_broker.market.state.worker_state import WorkerState

#: The reason of offers whose workers have not come back since the broker's start.
NOT_RECONNECTED: Final = "not reconnected since the broker's start"

#: The reason of offers whose owners broke off too many leases.
COOLING_OFF: Final = "their owner broke off too many leases"

_DRAWS_MAX: Final = 32


class Field(NamedTuple):
    """Who competes in an auction: idle bidders, `cheapest` and beyond them `cached`, and `busy` rivals."""

    cheapest: list[Bidder]
    cached: list[Bidder]
    busy: list[Bidder]

    @property
    def idle(self) -> list[Bidder]:
        """The bidders that can win."""
        return self.cheapest + self.cached


class EligibleOffers:
    """The eligible offers for one job. Counts the ineligible ones in `left_out`, by reason."""

    def __init__(
        self, state: MarketState, job: Job, *, again: bool = False, proven_only: bool = False
    ) -> None:
        """`again` admits owners that had a lease of this job and lost it; `proven_only` is as it says."""
        self._state = state
        self._job = job
        self._need = state.need(job)
        self._scope = state.scope(job)
        self._owners = {state.workers[lease.worker].record.owner for lease in state.live_leases(job)}
        self._findings = [one for owner in self._owners if (one := state.finding_of(owner))]
        self._losers = set() if again else state.losers(job)
        self._proven_only = proven_only
        self._filter = WorkerFilter(job.requirements)
        self._typical_s_per_unit = 0.0
        if job.preference:
            self._typical_s_per_unit = state.run_times.typical_s_per_unit(job.pipeline) or 0.0
        #: Whether a search was ended by offers that are not eligible.
        self._ran_out = False
        self.left_out: dict[str, int] = {}

    def competing(self, *, bid_microcredits_max: int, limit: int) -> Field:
        """The bidders that bid at most `bid_microcredits_max`: up to `limit` of each kind.

        Those within a lower bid are the first of each kind, so one field serves for all lower caps.
        """
        cheapest = self.cheapest(bid_microcredits_max=bid_microcredits_max, limit=limit)
        cached = self.cached(cheapest, bid_microcredits_max=bid_microcredits_max, limit=limit)
        if not (cheapest or cached):
            return Field(cheapest, cached, [])
        idle = {bidder.id for bidder in (*cheapest, *cached)}
        standing = self.standing(bid_microcredits_max=bid_microcredits_max, limit=limit)
        busy = [rival for rival in standing if rival.id not in idle]
        if self._state.policy.absent_compete:
            busy += self._absent_bidders(bid_microcredits_max=bid_microcredits_max, limit=limit)
        return Field(cheapest, cached, busy)

    def cheapest(self, *, bid_microcredits_max: int, limit: int) -> list[Bidder]:
        """Up to `limit` idle bidders, cheapest first, that bid at most `bid_microcredits_max`."""
        found: list[Bidder] = []
        for price_per_unit_microcredits, worker in self._eligible(busy_too=False, counted=True):
            bid_microcredits = bid_for(price_per_unit_microcredits, self._job.units)
            if bid_microcredits > bid_microcredits_max or len(found) >= limit:
                break
            found.append(self._bidder(worker, price_per_unit_microcredits))
        return found or self._scattered(bid_microcredits_max=bid_microcredits_max, busy_too=False)

    def standing(self, *, bid_microcredits_max: int, limit: int) -> list[Bidder]:
        """Up to `limit` bidders, idle or busy, cheapest first, that bid at most `bid_microcredits_max`."""
        eligible = islice(self._eligible(busy_too=True, counted=False), limit)
        return [
            self._bidder(worker, price_per_unit_microcredits)
            for price_per_unit_microcredits, worker in eligible
            if bid_for(price_per_unit_microcredits, self._job.units) <= bid_microcredits_max
        ]

    def cheapest_by_owner(self, *, owners_max: int, busy_too: bool) -> list[Bidder]:
        """The cheapest bidder of each of up to `owners_max` owners, cheapest first."""
        found: dict[str, Bidder] = {}
        eligible = self._eligible(busy_too=busy_too, counted=not busy_too)
        for looks, (price_per_unit_microcredits, worker) in enumerate(eligible):
            if len(found) >= owners_max or looks >= self._state.policy.scan_max:
                break
            if worker.record.owner not in found:
                found[worker.record.owner] = self._bidder(worker, price_per_unit_microcredits)
        if not found:
            for bidder in self._scattered(bid_microcredits_max=AMOUNT_MAX_MICROCREDITS, busy_too=busy_too):
                found.setdefault(bidder.worker.record.owner, bidder)
        return list(found.values())

    def cached(self, known: list[Bidder], *, bid_microcredits_max: int, limit: int) -> list[Bidder]:
        """Idle bidders beyond `known` that have the pipeline cached, cheapest first; `limit` counts both."""
        limit -= sum(bidder.warm for bidder in known)
        seen = {bidder.id for bidder in known}
        found: list[Bidder] = []
        for looks, (price_per_unit_microcredits, worker_id) in enumerate(
            self._state.offers.warm(self._job.pipeline)
        ):
            if (
                bid_for(price_per_unit_microcredits, self._job.units) > bid_microcredits_max
                or len(found) >= limit
                or looks >= self._state.policy.scan_max
            ):
                break
            worker = self._state.workers[worker_id]
            seat = worker.seat
            if worker_id in seen or seat is None or not seat.idle or not fits(seat.offer, self._need):
                continue
            if not self.why_ineligible(worker):
                found.append(self._bidder(worker, price_per_unit_microcredits))
        return found

    def draw(self, *, bid_microcredits_max: int) -> Bidder | None:
        """An idle eligible worker that bids at most this, each with the same chance."""
        return self._draw("replica", bid_microcredits_max=bid_microcredits_max, busy_too=False)

    def _scattered(self, *, bid_microcredits_max: int, busy_too: bool) -> list[Bidder]:
        """A few bidders drawn at random, cheapest first, if ineligible offers have ended a search."""
        found: dict[str, Bidder] = {}
        for number in range(self._state.policy.hidden_draws_max if self._ran_out else 0):
            what = f"hidden {number}"
            drawn = self._draw(what, bid_microcredits_max=bid_microcredits_max, busy_too=busy_too)
            if drawn is None:
                break
            found[drawn.id] = drawn
        return sorted(found.values(), key=lambda bidder: (bidder.bid_microcredits, bidder.id))

    def _draw(self, what: str, *, bid_microcredits_max: int, busy_too: bool) -> Bidder | None:
        if self._filter.owners_only:
            return self._draw_of_owners(what, bid_microcredits_max=bid_microcredits_max, busy_too=busy_too)
        buckets = self._state.offers.fitting(self._need)
        lists = [bucket.standing if busy_too else bucket.idle for bucket in buckets]
        counts = [prices.count_up_to(bid_microcredits_max // self._job.units) for prices in lists]
        total = sum(counts)
        if total == 0:
            return None
        lease = f"{self._job.id}.{self._job.attempts + 1}"
        for number in range(_DRAWS_MAX):
            place = seeded_random.below(total, self._state.seed, what, lease, str(number))
            price_per_unit_microcredits, worker = self._at(place, lists, counts)
            if not self.why_ineligible(worker):
                return self._bidder(worker, price_per_unit_microcredits)
        # Hardly any is eligible. Take the next one from the last place on.
        for step in range(1, min(total, self._state.policy.scan_max)):
            price_per_unit_microcredits, worker = self._at((place + step) % total, lists, counts)
            if not self.why_ineligible(worker):
                return self._bidder(worker, price_per_unit_microcredits)
        return None

    def why_ineligible(self, worker: WorkerState) -> str:
        """Why a worker in a fitting bucket may not have this job; "" if it may."""
        if reason := self._why_one_voice(worker.record.owner):
            return reason
        if self._job.pipeline in worker.refused:
            return "refused"
        if self._state.loser(worker) in self._losers:
            return "lost it before"
        return self._filter.why_not(worker) or self._why_unfit(worker)

    def _why_unfit(self, worker: WorkerState) -> str:
        if self._proven_only and not worker.is_proven(self._state.day):
            return "unproven"
        seat = worker.seat
        if seat is None or seat.offer.capabilities.memory_bytes < self._need.memory_bytes:
            return "memory"
        if self._filter.judges_scores:
            score = worker.belief(self._scope, self._state.day).score
            return "" if self._filter.is_score_enough(score) else SCORE_BELOW
        return ""

    def _why_one_voice(self, owner: str) -> str:
        """Why an owner could only repeat what those say who have a live lease of the job; "" if not so."""
        if owner in self._owners:
            return "same owner"
        if self._findings and self._state.finding_of(owner) in self._findings:
            return "suspected of collusion"
        return ""

    def count_ineligible(self) -> Counter[str]:
        """Why standing offers in the fitting buckets may not have the job; counts at most `scan_max`."""
        reasons: Counter[str] = Counter()
        for _, worker_id in islice(self._entries(busy_too=True), self._state.policy.scan_max):
            if reason := self.why_ineligible(self._state.workers[worker_id]):
                reasons[reason] += 1
        return reasons

    def count_left_out(self, *, bid_microcredits_max: int, considered: int) -> dict[str, int]:
        """How many standing offers are out, by reason. Cheap: buckets know their sizes."""
        price_per_unit_microcredits = bid_microcredits_max // self._job.units
        fitting, idle, affordable = self._state.offers.counts(
            self._need, price_per_unit_microcredits=price_per_unit_microcredits
        )
        standing = fitting
        if self._filter.owners_only:
            own = list(self._entries(busy_too=False))
            standing, idle = sum(1 for _ in self._entries(busy_too=True)), len(own)
            affordable = sum(price <= price_per_unit_microcredits for price, _ in own)
        turned_away = sum(self.left_out.values())
        counts = self.left_out | {
            "engine too old": len(self._state.too_old),
            "capability": len(self._state.offers) - fitting,
            COOLING_OFF: (cooling := self._count_cooling_off()),
            OWNER_NOT_ALLOWED: self.left_out.get(OWNER_NOT_ALLOWED, 0) + fitting - standing,
            "busy": standing - idle - cooling,
            "price": idle - affordable,
            "beyond the cheapest": affordable - considered - turned_away,
        }
        return {reason: count for reason, count in counts.items() if count > 0}

    def _count_cooling_off(self) -> int:
        """How many fitting offers would be idle, if their owners did not cool off."""
        devices = (device for owner in self._state.cooling_owners for device in self._state.workers_of[owner])
        return sum(
            device.seat is not None
            and not device.seat.idle
            and len(device.open) < device.capacity(self._state.day)
            and fits(device.seat.offer, self._need)
            for device in islice(devices, self._state.policy.scan_max)
        )

    def count_absent(self) -> int:
        """How many workers whose last offer fits are not back since a restart; 0 once they have had the time.

        While they are away, they cannot win, but what they asked still counts for the price.
        """
        return sum(1 for _ in self._absent())

    def _absent(self) -> Iterator[tuple[WorkerState, Offer]]:
        if self._state.at >= self._state.patience_from:
            return
        for worker in self._state.workers.values():
            offer = worker.record.offer
            if (
                not worker.connected
                and not worker.record.auditor
                and worker.record.standing is WorkerStanding.ACTIVE
                and offer is not None
                and worker.record.owner not in self._owners
                and fits(offer, self._need)
            ):
                yield worker, offer

    def _absent_bidders(self, *, bid_microcredits_max: int, limit: int) -> list[Bidder]:
        """The cheapest bidders that are not back since a restart: rivals, as if they were busy."""
        eligible = sorted(
            (offer.price_per_unit_microcredits, worker.record.id)
            for worker, offer in self._absent()
            if self._may_compete(worker)
        )
        return [
            self._bidder(self._state.workers[worker_id], price_per_unit_microcredits)
            for price_per_unit_microcredits, worker_id in eligible[:limit]
            if bid_for(price_per_unit_microcredits, self._job.units) <= bid_microcredits_max
        ]

    def _may_compete(self, worker: WorkerState) -> bool:
        """Whether nothing but its absence keeps a worker from the job."""
        if self._why_one_voice(worker.record.owner) or self._state.loser(worker) in self._losers:
            return False
        if self._proven_only and not worker.is_proven(self._state.day):
            return False
        return not self._filter.why_not(worker)

    def _at(self, place: int, lists: list[PriceList], counts: list[int]) -> tuple[int, WorkerState]:
        """The offer at a place in the first so many entries of each list."""
        for prices, count in zip(lists, counts, strict=True):
            if place < count:
                price_per_unit_microcredits, worker_id = prices[place]
                return price_per_unit_microcredits, self._state.workers[worker_id]
            place -= count
        raise IndexError(place)

    def _eligible(self, *, busy_too: bool, counted: bool) -> Iterator[tuple[int, WorkerState]]:
        misses_left = self._state.policy.scan_max
        for price_per_unit_microcredits, worker_id in self._entries(busy_too=busy_too):
            worker = self._state.workers[worker_id]
            reason = self.why_ineligible(worker)
            if not reason:
                yield price_per_unit_microcredits, worker
                continue
            if counted:
                self.left_out[reason] = self.left_out.get(reason, 0) + 1
            misses_left -= 1
            if misses_left == 0:
                self._ran_out = True
                return

    def _entries(self, *, busy_too: bool) -> Iterator[Entry]:
        """The offers that fit, cheapest first; of the only owners that may, `scan_max` in all."""
        owners = self._filter.owners_only
        if not owners:
            yield from self._state.offers.cheapest(self._need, busy_too=busy_too)
            return
        looks_max = max(1, self._state.policy.scan_max // len(owners))
        for_all: list[Entry] = []
        for owner in owners:
            seats = (device.seat for device in self._state.workers_of.get(owner, ()))
            fitting = (seat.entry for seat in seats if seat is not None and self._is_open(seat, busy_too))
            for_all += islice(fitting, looks_max)
        yield from sorted(for_all)

    def _is_open(self, seat: Seat, busy_too: bool) -> bool:
        return (seat.idle or busy_too) and fits(seat.offer, self._need)

    def _draw_of_owners(self, what: str, *, bid_microcredits_max: int, busy_too: bool) -> Bidder | None:
        """As `_draw`, where only some owners may have the job."""
        eligible = [
            (price_per_unit_microcredits, worker)
            for price_per_unit_microcredits, worker_id in self._entries(busy_too=busy_too)
            if price_per_unit_microcredits <= bid_microcredits_max // self._job.units
            and not self.why_ineligible(worker := self._state.workers[worker_id])
        ]
        if not eligible:
            return None
        lease = f"{self._job.id}.{self._job.attempts + 1}"
        price_per_unit_microcredits, worker = eligible[
            seeded_random.below(len(eligible), self._state.seed, what, lease)
        ]
        return self._bidder(worker, price_per_unit_microcredits)

    def _bidder(self, worker: WorkerState, price_per_unit_microcredits: int) -> Bidder:
        offer = worker.seat.offer if worker.seat else worker.record.offer
        return Bidder(
            worker,
            bid_for(price_per_unit_microcredits, self._job.units),
            worker.belief(self._scope, self._state.day),
            offer is not None and self._job.pipeline in offer.warm,
            self._run_s(worker) if self._job.preference else 0.0,
            len(worker.open),
        )

    def _run_s(self, worker: WorkerState) -> float:
        """How long the owner's runs take; what is typical, where that is not known, or 0."""
        own_s_per_unit = self._state.run_times.own_s_per_unit(self._job.pipeline, worker.record.owner)
        return (own_s_per_unit or self._typical_s_per_unit) * self._job.units
