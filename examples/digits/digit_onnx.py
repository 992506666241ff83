"""The trained network as an ONNX graph: `image` F32 [batch, 1, 8, 8] to `logits` F32 [batch, 10].

IR version and opset are pinned, so the file does not depend on the installed `onnx`, and every runtime of the
last years reads it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from digit_network import CLASSES, FILTERS, HIDDEN, KERNEL, PADDING, PLACES, STRIDE, Parameters
from onnx import TensorProto, helper, numpy_helper

IR_VERSION: Final = 8
OPSET: Final = 17


def export(parameters: Parameters, *, name: str) -> bytes:
    """The ONNX file for these parameters; equal parameters give equal bytes."""
    nodes = [
        helper.make_node(
            "Conv",
            ["image", "conv.weight", "conv.bias"],
            ["convolved"],
            kernel_shape=[KERNEL, KERNEL],
            strides=[STRIDE, STRIDE],
            pads=[PADDING] * 4,
        ),
        helper.make_node("Relu", ["convolved"], ["convolved.relu"]),
        helper.make_node("Flatten", ["convolved.relu"], ["features"]),
        helper.make_node("Gemm", ["features", "hidden.weight", "hidden.bias"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["hidden.relu"]),
        helper.make_node("Gemm", ["hidden.relu", "output.weight", "output.bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        inputs=[helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        outputs=[helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        initializer=[numpy_helper.from_array(value, key) for key, value in _weights(parameters).items()],
    )
    model = helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="tradepost-examples-digits",
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _weights(parameters: Parameters) -> Parameters:
    """The parameters in ONNX's layouts: channels come before places, there and after flattening."""
    conv = parameters["conv.weight"].T.reshape(FILTERS, 1, KERNEL, KERNEL)
    hidden = parameters["hidden.weight"].reshape(PLACES, FILTERS, HIDDEN).transpose(1, 0, 2)
    return parameters | {
        "conv.weight": np.ascontiguousarray(conv),
        "hidden.weight": np.ascontiguousarray(hidden).reshape(FILTERS * PLACES, HIDDEN),
    }
