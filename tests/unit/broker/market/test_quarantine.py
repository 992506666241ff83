"""What fails on everybody is the pipeline's or the input's fault: it stops, and evidence is withdrawn."""

from __future__ import annotations

import pytest

from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.market.ledger import Kind
from tradepost_broker.market.model.entities import (
    Evidence,
    EvidenceKind,
    Lease,
    PipelineUse,
    Transfer,
    WorkerStanding,
)
from tradepost_broker.market.model.events import QuarantineLifted
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import make_offer, make_pipeline
from tradepost_broker.testing.staffed_market import StaffedMarket

NO_CHECKS = MarketPolicy(audit_rate=0.0)


def fail_everywhere(driver: StaffedMarket, job: str, *, after_s: float = 1.0) -> None:
    """Let every lease of a job be given back as failed, until it has none."""
    while leases := driver.open_leases(job):
        driver.at += after_s
        driver.give_back(leases[0].id)


def lift(driver: StaffedMarket, account: str = "alice") -> None:
    driver.handle(QuarantineLifted(at=driver.at, account=account, pipeline="digits", seed=driver.next_seed()))


def scores(driver: StaffedMarket) -> dict[str, dict[str, float]]:
    return {
        worker.id: {name: one.score for name, one in driver.market.reputation_of(worker.id).items()}
        for worker in driver.market.workers()
    }


def code_of(driver: StaffedMarket, job: str) -> str:
    problem = driver.job(job).problem
    assert problem is not None
    return problem.code


def test_a_job_that_fails_on_three_owners_pays_them_and_is_the_last_of_its_account() -> None:
    driver = StaffedMarket(6)
    job = driver.submit()
    fail_everywhere(driver, job)
    leases = driver.market.leases_of(job)
    assert len(leases) == 3
    assert code_of(driver, job) == "pipeline-quarantined"
    assert [lease.paid_microcredits for lease in leases] == [
        lease.price_microcredits // 10 for lease in leases
    ]
    assert driver.evidence() == []
    assert {one.kind for one in driver.all_of(Transfer) if one.job} == {Kind.PAY_BEGUN}
    assert driver.submit() == ""
    refusal = driver.refusal()
    assert refusal.code == "pipeline-quarantined"
    assert refusal.facts["pipeline"] == "digits"
    assert refusal.facts["inputs"] == ["input"]
    assert refusal.facts["owners"] == 3
    assert "the device failed" in refusal.detail
    driver.check()


def test_a_long_run_that_fails_costs_the_time_that_it_took() -> None:
    driver = StaffedMarket(6)
    job = driver.submit(max_price_microcredits=5_000)
    fail_everywhere(driver, job, after_s=25.0)
    for lease in driver.market.leases_of(job):
        share = 25.0 / (lease.expires_at - lease.granted_at)
        assert lease.paid_microcredits == pytest.approx(lease.price_microcredits * share, rel=0.05)
    assert driver.job(job).paid_microcredits <= 5_000
    driver.check()


def test_what_fails_on_two_owners_is_not_confirmed_costs_nothing_and_moves_no_score() -> None:
    driver = StaffedMarket(2)
    fail_everywhere(driver, driver.submit())
    assert driver.evidence() == []
    assert [one for one in driver.all_of(Transfer) if one.job] == []
    assert driver.submit()


def test_other_accounts_go_on() -> None:
    driver = StaffedMarket(6)
    driver.fund("bob")
    fail_everywhere(driver, driver.submit())
    job = driver.submit("bob")
    driver.deliver(driver.open_leases(job)[0].id)
    assert driver.job(job).status is JobStatus.ACCEPTED


def test_an_accomplice_that_succeeds_blames_nobody_for_long() -> None:
    driver = StaffedMarket(5)
    driver.add_worker("accomplice", 11)
    for _ in range(3):
        job = driver.submit()
        if not job:
            break
        while driver.job(job).status is JobStatus.RUNNING:
            [lease] = driver.open_leases(job)
            if lease.worker == "accomplice":
                driver.deliver(lease.id)
            else:
                driver.give_back(lease.id)
    kinds = [kind for _, kind in driver.evidence()]
    assert kinds.count("failed") == kinds.count("withdrawn")
    assert all(score == pytest.approx(0.05) for found in scores(driver).values() for score in found.values())
    assert driver.submit() == ""


