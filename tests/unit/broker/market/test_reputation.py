"""What workers do becomes their reputation; what their owners want never hurts it."""

from __future__ import annotations

import pytest

from tradepost import errors
from tradepost.protocol import GiveBackReason
from tradepost_broker.market.model.entities import Evidence, Lease, LeaseState, WorkerStanding
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import make_offer
from tradepost_broker.testing.staffed_market import ALWAYS_CHECKED, StaffedMarket

#: However often the same account and owner stand for failures, they count.
UNLIMITED = MarketPolicy(audit_rate=0.0, half_life_days=30.0, failures_counted_max=0)


def lose_all(driver: StaffedMarket) -> None:
    """Have w0, which is cheap, lose leases that w1 then gives the results of, until w0 gets no more."""
    driver.connect("w0", make_offer(1))
    while driver.open_leases(job := driver.submit())[0].worker == "w0":
        driver.give_back(driver.open_leases(job)[0].id)
        driver.deliver_all(job, "right")


def test_losing_leases_lowers_a_score_until_the_worker_is_suspended() -> None:
    driver = StaffedMarket(2, policy=UNLIMITED)
    lose_all(driver)
    assert driver.market.worker("w0").standing is WorkerStanding.SUSPENDED
    assert len(driver.evidence()) == 10  # half a bad result each; 5 are enough evidence
    assert driver.market.reputation_of("w0")["cpu"].score < 0.01
    assert driver.market.account("stake:w0").available_microcredits == 1_000_000
    driver.check()


def test_a_suspended_worker_returns_when_half_of_it_is_forgotten() -> None:
    driver = StaffedMarket(2, policy=UNLIMITED)
    lose_all(driver)
    driver.at += 29 * 86_400
    driver.connect("w0")
    assert driver.market.worker("w0").standing is WorkerStanding.SUSPENDED
    driver.at += 2 * 86_400
    driver.connect("w0")
    assert driver.market.worker("w0").standing is WorkerStanding.ACTIVE


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (GiveBackReason.PREEMPTED, LeaseState.PREEMPTED),
        (GiveBackReason.REFUSED, LeaseState.RETURNED),
    ],
)
def test_what_the_owner_wants_never_hurts(reason: GiveBackReason, state: LeaseState) -> None:
    driver = StaffedMarket(1)
    job = driver.submit()
    lease = driver.open_leases(job)[0]
    driver.give_back(lease.id, reason)
    assert driver.evidence() == []
    assert driver.of(Lease, lease.id).state is state


def test_a_workers_own_words_are_bounded() -> None:
    driver = StaffedMarket(2)
    job = driver.submit()
    lease = driver.open_leases(job)[0]
    words = errors.Problem(code="c" * 9999, title="t" * 9999, detail="d" * 9999, facts={"x": "y" * 9999})
    driver.give_back(lease.id, problem=words)
    kept = driver.of(Lease, lease.id).problem
    assert (len(kept.code), len(kept.title), len(kept.detail), kept.facts) == (64, 500, 500, {})
    driver.deliver_all(job, "right")
    assert len(driver.of(Evidence, f"{lease.id}:failed").detail) == 500


def test_reputation_explains_itself() -> None:
    driver = StaffedMarket(1, auditors=1, policy=ALWAYS_CHECKED)
    assert driver.market.reputation_of("w0") == {}
    job = driver.submit()
    driver.deliver_all(job, "right")
    driver.deliver(driver.open_audit(job).id, "right")
    reputation = driver.market.reputation_of("w0")["cpu"]
    assert reputation.score == pytest.approx(0.05**0.5)
    assert "1 audit passed" in reputation.explanation[0]
