"""Jobs that find nobody: each typed error with its facts and hint, the cap refunded, and patience kept."""

from __future__ import annotations

import pytest

from tradepost.errors import (
    DeadlineExceeded,
    LeaseTimeout,
    Problem,
    RunnerFailed,
    SandboxUnavailable,
    TradepostError,
    UntrustedPipeline,
)
from tradepost.protocol import GiveBackReason, JobStatus, Requirements
from tradepost_broker.market.model.entities import Account
from tradepost_broker.market.model.events import NotifyFinished
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import GIBIBYTE, MarketDriver, make_offer, make_pipeline

FUNDS = 10_000_000


def market_with(*prices: int, **policy: float) -> MarketDriver:
    driver = MarketDriver(policy=MarketPolicy(**{"audit_rate": 0.0, **policy}))
    driver.fund(amount_microcredits=FUNDS)
    driver.publish()
    for number, price in enumerate(prices):
        driver.add_worker(f"w{number}", price)
    return driver


def problem_of(driver: MarketDriver, job: str) -> Problem:
    """The problem that ended the job, whose cap must be refunded and which must owe nobody anything."""
    problem = problem_of_begun(driver, job, paid_microcredits=0)
    assert driver.market.account("credits:alice") == Account(id="credits:alice", available_microcredits=FUNDS)
    return problem


def problem_of_begun(driver: MarketDriver, job: str, *, paid_microcredits: int) -> Problem:
    """The problem that ended a job which has paid so much for what it had begun."""
    ended = driver.job(job)
    assert ended.status is JobStatus.FAILED
    assert ended.problem is not None
    assert (ended.paid_microcredits, ended.committed_microcredits) == (paid_microcredits, 0)
    driver.check()
    return ended.problem


def outlast_patience(driver: MarketDriver, job: str) -> Problem:
    """Let the job's patience end, but not before."""
    driver.tick(4.9)
    assert driver.job(job).status is JobStatus.QUEUED
    driver.tick(0.2)
    assert driver.told() == [NotifyFinished(job)]
    return problem_of(driver, job)


# Price


def test_a_cap_below_every_offer() -> None:
    driver = market_with(12, 15)
    job = driver.submit(max_price_microcredits=1_000, confidence=0.75)
    assert driver.job(job).unmatched_since == driver.at
    problem = outlast_patience(driver, job)
    assert problem.code == "price-cap-too-low"
    assert problem.facts == {
        "lowest_total_microcredits": 1200,
        "cap_microcredits": 1000,
        "results_needed": 1,
    }
    assert (
        problem.detail
        == "1 result would cost 0.0012 credits at the standing prices; the cap is 0.001 credits"
    )
    assert problem.hint == "max_price 0.0012 credits would match."


def test_a_cap_that_pays_for_less_confidence() -> None:
    driver = market_with(10, 12, 15, 20)
    job = driver.submit(max_price_microcredits=2_400, confidence=0.95)
    problem = outlast_patience(driver, job)
    assert problem.code == "price-cap-too-low"
    assert problem.facts["results_needed"] == 3
    assert problem.facts["lowest_total_microcredits"] == 4500
    assert problem.hint == (
        "max_price 0.0045 credits would match; confidence 0.941 would match too; it needs 2 results."
    )
    for cap, confidence in ((4_500, 0.95), (2_400, 0.941)):
        promised = driver.submit(max_price_microcredits=cap, confidence=confidence)
        while driver.open_leases(promised):
            driver.deliver(driver.open_leases(promised)[0].id)
        assert driver.job(promised).status is JobStatus.ACCEPTED


def test_a_cap_that_pays_for_the_first_results_only_starts_nothing() -> None:
    driver = market_with(10, 10, 50)
    job = driver.submit(max_price_microcredits=4_500, confidence=0.95)
    assert driver.open_leases(job) == [], "the third result would cost more than a third of the cap"
    problem = outlast_patience(driver, job)
    assert problem.code == "price-cap-too-low"
    assert problem.facts["lowest_total_microcredits"] == 15_000


