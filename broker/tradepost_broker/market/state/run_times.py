"""How long runs of each pipeline take, so that a lease that is late can be told from one that runs.

A time is measured by the broker, from grant to receipt, in seconds per work unit, and counts once the result
is accepted. Each owner has one time for each pipeline: its longest, which fades as shorter ones come, since
inputs differ. What is typical is the median over owners, so an owner with many devices or jobs weighs as one.

Memory is bounded: so many pipelines, and so many owners of each, the newest. None of it is in the records, so
a restart begins anew.
"""

from __future__ import annotations

from typing import Final

_PIPELINES_MAX: Final = 1_024
_OWNERS_MAX: Final = 64
#: Owners that must have given a result before their median says anything.
_OWNERS_MIN: Final = 3
#: What is left of an owner's longest time when a shorter one comes.
_FADING: Final = 0.9


class RunTimes:
    """Times by pipeline and owner, in seconds per work unit."""

    def __init__(self) -> None:
        self._times: dict[str, dict[str, float]] = {}

    def note(self, pipeline: str, owner: str, s_per_unit: float) -> None:
        """Take in how long an accepted result took."""
        times = self._times.pop(pipeline, {})
        self._times[pipeline] = times  # the newest last
        if len(self._times) > _PIPELINES_MAX:
            del self._times[next(iter(self._times))]
        times[owner] = max(s_per_unit, _FADING * times.pop(owner, 0.0))
        if len(times) > _OWNERS_MAX:
            del times[next(iter(times))]

    def typical_s_per_unit(self, pipeline: str) -> float | None:
        """The lower median over the owners; `None` if they are too few."""
        times = sorted(self._times.get(pipeline, {}).values())
        return times[(len(times) - 1) // 2] if len(times) >= _OWNERS_MIN else None

    def own_s_per_unit(self, pipeline: str, owner: str) -> float:
        """The time of this owner; 0 if it is not known."""
        return self._times.get(pipeline, {}).get(owner, 0.0)

    def clear(self) -> None:
        """Forget everything."""
        self._times.clear()
