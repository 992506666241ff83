"""quantize against onnxruntime's QuantizeLinear and DequantizeLinear, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]

TYPES = {"u8": TensorProto.UINT8, "i8": TensorProto.INT8}
DTYPES = {"u8": np.dtype(np.uint8), "i8": np.dtype(np.int8)}
shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=4)
values = st.floats(-300, 300, width=32) | st.sampled_from([0.5, 1.5, -2.5, 2.0**40, -(2.0**40)])
scales = st.sampled_from([1.0, 0.5, 0.1, 0.007, 3.0])


@cache
def onnx_session(dtype: str, axis: int, back: bool, rank: int) -> onnxruntime.InferenceSession:
    """A graph of one QuantizeLinear, or of its inverse with `back`; rank 0 is one scale for all."""
    places = [None] * rank
    source, target = (TYPES[dtype], TensorProto.FLOAT) if back else (TensorProto.FLOAT, TYPES[dtype])
    inputs = [
        helper.make_tensor_value_info("x", source, [None] * 3),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, places),
        helper.make_tensor_value_info("zero", TYPES[dtype], places),
    ]
    output = helper.make_tensor_value_info("y", target, [None] * 3)
    kind = "DequantizeLinear" if back else "QuantizeLinear"
    node = helper.make_node(kind, ["x", "scale", "zero"], ["y"])
    if rank:
        node.attribute.append(helper.make_attribute("axis", axis))
    graph = helper.make_graph([node], "quantize", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@given(
    data=st.data(),
    shape=shapes,
    dtype=st.sampled_from(["u8", "i8"]),
    axis=st.integers(0, 2),
    many=st.booleans(),
    back=st.booleans(),
)
def test_it_equals_onnxruntime_bit_for_bit(
    run_builtin: RunBuiltin,
    data: st.DataObject,
    shape: tuple[int, ...],
    dtype: str,
    axis: int,
    many: bool,
    back: bool,
) -> None:
    count = shape[axis] if many else 1
    scale = data.draw(st.lists(scales, min_size=count, max_size=count))
    bounds = np.iinfo(DTYPES[dtype])
    zero = data.draw(st.lists(st.integers(bounds.min, bounds.max), min_size=count, max_size=count))
    x = data.draw(
        hnp.arrays(DTYPES[dtype], shape) if back else hnp.arrays(np.float32, shape, elements=values)
    )
    expected = onnx_session(dtype, axis, back, int(many)).run(
        None,
        {
            "x": x,
            "scale": np.array(scale if many else scale[0], "f4"),
            "zero": np.array(zero if many else zero[0], DTYPES[dtype]),
        },
    )[0]
    result = run_builtin(
        "quantize",
        {"x": x},
        scale=",".join(map(str, scale)),
        zero_point=",".join(map(str, zero)),
        axis=str(axis),
        dtype=dtype,
    )["y"]
    assert result.dtype == expected.dtype
    assert np.array_equal(result, expected)


def test_halves_go_to_the_even_number_and_ends_are_cut(run_builtin: RunBuiltin) -> None:
    x = np.array([0.5, 1.5, 2.5, -1, 255.5, np.inf, -np.inf], "f4")
    assert run_builtin("quantize", {"x": x}, scale="1")["y"].tolist() == [0, 2, 2, 0, 255, 255, 0]


X = np.zeros((2, 3), "f4")


@pytest.mark.parametrize(
    ("x", "metadata", "message"),
    [
        (X.astype("f8"), {"scale": "1"}, "'x' is F64; it must be F32"),
        (X, {}, "'scale' is missing"),
        (X, {"scale": "0"}, "more than 0"),
        (X, {"scale": "-1"}, "more than 0"),
        (X, {"scale": "1", "zero_point": "256"}, "from 0 to 255"),
        (X, {"scale": "1", "zero_point": "128", "dtype": "i8"}, "from -128 to 127"),
        (X.astype("i1"), {"scale": "1", "zero_point": "200"}, "from -128 to 127"),
        (X, {"scale": "1", "zero_point": "0.5"}, "whole numbers"),
        (X, {"scale": "1,1", "zero_point": "1,2,3"}, "3 numbers; 'scale' has 2"),
        (X, {"scale": "1,1", "axis": "1"}, "2 numbers; axis 1 has another length"),
        (X, {"scale": "1", "axis": "2"}, "from 0 to 1"),
        (X, {"scale": ",".join(["1"] * 4097)}, "more than 4096"),
        (X, {"scale": "1", "dtype": "i4"}, "one of: u8, i8"),
        (X * np.float32("nan"), {"scale": "1"}, "NaN at 0"),
        (np.zeros((), "f4"), {"scale": "1,2"}, "2 numbers"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, x: npt.NDArray[np.generic], metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("quantize", {"x": x}, **metadata)
