"""The inputs and outputs of an ONNX model, as the engine that will run it sees them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tradepost.errors import InvalidModel
from tradepost.pipeline.manifest import ConditionalOperator, TensorSpec
from tradepost.pipeline.onnx_profile import check_model

#: onnxruntime's name of a type -> safetensors dtype, for the types that both have.
_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tensor(bool)": "BOOL",
        "tensor(uint8)": "U8",
        "tensor(int8)": "I8",
        "tensor(uint16)": "U16",
        "tensor(int16)": "I16",
        "tensor(float16)": "F16",
        "tensor(uint32)": "U32",
        "tensor(int32)": "I32",
        "tensor(float)": "F32",
        "tensor(uint64)": "U64",
        "tensor(int64)": "I64",
        "tensor(double)": "F64",
    }
)


#: What a name stands for: a tensor, or the engine's name of a type that no tensor document can carry.
#: An empty shape is a scalar or of unknown rank; the engine does not tell them apart.
Described = TensorSpec | str


@dataclass(frozen=True, slots=True)
class ModelInterface:
    """A model's inputs and outputs by name."""

    inputs: Mapping[str, Described]
    outputs: Mapping[str, Described]


def read_interface(
    model: bytes | Path, *, conditional_operators: Collection[ConditionalOperator] = ()
) -> ModelInterface:
    """The interface of `model`, which is loaded with onnxruntime on the CPU.

    Raises `InvalidModel` if it does not load, keeps data in other files, or holds conditional operators
    beyond those given.
    """
    # From its import on, onnxruntime would report usage to its maker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    check_model(_view(model), conditional_operators=conditional_operators)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters is raised
    # Else bytes in onnxruntime's own format, which the check cannot read, would pass for a model.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own errors have no public base class
        raise InvalidModel(f"onnxruntime cannot load it: {error}") from error
    return ModelInterface(
        inputs={node.name: _describe(node) for node in session.get_inputs()},
        outputs={node.name: _describe(node) for node in session.get_outputs()},
    )


def _view(model: bytes | Path) -> memoryview:
    if isinstance(model, bytes):
        return memoryview(model)
    with model.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise InvalidModel("the file is empty")
        # Mapped, since a model may be larger than memory; unmapped when the last view of it is gone.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _describe(node: Any) -> Described:
    if node.type not in _DTYPES:
        return str(node.type)
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(dtype=_DTYPES[node.type], shape=shape)
