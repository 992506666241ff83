"""Giving leases back is free within a budget of the owner; beyond it, the owner's devices cool off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.market.matching.eligible_offers import COOLING_OFF
from tradepost_broker.market.model.entities import Evidence, Lease, Match
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.state.commitments import Commitments
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline

#: Leases that nobody answers are no quarantine here.
POLICY = MarketPolicy(quarantine_owners=0, audit_rate=0.0)
FREE = int(POLICY.break_offs_free)


def market(*, policy: MarketPolicy = POLICY, honest: int = 4) -> MarketDriver:
    """Funded, one pipeline, honest workers of different owners at 20."""
    driver = MarketDriver(policy=policy)
    driver.fund(amount_microcredits=10_000_000)
    driver.publish()
    for number in range(honest):
        driver.add_worker(f"honest{number}", 20)
    return driver


def offer_job(driver: MarketDriver, owner: str) -> Lease | None:
    """Submit a job; its first lease, if a device of `owner` (by its name) got it. Others deliver at once."""
    job = driver.submit(confidence=0.5)
    [lease] = driver.open_leases(job)
    if lease.worker.startswith(owner):
        return lease
    driver.deliver(lease.id)
    return None


def preempt(driver: MarketDriver, lease: Lease) -> None:
    """Give a lease back, and have the worker that gets the job next deliver."""
    driver.give_back(lease.id, GiveBackReason.PREEMPTED)
    for other in driver.open_leases(lease.job):
        driver.deliver(other.id)


def preempt_all(driver: MarketDriver, owner: str, jobs: int) -> int:
    """Have the owner preempt all that it gets of so many jobs; how many it got."""
    got = 0
    for _ in range(jobs):
        lease = offer_job(driver, owner)
        if lease is not None:
            preempt(driver, lease)
            got += 1
    return got


def test_an_owner_who_gives_everything_back_soon_gets_nothing_more() -> None:
    driver = market()
    for number in range(5):
        driver.add_worker(f"killer{number}", 1, owner="killer")
    assert preempt_all(driver, "killer", 60) == FREE + 1
    assert {job.status for job in map(driver.job, {lease.job for lease in driver.all_of(Lease)})} == {
        JobStatus.ACCEPTED
    }
    driver.check()


def test_cooling_off_ends_and_is_twice_as_long_the_next_time() -> None:
    driver = market()
    driver.add_worker("killer", 1)
    preempt_all(driver, "killer", FREE + 1)
    for pause_s in (POLICY.cool_off_s, 2 * POLICY.cool_off_s, 4 * POLICY.cool_off_s):
        driver.tick(pause_s - 1)
        assert preempt_all(driver, "killer", 3) == 0
        driver.tick(1)
        assert preempt_all(driver, "killer", 3) == 1
    driver.check()


def test_what_is_broken_off_together_counts_once() -> None:
    driver = market()
    for number in range(4):
        driver.add_worker(f"home{number}", 1, owner="home")
    jobs = [driver.submit(confidence=0.5) for _ in range(8)]
    leases = [lease for job in jobs for lease in driver.open_leases(job)]
    assert {lease.worker[:4] for lease in leases} == {"home"}
    for lease in leases:
        driver.give_back(lease.id, GiveBackReason.PREEMPTED)
    driver.tick(POLICY.cool_off_s)
    driver.tick(0)  # as much is due now as one tick does
    assert offer_job(driver, "home") is not None, "twice as long is for the next time"


def test_a_match_says_how_many_offers_are_left_out_because_their_owner_cools_off() -> None:
    driver = market()
    for number in range(2):
        driver.add_worker(f"killer{number}", 1, owner="killer")
    preempt_all(driver, "killer", FREE + 1)
    assert offer_job(driver, "killer") is None
    newest = driver.all_of(Match)[-1]
    assert newest.left_out == {COOLING_OFF: 2}
    driver.tick(POLICY.cool_off_s)
    assert offer_job(driver, "killer") is not None
    assert COOLING_OFF not in driver.all_of(Match)[-1].left_out


def test_cooling_off_takes_no_lease_away_and_is_no_evidence() -> None:
    driver = market()
    driver.add_worker("both0", 1, owner="both")
    driver.add_worker("both1", 1, owner="both")
    kept = offer_job(driver, "both")
    assert kept is not None
    preempt_all(driver, "both", FREE + 1)
    assert offer_job(driver, "both") is None
    driver.deliver(kept.id)
    assert driver.job(kept.job).status is JobStatus.ACCEPTED
    assert [found for found in driver.all_of(Evidence) if found.kind.lowers_score] == []
    driver.check()


def test_results_earn_the_budget_back() -> None:
    """An owner who wants the device back in one run of four is never without leases."""
    driver = market()
    driver.add_worker("owned", 1)
    for number in range(200):
        lease = offer_job(driver, "owned")
        assert lease is not None
        if number % 4:
            driver.deliver(lease.id)
        else:
            preempt(driver, lease)
    driver.check()


def test_a_sole_owner_never_cools_off() -> None:
    driver = market(honest=0)
    driver.add_worker("owned0", 1, owner="owned")
    driver.add_worker("owned1", 1, owner="owned")
    for _ in range(3 * FREE):
        lease = offer_job(driver, "owned")
        assert lease is not None
        driver.give_back(lease.id, GiveBackReason.PREEMPTED)
        for other in driver.open_leases(lease.job):
            driver.deliver(other.id)


def test_a_job_that_only_a_cooling_owner_could_run_waits_for_it() -> None:
    driver = market()
    driver.publish(make_pipeline("rare", providers=("cuda",)))
    driver.join("killer")
    driver.connect("killer", make_offer(1, providers=("cpu", "cuda")))
    preempt_all(driver, "killer", FREE + 1)
    job = driver.submit(pipeline="rare", confidence=0.5, patience_s=5.0)
    driver.tick(POLICY.cool_off_s - 1)
    assert driver.job(job).status is JobStatus.QUEUED
    driver.tick(1)
    [lease] = driver.open_leases(job)
    assert lease.worker == "killer"
    driver.check()


def test_failing_and_refusing_are_not_charged() -> None:
    """A publisher could make all honest owners cool off with pipelines that nobody trusts."""
    for reason in (GiveBackReason.FAILED, GiveBackReason.REFUSED):
        driver = market()
        driver.add_worker("careful", 1)
        for number in range(3 * FREE):
            driver.publish(make_pipeline(f"strange{number}"))
            job = driver.submit(pipeline=f"strange{number}", confidence=0.5)
            driver.give_back(driver.open_leases(job)[0].id, reason)
            driver.cancel(job)
        assert offer_job(driver, "careful") is not None


def test_holds_are_charged_as_well() -> None:
    driver = market(policy=MarketPolicy(audit_rate=0.0, exposure_leases_max=20))
    jobs = [driver.submit(confidence=0.5) for _ in range(8)]
    driver.tick(2.0)
    for job in jobs:
        driver.deliver(driver.open_leases(job)[0].id)
    for number in range(5):
        driver.add_worker(f"holder{number}", 1, owner="holder")
    held = [driver.submit(confidence=0.5) for _ in range(FREE + 1)]
    driver.tick(7.0)
    for job in held:
        [_, hedge] = driver.open_leases(job)
        driver.deliver(hedge.id)
    assert offer_job(driver, "holder") is None
    driver.check()


def test_a_restart_begins_anew() -> None:
    driver = market(honest=1)
    driver.add_worker("killer", 1)
    preempt_all(driver, "killer", FREE + 1)
    driver.restart()
    driver.connect("honest0", make_offer(20))
    driver.connect("killer", make_offer(1))
    assert offer_job(driver, "killer") is not None
    driver.tick(POLICY.cool_off_s)
    driver.check()


def test_no_cooling_off_if_the_policy_has_none() -> None:
    driver = market(policy=MarketPolicy(audit_rate=0.0, cool_off_s=0.0))
    driver.add_worker("killer", 1)
    assert preempt_all(driver, "killer", 20) == 20


@pytest.mark.parametrize("reason", list(GiveBackReason))
def test_an_auditor_is_charged_nothing(reason: GiveBackReason) -> None:
    driver = market(policy=MarketPolicy(audit_rate=1.0))
    driver.add_worker("auditor", 1, auditor=True)
    for _ in range(3 * FREE):
        job = driver.submit(confidence=0.5)
        driver.deliver(driver.open_leases(job)[0].id)
        for audit in driver.open_leases(job):
            driver.give_back(audit.id, reason)
    assert not driver.market._state.is_cooling_off("auditor")


@given(st.lists(st.tuples(st.sampled_from(["charge", "credit", "wait"]), st.floats(0, 1e5)), max_size=60))
def test_the_budget_keeps_its_bounds_and_cooling_off_its_length(steps: list[tuple[str, float]]) -> None:
    owner, at = Commitments(POLICY.break_offs_free), 1e6
    for step, after_s in steps:
        at += after_s if step == "wait" else 0.0
        if step == "credit":
            owner.credit(POLICY)
        elif step == "charge" and owner.charge(POLICY, at):
            assert POLICY.cool_off_s <= owner.cooling_until - at <= POLICY.cool_off_s_max + 1e-3
        assert 0 <= owner.budget <= POLICY.break_offs_free
