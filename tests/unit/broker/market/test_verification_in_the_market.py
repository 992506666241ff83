"""From results to verdicts: agreement, disagreement, stage failures, and what they cost whom."""

from __future__ import annotations

import pytest

from tradepost import errors
from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Account, Lease, LeaseState, WorkerStanding
from tradepost_broker.market.model.events import SendAcknowledged, SendSettled
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.testing.staffed_market import ALWAYS_CHECKED, StaffedMarket

# Agreement


def test_newcomers_confirm_each_other_and_all_are_paid() -> None:
    driver = StaffedMarket(4)
    job = driver.submit(confidence=0.95)
    leases = driver.deliver_all(job, "right", "right", "right")
    ended = driver.job(job)
    assert ended.status is JobStatus.ACCEPTED
    assert ended.accepted == tuple(lease.id for lease in leases)
    assert ended.verification is not None
    assert ended.verification.credibility == pytest.approx(0.512 / 0.52)
    assert ended.verification.agreed == tuple(lease.worker for lease in leases)
    assert ended.paid_microcredits == sum(lease.price_microcredits for lease in leases)
    assert driver.evidence() == [(lease.worker, "agreed") for lease in leases]
    driver.check()


def test_one_result_alone_is_no_evidence() -> None:
    driver = StaffedMarket(1)
    job = driver.submit(confidence=0.75)
    driver.deliver_all(job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.evidence() == []


def test_agreement_makes_later_jobs_cheaper_to_verify() -> None:
    driver = StaffedMarket(3)
    needed = []
    for _ in range(9):
        job = driver.submit(confidence=0.95)
        needed.append(len(driver.open_leases(job)))
        driver.deliver_all(job, *["right"] * needed[-1])
    # A quarter of a check for each agreement: after two, two of them are enough; after eight, one is.
    assert needed == [3, 3, 2, 2, 2, 2, 2, 2, 1]


def test_reference_runs_make_later_jobs_cheaper_sooner() -> None:
    driver = StaffedMarket(1, auditors=1, policy=ALWAYS_CHECKED)
    needed = []
    for _ in range(4):
        job = driver.submit(confidence=0.95)
        driver.deliver_all(job, "right")
        needed.append(driver.job(job).status is JobStatus.RUNNING)
        driver.deliver(driver.open_audit(job).id, "right")
    assert needed == [True, True, False, False], "0.8, 0.908, then 0.954 after two checks"


# Disagreement without an auditor: soft


def test_without_an_auditor_replicas_outvote_and_nothing_is_slashed() -> None:
    driver = StaffedMarket(6)
    job = driver.submit(confidence=0.75)
    [first] = driver.open_leases(job)
    driver.deliver(first.id, "wrong")
    assert driver.job(job).status is JobStatus.ACCEPTED, "0.8 is enough for 0.75"

    job = driver.submit(confidence=0.9)
    wrong, right = driver.open_leases(job)
    driver.deliver(wrong.id, "wrong")
    driver.deliver(right.id, "right")
    while driver.job(job).status is JobStatus.RUNNING:
        driver.deliver(driver.open_leases(job)[0].id, "right")
    loser = driver.of(Lease, wrong.id)
    assert (loser.state, loser.paid_microcredits) == (LeaseState.REJECTED, 0)
    assert (wrong.worker, "outvoted") in driver.evidence()
    assert driver.of(Account, f"stake:{wrong.worker}").available_microcredits == 1_000_000
    assert driver.market.worker(wrong.worker).standing is WorkerStanding.ACTIVE
    assert driver.job(job).verification.disagreed == (wrong.worker,)
    settled = [told for told in driver.told() if isinstance(told, SendSettled) and told.lease == wrong.id]
    assert settled[0].reason.endswith("the stake is kept")
    driver.check()


def test_a_job_that_never_agrees_is_not_verified_and_refunded() -> None:
    driver = StaffedMarket(5, policy=MarketPolicy(audit_rate=0.0, results_max=4))
    job = driver.submit(confidence=0.9)
    for number in range(4):
        driver.deliver(driver.open_leases(job)[0].id, f"outcome {number}")
    ended = driver.job(job)
    assert ended.status is JobStatus.FAILED
    assert ended.problem.code == "not-verified"
    assert ended.problem.facts["results"] == 4
    assert ended.paid_microcredits == 0
    assert {lease.state for lease in driver.market.leases_of(job)} == {LeaseState.INCONCLUSIVE}
    assert driver.market.account("credits:alice").available_microcredits == 10_000_000
    assert driver.evidence() == []
    driver.check()


# Stage failures


TRAP = errors.KernelTrap("out of bounds", stage="normalize").to_problem()


def test_a_verified_stage_failure_fails_the_job_and_is_paid() -> None:
    driver = StaffedMarket(3)
    job = driver.submit(confidence=0.95)
    for lease in driver.open_leases(job):
        driver.deliver(lease.id, "failed:normalize:kernel-trap", problem=TRAP)
    ended = driver.job(job)
    assert (ended.status, ended.problem) == (JobStatus.FAILED, TRAP)
    assert (
        ended.paid_microcredits == sum(lease.paid_microcredits for lease in driver.market.leases_of(job)) > 0
    )
    assert len(ended.accepted) == 3
    assert {kind for _, kind in driver.evidence()} == {"agreed"}
    driver.check()


def test_a_pretended_stage_failure_is_a_wrong_result() -> None:
    driver = StaffedMarket(2, auditors=1)
    job = driver.submit(confidence=0.9)
    liar, honest = driver.open_leases(job)
    driver.deliver(liar.id, "failed:normalize:kernel-trap", problem=TRAP)
    driver.deliver(honest.id, "right")
    driver.deliver(driver.open_audit(job).id, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.market.worker(liar.worker).standing is WorkerStanding.EXPELLED
    driver.check()


# Repetition


@pytest.mark.parametrize("event", ["deliver", "give_back"])
def test_what_comes_twice_or_from_others_harms_nobody(event: str) -> None:
    driver = StaffedMarket(2)
    job = driver.submit(confidence=0.9)
    lease, other = driver.open_leases(job)
    driver.deliver(lease.id)
    driver.deliver(lease.id, "another outcome")
    assert driver.told() == [SendAcknowledged(lease.id, lease.worker)]
    assert driver.market.lease(lease.id).outcome == "right"
    if event == "deliver":
        driver.deliver(other.id, worker=lease.worker)
        [late] = driver.told()
        assert late.problem.code == "lease-gone"
        driver.deliver("no.1", worker="w0")
        [late] = driver.told()
        assert late.problem.code == "lease-gone"
    else:
        driver.give_back(lease.id)
        assert driver.told() == [SendAcknowledged(lease.id, lease.worker)]
        driver.give_back("no.1")
        assert driver.told() == [SendAcknowledged("no.1", "nobody")]
    assert driver.market.lease(other.id).state is LeaseState.OPEN
    driver.deliver(other.id)
    driver.deliver(lease.id)
    assert driver.told() == [
        SendAcknowledged(lease.id, lease.worker),
        SendSettled(lease.id, lease.worker, "accepted", lease.price_microcredits, "settled before"),
    ]
    driver.check()
