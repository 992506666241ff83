"""Mutations of valid documents: edits of their bytes, and edits of the tree that they encode.

A flip somewhere is caught by the first hash that is looked at. What gets further is made of valid parts: cut
where tokens meet, put together from two documents that are both valid, or changed in one field and encoded
as it should be. No strategy here gives back the document that it was given.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable
from typing import Any, Final

from hypothesis import assume
from hypothesis import strategies as st

_JOINT: Final = re.compile(rb'[\n"\[\]{}:,]')
_EDITS_MAX: Final = 3
#: Before a name that an object has already: a dict cannot have it twice.
_AGAIN: Final = "\0"
#: Those that leave a document of the right form are the more telling ones.
_TREE_EDITS: Final = (*["graft"] * 4, *["change"] * 3, "move", "drop", "repeat")


@st.composite
def mutated(draw: st.DrawFn, original: bytes, *others: bytes) -> bytes:
    """`original` after one to three edits, some of which put in a part of the other documents."""
    data = original
    for _ in range(draw(st.integers(1, _EDITS_MAX))):
        data = draw(st.sampled_from(_EDITS))(draw, data, draw(st.sampled_from([original, *others])))
    assume(data != original)
    return data


@st.composite
def mutated_tree(draw: st.DrawFn, original: Any, *others: Any) -> Any:
    """A tree of dicts, lists and scalars after one to three edits, each of one value at any depth."""
    tree = copy.deepcopy(original)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        paths = _paths(tree)
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        parent = _at(tree, way)
        edit = draw(st.sampled_from(_TREE_EDITS))
        if edit == "graft":
            parent[last] = draw(_part_of([original, *others], (*way, last)))
        elif edit == "change":
            parent[last] = draw(_changed(parent[last]))
        elif edit == "move":
            parent[last] = copy.deepcopy(_at(tree, draw(st.sampled_from(paths))))
        elif edit == "drop":
            del parent[last]
        elif isinstance(parent, list):
            parent.insert(last, copy.deepcopy(parent[last]))
        elif draw(st.booleans()):
            parent[draw(st.sampled_from(["", "extra", *parent]))] = copy.deepcopy(parent[last])
        else:
            others_first = {_AGAIN + last: draw(_part_of([original, *others], (*way, last))), **parent}
            parent.clear()
            parent.update(others_first)
    assume(tree != original)
    return tree


def as_json(tree: Any) -> str:
    """The tree as JSON; names that it has twice in one object are written twice."""
    return json.dumps(tree).replace(json.dumps(_AGAIN)[1:-1], "")


@st.composite
def _part_of(draw: st.DrawFn, trees: list[Any], path: tuple[Any, ...]) -> Any:
    """What stands at `path` in one of the trees, or anywhere in it if it has no such place."""
    tree = draw(st.sampled_from(trees))
    paths = _paths(tree)
    return copy.deepcopy(_at(tree, path if path in paths else draw(st.sampled_from(paths))))


def _changed(value: Any) -> st.SearchStrategy[Any]:
    """A value near this one. Text that is base64 is changed beneath it too, so that it stays base64."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int):
        return st.one_of(st.sampled_from([value + 1, value - 1, -value]), st.integers(0, (1 << 63) - 1))
    if isinstance(value, bytes):
        return mutated(value)
    if isinstance(value, str):
        plain = mutated(value.encode()).map(lambda data: data.decode(errors="replace"))
        try:
            beneath = base64.b64decode(value, validate=True)
        except ValueError:
            return plain
        same_form = mutated(beneath).map(lambda data: base64.b64encode(data).decode())
        return same_form | same_form | plain
    return st.sampled_from([None, 0, "", [], {}])


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value below the root."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [found for key in keys for found in ((*path, key), *_paths(tree[key], (*path, key)))]


def _at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _place(draw: st.DrawFn, data: bytes) -> int:
    """A place in `data`: any, or one where tokens meet."""
    joints = [found.start() for found in _JOINT.finditer(data)]
    if joints and draw(st.booleans()):
        return draw(st.sampled_from(joints)) + draw(st.integers(0, 1))
    return draw(st.integers(0, len(data)))


def _span(draw: st.DrawFn, data: bytes) -> tuple[int, int]:
    start = _place(draw, data)
    if draw(st.booleans()):
        return start, min(len(data), start + draw(st.integers(1, 4)))
    end = _place(draw, data)
    return min(start, end), max(start, end)


def _flip(draw: st.DrawFn, data: bytes, _other: bytes) -> bytes:
    if not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]


def _replace(draw: st.DrawFn, data: bytes, _other: bytes) -> bytes:
    start, end = _span(draw, data)
    noise = st.sampled_from([b"0", b"1", b"A", b"z", b"=", b" ", b'"', b"\n", b"\0", b"\xff"])
    return data[:start] + draw(noise | st.binary(max_size=8)) + data[end:]


def _insert(draw: st.DrawFn, data: bytes, _other: bytes) -> bytes:
    at = _place(draw, data)
    return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]


def _delete(draw: st.DrawFn, data: bytes, _other: bytes) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _duplicate(draw: st.DrawFn, data: bytes, _other: bytes) -> bytes:
    start, end = _span(draw, data)
    at = draw(st.sampled_from([end, _place(draw, data)]))
    return data[:at] + data[start:end] + data[at:]


def _truncate(draw: st.DrawFn, data: bytes, _other: bytes) -> bytes:
    return data[: _place(draw, data)]


def _splice(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of the other, cut at the same place or at any two."""
    at = _place(draw, data)
    return data[:at] + other[draw(st.sampled_from([at, _place(draw, other)])) :]


def _graft(draw: st.DrawFn, data: bytes, other: bytes) -> bytes:
    """A part of the other in place of the part that stands at the same place, or of any."""
    start, end = _span(draw, other)
    at, until = draw(st.sampled_from([(start, end), _span(draw, data)]))
    return data[:at] + other[start:end] + data[until:]


_Edit = Callable[[st.DrawFn, bytes, bytes], bytes]
_EDITS: Final[list[_Edit]] = [
    _flip,
    _replace,
    _insert,
    _delete,
    _duplicate,
    _truncate,
    _splice,
    _graft,
]
