"""A lease that takes too long is hedged, and holding leases is held against their owner, but not slowness."""

from __future__ import annotations

import pytest

from tradepost.protocol import GiveBackReason, JobStatus
from tradepost.protocol.worker_frames import HEARTBEAT_S
from tradepost_broker.market.ledger import held_of
from tradepost_broker.market.model.entities import Evidence, Job, Lease, LeaseState
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline

POLICY = MarketPolicy(audit_rate=0.0)
RUN_S = 2.0
#: When a lease of a worker whose own times are not longer than usual is late, and a little more.
LATE_S = POLICY.late_after_runs * RUN_S + POLICY.late_s_min + 0.2


@pytest.fixture
def driver() -> MarketDriver:
    """Funded, one pipeline, four honest workers of different owners, whose runs are known to take `RUN_S`."""
    return measured_market()


def measured_market(policy: MarketPolicy = POLICY) -> MarketDriver:
    driver = MarketDriver(policy=policy)
    driver.fund(amount_microcredits=10_000_000)
    driver.publish()
    for number in range(4):
        driver.add_worker(f"w{number}")
    jobs = [driver.submit(confidence=0.5) for _ in range(8)]
    driver.tick(RUN_S)
    for job in jobs:
        [lease] = driver.open_leases(job)
        driver.deliver(lease.id)
    assert {lease.worker for lease in driver.all_of(Lease)} == {"w0", "w1", "w2", "w3"}
    return driver


def submit(driver: MarketDriver, *, deadline_s: float = 300.0, max_price_microcredits: int = 100_000) -> str:
    """A job that one result is enough for."""
    return driver.submit(confidence=0.5, deadline_s=deadline_s, max_price_microcredits=max_price_microcredits)


