"""What a job prefers: four weights of one rule, each with its reason; without them, nothing changes."""

from __future__ import annotations

import copy

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradepost.protocol import Offer, Preference
from tradepost_broker.market.model.entities import Job, LeasePurpose, Match
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline

POLICY = MarketPolicy(audit_rate=0.0, delay_cost_bids_per_s=0.1)


def market_with(**offers: Offer) -> MarketDriver:
    driver = MarketDriver(policy=POLICY)
    driver.fund()
    driver.publish(make_pipeline(artifact_bytes=20 << 20))
    for worker, offer in offers.items():
        driver.join(worker)
        driver.connect(worker, offer)
    return driver


def match_for(driver: MarketDriver, preference: Preference | msgspec.UnsetType = msgspec.UNSET) -> Match:
    """How a job with this preference is matched."""
    job = driver.submit(preference=preference)
    return driver.of(Match, f"{job}.1")


def winner(match: Match) -> str:
    return match.candidates[0].worker


def lost_because(match: Match) -> str:
    return match.candidates[1].lost_because


def run(driver: MarketDriver, seconds: dict[str, float]) -> None:
    """Let each worker, alone, do one job that takes so long."""
    known = {worker: driver.market.worker(worker).offer for worker in seconds}  # type: ignore[union-attr]
    for worker in known:
        driver.disconnect(worker)
    for worker, duration_s in seconds.items():
        driver.connect(worker, known[worker])
        [lease] = driver.open_leases(driver.submit())
        driver.at += duration_s
        driver.deliver(lease.id)
        driver.disconnect(worker)
    for worker, offer in known.items():
        driver.connect(worker, offer)


def test_latency_weighs_how_long_an_owners_runs_take() -> None:
    driver = market_with(slow=make_offer(10), quick=make_offer(12))
    run(driver, {"slow": 20.0, "quick": 2.0})
    assert winner(match_for(copy.deepcopy(driver))) == "slow"
    match = match_for(driver, Preference(latency=1.0))
    assert winner(match) == "quick"
    assert lost_because(match) == "latency: runs take 20 s, the winner's 2 s"
    driver.check()


def test_an_owner_without_measured_runs_is_taken_to_be_typical() -> None:
    driver = market_with(a=make_offer(10), b=make_offer(10), c=make_offer(10), new=make_offer(14))
    run(driver, {"a": 20.0, "b": 20.0, "c": 4.0})
    assert winner(match_for(driver, Preference(latency=5.0))) == "c"
    driver.disconnect("c")
    match = match_for(driver, Preference(latency=5.0))
    assert winner(match) in ("a", "b"), "the new one is no quicker than they are, and asks more"


def test_load_weighs_open_leases() -> None:
    driver = market_with(busy=make_offer(10, capacity=4), idle=make_offer(12, capacity=4))
    for _ in range(3):
        assert winner(match_for(driver)) == "busy"
    match = match_for(driver, Preference(load=1.0))
    assert winner(match) == "idle"
    assert lost_because(match) == "load: 3 open leases, the winner has 0"


def test_locality_weighs_what_is_not_cached() -> None:
    driver = market_with(cold=make_offer(10), warm=make_offer(20, warm=("digits",)))
    assert winner(match_for(driver)) == "cold"
    match = match_for(driver, Preference(locality=20.0))
    assert winner(match) == "warm"
    assert lost_because(match) == "not cached"
    driver.update_offer("warm", make_offer(11, warm=("digits",)))
    assert winner(match_for(driver)) == "warm"
    assert winner(match_for(driver, Preference(locality=0.0))) == "cold", "the price alone"


def test_the_weight_of_the_price_divides_the_others() -> None:
    driver = market_with(cold=make_offer(10), warm=make_offer(20, warm=("digits",)))
    assert winner(match_for(driver, Preference(price=100.0, locality=20.0))) == "cold"


# One rule, whatever the weights


