"""Request bodies that are read into memory: how large each may be, and all of them together.

What has arrived counts until the request is answered, so that bodies that stall cannot fill the memory: not
those from one caller, which is an account, or an address where no account is known, and not all together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from tradepost.errors import ContentTooLarge, InvalidRequest
from tradepost.protocol import INLINE_BYTES_MAX
from tradepost_broker.access.caller_limits import ConcurrencyLimit
from tradepost_broker.web.slow_peers import body_pieces

#: What a body of JSON may have, unless its endpoint says otherwise.
BODY_BYTES_MAX: Final = 64 << 10
#: For bodies with a document of up to 1 MiB, which base64 makes a third longer, and what is around it.
DOCUMENT_BODY_BYTES_MAX: Final = INLINE_BYTES_MAX * 4 // 3 + (512 << 10)
#: How long a body may take to arrive.
BODY_S_MAX: Final = 60.0
#: Bytes of bodies in memory, in total and from one caller.
BODIES_BYTES_MAX: Final = 256 << 20
BODIES_BYTES_EACH_MAX: Final = 64 << 20
#: A body counts in steps, so that counting one that comes byte by byte takes no memory itself.
_STEP_BYTES: Final = 16 << 10
#: The limit that an application counts its bodies with.
BODIES: Final = web.AppKey("bodies", ConcurrencyLimit)


@dataclass(frozen=True)
class _Allowance:
    caller: str
    bytes_max: int
    held: ExitStack


_ALLOWANCE: Final = web.RequestKey("body_allowance", _Allowance)


@contextmanager
def body_allowed(request: web.Request, caller: str, *, bytes_max: int) -> Iterator[None]:
    """Let `read_bytes` read the request's body, which counts for `caller` until the context ends."""
    with ExitStack() as held:
        request[_ALLOWANCE] = _Allowance(caller, bytes_max, held)
        yield


async def read_bytes(request: web.Request) -> bytes:
    """The request's whole body, which must come within `BODY_S_MAX`.

    Raises `ContentTooLarge`, `QuotaExceeded` or `InvalidRequest`.
    """
    allowance, bodies = request[_ALLOWANCE], request.app[BODIES]
    if (request.content_length or 0) > allowance.bytes_max:
        raise _too_large(allowance.bytes_max)
    body = bytearray()
    counted_bytes = 0
    try:
        async with asyncio.timeout(BODY_S_MAX):
            async for piece in body_pieces(request):
                body += piece
                if len(body) > allowance.bytes_max:
                    raise _too_large(allowance.bytes_max)
                if (missing_bytes := len(body) - counted_bytes) > 0:
                    amount = -(-missing_bytes // _STEP_BYTES) * _STEP_BYTES
                    allowance.held.enter_context(bodies.take(allowance.caller, amount))
                    counted_bytes += amount
    except TimeoutError:
        raise InvalidRequest(f"the body did not arrive within {BODY_S_MAX:g} s") from None
    return bytes(body)


def _too_large(limit_bytes: int) -> ContentTooLarge:
    return ContentTooLarge(f"the body is larger than {limit_bytes:,} bytes", limit_bytes=limit_bytes)
