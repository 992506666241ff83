"""Broker addresses: which are accepted, and how a reply that is an error becomes that error."""

from __future__ import annotations

import ipaddress
from typing import NoReturn

import aiohttp
import msgspec
from yarl import URL

from tradepost.errors import (
    UNDECODABLE,
    BrokerUnavailable,
    InsecureTransport,
    InvalidSettings,
    Problem,
    TradepostError,
)

_PROBLEM_BYTES_MAX = 64 << 10


def parse_broker_url(text: str) -> URL:
    """The base URL. Raises `InvalidSettings`, or `InsecureTransport` for plain HTTP beyond loopback."""
    try:
        url = URL(text.rstrip("/"))
    except ValueError as error:
        raise InvalidSettings(f"broker URL {text!r}: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.user:
        raise InvalidSettings(f"broker URL {text!r}: give http(s)://host[:port]")
    if url.scheme == "http" and not is_loopback(url.host):
        raise InsecureTransport(f"{text} is not on this machine")
    return url


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback. Only literals and `localhost` qualify."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def raise_for_problem(response: aiohttp.ClientResponse) -> None:
    """Raise the error that an unsuccessful response carries as `application/problem+json`."""
    if response.status < 400:
        return
    body = await response.content.read(_PROBLEM_BYTES_MAX)
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except UNDECODABLE:
        raise BrokerUnavailable(
            f"{response.url.host} answered {response.status} {response.reason}, not as a broker does"
        ) from None
    raise TradepostError.from_problem(problem)


def raise_unavailable(url: URL, error: Exception) -> NoReturn:
    """Raise `BrokerUnavailable` for a connection that failed."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        raise BrokerUnavailable(
            f"{url}: {error}",
            hint="Install the system's certificate authorities (on Debian: ca-certificates), or name the "
            "operator's own in SSL_CERT_FILE.",
        ) from error
    raise BrokerUnavailable(f"{url}: {error or type(error).__name__}") from error
