"""Reads a client's message in which a frame is malformed, so that its other frames still get answers."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from tradepost.errors import UNDECODABLE, InlineInputTooLarge, InvalidRequest, ProtocolError
from tradepost.protocol.client_frames import CancelJob, Rejected, Submit, Watch, WatchVerdicts
from tradepost.protocol.codec import FRAMES_MAX
from tradepost.protocol.message import INLINE_BYTES_MAX
from tradepost.schema_errors import describe_mismatch


class _Request(msgspec.Struct):
    input: bytes | None = None


class _Submit(msgspec.Struct, tag="submit"):
    """The part of a `Submit` frame that says whom a refusal is for."""

    ref: int
    request: msgspec.Raw = msgspec.Raw(b"\xc0")


_raw_frames: Final = msgspec.msgpack.Decoder(
    Annotated[list[msgspec.Raw], msgspec.Meta(max_length=FRAMES_MAX)]
)
_frame: Final = msgspec.msgpack.Decoder(Submit | Watch | CancelJob | WatchVerdicts)
_submit: Final = msgspec.msgpack.Decoder(_Submit)
_request: Final = msgspec.msgpack.Decoder(_Request)


def salvage(message: bytes) -> list[Submit | Watch | CancelJob | WatchVerdicts | Rejected]:
    """The frames of a message that does not decode as a whole, a `Rejected` in place of each bad `Submit`.

    One bad request must not cost its neighbours their answers. Raises `ProtocolError` for anything worse.
    """
    return [salvage_frame(part) for part in split_frames(message)]


def split_frames(message: bytes) -> list[msgspec.Raw]:
    """The frames of a message, each to be decoded by itself. Raises `ProtocolError` if there are too many."""
    try:
        parts: list[msgspec.Raw] = _raw_frames.decode(message)
    except UNDECODABLE as error:
        raise ProtocolError(
            f"not a message of this protocol: {describe_mismatch(error, whole='the message')}"
        ) from None
    return parts


def too_large_inline() -> InlineInputTooLarge:
    """The refusal of an inline input over the cap."""
    return InlineInputTooLarge(
        f"the inline input is over {INLINE_BYTES_MAX:,} bytes", limit_bytes=INLINE_BYTES_MAX
    )


def salvage_frame(part: msgspec.Raw) -> Submit | Watch | CancelJob | WatchVerdicts | Rejected:
    """One frame of a client, or the `Rejected` that answers a bad `Submit`. Raises `ProtocolError`."""
    try:
        frame: Submit | Watch | CancelJob | WatchVerdicts = _frame.decode(part)
    except UNDECODABLE as error:
        try:
            submit = _submit.decode(part)
        except UNDECODABLE:
            raise ProtocolError(
                f"not a frame of this protocol: {describe_mismatch(error, whole='the frame')}"
            ) from None
        if _input_bytes(submit.request) > INLINE_BYTES_MAX:
            return Rejected(submit.ref, too_large_inline().to_problem())
        refusal = InvalidRequest(describe_mismatch(error, whole="the request"))
        return Rejected(submit.ref, refusal.to_problem())
    return frame


def _input_bytes(request: msgspec.Raw) -> int:
    try:
        return len(_request.decode(request).input or b"")
    except UNDECODABLE:
        return 0
