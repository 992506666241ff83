"""The health of a source of blocks: its speed, its failures and its wrong answers.

A source is timed twice: until its first byte, and by its rate from there on, since small blocks tell nothing
of the rate and large ones little of the delay. One that was not tried yet counts as the fastest, so that each
is tried once.

One that failed is asked last for a while. One that sent other bytes than it was asked for is not asked at
all, each time for twice as long: a disk that was mended or a proxy that was taken away comes back by itself,
and who lies on purpose costs next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from tradepost.content.transfer.sources import Source
from tradepost.content.unixfs.files import CHUNK_BYTES

_RATED_BYTES_MIN: Final = 64 << 10
_SMOOTHING: Final = 0.2
_DOUBLINGS_MAX: Final = 64


@dataclass(slots=True)
class SourceHealth:
    """The health of one source of a `Fetcher`; times are seconds of the fetcher's clock.

    It is asked last until `aside_until_s`, and not at all until `distrusted_until_s`. `lies` counts how often
    it was caught sending other bytes; requests that were under way together are caught once.
    """

    source: Source
    blocks: int = 0
    bytes: int = 0
    failures: int = 0
    lies: int = 0
    aside_until_s: float = -math.inf
    distrusted_until_s: float = -math.inf
    first_byte_s: float | None = None
    rate_bytes_s: float | None = None

    @property
    def expected_s(self) -> float:
        """How long a full block should take; 0 for a source that was not tried."""
        return (self.first_byte_s or 0.0) + (CHUNK_BYTES / self.rate_bytes_s if self.rate_bytes_s else 0.0)

    def is_aside(self, now_s: float) -> bool:
        """Whether it is asked last, or not at all."""
        return now_s < max(self.aside_until_s, self.distrusted_until_s)

    def is_distrusted(self, now_s: float) -> bool:
        """Whether it is not asked at all."""
        return now_s < self.distrusted_until_s

    def put_aside(self, now_s: float, *, aside_s: float) -> None:
        """Ask it last for a while: it failed."""
        self.failures += 1
        self.aside_until_s = now_s + aside_s

    def distrust(self, now_s: float, *, first_s: float, s_max: float) -> None:
        """Ask it nothing, for `first_s` at the first lie and twice as long at each further one."""
        self.failures += 1
        if not self.is_distrusted(now_s):
            self.distrusted_until_s = now_s + min(s_max, first_s * 2.0 ** min(self.lies, _DOUBLINGS_MAX))
            self.lies += 1

    def measure(self, size: int, until_first_s: float, then_s: float) -> None:
        """Count a block of `size` bytes that was delivered."""
        self.blocks += 1
        self.bytes += size
        self.first_byte_s = _smooth(self.first_byte_s, until_first_s)
        if size >= _RATED_BYTES_MIN and then_s > 0:
            self.rate_bytes_s = _smooth(self.rate_bytes_s, size / then_s)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + _SMOOTHING * (now - before)
