"""What would be too much for one event is done in slices, and a journal without idle ticks replays them."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from tradepost.content import add_bytes
from tradepost.protocol import GiveBackReason, JobStatus, Requirements
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, Record
from tradepost_broker.market.model.events import Save, SendGrant, WorkGoesOn, goes_on
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline
from tradepost_signing.policy.revocation import RevocationDocument

LIMIT = 4
JOBS = 30
CHEAP, DEAR = 10, 10**6


@pytest.fixture
def driver() -> MarketDriver:
    """A market with a funded submitter and a pipeline."""
    driver = MarketDriver(policy=MarketPolicy(audit_rate=0.0, jobs_per_event_max=LIMIT))
    driver.fund(amount_microcredits=10**12)
    driver.publish()
    return driver


def changed_jobs(driver: MarketDriver) -> set[str]:
    """The jobs that the last event changed."""
    saved = (one.record for one in driver.answers[-1] if isinstance(one, Save))
    return {record.id for record in saved if isinstance(record, Job)}


def is_more(driver: MarketDriver) -> bool:
    """Whether the last event left work."""
    return goes_on(driver.answers[-1])


def tick_until_done(driver: MarketDriver, *, after_s: float = 0.0) -> int:
    """Ticks until nothing is left, each of which may change `LIMIT` jobs; how many there were."""
    for count in range(1, 1000):
        driver.tick(after_s if count == 1 else 0.02)
        assert len(changed_jobs(driver)) <= 2 * LIMIT
        if not is_more(driver):
            return count
    raise AssertionError("it never ends")


def submit_distinct(driver: MarketDriver, count: int = JOBS, **options: float) -> list[str]:
    """Jobs that all differ, so that each has an outlook of its own."""
    return [
        driver.submit(max_price_microcredits=100_000 + number, **options)  # type: ignore[arg-type]
        for number in range(count)
    ]


def replayed(driver: MarketDriver) -> dict[tuple[type, str], object]:
    """The records that the journal gives."""
    market, records = Market(policy=driver.policy), dict[tuple[type, str], object]()
    for event, _ in driver.journal:
        for one in market.handle(event):
            if isinstance(one, Save):
                records[type(one.record), one.record.id] = one.record
    return records


def test_a_changed_price_is_reviewed_in_slices(driver: MarketDriver) -> None:
    driver.add_worker("w", CHEAP)
    driver.update_offer("w", make_offer(CHEAP, capacity=1))
    jobs = submit_distinct(driver, patience_s=50.0)
    tick_until_done(driver)
    driver.update_offer("w", make_offer(DEAR, capacity=1))
    driver.give_back(driver.open_leases(jobs[0])[0].id)
    ticks = tick_until_done(driver)
    assert ticks >= JOBS / (2 * LIMIT)
    assert all(driver.job(job).unmatched_since is not None for job in jobs)
    driver.check()
    assert replayed(driver) == driver.records


def test_jobs_that_ask_the_same_share_a_look(driver: MarketDriver) -> None:
    driver.add_worker("w", CHEAP)
    driver.update_offer("w", make_offer(CHEAP, capacity=1))
    for _ in range(JOBS):
        driver.submit(patience_s=50.0)
    tick_until_done(driver)
    driver.update_offer("w", make_offer(CHEAP + 1, capacity=1))
    driver.tick()
    assert not is_more(driver), "one look tells of all"


def test_jobs_whose_time_is_over_end_in_slices(driver: MarketDriver) -> None:
    jobs = submit_distinct(driver, deadline_s=10.0, patience_s=100.0)
    tick_until_done(driver)
    tick_until_done(driver, after_s=11.0)
    assert {driver.job(job).status for job in jobs} == {JobStatus.FAILED}
    driver.check()
    assert replayed(driver) == driver.records


def test_an_absent_worker_loses_its_leases_in_slices() -> None:
    policy = MarketPolicy(audit_rate=0.0, jobs_per_event_max=LIMIT, exposure_leases_max=JOBS)
    driver = MarketDriver(policy=policy)
    driver.fund(amount_microcredits=10**12)
    driver.publish()
    driver.join("w")
    driver.connect("w", make_offer(CHEAP, capacity=JOBS))
    submit_distinct(driver, patience_s=500.0)
    tick_until_done(driver)
    assert len(driver.market.open_leases_of("w")) == JOBS
    driver.disconnect("w")
    tick_until_done(driver, after_s=driver.policy.reconnect_s + 1)
    assert driver.market.open_leases_of("w") == []
    driver.check()
    assert replayed(driver) == driver.records


def test_a_restart_looks_at_every_job_in_slices(driver: MarketDriver) -> None:
    jobs = submit_distinct(driver, patience_s=500.0)
    driver.restart()
    driver.join("w")
    driver.connect("w", make_offer(CHEAP, capacity=2))
    tick_until_done(driver)
    assert sum(bool(driver.open_leases(job)) for job in jobs) == 2
    driver.check()


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("seed", [5, 9, 34])
def test_any_journal_replays(seed: int, limit: int) -> None:
    rng = random.Random(seed)
    policy = MarketPolicy(audit_rate=0.3, jobs_per_event_max=limit, retain_s=5.0, hold_s=5.0, reconnect_s=2.0)
    driver = MarketDriver(policy=policy, seed=seed)
    driver.fund(amount_microcredits=10**12)
    driver.publish()
    workers = [f"w{number}" for number in range(5)]
    for number, worker in enumerate(workers):
        driver.add_worker(worker, CHEAP, auditor=number == 0)
    for _ in range(400):
        driver.at += rng.choice((0.0, 0.05, 0.3))
        worker = rng.choice(workers)
        leases = [lease.id for lease in driver.market.open_leases_of(worker)]
        match rng.randrange(9):
            case 0 | 1 | 2:
                driver.submit(
                    max_price_microcredits=rng.randrange(1_000, 50_000),
                    patience_s=rng.choice((1.0, 3.0)),
                    deadline_s=rng.choice((2.0, 9.0)),
                    confidence=rng.choice((0.5, 0.9)),
                )
            case 3:
                driver.connect(worker, make_offer(rng.choice((CHEAP, 300, DEAR)), capacity=4))
            case 4:
                driver.disconnect(worker)
            case 5 if leases:
                driver.deliver(rng.choice(leases), rng.choice(("right", "right", "wrong")))
            case 6 if leases:
                driver.give_back(rng.choice(leases), GiveBackReason.PREEMPTED)
            case _:
                driver.tick(rng.choice((0.0, 0.25)))
    driver.check()
    assert replayed(driver) == driver.records


def test_what_is_quickly_done_needs_no_more_ticks_in_the_journal(driver: MarketDriver) -> None:
    driver.add_worker("w")
    for _ in range(3):
        assert driver.tick(1.0) == []


def test_capacity_is_filled_in_slices(driver: MarketDriver) -> None:
    jobs = submit_distinct(driver, 3 * LIMIT, patience_s=500.0)
    for number in range(3):
        driver.join(f"w{number}")
    driver.connect("w0", make_offer(CHEAP, capacity=4))
    for number in (1, 2):
        driver.connect(f"w{number}", make_offer(CHEAP, capacity=4))
    tick_until_done(driver)
    grants = [sum(isinstance(one, SendGrant) for one in answer) for answer in driver.answers]
    assert max(grants) <= LIMIT
    assert all(driver.open_leases(job) for job in jobs)
    assert replayed(driver) == driver.records


def test_hopeless_jobs_do_not_keep_a_worker_for_ever(driver: MarketDriver) -> None:
    driver.add_worker("dear", DEAR)
    submit_distinct(driver, patience_s=10**5)
    tick_until_done(driver)
    driver.join("w")
    driver.connect("w", make_offer(DEAR, capacity=1))
    tick_until_done(driver)


def test_checks_that_no_auditor_here_can_make_keep_nobody_busy() -> None:
    driver = MarketDriver(policy=MarketPolicy(audit_rate=1.0, jobs_per_event_max=LIMIT))
    driver.fund(amount_microcredits=10**12)
    driver.publish()
    driver.add_worker("w", CHEAP)
    small, large = make_offer(CHEAP), make_offer(CHEAP, memory_bytes=1 << 40)
    driver.add_worker("auditor", auditor=True)
    driver.connect("auditor", large)
    driver.connect("w", large)
    for _ in range(3 * LIMIT):
        job = driver.submit(confidence=0.5, requirements=Requirements(memory_bytes=1 << 39))
        [lease] = [one for one in driver.open_leases(job) if one.purpose is not LeasePurpose.AUDIT]
        driver.deliver(lease.id)
    driver.update_offer("auditor", small)
    for audit in driver.market.open_leases_of("auditor"):
        driver.deliver(audit.id)
    assert len(driver.market.open_leases_of("auditor")) == 0
    assert tick_until_done(driver) <= 3
    assert [driver.tick(0.25) for _ in range(20)] == [[]] * 20
    assert replayed(driver) == driver.records


def test_the_collector_of_garbage_does_not_look_through_records() -> None:
    kinds = get_args(Record)
    assert Job in kinds
    assert not any(kind.__struct_config__.gc for kind in kinds)


def test_earlier_journals_have_no_limit() -> None:
    assert recorded_policy(b"\x80").jobs_per_event_max == 0
    driver = MarketDriver(policy=MarketPolicy(audit_rate=0.0, jobs_per_event_max=0))
    driver.fund(amount_microcredits=10**12)
    driver.publish()
    jobs = submit_distinct(driver, deadline_s=10.0, patience_s=100.0)
    driver.tick(11.0)
    assert {driver.job(job).status for job in jobs} == {JobStatus.FAILED}
    assert not any(isinstance(one, WorkGoesOn) for answer in driver.answers for one in answer)
    driver.check()


def test_what_waits_for_a_receipt_is_not_looked_at_again_at_once(driver: MarketDriver) -> None:
    driver.add_worker("one")
    job = driver.submit(deadline_s=2_000.0)
    [lease] = driver.open_leases(job)
    driver.tick(lease.expires_at + 1 - driver.at, arrived=(lease.id,))
    assert not is_more(driver), "a broker that checks a receipt would tick without end"
    assert driver.open_leases(job) == [lease]
    driver.tick(0.0)
    assert driver.open_leases(job) != [lease]


def test_jobs_of_what_is_revoked_end_in_slices_and_get_no_lease_meanwhile(driver: MarketDriver) -> None:
    pipeline = add_bytes(b"pipeline", put=None)
    driver.publish(make_pipeline(pipeline))
    driver.join("w")
    driver.connect("w", make_offer(CHEAP, capacity=2))
    jobs = [driver.submit(pipeline=pipeline, patience_s=100.0) for _ in range(JOBS)]
    other = driver.submit(patience_s=100.0)
    held = driver.market.open_leases_of("w")
    driver.revoke(RevocationDocument(version=1, issued_at=0, cids={pipeline: "bad"}))
    assert len(changed_jobs(driver)) <= 2 * LIMIT
    driver.add_worker("another", CHEAP)
    driver.deliver(held[-1].id)
    tick_until_done(driver)
    assert {driver.job(job).status for job in jobs} == {JobStatus.FAILED}
    assert {problem.code for job in jobs if (problem := driver.job(job).problem)} == {"revoked"}
    leases = driver.all_of(Lease)
    assert [lease.job for lease in leases if lease not in held] == [other], "nothing revoked was leased"
    driver.check()
    assert replayed(driver) == driver.records


def test_a_list_that_allows_it_again_saves_the_jobs_whose_turn_has_not_come(driver: MarketDriver) -> None:
    pipeline = add_bytes(b"pipeline", put=None)
    driver.publish(make_pipeline(pipeline))
    jobs = [driver.submit(pipeline=pipeline, patience_s=100.0) for _ in range(JOBS)]
    driver.revoke(RevocationDocument(version=1, issued_at=0, cids={pipeline: "bad"}))
    driver.revoke(RevocationDocument(version=2, issued_at=0))
    tick_until_done(driver)
    failed = [job for job in jobs if driver.job(job).status is JobStatus.FAILED]
    assert len(failed) == LIMIT
    assert replayed(driver) == driver.records
