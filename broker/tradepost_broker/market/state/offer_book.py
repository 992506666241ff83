"""Standing offers, indexed so that a match never scans all workers.

Workers that have the same execution providers, the same isolation and about the same memory (the same
power of two) share a bucket; a need fits a few whole buckets. In each bucket, offers lie sorted by price,
once for all that stand and once for those with spare capacity, so the cheapest come first, a price limit is
a bisection and a uniform draw is an index. The lists are plain: moving 100,000 entries up by one costs less
than a tree's objects.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from tradepost.protocol import Offer

#: (price per work unit in microcredits, worker id)
Entry = tuple[int, str]
#: (execution providers, bit length of the memory in bytes, isolation)
BucketKey = tuple[frozenset[str], int, frozenset[str]]

_CACHED_NEEDS_MAX: Final = 1024
_AFTER_EVERY_ID: Final = "\U0010ffff"


class Need(NamedTuple):
    """A job's requirements on a worker. No providers means that any provider is allowed."""

    providers: tuple[str, ...]
    memory_bytes: int
    isolation: tuple[str, ...]


class PriceList:
    """Entries in order of price."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __getitem__(self, index: int) -> Entry:
        return self._entries[index]

    def add(self, entry: Entry) -> None:
        """Insert an entry that is not there."""
        insort(self._entries, entry)

    def remove(self, entry: Entry) -> None:
        """Take out an entry that is there."""
        del self._entries[bisect_left(self._entries, entry)]

    def count_up_to(self, price_per_unit_microcredits: int) -> int:
        """How many entries cost at most `price_per_unit_microcredits`."""
        return bisect_right(self._entries, (price_per_unit_microcredits, _AFTER_EVERY_ID))


class Bucket:
    """Offers of workers with the same capabilities, by price."""

    __slots__ = ("idle", "isolation", "memory_bits", "providers", "standing")

    def __init__(self, providers: frozenset[str], memory_bits: int, isolation: frozenset[str]) -> None:
        self.providers = providers
        self.memory_bits = memory_bits
        self.isolation = isolation
        self.standing = PriceList()
        self.idle = PriceList()

    @property
    def key(self) -> BucketKey:
        """What the workers here have in common."""
        return self.providers, self.memory_bits, self.isolation

    def shortfall(self, need: Need) -> str:
        """The first thing that this bucket's workers lack for `need`; "" if they may fit.

        Workers in the bucket of the need's own power of two may still lack memory: `fits` looks closer.
        """
        if need.providers and self.providers.isdisjoint(need.providers):
            return "provider"
        if self.memory_bits < need.memory_bytes.bit_length():
            return "memory"
        if not self.isolation.issuperset(need.isolation):
            return "isolation"
        return ""


class Seat(NamedTuple):
    """The bucket and position of one worker's offer."""

    offer: Offer
    bucket: Bucket
    entry: Entry
    idle: bool


def fits(offer: Offer, need: Need) -> bool:
    """Whether a worker with this offer can do what `need` asks."""
    capabilities = offer.capabilities
    return (
        capabilities.memory_bytes >= need.memory_bytes
        and (not need.providers or not set(need.providers).isdisjoint(capabilities.providers))
        and set(need.isolation).issubset(capabilities.isolation)
    )


