"""Encodes and decodes messages: msgpack arrays of frames, within the size limits."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from tradepost.errors import UNDECODABLE, ProtocolError
from tradepost.protocol.client_frames import ToBrokerFromClient, ToClient
from tradepost.protocol.worker_frames import ToBrokerFromWorker, ToWorker
from tradepost.schema_errors import describe_mismatch

#: A WebSocket message beyond this size is refused before it is read.
MESSAGE_BYTES_MAX: Final = 8 << 20
FRAMES_MAX: Final = 256


class _Codec:
    """Encodes arrays of frames of one direction and decodes those of the other, within the caps."""

    def __init__(self, incoming: Any) -> None:
        # The count is refused before anything is decoded: small frames are many in a message.
        self._decoder = msgspec.msgpack.Decoder(
            Annotated[list[incoming], msgspec.Meta(max_length=FRAMES_MAX)]
        )
        self._encoder = msgspec.msgpack.Encoder()

    def encode(self, frames: list[Any]) -> bytes:
        """The message that carries `frames`."""
        return self._encoder.encode(frames)

    def encode_frame(self, frame: Any) -> bytes:
        """One frame, for `join`: who queues frames encoded knows how many bytes wait."""
        return self._encoder.encode(frame)

    @staticmethod
    def join(frames: list[bytes]) -> bytes:
        """The message that carries these encoded frames: a msgpack array (array 16)."""
        return b"".join((b"\xdc", len(frames).to_bytes(2, "big"), *frames))

    def decode(self, message: bytes) -> list[Any]:
        """The frames of a message. Raises `ProtocolError`."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise ProtocolError(f"a message of {len(message):,} bytes; the limit is {MESSAGE_BYTES_MAX:,}")
        try:
            frames: list[Any] = self._decoder.decode(message)
        except UNDECODABLE as error:
            raise ProtocolError(
                f"not a message of this protocol: {describe_mismatch(error, whole='the message')}"
            ) from None
        return frames


def broker_codec_for_workers() -> _Codec:
    """What the broker uses on a worker's stream."""
    return _Codec(ToBrokerFromWorker)


def broker_codec_for_clients() -> _Codec:
    """What the broker uses on a client's stream."""
    return _Codec(ToBrokerFromClient)


def worker_codec() -> _Codec:
    """What a worker uses."""
    return _Codec(ToWorker)


def client_codec() -> _Codec:
    """What a client uses."""
    return _Codec(ToClient)
