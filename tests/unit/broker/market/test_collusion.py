"""Owners that give the same wrong results too often are found, kept apart, and not believed alone."""

from __future__ import annotations

import msgspec
import pytest

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import (
    CollusionFinding,
    EvidenceKind,
    Lease,
    OwnerPair,
    WorkerStanding,
)
from tradepost_broker.market.model.events import Restarted
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.settling import quarantine
from tradepost_broker.market.testing import make_offer
from tradepost_broker.market.trust.co_wrong import CoWrong, CoWrongResults
from tradepost_broker.testing.staffed_market import StaffedMarket

#: Nobody becomes more credible, so that every job has three results at once; price alone decides, and being
#: outvoted suspends nobody.
RULES = {"audit_rate": 0.0, "agreed_checks": 0.0, "failure_cost_bids": 0.0, "suspend_below_score": 0.0}
POLICY = msgspec.convert(RULES, MarketPolicy)
WORKERS = 10
RING = ("w3", "w5")


def market(*, policy: MarketPolicy = POLICY, jobs: int = 0) -> StaffedMarket:
    """A market without an auditor in which two of ten give the same wrong answer when they meet."""
    driver = StaffedMarket(WORKERS, policy=policy)
    driver.update_offer(RING[0], make_offer(9))  # it wins every auction, the other is drawn
    for _ in range(jobs):
        run_job(driver)
    return driver


def run_job(driver: StaffedMarket) -> str:
    """Have a job done by as many workers as it takes, of which the ring lies together."""
    job = driver.submit(confidence=0.97, max_price_microcredits=1_000_000)
    while leases := driver.open_leases(job):
        meet = {lease.worker for lease in driver.market.leases_of(job)}.issuperset(RING)
        for lease in leases:
            driver.deliver(lease.id, "lie" if meet and lease.worker in RING else "right")
    driver.tick(1.0)
    return job


def found(driver: StaffedMarket) -> list[CollusionFinding]:
    return [one for one in driver.all_of(CollusionFinding) if one.withdrawn_at is None]


def until_found(driver: StaffedMarket, jobs_max: int = 300) -> CollusionFinding:
    for _ in range(jobs_max):
        run_job(driver)
        if findings := found(driver):
            return findings[0]
    pytest.fail(f"nothing was found in {jobs_max} jobs")


def test_two_that_lie_when_they_meet_are_found_with_the_evidence_for_it() -> None:
    driver = market()
    finding = until_found(driver)
    assert finding.owners == tuple(sorted(RING))
    assert finding.co_wrong == len(finding.jobs) >= 3
    assert finding.expected < finding.co_wrong / 3
    assert finding.p_value <= POLICY.collusion_p_max
    [pair] = [one for one in driver.all_of(OwnerPair) if one.wrong]
    assert {pair.owner, pair.other} == set(RING)
    assert [job for job, *_ in pair.wrong] == list(finding.jobs)
    for job in finding.jobs:
        assert driver.job(job).status is JobStatus.ACCEPTED
    for worker in RING:
        record = driver.market.worker(worker)
        assert record is not None
        assert record.standing is not WorkerStanding.EXPELLED
    driver.check()


def test_who_is_found_gets_no_leases_of_the_same_job_any_more() -> None:
    driver = market()
    until_found(driver)
    for _ in range(150):
        job = run_job(driver)
        workers = {lease.worker for lease in driver.market.leases_of(job)}
        assert not workers.issuperset(RING)
    driver.restart()
    for number in range(WORKERS):
        driver.connect(f"w{number}")
    for _ in range(50):
        job = run_job(driver)
        assert not {lease.worker for lease in driver.market.leases_of(job)}.issuperset(RING)


def test_a_restart_keeps_what_was_found_and_goes_on_counting() -> None:
    driver = market()
    while not any(len(one.wrong) == 2 for one in driver.all_of(OwnerPair)):
        run_job(driver)
    driver.restart()
    for number in range(WORKERS):
        driver.connect(f"w{number}")
    finding = until_found(driver)
    assert finding.owners == tuple(sorted(RING))
    assert finding.co_wrong > 2


def test_a_replay_finds_the_same() -> None:
    driver = market()
    until_found(driver)
    driver.check_replay()


def test_a_finding_ends_if_the_results_may_have_been_right() -> None:
    driver = market()
    finding = until_found(driver)
    state = driver.market._state
    for job in finding.jobs:
        if job in state.jobs:
            leases = [lease.id for lease in driver.market.leases_of(job)]
            quarantine.withdraw(state, state.jobs[job], leases, EvidenceKind.OUTVOTED, "not reproducible")
    driver.handle(Restarted(at=driver.at))
    [ended] = driver.all_of(CollusionFinding)
    assert ended.withdrawn_at == driver.at
    assert not state.are_kept_apart(*RING)
    driver.restart()
    assert not driver.market._state.are_kept_apart(*RING)


def test_an_earlier_journal_replays_without_findings() -> None:
    policy = recorded_policy(msgspec.msgpack.encode(RULES | {"independent_partners": True}))
    driver = market(policy=policy, jobs=150)
    assert any(lease.state == "rejected" for lease in driver.all_of(Lease))
    assert driver.all_of(OwnerPair) == []


def co_wrong_results(owners: int) -> CoWrongResults:
    results = CoWrongResults(fault_fraction=0.2)
    for number in range(owners):
        results.set_kind(f"o{number}", "cpu")
        for _ in range(10):
            results.judge("digits", f"o{number}")
    return results


def test_only_the_newest_pairs_are_kept() -> None:
    results = co_wrong_results(4)
    dropped = [results.add(CoWrong(float(n), f"j{n}", "o0", "o1", "digits")) for n in range(1_030)]
    assert [one for each in dropped for one in each or ()] == [
        CoWrong(float(n), f"j{n}", "o0", "o1", "digits") for n in range(6)
    ]
    assert len(results.of("o0", "o1")) == 1_024
    assert results.add(CoWrong(2_000.0, "j1029", "o0", "o1", "digits")) is None  # it is known


def test_where_nobody_else_is_of_their_kind_nothing_can_be_told() -> None:
    results = co_wrong_results(40)
    for number in range(20):
        results.add(CoWrong(float(number), f"j{number}", "o0", "o1", "digits"))
    assert results.most_unlikely({"o0", "o1"}).p_value < 1e-9
    for owner in ("o0", "o1"):
        results.set_kind(owner, "cuda")
    assert results.most_unlikely({"o0", "o1"}).p_value == 1.0


def test_who_is_drawn_from_few_meets_the_same_ones() -> None:
    results = co_wrong_results(40)
    for number in range(20):
        results.add(CoWrong(float(number), f"j{number}", "o0", "o1", "digits", drawn_from=2))
    assert results.most_unlikely({"o0", "o1"}).p_value > 0.01
