"""Lost leases never exhaust a job while a worker is idle that has not tried it and could do it.

Hostile owners with any number of devices underbid, and end their leases in every way that there is, in any
order. Honest workers of other owners stand by.
"""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from past_checks import add_past_checks
from tradepost.protocol import GiveBackReason, JobStatus
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, Worker
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import MarketDriver, make_offer

#: Searches are short here, so that a few devices hide all others as many do in a large market.
POLICY = MarketPolicy(audit_rate=0.0, scan_max=6, candidates_max=4, proven_checks=1.0)
HONEST = 4

owners = st.integers(0, POLICY.attempts_max - 2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from([0.5, 0.75, 0.95])),
        st.tuples(st.just("give back"), st.sampled_from(GiveBackReason)),
        st.tuples(st.just("give back"), st.just(GiveBackReason.FAILED)),
        st.tuples(st.just("give back"), st.just(GiveBackReason.EXHAUSTED)),
        st.tuples(st.just("tick"), st.sampled_from([0.1, 3.0, 20.0, 70.0])),
        st.tuples(st.just("disconnect"), owners),
        st.tuples(st.just("connect"), owners),
        st.tuples(st.just("deliver"), st.just(None)),
    ),
    max_size=40,
)


def market(devices: int, hostile_owners: int, *, prove: bool = False) -> MarketDriver:
    """Honest workers, and underbidders with so many devices each. `prove` makes the honest proven first."""
    driver = MarketDriver(policy=POLICY)
    driver.fund(amount_microcredits=1_000_000_000)
    driver.publish()
    for number in range(HONEST):
        driver.add_worker(f"honest{number}", 20)
    for _ in range(20 if prove else 0):
        job = driver.submit(confidence=0.95)
        while leases := driver.open_leases(job):
            driver.deliver(leases[0].id)
    for owner in range(hostile_owners):
        for device in range(devices):
            driver.add_worker(f"hostile{owner}-{device}", 1, owner=f"hostile{owner}")
    return driver


def hostile_lease(driver: MarketDriver) -> Lease | None:
    """The first open lease of a hostile worker that is connected."""
    return next(
        (
            lease
            for lease in driver.all_of(Lease)
            if lease.state == "open"
            and lease.worker.startswith("hostile")
            and driver.market.is_connected(lease.worker)
        ),
        None,
    )


def check(driver: MarketDriver) -> None:
    """No job ran out of attempts while an idle honest worker had not tried it."""
    for job in driver.all_of(Job):
        if job.problem is None or job.problem.code != "worker-lost":
            continue
        tried = {lease.worker for lease in driver.all_of(Lease) if lease.job == job.id}
        idle = {
            worker.id
            for worker in driver.all_of(Worker)
            if worker.id.startswith("honest")
            and driver.market.is_connected(worker.id)
            and not driver.market.open_leases_of(worker.id)
        }
        assert idle <= tried, f"{job.id} ended although {idle - tried} were idle"


def take(driver: MarketDriver, step: str, argument: object, devices: int) -> None:
    """Let one thing happen; the honest deliver what they have after it."""
    match step:
        case "submit":
            driver.submit(confidence=argument, deadline_s=1_000.0)  # type: ignore[arg-type]
        case "give back" if (lease := hostile_lease(driver)) is not None:
            driver.give_back(lease.id, argument)  # type: ignore[arg-type]
        case "deliver" if (lease := hostile_lease(driver)) is not None:
            driver.deliver(lease.id, "right")
        case "tick":
            driver.tick(argument)  # type: ignore[arg-type]
        case "disconnect" | "connect":
            for device in range(devices):
                worker = f"hostile{argument}-{device}"
                if step == "connect":
                    driver.connect(worker, make_offer(1))
                else:
                    driver.disconnect(worker)
        case _:
            pass
    check(driver)
    for lease in driver.all_of(Lease):
        if lease.state == "open" and lease.worker.startswith("honest"):
            driver.deliver(lease.id, "right")
            check(driver)


@given(devices=st.integers(1, 9), happens=steps)
@settings(max_examples=150, deadline=None)
def test_a_few_owners_exhaust_no_job_whatever_they_do(
    devices: int, happens: list[tuple[str, object]]
) -> None:
    driver = market(devices, POLICY.attempts_max - 1)
    for step, argument in happens:
        take(driver, step, argument, devices)
    driver.check()


def test_an_owner_with_more_devices_than_a_search_looks_at_hides_nobody() -> None:
    driver = market(2 * POLICY.scan_max, 1)
    for _ in range(20):
        job = driver.submit(confidence=0.5)
        while lease := hostile_lease(driver):
            driver.give_back(lease.id, GiveBackReason.FAILED)
        for lease in driver.open_leases(job):
            driver.deliver(lease.id)
        assert driver.job(job).status is JobStatus.ACCEPTED
        assert driver.job(job).failures <= 1
        assert (
            max(driver.of(Lease, accepted).price_microcredits for accepted in driver.job(job).accepted)
            <= 3 * 20 * driver.job(job).units
        ), "the cap is not the price of a hidden market"
    driver.check()


