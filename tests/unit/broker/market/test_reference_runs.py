"""Disagreement where there is an auditor: the reference run decides, pays and expels."""

from __future__ import annotations

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import (
    Account,
    Evidence,
    Lease,
    LeasePurpose,
    LeaseState,
    WorkerStanding,
)
from tradepost_broker.market.model.events import (
    NotifyFinished,
    ReceiptDelivered,
    SendAcknowledged,
    SendGrant,
    SendRecall,
    SendSettled,
)
from tradepost_broker.market.testing import make_offer
from tradepost_broker.testing.staffed_market import ALWAYS_CHECKED, StaffedMarket


def test_a_reference_run_decides_pays_and_expels() -> None:
    driver = StaffedMarket(2, auditors=1)
    job = driver.submit(confidence=0.9)
    wrong, right = driver.open_leases(job)
    driver.deliver(wrong.id, "wrong", stages=(("normalize", "a"), ("model", "x")))
    driver.deliver(right.id, "right", stages=(("normalize", "a"), ("model", "y")))
    audit = driver.open_audit(job)
    assert driver.told() == [SendAcknowledged(right.id, right.worker), SendGrant(audit.id, "a0")]
    assert audit.price_microcredits == 0
    driver.deliver(audit.id, "right", stages=(("normalize", "a"), ("model", "y")))
    assert driver.told() == [
        SendAcknowledged(audit.id, "a0"),
        SendSettled(
            right.id, right.worker, "accepted", right.price_microcredits, "a reference run confirms it"
        ),
        NotifyFinished(job),
        SendSettled(
            wrong.id,
            wrong.worker,
            "rejected",
            0,
            "a reference run contradicts it in stage model; its stake of 1 credits is taken, and "
            "0 credits of held earnings are refunded to submitters",
        ),
    ]
    ended = driver.job(job)
    assert (ended.status, ended.paid_microcredits, ended.accepted) == (
        JobStatus.ACCEPTED,
        right.price_microcredits,
        (right.id,),
    )
    assert ended.verification.credibility == 1.0
    assert sorted(driver.evidence()) == sorted(
        [(right.worker, "audit_passed"), (wrong.worker, "audit_failed")]
    )
    assert driver.of(Evidence, f"{wrong.id}:audit_failed").stage == "model"
    assert driver.market.worker(wrong.worker).standing is WorkerStanding.EXPELLED
    assert driver.of(Account, f"stake:{wrong.worker}").available_microcredits == 0
    assert driver.of(Account, f"stake:{right.worker}").available_microcredits == 1_000_000
    driver.check()


def test_no_more_replicas_are_bought_while_a_reference_run_is_awaited() -> None:
    driver = StaffedMarket(6, auditors=1)
    job = driver.submit(confidence=0.9)
    driver.deliver_all(job, "wrong", "right")
    assert [lease.purpose for lease in driver.open_leases(job)] == [LeasePurpose.AUDIT]


def test_the_majority_does_not_help_against_the_reference() -> None:
    driver = StaffedMarket(3, auditors=1)
    job = driver.submit(confidence=0.95)
    wrong_a, wrong_b, right = driver.open_leases(job)
    driver.deliver(wrong_a.id, "wrong")
    driver.deliver(right.id, "right")
    driver.deliver(wrong_b.id, "wrong")
    driver.deliver(driver.open_audit(job).id, "right")
    assert driver.job(job).accepted == (right.id,)
    expelled = {worker.id for worker in driver.market.workers() if worker.standing == "expelled"}
    assert expelled == {wrong_a.worker, wrong_b.worker}
    driver.check()


def test_if_all_are_wrong_the_reference_is_the_result_and_costs_nothing() -> None:
    driver = StaffedMarket(2, auditors=1)
    job = driver.submit(confidence=0.9)
    driver.deliver_all(job, "wrong", "also wrong")
    audit = driver.open_audit(job)
    driver.deliver(audit.id, "right")
    ended = driver.job(job)
    assert (ended.status, ended.paid_microcredits, ended.accepted) == (JobStatus.ACCEPTED, 0, (audit.id,))
    assert driver.market.account("credits:alice").available_microcredits == 10_000_000
    driver.check()


def test_a_group_is_right_if_any_of_it_agrees_with_the_reference() -> None:
    """Tolerance is not transitive: near the edge, the doubt is the worker's."""
    driver = StaffedMarket(3, auditors=1)
    job = driver.submit(confidence=0.95)
    near, nearer, far = driver.open_leases(job)
    for lease, outcome in ((near, "1.00"), (nearer, "1.00"), (far, "9")):
        driver.deliver(lease.id, outcome)
    audit = driver.open_audit(job)
    driver.market.lease(near.id).outcome = "1.01"  # so that only the other one equals the reference
    driver.deliver(audit.id, "1.00")
    ended = driver.job(job)
    assert ended.accepted == (nearer.id, near.id), "the submitter gets the one that equals the reference"
    assert driver.market.worker(near.worker).standing is WorkerStanding.ACTIVE


