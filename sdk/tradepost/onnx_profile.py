"""What may be in a model: a bounded walk over its protobuf before onnxruntime parses it.

Publishers' tools and workers run the same check, without an engine.

ONNX lets a tensor name a file that holds its data (`external_data`), by a path that the model chooses.
A model from the market is one artifact with one CID, so any such tensor is refused, wherever it hides: in
the graph, in attributes, in subgraphs, in functions, in sparse tensors. The walk follows only the fields in
`_WALK` and steps over everything else by its length; it allocates nothing in proportion to what is claimed.
Field numbers: github.com/onnx/onnx, `onnx/onnx.proto`; wire format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from typing import Final

from tradepost.errors import InvalidModel

DEPTH_MAX: Final = 64
FIELDS_MAX: Final = 4_000_000

#: Message -> field number -> message inside it.
_WALK: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_EXTERNAL_DATA: Final = 13
_TENSOR_DATA_LOCATION: Final = 14

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX: Final = 10


def check_model(model: bytes | memoryview) -> None:
    """Raise `InvalidModel` unless `model` is well-formed protobuf that keeps all its data inside."""
    fields = 0
    open_messages = [("model", 0, len(model), 0)]
    while open_messages:
        message, position, end, depth = open_messages.pop()
        if depth > DEPTH_MAX:
            raise InvalidModel(f"its messages are nested more than {DEPTH_MAX} deep")
        while position < end:
            fields += 1
            if fields > FIELDS_MAX:
                raise InvalidModel(f"it has more than {FIELDS_MAX:,} fields")
            tag, position = _varint(model, position, end)
            number, wire_type = tag >> 3, tag & 7
            start, position = _step_over(model, position, end, wire_type)
            if message == "tensor":
                _check_tensor_field(model, number, start, position)
            elif number in _WALK[message]:
                if wire_type != _BYTES:
                    raise InvalidModel(f"field {number} of a {message} has wire type {wire_type}")
                open_messages.append((_WALK[message][number], start, position, depth + 1))


def _check_tensor_field(model: bytes | memoryview, number: int, start: int, end: int) -> None:
    is_external = number == _TENSOR_EXTERNAL_DATA or (
        # Any location but 0, "inside", however it is written.
        number == _TENSOR_DATA_LOCATION and any(byte & 0x7F for byte in model[start:end])
    )
    if is_external:
        raise InvalidModel(
            "a tensor keeps its data in another file",
            hint="Save the model in one file: onnx.save(model, path, save_as_external_data=False).",
        )


def _step_over(model: bytes | memoryview, position: int, end: int, wire_type: int) -> tuple[int, int]:
    """Where a field's content starts and ends."""
    if wire_type == _VARINT:
        start, position = position, _varint(model, position, end)[1]
    elif wire_type == _BYTES:
        length, start = _varint(model, position, end)
        position = start + length
    elif wire_type in (_FIXED64, _FIXED32):
        start, position = position, position + (8 if wire_type == _FIXED64 else 4)
    else:
        raise InvalidModel(f"wire type {wire_type} is not one that ONNX uses")
    if position > end:
        raise InvalidModel("a field is longer than what holds it")
    return start, position


def _varint(model: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
        if position >= end:
            raise InvalidModel("it ends in the middle of a number")
        byte = model[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise InvalidModel(f"a number has more than {_VARINT_BYTES_MAX} bytes")
