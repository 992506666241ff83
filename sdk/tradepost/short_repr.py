"""What a log, an error or a debugger shows of a value: never more than a line, however large the value is."""

from __future__ import annotations

import reprlib
from typing import Any, Final

import msgspec

_SHOWN_CHARS_MAX: Final = 80
_REPR: Final = reprlib.Repr()
_REPR.maxstring = 72  # so that a CID is shown whole
_REPR.maxother = 400  # structs within a struct, which are short already
_BYTES_SHOWN_MAX: Final = 16


def shown(value: Any) -> str:
    """What an error shows of a value: its `repr`, cut short."""
    try:
        whole = _REPR.repr(value)
    except Exception:  # an object of the program's may fail in any way
        whole = f"an object of type {type(value).__name__}"
    whole = whole.encode(errors="backslashreplace").decode()
    return whole if len(whole) <= _SHOWN_CHARS_MAX else f"{whole[:_SHOWN_CHARS_MAX]}…"


def short_repr(struct: msgspec.Struct) -> str:
    """What `repr` of a struct gives, without what is unset, and with its long values cut short."""
    values = ((name, getattr(struct, name)) for name in struct.__struct_fields__)
    fields = [f"{name}={_value(value)}" for name, value in values if value is not msgspec.UNSET]
    return f"{type(struct).__name__}({', '.join(fields)})"


def _value(value: object) -> str:
    if isinstance(value, bytes) and len(value) > _BYTES_SHOWN_MAX:
        return f"<{len(value):,} bytes>"
    return _REPR.repr(value)
