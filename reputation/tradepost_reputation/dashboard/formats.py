"""How the dashboard writes figures, times and the text of strangers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from tradepost.money import to_credits

_ID_CHARS: Final = 8
#: What is shown of a name that a stranger chose; the whole name is in the element's title.
NAME_CHARS_MAX: Final = 40


def places(amounts: Iterable[int]) -> int:
    """The decimals that the exact amounts (microcredits) of a column need in credits, 0 to 6.

    With the same number of decimals in each row, a right-aligned column has its decimal points in a line.
    """
    return max((_places(amount) for amount in amounts), default=0)


def credits_text(microcredits: int, decimals: int | None = None) -> str:
    """An exact amount in credits, with `decimals` places, or without trailing zeros."""
    return f"{to_credits(microcredits):,.{_places(microcredits) if decimals is None else decimals}f}"


def moment(at: float) -> str:
    """A time (Unix seconds) for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def datetime_text(at: float) -> str:
    """A time (Unix seconds) for the attribute `datetime`: RFC 3339, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def short(identifier: str) -> str:
    """The beginning of an identifier."""
    return identifier if len(identifier) <= _ID_CHARS else identifier[:_ID_CHARS] + "…"


def cut(text: str, chars_max: int = NAME_CHARS_MAX) -> str:
    """A text of at most `chars_max` characters, the last one an ellipsis if it was longer."""
    return text if len(text) <= chars_max else text[: chars_max - 1].rstrip() + "…"


def words(name: str) -> str:
    """A name from code as words."""
    return name.replace("_", " ")


def _places(microcredits: int) -> int:
    return len(f"{microcredits % 1_000_000:06d}".rstrip("0"))
