"""The Beta quantile against SciPy's, which is not a dependency of the package."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta as oracle

from tradepost_reputation.beta import beta_cdf, beta_quantile

parameters = st.floats(1.0, 1e5)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.001, 0.999), parameters, parameters)
def test_quantile_equals_scipys(probability: float, a: float, b: float) -> None:
    assert beta_quantile(probability, a, b) == pytest.approx(oracle.ppf(probability, a, b), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), parameters, parameters)
def test_distribution_equals_scipys(x: float, a: float, b: float) -> None:
    # Logarithms of gamma functions near 1e6 are what is subtracted: their rounding alone is some 1e-10.
    assert beta_cdf(x, a, b) == pytest.approx(oracle.cdf(x, a, b), abs=1e-9)


@pytest.mark.parametrize(
    ("probability", "a", "b", "expected"),
    [(0.05, 1, 1, 0.05), (0.5, 3, 3, 0.5), (0.05, 1, 2, 1 - 0.95**0.5)],
)
def test_known_values(probability: float, a: float, b: float, expected: float) -> None:
    assert beta_quantile(probability, a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("probability", "a", "b"), [(0.0, 1, 1), (1.0, 1, 1), (0.5, 0.5, 1), (0.5, 1, 0)])
def test_outside_its_domain_it_refuses(probability: float, a: float, b: float) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        beta_quantile(probability, a, b)
