"""Workers that come back, stay away or let leases expire."""

from __future__ import annotations

import math

import pytest

from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.market.model.entities import Evidence, Lease, LeaseState
from tradepost_broker.market.model.events import SendAcknowledged, SendGrant, SendRecall, Tick
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline

POLICY = MarketPolicy(audit_rate=0.0, lease_grace_s=20.0, reconnect_s=15.0)


@pytest.fixture
def driver() -> MarketDriver:
    """Funded, one pipeline (30 s limit), one worker at 10."""
    driver = MarketDriver(policy=POLICY)
    driver.fund()
    driver.publish()
    driver.add_worker("w0")
    return driver


def kinds(driver: MarketDriver) -> list[str]:
    return [evidence.kind.value for evidence in driver.all_of(Evidence)]


def test_a_lease_runs_until_its_limit_and_grace(driver: MarketDriver) -> None:
    driver.publish(make_pipeline("big", artifact_bytes=100 << 20))
    cold = driver.open_leases(driver.submit(pipeline="big"))[0]
    assert cold.expires_at == driver.at + 30 + 10 + 20, "limit, 100 MiB at 10 MiB/s, grace"
    driver.connect("w0", make_offer(warm=("big",)))
    warm = driver.open_leases(driver.submit(pipeline="big"))[0]
    assert warm.expires_at == driver.at + 50
    soon = driver.submit(pipeline="big", deadline_s=7.5)
    driver.deliver(cold.id)
    assert driver.open_leases(soon)[0].expires_at == driver.at + 8, "a whole second, and no more than that"


def test_an_expired_lease_goes_to_another(driver: MarketDriver) -> None:
    job = driver.submit()
    lease = driver.open_leases(job)[0]
    driver.add_worker("w1", 20)
    driver.tick(50.0)
    assert driver.of(Lease, lease.id).state is LeaseState.OPEN
    driver.tick(1.0)
    assert driver.of(Lease, lease.id).state is LeaseState.EXPIRED
    [again] = driver.open_leases(job)
    assert again.worker == "w1"
    driver.deliver(lease.id)
    [late] = driver.told()
    assert isinstance(late, SendAcknowledged)
    assert late.problem is not None
    assert late.problem.code == "lease-gone"
    assert driver.of(Lease, lease.id).state is LeaseState.EXPIRED
    assert kinds(driver) == []
    driver.deliver(again.id)
    assert kinds(driver) == ["expired"]
    driver.check()


@pytest.mark.parametrize(
    ("deadline_s", "after_s", "found"),
    [
        (300.0, 30.0, []),  # the pipeline's time limit
        (0.003, 0.003, []),  # the job's deadline: both are others' terms
        (300.0, 28.9, ["failed"]),  # neither was over yet
        (20.0, 18.9, ["failed"]),
    ],
)
def test_running_out_of_time_is_no_evidence_where_the_time_was_over(
    driver: MarketDriver, deadline_s: float, after_s: float, found: list[str]
) -> None:
    driver.at = float(math.ceil(driver.at))  # leases end on whole seconds
    driver.add_worker("w1", 20)
    job = driver.submit(deadline_s=deadline_s)
    driver.at += after_s
    driver.give_back(f"{job}.1", GiveBackReason.EXHAUSTED)
    assert driver.job(job).failures == 1
    assert kinds(driver) == []
    for lease in driver.open_leases(job):  # another owner's, who succeeds
        driver.deliver(lease.id)
    assert kinds(driver) == found
    driver.check()


