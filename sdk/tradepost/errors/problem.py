"""An error on the wire."""

from __future__ import annotations

from typing import Any

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error on the wire: RFC 9457 members `title`, `detail`, `status`, and Tradepost's own beside them.

    `code` names the error class; `facts` are its JSON-ready attributes.
    """

    code: str
    title: str
    detail: str = ""
    status: int = 500
    fault: str = ""
    stage: str | None = None
    hint: str = ""
    facts: dict[str, Any] = {}
