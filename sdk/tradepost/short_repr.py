"""A `repr` for structs that may hold megabytes, of which a log or a debugger shows how many there are."""

from __future__ import annotations

import reprlib
from typing import Final

import msgspec

_REPR: Final = reprlib.Repr()
_REPR.maxstring = 72  # so that a CID is shown whole
_REPR.maxother = 400  # structs within a struct, which are short already
_BYTES_SHOWN_MAX: Final = 16


def short_repr(struct: msgspec.Struct) -> str:
    """What `repr` of a struct gives, with its long values cut short."""
    fields = [f"{name}={_value(getattr(struct, name))}" for name in struct.__struct_fields__]
    return f"{type(struct).__name__}({', '.join(fields)})"


def _value(value: object) -> str:
    if isinstance(value, bytes) and len(value) > _BYTES_SHOWN_MAX:
        return f"<{len(value):,} bytes>"
    return _REPR.repr(value)
