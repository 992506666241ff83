"""The execution providers of onnxruntime that a model may run on, and how a session there is opened.

Publishers try a model as workers run it. The engine is passed in: most programs that read manifests do not
have it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

Provider = Literal["cpu", "cuda", "tensorrt", "rocm", "openvino", "coreml", "directml"]

#: A log severity with which onnxruntime logs only what is fatal: errors come back as exceptions.
LOG_NOTHING: Final = 4

#: Manifest name -> onnxruntime's name.
PROVIDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cpu": "CPUExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "tensorrt": "TensorrtExecutionProvider",
        "rocm": "ROCMExecutionProvider",
        "openvino": "OpenVINOExecutionProvider",
        "coreml": "CoreMLExecutionProvider",
        "directml": "DmlExecutionProvider",
    }
)


def session_options(onnxruntime: Any, wanted: Collection[str], *, threads: int) -> Any:
    """The `SessionOptions` of a model that may run on the `wanted` providers, in onnxruntime's names.

    `threads` is how many one run may use.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_NOTHING
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    # Else bytes in onnxruntime's own format, which the check cannot read, would pass for a model.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if PROVIDERS["cpu"] not in wanted:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def open_session(onnxruntime: Any, model: bytes | Path, options: Any, wanted: Collection[str]) -> Any:
    """An `InferenceSession` of `model` on the `wanted` providers. Raises what onnxruntime raises."""
    source = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(source, options, providers=list(wanted))
    # Else a failing provider would be replaced by another one in mid-run, unseen.
    session.disable_fallback()
    return session
