"""The executor: stages in order, canonical documents, and every failure with its stage."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from wasmtime import wat2wasm

import tradepost_kernels
from tradepost.content import add_bytes
from tradepost.errors import (
    InvalidInput,
    InvalidKernel,
    InvalidModel,
    InvalidTensorDocument,
    LeaseTimeout,
    ModelFailure,
)
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    OutputSpec,
    PipelineLimits,
    TensorSpec,
    decode_manifest,
    encode_manifest,
)
from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost_worker.runner.executor import Executor
from tradepost_worker.runner.inference import Inference
from tradepost_worker.runner.kernel_sandbox import Sandbox
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.testing.samples import SamplePipeline, kernel_pipeline, model_pipeline, sample_input

NOOP = tradepost_kernels.load("noop")
TOPK = tradepost_kernels.load("topk")


def reactor(body: str, *, data: bytes = b"") -> bytes:
    escaped = "".join(f"\\{byte:02x}" for byte in data)
    return bytes(
        wat2wasm(
            f"""(module (memory (export "memory") 4) (data (i32.const 0) "{escaped}")
            (func (export "kernel_alloc") (param i32) (result i32) (i32.const 65536))
            (func (export "kernel_run") (param i32 i32) (result i64) {body}))"""
        )
    )


def returning(data: bytes) -> bytes:
    return reactor(f"(i64.const {len(data)})", data=data)


SPIN = reactor("(loop $again (br $again)) (unreachable)")
TRAP = reactor("(unreachable)")


def onnx_model(*nodes: onnx.NodeProto, inputs: list[str], outputs: list[str], **options: object) -> bytes:
    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])

    graph = helper.make_graph(
        list(nodes), "g", [info(n) for n in inputs], [info(n) for n in outputs], **options
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())


#: scores = weights * x over 3 classes
SCORES = onnx_model(
    helper.make_node("Mul", ["x", "w"], ["scores"]),
    inputs=["x"],
    outputs=["scores"],
    initializer=[helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 3.0, 2.0])],
)


@pytest.fixture(scope="module")
def inference() -> Inference:
    return Inference()


def executor_of(pipeline: SamplePipeline, inference: Inference) -> Executor:
    return Executor(pipeline.manifest, pipeline.artifacts, sandbox=Sandbox(), inference=inference)


def run(pipeline: SamplePipeline, inference: Inference, document: bytes | None = None) -> PipelineRun:
    return executor_of(pipeline, inference).run(document or sample_input(1, 2, 3), wall_s_max=30)


def classifier(**limits: int) -> SamplePipeline:
    artifacts = {add_bytes(data, put=None): data for data in (NOOP, SCORES, TOPK)}
    noop, scores, topk = artifacts
    manifest = Manifest(
        name="classifier",
        version="1",
        inputs={"x": TensorSpec(dtype="F32", shape=(3,))},
        stages=(
            KernelStage(
                name="first",
                artifact=noop,
                inputs={"x": "input.x"},
                outputs=("x",),
                metadata={"from": "first"},
            ),
            ModelStage(name="model", artifact=scores, inputs={"x": "first.x"}, outputs=("scores",)),
            KernelStage(
                name="topk",
                artifact=topk,
                inputs={"scores": "model.scores"},
                outputs=("index", "score"),
                metadata={"labels": "a\nb\nc", "activation": "none"},
            ),
        ),
        outputs={"best": "topk.index", "value": "topk.score"},
        limits=PipelineLimits(**limits),
    )
    return SamplePipeline(manifest, dict(artifacts))


def test_stages_run_in_order_and_report_what_they_did(inference):
    result = run(classifier(), inference, sample_input(1, 1, 1))
    output = decode(result.output)
    assert output["best"].tolist() == [[1]]
    assert output["value"].tolist() == [[3.0]]
    assert [report.stage for report in result.stages] == ["first", "model", "topk"]
    assert [report.provider for report in result.stages] == ["", "cpu", ""]
    assert result.stages[0].fuel > 0
    assert result.stages[1].fuel == 0


def test_a_stage_hash_is_the_sha256_of_its_canonical_document(inference):
    result = run(classifier(), inference, sample_input(1, 1, 1))
    scores = encode(TensorDocument({"scores": np.array([1, 3, 2], dtype=np.float32)}))
    assert result.stages[1].output == hashlib.sha256(scores).hexdigest()


def test_the_output_carries_the_metadata_of_the_stages_that_feed_it(inference):
    # `first` emits metadata too (noop returns its input as it is), but feeds no output.
    assert decode(run(classifier(), inference, sample_input(1, 1, 1)).output).metadata == {"labels": "b"}
    echoed = kernel_pipeline(NOOP)
    stage = msgspec.structs.replace(echoed.manifest.stages[0], metadata={"k": "v"})
    manifest = msgspec.structs.replace(echoed.manifest, stages=(stage,))
    document = decode(run(SamplePipeline(manifest, echoed.artifacts), inference).output)
    assert document.metadata == {"k": "v"}


def test_an_output_that_is_not_as_declared_is_a_failure_of_the_stage_that_gives_it(inference):
    good = classifier()
    spec = OutputSpec(dtype="F32", shape=(None, 1), maximum=3.0)
    for declared, failure in ((spec, None), (msgspec.structs.replace(spec, maximum=2.0), "above 2")):
        manifest = msgspec.structs.replace(good.manifest, output_specs={"value": declared})
        result = run(SamplePipeline(manifest, good.artifacts), inference, sample_input(1, 1, 1))
        if failure is None:
            assert result.failure is None
        else:
            assert (result.failure.code, result.failure.stage) == ("invalid-output", "topk")
            assert failure in result.failure.detail
            assert [report.stage for report in result.stages] == ["first", "model", "topk"]


def test_an_undeclared_tensor_of_a_kernel_goes_nowhere(inference):
    document = encode(TensorDocument({"x": np.ones(1, np.float32), "extra": np.ones(9, np.float32)}))
    result = run(kernel_pipeline(returning(document)), inference)
    assert set(decode(result.output).tensors) == {"x"}
    assert result.stages[0].output == hashlib.sha256(sample_input(1)).hexdigest()


@pytest.mark.parametrize(
    ("wasm", "fuel", "code", "detail"),
    [
        (TRAP, 10**9, "kernel-trap", "unreachable"),
        (SPIN, 10**6, "kernel-out-of-fuel", "1,000,000"),
        (returning(b"no document"), 10**9, "kernel-trap", "not a tensor document"),
        (returning(encode(TensorDocument({"y": np.ones(1)}))), 10**9, "kernel-trap", "['x']"),
    ],
    ids=["trap", "fuel", "garbage", "missing"],
)
def test_a_kernel_that_fails_is_a_result_with_its_stage(inference, wasm, fuel, code, detail):
    result = run(kernel_pipeline(wasm, fuel=fuel), inference)
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == (code, "kernel")
    assert detail in result.failure.detail
    assert result.output == b""
    assert result.stages == ()


def test_the_stages_before_a_failure_are_reported(inference):
    pipeline = classifier()
    bad = msgspec.structs.replace(pipeline.manifest.stages[2], metadata={"labels": "only one"})
    manifest = msgspec.structs.replace(pipeline.manifest, stages=(*pipeline.manifest.stages[:2], bad))
    result = run(SamplePipeline(manifest, pipeline.artifacts), inference, sample_input(1, 1, 1))
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == ("kernel-error", "topk")
    assert [report.stage for report in result.stages] == ["first", "model"]


def test_a_model_that_fails_on_the_input_is_a_result_with_its_stage(inference):
    # Its Add wants the length 2, whatever the manifest says.
    model = onnx_model(
        helper.make_node("Add", ["x", "w"], ["y"]),
        inputs=["x"],
        outputs=["y"],
        initializer=[helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 1.0])],
    )
    result = run(model_pipeline(model), inference, sample_input(1, 2, 3))
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == ("model-failure", "model")


def test_a_model_output_without_a_safetensors_dtype_is_a_model_failure(inference):
    model = onnx_model(
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING), inputs=["x"], outputs=[]
    )
    parsed = onnx.load_from_string(model)
    parsed.graph.output.append(helper.make_tensor_value_info("y", TensorProto.STRING, ["n"]))
    result = run(model_pipeline(parsed.SerializeToString()), inference)
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == ("model-failure", "model")
    assert "tensor document" in result.failure.detail


def test_an_output_over_the_limit_is_a_result_with_the_last_stage(inference):
    result = run(classifier(output_bytes=16), inference, sample_input(1, 1, 1))
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage) == ("stage-failure", "topk")
    assert len(result.stages) == 3


@pytest.mark.parametrize(
    ("pipeline", "error"),
    [
        (kernel_pipeline(b"\0asm garbage"), InvalidKernel),
        (model_pipeline(b"garbage"), InvalidModel),
        (model_pipeline(SCORES), ModelFailure),  # it has no output y
    ],
    ids=["kernel", "model", "names"],
)
def test_an_artifact_that_does_not_load_names_its_stage(inference, pipeline, error):
    with pytest.raises(error) as caught:
        executor_of(pipeline, inference)
    assert caught.value.stage == pipeline.manifest.stages[0].name


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (b"no document", InvalidTensorDocument),
        (encode(TensorDocument({"x": np.ones((2, 2), np.float32)})), InvalidInput),
        (encode(TensorDocument({"z": np.ones(1, np.float32)})), InvalidInput),
    ],
    ids=["garbage", "shape", "name"],
)
def test_an_input_that_does_not_fit_is_no_result(inference, document, error):
    with pytest.raises(error):
        run(kernel_pipeline(NOOP), inference, document)


def test_the_deadline_is_no_result_and_names_the_stage(inference):
    executor = executor_of(kernel_pipeline(SPIN, fuel=1 << 50), inference)
    with pytest.raises(LeaseTimeout) as caught:
        executor.run(sample_input(), wall_s_max=0.05)
    assert caught.value.stage == "kernel"


def test_equal_inputs_give_equal_hashes_and_fuel(inference):
    executor = executor_of(classifier(), inference)
    first, second = (executor.run(sample_input(3, 2, 1), wall_s_max=30) for _ in range(2))
    assert first.output == second.output
    assert [(r.output, r.fuel) for r in first.stages] == [(r.output, r.fuel) for r in second.stages]


def test_a_stage_may_name_the_outputs_of_its_graph_itself(inference):
    """Also one twice, and in another order; the pipeline knows nothing of the graph's own names."""
    graph = onnx_model(
        helper.make_node("Add", ["größe (cm)", "größe (cm)"], ["448"]),
        helper.make_node("Neg", ["größe (cm)"], ["/model/x"]),
        inputs=["größe (cm)"],
        outputs=["448", "/model/x"],
    )
    cid = add_bytes(graph, put=None)
    stage = ModelStage(
        name="model",
        artifact=cid,
        inputs={"größe (cm)": "input.x"},
        outputs={"negative": "/model/x", "double": "448", "again": "448"},
    )
    manifest = Manifest(
        name="named",
        version="1",
        inputs={"x": TensorSpec(dtype="F32", shape=(None,))},
        stages=(stage,),
        outputs={"y": "model.double", "z": "model.negative", "again": "model.again"},
    )
    assert decode_manifest(encode_manifest(manifest)) == manifest
    document = encode(TensorDocument({"x": np.array([1, 2], np.float32)}))
    run_ = run(SamplePipeline(manifest, {cid: graph}), inference, document)
    made = decode(run_.output)
    assert {name: tensor.tolist() for name, tensor in made.tensors.items()} == {
        "again": [2, 4],
        "y": [2, 4],
        "z": [-1, -2],
    }
