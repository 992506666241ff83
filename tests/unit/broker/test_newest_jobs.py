"""Lists of an account's jobs come from an index, however many jobs the account has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.dialects import sqlite

from sample_records import job, pipeline
from tradepost_broker.market.model.entities import Job
from tradepost_broker.storage.store import Store
from tradepost_broker.web.jobs import newest_jobs


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with jobs of two accounts, two of which have a changed verdict."""
    with closing(Store(tmp_path / "broker.sqlite3")) as store:
        transaction = store.begin()
        transaction.save(pipeline())
        for number in range(6):
            one = job(f"j{number}", finished_at=2.0)
            one.account = "bob" if number == 5 else "alice"
            one.verdict_changed_at = 3.0 if number in (1, 3, 5) else None
            transaction.save(one)
        transaction.flush()
        transaction.commit()
        yield store


@pytest.mark.parametrize(
    ("before", "changed", "found", "index"),
    [
        (None, False, ["j4", "j3", "j2", "j1", "j0"], "ix_jobs_account (account=?)"),
        ("j2", False, ["j1", "j0"], "ix_jobs_account (account=? AND id<?)"),
        (None, True, ["j3", "j1"], "ix_jobs_verdict_changed_at (account=? AND verdict_changed_at>?)"),
        ("j3", True, ["j1"], "ix_jobs_verdict_changed_at (account=? AND verdict_changed_at>?)"),
    ],
)
def test_a_list_reads_the_index_that_fits(
    store: Store, before: str | None, changed: bool, found: list[str], index: str
) -> None:
    asked = newest_jobs("alice", before=before, changed=changed)
    assert [one.id for one in store.find(Job, asked)] == found
    query = asked.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    plan = " ".join(step for *_, step in store.rows(f"EXPLAIN QUERY PLAN {query}"))
    assert f"USING INDEX {index}" in plan
