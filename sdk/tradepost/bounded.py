"""Bounded types for untrusted input: no number or text is larger than the code can handle.

Every message, manifest and setting uses these. JSON numbers are exact up to 2^53 (RFC 8259, section 6).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

#: What `AccountName`, a version and `Short` match; `schema_errors` has the words for them.
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}\Z"
VERSION_PATTERN: Final = r"^[0-9]+(\.[0-9]+){0,5}\Z"
SHORT_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*\Z"

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
#: Fuel and nanoseconds, which a long run counts beyond 2^53; the limit is that of a signed 64-bit column.
LongCount = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
#: Money. One credit is 1,000,000 microcredits.
Microcredits = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
CidText = Annotated[str, msgspec.Meta(max_length=64)]
#: A name or an id: none needs a control character, a line separator, or what turns the reading direction.
Short = Annotated[str, msgspec.Meta(max_length=256, pattern=SHORT_PATTERN)]
#: The name of an account or of a devices' owner.
AccountName = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
