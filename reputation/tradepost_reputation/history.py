"""How a score came about: the score after each finding, with the interval that the record leaves open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tradepost_reputation.beta import beta_quantile
from tradepost_reputation.score import DAY_S, FRAUD_WEIGHT, QUANTILE, Tally, TrackRecord, Weight

#: Points of one history: more than a chart has pixels to show would only cost time.
POINTS_MAX: Final = 120


class Scored(NamedTuple):
    """One finding: when it was made (Unix seconds), of which kind, and what it adds to the record.

    If it `withdraws` an earlier finding, that one counts no more from then on.
    """

    at: float
    kind: str
    weight: Weight
    withdraws: tuple[float, str, Weight] | None = None


class ScorePoint(NamedTuple):
    """The score from `at` on: it is exceeded with 95% confidence, and `high` with 5%."""

    at: float
    score: float
    high: float


def score_history(
    findings: Sequence[Scored], *, half_life_days: float, until: float, points_max: int = POINTS_MAX
) -> list[ScorePoint]:
    """The scores that followed from `findings` of one capability class, oldest first, up to `until`.

    Of findings that are close together only the last has a point, so there are at most `points_max` and one
    more. At `until` the record has faded since the last finding.
    """
    if not findings:
        return []
    tally = Tally(half_life_days)
    first_at = findings[0].at
    step_s = max(1e-9, (until - first_at) / points_max)
    records: dict[int, tuple[float, TrackRecord]] = {}
    for one in findings:
        tally.add(one.kind, one.weight, day=_day(one.at))
        if one.withdraws is not None:
            found_at, kind, weight = one.withdraws
            tally.withdraw(kind, weight, day=_day(found_at))
        records[int((one.at - first_at) / step_s)] = one.at, tally.record(day=_day(one.at))
    last_at = findings[-1].at
    if until > last_at:
        records[points_max + 1] = until, tally.record(day=_day(until))
    return list(_points(records.values()))


def _points(records: Iterable[tuple[float, TrackRecord]]) -> Iterable[ScorePoint]:
    for at, record in records:
        bad = record.bad + FRAUD_WEIGHT * record.fraud
        yield ScorePoint(at, record.score, beta_quantile(1 - QUANTILE, record.good + 1, bad + 1))


def _day(at: float) -> int:
    return int(at // DAY_S)
