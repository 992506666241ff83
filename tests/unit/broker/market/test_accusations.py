"""One reference run proves no fraud: others must agree with it, and each auditor with itself."""

from __future__ import annotations

import random

import pytest

from tradepost.protocol import GiveBackReason, JobStatus, Verification
from tradepost_broker.market.model.entities import (
    Evidence,
    EvidenceKind,
    Job,
    Lease,
    LeaseState,
    WorkerStanding,
)
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import MarketDriver, make_offer
from tradepost_broker.testing.staffed_market import StaffedMarket

CHECKED = MarketPolicy(audit_rate=1.0)
UNCHECKED = MarketPolicy(audit_rate=0.0)
#: Verdicts that are found wrong are not replaced.
REFUNDED_ONLY = MarketPolicy(audit_rate=1.0, reexamine_s=0.0)
#: The rule of journals that began before verdicts rested on accepted results.
OLDER_VERDICTS = MarketPolicy(audit_rate=1.0, reexamine_s=0.0, verdict_by_accepted=False)

RIGHT_STAGES = (("decode", "d"), ("infer", "i"), ("pick", "p"))
WRONG_STAGES = (("decode", "D"), ("infer", "I"), ("pick", "P"))


def wrong_job(driver: StaffedMarket) -> tuple[str, Lease]:
    """A job that was accepted with one wrong result, and its lease."""
    job = driver.submit()
    [lease] = driver.open_leases(job)
    driver.deliver(lease.id, "wrong")
    assert driver.job(job).status is JobStatus.ACCEPTED
    return job, lease


def run_references(driver: StaffedMarket, job: str, *outcomes: str) -> list[str]:
    """Deliver these outcomes for the reference runs of a job, one after the other; the auditors."""
    auditors = []
    for outcome in outcomes:
        audit = driver.open_audit(job)
        auditors.append(audit.worker)
        driver.deliver(audit.id, outcome)
    return auditors


def standing(driver: StaffedMarket, worker: str) -> WorkerStanding:
    found = driver.market.worker(worker)
    assert found is not None
    return found.standing


def test_two_auditors_that_agree_with_each_other_and_themselves_expel() -> None:
    driver = StaffedMarket(2, auditors=3, policy=CHECKED)
    job, wrong = wrong_job(driver)
    auditors = run_references(driver, job, "right")
    assert standing(driver, wrong.worker) is WorkerStanding.ACTIVE
    assert driver.evidence() == [(wrong.worker, "contradicted")]
    assert driver.of(Lease, wrong.id).paid_microcredits == wrong.price_microcredits
    auditors += run_references(driver, job, "right", "right")
    assert standing(driver, wrong.worker) is WorkerStanding.ACTIVE
    auditors += run_references(driver, job, "right")
    assert sorted(auditors.count(auditor) for auditor in set(auditors)) == [2, 2]
    assert standing(driver, wrong.worker) is WorkerStanding.EXPELLED
    assert driver.evidence()[-1] == (wrong.worker, "audit_failed")
    assert driver.of(Lease, wrong.id).state is LeaseState.REJECTED
    assert driver.of(Lease, wrong.id).paid_microcredits == 0
    assert driver.market.account(f"stake:{wrong.worker}").available_microcredits == 0
    verification = driver.job(job).verification
    assert verification is not None
    assert verification.disagreed == (wrong.worker,)
    assert [driver.of(Lease, lease).outcome for lease in driver.job(job).accepted] == ["right"]
    assert driver.open_leases(job) == []
    driver.check()


def test_with_one_auditor_the_result_is_unpaid_and_the_worker_keeps_its_stake() -> None:
    driver = StaffedMarket(2, auditors=1, policy=CHECKED)
    job, wrong = wrong_job(driver)
    run_references(driver, job, "right", "right")
    assert driver.open_leases(job) == []
    assert standing(driver, wrong.worker) is WorkerStanding.ACTIVE
    assert driver.evidence() == [(wrong.worker, "contradicted")]
    assert driver.of(Lease, wrong.id).state is LeaseState.REJECTED
    assert driver.of(Lease, wrong.id).paid_microcredits == driver.job(job).paid_microcredits == 0
    assert driver.market.account(f"stake:{wrong.worker}").available_microcredits == 1_000_000
    driver.check()


