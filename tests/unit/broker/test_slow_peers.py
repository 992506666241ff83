"""Peers who take their time, and how many are served at once."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from tradepost.errors import QuotaExceeded
from tradepost_broker.access.caller_limits import ConcurrencyLimit
from tradepost_broker.web.slow_peers import RATE_MIN_BYTES_S, WAIT_S_MAX, Patience, send


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


async def test_patience_wears_off_by_waiting_and_grows_with_what_gets_through() -> None:
    clock = Clock()
    patience = Patience(monotonic=clock)
    assert patience.left_s == WAIT_S_MAX
    async with patience.wait():
        clock.now_s += 50
    assert patience.left_s == WAIT_S_MAX - 50
    patience.count(40 * RATE_MIN_BYTES_S)
    assert patience.left_s == WAIT_S_MAX - 10
    patience.count(1 << 40)
    assert patience.left_s == WAIT_S_MAX  # however much came before, nobody waits longer at once


async def test_who_trickles_is_given_up_however_often_something_comes() -> None:
    clock = Clock()
    patience = Patience(monotonic=clock)
    pieces = 0
    while patience.left_s > 0:
        async with patience.wait():
            clock.now_s += 1
        patience.count(1)
        pieces += 1
    assert pieces == WAIT_S_MAX + 1
    with pytest.raises(TimeoutError):
        async with patience.wait():
            await asyncio.Event().wait()


class Unread(web.Response):
    """An answer that nobody reads."""

    async def prepare(self, request: web.BaseRequest) -> None:
        await asyncio.Event().wait()


class HungUp(web.Response):
    """An answer to somebody who is gone."""

    async def prepare(self, request: web.BaseRequest) -> None:
        raise ConnectionResetError


async def test_an_answer_that_nobody_reads_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tradepost_broker.web.slow_peers.WAIT_S_MAX", 0.01)
    transport = Mock()
    await send(make_mocked_request("GET", "/a%0Ab?key=secret", transport=transport), Unread(body=b"x"))
    transport.abort.assert_called_once_with()
    (record,) = caplog.records
    assert record.__dict__["action"] == "answer_cut"
    assert record.__dict__["path"] == "/a%0Ab"


async def test_somebody_who_hung_up_is_nobodys_error(caplog: pytest.LogCaptureFixture) -> None:
    transport = Mock()
    await send(make_mocked_request("GET", "/", transport=transport), HungUp())
    transport.abort.assert_not_called()
    assert caplog.records == []


def test_what_goes_on_at_once_is_bounded_in_all_and_for_each() -> None:
    at_once = ConcurrencyLimit("things", total=5, each=3)
    with at_once.take("a", 3):
        with pytest.raises(QuotaExceeded, match="more than 3 for one caller or 5 in total"):
            at_once.take("a").__enter__()
        with at_once.take("b", 2), pytest.raises(QuotaExceeded):
            at_once.take("c").__enter__()
        assert at_once.taken == 3
        with at_once.take("c", 2):
            assert at_once.taken == 5
    with pytest.raises(ZeroDivisionError), at_once.take("a", 3):
        _ = 1 / 0
    with at_once.take("a", 3), at_once.take("b", 2):
        assert at_once.taken == 5
    assert at_once.taken == 0
