"""A rate limit lets a burst through, then one at a time, and remembers a bounded number of keys."""

from __future__ import annotations

import pytest

from tradepost.errors import QuotaExceeded
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.testing import ManualClock


def test_a_burst_then_the_rate() -> None:
    clock = ManualClock(0.0)
    limit = RateLimit(burst=3, per_s=0.5, monotonic=clock)
    for _ in range(3):
        limit.take("a", "tries")
    with pytest.raises(QuotaExceeded, match="tries") as raised:
        limit.take("a", "tries")
    assert "less often" in raised.value.hint
    limit.take("b", "tries")
    clock.advance(1.9)
    with pytest.raises(QuotaExceeded):
        limit.check("a", "tries")
    clock.advance(0.2)
    limit.check("a", "tries")
    limit.take("a", "tries")
    with pytest.raises(QuotaExceeded):
        limit.take("a", "tries")


def test_what_is_spent_may_exceed_what_is_left_and_is_waited_for() -> None:
    clock = ManualClock(0.0)
    limit = RateLimit(burst=100, per_s=10.0, monotonic=clock)
    assert limit.wait_s("a") == 0
    limit.take("a", "bytes", 150)
    assert limit.wait_s("a") == pytest.approx(5.1)
    with pytest.raises(QuotaExceeded):
        limit.take("a", "bytes", 1)
    clock.advance(5.2)
    assert limit.wait_s("a") == 0
    limit.spend("a", 20)
    assert limit.wait_s("a") > 0


def test_a_bucket_fills_up_to_the_burst_only() -> None:
    clock = ManualClock(0.0)
    limit = RateLimit(burst=2, per_s=1.0, monotonic=clock)
    limit.take("a", "tries")
    clock.advance(1000)
    limit.take("a", "tries")
    limit.take("a", "tries")
    with pytest.raises(QuotaExceeded):
        limit.take("a", "tries")


def test_the_quietest_key_is_forgotten_first() -> None:
    limit = RateLimit(burst=1, per_s=0.0, monotonic=ManualClock(), keys_max=2)
    for key in ("a", "b", "c"):
        limit.take(key, "tries")
    limit.check("a", "tries")
    for key in ("b", "c"):
        with pytest.raises(QuotaExceeded):
            limit.check(key, "tries")


def test_a_key_that_is_checked_is_not_quiet() -> None:
    limit = RateLimit(burst=1, per_s=0.0, monotonic=ManualClock(), keys_max=2)
    limit.take("a", "tries")
    limit.take("b", "tries")
    with pytest.raises(QuotaExceeded):
        limit.check("a", "tries")
    limit.take("c", "tries")
    with pytest.raises(QuotaExceeded):
        limit.check("a", "tries")
