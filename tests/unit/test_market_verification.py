"""From results to verdicts: agreement, disagreement, reference runs, and what they cost whom."""

from __future__ import annotations

import pytest

from tradepost import errors
from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.entities import Account, Evidence, Lease, LeasePurpose, LeaseState, WorkerStanding
from tradepost_broker.events import NotifyFinished, SendAcknowledged, SendGrant, SendRecall, SendSettled
from tradepost_broker.market.testing import MarketDriver, make_offer
from tradepost_broker.policy import MarketPolicy

NO_CHECKS = MarketPolicy(audit_rate=0.0)
ALWAYS_CHECKED = MarketPolicy(audit_rate=1.0)


def market_with(
    workers: int, *, auditors: int = 0, policy: MarketPolicy = NO_CHECKS, seed: int = 0
) -> MarketDriver:
    """Funded, with a pipeline, workers w0, w1, … at the same price, and auditors a0, a1, …"""
    driver = MarketDriver(policy=policy, seed=seed)
    driver.fund(amount=10_000_000)
    driver.publish()
    for number in range(auditors):
        driver.add_worker(f"a{number}", auditor=True)
    for number in range(workers):
        driver.add_worker(f"w{number}")
    return driver


def evidence(driver: MarketDriver) -> list[tuple[str, str]]:
    """All evidence as (worker, kind)."""
    return [(found.worker, found.kind.value) for found in driver.all_of(Evidence)]


def open_audit(driver: MarketDriver, job: str) -> Lease:
    [audit] = [lease for lease in driver.open_leases(job) if lease.purpose is LeasePurpose.AUDIT]
    return audit


def deliver_all(driver: MarketDriver, job: str, *outcomes: str) -> list[Lease]:
    """Deliver these outcomes for the job's open leases, in order."""
    leases = driver.open_leases(job)
    for lease, outcome in zip(leases, outcomes, strict=True):
        driver.deliver(lease.id, outcome)
    return leases


# Agreement


def test_newcomers_confirm_each_other_and_all_are_paid() -> None:
    driver = market_with(4)
    job = driver.submit(confidence=0.95)
    leases = deliver_all(driver, job, "right", "right", "right")
    ended = driver.job(job)
    assert ended.status is JobStatus.ACCEPTED
    assert ended.accepted == tuple(lease.id for lease in leases)
    assert ended.verification is not None
    assert ended.verification.credibility == pytest.approx(0.512 / 0.52)
    assert ended.verification.agreed == tuple(lease.worker for lease in leases)
    assert ended.paid == sum(lease.price for lease in leases)
    assert evidence(driver) == [(lease.worker, "agreed") for lease in leases]
    driver.check()


