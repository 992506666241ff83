"""What the fake brokers share: they show errors, open streams and close them as the real broker does.

`tests/contract` runs one suite over the fakes and the real broker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import WSCloseCode, web

from tradepost.content import BLOCK_BYTES_MAX
from tradepost.errors import UNDECODABLE, ContentTooLarge, InvalidRequest, Problem, TradepostError
from tradepost.protocol import HEARTBEAT_S, MESSAGE_BYTES_MAX, too_large_inline
from tradepost.schema_errors import describe_mismatch

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: RFC 6455 leaves 123 bytes for a closing reason.
_REASON_BYTES_MAX = 123


def fake_application(routes: list[web.RouteDef]) -> web.Application:
    """An application whose errors leave as `application/problem+json`."""
    app = web.Application(client_max_size=BLOCK_BYTES_MAX, middlewares=[_errors_as_problems])
    app.add_routes(routes)
    return app


def json_response(body: object, *, status: int = 200) -> web.Response:
    """A struct, or what JSON has, as the response's body."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


async def read_json(request: web.Request, kind: type[T]) -> T:
    """The request's body, as JSON of this kind. Raises `InvalidRequest`."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except UNDECODABLE as error:
        raise InvalidRequest(describe_mismatch(error, whole="the body")) from None


async def open_socket(request: web.Request) -> web.WebSocketResponse:
    """The request's WebSocket. Raises `InvalidRequest` where the request is not an upgrade to one."""
    socket = web.WebSocketResponse(max_msg_size=MESSAGE_BYTES_MAX, heartbeat=HEARTBEAT_S, compress=False)
    if not socket.can_prepare(request).ok:
        raise InvalidRequest(f"{request.path} is a WebSocket: ask for an upgrade")
    await socket.prepare(request)
    return socket


async def refuse(socket: web.WebSocketResponse, error: TradepostError, last_message: bytes = b"") -> None:
    """Close a stream because of what its peer did, after a last message if there is one."""
    with contextlib.suppress(ConnectionError):
        if last_message:
            await socket.send_bytes(last_message)
    reason = str(error).encode()[:_REASON_BYTES_MAX]
    await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason)


@web.middleware
async def _errors_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except TradepostError as error:
        return _problem_response(error.to_problem())
    except web.HTTPRequestEntityTooLarge as error:
        if request.path == "/v1/jobs":
            return _problem_response(too_large_inline().to_problem())
        return _problem_response(ContentTooLarge(f"the body is too large: {error.text}").to_problem())
    except web.HTTPException as error:
        if error.status < 400:
            raise
        problem = InvalidRequest(f"{request.method} {request.path}: {error.reason}").to_problem()
        return _problem_response(msgspec.structs.replace(problem, status=error.status))


def _problem_response(problem: Problem) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(problem),
        status=problem.status,
        content_type="application/problem+json",
        headers={"WWW-Authenticate": "Bearer"} if problem.status == 401 else {},
    )
