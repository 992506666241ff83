"""What is known about a source of blocks: how fast it is, and whether it can be believed to answer.

A source is timed twice: until its first byte, and by its rate from there on, since small blocks tell nothing
of the rate and large ones little of the delay. One that was not tried yet counts as the fastest, so that each
is tried once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tradepost.content.files import CHUNK_BYTES
from tradepost.content.sources import Source

_RATED_BYTES_MIN: Final = 64 << 10
_SMOOTHING: Final = 0.2


@dataclass(slots=True)
class Standing:
    """A source as a `Fetcher` knows it. `lied` is for ever; `aside_until` is by the fetcher's clock."""

    source: Source
    blocks: int = 0
    bytes: int = 0
    failures: int = 0
    lied: bool = False
    aside_until: float = 0.0
    first_byte_s: float | None = None
    rate_bytes_s: float | None = None

    @property
    def expected_s(self) -> float:
        """How long a full block should take; 0 for a source that was not tried."""
        return (self.first_byte_s or 0.0) + (CHUNK_BYTES / self.rate_bytes_s if self.rate_bytes_s else 0.0)

    def measure(self, size: int, until_first_s: float, then_s: float) -> None:
        """Count a block of `size` bytes that was delivered."""
        self.blocks += 1
        self.bytes += size
        self.first_byte_s = _smooth(self.first_byte_s, until_first_s)
        if size >= _RATED_BYTES_MIN and then_s > 0:
            self.rate_bytes_s = _smooth(self.rate_bytes_s, size / then_s)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + _SMOOTHING * (now - before)
