"""How long runs of each pipeline take, so that a lease that is late can be told from one that runs.

A time is measured by the broker, from grant to receipt, in seconds per work unit, and counts once the result
is accepted. Each owner has one time for each pipeline: its longest, which fades as shorter ones come, since
inputs differ. What is typical is the median over owners, so an owner with many devices or jobs weighs as one.

The newest times are also kept one by one, without their owners, for estimates of how long a job takes.

Memory is bounded: so many pipelines, and so many owners and times of each, the newest. None of it is in the
records, so a restart begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from tradepost_broker.market.model.median import median

_PIPELINES_MAX: Final = 1_024
_OWNERS_MAX: Final = 64
#: Owners that must have given a result before their median says anything.
_OWNERS_MIN: Final = 3
#: What is left of an owner's longest time when a shorter one comes.
_FADING: Final = 0.9


class RunTimes:
    """Times by pipeline and owner, in seconds per work unit; and the newest `newest_max` of each pipeline."""

    def __init__(self, *, newest_max: int = 0) -> None:
        self._times: dict[str, dict[str, float]] = {}
        self._newest: dict[str, deque[float]] = {}
        self._newest_max = newest_max

    def note(self, pipeline: str, owner: str, s_per_unit: float) -> None:
        """Take in how long an accepted result took."""
        times = self._times.pop(pipeline, {})
        self._times[pipeline] = times  # the newest last
        if len(self._times) > _PIPELINES_MAX:
            oldest = next(iter(self._times))
            del self._times[oldest]
            self._newest.pop(oldest, None)
        if self._newest_max:
            self._newest.setdefault(pipeline, deque(maxlen=self._newest_max)).append(s_per_unit)
        times[owner] = max(s_per_unit, _FADING * times.pop(owner, 0.0))
        if len(times) > _OWNERS_MAX:
            del times[next(iter(times))]

    def typical_s_per_unit(self, pipeline: str) -> float | None:
        """The lower median over the owners; `None` if they are too few."""
        times = self._times.get(pipeline, {})
        return median(times.values()) if len(times) >= _OWNERS_MIN else None

    def own_s_per_unit(self, pipeline: str, owner: str) -> float:
        """The time of this owner; 0 if it is not known."""
        return self._times.get(pipeline, {}).get(owner, 0.0)

    def newest_s_per_unit(self, pipeline: str) -> Sequence[float]:
        """The newest times, shortest first; none if none was measured."""
        return sorted(self._newest.get(pipeline, ()))

    def clear(self) -> None:
        """Forget everything."""
        self._newest.clear()
        self._times.clear()
