"""A broker that restarts: nothing is lost or done twice, and nobody is blamed for it."""

from __future__ import annotations

import msgspec
import pytest

from tradepost.errors import Problem
from tradepost.protocol import GiveBackReason, JobStatus, Requirements
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Evidence, Lease, LeaseState, Match
from tradepost_broker.market.model.events import LeaseGivenBack
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import MarketDriver, make_offer
from tradepost_broker.testing.staffed_market import StaffedMarket

POLICY = MarketPolicy(audit_rate=0.0, lease_grace_s=20.0, reconnect_s=15.0)


@pytest.fixture
def driver() -> StaffedMarket:
    return StaffedMarket(1, policy=POLICY)


def test_a_restart_loses_nothing(driver: StaffedMarket) -> None:
    driver.connect("w0", make_offer(capacity=1))
    running, waiting = driver.submit(), driver.submit()
    before = dict(driver.records)
    driver.restart()
    assert driver.records == before, "a restart decides nothing"
    assert driver.market.job(running) == driver.job(running)
    assert [lease.id for lease in driver.market.open_leases_of("w0")] == [f"{running}.1"]
    driver.tick(10.0)
    driver.connect("w0", make_offer(capacity=1))
    driver.tick()
    driver.deliver(f"{running}.1")
    driver.deliver(f"{waiting}.1")
    assert driver.job(running).status is driver.job(waiting).status is JobStatus.ACCEPTED
    driver.check()


def test_patience_begins_when_workers_have_had_time_to_come_back(driver: StaffedMarket) -> None:
    driver.restart()
    job = driver.submit(patience_s=1.0)
    driver.tick(15.0)
    assert driver.job(job).status is JobStatus.QUEUED
    driver.tick(1.0)
    assert driver.job(job).status is JobStatus.FAILED


def test_on_a_first_start_nobody_is_waited_for() -> None:
    driver = MarketDriver(policy=POLICY)
    driver.restart()
    driver.fund()
    driver.publish()
    assert driver.job(driver.submit(patience_s=0.0)).status is JobStatus.FAILED
    waiting = driver.submit(patience_s=1.0)
    assert driver.job(waiting).status is JobStatus.QUEUED
    driver.tick(1.0)
    assert driver.job(waiting).status is JobStatus.FAILED


def test_patience_goes_on_if_policy_gives_no_time_to_come_back() -> None:
    driver = MarketDriver(policy=MarketPolicy(reconnect_s=0.0))
    driver.fund()
    driver.publish()
    job = driver.submit(patience_s=5.0)
    driver.restart()
    driver.tick(4.0)
    assert driver.job(job).status is JobStatus.QUEUED
    driver.tick(1.0)
    assert driver.job(job).status is JobStatus.FAILED


def test_workers_that_do_not_come_back_after_a_restart_lose_their_leases(driver: StaffedMarket) -> None:
    job = driver.submit()
    driver.restart()
    driver.add_worker("w1", 20)
    driver.tick(14.0)
    assert driver.open_leases(job)[0].worker == "w0"
    driver.tick(1.0)
    assert driver.open_leases(job)[0].worker == "w1"


def test_after_a_restart_nothing_is_paid_or_funded_twice(driver: StaffedMarket) -> None:
    driver.fund("bob", 77, transfer="t")
    job = driver.submit(key="k")
    driver.deliver(f"{job}.1")
    held = driver.market.account("held:w0").available_microcredits
    driver.restart()
    driver.fund("bob", 77, transfer="t")
    driver.connect("w0")
    driver.deliver(f"{job}.1")
    assert driver.submit(key="k") == job
    assert driver.market.account("credits:bob").available_microcredits == 77
    assert driver.market.account("held:w0").available_microcredits == held
    driver.tick(POLICY.hold_s)
    assert driver.market.account("earned:w0").available_microcredits == held
    driver.check()


