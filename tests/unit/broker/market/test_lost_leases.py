"""A lease that is lost becomes evidence only once somebody else has given the job's result."""

from __future__ import annotations

import pytest

from tradepost.errors import InvalidReceipt, ModelFailure
from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.market.model.entities import Evidence, Lease
from tradepost_broker.market.model.events import LeaseGivenBack, Save
from tradepost_broker.market.testing import make_offer
from tradepost_broker.testing.staffed_market import StaffedMarket


def lose_first(driver: StaffedMarket, how: str, job: str) -> Lease:
    """Lose the job's open lease; the lease."""
    [lease] = driver.open_leases(job)
    if how == "failed":
        driver.give_back(lease.id)
    elif how == "claimed too early":
        driver.give_back(lease.id, GiveBackReason.EXHAUSTED)
    return lease


WAYS = ("failed", "claimed too early")


@pytest.mark.parametrize("how", WAYS)
def test_what_another_owner_can_do_is_held_against_who_lost_it(how: str) -> None:
    driver = StaffedMarket(2)
    job = driver.submit()
    lost = lose_first(driver, how, job)
    assert driver.evidence() == []
    driver.deliver_all(job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.evidence() == [(lost.worker, "failed")]
    [found] = driver.all_of(Evidence)
    assert (found.lease, bool(found.detail)) == (lost.id, True)
    driver.check()


@pytest.mark.parametrize("how", WAYS)
def test_what_fails_on_everybody_blames_nobody(how: str) -> None:
    driver = StaffedMarket(6)
    job = driver.submit(deadline_s=10_000.0)
    for _ in range(driver.policy.quarantine_owners):
        lose_first(driver, how, job)
    assert driver.job(job).status is JobStatus.FAILED
    driver.tick(10_000.0)
    assert driver.evidence() == []
    driver.check()


@pytest.mark.parametrize("end", ["cancelled", "deadline", "stage failure"])
def test_a_job_that_ends_without_a_result_blames_nobody(end: str) -> None:
    driver = StaffedMarket(3)
    job = driver.submit(deadline_s=10.0)
    lose_first(driver, "failed", job)
    if end == "cancelled":
        driver.cancel(job)
    elif end == "deadline":
        driver.tick(11.0)
    else:
        while leases := driver.open_leases(job):  # another owner confirms it
            driver.deliver(
                leases[0].id, "failed:infer:model-failure", problem=ModelFailure("no").to_problem()
            )
    assert driver.job(job).finished_at is not None
    assert [kind for _, kind in driver.evidence() if kind != "agreed"] == []


def test_a_result_of_the_same_owner_proves_nothing_about_its_other_device() -> None:
    driver = StaffedMarket(0)
    for worker in ("w0", "w1"):
        driver.add_worker(worker, owner="both")
    job = driver.submit()
    lose_first(driver, "failed", job)
    driver.deliver_all(job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.evidence() == []


def test_a_restart_forgets_nothing_of_it() -> None:
    driver = StaffedMarket(2)
    job = driver.submit(patience_s=300.0)
    lost = lose_first(driver, "failed", job)
    driver.restart()
    for worker in ("w0", "w1"):
        driver.connect(worker, make_offer())
    driver.deliver_all(job, "right")
    assert driver.evidence() == [(lost.worker, "failed")]


def test_a_forged_receipt_is_held_against_its_worker_whatever_becomes_of_the_job() -> None:
    driver = StaffedMarket(2)
    job = driver.submit()
    [lease] = driver.open_leases(job)
    driver.handle(
        LeaseGivenBack(
            at=driver.at,
            worker=lease.worker,
            lease=lease.id,
            reason=GiveBackReason.FAILED,
            problem=InvalidReceipt("no").to_problem(),
            forged=True,
            seed=1,
        )
    )
    assert driver.evidence() == []
    driver.cancel(job)
    assert driver.evidence() == [("w0", "failed")]
    learned = [
        one.record.id
        for answer in driver.answers
        for one in answer
        if isinstance(one, Save) and isinstance(one.record, Evidence)
    ]
    assert learned == [f"{lease.id}:failed"], "once, and not again with the result"
