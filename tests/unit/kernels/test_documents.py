"""Tensor documents as the C header reads and writes them, held against `tradepost.pipeline.tensors`."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tradepost_kernels
from tradepost.errors import InvalidTensorDocument, KernelError, TradepostError
from tradepost.pipeline.tensors import DTYPES, TensorDocument, decode, encode
from tradepost_worker.runner.kernel_sandbox import KernelRun

RunBytes = Callable[[str, bytes], KernelRun]
RunBuiltin = Callable[..., TensorDocument]

arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda dtype: hnp.arrays(DTYPES[dtype], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
documents = st.builds(
    TensorDocument,
    tensors=st.dictionaries(st.text(min_size=1, max_size=8), arrays, max_size=4),
    metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4),
)
TENSOR = '"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'


def document(header: str | bytes, data: bytes = b"ab") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + data


def is_document(data: bytes) -> bool:
    try:
        decode(data)
    except InvalidTensorDocument:
        return False
    return True


def outcome(run_bytes: RunBytes, name: str, data: bytes) -> bytes | str:
    """What the kernel made of it: an output, or the code of a typed error; anything else escapes."""
    try:
        return run_bytes(name, data).output
    except TradepostError as error:
        return error.code()


@given(documents)
def test_every_document_is_read_alike(run_bytes: RunBytes, source: TensorDocument) -> None:
    result = decode(run_bytes("checksum", encode(source)).output)
    in_order = [source[name].tobytes() for name in sorted(source.tensors)]
    assert result["crc32"].tolist() == [zlib.crc32(data) for data in in_order]
    assert result.metadata["names"] == "\n".join(sorted(source.tensors))


@given(st.text(max_size=30).filter(lambda text: "\n" not in text))
def test_every_string_is_written_as_python_writes_it(run_builtin: RunBuiltin, label: str) -> None:
    # run_builtin asserts that the output is canonical.
    result = run_builtin("topk", {"scores": np.zeros(1, "f4")}, labels=label)
    assert result.metadata == {"labels": label}


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (r'{"\u00e9\n\"\\\/\b\f\r\t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', 'é\n"\\/\b\f\r\t'),
        (r'{"\ud83d\ude00\u0000":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', "😀\0"),
        ('{\n"x" :\t{ "shape" : [ 2 ] ,"data_offsets":[0 , 2], "dtype": "U8"}\r} ', "x"),
        ('{"__metadata__":{},' + TENSOR + "}", "x"),
    ],
)
def test_what_other_writers_write_is_read(run_bytes: RunBytes, header: str, name: str) -> None:
    assert list(decode(document(header)).tensors) == [name]
    assert decode(run_bytes("checksum", document(header)).output).metadata == {"names": name}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 3) + b"{}",
        document("", b""),
        document("{", b""),
        document("{}x", b""),
        document(" {}", b""),
        document("{}"),
        document("[]", b""),
        document("{" + TENSOR + ",}"),
        document("{" + TENSOR + "," + TENSOR + "}"),
        document('{"__metadata__":{},"__metadata__":{},' + TENSOR + "}"),
        document('{"__metadata__":{"a":"1","a":"2"},' + TENSOR + "}"),
        document('{"__metadata__":{"a":1},' + TENSOR + "}"),
        document('{"__metadata__":null,' + TENSOR + "}"),
        document("{" + TENSOR.replace('"x"', '""') + "}"),
        document("{" + TENSOR.replace("U8", "BF16") + "}"),
        document("{" + TENSOR.replace("[2]", "[3]") + "}"),
        document("{" + TENSOR.replace("[2]", "[02]") + "}"),
        document("{" + TENSOR.replace("[2]", "[-2]") + "}"),
        document("{" + TENSOR.replace("[2]", "[2.0]") + "}"),
        document("{" + TENSOR.replace("[2]", "[4294967298]") + "}"),
        document("{" + TENSOR.replace("[2]", "[18446744073709551618]") + "}"),
        document("{" + TENSOR.replace("[2]", "[65536,65536,65536,2]") + "}"),
        document("{" + TENSOR.replace("[2]", "[1,1,1,1,1,1,1,1,2]") + "}"),
        document("{" + TENSOR.replace("[0,2]", "[2,0]") + "}"),
        document("{" + TENSOR.replace("[0,2]", "[1,3]") + "}"),
        document("{" + TENSOR.replace("[0,2]", "[0,2,2]") + "}"),
        document("{" + TENSOR.replace('"shape":[2],', "") + "}"),
        document("{" + TENSOR.replace('"shape":[2],', '"shape":[2],"shape":[2],') + "}"),
        document("{" + TENSOR.replace("shape", "form") + "}"),
        document("{" + TENSOR + "}", b"abc"),
        document("{" + TENSOR + "," + TENSOR.replace("x", "y") + "}"),
        document("{" + TENSOR + "," + TENSOR.replace("x", "y") + "}", b"abcd"),
        document("{" + TENSOR.replace("x", r"\ud83d") + "}"),
        document("{" + TENSOR.replace("x", r"\ude00") + "}"),
        document("{" + TENSOR.replace("x", r"\ud83d\u0041") + "}"),
        document("{" + TENSOR.replace("x", r"\u12g4") + "}"),
        document("{" + TENSOR.replace("x", r"\x") + "}"),
        document("{" + TENSOR.replace("x", "\n") + "}"),
        document(("{" + TENSOR + "}").encode().replace(b"x", b"\xff")),
        document(("{" + TENSOR + "}").encode().replace(b"x", b"\xc0\x80")),
        document(("{" + TENSOR + "}").encode().replace(b"x", b"\xed\xa0\x80")),
        document(("{" + TENSOR + "}").encode().replace(b"x", b"\xf5\x80\x80\x80")),
        document('{"x'),
        document('{"x\\'),
        document('{"x\\u00'),
    ],
)
def test_malformed_documents_are_refused_with_a_message(run_bytes: RunBytes, data: bytes) -> None:
    with pytest.raises(KernelError) as caught:
        run_bytes("checksum", data)
    assert caught.value.detail.isprintable()


def test_counts_are_bounded(run_bytes: RunBytes) -> None:
    def many(count: int) -> bytes:
        return document(
            json.dumps(
                {f"{i:05}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
            ),
            b"",
        )

    assert len(decode(run_bytes("checksum", many(1024)).output)["crc32"]) == 1024
    with pytest.raises(KernelError, match="1024"):
        run_bytes("checksum", many(1025))
    with pytest.raises(KernelError, match="1024"):
        run_bytes("checksum", document(json.dumps({"__metadata__": {str(i): "" for i in range(1025)}}), b""))


@given(st.data())
def test_damaged_documents_are_judged_as_the_sdk_judges_them(
    run_bytes: RunBytes, data: st.DataObject
) -> None:
    whole = bytearray(encode(data.draw(documents)))
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header_bytes - 1))
        whole[at] = data.draw(st.sampled_from(b'{}[]",:\\u0129 \n\0\xff') | st.integers(0, 255))
    accepted = not isinstance(outcome(run_bytes, "checksum", bytes(whole)), str)
    assert accepted == is_document(bytes(whole))


@given(name=st.sampled_from(tradepost_kernels.names()), data=st.binary(max_size=100))
def test_arbitrary_bytes_never_escape(run_bytes: RunBytes, name: str, data: bytes) -> None:
    assert outcome(run_bytes, name, data) == outcome(run_bytes, name, data)
    assert outcome(run_bytes, name, document(data)) == outcome(run_bytes, name, document(data))
