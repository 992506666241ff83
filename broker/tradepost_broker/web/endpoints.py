"""Endpoints: one declaration each, from which routes, access checks and the OpenAPI document are made.

Access is part of the declaration and checked before the handler runs, so no handler can forget it. Bodies are
structs of `tradepost.protocol` as JSON; every error, expected or not, leaves as `application/problem+json`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from tradepost.errors import (
    UNDECODABLE,
    ContentTooLarge,
    Fault,
    InvalidRequest,
    Problem,
    TradepostError,
    Unauthorized,
)
from tradepost.protocol import INLINE_BYTES_MAX, JobRequest, too_large_inline
from tradepost.schema_errors import describe_mismatch
from tradepost_broker.access.credentials import Credentials
from tradepost_broker.web.caller_addresses import caller_group
from tradepost_broker.web.request_bodies import BODY_BYTES_MAX, body_allowed, read_bytes

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: The account that an API key belongs to, set for endpoints with `Access.ACCOUNT`.
ACCOUNT: Final = web.RequestKey("account", str)
JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"
WAIT_S_MAX: Final = 60.0
_SECONDS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{0,9})?")

log = logging.getLogger(__name__)


class Access(StrEnum):
    """Who may call an endpoint."""

    PUBLIC = "public"
    ACCOUNT = "account"  # an API key: Authorization: Bearer <key>
    OPERATOR = "operator"  # the operator's token: Authorization: Bearer <token>
    LEASE = "lease"  # an open lease's nonce: Authorization: Lease <hex>; the handler checks it


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One method of one path. `body` and `reply` are structs, or `bytes` for content of type `media`.

    `route` is the path as aiohttp's router has it, where that is not `path`; `body_media` is the type of a
    body of `bytes`. A body that `read_bytes` reads may have `body_bytes_max`. The handler's docstring is the
    endpoint's description.
    """

    method: str
    path: str
    handler: Handler
    access: Access = Access.PUBLIC
    body: Any = None
    reply: Any = None
    status: int = 200
    media: str = JSON
    body_media: str = "application/octet-stream"
    body_bytes_max: int = BODY_BYTES_MAX
    route: str = ""


def guarded(endpoint: Endpoint, credentials: Credentials) -> Handler:
    """The handler, behind the endpoint's access check."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if endpoint.access is Access.ACCOUNT:
            request[ACCOUNT] = credentials.account_of(_bearer(request))
            caller = f"account {request[ACCOUNT]}"
        elif endpoint.access is Access.OPERATOR:
            credentials.check_operator(_bearer(request))
            caller = "operator"
        else:
            caller = caller_group(request)
        with body_allowed(request, caller, bytes_max=endpoint.body_bytes_max):
            return await endpoint.handler(request)

    return handle


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The request's JSON body.

    Raises what `read_bytes` raises, and `InvalidRequest`; for a job `InlineInputTooLarge`, whose input alone
    can be too large, instead of `ContentTooLarge`.
    """
    try:
        data = await read_bytes(request)
    except ContentTooLarge:
        if kind is JobRequest:
            raise too_large_inline() from None
        raise
    try:
        return msgspec.json.decode(data, type=kind)
    except UNDECODABLE as error:
        if kind is JobRequest and _is_inline_too_large(data):
            raise too_large_inline() from None
        raise InvalidRequest(describe_mismatch(error, whole="the body")) from None


class _Inline(msgspec.Struct):
    """The part of a `JobRequest` whose excess has an error of its own."""

    input: bytes | None = None


def _is_inline_too_large(data: bytes) -> bool:
    try:
        return len(msgspec.json.decode(data, type=_Inline).input or b"") > INLINE_BYTES_MAX
    except UNDECODABLE:
        return False


def read_limit(request: web.Request, default: int, limit_max: int) -> int:
    """How many entries the request's `limit` asks for: 1 to `limit_max`. Raises `InvalidRequest`."""
    text = request.query.get("limit", str(default))
    # Other scripts have decimals, too, and Python refuses to read a number of thousands of digits.
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(limit_max))
    if not is_number or not 0 < int(text) <= limit_max:
        raise InvalidRequest(f"limit is {text[:20]!r}; it must be 1 to {limit_max}")
    return int(text)


def read_wait_s(request: web.Request) -> float:
    """How long the request's `wait_s` lets the reply wait, in seconds: 0 to 60. Raises `InvalidRequest`."""
    text = request.query.get("wait_s", "0")
    # `float` reads the digits of every script, underscores and blanks.
    wait_s = float(text) if _SECONDS.fullmatch(text) else math.nan
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise InvalidRequest(f"wait_s is {text!r}; it must be 0 to {WAIT_S_MAX:g} seconds")
    return wait_s


def reply(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON response."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type=JSON, headers=headers or {}
    )


def problem_response(problem: Problem) -> web.Response:
    """The response that carries a problem."""
    return web.Response(
        body=msgspec.json.encode(problem),
        status=problem.status,
        content_type=PROBLEM_JSON,
        headers=_problem_headers(problem),
    )


def _problem_headers(problem: Problem) -> dict[str, str]:
    """What RFC 9110 has a status say in a header."""
    if problem.status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if problem.status == 416:
        return {"Content-Range": f"bytes */{problem.facts['size']}"}
    return {}


@web.middleware
async def errors_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where errors become responses. A defect is logged, and shown without its insides."""
    try:
        return await handler(request)
    except TradepostError as error:
        return problem_response(error.to_problem())
    except web.HTTPException as error:
        if error.status < 400:
            raise
        problem = InvalidRequest(f"{request.method} {request.path}: {error.reason}").to_problem()
        return problem_response(msgspec.structs.replace(problem, status=error.status))
    except ConnectionError:
        # The client hung up, so this goes nowhere.
        return problem_response(InvalidRequest("the connection broke").to_problem())
    except Exception:
        log.exception("Request failed: %s %s", request.method, request.path, extra={"action": "defect"})
        problem = Problem(
            code="internal-error",
            title="The broker failed to process this request.",
            fault=Fault.BROKER.value,
            hint="Ask the operator: the reason is in the broker's log.",
        )
        return problem_response(problem)


def _bearer(request: web.Request) -> str:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Unauthorized("there is no `Authorization: Bearer` header")
    return secret.strip()
