"""The operator's client: finds the broker on this machine by the files in its data folder."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from tradepost.broker_url import parse_broker_url, raise_for_problem, raise_unavailable
from tradepost.errors import BrokerUnavailable, Unauthorized
from tradepost.proxies import proxy_for
from tradepost_broker.settings import Settings

T = TypeVar("T")


class OperatorClient:
    """Calls the operator's endpoints of the broker with these settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def get(self, path: str, reply: type[T], **query: int) -> T:
        """The answer to a GET. Raises `BrokerUnavailable` or what the broker answers."""
        return asyncio.run(self._call("GET", path, None, reply, query))

    def post(self, path: str, body: Any, reply: type[T]) -> T:
        """The answer to a POST of a struct as JSON."""
        return asyncio.run(self._call("POST", path, body, reply, {}))

    async def _call(self, method: str, path: str, body: Any, reply: type[T], query: dict[str, int]) -> T:
        url = parse_broker_url(self._read("url"))
        try:
            headers = {"Authorization": f"Bearer {self._read('operator.token')}"}
        except BrokerUnavailable as error:
            raise Unauthorized(error.detail) from None
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with (
                aiohttp.ClientSession(headers=headers, proxy=proxy_for(url)) as session,
                session.request(method, url / path % query, data=data, ssl=self._tls()) as response,
            ):
                await raise_for_problem(response)
                return msgspec.json.decode(await response.read(), type=reply)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise_unavailable(url, error)

    def _read(self, name: str) -> str:
        path: Path = self._settings.data_dir / name
        try:
            return path.read_text().strip()
        except OSError:
            raise BrokerUnavailable(
                f"{path} does not exist: no broker has run with this data folder",
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
        context.load_verify_locations(cafile=certificate)
        return context