def left_accused(seed: int, policy: MarketPolicy) -> int:
    """How many jobs are accused still when nothing is left to be done. One of four workers cheats."""
    driver = MarketDriver(policy=policy, seed=seed)
    driver.fund(amount_microcredits=10_000_000)
    driver.publish()
    for worker, price_microcredits in {"a0": 1, "a1": 1, "cheat": 5, "w1": 15, "w2": 20, "w3": 25}.items():
        driver.join(worker, auditor=worker.startswith("a"))
        driver.connect(worker, make_offer(price_microcredits, capacity=1))
    draw, to_submit = random.Random(seed), 24
    while True:
        leases = [one for one in driver.all_of(Lease) if one.state is LeaseState.OPEN]
        if to_submit and (len(leases) < 4 or draw.random() < 0.3):
            driver.submit(confidence=0.9)
            to_submit -= 1
        elif leases:
            lease = draw.choice(leases)
            driver.deliver(lease.id, "wrong" if lease.worker == "cheat" else "right")
        else:
            driver.check()
            return sum(job.accused != () for job in driver.all_of(Job))


@pytest.mark.parametrize("seed", [1, 5, 9, 17])
def test_no_auditor_is_idle_while_an_accusation_waits_for_it(seed: int) -> None:
    """The first job of a pipeline that waits may be one that this auditor has run twice."""
    assert left_accused(seed, MarketPolicy(audit_rate=0.3)) == 0
    assert left_accused(seed, MarketPolicy(audit_rate=0.3, audits_by_terms=False)) > 0


def test_a_second_auditor_of_the_same_owner_does_not_count() -> None:
    driver = StaffedMarket(2, policy=CHECKED)
    driver.add_worker("a0", owner="operator", auditor=True)
    driver.add_worker("a1", owner="operator", auditor=True)
    job, wrong = wrong_job(driver)
    auditors = run_references(driver, job, "right", "right")
    assert len(set(auditors)) == 1
    assert driver.open_leases(job) == []
    assert standing(driver, wrong.worker) is WorkerStanding.ACTIVE


@pytest.mark.parametrize("auditors", [1, 2])
def test_a_model_that_gives_another_result_in_every_run_expels_nobody(auditors: int) -> None:
    driver = StaffedMarket(3, auditors=auditors, policy=CHECKED)
    job, honest = wrong_job(driver)
    run_references(driver, job, "random 1", "random 2")
    assert standing(driver, honest.worker) is WorkerStanding.ACTIVE
    assert driver.evidence() == [(honest.worker, "contradicted"), (honest.worker, "withdrawn")]
    assert driver.of(Lease, honest.id).paid_microcredits == honest.price_microcredits
    assert driver.submit() == ""
    assert driver.refusal().code == "pipeline-quarantined"
    assert "not reproducible" in driver.refusal().detail
    driver.check()
    driver.tick(601.0)
    earned = driver.market.account(f"earned:{honest.worker}").available_microcredits
    assert earned == honest.price_microcredits