def test_one_result_alone_is_no_evidence() -> None:
    driver = market_with(1)
    job = driver.submit(confidence=0.75)
    deliver_all(driver, job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert evidence(driver) == []


def test_agreement_makes_later_jobs_cheaper_to_verify() -> None:
    driver = market_with(3)
    needed = []
    for _ in range(9):
        job = driver.submit(confidence=0.95)
        needed.append(len(driver.open_leases(job)))
        deliver_all(driver, job, *["right"] * needed[-1])
    # A quarter of a check for each agreement: after two, two of them are enough; after eight, one is.
    assert needed == [3, 3, 2, 2, 2, 2, 2, 2, 1]


def test_reference_runs_make_later_jobs_cheaper_sooner() -> None:
    driver = market_with(1, auditors=1, policy=ALWAYS_CHECKED)
    needed = []
    for _ in range(4):
        job = driver.submit(confidence=0.95)
        deliver_all(driver, job, "right")
        needed.append(driver.job(job).status is JobStatus.RUNNING)
        driver.deliver(open_audit(driver, job).id, "right")
    assert needed == [True, True, False, False], "0.8, 0.908, then 0.954 after two checks"


# Disagreement without an auditor: soft


def test_without_an_auditor_replicas_outvote_and_nothing_is_slashed() -> None:
    driver = market_with(6)
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
    assert (loser.state, loser.paid) == (LeaseState.REJECTED, 0)
    assert (wrong.worker, "outvoted") in evidence(driver)
    assert driver.of(Account, f"stake:{wrong.worker}").available == 1_000_000
    assert driver.market.worker(wrong.worker).standing is WorkerStanding.ACTIVE
    assert driver.job(job).verification.disagreed == (wrong.worker,)
    settled = [told for told in driver.told() if isinstance(told, SendSettled) and told.lease == wrong.id]
    assert settled[0].reason.endswith("it costs no stake")
    driver.check()


def test_a_job_that_never_agrees_is_not_verified_and_refunded() -> None:
    driver = market_with(5, policy=MarketPolicy(audit_rate=0.0, results_max=4))
    job = driver.submit(confidence=0.9)
    for number in range(4):
        driver.deliver(driver.open_leases(job)[0].id, f"outcome {number}")
    ended = driver.job(job)
    assert ended.status is JobStatus.FAILED
    assert ended.problem.code == "not-verified"
    assert ended.problem.facts["results"] == 4
    assert ended.paid == 0
    assert {lease.state for lease in driver.market.leases_of(job)} == {LeaseState.INCONCLUSIVE}
    assert driver.market.account("credits:alice").available == 10_000_000
    assert evidence(driver) == []
    driver.check()


# Disagreement with an auditor: the reference run decides


def test_a_reference_run_decides_pays_and_expels() -> None:
    driver = market_with(2, auditors=1)
    job = driver.submit(confidence=0.9)
    wrong, right = driver.open_leases(job)
    driver.deliver(wrong.id, "wrong", stages=(("normalize", "a"), ("model", "x")))
    driver.deliver(right.id, "right", stages=(("normalize", "a"), ("model", "y")))
    audit = open_audit(driver, job)
    assert driver.told() == [SendAcknowledged(right.id, right.worker), SendGrant(audit.id, "a0")]
    assert audit.price == 0
    driver.deliver(audit.id, "right", stages=(("normalize", "a"), ("model", "y")))
    assert driver.told() == [
        SendAcknowledged(audit.id, "a0"),
        SendSettled(right.id, right.worker, "accepted", right.price, "a reference run confirms it"),
        NotifyFinished(job),
        SendSettled(
            wrong.id,
            wrong.worker,
            "rejected",
            0,
            "a reference run contradicts it in stage model; its stake of 1 credits is taken, and "
            "0 credits of held earnings go back to submitters",
        ),
    ]
    ended = driver.job(job)
    assert (ended.status, ended.paid, ended.accepted) == (JobStatus.ACCEPTED, right.price, (right.id,))
    assert ended.verification.credibility == 1.0
    assert sorted(evidence(driver)) == sorted(
        [(right.worker, "audit_passed"), (wrong.worker, "audit_failed")]
    )
    assert driver.of(Evidence, f"{wrong.id}:audit_failed").stage == "model"
    assert driver.market.worker(wrong.worker).standing is WorkerStanding.EXPELLED
    assert driver.of(Account, f"stake:{wrong.worker}").available == 0
    assert driver.of(Account, f"stake:{right.worker}").available == 1_000_000
    driver.check()


def test_no_more_replicas_are_bought_while_a_reference_run_is_awaited() -> None:
    driver = market_with(6, auditors=1)
    job = driver.submit(confidence=0.9)
    deliver_all(driver, job, "wrong", "right")
    assert [lease.purpose for lease in driver.open_leases(job)] == [LeasePurpose.AUDIT]


def test_the_majority_does_not_help_against_the_reference() -> None:
    driver = market_with(3, auditors=1)
    job = driver.submit(confidence=0.95)
    wrong_a, wrong_b, right = driver.open_leases(job)
    driver.deliver(wrong_a.id, "wrong")
    driver.deliver(right.id, "right")
    driver.deliver(wrong_b.id, "wrong")
    driver.deliver(open_audit(driver, job).id, "right")
    assert driver.job(job).accepted == (right.id,)
    expelled = {worker.id for worker in driver.market.workers() if worker.standing == "expelled"}
    assert expelled == {wrong_a.worker, wrong_b.worker}
    driver.check()


def test_if_all_are_wrong_the_reference_is_the_result_and_costs_nothing() -> None:
    driver = market_with(2, auditors=1)
    job = driver.submit(confidence=0.9)
    deliver_all(driver, job, "wrong", "also wrong")
    audit = open_audit(driver, job)
    driver.deliver(audit.id, "right")
    ended = driver.job(job)
    assert (ended.status, ended.paid, ended.accepted) == (JobStatus.ACCEPTED, 0, (audit.id,))
    assert driver.market.account("credits:alice").available == 10_000_000
    driver.check()


def test_a_group_is_right_if_any_of_it_agrees_with_the_reference() -> None:
    """Tolerance is not transitive: near the edge, the doubt is the worker's."""
    driver = market_with(3, auditors=1)
    job = driver.submit(confidence=0.95)
    near, nearer, far = driver.open_leases(job)
    for lease, outcome in ((near, "1.00"), (nearer, "1.00"), (far, "9")):
        driver.deliver(lease.id, outcome)
    audit = open_audit(driver, job)
    driver.market.lease(near.id).outcome = "1.01"  # so that only the other one equals the reference
    driver.deliver(audit.id, "1.00")
    assert driver.job(job).accepted == (near.id, nearer.id)
    assert driver.market.worker(near.worker).standing is WorkerStanding.ACTIVE


def test_open_replicas_are_recalled_when_the_reference_run_decides() -> None:
    driver = market_with(3, auditors=1)
    job = driver.submit(confidence=0.95)
    wrong, right, slow = driver.open_leases(job)
    driver.deliver(wrong.id, "wrong")
    driver.deliver(right.id, "right")
    driver.deliver(open_audit(driver, job).id, "right")
    assert SendRecall(slow.id, slow.worker) in driver.told()
    driver.deliver(slow.id, "right")
    [late] = driver.told()
    assert late.problem.code == "lease-gone"
    assert (slow.worker, "failed") not in evidence(driver)
    driver.check()


def test_expelling_gives_back_held_earnings_and_other_work() -> None:
    driver = market_with(1, auditors=1)
    paid_job = driver.submit(confidence=0.75)
    deliver_all(driver, paid_job, "right")
    earned = driver.job(paid_job).paid
    assert earned > 0
    running = driver.submit(confidence=0.75, max_price=50_000)
    other_lease = driver.open_leases(running)[0]
    driver.add_worker("w1")
    job = driver.submit(confidence=0.9)
    assert {lease.worker for lease in driver.open_leases(job)} == {"w0", "w1"}
    for lease in driver.open_leases(job):
        driver.deliver(lease.id, "wrong" if lease.worker == "w0" else "right")
    driver.deliver(open_audit(driver, job).id, "right")
    assert SendRecall(other_lease.id, "w0") in driver.told()
    assert [lease.worker for lease in driver.open_leases(running)] == ["w1"]
    assert driver.job(paid_job).paid == 0
    assert driver.job(paid_job).status is JobStatus.ACCEPTED
    assert driver.market.account("held:w0").available == 0
    driver.deliver(driver.open_leases(running)[0].id, "right")
    driver.check()
    driver.tick(10_000.0)
    assert driver.market.account("earned:w0").available == 0
    assert driver.market.account("credits:alice").available == 10_000_000 - sum(
        driver.job(each).paid for each in (paid_job, running, job)
    )


def test_undecided_results_of_an_expelled_worker_are_set_aside() -> None:
    driver = market_with(2, auditors=1)
    waiting = driver.submit(confidence=0.95)
    leases = {lease.worker: lease for lease in driver.open_leases(waiting)}
    driver.deliver(leases["w0"].id, "wrong")
    job = driver.submit(confidence=0.9)
    for lease in driver.open_leases(job):
        driver.deliver(lease.id, "wrong" if lease.worker == "w0" else "right")
    driver.deliver(open_audit(driver, job).id, "right")
    set_aside = driver.of(Lease, leases["w0"].id)
    assert (set_aside.state, set_aside.paid) == (LeaseState.INCONCLUSIVE, 0)
    driver.add_worker("w2")
    driver.deliver(leases["w1"].id, "right")
    assert [lease.worker for lease in driver.open_leases(waiting)] == ["w2"]
    driver.check()


def test_an_expelled_worker_gets_nothing_more_even_if_it_comes_back() -> None:
    driver = market_with(1, auditors=1, policy=ALWAYS_CHECKED)
    job = driver.submit()
    deliver_all(driver, job, "wrong")
    driver.deliver(open_audit(driver, job).id, "right")
    driver.connect("w0", make_offer(1))
    assert driver.open_leases(driver.submit()) == []


# Spot checks


def test_a_spot_check_does_not_delay_the_result() -> None:
    driver = market_with(1, auditors=1, policy=ALWAYS_CHECKED)
    job = driver.submit()
    deliver_all(driver, job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    audit = open_audit(driver, job)
    assert driver.told()[-2:] == [NotifyFinished(job), SendGrant(audit.id, "a0")]
    paid = driver.job(job).paid
    driver.deliver(audit.id, "right")
    assert evidence(driver) == [("w0", "audit_passed")]
    assert driver.job(job).paid == paid
    assert driver.told() == [SendAcknowledged(audit.id, "a0")]
    driver.check()


def test_a_spot_check_that_contradicts_an_accepted_result_refunds_and_slashes() -> None:
    driver = market_with(1, auditors=1, policy=ALWAYS_CHECKED)
    job = driver.submit()
    deliver_all(driver, job, "wrong")
    price = driver.job(job).paid
    driver.deliver(open_audit(driver, job).id, "right")
    ended = driver.job(job)
    assert (ended.status, ended.paid) == (JobStatus.ACCEPTED, 0)
    assert ended.verification.credibility == 0.0
    assert ended.verification.disagreed == ("w0",)
    assert evidence(driver) == [("w0", "audit_failed")]
    assert driver.market.account("credits:alice").available == 10_000_000
    assert driver.market.account("stake:w0").available == 0
    [_, told] = driver.told()
    assert f"{price / 1e6:g} credits of held earnings go back" in told.reason
    driver.check()


def test_what_has_matured_cannot_be_clawed_back() -> None:
    driver = market_with(1, auditors=1, policy=MarketPolicy(audit_rate=1.0, hold_s=5.0, lease_grace_s=60.0))
    job = driver.submit()
    deliver_all(driver, job, "wrong")
    paid = driver.job(job).paid
    driver.tick(6.0)
    driver.deliver(open_audit(driver, job).id, "right")
    assert driver.job(job).paid == paid
    assert driver.market.account("earned:w0").available == paid
    assert driver.market.account("stake:w0").available == 0
    driver.check()


def test_the_rate_of_spot_checks_is_the_policys() -> None:
    checked = 0
    for seed in range(400):
        driver = market_with(1, auditors=1, policy=MarketPolicy(audit_rate=0.25), seed=seed)
        job = driver.submit()
        deliver_all(driver, job, "right")
        checked += bool(driver.open_leases(job))
    assert 70 <= checked <= 130  # 100 expected; 30 is 3.5 standard deviations


def test_a_busy_auditor_is_waited_for() -> None:
    driver = market_with(3, auditors=1, policy=ALWAYS_CHECKED)
    driver.connect("a0", make_offer(capacity=1))
    jobs = [driver.submit() for _ in range(3)]
    for job in jobs:
        driver.deliver(driver.open_leases(job)[0].id)
    audits = []
    for _ in jobs:
        [audit] = [lease for job in jobs for lease in driver.open_leases(job)]
        audits.append(audit.job)
        driver.deliver(audit.id)
    assert audits == jobs


def test_auditors_may_use_all_of_their_capacity() -> None:
    driver = market_with(3, auditors=1, policy=MarketPolicy(audit_rate=1.0, exposure_leases_max=2))
    driver.connect("a0", make_offer(capacity=6))
    for job in [driver.submit() for _ in range(6)]:
        driver.deliver(driver.open_leases(job)[0].id)
    assert len(driver.market.open_leases_of("a0")) == 6


def test_disagreements_go_before_spot_checks() -> None:
    driver = market_with(4, auditors=1, policy=ALWAYS_CHECKED)
    driver.connect("a0", make_offer(capacity=1))
    first, second = driver.submit(), driver.submit()
    driver.deliver(driver.open_leases(first)[0].id)
    driver.deliver(driver.open_leases(second)[0].id)
    contested = driver.submit(confidence=0.9)
    deliver_all(driver, contested, "wrong", "right")
    driver.deliver(open_audit(driver, first).id)
    assert open_audit(driver, contested)


def test_without_an_auditor_a_check_is_one_more_result() -> None:
    driver = market_with(2, policy=ALWAYS_CHECKED)
    job = driver.submit(confidence=0.75)
    driver.deliver(driver.open_leases(job)[0].id)
    [second] = driver.open_leases(job)
    assert (driver.job(job).status, second.purpose) == (JobStatus.RUNNING, LeasePurpose.REPLICA)
    driver.deliver(second.id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert {kind for _, kind in evidence(driver)} == {"agreed"}
    driver.check()


def test_a_check_that_nobody_can_make_is_not_waited_for() -> None:
    driver = market_with(1, policy=ALWAYS_CHECKED)
    job = driver.submit(confidence=0.75)
    deliver_all(driver, job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert not driver.job(job).spot_check


def test_a_second_opinion_that_is_lost_does_not_fail_a_credible_job() -> None:
    driver = market_with(2, policy=MarketPolicy(audit_rate=1.0, attempts_max=2))
    job = driver.submit(confidence=0.75)
    driver.deliver(driver.open_leases(job)[0].id)
    for _ in range(2):
        driver.give_back(driver.open_leases(job)[0].id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    driver.check()


def test_reference_runs_that_are_lost_are_made_again_then_done_without() -> None:
    driver = market_with(6, auditors=1, policy=MarketPolicy(audit_rate=0.0, audits_lost_max=2))
    job = driver.submit(confidence=0.9)
    deliver_all(driver, job, "wrong", "right")
    for _ in range(2):
        driver.give_back(open_audit(driver, job).id)
    assert {lease.purpose for lease in driver.open_leases(job)} == {LeasePurpose.REPLICA}
    while driver.job(job).status is JobStatus.RUNNING:
        driver.deliver(driver.open_leases(job)[0].id, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert all(worker.standing == "active" for worker in driver.market.workers())
    driver.check()


def test_a_spot_check_that_is_lost_too_often_is_dropped() -> None:
    driver = market_with(1, auditors=1, policy=MarketPolicy(audit_rate=1.0, audits_lost_max=2))
    job = driver.submit()
    deliver_all(driver, job, "right")
    for _ in range(2):
        driver.give_back(open_audit(driver, job).id)
    assert driver.open_leases(job) == []
    assert not driver.job(job).spot_check
    assert evidence(driver) == []


def test_when_the_last_auditor_leaves_replicas_decide() -> None:
    driver = market_with(6, auditors=1)
    driver.connect("a0", make_offer(capacity=1))
    busy = driver.submit(confidence=0.9)
    deliver_all(driver, busy, "wrong", "right")
    job = driver.submit(confidence=0.9)
    first, second = driver.open_leases(job)
    driver.deliver(first.id, "wrong")
    driver.deliver(second.id, "right")
    assert driver.open_leases(job) == []
    driver.disconnect("a0")
    driver.tick()
    assert {lease.purpose for lease in driver.open_leases(job)} == {LeasePurpose.REPLICA}


def test_where_owners_are_too_few_a_reference_run_confirms() -> None:
    driver = market_with(1, auditors=1)
    job = driver.submit(confidence=0.99)
    deliver_all(driver, job, "right")
    driver.deliver(open_audit(driver, job).id, "right")
    ended = driver.job(job)
    assert ended.status is JobStatus.ACCEPTED
    assert evidence(driver) == [("w0", "audit_passed")]
    assert ended.paid == driver.market.account("held:w0").available > 0
    driver.check()


# Stage failures


TRAP = errors.KernelTrap("out of bounds", stage="normalize").to_problem()


def test_a_verified_stage_failure_fails_the_job_and_is_paid() -> None:
    driver = market_with(3)
    job = driver.submit(confidence=0.95)
    for lease in driver.open_leases(job):
        driver.deliver(lease.id, "failed:normalize:kernel-trap", problem=TRAP)
    ended = driver.job(job)
    assert (ended.status, ended.problem) == (JobStatus.FAILED, TRAP)
    assert ended.paid == sum(lease.paid for lease in driver.market.leases_of(job)) > 0
    assert len(ended.accepted) == 3
    assert {kind for _, kind in evidence(driver)} == {"agreed"}
    driver.check()


def test_a_pretended_stage_failure_is_a_wrong_result() -> None:
    driver = market_with(2, auditors=1)
    job = driver.submit(confidence=0.9)
    liar, honest = driver.open_leases(job)
    driver.deliver(liar.id, "failed:normalize:kernel-trap", problem=TRAP)
    driver.deliver(honest.id, "right")
    driver.deliver(open_audit(driver, job).id, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.market.worker(liar.worker).standing is WorkerStanding.EXPELLED
    driver.check()


# Reputation


def test_losing_leases_lowers_a_score_until_the_worker_is_suspended() -> None:
    driver = market_with(1, policy=MarketPolicy(audit_rate=0.0, attempts_max=100))
    job = driver.submit()
    while driver.open_leases(job):
        driver.give_back(driver.open_leases(job)[0].id)
    assert driver.market.worker("w0").standing is WorkerStanding.SUSPENDED
    assert len(evidence(driver)) == 10  # half a bad result each; 5 are enough evidence
    assert driver.market.reputation_of("w0")["cpu"].score < 0.01
    assert driver.market.account("stake:w0").available == 1_000_000
    driver.check()


def test_a_suspended_worker_returns_when_half_of_it_is_forgotten() -> None:
    driver = market_with(1, policy=MarketPolicy(audit_rate=0.0, attempts_max=100, half_life_days=30.0))
    job = driver.submit()
    while driver.open_leases(job):
        driver.give_back(driver.open_leases(job)[0].id)
    driver.at += 29 * 86_400
    driver.connect("w0")
    assert driver.market.worker("w0").standing is WorkerStanding.SUSPENDED
    driver.at += 2 * 86_400
    driver.connect("w0")
    assert driver.market.worker("w0").standing is WorkerStanding.ACTIVE


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (GiveBackReason.PREEMPTED, LeaseState.PREEMPTED),
        (GiveBackReason.REFUSED, LeaseState.RETURNED),
    ],
)
def test_what_the_owner_wants_never_hurts(reason: GiveBackReason, state: LeaseState) -> None:
    driver = market_with(1)
    job = driver.submit()
    lease = driver.open_leases(job)[0]
    driver.give_back(lease.id, reason)
    assert evidence(driver) == []
    assert driver.of(Lease, lease.id).state is state


def test_a_workers_own_words_are_bounded() -> None:
    driver = market_with(1)
    job = driver.submit()
    lease = driver.open_leases(job)[0]
    words = errors.Problem(code="c" * 9999, title="t" * 9999, detail="d" * 9999, facts={"x": "y" * 9999})
    driver.give_back(lease.id, problem=words)
    kept = driver.of(Lease, lease.id).problem
    assert (len(kept.code), len(kept.title), len(kept.detail), kept.facts) == (64, 500, 500, {})
    assert len(driver.of(Evidence, f"{lease.id}:failed").detail) == 500


def test_reputation_explains_itself() -> None:
    driver = market_with(1, auditors=1, policy=ALWAYS_CHECKED)
    assert driver.market.reputation_of("w0") == {}
    job = driver.submit()
    deliver_all(driver, job, "right")
    driver.deliver(open_audit(driver, job).id, "right")
    reputation = driver.market.reputation_of("w0")["cpu"]
    assert reputation.score == pytest.approx(0.05**0.5)
    assert "1 audit passed" in reputation.explanation[0]


@pytest.mark.parametrize("event", ["deliver", "give_back"])
def test_what_comes_twice_or_from_others_harms_nobody(event: str) -> None:
    driver = market_with(2)
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
        SendSettled(lease.id, lease.worker, "accepted", lease.price, "settled before"),
    ]
    driver.check()
