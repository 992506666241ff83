"""A model that contradicts itself is refused before it is signed, since honest workers would pay for it."""

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tradepost.errors import InvalidModel
from tradepost.pipeline import execution_providers
from tradepost.pipeline.execution_providers import PROVIDERS
from tradepost_signing.publishing import onnx_interface, repeatability
from tradepost_signing.publishing.onnx_interface import Model
from tradepost_signing.publishing.pipeline_toml import load_pipeline
from tradepost_signing.publishing.repeatability import check_repeatability
from tradepost_signing.publishing.validation import validate_pipeline

PIPELINE = """
name = "once-more"
version = "1"
[inputs]
image = { dtype = "F32", shape = ["?", 64] }
[[stage]]
name = "model"
model = "model.onnx"
inputs = { x = "input.image" }
outputs = ["y"]
[outputs]
y = "model.y"
"""


def model(*nodes: onnx.NodeProto, initializers=()) -> onnx.ModelProto:
    """y, made of x by these nodes."""
    shape = ("batch", 64)
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def check(tmp_path):
    def check(onnx_model: onnx.ModelProto, text: str = PIPELINE) -> list[str]:
        (tmp_path / "model.onnx").write_bytes(onnx_model.SerializeToString())
        (tmp_path / "pipeline.toml").write_text(text)
        loaded = load_pipeline(tmp_path / "pipeline.toml")
        validate_pipeline(loaded)
        return check_repeatability(loaded)

    return check


def test_a_model_that_repeats_itself_passes(check):
    assert check(model(helper.make_node("Sigmoid", ["x"], ["y"]))) == []


@pytest.mark.parametrize("attributes", [{}, {"seed": 1.0}])
@pytest.mark.parametrize(
    "operator", ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"]
)
def test_random_operators_are_refused_by_name(check, operator, attributes):
    if operator in ("RandomNormal", "RandomUniform"):
        noise = helper.make_node(operator, [], ["noise"], shape=[1, 64], **attributes)
    else:
        noise = helper.make_node(operator, ["x"], ["noise"], **attributes)
    with pytest.raises(InvalidModel, match=f"operator {operator}, which gives other numbers in each run"):
        check(model(noise, helper.make_node("Add", ["x", "noise"], ["y"])))


def test_a_model_in_training_mode_is_refused_by_what_it_gives(check):
    names = ("ratio", np.float32(0.5)), ("training", np.bool_(True))
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in names]
    dropout = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])
    with pytest.raises(InvalidModel, match=r"model\.onnx: it is not repeatable: run again, its tensor 'y'"):
        check(model(dropout, initializers=constants))


def test_another_number_of_threads_must_give_the_same(check, monkeypatch):
    class Racing(Model):
        def __init__(self, content, *, provider="cpu", threads=1):
            super().__init__(content, provider=provider)
            self.error = np.float32(0.01 * (threads - 1))

        def run(self, feeds, outputs, *, wall_s_max):
            return [tensor + self.error for tensor in super().run(feeds, outputs, wall_s_max=wall_s_max)]

    monkeypatch.setattr(repeatability, "Model", Racing)
    once = model(helper.make_node("Sigmoid", ["x"], ["y"]))
    with pytest.raises(InvalidModel, match=r"run on cpu \(threads: 4\), not on cpu \(threads: 1\), its"):
        check(once)
    wider = PIPELINE.replace('outputs = ["y"]', 'outputs = ["y"]\ntolerance = { atol = 1e-3, rtol = 1e-2 }')
    with pytest.raises(InvalidModel, match="beyond tolerance"):
        check(once, wider)


def test_what_made_up_inputs_cannot_try_is_said(check):
    row = onnx.numpy_helper.from_array(np.array([3, 64], np.int64), "three rows")
    (warning,) = check(model(helper.make_node("Reshape", ["x", "three rows"], ["y"]), initializers=[row]))
    assert warning.startswith(
        "stage model: model.onnx was not run twice, as it fails on inputs that are made up"
    )


def test_a_model_that_runs_too_long_is_said_and_stopped(check):
    square = onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), "square")
    body = helper.make_graph(
        [helper.make_node("MatMul", ["a", "square"], ["b"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ("batch", 64)),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ("batch", 64)),
        ],
    )
    turns = onnx.numpy_helper.from_array(np.array(1 << 60, np.int64), "turns")
    loop = helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)
    allowed = PIPELINE.replace('outputs = ["y"]', 'outputs = ["y"]\nconditional_operators = ["Loop"]')
    (warning,) = check(model(loop, initializers=[square, turns]), allowed + "\n[limits]\nwall_ms = 50\n")
    assert "it was still running after 0.05 s" in warning


@pytest.fixture
def azure_as_cuda(monkeypatch):
    """A provider of this name that is here and runs no operator: the engine would take the CPU instead."""
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built without the Azure provider")
    providers = {**PROVIDERS, "cuda": "AzureExecutionProvider"}
    monkeypatch.setattr(onnx_interface, "PROVIDERS", providers)
    monkeypatch.setattr(execution_providers, "PROVIDERS", providers)


@pytest.mark.usefixtures("azure_as_cuda")
@pytest.mark.parametrize("providers", [["cpu", "cuda"], ["cuda", "cpu"]])
def test_a_provider_that_does_not_run_the_model_is_said(check, providers):
    text = PIPELINE.replace('outputs = ["y"]', f'outputs = ["y"]\nproviders = {providers}')
    (warning,) = check(model(helper.make_node("Sigmoid", ["x"], ["y"])), text)
    assert warning.startswith(
        "stage model: model.onnx was not run on cuda (threads: 1): onnxruntime cannot load"
    )


@pytest.mark.usefixtures("azure_as_cuda")
def test_a_model_that_runs_on_none_of_its_providers_is_refused(check):
    text = PIPELINE.replace('outputs = ["y"]', 'outputs = ["y"]\nproviders = ["cuda"]')
    with pytest.raises(InvalidModel, match=r"model\.onnx: onnxruntime cannot load it"):
        check(model(helper.make_node("Sigmoid", ["x"], ["y"])), text)
