"""A client that comes back gets the verdicts that changed, each view made when it is its turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sample_records import job, pipeline
from tradepost_broker.jobs.job_service import JobService
from tradepost_broker.storage.shell_records import Delivery
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.watchers import Watchers

T = TypeVar("T")


class NotingStore(Store):
    """A store that notes which deliveries it is asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[str] = []

    def get(self, kind: type[T], id_: str) -> T | None:
        """The record, as ever."""
        if kind is Delivery:
            self.asked.append(id_)
        return super().get(kind, id_)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NotingStore]:
    """A store with three jobs whose verdicts changed at 10, 11 and 12 seconds."""
    with closing(NotingStore(tmp_path / "broker.sqlite3")) as store:
        transaction = store.begin()
        transaction.save(pipeline())
        for number in range(3):
            one = job(f"j{number}", finished_at=2.0)
            one.accepted = (f"j{number}.1",)
            one.verdict_changed_at = 10.0 + number
            transaction.save(one)
        transaction.flush()
        transaction.commit()
        yield store


def test_documents_are_read_one_job_at_a_time(store: NotingStore) -> None:
    no_engine: Any = None
    service = JobService(store=store, engine=no_engine, watchers=Watchers())
    changed = iter(service.watch_verdicts("alice", lambda _: None, since=11.0))
    assert store.asked == []
    assert next(changed).job == "j1"
    assert store.asked == ["j1.1"]
    assert [one.job for one in changed] == ["j2"]
