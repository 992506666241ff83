"""Tensor documents: one canonical form, readable by the safetensors library, strict about strangers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tradepost.errors import InvalidTensorDocument
from tradepost.pipeline.tensors import (
    DTYPES,
    HEADER_BYTES_MAX,
    TensorDocument,
    decode,
    dtype_name,
    encode,
    map_document,
)

names = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
texts = st.text(max_size=20)
arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda dtype: hnp.arrays(DTYPES[dtype], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
documents = st.builds(
    TensorDocument,
    tensors=st.dictionaries(names, arrays, max_size=4),
    metadata=st.dictionaries(texts, texts, max_size=4),
)


@given(documents)
def test_round_trip_keeps_everything(document: TensorDocument) -> None:
    again = decode(encode(document))
    assert again.metadata == document.metadata
    assert again.tensors.keys() == document.tensors.keys()
    for name, tensor in document.tensors.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
        assert again[name].tobytes() == tensor.tobytes()


@given(documents)
def test_order_of_insertion_does_not_show(document: TensorDocument) -> None:
    turned = TensorDocument(
        tensors=dict(reversed(document.tensors.items())), metadata=dict(reversed(document.metadata.items()))
    )
    assert encode(turned) == encode(document)
    assert turned == document


@given(documents)
def test_the_library_reads_the_same_tensors(document: TensorDocument) -> None:
    loaded = safetensors.numpy.load(encode(document))
    assert loaded.keys() == document.tensors.keys()
    for name, tensor in document.tensors.items():
        assert loaded[name].tobytes() == tensor.tobytes()


def mapped(data: bytes) -> TensorDocument:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return map_document(Path(file.name))


def decoded(data: bytes) -> TensorDocument | None:
    try:
        return decode(data)
    except InvalidTensorDocument:
        return None


@given(documents)
def test_a_mapped_file_is_the_same_document(document: TensorDocument) -> None:
    again = mapped(encode(document))
    assert encode(again) == encode(document)
    assert all(not tensor.flags.writeable for tensor in again.tensors.values())


@given(documents, st.data())
def test_a_damaged_file_is_mapped_or_refused_as_its_bytes_are(
    document: TensorDocument, data: st.DataObject
) -> None:
    damaged = bytearray(encode(document))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for one in (bytes(damaged), cut):
        expected = decoded(one)
        if expected is None:
            with pytest.raises(InvalidTensorDocument):
                mapped(one)
        else:
            found = mapped(one)
            assert dict(found.metadata) == dict(expected.metadata)
            assert {name: (t.dtype, t.shape, t.tobytes()) for name, t in found.tensors.items()} == {
                name: (t.dtype, t.shape, t.tobytes()) for name, t in expected.tensors.items()
            }


@given(documents, st.data())
def test_a_damaged_document_is_refused_or_still_a_document(
    document: TensorDocument, data: st.DataObject
) -> None:
    damaged = bytearray(encode(document))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(bytes(damaged))
    except InvalidTensorDocument:
        return
    assert encode(decode(encode(read))) == encode(read)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(InvalidTensorDocument):
        decode(noise)


X = np.zeros(1, np.float32)


def with_header(header: object) -> bytes:
    """The bytes of a document without values."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}},
        {"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 8]}},
        {"x": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}},
        {"x": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 4]}},
        {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}},
        {"__metadata__": {"a": 1}},
        [],
    ],
    ids=[
        "overflow",
        "beyond the end",
        "backwards",
        "negative",
        "no NumPy dtype",
        "metadata of numbers",
        "list",
    ],
)
def test_lies_in_the_header_are_refused(header: object) -> None:
    with pytest.raises(InvalidTensorDocument):
        decode(with_header(header) + b"1234")
    with pytest.raises(InvalidTensorDocument):
        mapped(with_header(header) + b"1234")


def test_the_cap_is_checked_before_anything_is_read() -> None:
    with pytest.raises(InvalidTensorDocument, match="limit"):
        decode(bytes(100), bytes_max=99)


def test_a_dtype_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidTensorDocument, match="complex"):
        dtype_name(np.zeros(1, dtype=np.complex64))


@pytest.mark.parametrize(
    ("document", "told", "hint"),
    [
        ({"x": [1]}, "tensor 'x' is a list", "numpy.asarray"),
        ({"": X}, "a tensor cannot be named ''", "__metadata__"),
        ({"__metadata__": X}, "a tensor cannot be named '__metadata__'", "__metadata__"),
        ({1: X}, "a name or metadata is of type int", "str(value)"),
        ({"\ud800": X}, "not valid Unicode", "surrogates"),
        ({"x": np.zeros((1,) * 33)}, "tensor 'x' has 33 dimensions; the limit is 32", "reshape"),
        (dict.fromkeys(map(str, range(1025)), X), "1,025 tensors; the limit is 1,024", "one array"),
        ({"x": np.zeros(1, complex)}, "tensor 'x' has dtype complex128", "F64"),
    ],
)
def test_what_cannot_be_encoded_has_a_hint_that_helps(document: Any, told: str, hint: str) -> None:
    with pytest.raises(InvalidTensorDocument) as caught:
        encode(TensorDocument(tensors=document))
    assert told in caught.value.detail
    assert hint in caught.value.hint
    assert caught.value.hint != InvalidTensorDocument.default_hint


@pytest.mark.parametrize(
    ("data", "bytes_max", "told", "hint"),
    [
        (encode(TensorDocument(tensors={"x": X})), 20, "68 bytes; the limit is 20", "smaller"),
        (
            encode(TensorDocument(tensors={}, metadata={"a": "b" * HEADER_BYTES_MAX})),
            None,
            "names, shapes and metadata take 1,048,608 bytes; the limit is 1,048,576",
            "Shorten",
        ),
        (
            with_header(
                {f"n{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(1025)}
            ),
            None,
            "1,025 tensors; the limit is 1,024",
            "one array",
        ),
        (
            with_header({"x": {"dtype": "U8", "shape": [0] * 33, "data_offsets": [0, 0]}}),
            None,
            "tensor 'x' has 33 dimensions; the limit is 32",
            "reshape",
        ),
    ],
    ids=["bytes", "header", "tensors", "dimensions"],
)
def test_a_document_beyond_a_limit_has_a_hint_that_helps(
    data: bytes, bytes_max: int | None, told: str, hint: str
) -> None:
    with pytest.raises(InvalidTensorDocument) as caught:
        decode(data, bytes_max=bytes_max)
    assert told in caught.value.detail
    assert hint in caught.value.hint


def test_decoded_tensors_cannot_be_written() -> None:
    document = decode(encode(TensorDocument(tensors={"x": np.zeros(3)})))
    with pytest.raises(ValueError, match="read-only"):
        document["x"][0] = 1
