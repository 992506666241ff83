"""A bounded queue of frames to one peer: frames are encoded when posted, and sent many in one message.

Posting never waits, so the engine never waits for a network. A peer that reads too slowly is cut off: after
it reconnects, whatever mattered is sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, Protocol

from aiohttp import web

from tradepost.protocol import FRAMES_MAX, MESSAGE_BYTES_MAX

#: What one slow reader may make the broker remember.
QUEUE_BYTES_MAX: Final = 32 << 20
_JOIN_BYTES: Final = 3


class FrameCodec(Protocol):
    """The part of `protocol`'s codecs that encodes."""

    def encode_frame(self, frame: Any) -> bytes:
        """One frame."""
        ...

    def join(self, frames: list[bytes]) -> bytes:
        """A message of encoded frames."""
        ...


class FrameQueue:
    """Takes frames with `post`; `run` sends them. It ends by itself when the peer falls too far behind."""

    def __init__(self, codec: FrameCodec, *, bytes_max: int = QUEUE_BYTES_MAX) -> None:
        self._codec = codec
        self._bytes_max = bytes_max
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.has_ended = False
        #: The message to send before the connection is closed; empty if it is just cut.
        self.last_message = b""

    def post(self, frame: Any) -> None:
        """Send `frame` soon, after those posted before it."""
        if self.has_ended:
            return
        data = self._codec.encode_frame(frame)
        if self._bytes + len(data) > self._bytes_max:
            self.end()
            return
        self._frames.append(data)
        self._bytes += len(data)
        self._arrived.set()
        if self._bytes > self._bytes_max // 2:
            self._room.clear()

    async def room(self) -> None:
        """Wait while more than half of the queue is taken, so that asking for much does not end it."""
        await self._room.wait()

    def end(self, last: Any = None) -> None:
        """Drop what was not sent, and have `run` return. `last` is a frame for the peer that says why."""
        if last is not None and not self.has_ended:
            self.last_message = self._codec.join([self._codec.encode_frame(last)])
        self.has_ended = True
        self._frames.clear()
        self._bytes = 0
        self._arrived.set()
        self._room.set()

    async def run(self, socket: web.WebSocketResponse) -> None:
        """Send what is posted. Returns at the end; raises `ConnectionError` if the connection breaks."""
        while True:
            await self._arrived.wait()
            if self.has_ended:
                return
            await socket.send_bytes(self._codec.join(self._take()))

    def _take(self) -> list[bytes]:
        """The next message's frames, as many as fit."""
        frames: list[bytes] = []
        room = MESSAGE_BYTES_MAX - _JOIN_BYTES
        while self._frames and len(frames) < FRAMES_MAX and (not frames or len(self._frames[0]) <= room):
            frames.append(self._frames.popleft())
            room -= len(frames[-1])
            self._bytes -= len(frames[-1])
        if self._bytes <= self._bytes_max // 2:
            self._room.set()
        if not self._frames:
            self._arrived.clear()
        return frames
