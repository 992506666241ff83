"""Data that does not match its schema is described by field and rule, never in the library's words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.bounded import AccountName, Short
from tradepost.errors import UNDECODABLE
from tradepost.protocol import JobRequest
from tradepost.schema_errors import describe_mismatch

#: What only the library writes.
LIBRARY = ("Expected `", "`$", "regex", "Object ", "codec can't", "msgspec", "MessagePack", "truncated")


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    share: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    name: AccountName = "a"
    text: Short = ""
    items: Annotated[list[int], msgspec.Meta(max_length=2)] = []
    table: dict[str, int] = {}
    keyed: dict[AccountName, int] = {}
    choice: Literal["x", "y"] = "x"
    data: bytes = b""
    at: int | None = None
    long: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner
    number: int


def describe(text: str | bytes, kind: Any = Outer) -> str:
    with pytest.raises(UNDECODABLE) as caught:
        msgspec.json.decode(text, type=kind)
    return describe_mismatch(caught.value)


@pytest.mark.parametrize(
    ("inner", "described"),
    [
        ('{"count":0}', "inner.count must be at least 1"),
        ('{"count":9}', "inner.count must be at most 5"),
        ('{"share":0}', "inner.share must be more than 0.0"),
        ('{"count":"x"}', "inner.count must be a whole number, not text"),
        ('{"at":"x"}', "inner.at must be a whole number, not text"),
        ('{"items":[1,2,3]}', "inner.items must have at most 2 entries"),
        ('{"items":[1,"2"]}', "inner.items[1] must be a whole number, not text"),
        ('{"table":{"a":"b"}}', "an entry of inner.table must be a whole number, not text"),
        ('{"choice":"z"}', "inner.choice cannot be 'z'"),
        ('{"nope":1}', "inner has no field 'nope'"),
        (
            '{"text":"a\\u202eb"}',
            "inner.text does not have the right form: control characters are not allowed",
        ),
        ('{"long":"' + "x" * 1001 + '"}', "inner.long must have at most 1,000 characters"),
        ("3", "inner must be a table of fields, not a whole number"),
    ],
)
def test_a_field_is_named_with_its_rule(inner: str, described: str) -> None:
    assert describe(f'{{"inner":{inner},"number":1}}') == described


class Lengths(msgspec.Struct):
    items: Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)] = msgspec.field(
        default_factory=lambda: [1]
    )
    pair: Annotated[tuple[int, ...], msgspec.Meta(min_length=2, max_length=2)] = (1, 2)
    table: Annotated[dict[str, Annotated[str, msgspec.Meta(max_length=3)]], msgspec.Meta(max_length=2)] = {}
    inner: list[Lengths] = []
    named: dict[Annotated[str, msgspec.Meta(max_length=3)], Lengths] = {}


@pytest.mark.parametrize(
    ("data", "described"),
    [
        ({"items": [1, 2, 3]}, "items must have at most 2 entries, not 3"),
        ({"items": []}, "items must have at least 1 entry, not 0"),
        ({"pair": [1]}, "pair must have at least 2 entries, not 1"),
        ({"table": dict.fromkeys("abc", "")}, "table must have at most 2 entries, not 3"),
        (
            {"table": {"a": "abc", "b": "x" * 1234}},
            "an entry of table must have at most 3 characters, not 1,234",
        ),
        ({"inner": [{}, {"items": [1] * 5}]}, "inner[1].items must have at most 2 entries, not 5"),
        (
            {"named": {"a": {"items": [1]}, "b": {"items": [1] * 4}}},
            "named.items must have at most 2 entries, not 4",
        ),
        ({"named": {"long": {}}}, "a name in named must have at most 3 characters"),
    ],
)
def test_a_wrong_length_is_given(data: Any, described: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(data, Lengths)
    assert describe_mismatch(caught.value, data=data) == described
    assert describe_mismatch(caught.value) == described.partition(", not")[0]


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("", "the data is not complete: it ends too early"),
        ('{"number":1', "the data is not complete: it ends too early"),
        (b'{"inner":{"text":"\xff"}}', "the data has a text that is not valid UTF-8"),
        ('{"number":}', "the data is not valid JSON at byte 10"),
    ],
)
def test_what_is_no_json_is_described(text: str | bytes, described: str) -> None:
    assert describe(text) == described


def test_a_name_is_described_by_its_rule() -> None:
    for text in ('{"name":""}', '{"keyed":{"A":1}}'):
        described = describe(f'{{"inner":{text},"number":1}}')
        assert "use lower-case letters, digits, '.', '_' and '-'" in described


def test_the_whole_is_named() -> None:
    assert describe('{"inner":{}}') == "the data lacks the field 'number'"
    assert describe("3") == "the data must be a table of fields, not a whole number"
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(3, Outer)
    assert describe_mismatch(caught.value, whole="market").startswith("market must be ")


def test_the_place_of_a_syntax_error_is_given() -> None:
    assert describe('{"inner": nope}') == "the data is not valid JSON at byte 14"
    for text, at in (("x = ", "end of document"), ("\nx = = 3", "line 2, column 5")):
        with pytest.raises(msgspec.DecodeError) as caught:
            msgspec.toml.decode(text)
        assert describe_mismatch(caught.value, whole="the file") == f"the file is not valid TOML at {at}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    request=st.dictionaries(st.sampled_from(JobRequest.__struct_fields__), JSON)
    | st.binary(max_size=20)
    | JSON
)
def test_no_input_brings_out_the_librarys_words(request: Any) -> None:
    data = request if isinstance(request, bytes) else msgspec.json.encode(request)
    try:
        msgspec.json.decode(data, type=JobRequest)
    except UNDECODABLE as error:
        described = describe_mismatch(error)
        assert described
        assert not any(word in described for word in LIBRARY), described
