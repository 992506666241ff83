"""What aiohttp's server logs: malformed requests in one line each, defects with their traceback."""

from __future__ import annotations

import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_REASON_CHARS_MAX: Final = 100
#: What aiohttp raises for a request that it cannot parse, and for a body that it cannot decode.
_MALFORMED: Final = (HttpProcessingError, web.RequestPayloadError)


class ServerLog(logging.LoggerAdapter[logging.Logger]):
    """The logger of a broker's server, for `aiohttp.web.AppRunner`.

    aiohttp logs a request that it cannot parse as an error with a traceback, and anybody can send one. Here
    it is one line at INFO, and the log's `RepeatLimit` leaves out such lines where many come.
    """

    def __init__(self) -> None:
        super().__init__(logging.getLogger(__name__), {})

    def exception(self, msg: object, *args: object, exc_info: Any = True, **options: Any) -> None:
        """Log a malformed request in one line, and any other exception as an error with its traceback."""
        if isinstance(exc_info, _MALFORMED):
            self.logger.info(
                "A malformed HTTP request was rejected: %s",
                ": ".join([*map(str, args), describe_malformed(exc_info)]),
                extra={"action": "malformed_request"},
            )
        else:
            self.logger.exception(msg, *args, exc_info=exc_info, **options, extra={"action": "defect"})


def describe_malformed(error: Exception) -> str:
    """Why a request is malformed, in at most 100 characters, without the bytes that aiohttp shows below."""
    first, _, rest = getattr(error, "message", str(error)).partition("\n")
    reason = first if not first.startswith("400, message:") else rest.strip().partition("\n")[0]
    return reason.removesuffix(":")[:_REASON_CHARS_MAX]
