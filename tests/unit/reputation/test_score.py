"""Scores: what evidence does to them, what time does, and what time does not do."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost_reputation import Tally, Weight, beta_quantile, explain, score

GOOD = Weight(good=1.0, checks=1.0)
BAD = Weight(bad=0.5)
FRAUD = Weight(fraud=1.0)
weights = st.floats(0, 1e4)


@given(weights, weights)
def test_score_is_the_quantile_rounded_down(good: float, bad: float) -> None:
    exact = beta_quantile(0.05, good + 1, bad + 1)
    coarse_good = max(0.0, good * (1 - 1 / 64) - 0.25)
    coarse_bad = bad * (1 + 1 / 64) + 0.25
    least = beta_quantile(0.05, coarse_good + 1, coarse_bad + 1)
    assert least - 1e-9 <= score(good, bad) <= exact + 1e-9


@given(weights, weights, weights)
def test_good_evidence_raises_and_bad_lowers(good: float, more: float, bad: float) -> None:
    assert score(good + more, bad) >= score(good, bad) >= score(good, bad + more)


def tally_of(*evidence: tuple[str, Weight, int]) -> Tally:
    tally = Tally(half_life_days=30)
    for kind, weight, day in evidence:
        tally.add(kind, weight, day=day)
    return tally


def test_a_newcomer_scores_what_one_in_twenty_would() -> None:
    assert Tally(30).record(day=100).score == pytest.approx(0.05)


def test_good_and_soft_bad_evidence_is_forgotten_by_half_lives() -> None:
    record = tally_of(("agreed", GOOD, 0), ("failed", BAD, 0)).record(day=60)
    assert (record.good, record.bad, record.checks) == (0.25, 0.125, 0.25)


def test_fraud_is_never_forgotten() -> None:
    tally = tally_of(*[("agreed", GOOD, day) for day in range(100)], ("audit_failed", FRAUD, 100))
    assert tally.record(day=100).score < 0.1
    assert tally.record(day=100_000).fraud == 1.0
    assert tally.record(day=100_000).score < 0.001


def test_lost_trust_has_to_be_won_again() -> None:
    tally = tally_of(*[("agreed", GOOD, 0)] * 4, ("outvoted", Weight(bad=1.0, checks=-10.0), 0))
    assert tally.record(day=0).checks == 0.0
    for _ in range(8):
        tally.add("agreed", GOOD, day=0)
    assert tally.record(day=0).checks == 2.0


@given(st.permutations([("a", GOOD), ("b", BAD), ("c", Weight(good=0.125)), ("d", GOOD), ("e", BAD)]))
def test_order_within_a_day_does_not_matter(evidence: list[tuple[str, Weight]]) -> None:
    tally = tally_of(("before", GOOD, 3), *[(kind, weight, 17) for kind, weight in evidence])
    expected = tally_of(
        ("before", GOOD, 3),
        *[("x", weight, 17) for weight in (GOOD, BAD, Weight(good=0.125), GOOD, BAD)],
    )
    assert tally.record(day=40) == expected.record(day=40)


def test_evidence_from_a_clock_that_ran_back_counts_as_todays() -> None:
    late = tally_of(("agreed", GOOD, 10), ("agreed", GOOD, 9))
    assert late.record(day=10).good == 2.0
    assert late.record(day=9) == late.record(day=10)


def test_the_explanation_names_what_counts() -> None:
    lines = explain(tally_of(("audit_passed", GOOD, 0), ("expired", BAD, 0)), day=0, fault_fraction=0.2)
    text = "\n".join(lines)
    assert "1 audit passed, 1 expired" in text
    assert "1.0 good, 0.5 bad" in text
    assert "Checks that count: 1.0" in text
    assert "Fraud" not in text


def test_the_explanation_of_fraud_and_of_nothing() -> None:
    assert "Fraud was proven" in "\n".join(explain(tally_of(("x", FRAUD, 0)), day=0, fault_fraction=0.2))
    assert "newcomer scores 0.05" in explain(Tally(30), day=0, fault_fraction=0.2)[0]


days = st.integers(0, 90)
eighths = st.builds(
    lambda good, bad, checks: Weight(good=good / 8, bad=bad / 8, checks=checks / 8),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(-80, 8),
)


@given(st.lists(st.tuples(eighths, days), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_what_is_withdrawn_leaves_nothing_in_any_order(found: list[tuple[Weight, int]], rng: Random) -> None:
    found.sort(key=lambda one: one[1])
    records = []
    for _ in range(2):
        tally = tally_of(*(("failed", weight, day) for weight, day in found))
        for weight, day in rng.sample(found, len(found)):
            tally.withdraw("failed", weight, day=day)
        assert tally.counts == {}
        records.append(tally.record(day=90))
    assert records == [Tally(half_life_days=30).record(day=90)] * 2


@given(st.lists(st.tuples(eighths, days), min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_withdrawals_does_not_matter(found: list[tuple[Weight, int]], rng: Random) -> None:
    found.sort(key=lambda one: one[1])
    gone = found[::2]
    records = set()
    for _ in range(3):
        tally = tally_of(*(("failed", weight, day) for weight, day in found))
        for weight, day in rng.sample(gone, len(gone)):
            tally.withdraw("failed", weight, day=day)
        records.add(tally.record(day=90))
    assert len(records) == 1
