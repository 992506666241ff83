"""What a command prints: one line of JSON for programs, plain text for people, errors to stderr.

JSON is ASCII: a file's name may be any bytes, and some have no other spelling. It has no number that is not
finite (RFC 8259, section 6): the texts "NaN", "Infinity" and "-Infinity" stand for these, as in the JSON of
protobuf, and Python's `float` reads them. Money is in integers, under names
that end in `_microcredits`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import typer

from tradepost.errors import TradepostError
from tradepost.untrusted_text import plain_lines


def show(value: Any, text: str, *, as_json: bool) -> None:
    """Print `value` as JSON, or `text` for people."""
    if as_json:
        show_json(value)
    else:
        show_text(text)


def show_json(value: Any) -> None:
    """Print structs, dicts and lists of them as one line of JSON."""
    typer.echo(json_line(value))


def show_text(text: str) -> None:
    """Print text for people; what a stranger wrote in it moves no cursor."""
    typer.echo(plain_lines(text))


def report(error: TradepostError, *, as_json: bool) -> None:
    """Write an error to stderr, for people or as a JSON problem."""
    typer.echo(json_line(error.to_problem()) if as_json else error.diagnostics(), err=True)


def json_line(value: Any) -> str:
    """`value` as one line of JSON."""
    tree = msgspec.to_builtins(value)
    try:
        return _encode(tree)
    except ValueError:  # a number that is not finite: rare, so only then the tree is walked
        return _encode(_finite(tree))


def _encode(tree: Any) -> str:
    return json.dumps(tree, separators=(",", ":"), allow_nan=False)


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return "NaN" if math.isnan(tree) else "Infinity" if tree > 0 else "-Infinity"
    return tree
