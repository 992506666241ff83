"""Checks names in a `pipeline.toml` with readable errors; the schema would report a regular expression."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any, Final

import msgspec

from tradepost.errors import InvalidPipeline
from tradepost.pipeline.manifest import GraphName, Name, TensorName, Version

_RULES: Final[dict[Any, str]] = {
    Name: "Use lower-case letters, digits, - and _, beginning with a letter; at most 64 characters.",
    TensorName: "Use letters, digits and _.:/-, beginning with a letter or _; at most 128 characters.",
    Version: "Use letters, digits, ., + and -; at most 64 characters.",
    GraphName: "Use 1 to 256 characters, and no control characters.",
}


def check_name(name: Any, kind: Any, what: str, *, stage: str | None = None, hint: str | None = None) -> None:
    """Raise `InvalidPipeline` unless `name` is of this `kind`. The schema refuses other types."""
    if not isinstance(name, str):
        return
    try:
        msgspec.convert(name, kind)
    except msgspec.ValidationError:
        raise InvalidPipeline(f"{what} is {name[:200]!r}", stage=stage, hint=hint or _RULES[kind]) from None


def check_connections(table: Any, what: str, *, kind: Any = TensorName, stage: str | None = None) -> None:
    """Check a table of connections: names of this `kind`, each with a reference such as `input.image`."""
    if not isinstance(table, dict):
        return
    for name, reference in table.items():
        check_name(name, kind, what, stage=stage)
        check_name(reference, TensorName, f"the source of {name!r}", stage=stage)


def check_stage_names(stage: dict[str, Any], kind: str, name: str) -> None:
    """Check the names in one `[[stage]]`, a kernel's or a model's by `kind`."""
    check_name(stage.get("name"), Name, "the stage's name", stage=name)
    inputs_kind = TensorName if kind == "kernel" else GraphName
    check_connections(stage.get("inputs"), f"the name of a {kind}'s input", kind=inputs_kind, stage=name)
    outputs = stage.get("outputs")
    if not isinstance(outputs, list | dict):
        return
    for output in outputs:
        renaming = f"Give the output another name: outputs = {{ NAME = {str(output)!r} }}."
        hint = renaming if kind == "model" and isinstance(outputs, list) else None
        check_name(output, TensorName, "the name of an output", stage=name, hint=hint)
    for graph_name in outputs.values() if isinstance(outputs, dict) else ():
        check_name(graph_name, GraphName, "the name of a graph's output", stage=name)


def quoted_key(name: str) -> str:
    """`name` as a key in TOML."""
    is_bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_bare else msgspec.json.encode(name).decode()


def among(name: str, names: Collection[str]) -> str:
    """A hint for an unknown `name`: the nearest of `names`, else all of them."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Available: {', '.join(names) or 'none'}."
