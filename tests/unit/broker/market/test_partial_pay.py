"""What owners broke off is paid by stage where a result confirms it, and breaking off gains nothing."""

from __future__ import annotations

import pytest

from tradepost.errors import KernelTrap
from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.market.ledger import Kind, earned_of, held_of
from tradepost_broker.market.model.entities import Evidence, Lease, LeasePurpose, LeaseState, Transfer
from tradepost_broker.market.model.events import SendSettled
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer

STAGES = (("decode", "d1"), ("infer", "i1"), ("pick", "p1"))
#: Decoding takes a tenth of the time, the model six tenths.
WALL_US = (100, 600, 300)
WITHDRAWN = make_offer(capacity=0)


def market(
    *workers: str, audit_rate: float = 0.0, auditor: bool = False, owners: dict[str, str] | None = None
) -> MarketDriver:
    """Workers at a price of 1,000 for a job, each its own owner's unless `owners` says otherwise."""
    driver = MarketDriver(policy=MarketPolicy(audit_rate=audit_rate, references_to_expel=1))
    driver.fund(amount_microcredits=10_000_000)
    driver.publish()
    if auditor:
        driver.add_worker("auditor", auditor=True)
    for worker in workers:
        driver.add_worker(worker, owner=(owners or {}).get(worker, ""))
    return driver


def the_open_lease(driver: MarketDriver, job: str) -> Lease:
    [lease] = [one for one in driver.open_leases(job) if one.purpose is not LeasePurpose.AUDIT]
    return lease


def preempt(driver: MarketDriver, job: str, stages: tuple[tuple[str, str], ...] = STAGES[:2]) -> Lease:
    """Have the job's only open lease broken off after these stages, by an owner who wants the device."""
    lease = the_open_lease(driver, job)
    driver.update_offer(lease.worker, WITHDRAWN)
    driver.give_back(lease.id, GiveBackReason.PREEMPTED, stages=stages)
    return driver.of(Lease, lease.id)


def finish(
    driver: MarketDriver,
    job: str,
    *,
    stages: tuple[tuple[str, str], ...] = STAGES,
    wall_us: tuple[int, ...] = WALL_US,
) -> Lease:
    """Have the job's only open lease deliver a result with these stages."""
    lease = the_open_lease(driver, job)
    driver.deliver(lease.id, "right", stages=stages, wall_us=wall_us)
    return driver.of(Lease, lease.id)


def settled(driver: MarketDriver, lease: Lease) -> tuple[str, int, str]:
    """The last that its worker was told of a lease: verdict, microcredits, reason."""
    told = [one for answer in driver.answers for one in answer if isinstance(one, SendSettled)]
    last = [one for one in told if one.lease == lease.id][-1]
    return last.verdict, last.earned_microcredits, last.reason


def paid(driver: MarketDriver, lease: Lease) -> int:
    driver.check()
    return driver.of(Lease, lease.id).paid_microcredits


def test_verified_stages_are_paid_by_the_time_that_they_took_the_other_worker() -> None:
    driver = market("a", "b", "c")
    job = driver.submit()
    broken_off = preempt(driver, job)
    result = finish(driver, job)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert broken_off.state is LeaseState.PREEMPTED
    amount = broken_off.price_microcredits * 700 // 1000
    assert settled(driver, broken_off) == (
        "preempted",
        amount,
        "2 of 3 stages, verified; preempted by owner",
    )
    assert (
        driver.job(job).paid_microcredits
        == result.price_microcredits + amount
        <= driver.job(job).max_price_microcredits
    )
    assert driver.market.account(held_of(broken_off.worker)).available_microcredits == amount
    assert [transfer.kind for transfer in driver.all_of(Transfer)].count(Kind.PAY_STAGES) == 1
    assert driver.all_of(Evidence) == [], "neither good nor bad"
    driver.check()


def test_it_matures_like_any_payment_and_survives_a_restart() -> None:
    driver = market("a", "b")
    job = driver.submit()
    broken_off = preempt(driver, job)
    driver.restart()
    driver.connect("b")
    driver.tick()
    finish(driver, job)
    amount = paid(driver, broken_off)
    driver.restart()
    driver.tick(driver.policy.hold_s)
    assert driver.market.account(earned_of(broken_off.worker)).available_microcredits == amount > 0
    driver.check()


