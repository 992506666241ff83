"""A score's history ends at the score, and follows every finding and every withdrawal."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tradepost_reputation.history import Scored, score_history
from tradepost_reputation.score import DAY_S, Tally, Weight, score

GOOD, BAD, FRAUD = Weight(good=1.0), Weight(bad=1.0), Weight(fraud=1.0)
DAY: float = 20_000.0 * DAY_S


def test_no_finding_is_no_history() -> None:
    assert score_history([], half_life_days=30.0, until=DAY) == []


def test_each_finding_moves_the_score_and_narrows_the_interval() -> None:
    findings = [Scored(DAY + hour * 3600, "agreed", GOOD) for hour in range(10)]
    points = score_history(findings, half_life_days=30.0, until=findings[-1].at)
    assert [one.score for one in points] == [score(count, 0.0) for count in range(1, 11)]
    gaps = [one.high - one.score for one in points]
    assert all(0 < later < earlier for earlier, later in pairwise(gaps))


def test_the_record_fades_until_today() -> None:
    findings = [Scored(DAY, "agreed", Weight(good=8.0))]
    first, last = score_history(findings, half_life_days=30.0, until=DAY + 30 * DAY_S)
    assert (first.at, last.at) == (DAY, DAY + 30 * DAY_S)
    assert (first.score, last.score) == (score(8.0, 0.0), score(4.0, 0.0))


def test_fraud_leaves_nothing() -> None:
    findings = [Scored(DAY, "agreed", Weight(good=64.0)), Scored(DAY + 1, "audit_failed", FRAUD)]
    points = score_history(findings, half_life_days=30.0, until=DAY + 1)
    assert points[0].score > 0.9
    assert points[-1].high < 0.1


def test_what_was_withdrawn_counts_no_more() -> None:
    lost = Scored(DAY + DAY_S, "failed", BAD)
    findings = [
        Scored(DAY, "agreed", GOOD),
        lost,
        Scored(DAY + 3 * DAY_S, "withdrawn", Weight(), withdraws=(lost.at, lost.kind, lost.weight)),
    ]
    with_it, without = (
        score_history(some, half_life_days=30.0, until=DAY + 3 * DAY_S)[-1]
        for some in (findings, findings[:1])
    )
    assert with_it == pytest.approx(without, abs=1e-9)


def test_many_findings_have_few_points_and_end_at_the_score_of_all() -> None:
    rng = random.Random(7)
    at, findings, tally = DAY, [], Tally(30.0)
    for _ in range(3_000):
        at += rng.expovariate(1 / 2_000)
        weight = rng.choice((GOOD, GOOD, GOOD, BAD))
        findings.append(Scored(at, "agreed" if weight is GOOD else "failed", weight))
        tally.add(findings[-1].kind, weight, day=int(at // DAY_S))
    points = score_history(findings, half_life_days=30.0, until=at, points_max=100)
    assert len(points) <= 101
    assert [one.at for one in points] == sorted(one.at for one in points)
    assert points[-1].score == tally.record(day=int(at // DAY_S)).score
