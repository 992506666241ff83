"""One HTTP request to a broker, and the error that its answer carries."""

from __future__ import annotations

import io

import aiohttp
import msgspec

from tradepost.errors import Problem, TradepostError


async def ask(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[aiohttp.ClientResponse, bytes]:
    """The response with its body."""
    data = None if body is None else io.BytesIO(body)
    async with session.request(method, url, headers=headers, data=data) as response:
        return response, await response.read()


def refusal(response: aiohttp.ClientResponse, body: bytes) -> TradepostError:
    """The error with which a request was refused, once its response is what RFC 9457 says."""
    problem = msgspec.json.decode(body, type=Problem)
    assert response.content_type == "application/problem+json"
    assert response.status == problem.status
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if problem.status == 401 else None)
    error = TradepostError.from_problem(problem)
    assert (error.title(), error.fault.value) == (problem.title, problem.fault)
    return error