@pytest.mark.parametrize(
    ("stages", "share"),
    [
        ((("decode", "d1"),), 100),
        ((("decode", "d1"), ("infer", "i1")), 700),
        ((("decode", "d1"), ("infer", "made up")), 100),
        ((("decode", "made up"), ("infer", "i1")), 0),
        ((), 0),
    ],
    ids=["one", "two", "second-unlike", "first-unlike", "none"],
)
def test_only_stages_from_the_first_on_that_are_the_results_are_paid(
    stages: tuple[tuple[str, str], ...], share: int
) -> None:
    driver = market("a", "b")
    job = driver.submit()
    broken_off = preempt(driver, job, stages)
    finish(driver, job)
    assert paid(driver, broken_off) == broken_off.price_microcredits * share // 1000
    assert driver.all_of(Evidence) == []


def test_who_is_paid_nothing_is_told_why() -> None:
    driver = market("a", "b")
    job = driver.submit()
    broken_off = preempt(driver, job, (("decode", "made up"),))
    finish(driver, job)
    verdict, amount, reason = settled(driver, broken_off)
    assert (verdict, amount) == ("preempted", 0)
    assert "no result of another owner verified its stages" in reason


def test_without_another_workers_clock_nothing_is_paid() -> None:
    for wall_us in ((), (0, 0, 0)):
        driver = market("a", "b")
        job = driver.submit()
        broken_off = preempt(driver, job)
        finish(driver, job, wall_us=wall_us)
        assert paid(driver, broken_off) == 0


def test_of_several_clocks_the_least_counts() -> None:
    driver = market("a", "b", "c", "d")
    job = driver.submit(confidence=0.9)
    first, second = driver.open_leases(job)
    driver.update_offer(first.worker, WITHDRAWN)
    driver.give_back(first.id, GiveBackReason.PREEMPTED, stages=STAGES[:1])
    [third] = [lease for lease in driver.open_leases(job) if lease.id != second.id]
    driver.deliver(second.id, "right", stages=STAGES, wall_us=(900, 50, 50))
    driver.deliver(third.id, "right", stages=STAGES, wall_us=WALL_US)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert paid(driver, first) == first.price_microcredits * 100 // 1000


# Breaking off gains nothing


def test_an_owner_does_not_hand_its_own_work_on_to_itself() -> None:
    driver = market("a", "b", owners={"a": "ring", "b": "ring"})
    job = driver.submit()
    broken_off = preempt(driver, job)
    result = finish(driver, job)
    assert result.worker != broken_off.worker
    assert paid(driver, broken_off) == 0
    assert driver.job(job).paid_microcredits == result.price_microcredits


def test_a_worker_that_takes_the_job_again_is_paid_once() -> None:
    driver = market("a")
    job = driver.submit()
    preempt(driver, job, STAGES[:1])
    driver.connect("a", make_offer())
    driver.tick()
    again = preempt(driver, job, STAGES[:2])
    driver.add_worker("b")
    driver.tick()
    finish(driver, job)
    first, second, _ = driver.market.leases_of(job)
    assert (first.worker, again.id) == ("a", second.id)
    assert (first.paid_microcredits, paid(driver, second) > 0) == (0, True), "for the one that got furthest"


