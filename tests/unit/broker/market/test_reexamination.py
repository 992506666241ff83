"""What an expelled worker had delivered before is re-examined; a verdict that was wrong changes once."""

from __future__ import annotations

import msgspec
import pytest

from tradepost.protocol import JobStatus, OnWrong
from tradepost_broker.market.ledger import credits_of, earned_of, held_of
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, WorkerStanding
from tradepost_broker.market.model.events import NotifyVerdictChanged
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import make_offer
from tradepost_broker.testing.staffed_market import StaffedMarket
from tradepost_signing.policy.revocation import RevocationDocument

UNCHECKED = MarketPolicy(audit_rate=0.0, references_to_expel=1)
FUNDS = 10_000_000


class MarketWithCheat(StaffedMarket):
    """w0 is the cheapest, so it gets each job alone; a0 checks what is to be checked."""

    def __init__(self, *, policy: MarketPolicy = UNCHECKED, auditors: int = 1) -> None:
        super().__init__(0, auditors=auditors, policy=policy)
        self.join("w0")
        self.connect("w0", make_offer(5, capacity=4))
        self.add_worker("w1")
        self.add_worker("w2")
        self.wrong: dict[str, bool] = {}

    def accepted(self, outcome: str = "wrong", *, on_wrong: OnWrong = OnWrong.REDO) -> str:
        """A job that was accepted with an outcome of w0."""
        job = self.submit(on_wrong=on_wrong)
        [lease] = self.open_leases(job)
        assert lease.worker == "w0"
        self.deliver(lease.id, outcome)
        assert self.job(job).status is JobStatus.ACCEPTED
        return job

    def prove(self) -> str:
        """The job on which w0 is caught, while two results differ."""
        job = self.submit(confidence=0.9)
        for lease in self.open_leases(job):
            self.deliver(lease.id, "wrong" if lease.worker == "w0" else "right")
        self.deliver(self.open_audit(job).id, "right")
        found = self.market.worker("w0")
        assert found is not None
        assert found.standing is WorkerStanding.EXPELLED
        return job

    def changed(self) -> list[str]:
        """The jobs of whose new verdicts submitters were told, in order."""
        told = [one for answer in self.answers for one in answer]
        return [one.job for one in told if isinstance(one, NotifyVerdictChanged)]

    def audit_all(self, outcome: str = "right") -> None:
        """Make reference runs until none is open."""
        while audits := [
            lease
            for job in self.all_of(Job)
            for lease in self.open_leases(job.id)
            if lease.purpose is LeasePurpose.AUDIT
        ]:
            self.deliver(audits[0].id, outcome)
            self.check()


def test_a_wrong_result_that_was_accepted_before_is_corrected_and_refunded() -> None:
    driver = MarketWithCheat()
    jobs = [driver.accepted() for _ in range(3)]
    driver.prove()
    driver.check()
    assert [driver.job(job).paid_microcredits for job in jobs] == [0, 0, 0]
    driver.audit_all()
    assert driver.changed() == jobs
    for job in jobs:
        record = driver.job(job)
        assert record.status is JobStatus.ACCEPTED
        [accepted] = record.accepted
        assert driver.of(Lease, accepted).outcome == "right"
        assert record.verification is not None
        assert (record.verification.credibility, record.verification.disagreed) == (1.0, ("w0",))
        assert record.verdict_changed_at is not None
        assert record.finished_at is not None
        assert record.finished_at <= record.verdict_changed_at
    assert driver.market.account(held_of("w0")).available_microcredits == 0
    driver.tick(10_000.0)
    assert driver.market.account(earned_of("w0")).available_microcredits == 0


def test_a_submitter_may_ask_for_the_refund_alone() -> None:
    driver = MarketWithCheat()
    job = driver.accepted(on_wrong=OnWrong.REFUND)
    driver.prove()
    driver.audit_all()
    record = driver.job(job)
    assert record.status is JobStatus.WITHDRAWN
    assert record.accepted == ()
    assert record.problem is not None
    assert record.problem.code == "result-withdrawn"
    assert "a reference run contradicts it" in record.problem.detail
    assert driver.changed() == [job]


def test_a_right_result_of_a_cheat_stands_and_is_refunded_all_the_same() -> None:
    driver = MarketWithCheat()
    job = driver.accepted("right")
    before = driver.job(job)
    driver.prove()
    driver.audit_all()
    record = driver.job(job)
    assert (record.status, record.accepted) == (before.status, before.accepted)
    assert record.paid_microcredits == 0
    assert record.verdict_changed_at is record.in_doubt_until is None
    assert driver.changed() == []


def test_what_has_matured_is_not_re_examined() -> None:
    driver = MarketWithCheat()
    job = driver.accepted()
    driver.tick(UNCHECKED.hold_s + 1)
    paid_microcredits = driver.job(job).paid_microcredits
    driver.prove()
    driver.audit_all()
    assert driver.job(job).paid_microcredits == paid_microcredits > 0
    assert driver.changed() == []


