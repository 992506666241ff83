"""Limits on callers: a rate, as a token bucket for each key, and concurrency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cachetools import LRUCache

from tradepost.errors import QuotaExceeded


class RateLimit:
    """Allows each key `burst` operations at once and `per_s` per second on average.

    Remembers `keys_max` keys; the one that was quiet for longest is forgotten first, with a full bucket.
    """

    def __init__(
        self, *, burst: int, per_s: float, monotonic: Callable[[], float], keys_max: int = 10_000
    ) -> None:
        self._burst = burst
        self._per_s = per_s
        self._monotonic = monotonic
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(keys_max)

    def check(self, key: str, what: str) -> None:
        """Raise `QuotaExceeded` if the bucket of `key` is empty."""
        if self._level(key) < 1:
            raise QuotaExceeded(
                f"{what}: more than {self._burst:,} at once or {self._per_s:g} a second",
                hint="Try again in a moment, and do it less often.",
            )

    def take(self, key: str, what: str, amount: float = 1) -> None:
        """Take `amount` from the bucket of `key`. Raises `QuotaExceeded` if it is empty."""
        self.check(key, what)
        self.spend(key, amount)

    def spend(self, key: str, amount: float = 1) -> None:
        """Take `amount` from the bucket of `key`, which may leave it less than empty."""
        self._buckets[key] = (self._level(key) - amount, self._monotonic())

    def wait_s(self, key: str) -> float:
        """How long the bucket of `key` stays empty, if nobody takes from it."""
        missing = 1 - self._level(key)
        return missing / self._per_s if missing > 0 else 0.0

    def _level(self, key: str) -> float:
        level, since = self._buckets.get(key, (float(self._burst), self._monotonic()))
        return min(self._burst, level + (self._monotonic() - since) * self._per_s)


class ConcurrencyLimit:
    """Lets `total` of something be under way, and `each` of it for one key; `what` is how errors name it."""

    def __init__(self, what: str, *, total: int, each: int) -> None:
        self._what = what
        self._total = total
        self._each = each
        self._taken: Counter[str] = Counter()
        self._taken_in_all = 0

    @property
    def taken(self) -> int:
        """How much is under way."""
        return self._taken_in_all

    @contextmanager
    def take(self, key: str, amount: int = 1) -> Iterator[None]:
        """Hold `amount` for `key` until the context ends. Raises `QuotaExceeded` if it is too much."""
        if self._taken[key] + amount > self._each or self._taken_in_all + amount > self._total:
            raise QuotaExceeded(
                f"{self._what}: more than {self._each:,} for one caller or {self._total:,} in total",
                hint="Try again in a moment.",
            )
        self._taken[key] += amount
        self._taken_in_all += amount
        try:
            yield
        finally:
            self._taken[key] -= amount
            self._taken_in_all -= amount
            if not self._taken[key]:
                del self._taken[key]
