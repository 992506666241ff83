"""The base of every message, and the bounds of what travels inside one."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from tradepost.short_repr import short_repr

#: Documents up to this size travel inside a frame; larger ones as blocks, by CID.
INLINE_BYTES_MAX: Final = 1 << 20

Inline = Annotated[bytes, msgspec.Meta(max_length=INLINE_BYTES_MAX)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message or a part of one: immutable, nothing unknown accepted."""

    def __repr__(self) -> str:
        return short_repr(self)
