"""Who stands for a worker's failures, and how that is forgotten and withdrawn."""

from __future__ import annotations

import pytest

from tradepost_reputation import BlameRecord, Witnesses, has_room

HALF_LIFE_DAYS = 30.0


def test_accounts_and_owners_are_counted_apart_and_names_together() -> None:
    record = BlameRecord(HALF_LIFE_DAYS)
    record.add(Witnesses("alice", "bob"), 1)
    record.add(Witnesses("carol", "bob"), 1)
    assert record.by_accounts({"alice"}, 1) == 1
    assert record.by_accounts({"alice", "carol", "unknown"}, 1) == 2
    assert record.by_partners({"bob"}, 1) == 2
    assert record.by_partners({"alice"}, 1) == record.by_accounts({"bob"}, 1) == 0


def test_it_halves_in_a_half_life_and_not_before_there_is_room() -> None:
    record = BlameRecord(HALF_LIFE_DAYS)
    for _ in range(2):
        record.add(Witnesses("alice", "bob"), 0)
    found = [record.by_accounts({"alice"}, day) for day in (0, 29, 30)]
    assert found == [2.0, pytest.approx(2 * 0.5 ** (29 / 30)), 1.0]
    assert [has_room(one, 2) for one in found] == [False, False, True]


@pytest.mark.parametrize("after_days", [0, 1, 17, 400])
def test_what_is_withdrawn_leaves_the_room_that_was_there_before(after_days: int) -> None:
    record = BlameRecord(HALF_LIFE_DAYS)
    record.add(Witnesses("alice", "bob"), 3)
    record.add(Witnesses("alice", "bob"), 3 + after_days, amount=-(0.5 ** (after_days / HALF_LIFE_DAYS)))
    assert record.by_accounts({"alice"}, 3 + after_days) == pytest.approx(0.0)
    record.add(Witnesses("alice", "bob"), 3 + after_days)
    assert has_room(record.by_partners({"bob"}, 3 + after_days), 2)
