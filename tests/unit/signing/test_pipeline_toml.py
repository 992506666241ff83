"""`pipeline.toml` becomes a manifest, or an error that names the stage and the mend."""

from importlib.metadata import EntryPoint, EntryPoints

import msgspec
import pytest

from tradepost.content import add_bytes
from tradepost.errors import InvalidKernel, InvalidPipeline
from tradepost.pipeline.manifest import (
    KernelStage,
    ModelStage,
    OutputSpec,
    PipelineLimits,
    TensorSpec,
    Tolerance,
    WorkUnits,
    decode_manifest,
    encode_manifest,
)
from tradepost_signing.publishing import kernel_sources
from tradepost_signing.publishing.kernel_sources import installed_kernel
from tradepost_signing.publishing.pipeline_toml import load_pipeline

PIPELINE = """
name = "digits"
version = "1.0.0"
description = "Handwritten digits."

[inputs]
image = { dtype = "U8", shape = ["?", 8] }

[[stage]]
name = "normalize"
kernel = "builtin:normalize"
inputs = { image = "input.image" }
outputs = ["image"]
metadata = { size = "8,8", labels = { file = "labels.txt" } }
fuel = 50_000_000
memory_bytes = 16_777_216

[[stage]]
name = "model"
model = "digits.onnx"
inputs = { x = "normalize.image" }
outputs = ["logits"]
providers = ["cuda", "cpu"]
tolerance = { atol = 0, rtol = 1e-3 }

[outputs]
scores = "model.logits"

[work_units]
base = 2

[limits]
wall_ms = 5000
"""


def builtin(reference: str) -> bytes | None:
    return b"\0asm" if reference == "builtin:normalize" else None


@pytest.fixture
def load(tmp_path):
    (tmp_path / "digits.onnx").write_bytes(b"onnx\xff")
    (tmp_path / "labels.txt").write_text("null\neins\n")

    def load(text: str = PIPELINE):
        (tmp_path / "pipeline.toml").write_text(text)
        return load_pipeline(tmp_path / "pipeline.toml", kernel_source=builtin)

    return load


def test_every_field_reaches_the_manifest(load):
    pipeline = load()
    manifest = pipeline.manifest
    kernel, model = add_bytes(b"\0asm", put=None), add_bytes(b"onnx\xff", put=None)
    assert (manifest.name, manifest.version) == ("digits", "1.0.0")
    assert manifest.description == "Handwritten digits."
    assert manifest.inputs == {"image": TensorSpec(dtype="U8", shape=(None, 8))}
    assert manifest.stages == (
        KernelStage(
            name="normalize",
            artifact=kernel,
            inputs={"image": "input.image"},
            outputs=("image",),
            metadata={"size": "8,8", "labels": "null\neins"},
            fuel=50_000_000,
            memory_bytes=16_777_216,
        ),
        ModelStage(
            name="model",
            artifact=model,
            inputs={"x": "normalize.image"},
            outputs=("logits",),
            providers=("cuda", "cpu"),
            tolerance=Tolerance(atol=0, rtol=1e-3),
        ),
    )
    assert manifest.outputs == {"scores": "model.logits"}
    assert manifest.work_units == WorkUnits(base=2)
    assert manifest.limits == PipelineLimits(wall_ms=5000)
    assert {cid: artifact.source for cid, artifact in pipeline.artifacts.items()} == {
        kernel: "builtin:normalize",
        model: "digits.onnx",
    }


def test_outputs_may_be_declared(load):
    declared = 'scores = { from = "model.logits", dtype = "F32", shape = ["?", 3], minimum = 0 }'
    manifest = load(PIPELINE.replace('scores = "model.logits"', declared)).manifest
    assert manifest.outputs == {"scores": "model.logits"}
    assert manifest.output_specs == {"scores": OutputSpec(dtype="F32", shape=(None, 3), minimum=0.0)}
    assert decode_manifest(encode_manifest(manifest)) == manifest


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ('dtype = "F32", shape = []', "outputs.scores has no key 'from' Set from = "),
        ('from = "model.logits", dtype = "F33", shape = []', "outputs.scores has the dtype 'F33'"),
        ('from = "model.logits", dtype = "F32", shape = ["*"]', "outputs.scores.shape has '*'"),
        ('from = "model.logits", dtype = "F32"', "shape"),
        ('from = "model.logits", dtype = "F32", shape = [], mininum_ = 0', "Did you mean 'minimum'?"),
        ('from = "model.logits", dtype = "F32", shape = [], maximum = inf', "maximum"),
        ('from = "nothing.logits", dtype = "F32", shape = []', "'nothing'"),
    ],
)
def test_a_wrong_declaration_of_an_output_says_what_to_write(load, declared, says):
    with pytest.raises(InvalidPipeline) as refused:
        load(PIPELINE.replace('scores = "model.logits"', f"scores = {{ {declared} }}"))
    assert says in f"{refused.value.detail} {refused.value.hint}"


