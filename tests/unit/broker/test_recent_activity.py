"""What ended jobs tell about the market: settled leases alone, exact quantiles, and pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sample_records import WORKER, job, lease, pipeline
from tradepost_broker.market.model.entities import Lease, LeaseState
from tradepost_broker.reporting.pipeline_lists import page_of_pipelines
from tradepost_broker.reporting.recent_activity import (
    _BY_MINUTE,
    RecentActivity,
    activity_of,
    ends_by_minute,
    newest_ended,
    prices_of,
    quantile,
)
from tradepost_broker.storage.store import Store


def settled(id_: str, of: str, state: LeaseState, *, paid: int = 0, granted_at: float = 3.0) -> Lease:
    one = lease(id_, of)
    one.state, one.paid_microcredits, one.granted_at = state, paid, granted_at
    return one


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two jobs that have ended, one with a lease that is still open, and one that has not."""
    with closing(Store(tmp_path / "broker.sqlite3")) as store:
        transaction = store.begin()
        for id_ in ("p", "q", "r"):
            transaction.save(pipeline(id_))
        transaction.save(WORKER)
        for one in (job("first", finished_at=10.0), job("last", finished_at=20.0), job("open")):
            one.units = 2
            transaction.save(one)
        for one in (
            settled("first.1", "first", LeaseState.REJECTED, granted_at=3.0),
            settled("first.2", "first", LeaseState.ACCEPTED, paid=9, granted_at=4.0),
            settled("last.1", "last", LeaseState.ACCEPTED, paid=4, granted_at=1.5),
            settled("last.2", "last", LeaseState.OPEN),
            settled("last.3", "last", LeaseState.DELIVERED),
            settled("open.1", "open", LeaseState.ACCEPTED, paid=1_000),
        ):
            transaction.save(one)
        transaction.flush()
        transaction.commit()
        yield store


def test_only_what_is_decided_counts(store: Store) -> None:
    last, first = newest_ended(store, count=10)
    assert (first.ended_at, first.waited_s, first.results, first.prices_microcredits) == (10.0, 2.0, 2, (4,))
    assert (last.ended_at, last.waited_s, last.results, last.prices_microcredits) == (20.0, 0.5, 1, (2,))
    assert first.capability == "cpu"
    assert [one.ended_at for one in newest_ended(store, count=1)] == [20.0]


def test_quantiles_are_values_that_were_there(store: Store) -> None:
    prices = prices_of(newest_ended(store, count=10), "cpu")
    assert prices is not None
    assert (prices.results, prices.low_microcredits, prices.high_microcredits) == (2, 2, 4)
    assert prices_of([], "cpu") is None
    assert [quantile(range(10), share) for share in (0.0, 0.1, 0.5, 0.9, 1.0)] == [0, 1, 5, 9, 9]


def test_the_market_is_summed_up(store: Store) -> None:
    jobs = list(newest_ended(store, count=10))
    view = activity_of(jobs, ends_by_minute(store, 20.0))
    assert (view.jobs, view.until, view.wait_s_median, view.wait_s_high) == (2, 20.0, 2.0, 2.0)
    assert [(one.results, one.jobs) for one in view.results] == [(1, 1), (2, 1)]
    assert view.results_mean == 1.5
    assert [(one.capability, one.results) for one in view.prices] == [("cpu", 2)]
    assert activity_of([], ()).results_mean is None


def test_a_minute_counts_the_jobs_that_ended_in_it(store: Store) -> None:
    transaction = store.begin()
    for id_, ended_at in (("a", 3_599.9), ("b", 3_600.0), ("c", 3_659.9), ("old", 59.9)):
        transaction.save(job(id_, finished_at=ended_at))
    transaction.flush()
    transaction.commit()
    minutes = ends_by_minute(store, 3_659.9)
    assert len(minutes) == 60
    assert {one.at: one.jobs for one in minutes if one.jobs} == {3_540.0: 1, 3_600.0: 2}
    [plan] = [row[-1] for row in store.rows(f"EXPLAIN QUERY PLAN {_BY_MINUTE}", (60.0,)) if "jobs" in row[-1]]
    assert "COVERING INDEX ix_jobs_finished_at" in plan


async def test_many_readers_cost_one_reading(store: Store) -> None:
    now = 100.0
    activity = RecentActivity(store=store, monotonic=lambda: now)
    known = await activity.jobs()
    assert await activity.jobs() is known
    now = 104.9
    assert await activity.jobs() is known
    now = 105.0
    assert await activity.jobs() is not known


def test_pipelines_are_found_page_by_page(store: Store) -> None:
    first = page_of_pipelines(store, find="", after="", count=2)
    last = page_of_pipelines(store, find="", after=first.after, count=2)
    assert [one.id for one in (*first.pipelines, *last.pipelines)] == ["p", "q", "r"]
    assert (first.found, first.after, last.after) == (3, "q", "")
    assert [one.id for one in page_of_pipelines(store, find="q", after="", count=9).pipelines] == ["q"]
    assert page_of_pipelines(store, find="amp", after="", count=9).found == 3
    assert page_of_pipelines(store, find="%", after="", count=9).pipelines == ()
