"""Lists of workers come from the database: each is on exactly one page, in order, and found by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sample_records import WORKER
from tradepost_broker.market.model.entities import Account, WorkerStanding
from tradepost_broker.reporting.worker_lists import SORTS, page_of_workers
from tradepost_broker.storage.store import Store

#: The id of each worker, its device, its owner, when it joined, and what it has earned and on hold.
WORKERS = {
    "aa": ("Zebra", "bob", 3.0, 5, 0),
    "ab": ("apple", "carol", 1.0, 0, 9),
    "ba": ("100%_of_it", "bob", 2.0, 5, 1),
    "bb": ("<b>Ünï</b>", "dave", 5.0, 0, 0),
    "ca": ("zebra", "anna", 4.0, 5, 0),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "broker.sqlite3")) as store:
        transaction = store.begin()
        for id_, (device, owner, joined_at, earned, held) in WORKERS.items():
            one = msgspec.structs.replace(WORKER, id=id_, device=device, owner=owner, joined_at=joined_at)
            one.standing = WorkerStanding.EXPELLED if id_ == "ca" else WorkerStanding.ACTIVE
            transaction.save(one)
            for purpose, amount in (("earned", earned), ("held", held)):
                if amount:
                    transaction.save(Account(id=f"{purpose}:{id_}", available_microcredits=amount))
        transaction.flush()
        transaction.commit()
        yield store


def listed(
    store: Store, *, find: str = "", standing: str = "", sort: str = "earned", count: int = 2
) -> list[str]:
    """The workers of all pages, which have `count` each."""
    ids: list[str] = []
    after = ""
    while True:
        page = page_of_workers(store, find=find, standing=standing, sort=sort, after=after, count=count)
        ids += page.ids
        if not page.after:
            assert page.found == len(ids)
            return ids
        assert len(page.ids) == count
        after = page.after


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("earned", ["ab", "ba", "aa", "ca", "bb"]),
        ("device", ["ba", "bb", "ab", "aa", "ca"]),
        ("owner", ["ca", "aa", "ba", "ab", "bb"]),
        ("joined", ["bb", "ca", "aa", "ba", "ab"]),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_every_worker_is_on_one_page_in_order(store: Store, sort: str, order: list[str], count: int) -> None:
    assert listed(store, sort=sort, count=count) == order
    assert sort in SORTS


@pytest.mark.parametrize(
    ("find", "found"),
    [
        ("ZEBRA", ["aa", "ca"]),
        ("bob", ["ba", "aa"]),
        ("b", ["ba", "aa", "ca", "bb"]),
        ("%", ["ba"]),
        ("_", ["ba"]),
        ("'; DROP TABLE workers; --", []),
        ("<b>", ["bb"]),
        ("ÜnÏ", ["bb"]),
    ],
)
def test_a_search_takes_its_text_literally(store: Store, find: str, found: list[str]) -> None:
    assert listed(store, find=find) == found


def test_a_standing_filters(store: Store) -> None:
    assert listed(store, standing="expelled") == ["ca"]
    assert listed(store, standing="suspended") == []


def test_a_worker_that_cannot_be_read_leaves_the_others_on_their_pages(store: Store) -> None:
    transaction = store.begin()
    transaction._store._write.execute("UPDATE workers SET body = x'ff' WHERE id = 'ab'")
    transaction._store._write.commit()
    assert listed(store, sort="device")[1:] == ["ba", "bb", "aa", "ca"]