def test_reputation_survives_a_restart(driver: StaffedMarket) -> None:
    driver.add_worker("w1")
    for confidence in (0.9, 0.9, 0.9):
        job = driver.submit(confidence=confidence)
        while driver.open_leases(job):
            driver.deliver(driver.open_leases(job)[0].id)
    before = {worker: driver.market.reputation_of(worker) for worker in ("w0", "w1")}
    assert before["w0"]["cpu"].score > 0.05
    driver.restart()
    assert {worker: driver.market.reputation_of(worker) for worker in ("w0", "w1")} == before


def test_a_spot_check_survives_a_restart() -> None:
    driver = MarketDriver(policy=MarketPolicy(audit_rate=1.0, references_to_expel=1))
    driver.fund()
    driver.publish()
    driver.add_worker("a0", auditor=True)
    driver.connect("a0", make_offer(capacity=1))
    driver.add_worker("w0")
    for job in [driver.submit(), driver.submit()]:
        driver.deliver(f"{job}.1", "wrong")
    [audit] = driver.market.open_leases_of("a0")
    driver.restart()
    driver.connect("a0", make_offer(capacity=1))
    driver.deliver(audit.id, "right")
    assert driver.market.worker("w0").standing == "expelled"
    [second] = driver.market.open_leases_of("a0")
    assert second.job != audit.job
    driver.check()


def test_a_replay_goes_on_past_a_restart() -> None:
    driver = MarketDriver(policy=MarketPolicy(audit_rate=1.0, references_to_expel=1))
    driver.fund()
    driver.publish()
    driver.add_worker("w0")
    auditors = ("a0", "a1", "a2")
    for auditor in auditors:
        driver.add_worker(auditor, auditor=True)
    driver.restart()
    for worker in ("w0", *auditors):
        driver.connect(worker)
    for _ in range(5):
        driver.deliver(f"{driver.submit()}.1")
    assert len({lease.worker for lease in driver.all_of(Lease) if lease.price_microcredits == 0}) == 3
    driver.check_replay()


def test_a_replay_knows_no_more_past_a_restart_than_the_records_do() -> None:
    driver = StaffedMarket(2, auditors=1, policy=MarketPolicy(audit_rate=1.0))
    audits = []
    for _ in range(2):
        job = driver.submit()
        driver.deliver(driver.open_leases(job)[0].id, "wrong")
        driver.deliver(driver.open_audit(job).id, "right")
        audits.append(driver.open_audit(job))
    driver.restart()
    driver.give_back(audits[0].id, GiveBackReason.FAILED)
    driver.give_back(audits[1].id, GiveBackReason.REFUSED)  # what is refused is in no record
    driver.restart()
    driver.tick()
    driver.check_replay()


def test_an_empty_database_is_a_new_market() -> None:
    market = Market.restore([], POLICY)
    assert market.accounts() == Market(policy=POLICY).accounts()
    assert market.workers() == []


@pytest.mark.parametrize("comes_back", ["in time", "late", "never"])
@pytest.mark.parametrize("away_s", [1.0, 100.0, 10_000.0])
def test_a_broker_that_was_away_blames_nobody_for_leases_of_before(
    driver: StaffedMarket, away_s: float, comes_back: str
) -> None:
    driver.submit(deadline_s=100_000.0)
    lease = driver.open_leases("job000001")[0]
    driver.add_worker("w1", 20)
    for _ in range(4):
        driver.at += away_s
        driver.restart()
        driver.tick(1.0)
        assert driver.of(Lease, lease.id).state is LeaseState.OPEN
        driver.connect("w1")
        driver.tick(1.0)
    if comes_back == "in time":
        driver.connect("w0")
        driver.deliver(lease.id)
        assert driver.job("job000001").status is JobStatus.ACCEPTED
    elif comes_back == "late":
        driver.tick(POLICY.reconnect_s)
        driver.connect("w0")
    driver.tick(100.0)
    driver.tick(10 * POLICY.late_receipt_s)
    assert [one for one in driver.all_of(Evidence) if one.lease == lease.id] == []
    driver.check()


