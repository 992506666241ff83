"""An error on the wire."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from tradepost.untrusted_text import plain, plain_lines

_CHARS_MAX: Final = {"code": 64, "title": 2000, "detail": 2000, "fault": 64, "stage": 64}
_HINT_CHARS_MAX: Final = 2000

#: An HTTP status, as RFC 9110 allows it.
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
_Scalar = str | int | float | bool | None
_Many = msgspec.Meta(max_length=256)
#: A fact is flat and small: what nests freely takes 64 times the memory that it takes on the wire.
Fact = _Scalar | Annotated[list[_Scalar], _Many] | Annotated[dict[str, _Scalar], _Many]


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error on the wire: RFC 9457 members `title`, `detail`, `status`, and Tradepost's own beside them.

    `code` names the error class; `facts` are its JSON-ready attributes. The sender may be untrusted,
    so the texts are made `plain` and bounded wherever one is made or decoded; a hint keeps its lines.
    """

    code: str
    title: str
    detail: str = ""
    status: Status = 500
    fault: str = ""
    stage: str | None = None
    hint: str = ""
    facts: Annotated[dict[str, Fact], msgspec.Meta(max_length=32)] = {}

    def __post_init__(self) -> None:
        for name, chars_max in _CHARS_MAX.items():
            if (text := getattr(self, name)) is not None:
                msgspec.structs.force_setattr(self, name, plain(text, chars_max=chars_max))
        hint = plain_lines(self.hint[:_HINT_CHARS_MAX])[:_HINT_CHARS_MAX]
        msgspec.structs.force_setattr(self, "hint", hint)

    def __hash__(self) -> int:
        return hash((self.code, self.detail))  # facts cannot be hashed

    def of_a_stranger(self) -> Problem:
        """A copy without hint and facts: an untrusted sender must not tell people or programs what to do."""
        return msgspec.structs.replace(self, hint="", facts={})