def without_auditors(driver: MarketWithCheat) -> None:
    """Let the time for a reference run pass, while no auditor is there."""
    driver.disconnect("a0")
    driver.tick(UNCHECKED.reconnect_s + 1)
    driver.tick(UNCHECKED.reexamine_s - 60)
    driver.check()
    driver.tick(60)
    driver.check()


def test_without_an_auditor_in_time_the_job_is_run_again_by_others() -> None:
    driver = MarketWithCheat()
    job = driver.accepted()
    first = driver.job(job)
    driver.prove()
    without_auditors(driver)
    record = driver.job(job)
    assert driver.changed() == [job]
    assert record.status is JobStatus.RUNNING
    assert record.finished_at is None
    assert record.deadline_at == driver.at + (first.deadline_at - first.submitted_at)
    assert driver.submit(key=first.idempotency_key, request_hash=first.request_hash) == job
    [lease] = driver.open_leases(job)
    assert lease.worker != "w0"
    driver.restart()
    driver.connect("w1")
    driver.connect("w2")
    driver.deliver(lease.id, "right")
    driver.check()
    record = driver.job(job)
    assert record.status is JobStatus.ACCEPTED
    assert record.accepted == (lease.id,)
    assert record.paid_microcredits == lease.price_microcredits
    driver.tick(UNCHECKED.hold_s + UNCHECKED.retain_s + 1)
    assert driver.market.job(job) is None
    assert [driver.market.lease(one.id) for one in driver.all_of(Lease) if one.job == job] == [None] * 3
    driver.check_replay()


def test_a_job_that_is_run_again_may_fail_or_be_cancelled() -> None:
    driver = MarketWithCheat()
    jobs = [driver.accepted() for _ in range(2)]
    driver.prove()
    driver.disconnect("w1")
    driver.disconnect("w2")
    without_auditors(driver)
    assert [driver.job(job).status for job in jobs] == [JobStatus.QUEUED] * 2
    driver.cancel(jobs[0])
    assert driver.job(jobs[0]).status is JobStatus.CANCELLED
    driver.tick(10)
    problem = driver.job(jobs[1]).problem
    assert problem is not None
    assert problem.code == "no-eligible-worker"
    driver.check()
    account = driver.market.account(credits_of("alice"))
    assert account.reserved_microcredits == 0


def test_a_redone_result_that_is_wrong_too_is_refunded_and_its_verdict_stays() -> None:
    driver = MarketWithCheat()
    job = driver.accepted()
    driver.prove()
    without_auditors(driver)
    [lease] = driver.open_leases(job)
    driver.deliver(lease.id, "wrong")
    # Its worker is proven to cheat as well, while this payment is held.
    driver.connect("a0", make_offer(1))
    driver.add_worker("w3")
    caught = driver.submit(confidence=0.97)
    for other in driver.open_leases(caught):
        driver.deliver(other.id, "wrong" if other.worker == lease.worker else "right")
    driver.audit_all()
    found = driver.market.worker(lease.worker)
    assert found is not None
    assert found.standing is WorkerStanding.EXPELLED
    assert driver.job(job).paid_microcredits == 0
    assert driver.changed() == [job]
    driver.tick(UNCHECKED.reexamine_s + 1)
    driver.check()


def test_without_an_auditor_in_time_who_asked_for_the_refund_gets_it() -> None:
    driver = MarketWithCheat()
    job = driver.accepted("right", on_wrong=OnWrong.REFUND)
    driver.prove()
    without_auditors(driver)
    record = driver.job(job)
    assert record.status is JobStatus.WITHDRAWN
    assert record.problem is not None
    assert "no auditor could check this result" in record.problem.detail


def test_an_account_that_cannot_pay_it_again_has_its_job_withdrawn() -> None:
    driver = MarketWithCheat()
    driver.fund("bob", 1_000)
    job = driver.submit("bob", max_price_microcredits=1_000)
    driver.deliver(driver.open_leases(job)[0].id, "wrong")
    driver.prove()
    assert driver.submit("bob", max_price_microcredits=1_000, deadline_s=100_000.0)
    without_auditors(driver)
    record = driver.job(job)
    assert record.status is JobStatus.WITHDRAWN
    assert record.problem is not None
    assert "it cannot be run again: 0.001 credits needed, " in record.problem.detail


@pytest.mark.parametrize(("account", "status"), [("alice", JobStatus.ACCEPTED), ("bob", JobStatus.RUNNING)])
def test_without_an_auditor_the_others_of_the_group_must_be_enough(account: str, status: JobStatus) -> None:
    driver = MarketWithCheat()
    driver.fund("bob")
    job = driver.submit(account, confidence=0.9)
    for lease in driver.open_leases(job):
        driver.deliver(lease.id, "right")
    # Its partner passes a check for alice, which makes 0.9 of it alone in her jobs, not in those of others.
    driver.prove()
    driver.disconnect("a0")
    driver.tick(UNCHECKED.reexamine_s + 1)
    assert driver.job(job).status is status
    [partner] = [one for one in driver.all_of(Lease) if one.job == job and one.attempt == 2]
    assert partner.paid_microcredits == partner.price_microcredits
    driver.check()


