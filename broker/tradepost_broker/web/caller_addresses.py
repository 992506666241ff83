"""Which address a request comes from, as limits count it.

Anyone can send `X-Forwarded-For`, so it counts only where a proxy that the operator has named has sent it:
and then only the part that this proxy added itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from aiohttp import web

#: The address groups of the proxies that the operator trusts.
TRUSTED_PROXIES: Final = web.AppKey("trusted_proxies", frozenset[str])
_FORWARDED_FOR: Final = "X-Forwarded-For"
#: One IPv6 subscriber has at least this prefix to itself; addresses within it cost nothing.
_PREFIX_BITS_V6: Final = 64


def address_group(address: str) -> str:
    """What limits count `address` as: an IPv4 address by itself, an IPv6 address by its /64 prefix."""
    try:
        parsed = ipaddress.ip_address(address.strip().partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _PREFIX_BITS_V6), strict=False))


def forwarded_group(peer: str, forwarded: Iterable[str], trusted: frozenset[str]) -> str:
    """The group of the nearest address that is no trusted proxy.

    `forwarded` are the values of `X-Forwarded-For`, to which each proxy has added its peer at the end.
    """
    group = address_group(peer)
    hops = [hop.strip() for value in forwarded for hop in value.split(",") if hop.strip()]
    while group in trusted and hops:
        group = address_group(hops.pop())
    return group


def caller_group(request: web.Request) -> str:
    """The group of the address that made the request."""
    forwarded = request.headers.getall(_FORWARDED_FOR, [])
    return forwarded_group(request.remote or "", forwarded, request.app[TRUSTED_PROXIES])
