"""The inference adapter: providers that really run, deadlines that hold, models that keep to themselves."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tradepost.errors import (
    InputTooCostly,
    InvalidModel,
    LeaseTimeout,
    ModelFailure,
    NoEligibleWorker,
    PipelineTooCostly,
)
from tradepost.pipeline.onnx_profile import DEPTH_MAX, check_model
from tradepost_worker.runner.inference import PROVIDERS, Inference, probe_providers
from tradepost_worker.runner.probe_model import PROBE_MODEL
from tradepost_worker.runner.run_deadline import RunDeadline


@pytest.fixture(scope="module")
def inference() -> Inference:
    return Inference()


def model_of(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def info(name: str, kind: int = TensorProto.FLOAT, shape: list[int | str] | None = None):
    return helper.make_tensor_value_info(name, kind, ["n"] if shape is None else shape)


def endless_model() -> bytes:
    """Counts to 2**62."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("v", TensorProto.FLOAT, [1]),
        ],
        [info("go_on", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, [1])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "yes", "x"], ["y"], body=body)],
        "g",
        [info("x", shape=[1])],
        [info("y", shape=[1])],
        initializer=[
            helper.make_tensor("trips", TensorProto.INT64, [], [1 << 62]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    return bytes(model_of(graph).SerializeToString())


def external_tensor() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def add_graph(**options: object) -> onnx.GraphProto:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return helper.make_graph([node], "g", [info("x")], [info("y")], **options)


def with_external_initializer() -> onnx.ModelProto:
    return model_of(add_graph(initializer=[external_tensor()]))


def with_external_constant() -> onnx.ModelProto:
    model = model_of(add_graph())
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=external_tensor()))
    return model


def with_external_data_in_a_subgraph() -> onnx.ModelProto:
    model = model_of(add_graph())
    branch = add_graph(initializer=[external_tensor()])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))
    return model


def with_external_data_in_a_function() -> onnx.ModelProto:
    model = model_of(add_graph())
    constant = helper.make_node("Constant", [], ["c"], value=external_tensor())
    model.functions.append(helper.make_function("d", "f", [], ["c"], [constant], []))
    return model


def with_external_sparse_data() -> onnx.ModelProto:
    model = model_of(add_graph())
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=external_tensor(), dims=[1]))
    return model


def with_location_only() -> onnx.ModelProto:
    model = with_external_initializer()
    del model.graph.initializer[0].external_data[:]
    return model


def test_the_probe_model_is_what_onnx_writes():
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "g", [info("x", shape=[1])], [info("y", shape=[1])]
    )
    assert model_of(graph).SerializeToString() == PROBE_MODEL


def test_a_provider_is_one_that_ran_a_model(inference):
    assert probe_providers(inference) == ("cpu",)
    assert set(inference.providers) <= set(PROVIDERS)


def test_a_provider_that_is_built_in_but_fails_is_not_reported(inference, monkeypatch):
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    pretending = Inference()
    assert pretending.providers == ("cuda", "cpu")
    assert probe_providers(pretending) == ("cpu",)


def test_the_model_says_which_provider_runs_it(inference):
    model = inference.load(PROBE_MODEL, providers=["cuda", "cpu"])
    assert model.provider == "cpu"
    assert model.run({"x": np.array([2], np.float32)}, ["y"], wall_s_max=10)["y"].tolist() == [4.0]


def test_a_model_for_providers_that_are_absent_is_not_this_devices(inference):
    with pytest.raises(NoEligibleWorker):
        inference.load(PROBE_MODEL, providers=["cuda"])


def test_a_model_is_terminated_at_its_deadline(inference):
    model = inference.load(endless_model(), providers=["cpu"], conditional_operators=["Loop"])
    with pytest.raises(LeaseTimeout):
        model.run({"x": np.ones(1, np.float32)}, ["y"], wall_s_max=0.05)


def test_memory_that_runs_out_is_told_from_onnxruntimes_real_message(inference):
    """2**61 bytes are more than any address space has."""
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["x"], ["y"])],
        "g",
        [info("x", TensorProto.INT64, [1])],
        [info("y")],
    )
    model = inference.load(model_of(graph).SerializeToString(), providers=["cpu"])
    with pytest.raises(InputTooCostly, match="Failed to allocate memory"):
        model.run({"x": np.array([1 << 59])}, ["y"], wall_s_max=10)
    assert model.run({"x": np.array([2])}, ["y"], wall_s_max=10)["y"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("bad allocation")]
)
def test_memory_that_runs_out_while_loading_is_not_the_models_fault(inference, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("onnxruntime.InferenceSession", fail)
    with pytest.raises(PipelineTooCostly):
        inference.load(PROBE_MODEL, providers=["cpu"])


def test_a_wrong_input_is_a_model_failure(inference):
    model = inference.load(PROBE_MODEL, providers=["cpu"])
    with pytest.raises(ModelFailure, match="INVALID_ARGUMENT"):
        model.run({"x": np.ones(1, np.float64)}, ["y"], wall_s_max=10)


@pytest.mark.parametrize(
    "make",
    [
        with_external_initializer,
        with_external_constant,
        with_external_data_in_a_subgraph,
        with_external_data_in_a_function,
        with_external_sparse_data,
        with_location_only,
    ],
)
def test_data_outside_the_model_is_refused_wherever_it_hides(make):
    with pytest.raises(InvalidModel, match="another file"):
        check_model(make().SerializeToString(), conditional_operators=["If"])


def test_data_inside_the_model_is_accepted():
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    weights.data_location = onnx.TensorProto.DEFAULT
    check_model(model_of(add_graph(initializer=[weights])).SerializeToString())


def test_nesting_is_bounded():
    def wrapped(depth: int) -> bytes:
        # A node's attribute (5) whose graph (6) has a node (1), and so on.
        body = b""
        for _ in range(depth):
            for field in (6, 5, 1):
                length = len(body)
                size = bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14))
                body = bytes((field << 3 | 2,)) + size + body
        size = bytes((len(body) & 0x7F | 0x80, len(body) >> 7 & 0x7F | 0x80, len(body) >> 14))
        return bytes((7 << 3 | 2,)) + size + body

    check_model(wrapped(DEPTH_MAX // 3 - 1))
    with pytest.raises(InvalidModel, match="nested"):
        check_model(wrapped(DEPTH_MAX))


@pytest.mark.parametrize(
    "data",
    [b"\x3a", b"\x3a\x05ab", b"\xff" * 11, b"\x3b", b"\x38\x01", b"\x39\x00"],
    ids=["no length", "cut short", "long number", "group", "graph as number", "fixed cut short"],
)
def test_what_is_no_protobuf_of_a_model_is_refused(data):
    with pytest.raises(InvalidModel):
        check_model(data)


@given(st.integers(0, len(PROBE_MODEL) - 1), st.integers(0, 255))
def test_a_mutated_model_is_walked_or_refused(position, byte):
    mutated = bytearray(with_external_initializer().SerializeToString() + PROBE_MODEL)
    mutated[position] = byte
    try:
        check_model(bytes(mutated))
    except InvalidModel:
        return


def test_the_deadline_interrupts_only_the_run_that_is_late():
    deadline = RunDeadline()
    interrupted = threading.Event()
    with deadline.limit(30.0, interrupted.set):
        pass
    assert not interrupted.is_set()
    with deadline.limit(0.0, interrupted.set):
        assert interrupted.wait(60)
