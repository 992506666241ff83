"""What a verification of the database found to differ: how much, and the first of it in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

_SHOWN_MAX: Final = 20


class Differences(msgspec.Struct, kw_only=True):
    """A report's first differences and how many there are: none if everything fits."""

    differences: list[str] = []
    differences_count: int = 0

    def differs(self, what: str) -> None:
        """Note a difference."""
        self.include(1, (what,))

    def include(self, count: int, first: Iterable[str]) -> None:
        """Note `count` differences, of which `first` are known in words."""
        self.differences_count += count
        self.differences += list(first)[: max(0, _SHOWN_MAX - len(self.differences))]