def test_a_lease_does_not_expire_while_its_receipt_is_checked(driver: MarketDriver) -> None:
    """However long that takes the broker: the worker was in time."""
    job = driver.submit()
    lease = driver.open_leases(job)[0]
    driver.at = lease.expires_at + 1
    for _ in range(3):
        driver.at += 1
        driver.handle(Tick(at=driver.at, seed=driver.next_seed(), arrived=(lease.id,)))
    assert driver.of(Lease, lease.id).state is LeaseState.OPEN
    driver.deliver(lease.id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert kinds(driver) == []
    driver.check()


def test_a_worker_that_went_away_keeps_the_lease_whose_receipt_is_checked(driver: MarketDriver) -> None:
    job = driver.submit()
    driver.disconnect("w0")
    driver.tick(10 * POLICY.reconnect_s, arrived=(f"{job}.1",))
    assert driver.of(Lease, f"{job}.1").state is LeaseState.OPEN
    driver.deliver(f"{job}.1", worker="w0")
    driver.tick()
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert kinds(driver) == []
    driver.check()


def test_a_finished_job_waits_for_the_receipt_of_its_audit() -> None:
    """It is due to leave memory before its audit's receipt is decided: the tick must end all the same."""
    driver = MarketDriver(policy=MarketPolicy(audit_rate=1.0))
    driver.fund()
    driver.publish(make_pipeline(wall_s=600))
    driver.add_worker("w0")
    driver.add_worker("a0", auditor=True)
    job = driver.submit(confidence=0.5)
    driver.deliver(f"{job}.1")
    [audit] = [lease for lease in driver.open_leases(job) if lease.worker == "a0"]
    driver.tick(audit.expires_at + 0.1 - driver.at, arrived=(audit.id,))
    assert driver.of(Lease, audit.id).state is LeaseState.OPEN
    driver.deliver(audit.id)
    assert driver.of(Lease, audit.id).state is LeaseState.ACCEPTED
    driver.check()


def test_leases_for_which_a_worker_has_no_room_any_more_go_to_others(driver: MarketDriver) -> None:
    jobs = [driver.submit() for _ in range(2)]
    driver.add_worker("w1", 20)
    driver.connect("w0", make_offer(capacity=1), open_leases=())
    assert SendGrant(f"{jobs[0]}.1", "w0") in driver.told()
    assert driver.of(Lease, f"{jobs[1]}.1").state is LeaseState.RETURNED
    assert [lease.worker for lease in driver.open_leases(jobs[1])] == ["w1"]
    assert kinds(driver) == []
    driver.check()


def test_a_receipt_that_was_refused_lets_its_lease_expire(driver: MarketDriver) -> None:
    job = driver.submit()
    lease = driver.open_leases(job)[0]
    driver.at = lease.expires_at
    driver.handle(Tick(at=driver.at, seed=driver.next_seed(), arrived=(lease.id,)))
    driver.add_worker("w1", 20)
    driver.tick()
    assert driver.of(Lease, lease.id).state is LeaseState.EXPIRED
    driver.deliver(driver.open_leases(job)[0].id)
    assert kinds(driver) == ["expired"]


def test_a_jobs_deadline_waits_for_no_receipt(driver: MarketDriver) -> None:
    job = driver.submit(deadline_s=5)
    lease = driver.open_leases(job)[0]
    driver.at += 10
    driver.handle(Tick(at=driver.at, seed=driver.next_seed(), arrived=(lease.id,)))
    driver.tick(100)
    assert driver.of(Lease, lease.id).state is LeaseState.RECALLED
    assert driver.job(job).status is JobStatus.FAILED
    assert kinds(driver) == []
    driver.check()


def test_a_lease_may_be_kept_whose_job_leaves_memory_in_the_same_tick() -> None:
    """The policy retains nothing, and the broker slept: expiry, deadline and retirement are due at once."""
    driver = MarketDriver(policy=MarketPolicy(audit_rate=0.0, lease_grace_s=20.0, retain_s=0.0))
    driver.fund()
    driver.publish()
    driver.add_worker("w0")
    job = driver.submit(deadline_s=500)
    lease = driver.open_leases(job)[0]
    assert lease.expires_at < driver.job(job).deadline_at
    driver.tick(1000, arrived=(lease.id,))
    assert driver.job(job).status is JobStatus.FAILED
    assert driver.market.lease(lease.id) is None
    assert kinds(driver) == []
    driver.check()


def test_a_worker_that_comes_back_in_time_keeps_its_leases(driver: MarketDriver) -> None:
    job = driver.submit()
    driver.disconnect("w0")
    driver.tick(14.0)
    driver.connect("w0")
    assert driver.told() == []
    driver.tick(5.0)
    driver.deliver(f"{job}.1")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert kinds(driver) == []


def test_a_worker_that_stays_away_loses_them(driver: MarketDriver) -> None:
    job = driver.submit()
    driver.disconnect("w0")
    driver.add_worker("w1", 20)
    driver.tick(15.0)
    assert [lease.worker for lease in driver.open_leases(job)] == ["w1"]
    assert kinds(driver) == []
    driver.connect("w0")
    assert driver.told() == [SendRecall(f"{job}.1", "w0")]
    driver.deliver(f"{job}.2")
    driver.tick(driver.of(Lease, f"{job}.1").expires_at + POLICY.late_receipt_s - driver.at - 1)
    assert kinds(driver) == []
    assert driver.market.lease(f"{job}.1"), "kept as long as its receipt is awaited"
    driver.tick(1.0)
    assert kinds(driver) == ["expired"]
    driver.deliver(f"{job}.1", worker="w0")
    assert kinds(driver) == ["expired"]
    driver.check()


def lost_by_absence(driver: MarketDriver) -> Lease:
    """A lease of w0, which is with w1 now; w0 is back."""
    job = driver.submit()
    driver.disconnect("w0")
    driver.add_worker("w1", 20)
    driver.tick(POLICY.reconnect_s)
    driver.connect("w0")
    return driver.of(Lease, f"{job}.1")


def assert_told_gone(driver: MarketDriver, lease: str) -> None:
    [late] = driver.told()
    assert isinstance(late, SendAcknowledged)
    assert (late.lease, late.problem.code if late.problem else "") == (lease, "lease-gone")


@pytest.mark.parametrize("answered", [False, True])
def test_a_receipt_for_a_lease_lost_by_absence_is_refused_kindly(
    driver: MarketDriver, answered: bool
) -> None:
    lease = lost_by_absence(driver)
    if answered:
        driver.deliver(f"{lease.job}.2")
    driver.deliver(lease.id)
    assert_told_gone(driver, lease.id)
    before = dict(driver.records)
    driver.deliver(lease.id)
    assert_told_gone(driver, lease.id)
    assert driver.records == before, "a repeated receipt changes nothing"
    kept = driver.of(Lease, lease.id)
    assert (kept.state, kept.paid_microcredits) == (LeaseState.EXPIRED, 0)
    driver.deliver(f"{lease.job}.2")
    driver.tick(100 * POLICY.late_receipt_s)
    assert kinds(driver) == []
    driver.check()


def test_neither_made_up_nor_anothers_nor_too_late_a_receipt_is_forgiven(driver: MarketDriver) -> None:
    lease = lost_by_absence(driver)
    driver.deliver(f"{lease.job}.2")
    driver.deliver(lease.id, "made up")
    driver.deliver(lease.id, worker="w1")
    driver.at = lease.expires_at + POLICY.late_receipt_s
    driver.deliver(lease.id)
    assert kinds(driver) == []
    driver.tick()
    assert kinds(driver) == ["expired"]


def test_a_lease_that_ends_while_its_worker_is_away_waits_for_the_receipt_as_well(
    driver: MarketDriver,
) -> None:
    lease = driver.open_leases(driver.submit())[0]
    driver.at = lease.expires_at - 1
    driver.disconnect("w0")
    driver.tick(1.0)
    assert driver.of(Lease, lease.id).state is LeaseState.EXPIRED
    driver.connect("w0", open_leases=())
    driver.deliver(lease.id)
    assert driver.of(Lease, lease.id).blame_at is None
    assert kinds(driver) == []


def test_a_restart_gives_awaited_receipts_time(driver: MarketDriver) -> None:
    lease = lost_by_absence(driver)
    driver.deliver(f"{lease.job}.2")
    driver.at = lease.expires_at + POLICY.late_receipt_s + 1
    driver.restart()
    driver.tick(POLICY.reconnect_s - 1)
    assert kinds(driver) == []
    driver.deliver(lease.id)
    driver.tick(1.0)
    assert kinds(driver) == []
    driver.check()


def test_a_lease_that_a_worker_does_not_name_is_granted_to_it_again(driver: MarketDriver) -> None:
    """Its grant was lost with a connection or a process: nobody is to blame, and no attempt is used up."""
    job = driver.submit()
    granted = driver.of(Lease, f"{job}.1")
    for _ in range(2 * POLICY.attempts_max):
        driver.connect("w0", open_leases=())
        assert driver.told() == [SendGrant(f"{job}.1", "w0")]
    assert driver.of(Lease, f"{job}.1") == granted
    assert driver.job(job).failures == 0
    driver.deliver(f"{job}.1")
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert kinds(driver) == []
    driver.check()


def test_a_lease_that_is_granted_again_and_again_still_expires(driver: MarketDriver) -> None:
    job = driver.submit()
    driver.add_worker("w1", 20)
    driver.connect("w0", open_leases=())
    driver.at = driver.of(Lease, f"{job}.1").expires_at
    driver.connect("w0", open_leases=())
    driver.tick()
    [lease] = driver.open_leases(job)
    assert lease.worker == "w1"
    driver.deliver(lease.id)
    assert kinds(driver) == ["expired"]


def test_a_connection_is_granted_what_waits_once(driver: MarketDriver) -> None:
    driver.disconnect("w0")
    jobs = [driver.submit() for _ in range(3)]
    driver.connect("w0", make_offer(capacity=2), open_leases=())
    assert driver.told() == [SendGrant(f"{job}.1", "w0") for job in jobs[:2]]


def test_what_the_broker_does_not_hold_open_is_recalled_or_acknowledged(driver: MarketDriver) -> None:
    cancelled, delivered, running = driver.submit(), driver.submit(), driver.submit()
    driver.cancel(cancelled)
    driver.deliver(f"{delivered}.1")
    assert driver.open_leases(running)
    known = tuple(f"{job}.1" for job in (cancelled, delivered, running))
    driver.connect("w0", open_leases=(*known, "never.1"))
    assert driver.told() == [
        SendRecall(known[0], "w0"),
        SendAcknowledged(known[1], "w0"),
        SendRecall("never.1", "w0"),
    ]


def test_a_worker_cannot_claim_the_lease_of_another(driver: MarketDriver) -> None:
    job = driver.submit()
    driver.join("w1")
    driver.connect("w1", make_offer(20), open_leases=(f"{job}.1",))
    assert driver.told() == [SendRecall(f"{job}.1", "w1")]
    assert driver.of(Lease, f"{job}.1").state is LeaseState.OPEN


def test_a_disconnected_worker_is_offered_nothing(driver: MarketDriver) -> None:
    driver.disconnect("w0")
    job = driver.submit()
    assert driver.open_leases(job) == []
    assert not driver.market.is_connected("w0")
    driver.connect("w0")
    assert driver.told() == [SendGrant(f"{job}.1", "w0")]
