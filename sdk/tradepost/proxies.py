"""The HTTP proxy through which a URL is reached, as the environment names it.

`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` count, in capitals or not, as for other programs.
Loopback is never reached through a proxy: a proxy has a loopback of its own. Nothing else is taken from the
environment, above all no password from a `.netrc` file.
"""

from __future__ import annotations

from urllib.request import getproxies_environment

from yarl import URL

from tradepost.errors import InvalidSettings
from tradepost.http_url import is_loopback


def proxy_for(url: URL) -> URL | None:
    """The proxy for `url`; `None` if it is reached directly.

    HTTPS goes through a tunnel (`CONNECT`), WebSockets too, so the proxy sees the host and no content. Raises
    `InvalidSettings` for a proxy that is no HTTP proxy.
    """
    proxies = getproxies_environment()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or is_loopback(url.host or "") or _is_exempt(url, proxies.get("no", "")):
        return None
    try:
        found = URL(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        found = URL()
    if found.scheme not in ("http", "https") or not found.host:
        # Without its text, in which there may be a password.
        raise InvalidSettings(
            f"the proxy for {url.scheme} in the environment is not an HTTP proxy",
            hint="Set HTTPS_PROXY to http://host:port, or exempt the host with NO_PROXY.",
        )
    return found


def _is_exempt(url: URL, no_proxy: str) -> bool:
    """Whether `NO_PROXY` has the host, with this port or none, or a domain that it is in."""
    host = (url.host or "").lower()
    for entry in no_proxy.lower().replace(" ", "").split(","):
        name = entry.removesuffix(f":{url.port}").lstrip(".")
        if name and (name in ("*", host) or host.endswith(f".{name}")):
            return True
    return False