def test_a_kernel_may_be_a_file(load, tmp_path):
    (tmp_path / "own.wasm").write_bytes(b"own")
    pipeline = load(PIPELINE.replace("builtin:normalize", "own.wasm"))
    assert pipeline.manifest.stages[0].artifact == add_bytes(b"own", put=None)


@pytest.mark.parametrize(
    ("old", "new", "stage", "says"),
    [
        ('name = "digits"\n', "", None, "lacks the field 'name'"),
        ('version = "1.0.0"', "version = 1.0", None, "version must be text"),
        ("description", "descripton", None, "Did you mean 'description'?"),
        ("[work_units]\nbase", "[work_units]\nbasis", None, "Did you mean 'base'?"),
        ("wall_ms", "wall", None, "Did you mean 'wall_ms'?"),
        ("wall_ms = 5000", "wall_ms = 0", None, "limits.wall_ms must be at least 1"),
        ("[limits]", "[limit]", None, "Did you mean 'limits'?"),
        ("dtype", "type", None, "Did you mean 'dtype'?"),
        ("U8", "u8", None, "has the dtype 'u8' Did you mean 'U8'?"),
        ("U8", "BF16", None, "has the dtype 'BF16' BF16, F8 and narrower floats are not supported. Use F32"),
        ("U8", "bfloat16", None, "not supported. Use F32"),
        ("U8", "F8_E4M3", None, "not supported. Use F32"),
        ("U8", "float8_e5m2", None, "not supported. Use F32"),
        ("U8", "C64", None, "Use two tensors of floats"),
        ('["?", 8]', "[1, 2, 3, 4, 5, 6, 7, 8, 9]", None, "inputs.shape must have at most 8 entries, not 9"),
        ('["?", 8]', '["*", 8]', None, "inputs.image.shape has '*'"),
        ('["?", 8]', "[-1, 8]", None, "inputs.shape[0] must be at least 0"),
        ("fuel = 50_000_000", "feul = 50_000_000", "normalize", "Did you mean 'fuel'?"),
        ("fuel = 50_000_000", 'fuel = "much"', "normalize", "fuel must be a whole number, not text"),
        ("fuel = 50_000_000", "fuel = 0", "normalize", "fuel must be at least 1"),
        ("providers", "fuel = 1\nproviders", "model", "a model stage has no key 'fuel'"),
        ("atol", "atoll", "model", "Did you mean 'atol'?"),
        ('"cuda"', '"cudda"', "model", "providers[0] cannot be 'cudda'"),
        ('size = "8,8"', "size = 8", "normalize", "metadata.size is 8"),
        ('file = "labels.txt"', 'path = "labels.txt"', "normalize", "labels.txt"),
        ("labels.txt", "absent.txt", "normalize", "metadata.labels: file 'absent.txt'"),
        ("digits.onnx", "absent.onnx", "model", "model 'absent.onnx': No such file"),
        ("digits.onnx", r"digits\u0000", "model", "null byte"),
        ("labels.txt", "digits.onnx", "normalize", "metadata.labels: file 'digits.onnx': 'utf-8'"),
        ("atol = 0", "atol = nan", "model", "tolerance.atol"),
        ("fuel = 50_000_000", "fuel = 9223372036854775808", "normalize", "fuel"),
        ("fuel = 50_000_000", "fuel = 2024-01-01", "normalize", "fuel"),
        ('model = "digits.onnx"', "model = 1", "model", "model is 1"),
        ("builtin:normalize", "absent.wasm", "normalize", "No such file"),
        ('kernel = "builtin:normalize"', "", "normalize", "either a kernel or a model"),
        ("providers", 'kernel = "x"\nproviders', "model", "either a kernel or a model"),
        ('name = "model"', "", "number 2", "lacks the field 'name'"),
        (
            'name = "model"',
            'name = "Model"',
            "Model",
            "the stage's name is 'Model' Use lower-case letters",
        ),
        (
            'name = "digits"',
            'name = "Ziffern ü"',
            None,
            "the pipeline's name is 'Ziffern ü' Use lower-case",
        ),
        ("image = {", '"an image" = {', None, "the name of a pipeline's input is 'an image' Use letters"),
        ('"U8"', '"STRING"', None, "inputs.image has the dtype 'STRING' Available: BOOL"),
        (
            '["logits"]',
            '["448"]',
            "model",
            """'448' Give the output another name: outputs = { NAME = '448' }""",
        ),
        (
            '["logits"]',
            '{ logits = "a\\tb" }',
            "model",
            "is 'a\\tb' Use 1 to 256 characters, and no control",
        ),
        ('["image"]', '["0"]', "normalize", "the name of an output is '0' Use letters"),
        ("normalize.image", "normalize image", "model", "the source of 'x' is 'normalize image'"),
        ('name = "model"', 'name = "normalize"', "normalize", "already used"),
        ("normalize.image", "normalise.image", "model", "'normalise', which is not an earlier stage"),
        ("normalize.image", "normalize.imag", "model", "which has: image"),
        ("model.logits", "model.logit", None, "output 'scores'"),
        ('outputs = ["image"]', "outputs = []", "normalize", "outputs must have at least 1 entry"),
        ('name = "digits"', 'name = "digits', None, "line 2"),
    ],
)
def test_an_error_names_the_place_and_the_mend(load, old, new, stage, says):
    assert old in PIPELINE
    with pytest.raises(InvalidPipeline) as caught:
        load(PIPELINE.replace(old, new, 1))
    assert caught.value.stage == stage
    assert says in f"{caught.value.detail} {caught.value.hint}"


