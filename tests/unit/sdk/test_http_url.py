"""Addresses of brokers and gateways: plain HTTP stays on this machine."""

from __future__ import annotations

import pytest

from tradepost.broker_url import parse_broker_url
from tradepost.errors import InsecureTransport, InvalidSettings
from tradepost.http_url import is_loopback, parse_http_url


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8700", "http://localhost:1", "http://[::1]:8700", "https://broker.example/"]
)
def test_accepted(text: str) -> None:
    assert parse_broker_url(text).host


@pytest.mark.parametrize(
    "text", ["http://192.168.1.2:8700", "http://broker.example", "http://127.0.0.1.example", "http://0.0.0.0"]
)
def test_plain_http_beyond_this_machine_is_refused(text: str) -> None:
    with pytest.raises(InsecureTransport):
        parse_broker_url(text)


@pytest.mark.parametrize(
    "text",
    ["", "ftp://127.0.0.1", "127.0.0.1:8700", "http://", "http://u:p@localhost", "http://localhost/?a=1"],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings):
        parse_broker_url(text)


def test_only_literals_are_loopback() -> None:
    assert is_loopback("127.9.9.9")
    assert not is_loopback("localhost.example")


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://example.org", InvalidSettings),
        ("example.org", InvalidSettings),
        ("https://user:secret@example.org", InvalidSettings),
        ("https://example.org?x=1", InvalidSettings),
        ("http://example.org", InsecureTransport),
        ("http://[::1", InvalidSettings),
    ],
)
def test_other_addresses_are_no_gateways(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_http_url(url, of="gateway")


def test_gateways_are_named_by_their_base() -> None:
    assert str(parse_http_url("https://trustless.example/", of="gateway")) == "https://trustless.example"
    assert str(parse_http_url("http://127.0.0.1:8080", of="gateway")) == "http://127.0.0.1:8080"
