"""A bound on what goes on at once, in all and for each of those who ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tradepost.errors import QuotaExceeded


class AtOnce:
    """Lets `total` of something be under way, and `each` of it for one key; `what` is how errors name it."""

    def __init__(self, what: str, *, total: int, each: int) -> None:
        self._what = what
        self._total = total
        self._each = each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, key: str, amount: int = 1) -> Iterator[None]:
        """Hold `amount` for `key` until the context ends. Raises `QuotaExceeded` if it is too much."""
        if self._taken[key] + amount > self._each or self._taken.total() + amount > self._total:
            raise QuotaExceeded(
                f"{self._what}: more than {self._each:,} for you or {self._total:,} in all",
                hint="Ask again in a moment.",
            )
        self._taken[key] += amount
        try:
            yield
        finally:
            self._taken[key] -= amount
            if not self._taken[key]:
                del self._taken[key]
