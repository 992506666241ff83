"""A whole pipeline is checked before it is signed, and an error names the stage and the mend."""

import msgspec
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import wasmtime
from onnx import TensorProto, helper

from tradepost.errors import InvalidKernel, InvalidModel, InvalidPipeline, TradepostError
from tradepost_signing.publishing.pipeline_toml import load_pipeline
from tradepost_signing.publishing.validation import validate_pipeline

KERNEL = """(module
  (memory (export "memory") 1)
  (func (export "kernel_alloc") (param i32) (result i32) i32.const 0)
  (func (export "kernel_run") (param i32 i32) (result i64) i64.const 0))"""

PIPELINE = """
name = "digits"
version = "1"
[inputs]
image = { dtype = "F32", shape = ["?", 4] }
[[stage]]
name = "model"
model = "model.onnx"
inputs = { x = "input.image" }
outputs = ["y"]
[[stage]]
name = "again"
model = "model.onnx"
inputs = { x = "model.y" }
outputs = ["y"]
[[stage]]
name = "kernel"
kernel = "kernel.wasm"
inputs = { y = "again.y" }
outputs = ["z"]
[[stage]]
name = "last"
model = "model.onnx"
inputs = { x = "kernel.z" }
outputs = ["y"]
[outputs]
y = "last.y"
"""


def model(*, shape=("batch", 4), dtype=TensorProto.FLOAT, weights=None, more_inputs=()) -> onnx.ModelProto:
    """y = x + weights."""
    if weights is None:
        weights = onnx.numpy_helper.from_array(np.ones(4, helper.tensor_dtype_to_np_dtype(dtype)), "weights")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weights"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", dtype, shape), *more_inputs],
        [helper.make_tensor_value_info("y", dtype, shape)],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def validate(tmp_path):
    def validate(text: str = PIPELINE, *, onnx_model: onnx.ModelProto | None = None, wat: str = KERNEL):
        (tmp_path / "model.onnx").write_bytes((onnx_model or model()).SerializeToString())
        (tmp_path / "kernel.wasm").write_bytes(wasmtime.wat2wasm(wat))
        (tmp_path / "pipeline.toml").write_text(text)
        validate_pipeline(load_pipeline(tmp_path / "pipeline.toml"))

    return validate


def refusal(kind: type[TradepostError], validate, *arguments, **options) -> TradepostError:
    with pytest.raises(kind) as caught:
        validate(*arguments, **options)
    assert caught.value.hint
    return caught.value


def test_a_pipeline_whose_parts_fit_is_valid(validate):
    validate()


@pytest.mark.parametrize(
    ("old", "new", "stage", "says"),
    [
        ("x = ", "image = ", "model", "model.onnx has no input 'image'. Available: x"),
        ("inputs = { x = ", 'inputs = { xx = "input.image", x = ', "model", "Did you mean 'x'"),
        ('outputs = ["y"]', 'outputs = ["yy"]', "model", "Did you mean 'y'"),
        ('dtype = "F32"', 'dtype = "U8"', "model", "must be F32[?, 4]; input.image is U8[?, 4]. Provide F32"),
        ('dtype = "F32"', 'dtype = "F23"', None, "inputs.image has the dtype 'F23'. Did you mean 'F32'"),
        ('["?", 4]', '["?", "?", 4]', "model", "Provide 2 dimensions, not 3"),
        ('["?", 4]', "[1, 5]", "model", "Dimension 1 must be 4"),
    ],
)
def test_what_is_known_to_misfit_is_refused(validate, old, new, stage, says):
    text = PIPELINE.replace(old, new, 1).replace('"model.y"', '"model.yy"' if '"yy"' in new else '"model.y"')
    error = refusal(InvalidPipeline, validate, text)
    assert error.stage == stage
    assert says in f"{error.detail}. {error.hint}"


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ('dtype = "F32", shape = ["?", 4]', ""),
        ('dtype = "F32", shape = ["?", "?"]', ""),
        ('dtype = "F64", shape = ["?", 4]', "is declared as F64[?, 4]; last.y is F32[?, 4]"),
        ('dtype = "F32", shape = [4]', "is declared as F32[4]"),
        ('dtype = "F32", shape = ["?", 5]', "is declared as F32[?, 5]"),
    ],
)
def test_a_declared_output_must_be_what_its_model_gives(validate, declared, says):
    text = PIPELINE.replace('y = "last.y"', f'y = {{ from = "last.y", {declared} }}')
    if not says:
        validate(text)
        return
    with pytest.raises(InvalidPipeline) as refused:
        validate(text)
    assert says in refused.value.detail
    assert "F32[?, 4]" in refused.value.hint


