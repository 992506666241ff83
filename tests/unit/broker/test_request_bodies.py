"""Bodies are counted as they arrive, for a caller who is named only where a body is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from tradepost.errors import ContentTooLarge, InlineInputTooLarge
from tradepost.protocol import JobRequest
from tradepost_broker.access.caller_limits import ConcurrencyLimit
from tradepost_broker.access.credentials import Credentials
from tradepost_broker.web import endpoints
from tradepost_broker.web.endpoints import ACCOUNT, Access, Endpoint, guarded, read_body
from tradepost_broker.web.request_bodies import BODIES, body_allowed, read_bytes


class CountingLimit(ConcurrencyLimit):
    """Notes what is taken, in order."""

    def __init__(self) -> None:
        super().__init__("bytes of request bodies at once", total=1 << 20, each=1 << 20)
        self.amounts: list[int] = []

    @contextmanager
    def take(self, key: str, amount: int = 1) -> Iterator[None]:
        """Note it, and take it."""
        self.amounts.append(amount)
        with super().take(key, amount):
            yield


class Pieces:
    """A body that arrives in these pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = iter(pieces)

    async def readany(self) -> bytes:
        """The next of them."""
        return next(self._pieces, b"")


def request_with(
    pieces: Sequence[bytes], *, path: str = "/v1/blocks/x", headers: dict[str, str] | None = None
) -> web.Request:
    """A request whose body comes in `pieces`."""
    app = web.Application()
    app[BODIES] = CountingLimit()
    payload: Any = Pieces(pieces)
    return make_mocked_request("PUT", path, headers=headers, app=app, payload=payload)


@pytest.mark.parametrize(
    ("pieces", "amounts"),
    [
        ([b"x" * 100_000, b"x" * 14_688, b"x" * 30_000], [7 << 14, 2 << 14]),
        ([b"x"] * 40_000, [1 << 14] * 3),
        ([], []),
    ],
    ids=["large pieces", "byte by byte", "empty"],
)
async def test_a_body_is_counted_once_a_piece_and_in_steps(pieces: list[bytes], amounts: list[int]) -> None:
    request = request_with(pieces)
    bodies = cast(CountingLimit, request.app[BODIES])
    with body_allowed(request, "account alice", bytes_max=200_000):
        assert await read_bytes(request) == b"".join(pieces)
        assert bodies.amounts == amounts
        assert bodies.taken == sum(amounts), "it counts until the request is answered"
    assert bodies.taken == 0


@pytest.mark.parametrize("headers", [{"Content-Length": "1001"}, {}], ids=["declared", "chunked"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v2/jobs"])
async def test_a_body_that_is_too_large_is_an_inline_input_where_a_job_is_read(
    path: str, headers: dict[str, str]
) -> None:
    for read, error in (
        (read_bytes, ContentTooLarge),
        (lambda request: read_body(request, dict), ContentTooLarge),
        (lambda request: read_body(request, JobRequest), InlineInputTooLarge),
    ):
        request = request_with([b"x" * 1_001], path=path, headers=headers)
        with body_allowed(request, "account alice", bytes_max=1_000), pytest.raises(error):
            await read(request)


async def test_addresses_are_parsed_only_for_callers_without_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[str] = []

    def caller_group(request: web.Request) -> str:
        parsed.append(request.path)
        return "127.0.0.1"

    monkeypatch.setattr(endpoints, "caller_group", caller_group)

    class Known:
        """Knows everyone."""

        def account_of(self, key: str) -> str:
            return "alice"

        def check_operator(self, token: str) -> None:
            """It is."""

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.get(ACCOUNT) == ("alice" if request.path == "/account" else None)
        return web.Response()

    for access in Access:
        endpoint = Endpoint(method="GET", path=f"/{access}", handler=handler, access=access)
        handle = guarded(endpoint, cast(Credentials, Known()))
        await handle(request_with([], path=f"/{access}", headers={"Authorization": "Bearer key"}))
    assert parsed == ["/public", "/lease"]
