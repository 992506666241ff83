"""The operator's client: finds the broker on this machine by the files in its data folder."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from tradepost.broker_url import endpoint, parse_broker_url, raise_for_problem, raise_unavailable
from tradepost.errors import (
    UNDECODABLE,
    BrokerUnavailable,
    InvalidSettings,
    ProtocolError,
    Unauthorized,
)
from tradepost.proxies import proxy_for
from tradepost.schema_errors import describe_mismatch
from tradepost_broker.settings import Settings

T = TypeVar("T")


class OperatorClient:
    """Calls the operator's endpoints of the broker with these settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def get(self, path: str, reply: type[T], *ids: str, **query: int) -> T:
        """The answer to a GET; `ids` are for the `{}` in `path`.

        Raises `BrokerUnavailable`, `Unauthorized`, `InvalidSettings`, or what the broker answers.
        """
        return asyncio.run(self._call("GET", path, ids, None, reply, query))

    def post(self, path: str, body: Any, reply: type[T]) -> T:
        """The answer to a POST of a struct as JSON."""
        return asyncio.run(self._call("POST", path, (), body, reply, {}))

    async def _call(
        self,
        method: str,
        path: str,
        ids: tuple[str, ...],
        body: Any,
        reply: type[T],
        query: dict[str, int],
    ) -> T:
        url = parse_broker_url(self._read("url"))
        try:
            headers = {"Authorization": f"Bearer {self._read('operator.token')}"}
        except BrokerUnavailable as error:
            raise Unauthorized(error.detail) from None
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with (
                aiohttp.ClientSession(headers=headers, proxy=proxy_for(url)) as session,
                session.request(
                    method, endpoint(url, path, *ids) % query, data=data, ssl=self._tls()
                ) as response,
            ):
                await raise_for_problem(response)
                return _decoded(await response.read(), reply, url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise_unavailable(url, error)

    def _read(self, name: str) -> str:
        path: Path = self._settings.data_dir / name
        try:
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise BrokerUnavailable(
                f"{path} cannot be read: no broker has run with this data folder, or another user's",
                hint="Start a broker with `tradepost broker run`, or set its --data-dir.",
            ) from None

    def _tls(self) -> ssl.SSLContext | bool:
        certificate = self._settings.tls_cert
        if certificate is None:
            return True
        # This very certificate and nothing else, so it need not name this machine's loopback.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cafile=certificate)
        except OSError as error:  # an `SSLError` is one
            raise InvalidSettings(f"tls_cert {certificate}: {error}") from None
        return context


def _decoded(answer: bytes, reply: type[T], url: URL) -> T:
    try:
        return msgspec.json.decode(answer, type=reply)
    except UNDECODABLE as error:
        raise ProtocolError(f"{url}: {describe_mismatch(error, whole='the answer')}") from None
