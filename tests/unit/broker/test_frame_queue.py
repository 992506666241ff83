"""A queue keeps order, fills messages, and gives up on a peer that does not read."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.protocol import (
    FRAMES_MAX,
    MESSAGE_BYTES_MAX,
    Acknowledged,
    Recall,
    broker_codec_for_workers,
)
from tradepost_broker.streams.frame_queue import FrameQueue


class FakeSocket:
    """Takes messages; `full` is set when it has `frames` of them. `stuck` never finishes sending."""

    def __init__(self, frames: int, *, stuck: bool = False) -> None:
        self.messages: list[list[Any]] = []
        self.full = asyncio.Event()
        self._frames = frames
        self._stuck = stuck

    async def send_bytes(self, message: bytes) -> None:
        assert len(message) <= MESSAGE_BYTES_MAX
        self.messages.append(msgspec.msgpack.decode(message))
        if sum(map(len, self.messages)) >= self._frames:
            self.full.set()
        if self._stuck:
            await asyncio.Event().wait()


async def sent(queue: FrameQueue, frames: int) -> list[list[Any]]:
    """The frames of each message, once so many are out."""
    socket = FakeSocket(frames)
    task = asyncio.create_task(queue.run(socket))  # type: ignore[arg-type]
    await socket.full.wait()
    task.cancel()
    return socket.messages


@pytest.mark.slow
@given(st.lists(st.text(max_size=40), min_size=1, max_size=600))
def test_every_frame_arrives_once_and_in_order(names: list[str]) -> None:
    async def check() -> None:
        queue = FrameQueue(broker_codec_for_workers())
        for name in names:
            queue.post(Recall(name))
        messages = await sent(queue, len(names))
        assert [frame["lease"] for message in messages for frame in message] == names
        assert len(messages) == -(-len(names) // FRAMES_MAX)

    asyncio.run(check())


async def test_large_frames_are_split_over_messages() -> None:
    class BytesCodec:
        """Frames are bytes."""

        def encode_frame(self, frame: Any) -> bytes:
            return msgspec.msgpack.encode(frame)

        def join(self, frames: list[bytes]) -> bytes:
            return broker_codec_for_workers().join(frames)

    queue = FrameQueue(BytesCodec())
    for _ in range(5):
        queue.post(b"x" * (MESSAGE_BYTES_MAX // 2 - 100))
    assert [len(message) for message in await sent(queue, 5)] == [2, 2, 1]


async def test_a_peer_that_does_not_read_is_given_up() -> None:
    queue = FrameQueue(broker_codec_for_workers(), bytes_max=1000)
    socket = FakeSocket(1, stuck=True)
    task = asyncio.create_task(queue.run(socket))  # type: ignore[arg-type]
    for n in range(100):
        queue.post(Acknowledged(f"lease-{n}"))
    assert queue.has_ended
    task.cancel()

    fresh = FakeSocket(1)
    await queue.run(fresh)  # type: ignore[arg-type]
    assert fresh.messages == []


async def test_room_while_no_more_than_half_is_taken() -> None:
    frame = Recall("x" * 100)
    queue = FrameQueue(broker_codec_for_workers(), bytes_max=1000)
    for _ in range(4):
        queue.post(frame)
        await queue.room()
    queue.post(frame)
    waiting = asyncio.create_task(queue.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await sent(queue, 5)
    await waiting
    queue.post(frame)
    for _ in range(4):
        queue.post(frame)
    waiting = asyncio.create_task(queue.room())
    queue.end()
    await waiting
