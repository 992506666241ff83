"""A server on loopback that answers as a script says, whatever HTTP has to say about it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


class Clock:
    """Seconds that pass when a server says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Peer:
    """One scripted answer: writes what it likes to the peer that connected."""

    writer: asyncio.StreamWriter
    clock: Clock
    asked: list[str] = field(default_factory=list)
    sent_bytes: int = 0

    async def send(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, *headers: str, status: str = "200 OK") -> None:
        await self.send(answer_head(status, headers))

    async def silence(self) -> None:
        await asyncio.Event().wait()

    def reset(self) -> None:
        """Break the connection the hard way: an RST instead of a FIN."""
        linger_not = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        self.writer.transport.abort()


def answer_head(status: str, headers: tuple[str, ...]) -> bytes:
    """The bytes of an answer before its body."""
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script, clock: Clock | None = None) -> AsyncIterator[tuple[str, list[Peer]]]:
    """A server on loopback that plays `script` to each request; its URL, and those who came."""
    peers: list[Peer] = []
    tasks: set[asyncio.Task[None]] = set()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer, clock or Clock())
        peers.append(peer)
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            peer.asked.append(request.split(b" ")[1].decode())
            peer.asked.append(request.decode())
            await script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side hung up, as it should
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(play(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", peers
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
