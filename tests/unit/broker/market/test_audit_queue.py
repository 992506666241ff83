"""Auditors' time is shared fairly; nothing that waits is lost or served twice."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost_broker.market.state.audit_queue import AuditQueue, Flow

LIMIT_S = 30.0


def serve(
    queue: AuditQueue, runs: dict[str, float], *, auditors: int = 2, until_s: float = 600.0
) -> Counter[str]:
    """Let auditors serve until a time; `runs` says how long each account's runs take. Seconds by account."""
    used_s: Counter[str] = Counter()
    open_runs: list[tuple[float, str]] = []
    at, number = 0.0, 0
    while at < until_s:
        while len(open_runs) < auditors and (job := next(queue.in_turn(), None)) is not None:
            account = job.partition("-")[0]
            queue.discard(job)
            number += 1
            queue.begin(f"{job}.{number}", Flow(account, "p"), limit_s=LIMIT_S, at=at)
            open_runs.append((at + runs[account], f"{job}.{number}"))
        if not open_runs:
            break
        open_runs.sort()
        at, lease = open_runs.pop(0)
        queue.end(lease, at)
        used_s[lease.partition("-")[0]] += int(runs[lease.partition("-")[0]])
    return used_s


def filled(counts: dict[str, int], *, fair: bool = True) -> AuditQueue:
    queue = AuditQueue(fair=fair)
    for account, count in counts.items():
        for number in range(count):
            queue.add(f"{account}-{number}", Flow(account, "p"), is_decided=True)
    return queue


def test_a_flood_of_long_runs_gets_no_more_time_than_a_few_short_ones_need() -> None:
    runs = {"flooder": 16.0, "customer": 2.0}
    used_s = serve(filled({"flooder": 1000, "customer": 1000}), runs)
    assert used_s["customer"] == pytest.approx(600, rel=0.1)
    assert used_s["flooder"] == pytest.approx(600, rel=0.1)


def test_an_account_that_needs_less_than_its_share_gets_all_of_it() -> None:
    runs = {"flooder": 16.0, "customer": 2.0}
    assert serve(filled({"flooder": 1000, "customer": 50}), runs)["customer"] == 100


def test_in_order_of_arrival_the_flood_has_it_all() -> None:
    runs = {"flooder": 16.0, "customer": 2.0}
    assert serve(filled({"flooder": 1000, "customer": 50}, fair=False), runs)["customer"] == 0


def test_an_account_that_comes_late_is_owed_nothing_for_the_past() -> None:
    queue = filled({"early": 1000})
    runs = {"early": 10.0, "late": 10.0}
    serve(queue, runs)
    for number in range(1000):
        queue.add(f"late-{number}", Flow("late", "p"), is_decided=True)
    used_s = serve(queue, runs)
    assert used_s["early"] == pytest.approx(600, rel=0.1)


def test_the_pipelines_of_an_account_share_its_time() -> None:
    queue = AuditQueue(fair=True)
    for number in range(100):
        queue.add(f"sham-{number}", Flow("alice", "sham"), is_decided=True)
    queue.add("digits-0", Flow("alice", "digits"), is_decided=True)
    queue.discard(first := next(queue.in_turn()))
    queue.begin(f"{first}.1", Flow("alice", first.partition("-")[0]), limit_s=LIMIT_S, at=0.0)
    assert {first, next(queue.in_turn())} == {"sham-0", "digits-0"}


def test_undecided_jobs_come_first_unless_their_account_is_far_ahead() -> None:
    queue = filled({"customer": 3})
    for number in range(10):
        queue.add(f"flooder-{number}", Flow("flooder", "p"), is_decided=False)
    served = []
    for number in range(5):
        job = next(queue.in_turn())
        queue.discard(job)
        queue.begin(f"{job}.{number}", Flow(job.partition("-")[0], "p"), limit_s=LIMIT_S, at=0.0)
        served.append(job.partition("-")[0])
    assert served[0] == "flooder"
    assert "customer" in served


def test_what_an_auditor_has_run_does_not_hide_what_it_may_run() -> None:
    looked: list[str] = []

    def suits(job: str) -> bool:
        looked.append(job)
        return not job.startswith("seen")

    for by_history, expected in ((True, ["new-0", "new-1"]), (False, [])):
        queue = AuditQueue(fair=True, by_history=by_history)
        for number in range(100):
            queue.add(f"seen-{number}", Flow("alice", "p"), is_decided=True, history=("a0 accepted",))
        for number in range(2):
            queue.add(f"new-{number}", Flow("alice", "p"), is_decided=True)
        looked.clear()
        served = []
        for job in queue.in_turn(suits):
            queue.discard(job)
            served.append(job)
        assert served == expected
        assert len(looked) <= 3  # one look for the hundred, and one for each that is served


def test_of_an_account_s_jobs_on_a_pipeline_the_first_is_next_whatever_was_run_before() -> None:
    queue = AuditQueue(fair=True)
    for number in range(4):
        queue.add(f"job-{number}", Flow("alice", "p"), is_decided=True, history=("a0",) * (number % 2))
    assert next(queue.in_turn()) == "job-0"
    queue.discard("job-0")
    assert next(queue.in_turn()) == "job-1"


def test_accounts_share_the_backlog() -> None:
    queue = filled({"flooder": 99})
    assert queue.has_room("flooder", 100)
    queue.add("flooder-99", Flow("flooder", "p"), is_decided=True)
    assert not queue.has_room("flooder", 100)
    assert queue.has_room("customer", 100)
    assert not filled({"flooder": 100}, fair=False).has_room("customer", 100)
    assert not AuditQueue(fair=True).has_room("customer", 0)


steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "check", "discard", "serve", "end"]),
        st.integers(0, 9),
        st.sampled_from("abc"),
    ),
    max_size=60,
)


@given(steps, st.booleans())
def test_every_job_that_waits_is_served_once(actions: list[tuple[str, int, str]], fair: bool) -> None:
    queue = AuditQueue(fair=fair)
    waiting: dict[str, Flow] = {}
    begun: list[str] = []
    at = 0.0
    for action, number, account in actions:
        job, flow = f"{account}{number}", Flow(account, str(number % 2))
        at += 1.0
        match action:
            case "add" | "check" if job not in waiting:
                queue.add(job, flow, is_decided=action == "check")
                waiting[job] = flow
            case "discard":
                queue.discard(job)
                waiting.pop(job, None)
            case "serve" if waiting:
                found = next(queue.in_turn())
                queue.discard(found)
                begun.append(f"{found}.{at}")
                queue.begin(begun[-1], waiting.pop(found), limit_s=LIMIT_S, at=at)
            case "end" if begun:
                queue.end(begun.pop(0), at)
        assert all(one in queue for one in waiting)
    order = []
    for job in queue.in_turn():
        queue.discard(job)
        order.append(job)
    assert sorted(order) == sorted(waiting)


def test_jobs_that_this_auditor_cannot_run_are_passed_over_once() -> None:
    queue = filled({"a": 3, "b": 3})
    seen = []
    for job in queue.in_turn():
        queue.discard(job)
        queue.add(job, Flow(job[0], "p"), is_decided=True)
        seen.append(job)
    assert sorted(seen) == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2"]
