"""An ONNX model as the engine that will run it sees it: its inputs and outputs, and what it gives."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tradepost.errors import InvalidModel, LeaseTimeout, ModelFailure
from tradepost.pipeline.execution_providers import LOG_NOTHING, PROVIDERS, open_session, session_options
from tradepost.pipeline.manifest import ConditionalOperator, TensorSpec
from tradepost.pipeline.onnx_profile import check_model
from tradepost.pipeline.tensors import Tensor

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
    check_model(_view(model), conditional_operators=conditional_operators)
    return Model(model, is_optimized=False).interface


class Model:
    """A checked model, loaded with onnxruntime on one execution provider, which runs all of it.

    Raises `InvalidModel` if it does not load there.
    """

    def __init__(
        self, model: bytes | Path, *, provider: str = "cpu", threads: int = 1, is_optimized: bool = True
    ) -> None:
        ort = _onnxruntime()
        wanted = [PROVIDERS[provider]]
        options = session_options(ort, wanted, threads=threads)
        if not is_optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = open_session(ort, model, options, wanted)
        except Exception as error:  # onnxruntime's own errors have no public base class
            raise InvalidModel(f"onnxruntime cannot load it: {error}") from error
        self.interface = ModelInterface(
            inputs={node.name: _describe(node) for node in self._session.get_inputs()},
            outputs={node.name: _describe(node) for node in self._session.get_outputs()},
        )

    def run(self, feeds: Mapping[str, Tensor], outputs: Iterable[str], *, wall_s_max: float) -> list[Tensor]:
        """The named outputs, in that order. Raises `ModelFailure`, or `LeaseTimeout` at the limit."""
        options = _onnxruntime().RunOptions()
        options.log_severity_level = LOG_NOTHING
        ends = threading.Timer(wall_s_max, setattr, (options, "terminate", True))
        ends.start()
        try:
            values: list[Tensor] = self._session.run(list(outputs), dict(feeds), options)
        except Exception as error:  # as above
            if options.terminate:
                raise LeaseTimeout(f"it was still running after {wall_s_max:g} s") from None
            raise ModelFailure(str(error)) from None
        finally:
            ends.cancel()
        return values


def providers_here(wanted: Iterable[str]) -> list[str]:
    """Those of the `wanted` execution providers that onnxruntime has on this machine."""
    present = _onnxruntime().get_available_providers()
    return [name for name in wanted if PROVIDERS[name] in present]


def _onnxruntime() -> Any:
    # From its import on, onnxruntime would report usage to its maker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


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
