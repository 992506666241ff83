"""Values at the edges of each field of a message, as its type declares them.

The bounds are read from the type, so a field that is added later is tested without anyone adding it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from hypothesis import strategies as st
from msgspec import inspect

T = TypeVar("T")

#: Items of a tuple or a dict.
_ITEMS_MAX: Final = 2


def at_edges(kind: type[T], **chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Instances of the struct `kind` whose fields lie at, or next to, the edges of what their types allow.

    `chosen` are strategies for the fields that need more than that, such as an id that must exist.
    """
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    fields = {
        field.name: chosen[field.name] if field.name in chosen else _values(field.type)
        for field in info.fields
    }
    assert chosen.keys() <= fields.keys(), f"{kind.__name__} has no {chosen.keys() - fields.keys()}"
    return st.builds(kind, **fields)


def _values(info: Any) -> st.SearchStrategy[Any]:
    for kind, values in _VALUES.items():
        if isinstance(info, kind):
            return values(info)
    raise TypeError(f"no edges are known for the values of {info}")


def _integers(info: Any) -> st.SearchStrategy[int]:
    low, high = info.ge or 0, info.le
    assert high is not None, "an integer without an upper bound"
    return st.sampled_from(sorted({low, min(high, low + 1), max(low, high - 1), high}))


def _floats(info: Any) -> st.SearchStrategy[float]:
    low = info.ge if info.ge is not None else info.gt
    assert low is not None, "a float without a lower bound"
    assert info.le is not None, "a float without an upper bound"
    least = low if info.gt is None else low + 5e-324
    return st.sampled_from([least, (low + info.le) / 2, info.le])


def _texts(info: Any) -> st.SearchStrategy[str]:
    longest = min(info.max_length or 256, 256)
    edges = ["a" * max(1, info.min_length or 0), "é" * longest]
    if info.pattern is not None:
        edges = [edge for edge in (*edges, "a" * 64, "0", "9" * longest) if re.search(info.pattern, edge)]
    return st.sampled_from(edges)


def _tuples(info: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(_values(info.item_type), max_size=min(info.max_length or 2, _ITEMS_MAX)).map(tuple)


_VALUES: Final[dict[Any, Callable[[Any], st.SearchStrategy[Any]]]] = {
    inspect.IntType: _integers,
    inspect.FloatType: _floats,
    inspect.StrType: _texts,
    inspect.BytesType: lambda info: st.sampled_from([b"", b"\xff" * min(info.max_length or 64, 64)]),
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.VarTupleType: _tuples,
    inspect.DictType: lambda info: st.dictionaries(
        _values(info.key_type), _values(info.value_type), max_size=_ITEMS_MAX
    ),
    inspect.StructType: lambda info: at_edges(info.cls),
    inspect.EnumType: lambda info: st.sampled_from(list(info.cls)),
    inspect.UnionType: lambda info: st.one_of(*map(_values, info.types)),
}
