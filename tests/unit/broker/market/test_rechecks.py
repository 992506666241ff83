"""Results of workers that are believed alone are checked by chance, more often the less they have shown."""

from __future__ import annotations

import msgspec
import pytest

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Lease, LeasePurpose
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import make_offer
from tradepost_broker.market.trust.check_rate import check_rate, checks_to_be_believed
from tradepost_broker.testing.staffed_market import StaffedMarket
from tradepost_reputation import credibility_of_worker

F = 0.2
#: One passed check is just enough to be believed alone at this confidence.
JUST_BELIEVED = 0.908
ALWAYS = MarketPolicy(audit_rate=0.0, recheck_rate=1.0)


def believed_market(workers: int = 1, *, policy: MarketPolicy = ALWAYS) -> StaffedMarket:
    """A market with these workers and an auditor, in which w0 has passed one check."""
    driver = StaffedMarket(0, auditors=1, policy=msgspec.structs.replace(policy, audit_rate=1.0))
    driver.add_worker("w0")
    job = driver.submit()
    driver.deliver_all(job, "right")
    driver.deliver(driver.open_audit(job).id, "right")
    driver.tick(policy.hold_s + policy.idempotency_s)
    driver.policy = policy
    driver.restart()
    driver.connect("w0", make_offer(9))
    driver.connect("a0")
    for number in range(1, workers):
        driver.add_worker(f"w{number}", 10)
    driver.tick()
    return driver


def first_result(driver: StaffedMarket, outcome: str = "right") -> tuple[str, Lease]:
    """A job with w0's result, and its lease."""
    job = driver.submit(confidence=JUST_BELIEVED)
    [lease] = driver.open_leases(job)
    assert lease.worker == "w0"
    driver.deliver(lease.id, outcome)
    return job, driver.of(Lease, lease.id)


@pytest.mark.parametrize("confidence", [0.81, 0.9, 0.99, 0.999])
def test_the_checks_to_be_believed_are_those_that_give_the_confidence(confidence: float) -> None:
    checks = checks_to_be_believed(confidence, fault_fraction=F)
    assert credibility_of_worker(checks, fault_fraction=F) == pytest.approx(max(confidence, 1 - F))


def test_the_rate_falls_with_the_record_and_rises_with_the_confidence() -> None:
    def rate(checks: float, confidence: float) -> float:
        return check_rate(checks, confidence, fault_fraction=F, rate_max=0.5)

    needed = checks_to_be_believed(0.99, fault_fraction=F)
    assert rate(needed, 0.99) == pytest.approx(0.5)
    assert rate(10 * needed, 0.99) == pytest.approx(0.05)
    assert rate(needed, 0.9) == pytest.approx(0.05)
    assert rate(0.0, 0.99) == 0.5  # nobody is believed then; it is never more than the most
    assert rate(0.0, 0.8) == rate(5.0, 0.8) == 0.0


def test_an_idle_auditor_checks_after_the_job_has_ended() -> None:
    driver = believed_market(2)
    job, lease = first_result(driver)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert not lease.recheck
    assert driver.open_audit(job).purpose is LeasePurpose.AUDIT
    driver.check()


def test_without_an_idle_auditor_another_owner_must_agree() -> None:
    driver = believed_market(3)
    driver.disconnect("a0")
    job, lease = first_result(driver)
    assert lease.recheck
    assert driver.job(job).status is JobStatus.RUNNING
    [replica] = driver.open_leases(job)
    assert replica.purpose is LeasePurpose.REPLICA
    driver.deliver(replica.id, "right")
    assert driver.job(job).accepted == (lease.id, replica.id)
    driver.check()


def test_a_wrong_result_is_outvoted_that_would_have_been_believed() -> None:
    driver = believed_market(9)
    driver.disconnect("a0")
    job, lease = first_result(driver, "wrong")
    while driver.job(job).status is JobStatus.RUNNING:
        [open_lease, *_] = driver.open_leases(job)
        driver.deliver(open_lease.id, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert lease.id not in driver.job(job).accepted
    assert ("w0", "outvoted") in driver.evidence()
    driver.check()


def test_what_nobody_can_confirm_is_accepted_as_before() -> None:
    driver = believed_market(1)
    driver.disconnect("a0")
    job, lease = first_result(driver)
    assert driver.job(job).accepted == (lease.id,)
    assert driver.job(job).spot_check  # an auditor checks it if one comes back in time
    driver.check()


def test_a_believed_result_is_accepted_at_the_deadline_if_nobody_had_time_to_confirm_it() -> None:
    driver = believed_market(2)
    driver.disconnect("a0")
    job, lease = first_result(driver)
    assert driver.job(job).status is JobStatus.RUNNING
    driver.tick(300.0)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert lease.id in driver.job(job).accepted
    driver.check()


def test_lost_replicas_fail_no_job_that_has_a_believed_result() -> None:
    policy = msgspec.structs.replace(ALWAYS, attempts_max=1, attempts_proven_max=0)
    driver = believed_market(3, policy=policy)
    driver.disconnect("a0")
    job, _ = first_result(driver)
    driver.give_back(driver.open_leases(job)[0].id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    driver.check()


def test_a_recheck_outlives_a_restart() -> None:
    driver = believed_market(3)
    driver.disconnect("a0")
    job, lease = first_result(driver)
    driver.restart()
    for worker in ("w0", "w1", "w2"):
        driver.connect(worker)
    driver.tick()
    [replica] = driver.open_leases(job)
    driver.deliver(replica.id, "right")
    assert driver.job(job).accepted == (lease.id, replica.id)


def test_a_worker_with_a_contradicted_result_is_not_believed_alone() -> None:
    driver = believed_market(4, policy=msgspec.structs.replace(ALWAYS, recheck_rate=1e-9))
    driver.disconnect("a0")
    contested = driver.submit(confidence=0.99)
    leases = driver.open_leases(contested)
    for lease in leases:
        driver.deliver(lease.id, "odd" if lease.worker == "w0" else "right")
    assert driver.job(contested).status is JobStatus.RUNNING
    _, lease = first_result(driver)
    assert lease.recheck


def test_contested_jobs_are_decided_by_more_results_where_auditors_fall_behind() -> None:
    driver = StaffedMarket(12, auditors=1, policy=MarketPolicy(audit_rate=0.0, contested_per_run_max=1.0))
    waiting = []
    for _ in range(driver.market.worker("a0").offer.capacity * 2 + 1):  # type: ignore[union-attr]
        job = driver.submit(confidence=0.9)
        for outcome, lease in zip(("right", "wrong"), driver.open_leases(job), strict=True):
            driver.deliver(lease.id, outcome)
        waiting.append(job)
    purposes = [{lease.purpose for lease in driver.open_leases(job)} for job in waiting]
    assert purposes[0] == {LeasePurpose.AUDIT}
    assert set() in purposes  # waits for the auditor
    assert purposes[-1] == {LeasePurpose.REPLICA}


def test_an_earlier_journal_replays_without_rechecks() -> None:
    recorded = recorded_policy(msgspec.msgpack.encode({"audit_rate": 0.0}))
    assert (recorded.recheck_rate, recorded.contested_per_run_max) == (0.0, 0.0)
    driver = believed_market(2, policy=recorded)
    driver.disconnect("a0")
    job, lease = first_result(driver)
    assert driver.job(job).accepted == (lease.id,)
    assert not driver.job(job).spot_check
