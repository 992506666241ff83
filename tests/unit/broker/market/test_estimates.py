"""An estimate is what then happens: same cap, same verdict, same words; and asking changes nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from past_checks import add_past_checks
from tradepost.errors import PipelineQuarantined, TradepostError, UnknownPipeline
from tradepost.protocol import EstimateView, GiveBackReason, JobStatus, Offer, Requirements
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import GIBIBYTE, MarketDriver, make_offer, make_pipeline

FUNDS = 10**9
#: Few candidates, so that some offers are beyond them; searches that no market here is too large for.
POLICY = MarketPolicy(audit_rate=0.0, candidates_max=4, scan_max=256, results_max=5, draw_owners_min=3)

requirements = st.builds(
    Requirements,
    memory_bytes=st.sampled_from([0, 0, 0, 5 * GIBIBYTE]),
    isolation=st.sampled_from([(), (), (), ("seccomp",)]),
)
confidences = st.sampled_from([0.5, 0.6, 0.75, 0.9, 0.95, 0.99, 0.999])
offers = st.builds(
    make_offer,
    st.integers(1, 60),
    capacity=st.sampled_from([1, 1, 2]),
    providers=st.sampled_from([("cpu",), ("cpu",), ("cuda",)]),
    memory_bytes=st.sampled_from([4 * GIBIBYTE, 8 * GIBIBYTE]),
    isolation=st.sampled_from([(), ("seccomp",)]),
    warm=st.sampled_from([(), ("digits",)]),
)


@dataclass
class Device:
    """A worker, and the checks that it has passed before."""

    offer: Offer
    owner: int
    checks: int
    refuses: bool


devices = st.builds(
    Device,
    offers,
    st.integers(0, 7),
    st.sampled_from([0, 0, 0, 5, 40, 400]),
    st.sampled_from([False] * 5 + [True]),
)


def market_of(known: list[Device], *, has_auditor: bool, jobs: int) -> MarketDriver:
    """A market with these workers, some of which are busy with so many jobs of another account."""
    driver = MarketDriver(policy=POLICY)
    for account in ("alice", "bob"):
        driver.fund(account, FUNDS)
    driver.publish()
    for number, device in enumerate(known):
        driver.join(f"w{number}", owner=f"owner{device.owner}")
        if device.checks:
            add_past_checks(driver, f"w{number}", 1, checks=float(device.checks))
    if has_auditor:
        driver.join("auditor", auditor=True)
    driver.restart()
    for number, device in enumerate(known):
        driver.connect(f"w{number}", device.offer)
    if has_auditor:
        driver.connect("auditor")
    for number, device in enumerate(known):
        if device.refuses:
            refuse(driver, f"w{number}", device.offer)
    for _ in range(jobs):
        driver.submit("bob", confidence=0.5, max_price_microcredits=10_000)
    driver.tick(60.0)
    return driver


def refuse(driver: MarketDriver, worker: str, offer: Offer) -> None:
    """Have a worker refuse the pipeline, as far as it gets a job of it."""
    driver.update_offer(worker, make_offer(1, memory_bytes=64 * GIBIBYTE, isolation=("seccomp",)))
    job = driver.submit("bob", confidence=0.5, requirements=Requirements(memory_bytes=64 * GIBIBYTE))
    for lease in driver.open_leases(job):
        driver.give_back(lease.id, GiveBackReason.REFUSED)
    driver.cancel(job, "bob")
    driver.update_offer(worker, offer)


def submitted(driver: MarketDriver, **job: object) -> tuple[MarketDriver, Job]:
    """A copy of the market with such a job, which has no patience."""
    after = copy.deepcopy(driver)
    return after, after.job(after.submit(patience_s=0.0, **job))  # type: ignore[arg-type]


@given(
    known=st.lists(devices, max_size=14),
    has_auditor=st.booleans(),
    jobs=st.integers(0, 6),
    confidence=confidences,
    required=requirements,
)
@settings(max_examples=150, deadline=None)
def test_the_least_cap_is_enough_and_less_is_only_for_who_is_idle(
    known: list[Device], has_auditor: bool, jobs: int, confidence: float, required: Requirements
) -> None:
    driver = market_of(known, has_auditor=has_auditor, jobs=jobs)
    job = {"confidence": confidence, "requirements": required}
    view = driver.estimate(**job)  # type: ignore[arg-type]
    if view.cap_microcredits is None:
        after, ended = submitted(driver, max_price_microcredits=FUNDS, **job)
        if not after.open_leases(ended.id):
            assert (ended.status, ended.problem) == (JobStatus.FAILED, view.problem)
        return
    assert view.problem is None
    _, ended = submitted(driver, max_price_microcredits=view.cap_microcredits, **job)
    assert ended.problem is None
    if view.cap_microcredits > 1:
        after, ended = submitted(driver, max_price_microcredits=view.cap_microcredits - 1, **job)
        assert ended.problem is not None or after.open_leases(ended.id)


@given(
    known=st.lists(devices, max_size=14),
    has_auditor=st.booleans(),
    jobs=st.integers(0, 6),
    confidence=confidences,
    required=requirements,
    cap=st.integers(1, 20_000),
)
@settings(max_examples=150, deadline=None)
def test_a_given_cap_ends_as_the_estimate_says(
    known: list[Device], has_auditor: bool, jobs: int, confidence: float, required: Requirements, cap: int
) -> None:
    driver = market_of(known, has_auditor=has_auditor, jobs=jobs)
    job = {"requirements": required, "max_price_microcredits": cap}
    view = driver.estimate(confidence=confidence, **job)  # type: ignore[arg-type]
    after, ended = submitted(driver, confidence=confidence, **job)
    if not after.open_leases(ended.id):
        assert view.problem == ended.problem
    if view.confidence_max is None:
        assert view.problem is not None
        return
    for more, is_enough in ((0.0, True), (2e-6, False)):
        if 0.5 <= view.confidence_max + more < 0.999999:
            after, ended = submitted(driver, confidence=view.confidence_max + more, **job)
            starts = bool(after.open_leases(ended.id))
            assert starts or (ended.problem is None) == is_enough, (view.confidence_max + more, ended.problem)


@given(known=st.lists(devices, max_size=8), jobs=st.integers(0, 6), confidence=confidences)
@settings(max_examples=50, deadline=None)
def test_asking_changes_nothing(known: list[Device], jobs: int, confidence: float) -> None:
    driver = market_of(known, has_auditor=True, jobs=jobs)
    other = copy.deepcopy(driver)
    first = driver.estimate(confidence=confidence)
    assert driver.estimate(confidence=confidence) == first
    for market in (driver, other):
        market.submit(confidence=confidence)
        market.tick(1.0)
    assert driver.answers == other.answers
    driver.check()


# What it is refused for


def test_it_is_refused_as_a_submission_is() -> None:
    driver = MarketDriver()
    with pytest.raises(UnknownPipeline):
        driver.estimate()


def test_a_quarantined_pipeline_has_no_estimate() -> None:
    driver = MarketDriver(policy=MarketPolicy(audit_rate=0.0, quarantine_owners=2))
    driver.fund()
    driver.publish()
    for number in range(4):
        driver.add_worker(f"w{number}")
    job = driver.submit()
    while leases := driver.open_leases(job):
        driver.give_back(leases[0].id)
    driver.submit()
    refusal = TradepostError.from_problem(driver.refusal())
    assert isinstance(refusal, PipelineQuarantined)
    with pytest.raises(PipelineQuarantined) as raised:
        driver.estimate()
    assert raised.value.to_problem() == refusal.to_problem()


# Owners, prices and times


def market_with(*prices: int) -> MarketDriver:
    driver = MarketDriver(policy=MarketPolicy(audit_rate=0.0))
    driver.fund()
    driver.publish()
    for number, price in enumerate(prices):
        driver.join(f"w{number}")
        driver.connect(f"w{number}", make_offer(price, capacity=1))
    return driver


def test_what_was_not_measured_is_unknown() -> None:
    view = market_with(10, 12).estimate()
    assert view == EstimateView(
        cap_microcredits=1_000,
        results=1,
        owners=2,
        confidence_max=0.941176,
        typical_price=None,
        wait_s=0.0,
        latency_p50_s=None,
        latency_p90_s=None,
        measured_runs=0,
        in_time=None,
        problem=None,
    )


def test_it_does_not_tell_which_owners_have_leases() -> None:
    """Nor when a result arrives: else a cheat learns who else has its job by asking about each owner."""
    driver = market_with(10, 30)
    questions = [Requirements(owners_only=("w0",)), Requirements(owners_excluded=("w0",)), Requirements()]

    def answers() -> list[EstimateView]:
        return [
            driver.estimate(requirements=one, max_price_microcredits=cap)
            for one in questions
            for cap in (None, 1_000, 3_000)
        ]

    idle = answers()
    job = driver.submit("alice", confidence=0.94)
    leases = driver.open_leases(job)
    assert len(leases) == 2
    assert answers() == idle
    driver.deliver(leases[0].id)
    assert driver.job(job).status is JobStatus.RUNNING
    assert answers() == idle


def test_an_owners_devices_count_once() -> None:
    driver = market_with(10)
    driver.add_worker("w0b", 10, owner="w0")
    assert driver.estimate().owners == 1


def run_jobs(driver: MarketDriver, *seconds: float) -> None:
    """Let one job after another take so long."""
    for duration_s in seconds:
        [lease] = driver.open_leases(driver.submit(max_price_microcredits=2_000))
        driver.at += duration_s
        driver.deliver(lease.id)


def test_price_and_latency_come_from_what_was_measured() -> None:
    driver = market_with(10, 20)
    began_at = driver.at
    run_jobs(driver, *[2.0] * 9, 6.0)
    view = driver.estimate()
    assert view.typical_price is not None
    assert (view.typical_price.jobs, view.typical_price.since) == (10, began_at + 2.0)
    paid_microcredits = sorted(job.paid_microcredits for job in driver.all_of(Job))
    assert view.typical_price.price_microcredits == paid_microcredits[4]
    assert (view.wait_s, view.latency_p50_s, view.latency_p90_s) == pytest.approx((0.0, 2.0, 2.0))
    assert (view.measured_runs, view.in_time) == (10, True)
    two = driver.estimate(confidence=0.94)
    assert two.results == 2
    assert two.typical_price is not None
    assert two.typical_price.price_microcredits == 2 * paid_microcredits[4]
    assert (two.latency_p50_s, two.latency_p90_s) == pytest.approx((2.0, 6.0)), "the slower of two"
    assert driver.estimate(deadline_s=1.5).in_time is False


def test_the_wait_follows_from_the_queue_and_the_throughput() -> None:
    driver = market_with(10)
    run_jobs(driver, *[3.0] * 5)
    for _ in range(4):
        driver.submit()
    view = driver.estimate()
    # Five ends in 12 s; three jobs wait, and this one comes after them.
    assert view.wait_s == pytest.approx(4 * 12 / 5)
    assert view.latency_p50_s == pytest.approx(4 * 12 / 5 + 3.0)


def test_prices_of_jobs_that_have_not_ended_are_not_shown() -> None:
    driver = market_with(10, 20)
    before = driver.estimate(pipeline="digits")
    driver.publish(make_pipeline("other"))
    driver.submit("alice", pipeline="other", max_price_microcredits=777)
    after = driver.estimate(pipeline="digits")
    assert after.typical_price is before.typical_price is None


def test_why_not_is_said_in_the_words_of_the_failure() -> None:
    driver = market_with(12, 15)
    view = driver.estimate(max_price_microcredits=1_000)
    assert view.problem is not None
    assert view.problem.code == "price-cap-too-low"
    assert view.problem.hint == "max_price 0.0012 credits would match."
    view = driver.estimate(requirements=Requirements(isolation=("landlock",)))
    assert view.problem is not None
    assert view.problem.code == "no-eligible-worker"
    assert (view.cap_microcredits, view.results, view.confidence_max) == (None, 0, None)
