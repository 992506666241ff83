"""Base URLs of HTTP services: which are accepted. Plain HTTP stays on this machine."""

from __future__ import annotations

import ipaddress

from yarl import URL

from tradepost.errors import InsecureTransport, InvalidSettings


def parse_http_url(text: str, *, of: str) -> URL:
    """The base URL of a service; `of` names the service in errors.

    Raises `InvalidSettings`, or `InsecureTransport` for plain HTTP beyond loopback.
    """
    try:
        url = URL(text.rstrip("/"))
    except ValueError as error:
        raise InvalidSettings(f"{of} URL {text!r}: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.user or url.fragment:
        raise InvalidSettings(f"{of} URL {text!r}: give http(s)://host[:port]")
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