def test_a_lease_that_expires_right_after_a_restart_blames_nobody(driver: StaffedMarket) -> None:
    driver.submit()
    lease = driver.open_leases("job000001")[0]
    driver.at = lease.expires_at + 1.0
    driver.restart()
    driver.connect("w0")
    driver.tick(POLICY.reconnect_s)
    assert driver.of(Lease, lease.id).state is LeaseState.EXPIRED
    assert driver.evidence() == []


def test_a_lease_granted_after_a_restart_is_judged_as_ever(driver: StaffedMarket) -> None:
    driver.restart()
    driver.connect("w0")
    driver.tick(1.0)
    job = driver.submit()
    driver.add_worker("w1")
    driver.tick(100.0)
    driver.deliver(driver.open_leases(job)[0].id)
    assert driver.evidence() == [("w0", "expired")]


def test_a_finished_job_waits_for_a_reference_run_that_outlives_the_restart() -> None:
    """It ends later than it says: a tick that waited for the time that it says would never end."""
    driver = StaffedMarket(
        1, auditors=1, policy=MarketPolicy(audit_rate=1.0, references_to_expel=1, hold_s=1.0, retain_s=1.0)
    )
    job = driver.submit(confidence=0.5)
    driver.deliver_all(job, "right")
    audit = driver.open_audit(job)
    driver.at = audit.expires_at + 100
    driver.restart()
    driver.tick(0.5)
    assert driver.of(Lease, audit.id).state is LeaseState.OPEN
    driver.tick(2 * driver.policy.reconnect_s)
    assert driver.of(Lease, audit.id).state is LeaseState.EXPIRED
    driver.tick(2 * driver.policy.late_receipt_s)
    assert driver.market.job(job) is None
    assert ("a0", "expired") not in driver.evidence()
    driver.check()


def sole_bidder(driver: StaffedMarket, job: str) -> dict[str, int]:
    match = driver.of(Match, f"{job}.1")
    assert [one.worker for one in match.candidates] == ["w0"]
    return match.left_out


def test_a_match_after_a_restart_counts_who_is_not_back_yet() -> None:
    driver = StaffedMarket(4, auditors=1, policy=POLICY)
    driver.connect("w3", make_offer(memory_bytes=1))  # it could not have run the job
    before = driver.submit()
    assert driver.of(Match, f"{before}.1").left_out == {"capability": 1}
    driver.restart()
    driver.tick(1.0)
    driver.connect("w0", make_offer(10))
    job = driver.submit(requirements=Requirements(memory_bytes=2))
    assert sole_bidder(driver, job) == {"not reconnected since the broker's start": 2}
    driver.connect("w1", make_offer(20))
    later = driver.submit(requirements=Requirements(memory_bytes=2))
    assert driver.of(Match, f"{later}.1").left_out == {
        "busy": 1,
        "not reconnected since the broker's start": 1,
    }
    driver.check()


def test_who_stays_away_is_not_counted_for_ever() -> None:
    driver = StaffedMarket(2, policy=POLICY)
    driver.restart()
    driver.connect("w0", make_offer(10))
    driver.tick(POLICY.reconnect_s)
    assert sole_bidder(driver, driver.submit()) == {}


def test_an_earlier_journal_replays_without_that_count() -> None:
    recorded = msgspec.msgpack.encode({"audit_rate": 0.0})
    assert not recorded_policy(recorded).absent_recorded
    driver = StaffedMarket(2, policy=recorded_policy(recorded))
    driver.restart()
    driver.connect("w0", make_offer(10))
    assert sole_bidder(driver, driver.submit()) == {}