def test_a_tolerance_above_the_ceiling_is_refused_before_signing(validate):
    loose = PIPELINE.replace('outputs = ["y"]', 'outputs = ["y"]\ntolerance = { atol = 1, rtol = 1 }', 1)
    with pytest.raises(InvalidPipeline, match="at most") as refused:
        validate(loose)
    assert refused.value.stage == "model"


@pytest.mark.parametrize("shape", ['["?", "?"]', "[7, 4]", "[]"])
def test_what_may_fit_is_left_to_the_run(validate, shape):
    validate(PIPELINE.replace('["?", 4]', shape, 1))


def test_one_models_output_must_fit_the_next(validate):
    growing = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
    )
    growing_model = helper.make_model(growing, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    error = refusal(InvalidPipeline, validate, onnx_model=growing_model)
    assert error.stage == "again"
    assert "model.y is F32[?, 8]" in error.detail


def test_an_input_that_the_stage_does_not_give_is_named(validate):
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1])
    error = refusal(InvalidPipeline, validate, onnx_model=model(more_inputs=[mask]))
    assert "also needs the input 'mask'" in error.detail


def test_types_that_no_document_carries_are_refused_where_they_are_used(validate):
    words = helper.make_tensor_value_info("words", TensorProto.STRING, [1])
    onnx_model = model(more_inputs=[words])
    error = refusal(
        InvalidPipeline,
        validate,
        PIPELINE.replace("{ x =", '{ words = "input.image", x =', 1),
        onnx_model=onnx_model,
    )
    assert "tensor(string)" in error.detail


def test_a_kernel_with_forbidden_imports_is_refused(validate):
    wat = KERNEL.replace("(memory", '(import "env" "socket" (func (param i32)))\n(memory', 1)
    error = refusal(InvalidKernel, validate, wat=wat)
    assert error.stage == "kernel"
    assert "kernel.wasm: it imports 'env.socket'" in error.detail


def test_a_kernel_of_neither_form_is_refused(validate):
    error = refusal(InvalidKernel, validate, wat='(module (memory (export "memory") 1))')
    assert error.stage == "kernel"


@pytest.mark.parametrize("content", [b"", b"not a model", b"\xff" * 64])
def test_what_is_no_model_is_refused(tmp_path, validate, content):
    validate()
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InvalidModel) as caught:
        validate_pipeline(load_pipeline(tmp_path / "pipeline.toml"))
    assert caught.value.stage == "model"
    assert "model.onnx: " in caught.value.detail
    assert caught.value.hint


def external(name: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def test_data_in_another_file_is_refused(validate):
    error = refusal(InvalidModel, validate, onnx_model=model(weights=external("weights")))
    assert error.stage == "model"
    assert "another file" in error.detail


def choosing_model() -> onnx.ModelProto:
    """y = x, whichever way the If goes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["result"])], "branch", [], [result])
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "graph", [x], [y], [yes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_conditional_operator_must_be_named(validate):
    error = refusal(InvalidModel, validate, onnx_model=choosing_model())
    assert error.stage == "model"
    line = 'conditional_operators = ["If"]'
    assert line in error.hint
    text = PIPELINE.replace('model = "model.onnx"', f'model = "model.onnx"\n{line}')
    validate(text, onnx_model=choosing_model())


@pytest.mark.parametrize("name", ["448", "0", "/model/x", "sepal length (cm)", "größe", "x" * 200, '"'])
def test_a_graph_may_have_any_names(validate, name):
    made = model()
    made.graph.input[0].name = made.graph.node[0].input[0] = f"{name} in"
    made.graph.output[0].name = made.graph.node[0].output[0] = name
    given, returned = (msgspec.json.encode(one).decode() for one in (f"{name} in", name))
    text = PIPELINE.replace("inputs = { x =", f"inputs = {{ {given} =").replace('outputs = ["y"]\n', "")
    text = text.replace('model = "model.onnx"', f'model = "model.onnx"\noutputs = {{ y = {returned} }}')
    validate(text, onnx_model=made)
    with pytest.raises(InvalidPipeline) as refused:
        validate(text.replace(f"y = {returned}", 'y = "other"'), onnx_model=made)
    assert refused.value.hint == f"Available: {name}."
