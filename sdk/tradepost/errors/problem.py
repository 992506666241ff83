"""An error on the wire."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tradepost.plain_text import plain

_CHARS_MAX: Final = {"code": 64, "title": 2000, "detail": 2000, "fault": 64, "stage": 64, "hint": 2000}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error on the wire: RFC 9457 members `title`, `detail`, `status`, and Tradepost's own beside them.

    `code` names the error class; `facts` are its JSON-ready attributes. Whoever sends one may be a stranger,
    so its texts are made `plain` and bounded wherever one is made or decoded. Its facts are not.
    """

    code: str
    title: str
    detail: str = ""
    status: int = 500
    fault: str = ""
    stage: str | None = None
    hint: str = ""
    facts: dict[str, Any] = {}

    def __post_init__(self) -> None:
        for name, chars_max in _CHARS_MAX.items():
            if (text := getattr(self, name)) is not None:
                msgspec.structs.force_setattr(self, name, plain(text, chars_max=chars_max))
