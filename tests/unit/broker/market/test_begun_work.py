"""A submitter pays for the work that its jobs cause, though it cancels them or they end without a result."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.protocol import JobStatus
from tradepost_broker.market.ledger import Kind
from tradepost_broker.market.model.entities import (
    Lease,
    LeasePurpose,
    LeaseState,
    Transfer,
)
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.settling.begun_work import Cause, due
from tradepost_broker.testing.staffed_market import StaffedMarket


def spent(driver: StaffedMarket) -> int:
    """What the submitter has paid, in microcredits."""
    return sum(one.amount_microcredits for one in driver.all_of(Transfer) if one.debit == "credits:alice")


def test_a_result_that_was_delivered_before_the_job_is_cancelled_is_paid() -> None:
    driver = StaffedMarket(4)
    job = driver.submit(confidence=0.9)
    first, second = driver.open_leases(job)
    driver.deliver(first.id)
    driver.cancel(job)
    ended = driver.job(job)
    assert ended.status is JobStatus.CANCELLED
    assert driver.of(Lease, first.id).paid_microcredits == first.price_microcredits
    assert driver.of(Lease, first.id).state is LeaseState.INCONCLUSIVE
    assert driver.of(Lease, second.id).paid_microcredits == second.price_microcredits // 10
    assert ended.paid_microcredits == spent(driver) == 1_100
    assert {one.kind for one in driver.all_of(Transfer) if one.job} == {Kind.PAY_BEGUN}
    assert driver.evidence() == []
    driver.check()
    driver.tick(601.0)
    assert driver.market.account(f"earned:{first.worker}").available_microcredits == first.price_microcredits


def test_reading_results_and_cancelling_costs_as_much_as_waiting() -> None:
    waiting, cancelling = StaffedMarket(4), StaffedMarket(4)
    job = waiting.submit(confidence=0.9)
    waiting.deliver_all(job, "right", "right")
    job = cancelling.submit(confidence=0.95)  # needs a third
    for lease in cancelling.open_leases(job)[:2]:
        cancelling.deliver(lease.id)
    cancelling.cancel(job)
    assert spent(cancelling) >= spent(waiting) > 0


def test_submitting_and_cancelling_at_once_is_not_free() -> None:
    driver = StaffedMarket(2)
    for _ in range(20):
        driver.cancel(driver.submit())
    paid = [lease.paid_microcredits for lease in driver.all_of(Lease)]
    assert len(paid) == 20
    assert min(paid) >= 100
    assert spent(driver) == sum(paid)
    driver.check()


@pytest.mark.parametrize(("after_s", "share"), [(0.0, 0.1), (2.0, 0.1), (25.5, 0.5), (50.0, 0.98)])
def test_an_open_lease_costs_the_share_of_its_time_that_has_run(after_s: float, share: float) -> None:
    driver = StaffedMarket(1)
    job = driver.submit(max_price_microcredits=1_000)
    [lease] = driver.open_leases(job)
    bound_s = lease.expires_at - lease.granted_at
    driver.at += after_s
    driver.cancel(job)
    paid_microcredits = driver.of(Lease, lease.id).paid_microcredits
    assert paid_microcredits == pytest.approx(max(100, 1_000 * after_s / bound_s), abs=1)
    assert paid_microcredits == pytest.approx(1_000 * share, rel=0.05)


def test_a_job_that_no_worker_had_begun_costs_nothing_when_it_is_cancelled() -> None:
    driver = StaffedMarket(0)
    driver.cancel(driver.submit())
    assert spent(driver) == 0
    driver.check()


def test_a_worker_that_is_away_is_not_paid_for_a_lease_that_it_may_never_have_seen() -> None:
    driver = StaffedMarket(1)
    job = driver.submit()
    driver.disconnect("w0")
    driver.cancel(job)
    assert spent(driver) == 0


def test_at_the_deadline_results_cost_a_part_and_open_leases_nothing() -> None:
    driver = StaffedMarket(4)
    job = driver.submit(confidence=0.9, deadline_s=10.0)
    first, second = driver.open_leases(job)
    driver.deliver(first.id)
    driver.tick(11.0)
    assert driver.job(job).status is JobStatus.FAILED
    assert driver.of(Lease, first.id).paid_microcredits == first.price_microcredits // 10
    assert driver.of(Lease, second.id).paid_microcredits == 0
    assert driver.evidence() == []
    driver.check()


def test_the_result_of_a_cancelled_job_can_still_be_checked_and_refunded() -> None:
    policy = MarketPolicy(audit_rate=1.0, references_to_expel=1)
    driver = StaffedMarket(4, auditors=1, policy=policy)
    job = driver.submit(confidence=0.9)
    first, _ = driver.open_leases(job)
    driver.deliver(first.id, "made up")
    driver.cancel(job)
    driver.restart()
    driver.connect("a0")
    driver.tick()
    driver.deliver(driver.open_audit(job).id, "right")
    assert driver.of(Lease, first.id).paid_microcredits == 0
    assert driver.of(Lease, first.id).state is LeaseState.REJECTED
    driver.check()


def test_starts_before_this_rule_are_replayed_without_it() -> None:
    assert recorded_policy(b"\x80").begun_share == 0.0
    driver = StaffedMarket(4, policy=recorded_policy(b"\x80"))
    job = driver.submit(confidence=0.9)
    driver.deliver(driver.open_leases(job)[0].id)
    driver.cancel(job)
    assert spent(driver) == 0
    driver.check()


@given(
    price=st.integers(0, 10**18),
    share=st.floats(0, 1),
    run_s=st.floats(-10, 1e9),
    bound_s=st.floats(0, 1e6),
    cause=st.sampled_from(Cause),
    state=st.sampled_from(LeaseState),
    connected=st.booleans(),
    at_fault=st.booleans(),
)
def test_what_is_due_is_never_more_than_the_price(
    price: int,
    share: float,
    run_s: float,
    bound_s: float,
    cause: Cause,
    state: LeaseState,
    connected: bool,
    at_fault: bool,
) -> None:
    lease = Lease(
        id="job.1",
        job="job",
        worker="w",
        attempt=1,
        purpose=LeasePurpose.AUCTION,
        price_microcredits=price,
        nonce=b"",
        granted_at=1e9,
        expires_at=1e9 + bound_s,
        state=state,
        run_failed=at_fault,
    )
    amount = due(
        lease, cause=cause, at=1e9 + run_s, connected=connected, at_fault=at_fault, begun_share=share
    )
    assert isinstance(amount, int)
    assert 0 <= amount <= price
