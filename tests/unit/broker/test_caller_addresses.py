"""Whom a request comes from: the peer, unless a proxy that the operator trusts names another."""

from __future__ import annotations

import pytest

from tradepost_broker.web.caller_addresses import address_group, forwarded_group

PROXY = frozenset({"127.0.0.1", "10.0.0.1"})


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("not an address", "not an address"),
    ],
)
def test_addresses_of_one_subscriber_are_one_group(address: str, group: str) -> None:
    assert address_group(address) == group


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # anyone can send the header
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", ["1.2.3.4, 198.51.100.7"], "198.51.100.7"),  # the caller wrote what stands before
        ("127.0.0.1", ["1.2.3.4", "198.51.100.7 , 10.0.0.1"], "198.51.100.7"),
        ("127.0.0.1", ["10.0.0.1"], "10.0.0.1"),
    ],
)
def test_only_a_trusted_proxy_is_believed(peer: str, forwarded: list[str], caller: str) -> None:
    assert forwarded_group(peer, forwarded, PROXY) == caller
