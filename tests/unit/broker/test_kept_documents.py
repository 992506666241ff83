"""Documents that are kept are counted from the database, and by those who keep them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tradepost_broker.content.kept_documents import KeptDocuments
from tradepost_broker.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "broker.sqlite3")) as store:
        yield store


def test_a_recount_leaves_the_blocks_on_their_way_counted(store: Store) -> None:
    """Their uploads go on while the market is restored, and count no more if they fail."""
    kept = KeptDocuments(store=store)
    kept.add_blocks("alice", 5_000)
    kept.recount()
    kept.add("alice", 700)
    assert kept.bytes_of("alice") == 5_700
    kept.subtract_blocks("alice", 5_000)
    assert kept.bytes_of("alice") == 700


def test_a_recount_forgets_inline_documents_that_are_not_durable(store: Store) -> None:
    """What was decided and is not committed is decided again, and counted again."""
    kept = KeptDocuments(store=store)
    kept.add("alice", 700)
    kept.recount()
    assert kept.bytes_of("alice") == 0


def test_a_recount_reads_inputs_and_outputs_once_each(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptDocuments(store=store)
    statements: list[str] = []

    def rows(statement: str, _: object) -> list[Any]:
        statements.append(statement)
        return []

    monkeypatch.setattr(store, "rows", rows)
    kept.recount()
    assert ["inputs" in one for one in statements] == [True, False]
