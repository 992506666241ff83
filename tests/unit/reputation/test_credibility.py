"""Sarmenta's formulas against the published form and against Bayes' rule by enumeration."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost_reputation import credibility_of_groups, credibility_of_worker, log_odds, results_needed

F = 0.2
credibilities = st.floats(0.51, 0.999)


@pytest.mark.parametrize(
    ("checks", "blacklisting", "expected"),
    [
        (0, True, 0.8),
        (0, False, 0.8),
        (1, True, 1 - 0.2 / (0.8 * math.e)),
        (10, True, 1 - 0.2 / (0.8 * 10 * math.e)),
        (10, False, 1 - 0.2 / 10),
        (0.1, True, 0.8),  # the formula alone would say less than for a worker that nobody checked
        (1e12, True, 1 - 1e-9),
    ],
)
def test_credibility_of_a_worker(checks: float, blacklisting: bool, expected: float) -> None:
    got = credibility_of_worker(checks, fault_fraction=F, blacklisting=blacklisting)
    assert got == pytest.approx(expected, abs=1e-12)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.01, 0.49))
def test_more_checks_never_make_a_worker_less_credible(a: float, b: float, f: float) -> None:
    low, high = sorted((a, b))
    less = credibility_of_worker(low, fault_fraction=f)
    assert 1 - f <= less <= credibility_of_worker(high, fault_fraction=f) < 1


@pytest.mark.parametrize("f", [0.0, 0.5, 1.0, -0.1])
def test_a_fault_fraction_that_decides_nothing_is_refused(f: float) -> None:
    with pytest.raises(ValueError, match="fault fraction"):
        credibility_of_worker(1, fault_fraction=f)


@given(st.lists(st.lists(credibilities, min_size=1, max_size=4), min_size=1, max_size=3))
def test_groups_have_the_published_credibility(groups: list[list[float]]) -> None:
    """Sarmenta (2002), the credibility of a result group:

    P(G_a good) prod_{i != a} P(G_i bad) / (prod_j P(G_j bad) + sum_j P(G_j good) prod_{i != j} P(G_i bad)).
    """
    good = [math.prod(group) for group in groups]
    bad = [math.prod(1 - credibility for credibility in group) for group in groups]
    alone = [good[a] * math.prod(bad[i] for i in range(len(groups)) if i != a) for a in range(len(groups))]
    whole = math.prod(bad) + sum(alone)
    got = credibility_of_groups([[log_odds(credibility) for credibility in group] for group in groups])
    assert got == pytest.approx([part / whole for part in alone], rel=1e-6, abs=1e-12)


@given(st.lists(credibilities, min_size=1, max_size=5))
def test_one_group_has_bayes_credibility(group: list[float]) -> None:
    """All right or all wrong, given that they agree."""
    worlds = {
        rights: math.prod(c if right else 1 - c for c, right in zip(group, rights, strict=True))
        for rights in product([True, False], repeat=len(group))
    }
    agreeing = worlds[(True,) * len(group)] + worlds[(False,) * len(group)]
    expected = worlds[(True,) * len(group)] / agreeing
    assert credibility_of_groups([[log_odds(c) for c in group]])[0] == pytest.approx(expected, rel=1e-6)


def test_no_groups_no_credibility() -> None:
    assert credibility_of_groups([]) == []


def test_hundreds_of_results_do_not_overflow() -> None:
    sure, against = credibility_of_groups([[20.0] * 500, [20.0]])
    assert sure == pytest.approx(1.0)
    assert against == pytest.approx(0.0)


@given(st.floats(0.5, 0.9999), credibilities)
def test_results_needed_is_the_least_that_reach_the_confidence(confidence: float, credibility: float) -> None:
    needed = results_needed(log_odds(confidence), log_odds(credibility))
    assert needed * log_odds(credibility) >= log_odds(confidence) - 1e-6
    assert needed == 0 or (needed - 1) * log_odds(credibility) < log_odds(confidence)


def test_results_that_prove_nothing_never_add_up() -> None:
    with pytest.raises(ValueError, match="never add up"):
        results_needed(1.0, 0.0)
