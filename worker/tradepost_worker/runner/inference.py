"""The onnxruntime adapter: loads models, runs them until a deadline, reports which provider ran.

Models are loaded from bytes, with deterministic kernels where a provider has them and without spinning
threads: the device has other things to do. Providers are named as manifests name them ("cpu", "cuda"); one
counts as present when it has run a model, not when the library was built with it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import numpy as np

from tradepost.errors import (
    InputTooCostly,
    InvalidModel,
    LeaseTimeout,
    ModelFailure,
    NoEligibleWorker,
    PipelineTooCostly,
)
from tradepost.pipeline.execution_providers import LOG_NOTHING, PROVIDERS, open_session, session_options
from tradepost.pipeline.manifest import ConditionalOperator
from tradepost.pipeline.onnx_profile import ELEMENTS_MAX, check_model
from tradepost.pipeline.tensors import Tensor
from tradepost_worker.runner.probe_model import PROBE_MODEL
from tradepost_worker.runner.run_deadline import RunDeadline

# From its import on, onnxruntime would report usage to its maker, on a thread of its own.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

#: What receipts name as the engine that ran a model.
ENGINE_VERSION: Final[str] = onnxruntime.__version__

_NAMES: Final = {theirs: ours for ours, theirs in PROVIDERS.items()}

#: The text of onnxruntime's errors where memory ran out, which is no property of a model. Their classes and
#: codes do not tell: it is `Fail` or `RuntimeException`, as for much else. The first comes from onnxruntime's
#: own arena, the others from `std::bad_alloc` of the GNU and LLVM, and of the Microsoft standard library.
_NO_MEMORY: Final = ("Failed to allocate memory", "bad_alloc", "bad allocation")


class Inference:
    """Loads models. `threads` is how many onnxruntime may use for one run.

    `providers` are those that may be used at all; by default, whatever the library was built with.
    """

    def __init__(self, *, threads: int = 1, providers: Iterable[str] | None = None) -> None:
        onnxruntime.set_default_logger_severity(LOG_NOTHING)
        built_in = [_NAMES[name] for name in onnxruntime.get_available_providers() if name in _NAMES]
        self.providers = tuple(built_in if providers is None else (p for p in providers if p in built_in))
        self._threads = threads
        self._deadline = RunDeadline()

    def load(
        self,
        model: bytes,
        *,
        providers: Iterable[str],
        conditional_operators: Collection[ConditionalOperator] = (),
        elements_max: int = ELEMENTS_MAX,
    ) -> Model:
        """Check a model (`check_model`) and load it on the first of `providers` that this device has.

        Raises `InvalidModel`, `NoEligibleWorker` if the device has none of them, or `PipelineTooCostly`.
        """
        check_model(model, conditional_operators=conditional_operators, elements_max=elements_max)
        wanted = [PROVIDERS[name] for name in providers if name in self.providers]
        if not wanted:
            raise NoEligibleWorker(
                f"this device has {self.providers}; the model runs only on {list(providers)}"
            )
        options = session_options(onnxruntime, wanted, threads=self._threads)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = open_session(onnxruntime, model, options, wanted)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise (PipelineTooCostly if _lacks_memory(error) else InvalidModel)(_detail(error)) from None
        return Model(session, self._deadline)


class Model:
    """A loaded model, made by `Inference.load`."""

    def __init__(self, session: onnxruntime.InferenceSession, deadline: RunDeadline) -> None:
        self._session = session
        self._deadline = deadline
        self.inputs: list[str] = [item.name for item in session.get_inputs()]
        self.outputs: list[str] = [item.name for item in session.get_outputs()]
        self.provider = _provider_that_runs(session)

    def run(
        self, feeds: Mapping[str, Tensor], outputs: Iterable[str], *, wall_s_max: float
    ) -> dict[str, Tensor]:
        """The named graph outputs.

        Raises `ModelFailure`, `InputTooCostly` where memory runs out, or `LeaseTimeout` at the deadline.
        """
        names = list(dict.fromkeys(outputs))  # two names of a stage may stand for one graph output
        options = onnxruntime.RunOptions()
        options.log_severity_level = LOG_NOTHING

        def terminate() -> None:
            options.terminate = True

        try:
            with self._deadline.limit(wall_s_max, terminate):
                values: list[Any] = self._session.run(names, dict(feeds), options)
        except Exception as error:  # as above; a stranger's model and input can cause any of them
            if options.terminate:
                raise LeaseTimeout(f"the model was still running after {wall_s_max:g} s") from None
            raise (InputTooCostly if _lacks_memory(error) else ModelFailure)(_detail(error)) from None
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, np.ndarray):
                raise ModelFailure(f"its output {name!r} is a {type(value).__name__}, not a tensor")
        return dict(zip(names, values, strict=True))


def probe_providers(inference: Inference) -> tuple[str, ...]:
    """The providers that load and run a model here, each tried alone."""
    feed = np.ones(1, np.float32)
    working = []
    for name in inference.providers:
        try:
            model = inference.load(PROBE_MODEL, providers=[name])
            result = model.run({"x": feed}, ["y"], wall_s_max=math.inf)["y"]
        except (InvalidModel, ModelFailure, PipelineTooCostly, InputTooCostly, LeaseTimeout):
            continue
        if model.provider == name and result.tolist() == [2.0]:
            working.append(name)
    return tuple(working)


def _provider_that_runs(session: onnxruntime.InferenceSession) -> str:
    """The providers to which the graph's nodes were assigned, most nodes first, joined by `+`."""
    nodes: dict[str, int] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        name = _NAMES.get(subgraph.ep_name, subgraph.ep_name)
        nodes[name] = nodes.get(name, 0) + len(subgraph.get_nodes())
    if not nodes:  # every node was folded into constants
        return _NAMES[session.get_providers()[0]]
    return "+".join(sorted(nodes, key=lambda name: (-nodes[name], name)))


def _lacks_memory(error: Exception) -> bool:
    """The only place where an error is recognised by its text."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _detail(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