def test_busy_workers_that_a_search_does_not_reach_are_waited_for() -> None:
    driver = market(2 * POLICY.scan_max, 1)
    for number in range(HONEST):
        driver.update_offer(f"honest{number}", make_offer(20, capacity=1))
    busy = [driver.submit(confidence=0.5) for _ in range(30)]
    job = driver.submit(confidence=0.5)
    while lease := hostile_lease(driver):
        driver.give_back(lease.id, GiveBackReason.FAILED)
    for _ in range(40):
        for lease in driver.all_of(Lease):
            if lease.state == "open" and lease.worker.startswith("honest"):
                driver.deliver(lease.id)
    assert {driver.job(one).status for one in (*busy, job)} == {JobStatus.ACCEPTED}
    driver.check()


def test_any_number_of_unproven_owners_exhausts_no_job_that_a_proven_worker_could_do() -> None:
    driver = market(1, 3 * POLICY.attempts_max, prove=True)
    for reason in (GiveBackReason.FAILED, GiveBackReason.EXHAUSTED, GiveBackReason.PREEMPTED):
        job = driver.submit(confidence=0.5)
        while lease := hostile_lease(driver):
            driver.give_back(lease.id, reason)
        for lease in driver.open_leases(job):
            assert lease.worker.startswith("honest")
            driver.deliver(lease.id)
        assert driver.job(job).status is JobStatus.ACCEPTED
    driver.check()


def test_what_two_proven_workers_lose_as_well_ends() -> None:
    """A job that breaks devices must not be taken to all of them."""
    driver = market(1, 3 * POLICY.attempts_max, prove=True)
    job = driver.submit(confidence=0.5)
    while leases := driver.open_leases(job):
        driver.give_back(leases[0].id, GiveBackReason.FAILED)
    assert driver.job(job).status is JobStatus.FAILED
    honest = [
        lease
        for lease in driver.all_of(Lease)
        if lease.job == job and lease.worker.startswith("honest") and lease.purpose is LeasePurpose.AUCTION
    ]
    assert len(honest) == 2
    driver.check()


# Only proven workers are left, and they ask too much


def market_of_dear_proven(
    policy: MarketPolicy = POLICY, *, price: int = 50, is_busy: bool = False
) -> tuple[MarketDriver, str]:
    """A market in which a job with a cap of 2,000 was lost by as many unproven owners as may lose it.

    One proven owner has not tried it; at `price`, its bid is a hundred times that.
    """
    driver = MarketDriver(policy=policy)
    driver.fund()
    driver.publish()
    driver.join("dear")
    add_past_checks(driver, "dear", 1, checks=9.0)
    driver.restart()
    driver.connect("dear", make_offer(price, capacity=1))
    driver.tick(60.0)
    if is_busy:
        driver.submit(confidence=0.5, deadline_s=1_000.0)
    for number in range(policy.attempts_max + 1):
        driver.add_worker(f"cheap{number}", 1)
    job = driver.submit(confidence=0.5, max_price_microcredits=2_000)
    for _ in range(policy.attempts_max):
        [lease] = driver.open_leases(job)
        driver.give_back(lease.id)
    assert driver.open_leases(job) == []
    return driver, job


def test_a_job_that_only_too_dear_proven_workers_could_do_does_not_outlive_its_patience() -> None:
    driver, job = market_of_dear_proven()
    assert driver.job(job).unmatched_since == driver.at
    driver.tick(4.9)
    assert driver.job(job).status is JobStatus.QUEUED, "a cheaper offer may come"
    driver.tick(0.2)
    ended = driver.job(job)
    assert ended.status is JobStatus.FAILED
    assert ended.problem is not None
    assert ended.problem.code == "worker-lost"
    assert ended.problem.facts == {"leases_lost": POLICY.attempts_max}
    driver.check()


def test_a_proven_worker_that_asks_less_in_time_gets_the_job() -> None:
    driver, job = market_of_dear_proven()
    driver.tick(4.0)
    driver.update_offer("dear", make_offer(20))
    driver.tick(4.0)
    [lease] = driver.open_leases(job)
    assert lease.worker == "dear"
    assert driver.job(job).unmatched_since is None
    driver.deliver(lease.id)
    assert driver.job(job).status is JobStatus.ACCEPTED
    driver.check()


def test_a_proven_worker_that_is_busy_is_waited_for() -> None:
    driver, job = market_of_dear_proven(price=20, is_busy=True)
    driver.tick(6.0)
    assert driver.job(job).unmatched_since is None
    [other] = driver.market.open_leases_of("dear")
    driver.deliver(other.id)
    [lease] = driver.open_leases(job)
    assert lease.worker == "dear"
    driver.check()


def test_journals_from_before_are_replayed_by_their_rule() -> None:
    earlier = recorded_policy(msgspec.msgpack.encode({"audit_rate": 0.0}))
    assert earlier.proven_price_counts is False
    driver, job = market_of_dear_proven(msgspec.structs.replace(POLICY, proven_price_counts=False))
    driver.tick(200.0)
    assert driver.job(job).status is JobStatus.QUEUED
    driver.check()
