"""A quota asks for room once when an account becomes crowded, and again when it does so anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from tradepost.errors import QuotaExceeded
from tradepost_broker.content.account_quota import AccountQuota
from tradepost_broker.content.kept_documents import KeptDocuments
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.storage.store import Store


class FakeUploads:
    """What accounts have uploaded."""

    def __init__(self) -> None:
        self.bytes = 0

    def used_bytes(self, holder: str) -> int:
        """The same for each."""
        return self.bytes


class Scene:
    """An account with a quota of 1,000 bytes."""

    def __init__(self, store: Store) -> None:
        self.uploads = FakeUploads()
        self.documents = KeptDocuments(store=store)
        self.quota = AccountQuota(
            uploads=cast(Uploads, self.uploads), documents=self.documents, bytes_max=1_000
        )

    def keep(self, size_bytes: int) -> bool:
        """Keep a document; whether room was wanted for it."""
        self.quota.room_wanted.clear()
        self.quota.require("alice", size_bytes)
        self.quota.count("alice", size_bytes)
        return self.quota.room_wanted.is_set()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with closing(Store(tmp_path / "broker.sqlite3")) as store:
        yield Scene(store)


def test_an_account_that_stays_crowded_asks_once(scene: Scene) -> None:
    assert [scene.keep(size_bytes) for size_bytes in (750, 10, 10)] == [False, True, False]
    scene.quota.end_making_room("alice")  # these are open jobs: nothing can be deleted
    assert scene.quota.crowded == {"alice"}, "the next sweep tries again"
    assert not scene.keep(10)
    with pytest.raises(QuotaExceeded, match="780 of 1,000 bytes are kept for alice"):
        scene.keep(300)


def test_an_account_becomes_crowded_again(scene: Scene) -> None:
    """Also where blocks take so much that it never becomes roomy."""
    scene.uploads.bytes = 600
    for _ in range(3):
        assert [scene.keep(size_bytes) for size_bytes in (100, 100)] == [False, True]
        scene.documents.subtract({"alice": 200})
        scene.quota.end_making_room("alice")
        assert not scene.quota.is_roomy("alice")
        assert scene.quota.crowded == set()


def test_without_documents_there_is_no_room_to_be_made(scene: Scene) -> None:
    scene.uploads.bytes = 800
    assert not scene.keep(100)
    assert scene.quota.crowded == set()
