"""What a program passes: plain meanings are accepted, everything else is a typed error in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from tradepost import Client, Requirements, Result, TensorDocument, TradepostError
from tradepost.client.arguments import timeout_s
from tradepost.client.async_client import AsyncClient
from tradepost.client.inputs import document_bytes
from tradepost.client.job_request import prepare_job
from tradepost.errors import (
    InlineInputTooLarge,
    InvalidCall,
    InvalidInput,
    InvalidSettings,
    InvalidTensorDocument,
    UnknownJob,
    UnknownPipeline,
)
from tradepost.pipeline.tensors import decode, encode
from tradepost.protocol import INLINE_BYTES_MAX, Submit, broker_codec_for_clients, client_codec
from tradepost.protocol.rest import Verification
from tradepost.short_repr import shown
from tradepost.untrusted_text import plain

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
X = {"x": np.zeros(1, np.float32)}


def prepare(**changes: Any) -> Any:
    given: dict[str, Any] = {"pipeline": PIPELINE, "inputs": X, "max_price": 1, **changes}
    return prepare_job(given.pop("pipeline"), given.pop("inputs"), **given).request


@pytest.mark.parametrize(
    "changes",
    [
        {"confidence": np.float64(0.9), "patience_s": np.int64(5), "deadline_s": np.float32(7)},
        {"confidence": Decimal("0.9"), "patience_s": Fraction(1, 3), "deadline_s": np.uint8(7)},
        {"max_price": np.float64(0.5)},
        {"max_price": np.int32(3)},
        {"max_price": Decimal("0.000001")},
        {"inline": np.True_},
        {"inline": np.False_},
        {"requirements": Requirements(memory_bytes=np.int64(9), isolation=["seccomp"])},  # type: ignore[arg-type]
        {"idempotency_key": "größe"},
        {"patience_s": 0},
    ],
)
def test_plain_values_make_a_frame_that_the_broker_accepts(changes: dict[str, Any]) -> None:
    request = prepare(**changes)
    message = client_codec().encode([Submit(1, request)])
    assert broker_codec_for_clients().decode(message) == [Submit(1, request)]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"confidence": value}, "confidence is")
        for value in (
            0.1,
            1,
            NAN,
            "0.9",
            None,
            True,
            1j,
            np.complex64(1),
            [0.9],
            np.array([0.9, 0.8]),
            object(),
        )
    ]
    + [
        ({"deadline_s": value}, "deadline_s is")
        for value in (0, -1, NAN, INF, 1e9, "5", None, Decimal("sNaN"))
    ]
    + [({"patience_s": value}, "patience_s is") for value in (-1, NAN, INF, "5", 10**400, np.bool_(True))]
    + [({"max_price": value}, "max_price is") for value in (0, 0.0, "0")]
    + [({"idempotency_key": value}, "idempotency_key is") for value in ("", 5, "k" * 129, "\ud800", b"k")]
    + [({"inline": value}, "inline is") for value in (1, "yes", 0.0)]
    + [
        ({"requirements": {"memory_bytes": 1}}, "requirements are"),
        ({"requirements": Requirements(memory_bytes=-1)}, "memory_bytes is"),
        ({"requirements": Requirements(memory_bytes=1.5)}, "memory_bytes is"),  # type: ignore[arg-type]
        ({"requirements": Requirements(isolation="seccomp")}, "isolation is"),  # type: ignore[arg-type]
        ({"requirements": Requirements(isolation=("a\x00b",))}, "isolation is"),
        ({"requirements": Requirements(isolation=tuple("abcdefghi"))}, "isolation is"),
        ({"requirements": Requirements(isolation=(5,))}, "isolation is"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_option_is_refused_by_its_name(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidCall, match=names) as caught:
        prepare(**changes)
    assert "$" not in caught.value.diagnostics()


WRONG_PRICES = (
    NAN,
    INF,
    -1,
    "free",
    None,
    [1],
    0.0000001,
    10**30,
    True,
    np.True_,
    "٣",
    "\uff11",
    " 1",
    "1 ",
    "1_0",
    "",
)
MORE_WRONG_PRICES = (
    "-0.1",
    "1e-7",
    Decimal("1e-7"),
    Decimal("1e30"),
    Decimal("sNaN"),
    Fraction(1, 3),
    1j,
    b"1",
)


@pytest.mark.parametrize(
    "price", [*WRONG_PRICES, *MORE_WRONG_PRICES, np.array(1.0), np.float32("nan"), np.array("1")]
)
def test_a_wrong_price_is_the_callers_mistake(price: Any) -> None:
    with pytest.raises(InvalidCall) as caught:
        prepare(max_price=price)
    expected = (
        "it must be a number of credits from 0.000001 to 9,007,199,254.740992, with at most 6 decimal places"
    )
    assert caught.value.detail == f"max_price is {shown(price)}; {expected}"


@pytest.mark.parametrize(
    ("price", "microcredits"),
    [
        (Decimal("1E+2"), 100_000_000),
        (Decimal("5e-3"), 5000),
        ("1e-3", 1000),
        (".5", 500_000),
        (Fraction(1, 8), 125_000),
        (np.float32(0.1), 100_000),
        (np.uint8(2), 2_000_000),
        (1e-6, 1),
    ],
)
def test_a_price_is_exact_however_it_is_written(price: Any, microcredits: int) -> None:
    assert prepare(max_price=price).max_price_microcredits == microcredits


@pytest.mark.parametrize("pipeline", [None, 5, "", "a/b", "..", "\ud800", "b" * 65, b"bafy"])
def test_what_cannot_be_a_pipelines_cid_is_an_unknown_pipeline(pipeline: Any) -> None:
    with pytest.raises(UnknownPipeline, match="not the CID"):
        prepare(pipeline=pipeline)


def test_an_inline_input_has_a_limit() -> None:
    with pytest.raises(InlineInputTooLarge):
        prepare(inputs=bytes(INLINE_BYTES_MAX + 1), inline=True)


@pytest.mark.parametrize("value", [NAN, "5", "٣", True, [1], np.float32("nan"), Decimal("nan"), 1j])
def test_a_wrong_timeout_is_refused(value: Any) -> None:
    with pytest.raises(InvalidCall, match="timeout is"):
        timeout_s(value)


def test_every_number_of_seconds_is_a_timeout() -> None:
    assert [timeout_s(value) for value in (None, INF, 1e300, -INF, -1, np.float32(2), 3)] == [
        None,
        None,
        None,
        0,
        0,
        2,
        3,
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"give_up_s": NAN},
        {"give_up_s": -1},
        {"give_up_s": "5"},
        {"url": 5},
        {"api_key": b"key"},
        {"url": "x://"},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings):
        AsyncClient(**{"url": "http://127.0.0.1:1", "api_key": "key", **settings})


# Inputs


@pytest.mark.parametrize(
    ("value", "dtype", "values"),
    [
        ([1.5, 2.5], "float64", [1.5, 2.5]),
        ([[1, 2], [3, 4]], "int64", [[1, 2], [3, 4]]),
        (2.5, "float64", 2.5),
        (True, "bool", True),
        (np.float32(1), "float32", 1.0),
        (b"ab", "uint8", [97, 98]),
        (bytearray(b"ab"), "uint8", [97, 98]),
        (memoryview(b"ab"), "uint8", [97, 98]),
        (memoryview(np.array([1.5, 2.5])), "float64", [1.5, 2.5]),
        (range(3), "int64", [0, 1, 2]),
        (Image.new("L", (2, 1), 7), "uint8", [[7, 7]]),
        (Image.new("RGB", (1, 1), (1, 2, 3)), "uint8", [[[1, 2, 3]]]),
        (np.ma.MaskedArray([1.0, 2.0]), "float64", [1.0, 2.0]),
        (np.array([1, 2], dtype=">i4"), "int32", [1, 2]),
        (np.arange(4.0)[::2], "float64", [0.0, 2.0]),
    ],
)
def test_a_value_with_one_meaning_is_a_tensor(value: Any, dtype: str, values: Any) -> None:
    tensor = decode(document_bytes({"x": value}))["x"]
    assert (str(tensor.dtype), tensor.tolist()) == (dtype, values)


def test_a_whole_document_is_an_input_in_each_form() -> None:
    document = TensorDocument(tensors={"x": np.ones(2)}, metadata={"größe": "ß"})
    data = encode(document)
    result = Result(
        job="j",
        document=data,
        tensors=document.tensors,
        metadata=document.metadata,
        price=Decimal(1),
        receipts=(),
        verification=Verification(credibility=1.0),
        seconds=1.0,
    )
    for form in (document, data, bytearray(data), memoryview(data), result):
        assert document_bytes(form) == data  # type: ignore[arg-type]


class Unconvertible:
    """An array that cannot be had, as a tensor on another device is one."""

    def __array__(self, *_: object, **__: object) -> Any:
        raise RuntimeError("it is on another device")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        ["a"],
        [[1], [2, 3]],
        {"nested": 1},
        object(),
        1j,
        np.array(["a"]),
        np.array([None]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.zeros(1, dtype=[("a", "f4")]),
        np.longdouble(1),
        10**30,
        np.ma.MaskedArray([1.0, 2.0], mask=[True, False]),
        Image.new("P", (1, 1)),
        Image.new("1", (8, 1)),
        Unconvertible(),
    ],
)
def test_a_value_without_one_meaning_is_refused_by_its_tensors_name(value: Any) -> None:
    with pytest.raises((InvalidInput, InvalidTensorDocument)) as caught:
        document_bytes({"photo": value})
    assert "photo" in caught.value.detail


@pytest.mark.parametrize(
    ("value", "dtype", "hint"),
    [
        (np.array([None]), "object", "one array of numbers"),
        (scipy.sparse.eye(3), "object", "dense"),
        (np.array(["a"]), "<U1", "text.encode()"),
        (np.array([b"a"]), "|S1", "text.encode()"),
        (np.array(["a"], dtype=np.dtypes.StringDType()), "StringDType()", "text.encode()"),
        (np.array([1j]), "complex128", "array.real and array.imag"),
        (np.array([1j], dtype=">c8"), ">c8", "array.real and array.imag"),
        (np.array(["2020"], dtype="M8[D]"), "datetime64[D]", "astype('int64')"),
        (np.array([1], dtype="m8[s]"), "timedelta64[s]", "astype('int64')"),
        (np.zeros(1, dtype=[("a", "f4"), ("b", "f4")]), "[('a', '<f4'), ('b', '<f4')]", "array['field']"),
        (np.zeros(1, dtype=ml_dtypes.bfloat16), "bfloat16", "array.astype('float32')"),
        (np.zeros(1, dtype=ml_dtypes.float8_e4m3fn), "float8_e4m3fn", "array.astype('float32')"),
        (np.zeros(1, dtype=np.longdouble), str(np.dtype(np.longdouble)), "array.astype('float64')"),
        (np.zeros(1, dtype="V8"), "|V8", "array.astype"),
    ],
)
def test_a_dtype_that_no_document_has_is_named_with_what_to_do(value: Any, dtype: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        document_bytes({"a": np.zeros(1), "photo": value})
    assert f"tensor 'photo' has dtype {dtype}, which a tensor document cannot carry" in caught.value.detail
    assert hint in caught.value.hint
    with pytest.raises(InvalidTensorDocument, match="'photo'"):
        encode(TensorDocument(tensors={"photo": value}))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(3).reshape(()), 3.0),
        (np.arange(6, dtype=">i4").reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
        (np.arange(6, dtype=">f8")[::-2], [5.0, 3.0, 1.0]),
        (np.asfortranarray(np.ones((2, 1), dtype="<u2")), [[1], [1]]),
        (np.ma.MaskedArray(np.array([1.0, 2.0], dtype=">f4")[::-1]), [2.0, 1.0]),
        (np.broadcast_to(np.float16(1), (2, 2)), [[1.0, 1.0], [1.0, 1.0]]),
        (np.zeros((0, 3), dtype=bool), []),
        (np.matrix([[1, 2]]), [[1, 2]]),
    ],
)
def test_an_array_of_any_layout_is_its_values(value: Any, expected: Any) -> None:
    assert decode(document_bytes({"x": value}))["x"].tolist() == expected


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        5,
        "photo.png",
        [1.0],
        np.zeros(3),
        {1: np.zeros(1)},
        {"": np.zeros(1)},
        {"__metadata__": np.zeros(1)},
        {"\ud800": np.zeros(1)},
        {"a": np.zeros(1), 5: np.zeros(1)},
        TensorDocument(tensors=None),  # type: ignore[arg-type]
        TensorDocument(tensors={}, metadata={"a": 5}),  # type: ignore[dict-item]
        TensorDocument(tensors={}, metadata={"a": "\udfff"}),
        TensorDocument(tensors={}, metadata={5: "a"}),  # type: ignore[dict-item]
    ],
)
def test_what_is_not_an_input_is_refused(inputs: Any) -> None:
    with pytest.raises(TradepostError) as caught:
        document_bytes(inputs)
    assert type(caught.value) in (InvalidInput, InvalidTensorDocument)
    # These hints are for the bytes of a document.
    assert caught.value.hint != InvalidTensorDocument.default_hint
    assert "jobs pipeline CID" not in caught.value.hint


@pytest.mark.parametrize("value", [2**64, [2**70], [[1], [-(2**63) - 1]], [0.5, 10**400], [True, 2**64]])
def test_an_integer_beyond_every_dtype_is_named_as_one(value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        document_bytes({"photo": value})
    assert "tensor 'photo' has an integer beyond every dtype (-2^63 to 2^64-1)" in caught.value.detail
    assert "dtype='float64'" in caught.value.hint
    for other in ([None, 2**64], ["a", 2**64]):
        with pytest.raises(InvalidInput, match="tensor 'photo' has dtype"):
            document_bytes({"photo": other})


def test_lists_of_unequal_length_are_refused_with_what_to_pass() -> None:
    with pytest.raises(InvalidInput, match="cannot be made an array") as caught:
        document_bytes({"photo": [[1], [2, 3]]})
    assert "one array of numbers" in caught.value.hint


def test_what_an_error_shows_of_a_value_is_short() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    for value in (np.zeros(10**6), "x" * 10**6, [0] * 10**6, Broken(), 10**5000, "\ud800"):
        assert len(shown(value)) <= 120
        shown(value).encode()


# Keywords, keys and ids


@pytest.mark.parametrize(
    ("options", "said"), [({"max_price": 1, "foo": 1}, "'foo'; it takes max_price, "), ({}, "'max_price'")]
)
async def test_a_wrong_keyword_names_the_call_that_was_made(options: dict[str, Any], said: str) -> None:
    client, apart = Client("http://127.0.0.1:1", api_key="k"), AsyncClient("http://127.0.0.1:1", api_key="k")
    calls: dict[str, Callable[[], Any]] = {
        "Client.submit": lambda: client.submit(PIPELINE, X, **options),
        "Client.map": lambda: client.map(PIPELINE, [X], **options),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=re.escape(f"{name}() ")) as caught:
            call()
        assert said in str(caught.value)
    with pytest.raises(TypeError, match=r"AsyncClient\.map\(\) ") as caught:
        await anext(apart.map(PIPELINE, [X], **options))
    assert said in str(caught.value)
    with pytest.raises(TypeError, match=r"AsyncClient\.submit\(\) "):
        await apart.submit(PIPELINE, X, **options)


@pytest.mark.parametrize("key", ["k" * 513, "k" * 1_000_000])
def test_a_key_that_is_no_key_is_a_wrong_setting(key: str) -> None:
    with pytest.raises(
        InvalidSettings, match=r"the API key has .* characters; no API key has more than 512"
    ) as caught:
        Client("http://127.0.0.1:1", api_key=key)
    assert "kkk" not in caught.value.diagnostics()
    AsyncClient("http://127.0.0.1:1", api_key="k" * 512)


@pytest.mark.parametrize(
    "job", ["a/b", "../jobs", "..", "a?b=c", "a#b", "a%2Fb", "a b", "größe", "\x00", "a\nb", "%", "j" * 256]
)
def test_an_id_names_one_job_and_nothing_else(client: Client, job: str) -> None:
    asked = []
    for call in (client.job, client.cancel, client.attach, lambda one: client.jobs(before=one)):
        with pytest.raises(UnknownJob) as caught:
            call(job)
        asked.append(caught.value.detail)
    assert f"account fake has no job {plain(job)}" in asked[0]
