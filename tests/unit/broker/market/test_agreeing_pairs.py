"""Results of two owners who agree with each other, and hardly with others, are checked more often."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.settling import rechecks
from tradepost_broker.market.trust.agreeing_pairs import AgreeingPairs
from tradepost_broker.testing.staffed_market import StaffedMarket

OWNERS = [f"owner-{number}" for number in range(20)]
owners = st.sampled_from("abcde")


def drawn(seed: int, jobs: int) -> AgreeingPairs:
    """The agreements of owners of whom the first is drawn uniformly, and the second from all the others."""
    rng, pairs = Random(seed), AgreeingPairs()
    for _ in range(jobs):
        pairs.add(*rng.sample(OWNERS, 2))
    return pairs


def test_two_who_agree_only_with_each_other_stand_out() -> None:
    pairs = drawn(0, 400)
    for _ in range(20):
        pairs.add("ring-a", "ring-b")
    assert pairs.excess("ring-a", "ring-b", drawn_from=20) > 0.8
    assert pairs.excess("ring-b", "ring-a", drawn_from=20) == pairs.excess("ring-a", "ring-b", drawn_from=20)


@pytest.mark.parametrize("jobs", [60, 300, 2_000])
def test_uniform_draws_leave_honest_owners_nearly_alone(jobs: int) -> None:
    excesses = []
    for seed in range(10):
        pairs = drawn(seed, jobs)
        excesses += [
            pairs.excess(one, other, drawn_from=19) for one in OWNERS for other in OWNERS if one < other
        ]
    assert sum(excess > 0 for excess in excesses) <= 0.03 * len(excesses)
    assert max(excesses) < 0.25


def test_who_wins_every_auction_is_nobodys_usual_partner() -> None:
    pairs = AgreeingPairs()
    for number in range(200):
        pairs.add("winner", OWNERS[number % 20])
    assert max(pairs.excess("winner", owner, drawn_from=20) for owner in OWNERS) == 0.0


def test_where_nobody_else_could_be_drawn_nothing_is_suspicious() -> None:
    pairs = AgreeingPairs()
    for _ in range(50):
        pairs.add("a", "b")
    assert pairs.excess("a", "b", drawn_from=1) == pairs.excess("a", "b", drawn_from=0) == 0.0


@given(
    agreements=st.lists(st.tuples(owners, owners).filter(lambda pair: pair[0] != pair[1]), max_size=300),
    pair=st.tuples(owners, owners),
    drawn_from=st.integers(0, 40),
)
def test_an_excess_is_a_share_and_the_same_from_both_sides(
    agreements: list[tuple[str, str]], pair: tuple[str, str], drawn_from: int
) -> None:
    pairs = AgreeingPairs()
    for owner, other in agreements:
        pairs.add(owner, other)
    excess = pairs.excess(*pair, drawn_from=drawn_from)
    assert 0.0 <= excess <= 1.0
    assert excess == pairs.excess(pair[1], pair[0], drawn_from=drawn_from)


@pytest.mark.parametrize("rate", [0.5, 0.0])
def test_the_market_checks_the_second_result_of_usual_partners_more_often(rate: float) -> None:
    driver = StaffedMarket(8, auditors=1, policy=MarketPolicy(agreeing_check_rate=rate))
    job = driver.submit(confidence=0.9)
    first, second = driver.open_leases(job)
    driver.deliver(first.id, "right")
    state = driver.market._state
    for _ in range(30):
        state.agreeing_pairs.add(first.worker, second.worker)
    # As if it had delivered the same: the rate is that of the moment when it does.
    second = state.leases[second.id]
    second.group = first.id
    found = rechecks.spot_check_rate(state, second)
    chance = 1 / second.drawn_from
    explained = chance + 3 * math.sqrt(chance * (1 - chance) / 30)
    assert found == pytest.approx(max(driver.policy.audit_rate, rate * (1 - explained) / (1 - chance)))
    assert (found > driver.policy.audit_rate) == (rate > 0)


def test_agreements_of_accepted_jobs_are_noted_until_a_restart() -> None:
    driver = StaffedMarket(2, auditors=1, policy=MarketPolicy(audit_rate=0.01))
    for _ in range(8):
        job = driver.submit(confidence=0.9)
        for lease in driver.open_leases(job):
            driver.deliver(lease.id, "right")
    pairs = driver.market._state.agreeing_pairs
    assert pairs.excess("w0", "w1", drawn_from=2) == 0.0
    assert pairs.excess("w0", "w1", drawn_from=30) > 0.5
    driver.restart()
    assert driver.market._state.agreeing_pairs.excess("w0", "w1", drawn_from=30) == 0.0
    driver.check_replay()


def test_older_journals_keep_their_rule() -> None:
    assert recorded_policy(b"\x80").agreeing_check_rate == 0.0
