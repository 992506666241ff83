"""A device that crashes with many leases is absent once: that counts once, not for each lease."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradepost_broker.market.model.entities import Evidence, EvidenceKind
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import make_offer
from tradepost_broker.testing.staffed_market import NO_CHECKS, StaffedMarket


def crashed_market(leases: int, *, policy: MarketPolicy = NO_CHECKS) -> tuple[StaffedMarket, list[str]]:
    """w0 crashed with so many leases, whose jobs w1 did; the leases."""
    driver = StaffedMarket(0, policy=policy)
    driver.join("w0")
    driver.connect("w0", make_offer(5, capacity=4))
    lost = [driver.open_leases(driver.submit())[0].id for _ in range(leases)]
    crash(driver)
    return driver, lost


def crash(driver: StaffedMarket) -> None:
    """Let w0 be away until w1 has done its jobs."""
    driver.disconnect("w0")
    if driver.market.worker("w1") is None:
        driver.join("w1")
    driver.connect("w1", make_offer(10, capacity=8))
    driver.tick(driver.policy.reconnect_s)
    for lease in list(driver.in_hand["w1"]):
        driver.deliver(lease)
    driver.disconnect("w1")


def counted(driver: StaffedMarket) -> int:
    """How many leases are held against w0."""
    return sum(one.kind is EvidenceKind.EXPIRED and one.worker == "w0" for one in driver.all_of(Evidence))


def wait(driver: StaffedMarket) -> None:
    """Let the time for receipts pass."""
    for _ in range(4):
        driver.tick(driver.policy.late_receipt_s)
    driver.check()


@given(leases=st.integers(1, 4), capacity_back=st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_crash_counts_once_however_many_leases_it_loses(leases: int, capacity_back: bool) -> None:
    driver, _ = crashed_market(leases)
    if capacity_back:
        driver.connect("w0", make_offer(5, capacity=4))
    wait(driver)
    assert counted(driver) == 1
    driver.check_replay()


def test_each_absence_counts() -> None:
    driver, _ = crashed_market(3)
    driver.connect("w0", make_offer(5, capacity=4), open_leases=())
    for _ in range(3):
        driver.submit()
    crash(driver)
    wait(driver)
    assert counted(driver) == 2


def test_an_absence_counts_if_only_some_of_its_leases_are_answered() -> None:
    driver, lost = crashed_market(3)
    driver.connect("w0", make_offer(5, capacity=4), open_leases=())
    driver.deliver(lost[0], worker="w0")
    wait(driver)
    assert counted(driver) == 1


def test_nothing_counts_if_all_of_its_leases_are_answered() -> None:
    driver, lost = crashed_market(3)
    driver.connect("w0", make_offer(5, capacity=4), open_leases=())
    for lease in lost:
        driver.deliver(lease, worker="w0")
    wait(driver)
    assert counted(driver) == 0


@pytest.mark.parametrize("leases", [1, 4])
def test_older_journals_keep_their_rule(leases: int) -> None:
    assert recorded_policy(b"\x80").absence_counts_once is False
    driver, _ = crashed_market(leases, policy=msgspec.structs.replace(NO_CHECKS, absence_counts_once=False))
    wait(driver)
    assert counted(driver) == leases
