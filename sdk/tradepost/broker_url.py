"""Broker URLs: which are accepted, and how an error reply is raised as that error."""

from __future__ import annotations

import os
from typing import NoReturn
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from tradepost.errors import (
    UNDECODABLE,
    BrokerUnavailable,
    InvalidRequest,
    InvalidSettings,
    Problem,
    TradepostError,
)
from tradepost.http_url import parse_http_url

_PROBLEM_BYTES_MAX = 64 << 10
_KEY_CHARS_MAX = 512


def parse_broker_url(text: str) -> URL:
    """The base URL of a broker. Raises `InvalidSettings` or `InsecureTransport` as `parse_http_url` does."""
    return parse_http_url(text, of="broker")


def parse_api_key(text: str) -> str:
    """`text` as an API key that a header can carry, without blanks around it. Raises `InvalidSettings`."""
    key = text.strip()  # a key that was read from a file may end with the end of its line
    if not key:
        raise InvalidSettings(
            "there is no API key", hint="Pass api_key=… or set the variable TRADEPOST_API_KEY."
        )
    if not (key.isascii() and key.isprintable()):
        raise InvalidSettings("the API key contains characters that no API key has", hint="Copy it again.")
    if len(key) > _KEY_CHARS_MAX:
        raise InvalidSettings(
            f"the API key has {len(key):,} characters; no API key has more than {_KEY_CHARS_MAX}",
            hint="Pass the key itself, not a file's content or a document.",
        )
    return key


def endpoint(broker: URL, path: str, *ids: str) -> URL:
    """The URL of an endpoint: `path` as the documents write it, with an id for each `{}` in it.

    An id is quoted, so that one with `/`, `..` or `?` names nothing else. Raises `InvalidRequest` for an
    empty one.
    """
    if not all(ids):
        raise InvalidRequest("an id is empty", hint="Give the id as the command that made it printed it.")
    # A dot is never quoted, but a path of dots would lead elsewhere.
    quoted = [
        quote(one, safe="").replace(".", "%2E") if not one.strip(".") else quote(one, safe="") for one in ids
    ]
    return URL(f"{str(broker).rstrip('/')}/{path.format(*quoted)}", encoded=True)


async def raise_for_problem(response: aiohttp.ClientResponse) -> None:
    """Raise the error that an unsuccessful response carries as `application/problem+json`."""
    if response.status < 400:
        return
    body = await response.content.read(_PROBLEM_BYTES_MAX)
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except UNDECODABLE:
        raise BrokerUnavailable(
            f"{response.url.host} answered {response.status} {response.reason}; it may not be a broker"
        ) from None
    raise TradepostError.from_problem(problem)


def raise_unavailable(url: URL, error: Exception) -> NoReturn:
    """Raise `BrokerUnavailable` for a connection that failed."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        raise BrokerUnavailable(
            f"{url}: {error}",
            hint="Install the system's certificate authorities (on Debian: ca-certificates), or set "
            "SSL_CERT_FILE to the operator's own.",
        ) from error
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        # Not the whole of an answer's text, which has the proxy's URL with its password.
        what = str(error)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            what = f"it answered {error.status} {error.message}"
        raise BrokerUnavailable(
            f"{url}: the proxy that the environment names: {what}",
            hint="Correct HTTPS_PROXY, or exempt the broker's host with NO_PROXY.",
        ) from None
    raise BrokerUnavailable(f"{url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        # The names of hosts have errors of their own, with numbers below 0.
        return os.strerror(number) if number > 0 else error.os_error.strerror or str(error)
    return str(error) or type(error).__name__