def test_a_key_that_resembles_nothing_lists_what_there_is(load):
    with pytest.raises(InvalidPipeline) as caught:
        load(PIPELINE + "quota = 1")
    assert "wall_ms" in caught.value.hint


@pytest.mark.parametrize("stage", ["stage = 1", "stage = [1]", "[stage]", ""])
def test_stages_are_a_list_of_tables(load, stage):
    with pytest.raises(InvalidPipeline):
        load(f'name = "x"\nversion = "1"\n{stage}')


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidPipeline, match=r"absent\.toml"):
        load_pipeline(tmp_path / "absent.toml")


@pytest.fixture
def installed(monkeypatch):
    def found(*, group):
        assert group == kernel_sources.GROUP
        return EntryPoints([EntryPoint("builtin", "tradepost_kernels:load", group)])

    def load(_point):
        return give

    def give(name: str) -> bytes:
        if name != "normalize":
            raise InvalidKernel(f"there is no built-in kernel {name!r}", hint="There are: normalize.")
        return b"\0asm"

    monkeypatch.setattr(kernel_sources, "entry_points", found)
    monkeypatch.setattr(EntryPoint, "load", load)


@pytest.mark.usefixtures("installed")
def test_installed_packages_give_kernels_by_name():
    assert installed_kernel("builtin:normalize") == b"\0asm"
    assert installed_kernel("kernels/own.wasm") is None
    assert installed_kernel("./builtin:normalize") is None
    with pytest.raises(InvalidKernel, match="sobel"):
        installed_kernel("builtin:sobel")
    with pytest.raises(InvalidPipeline, match="available: builtin:"):
        installed_kernel("bultin:normalize")


@pytest.mark.usefixtures("installed")
def test_an_unknown_kernel_names_its_stage(tmp_path):
    (tmp_path / "pipeline.toml").write_text(PIPELINE.replace("builtin:normalize", "builtin:sobel"))
    with pytest.raises(InvalidKernel) as caught:
        load_pipeline(tmp_path / "pipeline.toml")
    assert (caught.value.stage, caught.value.hint) == ("normalize", "There are: normalize.")


def test_the_projects_own_kernels_are_installed():
    wasm = installed_kernel("builtin:normalize")
    assert wasm is not None
    assert wasm.startswith(b"\0asm")


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 200, "a\nb"])
@pytest.mark.parametrize("old", ["digits", "image", "normalize", "logits", "U8", "normalize.image", "1.0.0"])
def test_no_error_shows_a_regular_expression(load, name, old):
    assert f'"{old}"' in PIPELINE
    with pytest.raises(InvalidPipeline) as caught:
        load(PIPELINE.replace(f'"{old}"', msgspec.json.encode(name).decode()))
    assert "regex" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_file(load, tmp_path):
    assert load("\ufeff" + PIPELINE).manifest == load(PIPELINE).manifest
