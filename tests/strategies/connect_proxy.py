"""A real HTTP proxy on loopback, for tests of what goes through one: tunnels by CONNECT and nothing else."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HEAD_BYTES_MAX = 8 << 10


class ConnectProxy:
    """Opens tunnels to the hosts in `routes` (by name, to a port of loopback).

    `asked` are the requests' first lines. With `password`, requests must carry it as Basic credentials.
    """

    def __init__(self, *, password: str = "") -> None:
        self.routes: dict[str, int] = {}
        self.asked: list[str] = []
        self.port = 0
        self._password = password

    @property
    def tunnels(self) -> list[str]:
        """The places that tunnels were asked for."""
        return [line.split()[1] for line in self.asked if line.startswith("CONNECT ")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.asked.append(head.splitlines()[0])
            method, target, _ = head.splitlines()[0].split()
            host = target.rpartition(":")[0]
            if self._password and self._credentials() not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif method != "CONNECT" or host not in self.routes:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            else:
                there, back = await asyncio.open_connection("127.0.0.1", self.routes[host])
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await both_ways((reader, writer), (there, back))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _credentials(self) -> str:
        return f"Proxy-Authorization: Basic {base64.b64encode(self._password.encode()).decode()}"


async def both_ways(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Pass bytes between two connections until either ends; then end both."""
    passing = [
        asyncio.create_task(_pass_on(one[0], other[1])),
        asyncio.create_task(_pass_on(other[0], one[1])),
    ]
    try:
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        other[1].close()
        one[1].close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def connect_proxy(*, password: str = "") -> AsyncIterator[ConnectProxy]:
    """A proxy on a free port of loopback."""
    proxy = ConnectProxy(password=password)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=_HEAD_BYTES_MAX) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy


@asynccontextmanager
async def behind_tls(port: int, *, name: str, folder: Path) -> AsyncIterator[tuple[int, Path]]:
    """A TLS server for `name` in front of a plain one on `port`: its own port, and its certificate's file."""
    certificate, key = _self_signed(name, folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await both_ways((reader, writer), await asyncio.open_connection("127.0.0.1", port))

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        )
        yield server.sockets[0].getsockname()[1], certificate


def _self_signed(name: str, folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "tls.pem", folder / "tls.key"
