"""What a worker waits for while it prepares a lease, and what it gives up on at once."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from tradepost.errors import BrokerUnavailable, ContentUnavailable, TradepostError
from tradepost_worker.link.connection import until_reached


class AtOnce(Random):
    def uniform(self, a: float, b: float) -> float:
        return 0.0


def unavailable(**sources: str) -> ContentUnavailable:
    return ContentUnavailable("a block", sources=sources)


async def reached(*errors: TradepostError) -> str:
    """What comes of a call that fails so, once after the other, and then succeeds."""
    left: Iterator[TradepostError] = iter(errors)

    async def call() -> str:
        for error in left:
            raise error
        return "here"

    return await until_reached(call, rng=AtOnce())


@pytest.mark.parametrize(
    "error",
    [
        BrokerUnavailable("away"),
        unavailable(broker="source-failed"),
        unavailable(broker="source-failed", gateway="content-mismatch"),
        unavailable(broker="source-failed", gateway="unknown-cid"),
    ],
    ids=["the broker", "a source", "beside one that lies", "beside one that lacks it"],
)
async def test_what_may_come_back_is_asked_again(error: TradepostError) -> None:
    assert await reached(error, error, error) == "here"


@pytest.mark.parametrize(
    "error",
    [unavailable(broker="content-mismatch"), unavailable(broker="unknown-cid", gateway="content-mismatch")],
    ids=["it lies", "no other has it"],
)
async def test_what_no_waiting_helps_is_raised(error: TradepostError) -> None:
    with pytest.raises(ContentUnavailable):
        await reached(error)