@pytest.mark.parametrize("reason", [GiveBackReason.FAILED, GiveBackReason.EXHAUSTED])
@pytest.mark.parametrize("excused", [True, False])
def test_what_fails_over_a_restart_of_the_broker_blames_nobody(reason: GiveBackReason, excused: bool) -> None:
    policy = POLICY if excused else msgspec.structs.replace(POLICY, interrupted_excused=False)
    driver = StaffedMarket(2, policy=policy)
    job = driver.submit()
    (lease,) = driver.open_leases(job)
    driver.tick(1.0)
    driver.restart()
    for worker in ("w0", "w1"):
        driver.connect(worker)
    driver.give_back(lease.id, reason)
    assert (driver.of(Lease, lease.id).pending_evidence is None) is excused
    driver.tick()
    (second,) = driver.open_leases(job)
    assert second.worker != lease.worker
    driver.deliver(second.id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    blamed = [(one.worker, one.kind.value) for one in driver.all_of(Evidence) if one.kind.lowers_score]
    assert blamed == ([] if excused else [(lease.worker, "failed")])
    driver.check()


def test_what_fails_after_a_restart_is_held_against_its_worker_as_ever() -> None:
    driver = StaffedMarket(2, policy=POLICY)
    driver.restart()
    driver.tick(1.0)
    for worker in ("w0", "w1"):
        driver.connect(worker)
    job = driver.submit()
    (lease,) = driver.open_leases(job)
    driver.give_back(lease.id, GiveBackReason.FAILED)
    assert driver.of(Lease, lease.id).pending_evidence is not None


def test_a_forged_receipt_is_no_fault_of_a_restart() -> None:
    driver = StaffedMarket(1, policy=POLICY)
    job = driver.submit()
    (lease,) = driver.open_leases(job)
    driver.tick(1.0)
    driver.restart()
    driver.connect("w0")
    driver.handle(
        LeaseGivenBack(
            at=driver.at,
            worker="w0",
            lease=lease.id,
            reason=GiveBackReason.FAILED,
            problem=Problem(code="x", title="x", detail="", status=500, fault="worker"),
            forged=True,
            seed=driver.next_seed(),
        )
    )
    driver.restart()
    driver.cancel(job)
    assert [one.kind.value for one in driver.all_of(Evidence)] == ["failed"]


@pytest.mark.parametrize("bids", [(10, 20, 30), (10, 11, 50), (30, 20, 10)])
def test_a_price_does_not_depend_on_a_restart(bids: tuple[int, int, int]) -> None:
    prices = []
    for restarts in (False, True):
        driver = StaffedMarket(3, policy=POLICY)
        for number, bid in enumerate(bids):
            driver.connect(f"w{number}", make_offer(bid))
        cheapest = f"w{bids.index(min(bids))}"
        first = driver.submit(confidence=0.5)
        driver.deliver_all(first, "right")
        if restarts:
            driver.restart()
            driver.tick(1.0)
            driver.connect(cheapest, make_offer(min(bids)))
        else:
            driver.tick(1.0)
        [lease] = driver.open_leases(driver.submit(confidence=0.5))
        assert lease.worker == cheapest
        prices.append(lease.price_microcredits)
        driver.check()
    assert prices[0] == prices[1]


def test_who_stays_away_competes_no_more() -> None:
    driver = StaffedMarket(2, policy=POLICY)
    driver.restart()
    driver.connect("w0", make_offer(10))
    first, second = driver.submit(confidence=0.5), None
    price_microcredits = driver.of(Match, f"{first}.1").clearing_price_microcredits
    driver.deliver_all(first, "right")
    driver.tick(POLICY.reconnect_s)
    second = driver.submit(confidence=0.5)
    assert driver.of(Match, f"{second}.1").clearing_price_microcredits > price_microcredits


def test_an_earlier_journal_replays_without_those_rivals() -> None:
    policy = recorded_policy(msgspec.msgpack.encode({"audit_rate": 0.0}))
    assert not policy.absent_compete