def test_a_ring_of_owners_is_paid_no_more_than_one_result_more() -> None:
    driver = market("a", "b", "c", "d", "e")
    job = driver.submit()
    ring = []
    for _ in range(3):
        ring.append(the_open_lease(driver, job))
        driver.give_back(ring[-1].id, GiveBackReason.PREEMPTED, stages=STAGES[:2])
    result = finish(driver, job)
    assert sum(lease.price_microcredits * 700 // 1000 for lease in ring) > 2 * result.price_microcredits
    assert sum(paid(driver, lease) for lease in ring) == result.paid_microcredits


def test_a_bidder_alone_leaves_half_of_what_the_last_one_was_promised() -> None:
    driver = market("a")
    job = driver.submit(max_price_microcredits=100_000)
    broken_off = preempt(driver, job)
    driver.add_worker("b")
    driver.tick()
    result = finish(driver, job)
    assert broken_off.price_microcredits > 90_000, "alone, it was promised nearly all of the cap"
    assert result.price_microcredits == 100_000 - broken_off.price_microcredits // 2
    assert paid(driver, broken_off) == broken_off.price_microcredits // 2
    assert driver.job(job).paid_microcredits == 100_000


def test_a_bidder_that_asks_all_of_the_cap_leaves_nothing() -> None:
    driver = market("a", "b")
    job = driver.submit(max_price_microcredits=1_000)
    broken_off = preempt(driver, job)
    result = finish(driver, job)
    assert (result.paid_microcredits, paid(driver, broken_off)) == (1_000, 0)


# What is not verified


def test_a_job_without_a_result_pays_nothing() -> None:
    driver = market("a", "b")
    cancelled = driver.submit()
    first = preempt(driver, cancelled)
    driver.cancel(cancelled)
    assert paid(driver, first) == 0
    assert settled(driver, first)[1] == 0


def test_a_stage_failure_says_nothing_of_its_own_time_so_nothing_is_shared() -> None:
    driver = market("a", "b", "c")
    job = driver.submit()
    broken_off = preempt(driver, job, STAGES[:1])
    problem = KernelTrap("out of bounds", stage="infer").to_problem()
    for _ in range(2):  # a failure is confirmed before it counts
        lease = the_open_lease(driver, job)
        driver.deliver(lease.id, "failed:infer:kernel-trap", stages=STAGES[:1], problem=problem)
    assert driver.job(job).status is JobStatus.FAILED
    assert paid(driver, broken_off) == 0


def test_when_only_the_reference_is_right_the_submitter_pays_nothing() -> None:
    driver = market("a", "b", "c", auditor=True)
    job = driver.submit(confidence=0.9)
    first, second = driver.open_leases(job)
    driver.update_offer(first.worker, WITHDRAWN)
    driver.give_back(first.id, GiveBackReason.PREEMPTED, stages=STAGES[:2])
    [third] = [lease for lease in driver.open_leases(job) if lease.id != second.id]
    driver.deliver(second.id, "wrong")
    driver.deliver(third.id, "wrong otherwise")
    [audit] = driver.open_leases(job)
    driver.deliver(audit.id, "right", stages=STAGES, wall_us=WALL_US)
    assert driver.job(job).status is JobStatus.ACCEPTED
    assert (driver.job(job).paid_microcredits, paid(driver, first)) == (0, 0)


@pytest.mark.parametrize(
    ("reference", "kept"),
    [(STAGES, True), ((("decode", "d1"), ("infer", "other"), ("pick", "other")), False)],
    ids=["confirmed", "contradicted"],
)
def test_a_spot_check_takes_back_what_only_wrong_results_confirmed(
    reference: tuple[tuple[str, str], ...], kept: bool
) -> None:
    driver = market("a", "b", audit_rate=1.0, auditor=True)
    job = driver.submit()
    broken_off = preempt(driver, job)
    finish(driver, job)
    before = paid(driver, broken_off)
    [audit] = driver.open_leases(job)
    driver.deliver(audit.id, "otherwise", stages=reference, wall_us=WALL_US)
    assert paid(driver, broken_off) == (before if kept else 0)
    assert before > 0
    assert driver.job(job).paid_microcredits == paid(driver, broken_off)
    if not kept:
        assert "does not confirm its stages" in settled(driver, broken_off)[2]


def test_a_worker_that_was_expelled_meanwhile_is_paid_nothing() -> None:
    driver = market("a", audit_rate=1.0, auditor=True)
    fraud = driver.submit()
    job = driver.submit()
    broken_off = preempt(driver, job)
    driver.deliver(the_open_lease(driver, fraud).id, "wrong")
    [audit] = driver.open_leases(fraud)
    driver.deliver(audit.id, "right")
    assert driver.market.worker("a").standing == "expelled"
    driver.add_worker("b")
    driver.tick()
    finish(driver, job)
    assert paid(driver, broken_off) == 0


def test_a_late_or_repeated_report_changes_nothing() -> None:
    driver = market("a", "b")
    job = driver.submit()
    broken_off = preempt(driver, job, (("decode", "made up"),))
    driver.give_back(broken_off.id, GiveBackReason.PREEMPTED, stages=STAGES[:2])
    finish(driver, job)
    driver.give_back(broken_off.id, GiveBackReason.PREEMPTED, stages=STAGES[:2])
    assert paid(driver, broken_off) == 0


def test_only_preemption_is_paid() -> None:
    driver = market("a", "b")
    job = driver.submit()
    lease = the_open_lease(driver, job)
    driver.give_back(lease.id, GiveBackReason.FAILED, stages=STAGES[:2])
    finish(driver, job)
    assert paid(driver, lease) == 0