weights = st.sampled_from([0.0, 0.5, 1.0, 7.0, 100.0])
preferences = st.builds(
    Preference,
    price=st.sampled_from([0.01, 0.5, 1.0, 100.0]),
    latency=weights,
    locality=weights,
    load=weights,
)
offers = st.builds(
    make_offer,
    st.integers(1, 60),
    capacity=st.sampled_from([1, 2]),
    warm=st.sampled_from([(), ("digits",)]),
)


@given(
    known=st.lists(offers, max_size=8),
    confidence=st.sampled_from([0.5, 0.75, 0.9]),
    price=st.sampled_from([1_000, 5_000, 20_000]),
    jobs=st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_the_default_preference_is_the_market_without_one(
    known: list[Offer], confidence: float, price: int, jobs: int
) -> None:
    drivers = []
    for preference in (msgspec.UNSET, Preference()):
        driver = market_with(**{f"w{number}": offer for number, offer in enumerate(known)})
        for _ in range(jobs):
            driver.submit(confidence=confidence, max_price_microcredits=price, preference=preference)
        drivers.append(driver)
    without, neutral = drivers
    assert without.all_of(Match) == neutral.all_of(Match)
    assert [job.status for job in without.all_of(Job)] == [job.status for job in neutral.all_of(Job)]


@given(known=st.lists(offers, min_size=1, max_size=8), preference=preferences)
@settings(max_examples=100, deadline=None)
def test_a_preference_changes_who_wins_and_nothing_else(known: list[Offer], preference: Preference) -> None:
    driver = market_with(**{f"w{number}": offer for number, offer in enumerate(known)})
    for _ in range(3):
        job = driver.submit(preference=preference, max_price_microcredits=7_000)
        for lease in driver.open_leases(job):
            offer = known[int(lease.worker[1:])]
            assert offer.price_per_unit_microcredits * 100 <= lease.price_microcredits <= 7_000
            assert lease.purpose is LeasePurpose.AUCTION
    driver.check()
    driver.tick(1.0)
    driver.restart()
    assert driver.job(job).preference == preference
    driver.check()


@given(known=st.lists(offers, min_size=3, max_size=3), bid=st.integers(1, 80), preference=preferences)
@settings(max_examples=200, deadline=None)
def test_a_winner_gains_nothing_by_another_bid(known: list[Offer], bid: int, preference: Preference) -> None:
    """The typical bid is kept the same: the lowest bidder stays the lowest, below the median."""
    lowest = min(range(3), key=lambda number: known[number].price_per_unit_microcredits)
    others = sorted(known[number].price_per_unit_microcredits for number in range(3) if number != lowest)
    true_price = known[lowest].price_per_unit_microcredits
    if not max(bid, true_price) <= others[0]:
        bid = min(bid, others[0])

    def gain(asked: int) -> int:
        changed = [
            msgspec.structs.replace(offer, price_per_unit_microcredits=asked) if number == lowest else offer
            for number, offer in enumerate(known)
        ]
        driver = market_with(**{f"w{number}": offer for number, offer in enumerate(changed)})
        job = driver.submit(preference=preference, max_price_microcredits=20_000)
        won = [lease for lease in driver.open_leases(job) if lease.worker == f"w{lowest}"]
        return won[0].price_microcredits - true_price * 100 if won else 0

    assert gain(bid) <= max(gain(true_price), 0)


def test_a_job_without_a_preference_is_stored_as_before() -> None:
    driver = market_with(a=make_offer(10))
    with_one = driver.job(driver.submit(preference=Preference(load=2.0)))
    without = driver.job(driver.submit())
    assert "preference" not in msgspec.to_builtins(without)
    assert msgspec.to_builtins(with_one)["preference"]["load"] == 2.0


@pytest.mark.parametrize("weight", [{"price": 0.0}, {"latency": -1.0}, {"load": 101.0}])
def test_weights_have_bounds(weight: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(weight, Preference)