def test_a_cheaper_offer_in_time_is_taken() -> None:
    driver = market_with(12)
    job = driver.submit(max_price_microcredits=1_000)
    driver.tick(4.0)
    driver.update_offer("w0", make_offer(10))
    assert len(driver.open_leases(job)) == 1
    assert driver.job(job).unmatched_since is None
    driver.tick(4.0)
    assert driver.job(job).status is JobStatus.RUNNING


# Capability


def test_nobody_offers_anything() -> None:
    driver = market_with()
    problem = outlast_patience(driver, driver.submit())
    assert problem.code == "no-eligible-worker"
    assert problem.detail == "0 standing offers"
    assert "connect a worker" in problem.hint


def test_no_worker_has_the_capability() -> None:
    driver = market_with()
    driver.publish(make_pipeline("gpu", providers=("cuda", "tensorrt"), memory_bytes=6 * GIBIBYTE))
    for number, offer in enumerate(
        [
            make_offer(),
            make_offer(),
            make_offer(providers=("cuda",), memory_bytes=2 * GIBIBYTE),
            make_offer(providers=("cuda",), memory_bytes=5 * GIBIBYTE),
            make_offer(providers=("cuda",)),
        ]
    ):
        driver.join(f"w{number}")
        driver.connect(f"w{number}", offer)
    job = driver.submit(pipeline="gpu", requirements=Requirements(isolation=("seccomp",)))
    problem = outlast_patience(driver, job)
    assert problem.code == "no-eligible-worker"
    assert problem.detail == (
        "5 standing offers: 2 without cuda or tensorrt; 1 with too little memory (6 GiB needed); "
        "2 without the isolation (seccomp)"
    )
    assert problem.facts == {
        "offers": 5,
        "lack_provider": 2,
        "lack_memory": 1,
        "lack_isolation": 2,
        "refused": 0,
        "engine_too_old": 0,
    }
    assert problem.hint == "Without the requirement on isolation, 2 offers would match."


def test_workers_of_the_right_size_class_may_still_lack_memory() -> None:
    driver = market_with()
    driver.join("w0")
    driver.connect("w0", make_offer(memory_bytes=5 * GIBIBYTE))
    job = driver.submit(requirements=Requirements(memory_bytes=6 * GIBIBYTE))
    problem = outlast_patience(driver, job)
    assert problem.facts["lack_memory"] == 1
    assert "1 with too little memory (6 GiB needed)" in problem.detail


def test_too_few_owners_for_the_confidence() -> None:
    driver = market_with(10, 10)
    driver.add_worker("twin", owner="w0")
    job = driver.submit(confidence=0.95)
    assert driver.open_leases(job) == [], "no work is wasted on what cannot be confirmed"
    problem = outlast_patience(driver, job)
    assert problem.code == "no-eligible-worker"
    assert "2 owners could run it, and confidence 0.95 needs 3 results of different owners" in problem.detail
    assert problem.hint == "Confidence 0.941 needs 2 results; or wait for more owners."


def test_a_third_owner_in_time_starts_the_job() -> None:
    driver = market_with(10, 10)
    job = driver.submit(confidence=0.95)
    driver.tick(3.0)
    driver.add_worker("w2")
    assert len(driver.open_leases(job)) == 3


def test_more_confidence_than_policy_can_reach() -> None:
    driver = market_with(*[10] * 12)
    problem = outlast_patience(driver, driver.submit(confidence=0.999999))
    assert "needs 10 results of different owners, but the market leases at most 9" in problem.detail
    assert problem.hint.startswith("Confidence 0.999 needs 9 results")


# Trust


def refuse_all(driver: MarketDriver, job: str, problem: Problem) -> None:
    while driver.open_leases(job):
        driver.give_back(driver.open_leases(job)[0].id, GiveBackReason.REFUSED, problem)


