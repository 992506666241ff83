"""Failed attempts to join are counted, and each gets the error of its own."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from tradepost.errors import InvalidJoinToken, QuotaExceeded
from tradepost.protocol import JoinReply, JoinRequest
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.testing import ManualClock
from tradepost_broker.web import workers
from tradepost_broker.web.workers import WorkerEndpoints

REQUEST = JoinRequest(token="guess", public_key=b"", signature=b"", device="fake")


class FailingJoins:
    """Refuses each attempt, the first of them once `count` are being decided."""

    def __init__(self, count: int) -> None:
        self._decided = asyncio.Barrier(count)

    def known_token(self, token: str) -> str:
        """Somebody's."""
        return f"token {token}"

    async def join(self, request: JoinRequest) -> JoinReply:
        """Refuse."""
        await self._decided.wait()
        raise InvalidJoinToken("it is unknown or expired")


async def test_attempts_that_fail_at_once_get_the_error_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_body(*_: object) -> JoinRequest:
        return REQUEST

    monkeypatch.setattr(workers, "read_body", read_body)
    failures = RateLimit(burst=2, per_s=0.0001, monotonic=ManualClock())
    others = cast(Any, None)
    endpoints = WorkerEndpoints(
        joins=cast(Any, FailingJoins(4)), standings=others, streams=others, failures=failures
    )
    request = make_mocked_request("POST", "/v1/workers")
    errors = await asyncio.gather(*(endpoints.join(request) for _ in range(4)), return_exceptions=True)
    assert [type(error) for error in errors] == [InvalidJoinToken] * 4
    with pytest.raises(QuotaExceeded, match="failed attempts to join"):
        await endpoints.join(request)
