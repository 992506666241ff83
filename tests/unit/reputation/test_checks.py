"""How many checks a submitter may count: bounds by partner and submitter, and sums that repeat."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost_reputation import CheckRecord, Counted, Finding

HALF_LIFE_DAYS = 30.0
PARTNER_MAX = 1.0
VOUCHED_MAX = 0.5

findings = st.builds(
    Finding,
    pipeline=st.sampled_from(["digits", "sham"]),
    submitter=st.sampled_from(["alice", "bob", "carol"]),
    partner=st.sampled_from(["", "p0", "p1"]),
)
amounts = st.sampled_from([0.0, 0.25, 0.234, 1.0, -10.0])
histories = st.lists(st.tuples(findings, amounts, st.integers(0, 3)), max_size=40)


def record() -> CheckRecord:
    return CheckRecord(HALF_LIFE_DAYS, partner_max=PARTNER_MAX, vouched_max=VOUCHED_MAX)


def find(checks: CheckRecord, finding: Finding, amount: float, *, day: int = 0) -> Counted:
    """Count a finding, and keep it."""
    counted = checks.count(amount, finding, vouchers=[finding.submitter], day=day)
    checks.add(counted, finding, day)
    return counted


def play(history: list[tuple[Finding, float, int]]) -> tuple[CheckRecord, list[tuple[Finding, Counted, int]]]:
    """Count a history; days go on by what it says."""
    checks, kept, day = record(), [], 0
    for finding, amount, days in history:
        day += days
        kept.append((finding, find(checks, finding, amount, day=day), day))
    return checks, kept


def test_reference_runs_count_in_full_for_their_submitter_and_little_for_others() -> None:
    checks = record()
    for _ in range(100):
        find(checks, Finding("digits", "alice"), 1.0)
    assert checks.passed("digits", "alice", 0) == 100.0
    assert checks.passed("digits", "bob", 0) == VOUCHED_MAX
    assert checks.passed("other", "alice", 0) == 0.0
    assert checks.most(0) == checks.total(0) == 100.0


def test_the_partners_that_confirm_a_worker_add_up() -> None:
    checks = record()
    for number in range(10):
        for _ in range(50):
            find(checks, Finding("digits", "alice", f"p{number}"), 0.25)
    assert checks.passed("digits", "alice", 0) == 10 * PARTNER_MAX


def test_submitters_vouch_for_each_other_a_little() -> None:
    checks = record()
    for number in range(8):
        find(checks, Finding("digits", f"account{number}"), 1.0)
    assert checks.passed("digits", "new", 0) == 8 * VOUCHED_MAX
    assert checks.passed("digits", "account0", 0) == 1.0 + 7 * VOUCHED_MAX


def test_accounts_of_one_hand_vouch_for_as_much_as_one() -> None:
    checks = record()
    names = [f"account{number}" for number in range(8)]
    for name in names:
        finding = Finding("digits", name)
        checks.add(checks.count(1.0, finding, vouchers=names, day=0), finding, 0)
    assert checks.passed("digits", "new", 0) == VOUCHED_MAX


def test_a_hand_that_may_not_vouch_counts_only_for_itself() -> None:
    checks = record()
    finding = Finding("digits", "alice")
    counted = checks.count(1.0, finding, vouchers=(), day=0)
    assert counted == Counted(1.0, 0.0)


def test_being_outvoted_before_one_submitter_costs_little_before_others() -> None:
    checks = record()
    for number in range(10):
        find(checks, Finding("digits", f"account{number}"), 1.0)
    before = checks.passed("digits", "new", 0)
    for _ in range(5):
        find(checks, Finding("digits", "account0"), -10.0)
    assert checks.passed("digits", "account0", 0) == 0.0
    assert checks.passed("digits", "new", 0) == pytest.approx(before - 2 * VOUCHED_MAX)


def test_room_comes_back_as_checks_decay() -> None:
    checks = record()
    for _ in range(10):
        find(checks, Finding("digits", "alice", "p0"), 0.25)
    assert checks.confirmed("digits", "p0", 0) == PARTNER_MAX
    assert checks.confirmed("digits", "p0", 30) == PARTNER_MAX / 2
    assert find(checks, Finding("digits", "alice", "p0"), 0.25, day=30).checks == 0.25


@given(histories)
def test_no_partner_and_no_submitter_counts_more_than_its_bound(
    history: list[tuple[Finding, float, int]],
) -> None:
    checks, kept = play(history)
    day = kept[-1][2] if kept else 0
    for pipeline in ("digits", "sham"):
        for partner in ("p0", "p1"):
            assert checks.confirmed(pipeline, partner, day) <= PARTNER_MAX
        # Three submitters at most, and a fourth that has found nothing.
        assert checks.passed(pipeline, "new", day) <= 3 * VOUCHED_MAX + 1e-9
        for submitter in ("alice", "bob", "carol"):
            own = [one for one in kept if one[0][:2] == (pipeline, submitter)]
            found = sum(counted.checks for _, counted, _ in own if counted.checks > 0)
            assert checks.passed(pipeline, submitter, day) <= found + 2 * VOUCHED_MAX + 1e-9


@given(histories)
def test_what_was_kept_adds_up_to_the_same_in_any_order_within_a_day(
    history: list[tuple[Finding, float, int]],
) -> None:
    checks, kept = play(history)
    again = record()
    for finding, counted, day in sorted(kept, key=lambda one: (one[2], one[0], one[1])):
        again.add(counted, finding, day)
    day = kept[-1][2] if kept else 0
    for pipeline in ("digits", "sham"):
        for submitter in ("alice", "bob", "carol", "new"):
            assert again.passed(pipeline, submitter, day) == checks.passed(pipeline, submitter, day)
    assert (again.total(day), again.most(day)) == (checks.total(day), checks.most(day))


@given(findings, st.floats(-20, 20))
def test_a_finding_never_counts_more_than_it_is_worth(finding: Finding, amount: float) -> None:
    counted = record().count(amount, finding, vouchers=[finding.submitter], day=0)
    assert counted.checks <= amount
    assert abs(counted.vouched) <= VOUCHED_MAX
    assert Fraction(counted.checks).denominator <= 1024
    assert Fraction(counted.vouched).denominator <= 1024