def test_an_open_job_is_decided_by_the_first_reference_and_its_submitter_does_not_wait() -> None:
    driver = StaffedMarket(2, auditors=2, policy=UNCHECKED)
    job = driver.submit(confidence=0.9)
    wrong, right = driver.deliver_all(job, "wrong", "right")
    run_references(driver, job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.of(Lease, right.id).paid_microcredits == right.price_microcredits
    assert driver.of(Lease, wrong.id).state is LeaseState.REJECTED
    assert standing(driver, wrong.worker) is WorkerStanding.ACTIVE
    run_references(driver, job, "right", "right", "right")
    assert standing(driver, wrong.worker) is WorkerStanding.EXPELLED
    assert standing(driver, right.worker) is WorkerStanding.ACTIVE
    driver.check()


def test_a_reference_that_no_result_agrees_with_costs_a_part_until_it_is_confirmed() -> None:
    driver = StaffedMarket(2, auditors=2, policy=UNCHECKED)
    job = driver.submit(confidence=0.9)
    leases = driver.deliver_all(job, "random 1", "random 2")
    run_references(driver, job, "random 3")
    assert driver.job(job).status is JobStatus.ACCEPTED
    paid = [driver.of(Lease, lease.id).paid_microcredits for lease in leases]
    assert paid == [lease.price_microcredits // 10 for lease in leases]
    run_references(driver, job, "random 4")
    assert [kind for _, kind in driver.evidence()] == ["contradicted"] * 2 + ["withdrawn"] * 2
    driver.tick(601.0)
    assert driver.market.account("earned:w0").available_microcredits == leases[0].price_microcredits // 10
    assert driver.submit() == ""
    driver.check()


def test_a_later_reference_that_agrees_with_the_result_clears_it() -> None:
    driver = StaffedMarket(2, auditors=2, policy=UNCHECKED)
    job = driver.submit(confidence=0.9)
    one, other = driver.deliver_all(job, "one", "other")
    run_references(driver, job, "one")
    audit = driver.open_audit(job)
    references = [lease for lease in driver.market.results_of(job) if lease.purpose == "audit"]
    # Within the tolerance of both: agreement is not transitive.
    both = driver.receipt(
        audit.id, "between", worker=audit.worker, agrees_with=(references[0].id, one.id, other.id)
    )
    driver.handle(both)
    assert standing(driver, other.worker) is WorkerStanding.ACTIVE
    assert driver.evidence()[-1] == (other.worker, "withdrawn")
    assert driver.open_leases(job) == []
    driver.check()


def test_payments_of_the_accused_are_held_until_the_accusation_ends() -> None:
    driver = StaffedMarket(2, auditors=2, policy=UNCHECKED)
    driver.disconnect("a1")
    [paid] = driver.deliver_all(driver.submit(), "right")
    driver.tick(590.0)
    job = driver.submit(confidence=0.9)
    for lease in driver.open_leases(job):
        driver.deliver(lease.id, "wrong" if lease.worker == paid.worker else "right")
    run_references(driver, job, "right", "right")
    driver.tick(20.0)
    assert driver.market.account(f"earned:{paid.worker}").available_microcredits == 0
    driver.restart()
    for auditor in ("a0", "a1"):
        driver.connect(auditor)
    driver.tick()
    assert driver.market.account(f"held:{paid.worker}").available_microcredits == paid.price_microcredits
    run_references(driver, job, "right", "right")
    assert standing(driver, paid.worker) is WorkerStanding.EXPELLED
    assert driver.of(Lease, paid.id).paid_microcredits == 0
    assert driver.market.account(f"earned:{paid.worker}").available_microcredits == 0
    driver.check()


def test_an_accusation_that_no_auditor_confirms_in_time_ends_without_a_sentence() -> None:
    driver = StaffedMarket(1, auditors=2, policy=CHECKED)
    driver.disconnect("a1")
    job, wrong = wrong_job(driver)
    run_references(driver, job, "right", "right")
    assert driver.job(job).accused == (wrong.id,)
    driver.tick(599.0)
    assert driver.of(Lease, wrong.id).paid_microcredits == wrong.price_microcredits
    driver.tick(2.0)
    assert driver.job(job).accused == ()
    assert driver.of(Lease, wrong.id).paid_microcredits == 0
    assert standing(driver, wrong.worker) is WorkerStanding.ACTIVE
    assert [one.kind for one in driver.all_of(Evidence)] == [EvidenceKind.CONTRADICTED]
    driver.check()
    driver.tick(1_000.0)
    assert driver.market.job(job) is None


def test_a_run_that_was_to_confirm_it_is_stopped_when_the_time_is_over() -> None:
    driver = StaffedMarket(2, auditors=2, policy=UNCHECKED)
    job = driver.submit(confidence=0.9)
    wrong, right = driver.deliver_all(job, "wrong", "right")
    driver.tick(1.0)
    run_references(driver, job, "right")
    for auditor in ("a0", "a1"):
        driver.disconnect(auditor)
    driver.tick(590.0)
    for auditor in ("a0", "a1"):
        driver.connect(auditor)
    late = driver.open_audit(job)
    driver.tick(15.0)
    assert driver.open_leases(job) == []
    driver.deliver(late.id, "right")
    kinds = [kind for worker, kind in driver.evidence() if worker == right.worker]
    assert kinds == ["audit_passed"]
    assert standing(driver, wrong.worker) is WorkerStanding.ACTIVE
    driver.check()


def test_a_confirming_run_that_has_arrived_when_the_time_is_over_still_counts() -> None:
    driver = StaffedMarket(2, auditors=2, policy=CHECKED)
    job, wrong = wrong_job(driver)
    run_references(driver, job, "right", "right", "right")
    last = driver.open_audit(job)
    driver.tick(10_000.0, arrived=(last.id,))
    driver.deliver(last.id, "right")
    assert standing(driver, wrong.worker) is WorkerStanding.EXPELLED
    driver.check()


def credibility(driver: StaffedMarket, job: str) -> float:
    verification = driver.job(job).verification
    assert verification is not None
    return verification.credibility


@pytest.mark.parametrize(("policy", "at_the_end"), [(UNCHECKED, 1.0), (OLDER_VERDICTS, 0.0)])
def test_a_reference_that_decided_the_job_stays_its_verdict_when_it_is_confirmed(
    policy: MarketPolicy, at_the_end: float
) -> None:
    driver = StaffedMarket(2, auditors=2, policy=policy)
    job = driver.submit(confidence=0.9)
    wrong = driver.deliver_all(job, "wrong", "wrong otherwise")
    run_references(driver, job, "right")
    assert credibility(driver, job) == 1.0
    run_references(driver, job, "right", "right", "right")
    assert {standing(driver, lease.worker) for lease in wrong} == {WorkerStanding.EXPELLED}
    [accepted] = driver.job(job).accepted
    assert driver.of(Lease, accepted).outcome == "right"
    assert credibility(driver, job) == at_the_end
    driver.check()


def outvoted_job(policy: MarketPolicy) -> tuple[StaffedMarket, str, Lease]:
    """A job that three wrong results decided against a right one, while the auditors were away.

    Another lease of it was broken off after two stages, which the wrong results confirmed.
    """
    driver = StaffedMarket(5, auditors=2, policy=policy)
    for auditor in ("a0", "a1"):
        driver.disconnect(auditor)
    job = driver.submit(confidence=0.9)
    broken_off = driver.open_leases(job)[0]
    driver.update_offer(broken_off.worker, make_offer(capacity=0))
    driver.give_back(broken_off.id, GiveBackReason.PREEMPTED, stages=WRONG_STAGES[:2])
    right = driver.open_leases(job)[0]
    driver.deliver(right.id, "right", stages=RIGHT_STAGES, wall_us=(1, 1, 1))
    for _ in range(3):
        for lease in driver.open_leases(job):
            driver.deliver(lease.id, "wrong", stages=WRONG_STAGES, wall_us=(1, 1, 1))
    assert right.id not in driver.job(job).accepted
    assert driver.of(Lease, right.id).state is LeaseState.REJECTED
    for auditor in ("a0", "a1"):
        driver.connect(auditor)
    return driver, job, broken_off


@pytest.mark.parametrize("policy", [CHECKED, REFUNDED_ONLY])
def test_a_verdict_is_retracted_though_a_result_that_was_outvoted_is_right(policy: MarketPolicy) -> None:
    driver, job, broken_off = outvoted_job(policy)
    assert driver.of(Lease, broken_off.id).paid_microcredits > 0
    for number in range(4):
        audit = driver.open_audit(job)
        driver.deliver(audit.id, "right", stages=RIGHT_STAGES)
        if number < 3:
            assert credibility(driver, job) == 0.0
    assert driver.job(job).paid_microcredits == 0
    assert driver.of(Lease, broken_off.id).paid_microcredits == 0
    driver.check()


def test_older_journals_keep_a_verdict_beside_a_right_result_that_was_outvoted() -> None:
    driver, job, broken_off = outvoted_job(OLDER_VERDICTS)
    for _ in range(4):
        assert credibility(driver, job) >= 0.9
        driver.deliver(driver.open_audit(job).id, "right", stages=RIGHT_STAGES)
    assert driver.of(Lease, broken_off.id).paid_microcredits > 0


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        (CHECKED, Verification(credibility=1.0, agreed=("w0",))),
        (OLDER_VERDICTS, Verification(credibility=0.0, disagreed=("w0",))),
    ],
)
def test_a_result_that_is_cleared_is_the_verdict_again(policy: MarketPolicy, verdict: Verification) -> None:
    driver = StaffedMarket(1, auditors=2, policy=policy)
    job, lease = wrong_job(driver)
    run_references(driver, job, "otherwise")
    assert credibility(driver, job) == 0.0
    audit = driver.open_audit(job)
    [reference] = [one for one in driver.market.results_of(job) if one.purpose == "audit"]
    agrees_with = (reference.id, lease.id)
    driver.handle(driver.receipt(audit.id, "between", worker=audit.worker, agrees_with=agrees_with))
    assert driver.job(job).accused == ()
    assert driver.job(job).verification == verdict
    driver.check()


def test_starts_before_this_rule_are_replayed_without_it() -> None:
    policy = recorded_policy(b"\x80")
    assert policy.references_to_expel == 1
    driver = StaffedMarket(2, auditors=1, policy=policy)
    job = driver.submit(confidence=0.9)
    wrong, _ = driver.deliver_all(job, "wrong", "right")
    run_references(driver, job, "right")
    assert standing(driver, wrong.worker) is WorkerStanding.EXPELLED


@pytest.mark.parametrize("seed", range(20))
def test_auditors_stand_idle_only_when_every_accusation_has_ended(seed: int) -> None:
    driver = StaffedMarket(6, auditors=2, policy=CHECKED)
    choice = random.Random(seed)
    accused = [wrong_job(driver) for _ in range(6)]
    while audits := [audit for job, _ in accused for audit in driver.open_leases(job)]:
        driver.deliver(choice.choice(audits).id, "right")
    assert [standing(driver, wrong.worker) for _, wrong in accused] == [WorkerStanding.EXPELLED] * 6
    assert not any(driver.job(job).accused for job, _ in accused)
    driver.check()
