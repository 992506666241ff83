"""The reserve of the disk: new work leaves all of it, outputs of leases leave the journal's part."""

from __future__ import annotations

from pathlib import Path

import pytest

from tradepost.errors import DiskFull
from tradepost_broker.storage.disk_space import DiskSpace

RESERVE_BYTES = 1000


def space(free_bytes: int) -> DiskSpace:
    return DiskSpace(Path("/data"), reserve_bytes=RESERVE_BYTES, free_bytes=lambda _: free_bytes)


def test_new_work_leaves_the_reserve() -> None:
    space(1000).require_for_new_work()
    space(1100).require_for_new_work(100)
    with pytest.raises(DiskFull, match="1,099 bytes are free, of which 1,000 are kept") as caught:
        space(1099).require_for_new_work(100)
    assert caught.value.facts == {"free_bytes": 1099, "kept_bytes": 1000}


def test_outputs_leave_the_part_of_the_journal() -> None:
    space(350).require_for_outputs(100)
    with pytest.raises(DiskFull):
        space(349).require_for_outputs(100)


def test_without_a_reserve_everything_is_accepted() -> None:
    DiskSpace(Path("/data"), reserve_bytes=0, free_bytes=lambda _: 0).require_for_new_work()
