"""No bidder gains by asking another price than its own: the auction over random profiles, and the market."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from tradepost_broker.market.matching.scoring import Bidder, Terms, clearing_price, ranked, weigh
from tradepost_broker.market.model.entities import Worker
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.state.price_levels import PriceLevels
from tradepost_broker.market.state.worker_state import Belief, WorkerState
from tradepost_broker.market.testing import MarketDriver

PROFILES = 3_000
PROFILES_LONG = 100_000
MISREPORTS = 4
POLICY = MarketPolicy()


@dataclass
class Profile:
    """A job, and what every bidder asks; `typical_bid_microcredits` is what earlier winners asked."""

    bids_microcredits: list[int]
    beliefs: list[Belief]
    warm: list[bool]
    terms: Terms

    def gain(self, bidder: int, bid_microcredits: int) -> int:
        """What `bidder` is paid beyond its true price, which the profile has, if it asks this instead."""
        bids_microcredits = list(self.bids_microcredits)
        bids_microcredits[bidder] = bid_microcredits
        bidders = [
            Bidder(worker_state(number), *one)
            for number, one in enumerate(zip(bids_microcredits, self.beliefs, self.warm, strict=True))
        ]
        weigh(bidders, self.terms, POLICY)
        ranking = ranked([one for one in bidders if one.bid_microcredits <= one.ceiling_microcredits])
        if not ranking or ranking[0].id != f"w{bidder}":
            return 0
        runner_up = ranking[1] if len(ranking) > 1 else None
        return clearing_price(ranking[0], runner_up, POLICY) - self.bids_microcredits[bidder]


def worker_state(number: int) -> WorkerState:
    """A worker whose own beliefs do not count here."""
    name = f"w{number}"
    record = Worker(id=name, owner=name, device="", public_key=b"", joined_at=0.0, auditor=False)
    return WorkerState(record, policy=POLICY, evidence_weights={})


def profile(rng: random.Random) -> Profile:
    """Few or many bidders of any reputation, and a cap that may be too tight for what they cost beside."""
    count = rng.choice((1, 2, 2, 3, 5, 9))
    beliefs = [
        Belief(score=rng.uniform(0.02, 0.99), credibility=0.9, log_odds=rng.uniform(0.1, 9.0), checks=3.0)
        for _ in range(count)
    ]
    terms = Terms(
        cap_microcredits=rng.choice((2_000, 10_000, 100_000)),
        typical_bid_microcredits=rng.choice((1, 700, 1_500, 40_000)),
        log_odds_missing=rng.choice((0.1, 2.2, 6.9)),
        artifact_bytes=rng.choice((0, 10**6, 10**9)),
        wall_s=30.0,
        time_left_s=rng.choice((5.0, 300.0)),
    )
    bids_microcredits = [rng.randint(1, 3_000) for _ in range(count)]
    return Profile(bids_microcredits, beliefs, [rng.random() < 0.5 for _ in range(count)], terms)


@pytest.mark.parametrize(
    "profiles", [PROFILES, pytest.param(PROFILES_LONG, marks=pytest.mark.long)], ids=["some", "very many"]
)
def test_no_bidder_gains_by_another_price_than_its_own(profiles: int) -> None:
    wins = 0
    for seed in range(profiles):
        rng = random.Random(seed)
        one = profile(rng)
        bidder = rng.randrange(len(one.bids_microcredits))
        own_microcredits = one.bids_microcredits[bidder]
        honest = one.gain(bidder, own_microcredits)
        assert honest >= 0
        wins += honest > 0
        for _ in range(MISREPORTS):
            asked = max(1, int(own_microcredits * rng.uniform(0.1, 4.0)))
            assert one.gain(bidder, asked) <= honest, (seed, bidder, asked)
    assert wins > profiles / 10


def market(bids: dict[str, int], before: dict[str, int]) -> MarketDriver:
    """A market in which owners with the bids `before` have won, and those of `bids` take part now."""
    driver = MarketDriver(policy=MarketPolicy(audit_rate=0.0))
    driver.fund()
    driver.publish()
    for worker, bid_microcredits in before.items():
        driver.add_worker(worker, bid_microcredits)
        driver.deliver(driver.open_leases(driver.submit(confidence=0.5))[0].id)
        driver.disconnect(worker)
    for worker, bid_microcredits in bids.items():
        driver.add_worker(worker, bid_microcredits)
    return driver


def paid_microcredits(driver: MarketDriver, worker: str) -> int:
    """What the next job's first result is worth to `worker`."""
    [lease, *_] = driver.open_leases(driver.submit(confidence=0.5))
    return lease.price_microcredits if lease.worker == worker else 0


def test_who_asks_more_does_not_make_a_rival_dearer() -> None:
    """With the lower median of two bids, which is the winner's own, it would be paid more."""
    before = {"first": 10, "second": 12, "third": 30}
    rivals = {"dear": 40, "dearer": 60}
    prices = {paid_microcredits(market({"cheap": asked, **rivals}, before), "cheap") for asked in (5, 20, 39)}
    assert prices == {4_000}


def test_what_winners_asked_counts_once_an_owner_and_is_forgotten_with_the_newest_kept() -> None:
    levels = PriceLevels()
    assert levels.typical_microcredits("cpu") is None
    for number in range(100):
        levels.note("cpu", "one with many devices", 1_000 + number)
    levels.note("cpu", "alice", 10)
    levels.note("cpu", "bob", 20)
    assert levels.typical_microcredits("cpu") == 20
    assert levels.typical_microcredits("cuda") is None
    for number in range(64):
        levels.note("cpu", f"w{number}", 5)
    levels.note("cpu", "w0", 7)
    levels.note("cpu", "another", 9)
    assert levels.typical_microcredits("cpu") == 5
    levels.clear()
    assert levels.typical_microcredits("cpu") is None