def test_the_submitter_gets_the_reference_where_no_right_result_is_the_same() -> None:
    driver = StaffedMarket(3, auditors=1)
    job = driver.submit(confidence=0.95)
    near, wrong, _ = driver.open_leases(job)
    driver.deliver(near.id, "1.00")
    driver.deliver(wrong.id, "9")
    audit = driver.open_audit(job)
    driver.market.lease(near.id).outcome = "1.01"
    driver.handle(
        ReceiptDelivered(
            at=driver.at,
            worker=audit.worker,
            lease=audit.id,
            outcome="1.00",
            stage_hashes=(),
            agrees_with=(near.id,),
            shares=(0.9,),
            seed=driver.next_seed(),
        )
    )
    ended = driver.job(job)
    assert ended.accepted == (audit.id, near.id)
    assert ended.verification.agreed == (near.worker,)
    assert driver.of(Lease, near.id).paid_microcredits > 0
    driver.check()


def test_open_replicas_are_recalled_when_the_reference_run_decides() -> None:
    driver = StaffedMarket(3, auditors=1)
    job = driver.submit(confidence=0.95)
    wrong, right, slow = driver.open_leases(job)
    driver.deliver(wrong.id, "wrong")
    driver.deliver(right.id, "right")
    driver.deliver(driver.open_audit(job).id, "right")
    assert SendRecall(slow.id, slow.worker) in driver.told()
    driver.deliver(slow.id, "right")
    [late] = driver.told()
    assert late.problem.code == "lease-gone"
    assert (slow.worker, "failed") not in driver.evidence()
    driver.check()


def test_expelling_gives_back_held_earnings_and_other_work() -> None:
    driver = StaffedMarket(1, auditors=1)
    paid_job = driver.submit(confidence=0.75)
    driver.deliver_all(paid_job, "right")
    earned = driver.job(paid_job).paid_microcredits
    assert earned > 0
    running = driver.submit(confidence=0.75, max_price_microcredits=50_000)
    other_lease = driver.open_leases(running)[0]
    driver.add_worker("w1")
    job = driver.submit(confidence=0.9)
    assert {lease.worker for lease in driver.open_leases(job)} == {"w0", "w1"}
    for lease in driver.open_leases(job):
        driver.deliver(lease.id, "wrong" if lease.worker == "w0" else "right")
    driver.deliver(driver.open_audit(job).id, "right")
    assert SendRecall(other_lease.id, "w0") in driver.told()
    assert [lease.worker for lease in driver.open_leases(running)] == ["w1"]
    assert driver.job(paid_job).paid_microcredits == 0
    assert driver.job(paid_job).status is JobStatus.ACCEPTED
    assert driver.market.account("held:w0").available_microcredits == 0
    driver.deliver(driver.open_leases(running)[0].id, "right")
    driver.deliver(driver.open_audit(paid_job).id, "right")
    driver.check()
    driver.tick(10_000.0)
    assert driver.market.account("earned:w0").available_microcredits == 0
    assert driver.market.account("credits:alice").available_microcredits == 10_000_000 - sum(
        driver.job(each).paid_microcredits for each in (paid_job, running, job)
    )


def test_undecided_results_of_an_expelled_worker_are_set_aside() -> None:
    driver = StaffedMarket(2, auditors=1)
    waiting = driver.submit(confidence=0.95)
    leases = {lease.worker: lease for lease in driver.open_leases(waiting)}
    driver.deliver(leases["w0"].id, "wrong")
    job = driver.submit(confidence=0.9)
    for lease in driver.open_leases(job):
        driver.deliver(lease.id, "wrong" if lease.worker == "w0" else "right")
    driver.deliver(driver.open_audit(job).id, "right")
    set_aside = driver.of(Lease, leases["w0"].id)
    assert (set_aside.state, set_aside.paid_microcredits) == (LeaseState.INCONCLUSIVE, 0)
    driver.add_worker("w2")
    driver.deliver(leases["w1"].id, "right")
    assert [lease.worker for lease in driver.open_leases(waiting)] == ["w2"]
    driver.check()


def test_an_expelled_worker_gets_nothing_more_even_if_it_comes_back() -> None:
    driver = StaffedMarket(1, auditors=1, policy=ALWAYS_CHECKED)
    job = driver.submit()
    driver.deliver_all(job, "wrong")
    driver.deliver(driver.open_audit(job).id, "right")
    driver.connect("w0", make_offer(1))
    assert driver.open_leases(driver.submit()) == []
