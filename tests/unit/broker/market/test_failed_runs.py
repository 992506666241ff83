"""A failed run counts against its worker only as far as somebody independent stands for the job's result."""

from __future__ import annotations

import pytest

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Evidence, EvidenceKind, Lease, LeasePurpose, WorkerStanding
from tradepost_broker.market.model.events import QuarantineLifted
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.market.testing import make_offer, make_pipeline
from tradepost_broker.testing.staffed_market import StaffedMarket

NO_CHECKS = MarketPolicy(audit_rate=0.0)
LIMIT = NO_CHECKS.failures_counted_max
DAY_S = 86_400.0


def fail_first(
    driver: StaffedMarket,
    account: str = "alice",
    *,
    outcome: str = "right",
    failing: tuple[str, ...] = ("v",),
) -> str:
    """A job that fails on `v`, the cheapest, as long as it is asked; others give this outcome."""
    job = driver.submit(account, confidence=0.5)
    while leases := [one for one in driver.open_leases(job) if one.purpose is not LeasePurpose.AUDIT]:
        if leases[0].worker in failing:
            driver.give_back(leases[0].id)
        else:
            driver.deliver(leases[0].id, outcome)
    return job


def failures(driver: StaffedMarket, worker: str = "v") -> list[Evidence]:
    return [
        one for one in driver.all_of(Evidence) if one.worker == worker and one.kind is EvidenceKind.FAILED
    ]


def standing(driver: StaffedMarket, worker: str = "v") -> WorkerStanding:
    found = driver.market.worker(worker)
    assert found is not None
    return found.standing


def priced_market(
    policy: MarketPolicy = NO_CHECKS, *, partners: int = 1, auditors: int = 0, accounts: int = 1
) -> StaffedMarket:
    """A worker `v`, the cheapest; other owners a little dearer; and accounts eve0, eve1, …"""
    driver = StaffedMarket(0, auditors=auditors, policy=policy)
    driver.add_worker("v", 7)
    for number in range(partners):
        driver.add_worker(f"p{number}", 12 + number)
    for number in range(accounts):
        driver.fund(f"eve{number}")
    return driver


def rotate(driver: StaffedMarket, count: int, *, accounts: int = 1, partners: int = 1) -> None:
    """So many jobs that fail on `v`, of each account in turn, that each partner in turn gives a result of."""
    for number in range(count):
        first = number % partners
        for partner in range(partners):
            price = 12 + (partner - first) % partners
            driver.update_offer(f"p{partner}", make_offer(price))
        fail_first(driver, f"eve{number % accounts}")


def test_one_account_and_one_accomplice_do_not_suspend_an_honest_worker() -> None:
    driver = priced_market()
    for _ in range(30):
        fail_first(driver, "eve0", outcome="made-up zeros")
    assert sum(lease.worker == "v" for lease in driver.all_of(Lease)) == 30
    assert len(failures(driver)) == LIMIT
    assert standing(driver) is WorkerStanding.ACTIVE
    driver.check()


def test_the_rules_of_older_journals_suspend_it() -> None:
    policy = recorded_policy(b"\x80")
    assert not policy.lost_at_end
    driver = priced_market(policy)
    for _ in range(30):
        fail_first(driver, "eve0", outcome="made-up zeros")
    assert len(failures(driver)) == 10
    assert {one.partner for one in failures(driver)} == {""}
    assert standing(driver) is WorkerStanding.SUSPENDED


@pytest.mark.parametrize(
    ("accounts", "partners", "counted"), [(1, 4, LIMIT), (4, 1, LIMIT), (2, 4, 2 * LIMIT), (4, 2, 2 * LIMIT)]
)
def test_each_account_and_each_other_owner_stands_for_a_few_failures(
    accounts: int, partners: int, counted: int
) -> None:
    driver = priced_market(accounts=accounts, partners=partners)
    rotate(driver, 32, accounts=accounts, partners=partners)
    assert len(failures(driver)) == counted
    driver.check()


def test_a_broken_device_is_suspended_by_the_jobs_of_different_accounts() -> None:
    driver = priced_market(accounts=6, partners=6)
    rotate(driver, 36, accounts=6, partners=6)
    assert standing(driver) is WorkerStanding.SUSPENDED


def test_after_a_half_life_the_same_witnesses_count_again() -> None:
    driver = priced_market()
    for _ in range(4):
        fail_first(driver, "eve0")
    driver.at += (driver.policy.half_life_days - 1) * DAY_S
    fail_first(driver, "eve0")
    assert len(failures(driver)) == LIMIT
    driver.at += DAY_S
    for _ in range(4):
        fail_first(driver, "eve0")
    assert len(failures(driver)) == LIMIT + 1