def test_every_worker_refuses_the_publisher() -> None:
    driver = market_with(10, 10)
    job = driver.submit()
    refuse_all(driver, job, UntrustedPipeline("unknown publisher").to_problem())
    problem = outlast_patience(driver, job)
    assert problem.code == "untrusted-pipeline"
    assert problem.facts == {"workers": 2, "publishers": ["publisher"]}
    assert driver.job(job).failures == 0


def test_every_worker_refuses_for_another_reason() -> None:
    driver = market_with(10, 10)
    job = driver.submit()
    refuse_all(driver, job, SandboxUnavailable("no seccomp here").to_problem())
    problem = outlast_patience(driver, job)
    assert problem.code == "no-eligible-worker"
    assert problem.facts["refused"] == 2
    assert "2 refused the pipeline (This device cannot provide the required isolation. no seccomp here)" in (
        problem.detail
    )


def test_one_that_refuses_does_not_stop_the_others() -> None:
    driver = market_with(10, 20)
    job = driver.submit()
    driver.give_back(f"{job}.1", GiveBackReason.REFUSED, UntrustedPipeline("no").to_problem())
    driver.deliver(f"{job}.2")
    assert driver.job(job).status is JobStatus.ACCEPTED


# Workers that go


def test_a_job_whose_leases_are_all_lost() -> None:
    driver = market_with(10, 10, attempts_max=3)
    job = driver.submit()
    for _ in range(3):
        assert driver.job(job).status is JobStatus.RUNNING
        driver.give_back(driver.open_leases(job)[0].id)
    problem = problem_of(driver, job)
    assert problem.code == "worker-lost"
    assert problem.detail == "3 leases were lost; the cause of 3 of them: the device failed"
    assert problem.facts == {"leases_lost": 3}


LATE = DeadlineExceeded("the lease expired before the broker sent it")


@pytest.mark.parametrize(
    ("causes", "code", "fault", "named"),
    [
        ([LeaseTimeout("60 s"), LeaseTimeout("60 s"), LATE], "lease-timeout", "publisher", "2 of them: 60 s"),
        ([LATE, LeaseTimeout("60 s"), LATE], "deadline-exceeded", "market", "2 of them: the lease expired"),
        (
            [LATE, RunnerFailed("crashed"), RunnerFailed("crashed")],
            "worker-lost",
            "worker",
            "2 of them: crash",
        ),
        (
            [RunnerFailed("crashed"), LATE, LeaseTimeout("60 s")],
            "lease-timeout",
            "publisher",
            "1 of them: 60",
        ),
    ],
)
def test_lost_leases_are_blamed_on_their_most_frequent_cause(
    causes: list[TradepostError], code: str, fault: str, named: str
) -> None:
    for lost_by_cause in (True, False):
        driver = market_with(10, 10, attempts_max=3, lost_by_cause=lost_by_cause)
        job = driver.submit()
        for cause in causes:
            lease = driver.open_leases(job)[0].id
            driver.give_back(lease, GiveBackReason.FAILED, cause.to_problem())
        problem = problem_of(driver, job)
        expected = (code, fault) if lost_by_cause else ("worker-lost", "worker")
        assert (problem.code, problem.fault) == expected
        assert f"3 leases were lost; the cause of {named}" in problem.detail
        assert problem.facts == {"leases_lost": 3}


def test_a_job_whose_only_worker_left_after_losing_it() -> None:
    driver = market_with(10)
    job = driver.submit()
    driver.update_offer("w0", make_offer(10, capacity=0))
    driver.give_back(f"{job}.1", GiveBackReason.PREEMPTED)
    assert outlast_patience(driver, job).code == "worker-lost"


# Time


def test_while_all_are_busy_a_job_waits_until_its_deadline() -> None:
    driver = market_with()
    driver.publish(make_pipeline("slow", wall_s=1_000.0))
    driver.join("w0")
    driver.connect("w0", make_offer(capacity=1))
    running = driver.submit(pipeline="slow", deadline_s=1_000.0)
    waiting = driver.submit(deadline_s=60.0)
    driver.tick(59.0)
    assert driver.job(waiting).status is JobStatus.QUEUED
    assert driver.job(waiting).unmatched_since is None
    driver.tick(1.0)
    ended = driver.job(waiting)
    assert ended.problem is not None
    assert ended.problem.code == "deadline-exceeded"
    assert ended.problem.detail == "after 60 s no worker had free capacity"
    assert driver.job(running).status is JobStatus.RUNNING
    driver.check()


