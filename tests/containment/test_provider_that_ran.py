"""A model's provider is what its nodes were assigned to, subgraphs included, and a mixture is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from tradepost_worker.runner import inference
from tradepost_worker.runner.inference import Inference
from tradepost_worker.testing.hostile.models import onnx_cases

ENDLESS = next(case for case in onnx_cases() if case.name == "infinite Loop that its stage names")


def assigned(provider: str, *operators: str) -> SimpleNamespace:
    return SimpleNamespace(ep_name=provider, get_nodes=lambda: list(operators))


@pytest.mark.parametrize(
    ("assignment", "name"),
    [
        ([assigned("CPUExecutionProvider", "Add")], "cpu"),
        (
            [assigned("CPUExecutionProvider", "Add"), assigned("CUDAExecutionProvider", "Conv", "Conv")],
            "cuda+cpu",
        ),
        ([assigned("CUDAExecutionProvider", "Conv"), assigned("CPUExecutionProvider", "Add")], "cpu+cuda"),
        ([assigned("SomeNewProvider", "Conv")], "SomeNewProvider"),
        ([], "cuda"),  # nothing is left to run but constants: the first that would have
    ],
)
def test_the_mixture_is_named(assignment: list[SimpleNamespace], name: str) -> None:
    session: Any = SimpleNamespace(
        get_provider_graph_assignment_info=lambda: assignment,
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    assert inference._provider_that_runs(session) == name


def test_nodes_inside_subgraphs_are_assigned_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    operators: list[str] = []
    honest = onnxruntime.InferenceSession.get_provider_graph_assignment_info

    def listen(session: onnxruntime.InferenceSession) -> Any:
        parts = honest(session)
        operators.extend(node.op_type for part in parts for node in part.get_nodes())
        return parts

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info", listen)
    model = Inference().load(ENDLESS.build(), providers=["cpu"], conditional_operators=["Loop"])
    assert model.provider == "cpu"
    assert sorted(operators) == ["Add", "Identity", "Loop"]