def test_accounts_under_one_hand_stand_for_as_much_as_one() -> None:
    driver = priced_market(accounts=3, partners=3)
    for account in ("eve0", "eve1", "eve2"):
        driver.publish(make_pipeline(f"of {account}"), account=account)
    rotate(driver, 27, accounts=3, partners=3)
    assert len(failures(driver)) == LIMIT


def test_an_account_does_not_vouch_for_itself() -> None:
    driver = priced_market(partners=0)
    driver.add_worker("mine", 12, owner="eve0")
    fail_first(driver, "eve0")
    assert failures(driver) == []
    driver.fund("bob")
    fail_first(driver, "bob")
    assert [one.partner for one in failures(driver)] == ["eve0"]


def test_a_reference_run_that_confirms_the_result_counts_beyond_the_limit() -> None:
    driver = priced_market(MarketPolicy(audit_rate=1.0), auditors=1)
    driver.update_offer("v", make_offer(1))
    for _ in range(10):
        job = fail_first(driver, "eve0")
        driver.deliver(driver.open_audit(job).id)
    assert standing(driver) is WorkerStanding.SUSPENDED
    assert [one.partner for one in failures(driver)] == ["p0"] * LIMIT + [""] * 8
    driver.check()


@pytest.mark.parametrize("fails", [True, False])
def test_a_reference_run_that_fails_or_contradicts_the_result_blames_nobody_for_the_failure(
    fails: bool,
) -> None:
    driver = priced_market(MarketPolicy(audit_rate=1.0, references_to_expel=2), auditors=1)
    for _ in range(LIMIT):
        driver.deliver(driver.open_audit(fail_first(driver, "eve0")).id)
    job = fail_first(driver, "eve0", outcome="made-up zeros")
    if fails:
        while audits := driver.open_leases(job):
            driver.give_back(audits[0].id)
    else:
        driver.deliver(driver.open_audit(job).id, "right")
    driver.tick(driver.policy.hold_s + driver.policy.retain_s)
    assert len(failures(driver)) == LIMIT
    driver.check()


def test_a_reference_run_is_awaited_over_a_restart() -> None:
    driver = priced_market(MarketPolicy(audit_rate=1.0), auditors=1)
    for _ in range(LIMIT):
        driver.deliver(driver.open_audit(fail_first(driver, "eve0")).id)
    job = fail_first(driver, "eve0")
    assert len(failures(driver)) == LIMIT
    driver.restart()
    driver.connect("a0")
    driver.deliver(driver.open_audit(job).id)
    assert len(failures(driver)) == LIMIT + 1


def test_a_restart_does_not_forget_who_stood_for_what() -> None:
    driver = priced_market()
    for _ in range(LIMIT):
        fail_first(driver, "eve0")
    driver.restart()
    driver.connect("v", make_offer(7))
    driver.connect("p0", make_offer(12))
    fail_first(driver, "eve0")
    assert len(failures(driver)) == LIMIT


@pytest.mark.parametrize("restarts", [False, True])
def test_what_is_withdrawn_makes_room(restarts: bool) -> None:
    driver = priced_market()
    for _ in range(LIMIT):
        fail_first(driver, "eve0")
    for name in ("v0", "v1"):
        driver.add_worker(name, 6)
        fail_first(driver, "eve0", failing=(name,))
        driver.disconnect(name)
    assert ("v", "withdrawn") in driver.evidence()
    if restarts:
        driver.restart()
        driver.connect("v", make_offer(7))
        driver.connect("p0", make_offer(12))
    driver.handle(QuarantineLifted(at=driver.at, account="eve0", pipeline="digits", seed=driver.next_seed()))
    for _ in range(3 * LIMIT):
        fail_first(driver, "eve0")
    assert len(failures(driver)) == 2 * LIMIT


def test_an_expired_lease_counts_only_where_another_owner_did_the_job() -> None:
    driver = priced_market(partners=0)
    job = driver.submit("eve0", confidence=0.5)
    [lease] = driver.open_leases(job)
    driver.tick(lease.expires_at - driver.at)
    assert driver.job(job).status is not JobStatus.ACCEPTED
    assert driver.evidence() == []
    driver.cancel(job, "eve0")
    driver.tick(driver.policy.hold_s)
    assert driver.evidence() == []
