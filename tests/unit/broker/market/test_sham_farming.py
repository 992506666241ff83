"""Trust that a ring makes for itself, by its own pipeline or account, proves nothing elsewhere."""

from __future__ import annotations

import pytest

from tradepost import errors
from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.market.model.entities import Evidence, Lease, LeasePurpose, WorkerStanding
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import make_offer, make_pipeline
from tradepost_broker.testing.staffed_market import StaffedMarket
from tradepost_reputation import credibility_of_worker

RING = ("r0", "r1")
UNTRUSTED = errors.UntrustedPipeline("unknown publisher").to_problem()


def farmed_market(*, auditors: int, jobs: int = 420, policy: MarketPolicy | None = None) -> StaffedMarket:
    """A market of ten honest owners in which two others have confirmed each other in their own pipeline."""
    driver = StaffedMarket(10, auditors=auditors, policy=policy or MarketPolicy())
    driver.fund("mallory")
    driver.publish(make_pipeline("sham", units=1, publishers=("ring",)))
    for worker in RING:
        driver.join(worker)
        driver.connect(worker, make_offer(9))
    for number in range(jobs):
        # As much as two of them reach together, and one alone does not, if all their agreements count.
        alone = credibility_of_worker(number / 4, fault_fraction=driver.policy.fault_fraction)
        confidence = alone + (1 - alone) / 10
        job = driver.submit("mallory", pipeline="sham", max_price_microcredits=40, confidence=confidence)
        finish(driver, job)
        if driver.job(job).status not in FINAL:
            driver.cancel(job, "mallory")
    return driver


def finish(driver: StaffedMarket, job: str) -> None:
    """Let workers answer until the job has ended: the ring wrongly, in concert, except in its own pipeline.

    Nobody else trusts that, the auditor neither.
    """
    while leases := driver.open_leases(job):
        lease = leases[0]
        is_sham = driver.job(job).pipeline == "sham"
        if lease.worker not in RING and is_sham:
            driver.give_back(lease.id, GiveBackReason.REFUSED, UNTRUSTED)
        else:
            driver.deliver(lease.id, "wrong" if lease.worker in RING and not is_sham else "right")


def accepted_wrong(driver: StaffedMarket, job: str) -> bool:
    ended = driver.job(job)
    return ended.status is JobStatus.ACCEPTED and driver.of(Lease, ended.accepted[0]).outcome == "wrong"


@pytest.mark.parametrize("auditors", [0, 1])
@pytest.mark.parametrize("confidence", [0.9, 0.999])
def test_a_ring_that_farmed_its_own_pipeline_is_a_newcomer_elsewhere(
    auditors: int, confidence: float
) -> None:
    driver = farmed_market(auditors=auditors)
    job = driver.submit(confidence=confidence)
    first, *_ = driver.open_leases(job)
    assert first.worker in RING
    newcomers = StaffedMarket(12)
    assert len(driver.open_leases(job)) == len(newcomers.open_leases(newcomers.submit(confidence=confidence)))
    driver.check()


def test_by_the_rules_of_older_journals_the_ring_is_believed_alone() -> None:
    driver = farmed_market(auditors=1, policy=MarketPolicy(independent_partners=False, fair_audits=False))
    [lease] = driver.open_leases(driver.submit(confidence=0.999))
    assert lease.worker in RING


def test_no_wrong_result_of_a_ring_is_accepted_beside_an_auditor() -> None:
    driver = farmed_market(auditors=1, policy=MarketPolicy(references_to_expel=1))
    wrong = 0
    for _ in range(200):
        job = driver.submit(confidence=0.999)
        finish(driver, job)
        wrong += accepted_wrong(driver, job)
    assert wrong == 0
    assert [driver.market.worker(one).standing for one in RING] == [WorkerStanding.EXPELLED] * 2
    assert all(driver.market.worker(f"w{n}").standing is WorkerStanding.ACTIVE for n in range(10))
    driver.check()


def test_what_no_auditor_can_run_earns_no_trust_where_there_are_auditors() -> None:
    driver = farmed_market(auditors=1, jobs=40)
    sham = [one for one in driver.all_of(Evidence) if one.pipeline == "sham" and one.kind == "agreed"]
    assert sham
    # Before its first reference run was refused, an auditor might have made one.
    assert sum(one.checks for one in sham[10:]) == 0.0


def test_agreements_count_once_for_each_partner() -> None:
    driver = StaffedMarket(3)
    for _ in range(60):
        job = driver.submit(confidence=0.95)
        while driver.open_leases(job):
            driver.deliver(driver.open_leases(job)[0].id)
    checks: dict[tuple[str, str], float] = {}
    for one in driver.all_of(Evidence):
        key = one.worker, one.partner
        checks[key] = checks.get(key, 0.0) + one.checks
    assert checks
    assert max(checks.values()) <= driver.policy.partner_checks_max


def test_an_agreement_counts_nothing_where_there_was_nobody_else_to_draw() -> None:
    driver = StaffedMarket(2)
    job = driver.submit(confidence=0.9)
    assert [lease.purpose for lease in driver.open_leases(job)] == [
        LeasePurpose.AUCTION,
        LeasePurpose.REPLICA,
    ]
    driver.deliver_all(job, "right", "right")
    assert [(one.kind, one.checks, one.partner) for one in driver.all_of(Evidence)] == [
        ("agreed", 0.0, "")
    ] * 2


def test_own_jobs_vouch_for_nothing_and_strangers_jobs_for_half_a_check() -> None:
    """An account with a worker's own name, or with a key that the worker's owner signs with, is one hand."""
    driver = StaffedMarket(0, auditors=1, policy=MarketPolicy(audit_rate=1.0))
    for account in ("w0", "keyholder", "bob"):
        driver.fund(account)
    driver.publish(make_pipeline("own", publishers=("key",)), account="w0")
    driver.publish(make_pipeline("other", publishers=("key", "another")), account="keyholder")
    driver.add_worker("w0")
    vouched = {}
    for account, pipeline in [("w0", "digits"), ("keyholder", "digits"), ("bob", "own"), ("bob", "digits")]:
        for _ in range(4):
            job = driver.submit(account, pipeline=pipeline)
            driver.deliver_all(job, "right")
            driver.deliver(driver.open_audit(job).id, "right")
        found = [one for one in driver.all_of(Evidence) if (one.account, one.pipeline) == (account, pipeline)]
        assert [one.checks for one in found] == [1.0] * 4
        vouched[account, pipeline] = [one.vouched_checks for one in found]
    assert vouched == {
        ("w0", "digits"): [0.0] * 4,
        ("keyholder", "digits"): [0.0] * 4,
        ("bob", "own"): [0.0] * 4,
        ("bob", "digits"): [0.5, 0.0, 0.0, 0.0],
    }


def test_a_check_counts_by_its_price_at_the_markets_level() -> None:
    driver = StaffedMarket(3, auditors=1, policy=MarketPolicy(audit_rate=1.0))
    driver.add_worker("cheap", 1)
    job = driver.submit(max_price_microcredits=500)
    [lease] = driver.open_leases(job)
    assert lease.worker == "cheap"
    driver.deliver(lease.id)
    driver.deliver(driver.open_audit(job).id)
    [found] = driver.all_of(Evidence)
    assert found.checks == pytest.approx(lease.price_microcredits / 1000, abs=1e-3)
    assert found.checks < 0.6
