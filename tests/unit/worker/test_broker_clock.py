"""How far a device's clock is from the broker's, as the clocks go on."""

from __future__ import annotations

import pytest

from tradepost_worker.link.broker_clock import BrokerClock
from tradepost_worker.wording import skewed


class Clocks:
    """This device's clock, which can be set, and the time that passes."""

    def __init__(self) -> None:
        self.at = 5000.0
        self.passed_s = 70.0

    def advance(self, seconds: float) -> None:
        self.at += seconds
        self.passed_s += seconds


def test_the_skew_stays_as_time_passes_and_ends_when_the_clock_is_set_right() -> None:
    clocks = Clocks()
    broker = BrokerClock(clock=lambda: clocks.at, elapsed=lambda: clocks.passed_s)
    assert broker.skew_s() is None
    broker.note(1400.0)
    assert broker.skew_s() == 3600.0
    clocks.advance(1000.0)
    assert broker.skew_s() == 3600.0
    clocks.at -= 3600.0
    assert broker.skew_s() == 0.0
    broker.note(None)
    assert broker.skew_s() is None


@pytest.mark.parametrize(
    ("skew_s", "said"),
    [
        (45.0, "45 s ahead of the broker's clock"),
        (-3550.0, "59 min behind the broker's clock"),
        (4 * 3600.0, "4.0 h ahead of the broker's clock"),
        (-90 * 3600.0, "3.8 days behind the broker's clock"),
    ],
)
def test_a_skew_in_words(skew_s: float, said: str) -> None:
    assert skewed(skew_s) == said
