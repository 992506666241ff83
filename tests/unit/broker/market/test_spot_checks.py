"""Spot checks: how often, by whom, what they find, and what becomes of those that are lost."""

from __future__ import annotations

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Lease, LeasePurpose
from tradepost_broker.market.model.events import (
    NotifyFinished,
    NotifyVerdictChanged,
    SendAcknowledged,
    SendGrant,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import make_offer
from tradepost_broker.testing.staffed_market import ALWAYS_CHECKED, StaffedMarket


def test_a_spot_check_does_not_delay_the_result() -> None:
    driver = StaffedMarket(1, auditors=1, policy=ALWAYS_CHECKED)
    job = driver.submit()
    driver.deliver_all(job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    audit = driver.open_audit(job)
    assert driver.told()[-2:] == [NotifyFinished(job), SendGrant(audit.id, "a0")]
    paid = driver.job(job).paid_microcredits
    driver.deliver(audit.id, "right")
    assert driver.evidence() == [("w0", "audit_passed")]
    assert driver.job(job).paid_microcredits == paid
    assert driver.told() == [SendAcknowledged(audit.id, "a0")]
    driver.check()


def test_a_spot_check_that_contradicts_an_accepted_result_refunds_and_slashes() -> None:
    driver = StaffedMarket(1, auditors=1, policy=ALWAYS_CHECKED)
    job = driver.submit()
    driver.deliver_all(job, "wrong")
    price = driver.job(job).paid_microcredits
    driver.deliver(driver.open_audit(job).id, "right")
    ended = driver.job(job)
    assert (ended.status, ended.paid_microcredits) == (JobStatus.ACCEPTED, 0)
    assert ended.verification.disagreed == ("w0",)
    assert [driver.of(Lease, lease).outcome for lease in ended.accepted] == ["right"]
    assert driver.evidence() == [("w0", "audit_failed")]
    assert driver.market.account("credits:alice").available_microcredits == 10_000_000
    assert driver.market.account("stake:w0").available_microcredits == 0
    [_, told, news] = driver.told()
    assert news == NotifyVerdictChanged(job)
    assert f"{price / 1e6:g} credits of held earnings are refunded" in told.reason
    driver.check()


def test_what_has_matured_cannot_be_clawed_back() -> None:
    driver = StaffedMarket(
        1,
        auditors=1,
        policy=MarketPolicy(audit_rate=1.0, references_to_expel=1, hold_s=5.0, lease_grace_s=60.0),
    )
    job = driver.submit()
    driver.deliver_all(job, "wrong")
    paid = driver.job(job).paid_microcredits
    driver.tick(6.0)
    driver.deliver(driver.open_audit(job).id, "right")
    assert driver.job(job).paid_microcredits == paid
    assert driver.market.account("earned:w0").available_microcredits == paid
    assert driver.market.account("stake:w0").available_microcredits == 0
    driver.check()


def test_the_rate_of_spot_checks_is_the_policys() -> None:
    checked = 0
    for seed in range(400):
        driver = StaffedMarket(1, auditors=1, policy=MarketPolicy(audit_rate=0.25), seed=seed)
        job = driver.submit()
        driver.deliver_all(job, "right")
        checked += bool(driver.open_leases(job))
    assert 70 <= checked <= 130  # 100 expected; 30 is 3.5 standard deviations


def test_a_busy_auditor_is_waited_for() -> None:
    driver = StaffedMarket(3, auditors=1, policy=ALWAYS_CHECKED)
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
    driver = StaffedMarket(3, auditors=1, policy=MarketPolicy(audit_rate=1.0, exposure_leases_max=2))
    driver.connect("a0", make_offer(capacity=6))
    for job in [driver.submit() for _ in range(6)]:
        driver.deliver(driver.open_leases(job)[0].id)
    assert len(driver.market.open_leases_of("a0")) == 6


def test_disagreements_go_before_spot_checks() -> None:
    driver = StaffedMarket(4, auditors=1, policy=ALWAYS_CHECKED)
    driver.connect("a0", make_offer(capacity=1))
    first, second = driver.submit(), driver.submit()
    driver.deliver(driver.open_leases(first)[0].id)
    driver.deliver(driver.open_leases(second)[0].id)
    contested = driver.submit(confidence=0.9)
    driver.deliver_all(contested, "wrong", "right")
    driver.deliver(driver.open_audit(first).id)
    assert driver.open_audit(contested)


def test_without_an_auditor_nobody_waits_or_pays_for_a_check() -> None:
    driver = StaffedMarket(2, policy=ALWAYS_CHECKED)
    job = driver.submit(confidence=0.75)
    driver.deliver(driver.open_leases(job)[0].id)
    ended = driver.job(job)
    assert (ended.status, ended.spot_check, driver.open_leases(job)) == (JobStatus.ACCEPTED, False, [])
    [lease] = driver.all_of(Lease)
    assert ended.paid_microcredits == lease.price_microcredits
    driver.check()


def test_an_auditor_that_is_away_checks_when_it_comes_back() -> None:
    driver = StaffedMarket(2, auditors=1, policy=ALWAYS_CHECKED)
    driver.disconnect("a0")
    job = driver.submit(confidence=0.75)
    driver.deliver(driver.open_leases(job)[0].id)
    ended = driver.job(job)
    assert (ended.status, driver.open_leases(job)) == (JobStatus.ACCEPTED, [])
    driver.connect("a0")
    driver.deliver(driver.open_audit(job).id)
    assert [kind for _, kind in driver.evidence()] == ["audit_passed"]
    assert driver.job(job).paid_microcredits == ended.paid_microcredits
    driver.check()


def test_a_check_that_nobody_can_make_is_not_waited_for() -> None:
    driver = StaffedMarket(1, policy=ALWAYS_CHECKED)
    job = driver.submit(confidence=0.75)
    driver.deliver_all(job, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert not driver.job(job).spot_check


def test_reference_runs_that_are_lost_are_made_again_then_done_without() -> None:
    driver = StaffedMarket(6, auditors=1, policy=MarketPolicy(audit_rate=0.0, audits_lost_max=2))
    job = driver.submit(confidence=0.9)
    driver.deliver_all(job, "wrong", "right")
    for _ in range(2):
        driver.give_back(driver.open_audit(job).id)
    assert {lease.purpose for lease in driver.open_leases(job)} == {LeasePurpose.REPLICA}
    while driver.job(job).status is JobStatus.RUNNING:
        driver.deliver(driver.open_leases(job)[0].id, "right")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert all(worker.standing == "active" for worker in driver.market.workers())
    driver.check()


def test_a_spot_check_that_is_lost_too_often_is_dropped() -> None:
    driver = StaffedMarket(1, auditors=1, policy=MarketPolicy(audit_rate=1.0, audits_lost_max=2))
    job = driver.submit()
    driver.deliver_all(job, "right")
    for _ in range(2):
        driver.give_back(driver.open_audit(job).id)
    assert driver.open_leases(job) == []
    assert not driver.job(job).spot_check
    assert driver.evidence() == []


def test_when_the_last_auditor_leaves_replicas_decide() -> None:
    driver = StaffedMarket(6, auditors=1)
    driver.connect("a0", make_offer(capacity=1))
    busy = driver.submit(confidence=0.9)
    driver.deliver_all(busy, "wrong", "right")
    job = driver.submit(confidence=0.9)
    first, second = driver.open_leases(job)
    driver.deliver(first.id, "wrong")
    driver.deliver(second.id, "right")
    assert driver.open_leases(job) == []
    driver.disconnect("a0")
    driver.tick()
    assert {lease.purpose for lease in driver.open_leases(job)} == {LeasePurpose.REPLICA}


def test_where_owners_are_too_few_a_reference_run_confirms() -> None:
    driver = StaffedMarket(1, auditors=1)
    job = driver.submit(confidence=0.99)
    driver.deliver_all(job, "right")
    driver.deliver(driver.open_audit(job).id, "right")
    ended = driver.job(job)
    assert ended.status is JobStatus.ACCEPTED
    assert driver.evidence() == [("w0", "audit_passed")]
    assert ended.paid_microcredits == driver.market.account("held:w0").available_microcredits > 0
    driver.check()


def test_a_lost_reference_run_is_made_again_by_another_auditor() -> None:
    for seed in range(8):
        driver = StaffedMarket(1, auditors=2, policy=ALWAYS_CHECKED, seed=seed)
        job = driver.submit()
        driver.deliver_all(job, "right")
        lost = driver.open_audit(job)
        driver.give_back(lost.id)
        assert driver.open_audit(job).worker != lost.worker


def test_a_busy_other_auditor_is_waited_for_rather_than_one_that_lost_the_run() -> None:
    driver = StaffedMarket(2, auditors=2, policy=ALWAYS_CHECKED)
    for auditor in ("a0", "a1"):
        driver.connect(auditor, make_offer(capacity=1))
    first, second = driver.submit(), driver.submit()
    driver.deliver(driver.open_leases(first)[0].id)
    driver.deliver(driver.open_leases(second)[0].id)
    other = driver.open_audit(second)
    driver.give_back(driver.open_audit(first).id)
    assert driver.open_leases(first) == []
    driver.deliver(other.id)
    assert driver.open_audit(first).worker == other.worker
    driver.check()


def test_the_only_auditor_is_asked_again() -> None:
    driver = StaffedMarket(1, auditors=1, policy=ALWAYS_CHECKED)
    job = driver.submit()
    driver.deliver_all(job, "right")
    driver.give_back(driver.open_audit(job).id)
    assert driver.open_audit(job).worker == "a0"


def test_an_account_that_floods_the_auditor_waits_for_itself() -> None:
    driver = StaffedMarket(12, auditors=1, policy=MarketPolicy(audit_rate=1.0, exposure_leases_max=50))
    driver.connect("a0", make_offer(capacity=1))
    driver.fund("flooder")
    for job in [driver.submit("flooder") for _ in range(12)]:
        driver.deliver_all(job, "right")
    mine = driver.submit("alice")
    driver.deliver_all(mine, "right")
    served = []
    for _ in range(3):
        [audit] = [
            lease for lease in driver.all_of(Lease) if lease.purpose == "audit" and lease.state == "open"
        ]
        served.append(driver.job(audit.job).account)
        driver.at += 10.0
        driver.deliver(audit.id)
    assert served[1] == "alice"
    assert served.count("flooder") == 2
