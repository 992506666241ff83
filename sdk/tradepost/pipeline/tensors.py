"""Tensor documents: what flows between stages, as safetensors bytes with one canonical form.

Equal documents have equal bytes, which the `safetensors` writer does not promise: it keeps metadata in a
hash map, whose order changes from run to run. So `encode` writes the format itself (8-byte little-endian
header length, JSON header with sorted keys, padding, tensors in name order, no gaps); `decode` lets the
library check what a stranger sent.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors

from tradepost.errors import UNDECODABLE, InvalidTensorDocument

#: safetensors dtype name -> NumPy dtype, little-endian. BF16 and the 8-bit floats have no NumPy dtype.
DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "BOOL": np.dtype("bool"),
        "U8": np.dtype("u1"),
        "I8": np.dtype("i1"),
        "U16": np.dtype("<u2"),
        "I16": np.dtype("<i2"),
        "F16": np.dtype("<f2"),
        "U32": np.dtype("<u4"),
        "I32": np.dtype("<i4"),
        "F32": np.dtype("<f4"),
        "U64": np.dtype("<u8"),
        "I64": np.dtype("<i8"),
        "F64": np.dtype("<f8"),
    }
)
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

HEADER_BYTES_MAX: Final = 1 << 20
TENSORS_MAX: Final = 1024
_DIMENSIONS_MAX: Final = 32
METADATA_KEY: Final = "__metadata__"
_ALIGNMENT: Final = 8
_TENSORS_SHOWN_MAX: Final = 8

_CONVERT_HINT: Final = f"Convert it to one of {', '.join(DTYPES)}."

Tensor = npt.NDArray[Any]


class NamedTensors(Mapping[str, Tensor]):
    """Something with `tensors`, as a read-only mapping of their names to them."""

    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True, eq=False, repr=False)
class TensorDocument(NamedTensors):
    """Named tensors plus string metadata. A read-only mapping of the tensors."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, TensorDocument):
            return self is other
        try:
            return encode(self) == encode(other)
        except InvalidTensorDocument:  # one of them has no bytes
            return False

    __hash__ = None  # type: ignore[assignment]  # arrays are mutable

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {describe_tensors(self.tensors)}>"


def describe_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The first few tensors, each by name, dtype and shape: `y F32[2, 3], …`."""
    shown = [f"{name} {_form(tensor)}" for name, tensor in islice(tensors.items(), _TENSORS_SHOWN_MAX)]
    return ", ".join(shown + ["…"] * (len(tensors) > _TENSORS_SHOWN_MAX))


def _form(tensor: object) -> str:
    if not isinstance(tensor, np.ndarray):
        return type(tensor).__name__
    try:
        return f"{dtype_name(tensor)}{list(tensor.shape)}"
    except InvalidTensorDocument:
        return f"{tensor.dtype}{list(tensor.shape)}"


def dtype_name(tensor: Tensor) -> str:
    """The safetensors name of a tensor's dtype. Raises `InvalidTensorDocument` for one that has none."""
    try:
        return _NAMES[tensor.dtype.newbyteorder("<")]
    except (KeyError, TypeError):  # some of NumPy's newer dtypes have no byte order
        raise InvalidTensorDocument(
            f"dtype {tensor.dtype} has no safetensors name", hint=_CONVERT_HINT
        ) from None


def encode(document: TensorDocument) -> bytes:
    """The canonical safetensors bytes of `document`; equal documents give equal bytes.

    Raises `InvalidTensorDocument` for a dtype or name that the format cannot carry, and for more tensors or
    dimensions than `decode` accepts.
    """
    header: dict[str, Any] = {}
    _check_count(len(document.tensors))
    _check_texts(document)
    if document.metadata:
        header[METADATA_KEY] = dict(sorted(document.metadata.items()))
    chunks: list[bytes | memoryview] = []
    offset = 0
    for name in sorted(document.tensors):
        if name == METADATA_KEY or not name:
            raise InvalidTensorDocument(
                f"a tensor cannot be named {name!r}",
                hint=f"Use any other text of one character or more; {METADATA_KEY} is the format's own.",
            )
        tensor = document.tensors[name]
        dtype = _dtype_of(name, tensor)
        _check_dimensions(name, tensor.ndim)
        data = _bytes_of(np.ascontiguousarray(tensor, dtype=DTYPES[dtype]))
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def _dtype_of(name: str, tensor: object) -> str:
    """As `dtype_name`, with an error that has the tensor's name."""
    if not isinstance(tensor, np.ndarray):
        raise InvalidTensorDocument(
            f"tensor {name!r} is a {type(tensor).__name__}, not an array",
            hint="Make it an array first: numpy.asarray(value).",
        )
    try:
        return dtype_name(tensor)
    except InvalidTensorDocument:
        raise InvalidTensorDocument(
            f"tensor {name!r} has dtype {tensor.dtype}, which is not supported",
            hint=_CONVERT_HINT,
        ) from None