def test_the_job_that_proves_it_is_corrected_too() -> None:
    driver = MarketWithCheat(policy=MarketPolicy(audit_rate=1.0, references_to_expel=1))
    job = driver.accepted()
    driver.deliver(driver.open_audit(job).id, "right")
    record = driver.job(job)
    assert record.status is JobStatus.ACCEPTED
    assert driver.of(Lease, record.accepted[0]).outcome == "right"
    assert driver.changed() == [job]
    driver.check()


def test_an_accusation_that_cannot_be_confirmed_changes_the_verdict_when_it_ends() -> None:
    driver = MarketWithCheat(policy=MarketPolicy(audit_rate=1.0))
    job = driver.accepted()
    driver.deliver(driver.open_audit(job).id, "right")
    assert driver.changed() == []
    driver.deliver(driver.open_audit(job).id, "right")
    assert driver.changed() == [job]
    assert driver.job(job).paid_microcredits == 0
    driver.check()


def test_a_reference_that_finds_a_stage_failure_fails_the_job() -> None:
    driver = MarketWithCheat()
    job = driver.accepted()
    driver.prove()
    driver.audit_all("failed:infer:model-failure")
    record = driver.job(job)
    assert record.status is JobStatus.FAILED
    assert record.problem is not None
    assert record.problem.code == "stage-failure"
    assert driver.changed() == [job]


def test_thousands_of_jobs_are_taken_a_few_in_each_event_and_through_a_restart() -> None:
    policy = MarketPolicy(audit_rate=0.0, references_to_expel=1, jobs_per_event_max=4)
    driver = MarketWithCheat(policy=policy)
    jobs = [driver.accepted() for _ in range(50)]
    driver.prove()
    left = [job for job in jobs if driver.job(job).paid_microcredits]
    assert 40 < len(left) < 50
    driver.tick()
    left = [job for job in jobs if driver.job(job).paid_microcredits]
    assert 30 < len(left) < 50
    driver.restart()
    for worker in ("w1", "w2"):
        driver.connect(worker)
    driver.connect("a0", make_offer(1))
    for _ in range(40):
        driver.tick(0.1)
        driver.check()
    driver.audit_all()
    assert driver.changed() == sorted(driver.changed())
    assert set(driver.changed()) == set(jobs)
    assert driver.market.account(credits_of("alice")).reserved_microcredits == 0
    driver.check_replay()


@pytest.mark.parametrize("apart", [True, False])
def test_results_in_doubt_take_no_room_of_spot_checks(apart: bool) -> None:
    policy = msgspec.structs.replace(UNCHECKED, jobs_per_event_max=0, reexamined_apart=apart)
    driver = MarketWithCheat(policy=policy)
    for _ in range(6):
        driver.accepted()
    driver.prove()
    waiting = driver.market._state.audits_wanted
    assert waiting.has_room("alice", 1) is apart
    driver.audit_all()
    assert waiting.has_room("alice", 1)
    driver.check_replay()


def test_doubt_outlives_a_restart_and_memory() -> None:
    driver = MarketWithCheat()
    job = driver.accepted("wrong")
    driver.prove()
    driver.disconnect("a0")
    driver.tick(UNCHECKED.idempotency_s + 100)
    driver.restart()
    driver.tick(UNCHECKED.retain_s)
    assert driver.job(job).in_doubt_until is not None
    driver.connect("a0", make_offer(1))
    driver.audit_all()
    assert driver.changed() == [job]


def test_older_journals_keep_their_rule() -> None:
    assert recorded_policy(b"\x80").reexamine_s == 0.0
    driver = MarketWithCheat(policy=MarketPolicy(audit_rate=0.0, references_to_expel=1, reexamine_s=0.0))
    job = driver.accepted()
    driver.prove()
    driver.audit_all()
    record = driver.job(job)
    assert (record.status, record.paid_microcredits) == (JobStatus.ACCEPTED, 0)
    assert driver.changed() == []


def test_a_job_on_a_revoked_pipeline_is_not_run_again() -> None:
    driver = MarketWithCheat()
    job = driver.accepted()
    driver.prove()
    assert driver.job(job).in_doubt_until is not None
    driver.revoke(RevocationDocument(version=1, issued_at=0, publishers={"publisher": "bad"}))
    record = driver.job(job)
    assert record.status is JobStatus.WITHDRAWN
    assert record.problem is not None
    assert record.problem.detail.endswith("and its pipeline is revoked")
    driver.check()
