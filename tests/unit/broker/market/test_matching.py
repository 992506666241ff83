"""Who is chosen, at what price, and what the match says about the others."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from past_checks import add_past_checks
from tradepost.errors import UntrustedPipeline
from tradepost.protocol import GiveBackReason, Requirements
from tradepost_broker.market.model.entities import LeasePurpose, Match
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import GIBIBYTE, MarketDriver, make_offer, make_pipeline

#: Nothing but bids and reputations decides: no spot checks, no cost of delay.
PLAIN = MarketPolicy(audit_rate=0.0, delay_cost_bids_per_s=0.0)


def market_with(*prices: int, policy: MarketPolicy = PLAIN, seed: int = 0) -> MarketDriver:
    """A market with a funded submitter, a pipeline of 100 units, and workers w0, w1, … at these prices."""
    driver = MarketDriver(policy=policy, seed=seed)
    driver.fund()
    driver.publish()
    for number, price in enumerate(prices):
        driver.add_worker(f"w{number}", price)
    return driver


def prove(driver: MarketDriver, worker: str, checks: int) -> None:
    """Give a worker a past of passed checks, as a restart would find it."""
    add_past_checks(driver, worker, checks)
    driver.restart()


def leases(driver: MarketDriver, job: str) -> list[tuple[str, LeasePurpose, int]]:
    """Who has which kind of lease of a job, at what price."""
    return [(lease.worker, lease.purpose, lease.price_microcredits) for lease in driver.market.leases_of(job)]


def match_of(driver: MarketDriver, job: str, attempt: int = 1) -> Match:
    return driver.of(Match, f"{job}.{attempt}")


# The auction


def test_the_best_score_wins_and_is_paid_what_the_second_would_have_cost() -> None:
    driver = market_with(12, 10, 15)
    job = driver.submit()
    assert leases(driver, job) == [("w1", LeasePurpose.AUCTION, 1200)]


def test_a_sole_bidder_is_paid_the_cap() -> None:
    driver = market_with(10)
    job = driver.submit(max_price_microcredits=5_000)
    assert leases(driver, job)[0][2] == 5_000


def test_busy_offers_compete_on_price_though_they_cannot_win() -> None:
    driver = market_with(10, 12)
    for worker, price in (("w0", 10), ("w1", 12)):
        driver.connect(worker, make_offer(price, capacity=1))
    first, second = driver.submit(max_price_microcredits=5_000), driver.submit(max_price_microcredits=5_000)
    assert leases(driver, first) == [("w0", LeasePurpose.AUCTION, 1200)]
    # The only idle worker is no monopolist: the busy one's lower offer leaves it its own bid.
    assert leases(driver, second) == [("w1", LeasePurpose.AUCTION, 1200)]
    assert match_of(driver, second).left_out == {"busy": 1}


def test_a_tight_cap_still_pays_the_bid() -> None:
    driver = market_with(10)
    job = driver.submit(max_price_microcredits=1_000)
    assert leases(driver, job) == [("w0", LeasePurpose.AUCTION, 1000)]


def test_a_proven_worker_wins_over_cheaper_ones_that_need_replicas() -> None:
    driver = market_with(10, 10, 20)
    prove(driver, "w2", 50)
    for worker, price in (("w0", 10), ("w1", 10), ("w2", 20)):
        driver.connect(worker, make_offer(price))
    job = driver.submit(confidence=0.95)
    [(worker, purpose, price)] = leases(driver, job)
    assert (worker, purpose) == ("w2", LeasePurpose.AUCTION)
    winner, *losers = match_of(driver, job).candidates
    # The others would have needed two more results, at the typical bid of 1000, to be as credible.
    assert [loser.lost_because for loser in losers] == ["reputation: needs 3 results, the winner needs 1"] * 2
    # It is paid its bid and what the market would lose without it.
    assert price == winner.bid_microcredits + winner.score_microcredits - losers[0].score_microcredits


def test_the_reasons_name_what_weighed_most() -> None:
    driver = market_with(policy=MarketPolicy(audit_rate=0.0, delay_cost_bids_per_s=1.0))
    driver.publish(make_pipeline("big", artifact_bytes=1 << 30))
    for worker, offer in {
        "cached": make_offer(10, warm=("big",)),
        "cold": make_offer(9),
        "dear": make_offer(30, warm=("big",)),
    }.items():
        driver.join(worker)
        driver.connect(worker, offer)
    job = driver.submit(pipeline="big", max_price_microcredits=10**7)
    candidates = match_of(driver, job).candidates
    assert [(candidate.worker, candidate.lost_because) for candidate in candidates] == [
        ("cached", ""),
        ("dear", "outbid by 2000 microcredits"),
        ("cold", "not cached"),
    ]


def test_workers_with_a_better_record_lose_less_value() -> None:
    driver = market_with(10, 10)
    prove(driver, "w1", 20)
    for worker in ("w0", "w1"):
        driver.connect(worker, make_offer(10))
    job = driver.submit()
    winner, loser = match_of(driver, job).candidates
    assert (winner.worker, loser.worker) == ("w1", "w0")
    assert loser.lost_because.startswith("reputation: 0.05 against 0.8")


def test_equals_are_told_apart_by_bid_and_id() -> None:
    driver = market_with(10, 10)
    job = driver.submit()
    assert [candidate.worker for candidate in match_of(driver, job).candidates] == ["w0", "w1"]
    assert match_of(driver, job).candidates[1].lost_because == "a tie, decided by bid and id"


def test_a_match_counts_who_was_left_out_and_why() -> None:
    driver = market_with(10, 10, policy=MarketPolicy(audit_rate=0.0, candidates_max=3))
    driver.connect("w0", make_offer(10, capacity=1))
    busy = driver.submit()
    assert leases(driver, busy)[0][0] == "w0"
    for worker, offer in {
        "gpu": make_offer(10, providers=("cuda",)),
        "dear": make_offer(2_000),
        "x1": make_offer(11),
        "x2": make_offer(12),
        "x3": make_offer(13),
        "x4": make_offer(14),
        "small": make_offer(10, memory_bytes=GIBIBYTE + 1),
    }.items():
        driver.join(worker)
        driver.connect(worker, offer)
    requirements = Requirements(memory_bytes=GIBIBYTE + 2)
    job = driver.submit(requirements=requirements)
    assert match_of(driver, job).left_out == {
        "memory": 1,
        "capability": 1,
        "busy": 1,
        "price": 1,
        "beyond the cheapest": 2,
    }


def test_a_cached_worker_beyond_the_cheapest_is_considered() -> None:
    policy = MarketPolicy(audit_rate=0.0, candidates_max=2, delay_cost_bids_per_s=1.0)
    driver = market_with(10, 11, 12, 13, policy=policy)
    driver.publish(make_pipeline("big", artifact_bytes=1 << 30))
    driver.join("warm")
    driver.connect("warm", make_offer(40, warm=("big",)))
    job = driver.submit(pipeline="big", max_price_microcredits=10**7)
    assert leases(driver, job)[0][0] == "warm"


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=8),
    st.integers(500, 20_000),
    st.sampled_from([0.5, 0.75, 0.9, 0.95, 0.99]),
)
def test_prices_lie_between_bid_and_cap(bidders: list[tuple[int, int]], cap: int, confidence: float) -> None:
    driver = market_with(*[price for price, _ in bidders])
    for number, (_, checks) in enumerate(bidders):
        prove(driver, f"w{number}", checks)
    for number, (price, _) in enumerate(bidders):
        driver.connect(f"w{number}", make_offer(price))
    job = driver.submit(max_price_microcredits=cap, confidence=confidence)
    prices = {f"w{number}": price * 100 for number, (price, _) in enumerate(bidders)}
    granted = leases(driver, job)
    assert all(price >= prices[worker] for worker, _, price in granted)
    assert sum(price for *_, price in granted) <= cap
    assert len({worker for worker, *_ in granted}) == len(granted)


# Replicas


def test_replicas_go_to_other_owners_at_one_price() -> None:
    driver = market_with(10, 10)
    driver.add_worker("w2", 10, owner="w0")
    driver.add_worker("w3", 14)
    job = driver.submit(confidence=0.95)
    granted = leases(driver, job)
    assert [purpose for _, purpose, _ in granted] == [LeasePurpose.AUCTION] + [LeasePurpose.REPLICA] * 2
    # The price opens the draw to all owners there are, so both replicas are paid what the dearest asks.
    assert [price for *_, price in granted] == [1000, 1400, 1400]
    assert {worker for worker, *_ in granted} <= {"w0", "w1", "w3", "w2"}
    assert len({driver.market.worker(worker).owner for worker, *_ in granted}) == 3


def test_replicas_are_paid_the_clearing_price_even_if_they_ask_less() -> None:
    driver = market_with(20, *[10] * 6)
    prove(driver, "w0", 500)
    for number, price in enumerate([20, *[10] * 6]):
        driver.connect(f"w{number}", make_offer(price))
    job = driver.submit(confidence=0.9999)
    (first, _, clearing), *replicas = leases(driver, job)
    assert first == "w0"
    assert clearing > 2000
    assert {price for *_, price in replicas} == {clearing}


def test_replicas_are_drawn_uniformly() -> None:
    drawn: Counter[str] = Counter()
    for seed in range(300):
        driver = market_with(10, 11, 12, 13, seed=seed)
        job = driver.submit(confidence=0.9)
        [_, (replica, purpose, _)] = leases(driver, job)
        assert purpose is LeasePurpose.REPLICA
        drawn[replica] += 1
    assert set(drawn) == {"w1", "w2", "w3"}
    assert min(drawn.values()) > 70  # 100 expected each; 70 is 3.7 standard deviations away


def test_colluders_who_underbid_do_not_take_both_places() -> None:
    """Two who bid far below the rest win auctions, but the draw for the replica is open to everyone."""
    both = 0
    for seed in range(200):
        driver = market_with(1, 2, *[10] * 10, seed=seed)
        job = driver.submit(confidence=0.9)
        both += {worker for worker, *_ in leases(driver, job)} == {"w0", "w1"}
    assert both < 40  # 1 in 11 expected: 18


@pytest.mark.parametrize(("owners", "dear"), [(4, 46), (4, 250), (8, 25), (8, 46), (20, 25)])
def test_one_dear_offer_does_not_raise_what_replicas_are_paid(owners: int, dear: int) -> None:
    def replicas_pay(*dear: int) -> set[int]:
        driver = market_with(*[20] * owners, *dear)
        job = driver.submit(confidence=0.95)
        return {price for _, purpose, price in leases(driver, job) if purpose is LeasePurpose.REPLICA}

    assert replicas_pay() == replicas_pay(dear) == {2000}


def test_a_dear_offer_among_few_does_not_raise_what_replicas_are_paid_above_its_bound() -> None:
    driver = market_with(20, 20, 46)
    [_, *replicas] = leases(driver, driver.submit(confidence=0.9))
    assert replicas == [("w1", LeasePurpose.REPLICA, 2000)]


def test_the_draw_is_opened_no_further_than_policy_says() -> None:
    policy = MarketPolicy(audit_rate=0.0, draw_owners_min=2)
    driver = market_with(10, 11, 12, 90, 91, policy=policy)
    drawn = []
    for _ in range(20):
        job = driver.submit(confidence=0.9)
        drawn += [worker for worker, *_ in leases(driver, job)[1:]]
        driver.cancel(job)
    assert set(drawn) == {"w1", "w2"}


# Who may have a job


@pytest.mark.parametrize(
    ("offer", "requirements"),
    [
        (make_offer(providers=("cuda",)), Requirements()),
        (make_offer(memory_bytes=GIBIBYTE - 1), Requirements()),
        (make_offer(memory_bytes=2 * GIBIBYTE), Requirements(memory_bytes=2 * GIBIBYTE + 1)),
        (make_offer(isolation=("seccomp",)), Requirements(isolation=("seccomp", "landlock"))),
        (make_offer(capacity=0), Requirements()),
        (make_offer(price_per_unit_microcredits=1_001), Requirements()),
    ],
)
def test_an_offer_that_does_not_fit_gets_nothing(offer: object, requirements: Requirements) -> None:
    driver = market_with()
    driver.join("w0")
    driver.connect("w0", offer)
    assert leases(driver, driver.submit(requirements=requirements)) == []


def test_pipelines_without_providers_run_anywhere() -> None:
    driver = market_with()
    driver.publish(make_pipeline("kernels", providers=()))
    driver.join("w0")
    driver.connect("w0", make_offer(providers=("coreml",)))
    assert len(leases(driver, driver.submit(pipeline="kernels"))) == 1


def test_auditors_get_no_ordinary_jobs() -> None:
    driver = market_with()
    driver.add_worker("auditor", 1, auditor=True)
    assert leases(driver, driver.submit()) == []


def test_a_newcomer_has_few_leases_until_it_is_proven() -> None:
    driver = market_with(policy=MarketPolicy(audit_rate=0.0, exposure_leases_max=3, proven_checks=5.0))
    driver.join("w0")
    driver.connect("w0", make_offer(capacity=10))
    jobs = [driver.submit() for _ in range(8)]
    assert sum(len(leases(driver, job)) for job in jobs) == 3
    prove(driver, "w0", 5)
    driver.connect("w0", make_offer(capacity=10))
    assert sum(len(leases(driver, job)) for job in jobs) == 8


def test_capacity_is_never_exceeded() -> None:
    driver = market_with(10)
    jobs = [driver.submit() for _ in range(5)]
    assert [len(leases(driver, job)) for job in jobs] == [1, 1, 0, 0, 0]
    driver.deliver(f"{jobs[0]}.1")
    assert [len(leases(driver, job)) for job in jobs] == [1, 1, 1, 0, 0]


def test_who_refused_a_pipeline_is_not_asked_again_until_it_reconnects() -> None:
    driver = market_with(10, 20)
    job = driver.submit()
    refusal = UntrustedPipeline("unknown publisher").to_problem()
    driver.give_back(f"{job}.1", GiveBackReason.REFUSED, refusal)
    assert [worker for worker, *_ in leases(driver, job)] == ["w0", "w1"]
    assert leases(driver, driver.submit())[0][0] == "w1"
    driver.connect("w0", make_offer(10))
    assert leases(driver, driver.submit())[0][0] == "w0"


def test_who_refused_a_pipeline_is_asked_again_once_somebody_has_signed_it() -> None:
    driver = market_with(10)
    job = driver.submit(patience_s=100.0)
    driver.give_back(f"{job}.1", GiveBackReason.REFUSED, UntrustedPipeline("unknown publisher").to_problem())
    driver.tick(1.0)
    assert driver.open_leases(job) == []
    driver.publish(make_pipeline(publishers=("publisher", "another")))
    driver.tick(1.0)
    assert [lease.worker for lease in driver.open_leases(job)] == ["w0"]
    driver.check()


def test_who_lost_a_lease_gets_the_job_again_only_if_there_is_nobody_else() -> None:
    driver = market_with(10, 20)
    job = driver.submit()
    for _ in range(3):
        driver.give_back(driver.open_leases(job)[0].id)
    # Both have had it now, so the cheaper one is asked again.
    assert [worker for worker, *_ in leases(driver, job)] == ["w0", "w1", "w0", "w0"]


def test_a_busy_worker_is_waited_for_rather_than_one_that_lost_the_job() -> None:
    driver = market_with(10)
    driver.join("busy")
    driver.connect("busy", make_offer(5, capacity=1))
    other = driver.submit()
    assert leases(driver, other)[0][0] == "busy"
    job = driver.submit()
    driver.give_back(f"{job}.1")
    assert len(leases(driver, job)) == 1
    driver.deliver(f"{other}.1")
    assert [worker for worker, *_ in leases(driver, job)] == ["w0", "busy"]


def test_nonces_are_of_the_event_and_the_lease() -> None:
    nonces = set()
    for seed in range(3):
        driver = market_with(10, 10, seed=seed)
        job = driver.submit(confidence=0.9)
        nonces |= {lease.nonce for lease in driver.market.leases_of(job)}
    assert len(nonces) == 6
    assert {len(nonce) for nonce in nonces} == {16}