class OfferBook:
    """All standing offers."""

    def __init__(self) -> None:
        self._buckets: dict[BucketKey, Bucket] = {}
        self._fitting: dict[Need, list[Bucket]] = {}
        self._quartiles: dict[Need, int] = {}
        self._warm: dict[str, PriceList] = {}
        self._standing = 0

    def __len__(self) -> int:
        return self._standing

    def place(self, worker: str, seat: Seat | None, offer: Offer | None, *, idle: bool) -> Seat | None:
        """Stand `offer` where it belongs, or nowhere, and give its new seat; `seat` is the one before."""
        if seat is not None and seat.offer is offer:
            if seat.idle == idle:
                return seat
            (seat.bucket.idle.add if idle else seat.bucket.idle.remove)(seat.entry)
            return seat._replace(idle=idle)
        if seat is not None:
            self._remove(seat)
        return None if offer is None else self._add(worker, offer, idle)

    def cheapest(self, need: Need, *, busy_too: bool) -> Iterator[Entry]:
        """The offers of every fitting bucket, cheapest first. Not to be used after the book has changed."""
        lists = [bucket.standing if busy_too else bucket.idle for bucket in self.fitting(need)]
        return iter(lists[0]) if len(lists) == 1 else heapq.merge(*lists)

    def warm(self, pipeline: str) -> Iterable[Entry]:
        """Standing offers, cheapest first, of workers that have this pipeline's artifacts."""
        return self._warm.get(pipeline, ())

    def fitting(self, need: Need) -> list[Bucket]:
        """The buckets whose workers may fit."""
        known = self._fitting.get(need)
        if known is None:
            if len(self._fitting) >= _CACHED_NEEDS_MAX:
                self._fitting.clear()
            known = [bucket for bucket in self._buckets.values() if not bucket.shortfall(need)]
            self._fitting[need] = known
        return known

    def lower_quartile(self, need: Need) -> int:
        """The highest price per unit, in microcredits, below which lie at most a quarter of the offers in the
        fitting buckets; 0 if there are none."""
        known = self._quartiles.get(need)
        if known is None:
            if len(self._quartiles) >= _CACHED_NEEDS_MAX:
                self._quartiles.clear()
            known = self._quartiles[need] = _lower_quartile([b.standing for b in self.fitting(need)])
        return known

    def lacking(self, need: Need) -> dict[str, int]:
        """How many offers cannot do what is needed, by the first thing that they lack."""
        counts: dict[str, int] = {}
        for bucket in self._buckets.values():
            if shortfall := bucket.shortfall(need):
                counts[shortfall] = counts.get(shortfall, 0) + len(bucket.standing)
        return {shortfall: count for shortfall, count in counts.items() if count}

    def _add(self, worker: str, offer: Offer, idle: bool) -> Seat:
        capabilities = offer.capabilities
        key = (
            frozenset(capabilities.providers),
            capabilities.memory_bytes.bit_length(),
            frozenset(capabilities.isolation),
        )
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(*key)
            self._fitting.clear()
        self._quartiles.clear()
        seat = Seat(offer, bucket, (offer.price_per_unit_microcredits, worker), idle)
        for prices in self._lists(seat):
            prices.add(seat.entry)
        self._standing += 1
        return seat

    def _remove(self, seat: Seat) -> None:
        self._quartiles.clear()
        for prices in self._lists(seat):
            prices.remove(seat.entry)
        for pipeline in dict.fromkeys(seat.offer.warm):
            if not len(self._warm[pipeline]):
                del self._warm[pipeline]
        if not len(seat.bucket.standing):
            # Workers make buckets up, so an empty one must not stay.
            del self._buckets[seat.bucket.key]
            self._fitting.clear()
        self._standing -= 1

    def _lists(self, seat: Seat) -> Iterator[PriceList]:
        """Every list that the offer at `seat` is in."""
        yield seat.bucket.standing
        if seat.idle:
            yield seat.bucket.idle
        for pipeline in dict.fromkeys(seat.offer.warm):
            yield self._warm.setdefault(pipeline, PriceList())


def _lower_quartile(lists: list[PriceList]) -> int:
    """The lower quartile of the prices in all lists, none of which is empty."""
    if not lists:
        return 0
    # It lies between the lists' own quartiles.
    own = [prices[len(prices) // 4][0] for prices in lists]
    low, high = min(own), max(own)
    wanted = sum(len(prices) for prices in lists) // 4 + 1
    while low < high:
        middle = (low + high) // 2
        if sum(prices.count_up_to(middle) for prices in lists) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low