def _check_texts(document: TensorDocument) -> None:
    """Raise `InvalidTensorDocument` for a name or metadata that is not text which UTF-8 can carry."""
    for text in (*document.tensors, *document.metadata, *document.metadata.values()):
        if not isinstance(text, str):
            raise InvalidTensorDocument(
                f"a name or metadata is of type {type(text).__name__}; use text",
                hint="Convert it to text: str(value).",
            )
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise InvalidTensorDocument(
                f"a name or metadata is {text!a}, which is not valid Unicode text",
                hint="Use text that UTF-8 can carry: without surrogates, \\ud800 to \\udfff.",
            )


def _check_count(tensors: int) -> None:
    if tensors > TENSORS_MAX:
        raise InvalidTensorDocument(
            f"{tensors:,} tensors; the limit is {TENSORS_MAX:,}",
            hint="Put tensors of one dtype into one array: numpy.stack(arrays).",
        )


def _check_dimensions(name: str, dimensions: int) -> None:
    if dimensions > _DIMENSIONS_MAX:
        raise InvalidTensorDocument(
            f"tensor {name!r} has {dimensions} dimensions; the limit is {_DIMENSIONS_MAX}",
            hint="Join some of its dimensions: array.reshape(shape).",
        )


def _bytes_of(tensor: Tensor) -> memoryview:
    """A C-contiguous tensor's bytes, not copied; an empty one has no view of another shape."""
    return tensor.reshape(-1).view(np.uint8).data


def decode(data: bytes | memoryview, *, bytes_max: int | None = None) -> TensorDocument:
    """The document in `data`, whose tensors are read-only views where alignment allows.

    Raises `InvalidTensorDocument` if it is malformed, has gaps or overlaps, or exceeds `bytes_max`.
    """
    data = bytes(data)
    if bytes_max is not None and len(data) > bytes_max:
        raise InvalidTensorDocument(
            f"{len(data):,} bytes; the limit is {bytes_max:,}", hint="Make the document smaller."
        )
    _, metadata = _decode_header(data[: 8 + HEADER_BYTES_MAX], len(data))
    try:
        # The library checks offsets, overlaps, gaps, overflow and duplicate names.
        parts = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise InvalidTensorDocument(str(error)) from error
    tensors: dict[str, Tensor] = {}
    for name, part in parts:
        dtype = _check_part(name, part["dtype"], part["shape"], len(data))
        tensor = np.frombuffer(part["data"], dtype=dtype).reshape(part["shape"])
        tensor.flags.writeable = False
        tensors[name] = tensor
    return TensorDocument(tensors=tensors, metadata=metadata)


def map_document(path: Path) -> TensorDocument:
    """The document in the file at `path`, as `decode` gives it; its tensors are read from the disk when used.

    Takes little memory however large the document is. The file must not change while the document is used.
    Raises `InvalidTensorDocument`.
    """
    with path.open("rb") as file:
        head = file.read(8 + HEADER_BYTES_MAX)
        document_bytes = os.fstat(file.fileno()).st_size
    header, metadata = _decode_header(head, document_bytes)
    try:
        # As in `decode`; opening checks the whole header against the file's size.
        with safetensors.safe_open(path, framework="numpy") as checked:
            names = list(checked.keys())
    except safetensors.SafetensorError as error:
        raise InvalidTensorDocument(str(error)) from error
    body = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))[8 + int.from_bytes(head[:8], "little") :]
    tensors: dict[str, Tensor] = {}
    for name in names:
        part = header[name]
        dtype = _check_part(name, part["dtype"], part["shape"], document_bytes)
        begin, end = part["data_offsets"]
        tensors[name] = body[begin:end].view(dtype).reshape(part["shape"])
    return TensorDocument(tensors=tensors, metadata=metadata)


def _decode_header(head: bytes, document_bytes: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The header and the metadata in it, from a document's first bytes."""
    if len(head) < 8:
        raise InvalidTensorDocument("shorter than its 8-byte header length")
    header_bytes = int.from_bytes(head[:8], "little")
    if header_bytes > document_bytes - 8:
        raise InvalidTensorDocument(f"the header claims {header_bytes:,} bytes")
    if header_bytes > HEADER_BYTES_MAX:
        raise InvalidTensorDocument(
            f"its names, shapes and metadata take {header_bytes:,} bytes; the limit is {HEADER_BYTES_MAX:,}",
            hint="Shorten them; put large data into a tensor of bytes (U8).",
        )
    try:
        header = msgspec.json.decode(head[8 : 8 + header_bytes], type=dict[str, Any])
        _check_count(len(header) - (METADATA_KEY in header))
        return header, msgspec.convert(header.get(METADATA_KEY, {}), dict[str, str])
    except UNDECODABLE as error:
        raise InvalidTensorDocument(f"the header is not valid: {error}") from error


def _check_part(name: str, dtype: str, shape: list[int], document_bytes: int) -> np.dtype[Any]:
    """The tensor's dtype, once dtype and shape are ones that can be used."""
    if dtype not in DTYPES:
        raise InvalidTensorDocument(
            f"tensor {name!r} has dtype {dtype}, which is not supported",
            hint=f"{_CONVERT_HINT} BF16 and F8 values are exact in F32.",
        )
    _check_dimensions(name, len(shape))
    if math.prod(shape) > document_bytes:
        raise InvalidTensorDocument(f"tensor {name!r} has shape {shape}")
    return DTYPES[dtype]
