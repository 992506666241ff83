"""Quantiles of the Beta distribution, without a numerical library.

The distribution function is the regularised incomplete beta function I_x(a, b). It is computed from its
continued fraction, DLMF 8.17.22 (https://dlmf.nist.gov/8.17#v), by the modified Lentz method
(https://dlmf.nist.gov/3.10#iii), and inverted by bisection: slower than Newton's method, but it cannot
diverge, and callers cache.
"""

from __future__ import annotations

import math
from typing import Final

_TINY: Final = 1e-300  # stands in for a zero denominator, as Lentz's method asks
_PRECISION: Final = 1e-15
_TERMS_MAX: Final = 10_000
_BISECTIONS: Final = 60  # 2**-60 of the unit interval is below a double's resolution near one


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x in [0, 1] below which a Beta(a, b) variable lies with `probability` (0 to 1, exclusive).

    a and b are at least 1; outside that domain it raises `ValueError`. The absolute error is below 1e-9 for
    a + b up to 1e6.
    """
    if not 0 < probability < 1 or a < 1 or b < 1:
        raise ValueError(f"no quantile {probability} of Beta({a}, {b}); a and b must be at least 1")
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    # The fraction converges fast below the mean; above it, I_x(a, b) = 1 - I_{1-x}(b, a) (DLMF 8.17.4).
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_cdf(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a * _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d1 / (1 + d2 / (1 + …))) with the coefficients of DLMF 8.17.23.

    Lentz's method needs a first term that is not zero, so one is added here and taken off at the end.
    """
    numerator, denominator = 1.0, 0.0
    value = 1.0
    for term in range(_TERMS_MAX):
        m = term // 2
        if term == 0:
            d = 1.0
        elif term % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1.0 / (1.0 + d * denominator or _TINY)
        numerator = 1.0 + d / numerator or _TINY
        step = numerator * denominator
        value *= step
        if term and abs(step - 1.0) < _PRECISION:
            return value - 1.0
    raise ArithmeticError(f"I_{x}({a}, {b}) did not converge in {_TERMS_MAX} terms")
