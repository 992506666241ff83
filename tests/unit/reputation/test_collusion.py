"""The tails of the binomial distribution, exact for small numbers, and Bonferroni's correction."""

from __future__ import annotations

import math

import pytest

from tradepost_reputation.collusion import binomial_tail, corrected_p_value


def exact(count: int, trials: int, probability: float) -> float:
    return sum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(count, trials + 1)
    )


@pytest.mark.parametrize("trials", [1, 2, 7, 40, 300])
@pytest.mark.parametrize("probability", [1e-6, 0.01, 0.3, 0.9])
def test_the_tail_is_the_sum_of_what_it_contains(trials: int, probability: float) -> None:
    for count in {0, 1, 2, trials // 2, trials - 1, trials}:
        expected = exact(count, trials, probability)
        assert binomial_tail(count, trials, probability) == pytest.approx(expected, rel=1e-8, abs=1e-300)


def test_at_the_edges_the_tail_is_certain_or_impossible() -> None:
    assert binomial_tail(0, 5, 0.0) == binomial_tail(5, 5, 1.0) == 1.0
    assert binomial_tail(1, 5, 0.0) == binomial_tail(6, 5, 0.5) == 0.0


def test_for_rare_events_it_is_the_poisson_tail() -> None:
    mean, count = 2.0, 9
    poisson = 1 - sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(count))
    assert binomial_tail(count, 10**6, mean / 10**6) == pytest.approx(poisson, rel=1e-3)


def test_the_p_value_counts_all_sets_that_could_have_been_chosen() -> None:
    tail = binomial_tail(9, 20, 1 / 20)
    assert corrected_p_value(9, 1.0, trials=20, chosen=2, owners=40) == pytest.approx(tail * 780)
    assert corrected_p_value(9, 1.0, trials=20, chosen=20, owners=40) == 1.0


def test_what_is_not_above_what_is_expected_is_no_evidence() -> None:
    assert corrected_p_value(5, 4.5, trials=20, chosen=2, owners=3) == 1.0
    assert corrected_p_value(3, 0.0, trials=0, chosen=2, owners=3) == 1.0
    assert corrected_p_value(3, 0.0, trials=3, chosen=2, owners=3) == 0.0
