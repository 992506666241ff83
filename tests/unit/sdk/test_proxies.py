"""Which proxy a URL is reached through, from the environment."""

from __future__ import annotations

import pytest
from yarl import URL

from tradepost.errors import InvalidSettings
from tradepost.proxies import proxy_for

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "https://broker.example", None),
        ({"HTTPS_PROXY": PROXY}, "https://broker.example:8700/v1", PROXY),
        ({"https_proxy": PROXY}, "https://broker.example", PROXY),
        ({"HTTP_PROXY": PROXY}, "https://broker.example", None),
        ({"ALL_PROXY": PROXY}, "https://broker.example", PROXY),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "https://broker.example", PROXY),
        ({"HTTPS_PROXY": "http://u:p@proxy.example"}, "https://broker.example", "http://u:p@proxy.example"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "broker.example"}, "https://broker.example", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": ".example"}, "https://broker.example", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "Broker.example:443"}, "https://broker.example", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "broker.example:1"}, "https://broker.example", PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "ker.example"}, "https://broker.example", PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, "https://broker.example", None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "other.example, 10.0.0.1"}, "https://broker.example", PROXY),
        ({"HTTPS_PROXY": "", "ALL_PROXY": ""}, "https://broker.example", None),
        ({"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, "http://127.0.0.1:8700", None),
        ({"HTTP_PROXY": PROXY}, "http://localhost:8700", None),
        ({"HTTPS_PROXY": PROXY}, "https://[::1]:8700", None),
    ],
)
def test_the_proxy_of_a_url(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, expected: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(URL(url)) == (None if expected is None else URL(expected))


@pytest.mark.parametrize("proxy", ["socks5://u:secret@proxy.example:1080", "http://", "http://[broken"])
def test_what_is_no_http_proxy_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(InvalidSettings, match="is not an HTTP proxy") as caught:
        proxy_for(URL("https://broker.example"))
    assert "secret" not in caught.value.diagnostics()
