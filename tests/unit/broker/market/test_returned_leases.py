"""Owners that take leases only to give them back do not fail the jobs of others."""

from __future__ import annotations

import pytest

from tradepost.errors import InputTooCostly
from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.market.model.entities import Evidence, Lease, LeasePurpose
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver

POLICY = MarketPolicy(audit_rate=0.0)
HONEST_OWNERS = 8


@pytest.fixture
def driver() -> MarketDriver:
    """Funded, one pipeline, honest workers of different owners at 20."""
    driver = MarketDriver(policy=POLICY)
    driver.fund(amount_microcredits=10_000_000)
    driver.publish()
    for number in range(HONEST_OWNERS):
        driver.add_worker(f"honest{number}", 20)
    return driver


def run(driver: MarketDriver, job: str, reason: GiveBackReason) -> None:
    """Have underbidders give back what they get, and the others deliver, until nothing is open."""
    while leases := driver.open_leases(job):
        for lease in leases:
            if lease.worker.startswith("killer"):
                driver.give_back(lease.id, reason)
            else:
                driver.deliver(lease.id)


@pytest.mark.parametrize("reason", [GiveBackReason.PREEMPTED, GiveBackReason.FAILED])
def test_one_owner_with_many_devices_fails_no_job(driver: MarketDriver, reason: GiveBackReason) -> None:
    for number in range(POLICY.attempts_max):
        driver.add_worker(f"killer{number}", 1, owner="killer")
    jobs = [driver.submit(confidence=0.5) for _ in range(20)]
    for job in jobs:
        run(driver, job, reason)
    assert {driver.job(job).status for job in jobs} == {JobStatus.ACCEPTED}
    tried = [
        sum(lease.job == job and lease.worker.startswith("killer") for lease in driver.all_of(Lease))
        for job in jobs
    ]
    assert max(tried) == 1
    driver.check()


def test_owners_that_preempt_fail_no_job_that_others_can_do(driver: MarketDriver) -> None:
    for number in range(2 * POLICY.attempts_max):
        driver.add_worker(f"killer{number}", 1)
    job = driver.submit(confidence=0.5)
    run(driver, job, GiveBackReason.PREEMPTED)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.job(job).failures == 0
    driver.check()


def test_what_fails_on_every_owners_device_ends_after_so_many(driver: MarketDriver) -> None:
    """A job that breaks devices must not be taken to all of them."""
    job = driver.submit(confidence=0.5)
    for _ in range(POLICY.quarantine_owners):
        driver.give_back(driver.open_leases(job)[0].id, GiveBackReason.FAILED)
    assert driver.job(job).status is JobStatus.FAILED
    assert driver.job(job).attempts == POLICY.quarantine_owners < POLICY.attempts_max
    driver.check()


def test_an_input_that_takes_too_much_memory_costs_no_device_its_reputation_or_the_pipeline(
    driver: MarketDriver,
) -> None:
    too_costly = InputTooCostly("Failed to allocate memory").to_problem()
    job = driver.submit(confidence=0.5)
    [lease] = driver.open_leases(job)
    driver.give_back(lease.id, GiveBackReason.FAILED, too_costly)
    run(driver, job, GiveBackReason.FAILED)
    assert driver.job(job).status is JobStatus.ACCEPTED, "a larger device can do it"
    assert [one for one in driver.all_of(Evidence) if one.worker == lease.worker] == []
    again = driver.submit(confidence=0.5)
    assert [one.worker for one in driver.open_leases(again)] == [lease.worker]
    driver.check()


def test_an_input_that_takes_too_much_memory_everywhere_ends_its_job(driver: MarketDriver) -> None:
    too_costly = InputTooCostly("Failed to allocate memory").to_problem()
    job = driver.submit(confidence=0.5)
    while leases := driver.open_leases(job):
        driver.give_back(leases[0].id, GiveBackReason.FAILED, too_costly)
    assert driver.job(job).attempts == POLICY.quarantine_owners
    problem = driver.job(job).problem
    assert problem is not None
    assert "more memory" in problem.detail


def test_a_sole_owner_that_preempts_again_and_again_ends_the_job() -> None:
    driver = MarketDriver(policy=POLICY)
    driver.fund()
    driver.publish()
    driver.add_worker("w0")
    driver.add_worker("w1", owner="w0")
    job = driver.submit(confidence=0.5)
    for _ in range(POLICY.attempts_max + 1):
        driver.give_back(driver.open_leases(job)[0].id, GiveBackReason.PREEMPTED)
    assert driver.job(job).status is JobStatus.FAILED
    driver.check()


def test_replicas_go_to_other_owners_than_those_that_lost_one(driver: MarketDriver) -> None:
    for number in range(3):
        driver.add_worker(f"killer{number}", 1, owner="killer")
    job = driver.submit(confidence=0.99)
    run(driver, job, GiveBackReason.PREEMPTED)
    assert driver.job(job).status is JobStatus.ACCEPTED
    replicas = [lease for lease in driver.all_of(Lease) if lease.purpose is LeasePurpose.REPLICA]
    assert replicas
    assert sum(lease.worker.startswith("killer") for lease in driver.all_of(Lease)) == 1
    driver.check()
