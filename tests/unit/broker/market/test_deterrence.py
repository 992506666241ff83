"""Results are checked so often that cheating does not pay, and what an owner may decide alone is covered."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.protocol import JobStatus
from tradepost_broker.market.ledger import held_of, stake_of
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.settling import rechecks
from tradepost_broker.market.testing import make_offer
from tradepost_broker.market.trust.check_rate import deterrent_rate, is_covered
from tradepost_broker.testing.staffed_market import StaffedMarket

POLICY = MarketPolicy()
#: One passed check is just enough to be believed alone at this confidence.
JUST_BELIEVED = 0.908
amounts = st.integers(0, 10**12)
prices = st.integers(1, 10**12)
#: What a cheat does next: it answers a job of this price wrongly, or a share of its pay matures.
moves = st.lists(st.one_of(prices, st.floats(0, 1)), max_size=30)


def expected_wealth(moves: list[int | float], stake: int, held: float, audit_rate: float) -> float:
    """What a worker has in the end that makes these moves until it is caught: stake, held and matured pay."""
    matured, free, wealth = 0.0, 1.0, 0.0
    for move in moves:
        if isinstance(move, float):
            matured, held = matured + move * held, held * (1 - move)
            continue
        at_stake = int(stake + held)
        rate = max(audit_rate, deterrent_rate(move, at_stake_microcredits=at_stake))
        wealth += free * rate * matured  # caught: it keeps what has matured
        free *= 1 - rate
        held += move
    return wealth + free * (stake + held + matured)


@given(moves=moves, stake=amounts, held=amounts, audit_rate=st.floats(0, 1))
def test_no_sequence_of_cheats_gains_in_expectation(
    moves: list[int | float], stake: int, held: int, audit_rate: float
) -> None:
    gain = expected_wealth(moves, stake, held, audit_rate) - (stake + held)
    # A credit more than a whole number of microcredits at stake is rounded away at each move.
    assert gain <= 1e-9 * (stake + held + sum(move for move in moves if isinstance(move, int))) + len(moves)


@given(price=prices, at_stake=amounts)
def test_the_rate_is_the_least_that_deters(price: int, at_stake: int) -> None:
    rate = deterrent_rate(price, at_stake_microcredits=at_stake)
    assert 0 < rate <= 1
    assert rate * at_stake == pytest.approx((1 - rate) * price, rel=1e-6, abs=1e-3)
    assert rate == 1 or at_stake > 0


@given(price=prices, market_price=prices, stake=amounts, checks=st.floats(0, 1e6), held=amounts)
def test_what_is_decided_alone_is_covered_by_stake_and_record(
    price: int, market_price: int, stake: int, checks: float, held: int
) -> None:
    def covers(price: int, held: int = 0) -> bool:
        return is_covered(
            held,
            price,
            market_price_microcredits=market_price,
            stake_microcredits=stake,
            checks_passed=checks,
            results_per_check=10.0,
        )

    assert not covers(price, held) or held + price <= stake + 10.0 * checks * min(price, market_price)
    assert not covers(price, held) or covers(price)
    # What a record covers does not grow with the price that is asked.
    assert not covers(int((stake + 10.0 * checks * market_price) * (1 + 1e-9)) + 1)


@given(price=st.integers(1, 100_000), stake=st.integers(0, 2_000_000))
def test_the_market_checks_a_result_as_often_as_its_price_and_stake_ask(price: int, stake: int) -> None:
    driver = StaffedMarket(0, auditors=1, policy=POLICY)
    driver.join("w0", stake_microcredits=stake)
    driver.connect("w0", make_offer(1))
    job = driver.submit(max_price_microcredits=max(price, 100))
    [lease] = driver.open_leases(job)
    rate = rechecks.spot_check_rate(driver.market._state, lease)
    at_stake = driver.market.account(stake_of("w0")).available_microcredits
    assert rate * at_stake >= (1 - rate) * lease.price_microcredits * (1 - 1e-9)
    assert rate >= POLICY.audit_rate


def unstaked_market(policy: MarketPolicy) -> StaffedMarket:
    """Three workers without a stake, of which w0 has passed one check, and an auditor."""
    driver = StaffedMarket(0, auditors=1, policy=msgspec.structs.replace(policy, audit_rate=1.0))
    driver.join("w0", stake_microcredits=0)
    driver.connect("w0", make_offer(9))
    job = driver.submit()
    driver.deliver_all(job, "right")
    driver.deliver(driver.open_audit(job).id, "right")
    driver.tick(policy.hold_s + policy.idempotency_s)
    driver.policy = policy
    driver.restart()
    driver.connect("w0", make_offer(9))
    driver.connect("a0")
    for other in ("w1", "w2"):
        driver.add_worker(other, 10)
    return driver


def test_a_newcomer_without_a_stake_is_always_checked() -> None:
    driver = unstaked_market(POLICY)
    job = driver.submit()
    driver.deliver_all(job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.open_audit(job).worker == "a0"


@pytest.mark.parametrize("exposure_results", [3.0, 5.0, 0.0])
def test_an_owner_decides_alone_what_its_record_covers(exposure_results: float) -> None:
    policy = MarketPolicy(audit_rate=0.0, recheck_rate=1e-9, exposure_results=exposure_results)
    driver = unstaked_market(policy)
    driver.disconnect("a0")
    believed, covered = [], []
    for _ in range(4):
        held = driver.market.account(held_of("w0")).available_microcredits
        job = driver.submit(confidence=JUST_BELIEVED)
        [lease] = driver.open_leases(job)
        assert lease.worker == "w0"
        driver.deliver(lease.id, "right")
        price = lease.price_microcredits
        # It has no stake, and has passed one check; a quarter of the offers ask 9 for each of 100 units.
        covered.append(not exposure_results or held + price <= exposure_results * min(price, 900))
        believed.append(driver.job(job).status is JobStatus.ACCEPTED)
    assert believed == covered
    assert believed[0]
    assert believed[-1] == (not exposure_results)
    driver.check()


def test_all_devices_of_an_owner_share_what_it_may_decide_alone() -> None:
    driver = unstaked_market(MarketPolicy(audit_rate=0.0, recheck_rate=1e-9, exposure_results=3.0))
    driver.disconnect("a0")
    state = driver.market._state
    driver.join("other", owner="w0", stake_microcredits=0)
    held = 0
    for _ in range(3):
        job = driver.submit(confidence=JUST_BELIEVED)
        [lease] = driver.open_leases(job)
        driver.deliver(lease.id, "right")
        held += lease.price_microcredits
    job = driver.submit(confidence=JUST_BELIEVED)
    [lease] = driver.open_leases(job)
    assert not rechecks.is_owner_covered(state, state.jobs[job], lease)
    driver.join("staked", owner="w0", stake_microcredits=held + lease.price_microcredits)
    assert rechecks.is_owner_covered(state, state.jobs[job], lease)


def test_older_journals_keep_their_rule() -> None:
    recorded = recorded_policy(b"\x80")
    assert (recorded.cheat_gain_prices, recorded.exposure_results) == (0.0, 0.0)
