"""The ONNX model with which devices measure themselves: y = x W W ..., a square matrix product per layer.

It is written out here, so that it needs no ONNX library: IR version 7, opset 13.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np

from tradepost.content.ipld.dag_pb import bytes_field as _bytes
from tradepost.content.ipld.dag_pb import varint_field as _number

#: Rows and columns of every matrix, and how many products there are. One run is 2 * LAYERS * DIMENSION^3
#: floating point operations: 2.1 * 10^8.
DIMENSION: Final = 256
LAYERS: Final = 6

_FLOAT: Final = 1


def reference_model() -> bytes:
    """The model's bytes: the same on every device."""
    # An orthogonal matrix up to rounding, so that no product grows or vanishes.
    index = np.arange(DIMENSION)
    weights = np.cos(np.pi / DIMENSION * (index[:, None] + 0.5) * index[None, :]) * np.sqrt(2 / DIMENSION)
    tensor = (
        _number(1, DIMENSION)
        + _number(1, DIMENSION)
        + _number(2, _FLOAT)
        + _bytes(8, b"w")
        + _bytes(9, weights.astype("<f4").tobytes())
    )
    names = [b"x", *(b"h%d" % layer for layer in range(1, LAYERS)), b"y"]
    nodes = b"".join(
        _bytes(1, _bytes(1, before) + _bytes(1, b"w") + _bytes(2, after) + _bytes(4, b"MatMul"))
        for before, after in pairwise(names)
    )
    graph = nodes + _bytes(2, b"g") + _bytes(5, tensor) + _bytes(11, _value(b"x")) + _bytes(12, _value(b"y"))
    return _number(1, 7) + _bytes(7, graph) + _bytes(8, _bytes(1, b"") + _number(2, 13))


def _value(name: bytes) -> bytes:
    dimension = _bytes(1, _number(1, DIMENSION))
    tensor_type = _number(1, _FLOAT) + _bytes(2, dimension + dimension)
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor_type))
