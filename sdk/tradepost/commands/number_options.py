"""Options that are numbers: digits of ASCII, finite, within bounds that the help and the error name.

Python's `int` and `float` read more, and so does Typer: the digits of every script, underscores, blanks, and
"nan", which is within any bounds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

import typer

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_REAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def integer_option(
    *names: str, about: str, low: int = 0, high: int | None = None, envvar: str | None = None
) -> Any:
    """A `typer.Option` for an integer from `low` to `high`."""
    return _option(names, about, "INTEGER", int, _INTEGER, (low, high), envvar)


def number_option(*names: str, about: str, low: float = 0, high: float | None = None) -> Any:
    """A `typer.Option` for a finite number from `low` to `high`."""
    return _option(names, about, "NUMBER", float, _REAL, (low, high), None)


def _option(
    names: tuple[str, ...],
    about: str,
    what: str,
    kind: Callable[[str], float],
    form: re.Pattern[str],
    range_: tuple[float, float | None],
    envvar: str | None,
) -> Any:
    low, high = range_
    bounds = f"at least {low:,}" if high is None else f"from {low:,} to {high:,}"
    article = "an" if what == "INTEGER" else "a"

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            return value  # the default
        number = kind(value) if form.fullmatch(value) else math.nan
        if math.isinf(number) or not low <= number <= (math.inf if high is None else high):
            raise typer.BadParameter(f"{value!r}; it must be {article} {what.lower()} {bounds}.")
        return number

    return typer.Option(
        *names, parser=parse, metavar=what, envvar=envvar, help=f"{about.rstrip('.')}; {bounds}."
    )
