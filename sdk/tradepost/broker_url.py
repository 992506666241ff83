"""Broker URLs: which are accepted, and how an error reply is raised as that error."""

from __future__ import annotations

import os
from typing import Final, NoReturn
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
_PROXY_ERRORS: Final = (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)
#: OpenSSL's reasons for an answer that is not TLS; which of them depends on its version.
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})


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
    # The proxy's own errors have its URL with the password, which a traceback would show.
    raise unavailable(url, error) from None if isinstance(error, _PROXY_ERRORS) else error


def unavailable(url: URL, error: Exception) -> BrokerUnavailable:
    """The error for a connection to the broker at `url` that failed: why, and what to do about it."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return BrokerUnavailable(
            f"{url}: {error}",
            hint="Install the system's certificate authorities (on Debian: ca-certificates), or set "
            "SSL_CERT_FILE to the operator's own.",
        )
    if isinstance(error, _PROXY_ERRORS):
        # Not the whole of an answer's text, which has the proxy's URL with its password.
        what = str(error)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            what = f"it answered {error.status} {error.message}"
        return BrokerUnavailable(
            f"{url}: the proxy that the environment names: {what}",
            hint="Correct HTTPS_PROXY, or exempt the broker's host with NO_PROXY.",
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return BrokerUnavailable(
            f"{url}: the TLS handshake failed: {reason_of(error)}",
            hint="Check the port of the broker's URL. A broker without a certificate serves plain HTTP: "
            "its URL begins with http://.",
        )
    if isinstance(getattr(error, "os_error", error), ConnectionRefusedError):
        return BrokerUnavailable(
            f"{url}: {reason_of(error)}",
            hint="Check that the broker is running, and that the host and port of its URL are right: no "
            "program listens there.",
        )
    if url.scheme == "http" and isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return BrokerUnavailable(
            f"{url}: {reason_of(error)}",
            hint="Check that the broker is running. If it has a certificate, its URL begins with https://.",
        )
    return BrokerUnavailable(f"{url}: {reason_of(error)}")


def is_permanent(error: Exception) -> bool:
    """Whether connecting again cannot help: a certificate that is not trusted, or a port without TLS."""
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return getattr(error.os_error, "reason", "") in _NOT_TLS
    return isinstance(error, aiohttp.ClientConnectorCertificateError)


def reason_of(error: Exception) -> str:
    """Why a connection failed or ended, in words; never empty."""
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = str(getattr(error.os_error, "reason", "") or error.os_error)
        return "the server does not use TLS" if reason in _NOT_TLS else reason.lower().replace("_", " ")
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        # The names of hosts have errors of their own, with numbers below 0.
        return os.strerror(number) if number > 0 else error.os_error.strerror or str(error)
    return str(error) or type(error).__name__