def hold(driver: MarketDriver, *, deadline_s: float = 30.0) -> Lease:
    """Have the cheapest worker hold a lease until another owner has done the job; the lease."""
    job = submit(driver, deadline_s=deadline_s)
    [held] = driver.open_leases(job)
    driver.tick(LATE_S)
    if len(driver.open_leases(job)) == 1:  # it has longer: until another has just enough time left
        driver.tick(deadline_s - 2 * LATE_S + 1)
    for hedge in driver.open_leases(job):
        if hedge.id != held.id:
            driver.deliver(hedge.id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    driver.check()
    return driver.of(Lease, held.id)


def bad_evidence(driver: MarketDriver) -> list[str]:
    """The leases that are held against their workers."""
    return [found.lease for found in driver.all_of(Evidence) if found.kind.lowers_score]


def test_a_late_lease_is_hedged_with_another_owner_and_the_first_result_is_paid(driver: MarketDriver) -> None:
    driver.add_worker("holder", 1)
    job = submit(driver)
    [held] = driver.open_leases(job)
    assert held.worker == "holder"
    driver.tick(LATE_S - 0.4)
    assert [lease.worker for lease in driver.open_leases(job)] == ["holder"]
    driver.tick(0.4)
    [_, hedge] = driver.open_leases(job)
    driver.deliver(hedge.id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert driver.job(job).paid_microcredits == hedge.price_microcredits
    assert driver.of(Lease, held.id).state is LeaseState.RECALLED
    assert driver.market.account(held_of("holder")).available_microcredits == 0
    driver.check()


def test_the_late_worker_is_paid_if_its_result_is_first(driver: MarketDriver) -> None:
    driver.add_worker("slow", 1)
    job = submit(driver)
    driver.tick(LATE_S)
    [late, hedge] = driver.open_leases(job)
    driver.deliver(late.id)
    assert driver.job(job).paid_microcredits == late.price_microcredits
    assert driver.of(Lease, hedge.id).state is LeaseState.RECALLED
    assert bad_evidence(driver) == []
    driver.check()


def test_the_first_hold_is_excused_and_those_after_a_failed_trial_are_evidence(driver: MarketDriver) -> None:
    driver.add_worker("holder", 1)
    excused = hold(driver)
    assert excused.state is LeaseState.RECALLED
    assert bad_evidence(driver) == []
    trial = hold(driver)
    assert bad_evidence(driver) == [trial.id]
    third = hold(driver)
    assert bad_evidence(driver) == [trial.id, third.id]
    assert third.settled_at is not None
    assert third.settled_at < third.granted_at + LATE_S + 1, "only the trial had longer"


def test_the_other_devices_of_an_owner_have_no_trials_of_their_own(driver: MarketDriver) -> None:
    for number in range(3):
        driver.add_worker(f"holder{number}", 1, owner="holder")
    assert len({hold(driver).worker for _ in range(3)}) <= 3
    assert len(bad_evidence(driver)) == 2


def test_a_slow_device_shows_in_its_trial_how_long_it_takes_and_is_not_late_again(
    driver: MarketDriver,
) -> None:
    slow_s = 20.0
    driver.add_worker("slow", 1)
    hold(driver)
    for _ in range(5):
        job = submit(driver)
        driver.tick(slow_s)
        [lease] = driver.open_leases(job)
        assert lease.worker == "slow"
        driver.deliver(lease.id)
        assert driver.job(job).status is JobStatus.ACCEPTED
    assert bad_evidence(driver) == []


def test_a_result_makes_good_for_earlier_holds(driver: MarketDriver) -> None:
    driver.add_worker("holder", 1)
    hold(driver)
    trial = hold(driver)
    job = submit(driver)
    driver.deliver(driver.open_leases(job)[0].id)
    hold(driver)
    assert bad_evidence(driver) == [trial.id]


def test_a_trial_that_its_owner_breaks_off_shows_nothing(driver: MarketDriver) -> None:
    driver.add_worker("owned", 1)
    hold(driver)
    job = submit(driver)
    driver.give_back(driver.open_leases(job)[0].id, GiveBackReason.PREEMPTED)
    driver.deliver(driver.open_leases(job)[0].id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    job = submit(driver)
    driver.tick(LATE_S)
    assert len(driver.open_leases(job)) == 1, "the next one is the trial"


@pytest.mark.parametrize("end", ["cancelled", "deadline"])
def test_what_takes_long_on_every_device_blames_nobody(driver: MarketDriver, end: str) -> None:
    for _ in range(3):
        job = submit(driver, deadline_s=30.0)
        for _ in range(4):
            driver.tick(LATE_S)
        if end == "cancelled":
            driver.cancel(job)
        driver.tick(LATE_S)
        assert driver.job(job).finished_at is not None
    assert bad_evidence(driver) == []
    driver.check()


def test_where_too_few_owners_are_known_a_lease_is_hedged_after_half_of_its_time_and_is_no_hold() -> None:
    driver = MarketDriver(policy=POLICY)
    driver.fund()
    driver.publish()
    driver.add_worker("w0")
    driver.add_worker("holder", 1)
    for _ in range(4):
        job = submit(driver, deadline_s=30.0)
        driver.tick(14.0)
        assert len(driver.open_leases(job)) == 1
        driver.tick(1.5)
        driver.deliver(driver.open_leases(job)[-1].id)
        assert driver.job(job).status is JobStatus.ACCEPTED
    assert bad_evidence(driver) == []


def test_a_hedge_never_exceeds_the_cap(driver: MarketDriver) -> None:
    driver.add_worker("holder", 1)
    job = submit(driver, max_price_microcredits=1_100)
    [held] = driver.open_leases(job)
    driver.tick(LATE_S)
    assert held.price_microcredits + 1_000 > 1_100
    assert driver.open_leases(job) == [held]
    driver.deliver(held.id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    driver.check()


def test_there_are_so_many_hedges_at_most() -> None:
    driver = measured_market(MarketPolicy(audit_rate=0.0, hedges_max=2))
    driver.add_worker("holder", 1)
    job = submit(driver)
    for _ in range(4):
        driver.tick(LATE_S)
    assert len(driver.open_leases(job)) == 3
    driver.check()


def test_no_hedges_if_the_policy_has_none() -> None:
    driver = measured_market(MarketPolicy(audit_rate=0.0, hedges_max=0))
    job = submit(driver)
    driver.tick(4 * LATE_S)
    assert len(driver.open_leases(job)) == 1


def test_a_hedge_waits_for_a_worker_that_is_busy(driver: MarketDriver) -> None:
    driver.add_worker("holder", 1)
    held = submit(driver)
    driver.update_offer("holder", make_offer(1, capacity=0))
    others = [submit(driver) for _ in range(8)]
    driver.tick(LATE_S)
    assert len(driver.open_leases(held)) == 1
    driver.deliver(driver.open_leases(others[0])[0].id)
    assert len(driver.open_leases(held)) == 2
    driver.check()


@pytest.mark.parametrize("answers", [True, False])
def test_a_hold_of_an_absent_worker_is_evidence_only_if_no_receipt_comes(
    driver: MarketDriver, answers: bool
) -> None:
    driver.add_worker("away", 1)
    hold(driver)
    trial = hold(driver)
    job = submit(driver)
    [held] = driver.open_leases(job)
    driver.disconnect("away")
    driver.tick(LATE_S)
    driver.deliver(driver.open_leases(job)[-1].id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    if answers:
        driver.connect("away", make_offer(1), open_leases=(held.id,))
        driver.deliver(held.id)
    driver.tick(POLICY.late_receipt_s + 100)
    driver.tick()
    assert bad_evidence(driver) == [trial.id, *([] if answers else [held.id])]


def test_a_receipt_that_is_being_checked_is_not_late(driver: MarketDriver) -> None:
    driver.add_worker("holder", 1)
    job = submit(driver)
    [lease] = driver.open_leases(job)
    driver.tick(LATE_S, arrived=(lease.id,))
    assert driver.open_leases(job) == [lease]
    driver.deliver(lease.id)
    assert driver.job(job).status is JobStatus.ACCEPTED


def test_after_a_restart_a_lease_is_hedged_and_no_hold(driver: MarketDriver) -> None:
    driver.add_worker("holder", 1)
    hold(driver)
    job = submit(driver)
    driver.restart()
    for number in range(4):
        driver.connect(f"w{number}")
    driver.connect("holder", make_offer(1))
    driver.tick(POLICY.reconnect_s + 8)
    [held, hedge] = driver.open_leases(job)
    assert held.worker == "holder"
    driver.deliver(hedge.id)
    assert driver.all_of(Job)[-1].status is JobStatus.ACCEPTED
    assert bad_evidence(driver) == []


STAGE_S, REST_S = 20.0, 100.0
#: When the report of the first stage is overdue, and a little more.
OVERDUE_S = POLICY.late_after_runs * STAGE_S + POLICY.late_s_min + HEARTBEAT_S + 0.2


def reporting_market() -> MarketDriver:
    """Four owners whose workers report the first stage after `STAGE_S`, and end `REST_S` after that."""
    driver = MarketDriver(policy=POLICY)
    driver.fund(amount_microcredits=10_000_000)
    driver.publish(make_pipeline(wall_s=600.0))
    for number in range(4):
        driver.add_worker(f"w{number}")
    run_reporting(driver, [submit(driver, deadline_s=2_000.0) for _ in range(8)])
    return driver


def run_reporting(driver: MarketDriver, jobs: list[str]) -> None:
    leases = [lease for job in jobs for lease in driver.open_leases(job)]
    driver.tick(STAGE_S)
    for lease in leases:
        driver.report_stages(lease.id, 1)
    driver.tick(REST_S)
    for lease in leases:
        driver.deliver(lease.id)
    assert {driver.job(job).status for job in jobs} == {JobStatus.ACCEPTED}


def test_a_lease_whose_report_is_overdue_is_hedged_early_and_is_no_hold() -> None:
    driver = reporting_market()
    driver.add_worker("holder", 1)
    run_reporting(driver, [submit(driver, deadline_s=2_000.0)])
    for _ in range(3):
        job = submit(driver, deadline_s=2_000.0)
        [held] = driver.open_leases(job)
        assert held.worker == "holder"
        driver.tick(OVERDUE_S - 0.4)
        assert len(driver.open_leases(job)) == 1
        driver.tick(0.4)
        [_, hedge] = driver.open_leases(job)
        driver.deliver(hedge.id)
        assert driver.job(job).status is JobStatus.ACCEPTED
    assert bad_evidence(driver) == []
    driver.check()


def test_a_false_report_delays_the_hedge_until_the_lease_is_late_and_no_longer() -> None:
    driver = reporting_market()
    driver.add_worker("holder", 1)
    run_reporting(driver, [submit(driver, deadline_s=2_000.0)])
    job = submit(driver, deadline_s=2_000.0)
    [held] = driver.open_leases(job)
    driver.report_stages(held.id, 1)
    driver.report_stages(held.id, 32)
    late_s = POLICY.late_after_runs * (STAGE_S + REST_S) + POLICY.late_s_min
    driver.tick(late_s - 0.2)
    assert len(driver.open_leases(job)) == 1
    driver.tick(0.4)
    assert len(driver.open_leases(job)) == 2
    driver.check()


def test_a_worker_that_never_reported_a_stage_owes_no_report() -> None:
    driver = reporting_market()
    driver.add_worker("older", 1)
    job = submit(driver, deadline_s=2_000.0)
    driver.tick(3 * OVERDUE_S)
    assert [lease.worker for lease in driver.open_leases(job)] == ["older"]


def test_what_is_no_news_of_an_open_lease_changes_nothing() -> None:
    driver = reporting_market()
    job = submit(driver, deadline_s=2_000.0)
    [lease] = driver.open_leases(job)
    assert driver.market.stages_done(lease.worker, lease.id) == 0
    driver.report_stages(lease.id, 2)
    assert driver.market.stages_done(lease.worker, lease.id) == 2
    told = len(driver.journal)
    assert driver.journal[-1][0] == driver.events[-1], "a replay must know of it"
    stranger = next(f"w{number}" for number in range(4) if f"w{number}" != lease.worker)
    assert driver.market.stages_done(stranger, lease.id) is None
    for answer in (
        driver.report_stages(lease.id, 2),
        driver.report_stages(lease.id, 1),
        driver.report_stages(lease.id, 3, worker=stranger),
        driver.report_stages("nonsense", 1),
    ):
        assert answer == []
    assert len(driver.journal) == told, "with repeated reports anyone could fill the journal"
    driver.deliver(lease.id)
    assert driver.report_stages(lease.id, 3) == []
    assert driver.market.stages_done(lease.worker, lease.id) is None
