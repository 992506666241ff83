"""Handshakes that are under way: workers' connections that have not proved their key yet.

Anyone can begin one, in the name of any worker, and let it hang. So the oldest from an address gives way to a
new one from there: nobody can keep out a worker behind the same address by beginning handshakes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tradepost.errors import QuotaExceeded


@dataclass(eq=False, frozen=True)
class _Handshake:
    address: str
    began_s: float
    cut: Callable[[], None]


class Handshakes:
    """Lets `total` handshakes be under way, and `each` from one address.

    If there are `total`, the oldest gives way once it has taken `grace_s`, which is more than an honest one
    takes; before that, a new one is refused.
    """

    def __init__(
        self,
        *,
        total: int,
        each: int,
        grace_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._each = each
        self._grace_s = grace_s
        self._monotonic = monotonic
        #: The oldest first.
        self._pending: dict[_Handshake, None] = {}
        self._counts: Counter[str] = Counter()

    @contextmanager
    def begin(self, address: str, cut: Callable[[], None]) -> Iterator[None]:
        """Count a handshake until the context ends; `cut` ends it early. Raises `QuotaExceeded`."""
        now_s = self._monotonic()
        if self._counts[address] >= self._each:
            self._cut(next(one for one in self._pending if one.address == address))
        elif len(self._pending) >= self._total:
            oldest = next(iter(self._pending))
            if now_s - oldest.began_s < self._grace_s:
                raise QuotaExceeded(
                    f"{self._total} workers are connecting at this moment", hint="Try again in a moment."
                )
            self._cut(oldest)
        handshake = _Handshake(address, now_s, cut)
        self._pending[handshake] = None
        self._counts[address] += 1
        try:
            yield
        finally:
            self._forget(handshake)

    def _cut(self, handshake: _Handshake) -> None:
        self._forget(handshake)
        handshake.cut()

    def _forget(self, handshake: _Handshake) -> None:
        if handshake in self._pending:
            del self._pending[handshake]
            self._counts[handshake.address] -= 1
            if not self._counts[handshake.address]:
                del self._counts[handshake.address]