def test_a_deadline_recalls_what_is_open() -> None:
    driver = market_with(10, 10, 10)
    job = driver.submit(confidence=0.95, deadline_s=20.0)
    first = driver.open_leases(job)[0]
    driver.deliver(first.id)
    driver.tick(20.0)
    problem = problem_of_begun(driver, job, paid_microcredits=first.price_microcredits // 10)
    assert problem.code == "deadline-exceeded"
    assert problem.facts == {"results": 1, "open_leases": 2}
    assert {lease.state.value for lease in driver.market.leases_of(job)} == {"inconclusive", "recalled"}


def test_a_busy_market_that_empties_leaves_nobody_to_wait_for() -> None:
    driver = market_with()
    driver.join("w0")
    driver.connect("w0", make_offer(capacity=1))
    running = driver.submit()
    jobs = [driver.submit() for _ in range(3)]
    assert all(driver.job(job).unmatched_since is None for job in jobs)
    driver.disconnect("w0")
    driver.tick(1.0)
    assert all(driver.job(job).unmatched_since == driver.at for job in jobs)
    driver.tick(5.0)
    assert {driver.job(job).problem.code for job in jobs} == {"no-eligible-worker"}
    assert driver.job(running).status is JobStatus.RUNNING, "its worker may come back with the result"
    driver.check()


def test_no_patience_fails_at_once() -> None:
    driver = market_with()
    job = driver.submit(patience_s=0.0)
    assert problem_of(driver, job).code == "no-eligible-worker"


def test_a_queue_of_hopeless_jobs_does_not_hold_up_the_others() -> None:
    driver = market_with(rematches_max=3)
    hopeless = [
        driver.submit(confidence=0.95, max_price_microcredits=50_000 + number) for number in range(10)
    ]
    plain = driver.submit(confidence=0.75)
    driver.add_worker("w0")
    assert driver.open_leases(plain) == [], "three got no worker, and an event tries no more than that"
    driver.tick()
    assert len(driver.open_leases(plain)) == 1
    later = [driver.submit(confidence=0.75) for _ in range(3)]
    for job in (plain, *later):
        driver.deliver(driver.open_leases(job)[0].id)
    assert {driver.job(job).status for job in (plain, *later)} == {JobStatus.ACCEPTED}
    driver.tick(5.0)
    assert {driver.job(job).problem.code for job in hopeless} == {"no-eligible-worker"}
    driver.check()


# No agreement


@pytest.mark.parametrize("leaves", [True, False])
def test_results_that_nobody_can_confirm(leaves: bool) -> None:
    driver = market_with(10, 10, 10)
    job = driver.submit(confidence=0.95)
    first, second, third = driver.open_leases(job)
    driver.deliver(first.id)
    driver.deliver(second.id)
    if leaves:
        driver.disconnect(third.worker)
        driver.tick(30.0)
    else:
        driver.update_offer(third.worker, make_offer(10_000))
        driver.give_back(third.id)
    assert driver.job(job).unmatched_since == driver.at
    driver.tick(5.0)
    problem = problem_of(driver, job)
    assert problem.code == "not-verified"
    assert problem.facts["results"] == 2
    expected = "no worker of another owner" if leaves else "is too little for another result"
    assert expected in problem.detail


def test_patience_does_not_run_while_leases_are_open() -> None:
    driver = market_with(10, 10, 10)
    job = driver.submit(confidence=0.95)
    first, second, third = driver.open_leases(job)
    driver.disconnect(third.worker)
    driver.update_offer(first.worker, make_offer(10, capacity=0))
    driver.deliver(first.id)
    driver.tick(19.0)
    assert driver.job(job).unmatched_since is None
    assert driver.market.lease(second.id).state == "open"
