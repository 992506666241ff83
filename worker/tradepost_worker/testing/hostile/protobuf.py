"""Writes ONNX models field by field, so that a case can write what no ONNX library would.

Field numbers: github.com/onnx/onnx, `onnx/onnx.proto`.
"""

from __future__ import annotations

from typing import Final

from tradepost.content.ipld.dag_pb import encode_varint

FLOAT: Final = 1
INT32: Final = 6
INT64: Final = 7
STRING: Final = 8
BOOL: Final = 9
_GRAPH_ATTRIBUTE, _TENSOR_ATTRIBUTE, _INT_ATTRIBUTE = 5, 4, 2


def varint(value: int) -> bytes:
    """A number in base 128; a negative one as its 64-bit two's complement."""
    return encode_varint(value & (1 << 64) - 1)


def field(number: int, content: bytes | str | int) -> bytes:
    """One field: a number as a varint, anything else behind its length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, kind: int, dims: tuple[int, ...], raw: bytes = b"", *, extra: bytes = b"") -> bytes:
    """A TensorProto of element type `kind`."""
    sizes = b"".join(field(1, size) for size in dims)
    return sizes + field(2, kind) + field(8, name) + (field(9, raw) if raw else b"") + extra


def int64s(name: str, *values: int, shape: tuple[int, ...] | None = None) -> bytes:
    """A tensor of 64-bit integers, of rank 1 unless `shape` says otherwise."""
    raw = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    return tensor(name, INT64, (len(values),) if shape is None else shape, raw)


def external(location: str, *, length: int = 64) -> bytes:
    """A tensor whose data is in the file at `location`."""
    entries = field(13, field(1, "location") + field(2, location))
    entries += field(13, field(1, "length") + field(2, str(length)))
    return tensor("w", 2, (length,), extra=entries + field(14, 1))


def value(name: str, kind: int = FLOAT, shape: tuple[int | str, ...] | None = ("n",)) -> bytes:
    """A ValueInfoProto; `shape` None is an unknown rank."""
    typed = field(1, kind)
    if shape is not None:
        dims = (field(1, field(1 if isinstance(size, int) else 2, size)) for size in shape)
        typed += field(2, b"".join(dims))
    return field(1, name) + field(2, field(1, typed))


def node(
    operator: str, inputs: tuple[str, ...], outputs: tuple[str, ...], *attributes: bytes, domain: str = ""
) -> bytes:
    """A NodeProto."""
    names = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs)
    rest = b"".join(field(5, attribute) for attribute in attributes)
    return names + field(4, operator) + rest + (field(7, domain) if domain else b"")


def graph_attribute(name: str, graph: bytes) -> bytes:
    """An AttributeProto that holds a subgraph."""
    return field(1, name) + field(6, graph) + field(20, _GRAPH_ATTRIBUTE)


def tensor_attribute(name: str, content: bytes) -> bytes:
    """An AttributeProto that holds a tensor."""
    return field(1, name) + field(5, content) + field(20, _TENSOR_ATTRIBUTE)


def int_attribute(name: str, number: int) -> bytes:
    """An AttributeProto that holds an integer."""
    return field(1, name) + field(3, number) + field(20, _INT_ATTRIBUTE)


def graph(
    nodes: list[bytes],
    *,
    inputs: tuple[bytes, ...] | None = None,
    outputs: tuple[bytes, ...] | None = None,
    tensors: tuple[bytes, ...] = (),
    extra: bytes = b"",
) -> bytes:
    """A GraphProto, from `x` to `y` unless told otherwise."""
    data = b"".join(field(1, content) for content in nodes) + field(2, "g")
    data += b"".join(field(5, content) for content in tensors)
    data += b"".join(field(11, content) for content in ((value("x"),) if inputs is None else inputs))
    data += b"".join(
        field(12, content) for content in ((value("y", shape=None),) if outputs is None else outputs)
    )
    return data + extra


def opset(domain: str, version: int) -> bytes:
    """A model's or function's statement of an operator set that it uses."""
    return field(1, domain) + field(2, version)


def model(content: bytes, *, extra: bytes = b"", opset_version: int = 17) -> bytes:
    """A ModelProto around a graph."""
    return field(1, 8) + field(7, content) + field(8, opset("", opset_version)) + extra


def function(
    name: str,
    nodes: list[bytes],
    *,
    domain: str = "local",
    inputs: tuple[str, ...] = ("a",),
    outputs: tuple[str, ...] = ("b",),
) -> bytes:
    """A model's field that holds a function."""
    names = b"".join(field(4, item) for item in inputs) + b"".join(field(5, item) for item in outputs)
    body = b"".join(field(7, content) for content in nodes)
    opsets = field(9, opset("", 17)) + field(9, opset(domain, 1))
    return field(25, field(1, name) + names + body + opsets + field(10, domain))


def adding(*tensors: bytes, more: bytes = b"") -> bytes:
    """A model that adds `w` to `x`, with these tensors and fields of its graph."""
    return model(graph([node("Add", ("x", "w"), ("y",))], tensors=tensors, extra=more))