def fail_on(driver: StaffedMarket, worker: str) -> None:
    """A job that fails on this worker, which is the cheapest, and that the others have a result of."""
    job = driver.submit()
    [lease] = driver.open_leases(job)
    assert lease.worker == worker
    driver.give_back(lease.id)
    for other in driver.open_leases(job):
        driver.deliver(other.id)


def test_evidence_is_withdrawn_and_a_suspension_ends() -> None:
    driver = StaffedMarket(1, policy=MarketPolicy(audit_rate=0.0, failures_counted_max=0))
    driver.add_worker("accomplice", 11)
    for _ in range(10):
        job = driver.submit()
        for lease in driver.open_leases(job):
            if lease.worker == "w0":
                driver.give_back(lease.id)
        for lease in driver.open_leases(job):
            driver.deliver(lease.id)
    worker = driver.market.worker("w0")
    assert worker is not None
    assert worker.standing is WorkerStanding.SUSPENDED
    for name in ("v0", "v1"):
        driver.add_worker(name, 9)
        fail_on(driver, name)
        driver.update_offer(name, driver.market.worker("accomplice").offer)  # type: ignore[arg-type, union-attr]
    assert worker.standing is WorkerStanding.ACTIVE
    reputation = driver.market.reputation_of("w0")["cpu"]
    assert reputation.score == pytest.approx(0.05, abs=0.01)
    withdrawn = [one for one in driver.all_of(Evidence) if one.kind is EvidenceKind.WITHDRAWN]
    assert len(withdrawn) == len([one for one in driver.all_of(Evidence) if one.kind is EvidenceKind.FAILED])
    reputations = {one.id: driver.market.reputation_of(one.id) for one in driver.market.workers()}
    driver.restart()
    assert {one.id: driver.market.reputation_of(one.id) for one in driver.market.workers()} == reputations
    driver.check()


def test_owners_that_fail_alone_do_not_stop_an_account_that_others_serve() -> None:
    driver = StaffedMarket(8)
    for number in range(8):
        job = driver.submit()
        [lease] = driver.open_leases(job)
        if number % 2:
            driver.give_back(lease.id)
            [lease] = driver.open_leases(job)
        driver.deliver(lease.id)
        assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.submit()


def test_waiting_jobs_of_the_account_fail_with_it() -> None:
    driver = StaffedMarket(5)
    jobs = [driver.submit() for _ in range(40)]
    assert sum(not driver.open_leases(job) for job in jobs) == 30
    while begun := [job for job in jobs if driver.open_leases(job)]:
        fail_everywhere(driver, begun[0])
    assert {code_of(driver, job) for job in jobs} == {"pipeline-quarantined"}
    granted = {lease.job for lease in driver.all_of(Lease)}
    assert len(granted) < 20
    assert {job for job in jobs if driver.job(job).paid_microcredits} == granted
    assert driver.evidence() == []
    driver.check()


def test_deadlines_that_nobody_meets_stop_the_account() -> None:
    driver = StaffedMarket(5)
    for number in range(3):
        driver.update_offer(f"w{number}", make_offer(9 - number))
        job = driver.submit(deadline_s=5.0)
        [lease] = driver.open_leases(job)
        driver.at = lease.expires_at - 0.5
        driver.give_back(lease.id, GiveBackReason.EXHAUSTED)
        driver.tick(1.0)
    assert driver.evidence() == []
    assert driver.submit(deadline_s=5.0) == ""


def test_results_that_all_differ_stop_the_account() -> None:
    driver = StaffedMarket(12)
    job = driver.submit(confidence=0.9)
    number = 0
    while leases := driver.open_leases(job):
        number += 1
        driver.deliver(leases[0].id, f"random {number}")
    assert driver.job(job).status is JobStatus.FAILED
    assert driver.job(job).paid_microcredits > 0
    assert driver.evidence() == []
    assert driver.submit() == ""
    driver.check()


