"""From results to verdicts: agreement, disagreement, stage failures, and what they cost whom."""

from __future__ import annotations

import pytest

from tradepost import errors
from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Account, Lease, LeaseState, WorkerStanding
from tradepost_broker.market.model.events import ReceiptDelivered, SendAcknowledged, SendSettled
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
    for _ in range(20):
        job = driver.submit(confidence=0.95)
        needed.append(len(driver.open_leases(job)))
        driver.deliver_all(job, *["right"] * needed[-1])
    # Drawn from two owners, an agreement counts half of a quarter of a check.
    assert needed == [3] * 4 + [2] * 15 + [1]


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


def test_a_job_that_never_agrees_is_not_verified_and_costs_a_part() -> None:
    driver = StaffedMarket(5, policy=MarketPolicy(audit_rate=0.0, results_max=4))
    job = driver.submit(confidence=0.9)
    for number in range(4):
        driver.deliver(driver.open_leases(job)[0].id, f"outcome {number}")
    ended = driver.job(job)
    assert ended.status is JobStatus.FAILED
    assert ended.problem.code == "not-verified"
    assert ended.problem.facts["results"] == 4
    leases = driver.market.leases_of(job)
    assert ended.paid_microcredits == sum(lease.price_microcredits // 10 for lease in leases)
    assert {lease.state for lease in leases} == {LeaseState.INCONCLUSIVE}
    left_microcredits = driver.market.account("credits:alice").available_microcredits
    assert left_microcredits == 10_000_000 - ended.paid_microcredits
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


def test_a_stage_failure_is_not_accepted_from_one_worker_however_little_the_job_asks() -> None:
    driver = StaffedMarket(2)
    job = driver.submit(confidence=0.5)
    [first] = driver.open_leases(job)
    driver.deliver(first.id, "failed:normalize:kernel-trap", problem=TRAP)
    assert driver.job(job).status is JobStatus.RUNNING
    [second] = driver.open_leases(job)
    assert second.worker != first.worker
    driver.deliver(second.id, "failed:normalize:kernel-trap", problem=TRAP)
    ended = driver.job(job)
    assert (ended.status, ended.problem) == (JobStatus.FAILED, TRAP)
    assert all(lease.paid_microcredits for lease in driver.market.leases_of(job))
    driver.check()


def test_a_sole_bidder_that_fails_leaves_two_thirds_of_the_cap_for_others() -> None:
    driver = StaffedMarket(1)
    job = driver.submit(confidence=0.5, max_price_microcredits=10_000)
    [first] = driver.open_leases(job)
    assert first.price_microcredits > 9_000
    driver.deliver(first.id, "failed:normalize:kernel-trap", problem=TRAP)
    driver.add_worker("late", 50)
    [second] = driver.open_leases(job)
    driver.deliver(second.id, "failed:normalize:kernel-trap", problem=TRAP)
    assert driver.job(job).problem == TRAP
    assert driver.of(Lease, first.id).paid_microcredits == 3_333
    assert driver.of(Lease, second.id).paid_microcredits == 5_000, "its bid"
    driver.check()


def test_an_auditor_confirms_a_stage_failure_where_nobody_else_can() -> None:
    driver = StaffedMarket(1, auditors=1)
    job = driver.submit(confidence=0.5)
    [first] = driver.open_leases(job)
    driver.deliver(first.id, "failed:normalize:kernel-trap", problem=TRAP)
    driver.deliver(driver.open_audit(job).id, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.of(Lease, first.id).paid_microcredits == 0
    driver.check()


def test_a_stage_failure_that_nobody_can_confirm_ends_the_job_unpaid() -> None:
    driver = StaffedMarket(1)
    job = driver.submit(confidence=0.5, patience_s=5)
    [first] = driver.open_leases(job)
    driver.deliver(first.id, "failed:normalize:kernel-trap", problem=TRAP)
    assert driver.job(job).status is JobStatus.RUNNING
    driver.tick(5)
    ended = driver.job(job)
    assert (ended.status, ended.problem.code, ended.problem.stage) == (
        JobStatus.FAILED,
        "kernel-trap",
        "normalize",
    )
    assert ended.problem.detail.startswith("out of bounds (reported by one worker; ")
    assert (ended.paid_microcredits, ended.accepted) == (0, ())
    assert driver.of(Lease, first.id).state is LeaseState.INCONCLUSIVE
    driver.check()


def test_one_worker_cannot_end_a_job_with_a_made_up_failure() -> None:
    driver = StaffedMarket(3)
    job = driver.submit(confidence=0.75)
    driver.deliver(driver.open_leases(job)[0].id, "failed:normalize:kernel-trap", problem=TRAP)
    while driver.job(job).status is JobStatus.RUNNING:
        driver.deliver(driver.open_leases(job)[0].id, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    driver.check()


def test_the_submitter_gets_the_result_nearest_to_the_median_even_after_a_restart() -> None:
    driver = StaffedMarket(3)
    job = driver.submit(confidence=0.95)
    edge, middle, other = driver.open_leases(job)
    for lease, outcome, shares in (
        (edge, "1.9", {}),
        (middle, "1.0", {edge.id: 0.9}),
        (other, "1.1", {edge.id: 0.8, middle.id: 0.1}),
    ):
        driver.restart()
        for worker in ("w0", "w1", "w2"):
            driver.connect(worker)
        driver.handle(
            ReceiptDelivered(
                at=driver.at,
                worker=lease.worker,
                lease=lease.id,
                outcome=outcome,
                stage_hashes=(),
                agrees_with=tuple(shares),
                shares=tuple(shares.values()),
                seed=driver.next_seed(),
            )
        )
    ended = driver.job(job)
    assert ended.status is JobStatus.ACCEPTED
    assert ended.accepted[0] == other.id, "0.8 + 0.1 is less than 0.9 + 0.1, and than 0.9 + 0.8"
    assert set(ended.accepted) == {edge.id, middle.id, other.id}
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
