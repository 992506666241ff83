"""A worker's state is explained by what put it there and what would change it."""

from __future__ import annotations

import pytest

from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.reporting.standing_sentences import why_standing
from tradepost_reputation.dashboard import WorkerView


def worker(
    *, standing: str = "active", connected: bool = True, price: int | None = 5, room: int = 64
) -> WorkerView:
    return WorkerView(
        worker="w",
        owner="bob",
        device="d",
        auditor=False,
        standing=standing,
        connected=connected,
        joined_at=1.0,
        price_per_unit_microcredits=price,
        capacity=room,
        score=0.12,
        accepted=0,
        stake_microcredits=0,
        held_microcredits=0,
        earned_microcredits=0,
        slashed_microcredits=0,
        evidence_counts={},
    )


@pytest.mark.parametrize(
    ("shown", "capacity", "sentence"),
    [
        (
            worker(standing="expelled", connected=False),
            0,
            "Reference runs proved",
        ),
        (worker(standing="suspended"), 0, "Its score fell to 0.12; below 0.20, a worker gets no leases."),
        (worker(connected=False), 0, "It may work, but it is not connected."),
        (worker(price=None, room=0), 0, "it has sent no offer"),
        (worker(), 0, "its engines are older than the operator's revocation list allows"),
        (
            worker(),
            4,
            "up to 4 leases at once. It offers room for 64, and gets all of it",
        ),
        (worker(room=1), 1, "up to 1 lease at once, all that it offers room for."),
    ],
)
def test_each_state_has_its_reason(shown: WorkerView, capacity: int, sentence: str) -> None:
    assert sentence in why_standing(shown, capacity=capacity, policy=MarketPolicy())