def test_the_submitters_word_lifts_it_and_it_begins_anew() -> None:
    driver = StaffedMarket(6)
    fail_everywhere(driver, driver.submit())
    lift(driver, "bob")
    assert driver.submit() == ""
    lift(driver)
    job = driver.submit()
    assert job
    driver.deliver(driver.open_leases(job)[0].id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    fail_everywhere(driver, driver.submit())
    assert driver.submit() == ""


def test_a_pipeline_that_fails_two_accounts_is_stopped_until_it_is_published_again() -> None:
    driver = StaffedMarket(6)
    for account in ("bob", "carol"):
        driver.fund(account)
    fail_everywhere(driver, driver.submit())
    assert driver.submit("bob")
    driver = StaffedMarket(6)
    driver.fund("bob")
    driver.fund("carol")
    fail_everywhere(driver, driver.submit())
    fail_everywhere(driver, driver.submit("bob"))
    assert driver.submit("carol") == ""
    driver.publish(make_pipeline())
    job = driver.submit("carol")
    assert job
    assert driver.submit("bob") == ""


def test_the_journal_has_what_lifts_a_quarantine_and_nothing_that_lifts_none() -> None:
    driver = StaffedMarket(6)
    driver.fund("bob")
    fail_everywhere(driver, driver.submit())
    fail_everywhere(driver, driver.submit("bob"))
    for publish, lift_it in ((True, False), (False, True)):
        before = len(driver.journal)
        for _ in range(3):
            if publish:
                driver.publish(make_pipeline())
            elif lift_it:
                lift(driver)
        assert len(driver.journal) == before + 1
    assert driver.submit()


def test_other_results_do_not_end_the_quarantine_of_what_is_not_reproducible() -> None:
    driver = StaffedMarket(3, auditors=1, policy=MarketPolicy(audit_rate=1.0))
    driver.fund("bob")
    open_job, checked = driver.submit(), driver.submit()
    driver.deliver(driver.open_leases(checked)[0].id)
    driver.deliver(driver.open_audit(checked).id, "random 1")
    driver.deliver(driver.open_audit(checked).id, "random 2")
    assert driver.submit() == ""
    for lease in driver.open_leases(open_job):
        driver.deliver(lease.id)
    assert driver.submit() == ""
    driver.restart()
    assert driver.submit() == ""


def test_a_finding_that_cannot_be_read_any_more_is_passed_over() -> None:
    driver = StaffedMarket(1, policy=NO_CHECKS)
    driver.add_worker("accomplice", 11)
    for _ in range(2):
        fail_on(driver, "w0")
    lost, kept = (one for one in driver.all_of(Evidence) if one.kind is EvidenceKind.FAILED)
    del driver.records[Evidence, lost.id]
    driver.restart()
    driver.connect("accomplice", make_offer(11))
    for name in ("v0", "v1"):
        driver.add_worker(name, 9)
        fail_on(driver, name)
        driver.update_offer(name, make_offer(11))
    assert driver.submit() == ""
    withdrawn = {one.lease for one in driver.all_of(Evidence) if one.kind is EvidenceKind.WITHDRAWN}
    assert kept.lease in withdrawn
    assert lost.lease not in withdrawn


def test_it_survives_a_restart() -> None:
    driver = StaffedMarket(6)
    fail_everywhere(driver, driver.submit())
    driver.restart()
    assert driver.submit() == ""
    assert driver.of(PipelineUse, "digits/alice").quarantined_at is not None


def test_lifting_for_an_unknown_pipeline_is_refused() -> None:
    driver = StaffedMarket(0)
    driver.handle(
        QuarantineLifted(at=driver.at, account="alice", pipeline="unknown", seed=driver.next_seed())
    )
    assert driver.refusal().code == "unknown-pipeline"


def test_starts_before_this_rule_are_replayed_without_it() -> None:
    driver = StaffedMarket(6, policy=recorded_policy(b"\x80"))
    fail_everywhere(driver, driver.submit())
    assert driver.submit()
    assert driver.all_of(PipelineUse) == []
    assert {lease.paid_microcredits for lease in driver.all_of(Lease)} == {0}
