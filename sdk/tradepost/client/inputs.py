"""A job's input as a program has it, made into the bytes of a tensor document.

What has one plain meaning is accepted: arrays and what NumPy makes one of, numbers and lists of them, bytes
as U8, images as their pixels, and the result of another job. Everything else is a typed error that names the
tensor, since a value that was guessed would be computed on, and paid for.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from tradepost.client.results import Result
from tradepost.errors import InvalidCall, InvalidInput, InvalidTensorDocument
from tradepost.pipeline.tensors import Tensor, TensorDocument, dtype_name, encode
from tradepost.short_repr import shown

#: One tensor: an array, or what NumPy makes an array of numbers of.
TensorLike = Any
#: A job's input: named tensors, a whole document, a document's bytes, or the result of another job.
Inputs = Mapping[str, TensorLike] | TensorDocument | Result | bytes

#: What to do, by NumPy's letter for a kind of dtype.
_HINTS: Final = {
    "O": "Pass one array of numbers of one type; make a sparse or nested one dense first.",
    "S": "Pass text as bytes: text.encode().",
    "U": "Pass text as bytes: text.encode().",
    "T": "Pass text as bytes: text.encode().",
    "c": "Pass two tensors: array.real and array.imag.",
    "M": "Pass its integers, and say which unit they are in: array.astype('int64').",
    "m": "Pass its integers, and say which unit they are in: array.astype('int64').",
    "f": "Convert it: array.astype('float64').",
}
_HINT: Final = "Pass a dict of arrays, a TensorDocument, the bytes of one, or a Result."
#: Pixels of these images are not values: they are indices of a palette, or eight to a byte.
_IMAGE_MODES_UNCLEAR: Final = ("P", "PA", "1")


def document_bytes(inputs: Inputs) -> bytes:
    """The tensor document for `inputs`. Raises `InvalidInput` or `InvalidTensorDocument`."""
    if isinstance(inputs, bytes | bytearray | memoryview):
        return bytes(inputs)
    if isinstance(inputs, Result):
        return inputs.document
    if isinstance(inputs, TensorDocument):
        tensors, metadata = inputs.tensors, inputs.metadata
    else:
        tensors, metadata = inputs, {}
    if not isinstance(tensors, Mapping) or not isinstance(metadata, Mapping):
        raise InvalidInput(f"{shown(inputs)} is not an input", hint=_HINT)
    named = {name: _tensor(name, value) for name, value in tensors.items()}
    return encode(TensorDocument(tensors=named, metadata=metadata))


def check_many(inputs: Any) -> None:
    """Raise `InvalidCall` for what is no iterable of inputs; one input, or a text, is none."""
    if not isinstance(inputs, Iterable) or isinstance(inputs, Mapping | str | bytes | bytearray | memoryview):
        raise InvalidCall(
            f"inputs are {shown(inputs)}; pass an iterable of inputs", hint="For one input, call `submit`."
        )


def _tensor(name: Any, value: Any) -> Tensor:
    if not isinstance(name, str):
        raise InvalidTensorDocument(
            f"a tensor cannot be named {shown(name)}", hint="Use text, as the pipeline declares its inputs."
        )
    if isinstance(value, bytes | bytearray):
        return np.frombuffer(bytes(value), dtype=np.uint8)
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise InvalidInput(
            f"tensor {shown(name)} has masked values, which a tensor document cannot carry",
            hint="Pass the array with the masked values filled in: `array.filled(value)`.",
        )
    if getattr(value, "mode", None) in _IMAGE_MODES_UNCLEAR:
        raise InvalidInput(
            f"tensor {shown(name)} is an image of mode {value.mode}, whose pixels are not values",
            hint="Convert the image first: image.convert('RGB') or image.convert('L').",
        )
    try:
        tensor = np.asarray(value)
    except Exception as error:  # lists of unequal length, or a failure of an object's own conversion
        raise InvalidInput(
            f"tensor {shown(name)} cannot be made an array: {error}", hint=_HINTS["O"]
        ) from error
    if _has_too_large_integer(tensor):
        raise InvalidInput(
            f"tensor {shown(name)} has an integer beyond every dtype (-2^63 to 2^64-1): {shown(value)}",
            hint="Scale it, or round it to a float: numpy.asarray(value, dtype='float64').",
        )
    try:
        dtype_name(tensor)
    except InvalidTensorDocument:
        raise InvalidInput(
            f"tensor {shown(name)} has dtype {tensor.dtype}, which a tensor document cannot carry: "
            f"{shown(value)}",
            hint=_dtype_hint(tensor),
        ) from None
    return tensor


def _has_too_large_integer(tensor: Tensor) -> bool:
    """Whether these are numbers only, which NumPy left objects because of an integer without a dtype."""
    if tensor.dtype.kind != "O" or not all(isinstance(one, numbers.Real) for one in tensor.flat):
        return False
    return any(isinstance(one, int) and not -(1 << 63) <= one < 1 << 64 for one in tensor.flat)


def _dtype_hint(tensor: Tensor) -> str:
    """How to pass what is in an array whose dtype has no safetensors name."""
    if tensor.dtype.names is not None:
        return "Pass one tensor for each field: array['field']."
    if (hint := _HINTS.get(tensor.dtype.kind)) is not None:
        return hint
    return "Convert it, which is exact for bfloat16 and 8-bit floats: array.astype('float32')."
