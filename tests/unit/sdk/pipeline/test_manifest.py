"""Manifests: one encoding, links that cover every artifact, and strict about what strangers publish."""

from __future__ import annotations

from typing import Any

import dag_cbor
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID

from tradepost.content import cid_of_block
from tradepost.errors import InvalidInput, InvalidOutput, InvalidPipeline
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    OutputSpec,
    PipelineLimits,
    TensorSpec,
    Tolerance,
    WorkUnits,
    check_connections,
    check_tolerances,
    decode_manifest,
    encode_manifest,
    manifest_cid,
)
from tradepost.pipeline.tensors import TensorDocument

KERNEL = cid_of_block(b"kernel", "raw")
MODEL = cid_of_block(b"model", "raw")


def make(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "digits",
        "version": "1.0.0",
        "inputs": {"image": TensorSpec(dtype="U8", shape=(None, None))},
        "stages": (
            KernelStage(
                name="normalize", artifact=KERNEL, inputs={"image": "input.image"}, outputs=("image",)
            ),
            ModelStage(name="model", artifact=MODEL, inputs={"x": "normalize.image"}, outputs=("logits",)),
        ),
        "outputs": {"logits": "model.logits"},
    }
    return Manifest(**(fields | changes))


def kernel(**changes: Any) -> KernelStage:
    fields: dict[str, Any] = {
        "name": "k",
        "artifact": KERNEL,
        "inputs": {"image": "input.image"},
        "outputs": ("image",),
    }
    return KernelStage(**(fields | changes))


def tree_of(manifest: Manifest) -> Any:
    return dag_cbor.decode(encode_manifest(manifest))


def test_round_trip() -> None:
    assert decode_manifest(encode_manifest(make())) == make()


def test_artifacts_are_links_so_that_pinning_covers_them() -> None:
    links = [stage["artifact"] for stage in tree_of(make())["stages"]]
    assert all(isinstance(link, CID) for link in links)
    assert [str(link.set(base="base32")) for link in links] == [KERNEL, MODEL]
    assert make().artifacts() == [KERNEL, MODEL]


def test_a_model_without_conditional_operators_does_not_speak_of_them() -> None:
    """So a manifest has one encoding, and most are as they were before there was the field."""
    plain = tree_of(make())
    assert "conditional_operators" not in plain["stages"][1]
    plain["stages"][1]["conditional_operators"] = []
    with pytest.raises(InvalidPipeline, match="canonical"):
        decode_manifest(dag_cbor.encode(plain))
    plain["stages"][1]["conditional_operators"] = ["Loop"]
    model = decode_manifest(dag_cbor.encode(plain)).stages[1]
    assert isinstance(model, ModelStage)
    assert model.conditional_operators == ("Loop",)
    plain["stages"][1]["conditional_operators"] = ["While"]
    with pytest.raises(InvalidPipeline, match="While"):
        decode_manifest(dag_cbor.encode(plain))


def test_the_cid_names_every_field() -> None:
    assert manifest_cid(make(version="1.0.1")) != manifest_cid(make())
    assert manifest_cid(make(limits=PipelineLimits(wall_ms=1))) != manifest_cid(make())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "tradepost-pipeline/2"),
        (("surprise",), 1),
        (("stages", 0, "surprise"), 1),
        (("stages", 0, "kind"), "shell"),
        (("stages", 0, "artifact"), "bafy"),
        (("stages", 0, "fuel"), 0),
        (("stages", 0, "memory_bytes"), 1 << 60),
        (("stages", 1, "providers"), ["quantum"]),
        (("stages", 1, "tolerance", "atol"), -1.0),
        (("stages",), []),
        (("name",), "../etc"),
        (("name",), "digits\n"),
        (("version",), "1.0.0\n"),
        (("inputs",), {}),
    ],
)
def test_a_field_outside_the_schema_is_refused(path: tuple[Any, ...], value: object) -> None:
    tree = tree_of(make())
    at = tree
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(InvalidPipeline):
        decode_manifest(dag_cbor.encode(tree))


def test_a_default_that_is_left_out_is_another_encoding_and_refused() -> None:
    tree = tree_of(make())
    del tree["description"]
    with pytest.raises(InvalidPipeline, match="canonical"):
        decode_manifest(dag_cbor.encode(tree))


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(InvalidPipeline):
        decode_manifest(noise)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((kernel(inputs={"image": "input.picture"}),), "which has: image"),
        ((kernel(inputs={"image": "later.image"}),), "which is not an earlier stage"),
        ((kernel(inputs={"image": "k.image"}),), "which is not an earlier stage"),
        ((kernel(inputs={"image": "image"}),), "write stage.tensor"),
        ((kernel(), kernel()), "rename the stage"),
        ((kernel(name="input"),), "rename the stage"),
        ((kernel(outputs=("a", "a")),), "named twice"),
    ],
)
def test_a_bad_connection_names_the_stage_and_the_mend(stages: tuple[KernelStage, ...], said: str) -> None:
    with pytest.raises(InvalidPipeline, match=said) as caught:
        check_connections(make(stages=stages, outputs={"image": "k.image"}))
    assert caught.value.stage == stages[-1].name


def test_an_output_without_a_source_is_refused() -> None:
    with pytest.raises(InvalidPipeline, match="output 'x'"):
        check_connections(make(outputs={"x": "model.nothing"}))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "'image' is missing"),
        ({"image": np.zeros((2, 2), np.float32)}, r"F32\[2, 2\]; digits needs U8\[\?, \?\]"),
        ({"image": np.zeros(2, np.uint8)}, r"needs U8\[\?, \?\]"),
        ({"image": np.zeros((2, 2), np.uint8), "extra": np.zeros(1)}, "not inputs"),
    ],
)
def test_an_input_that_does_not_fit_says_what_is_needed(tensors: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make().check_input(TensorDocument(tensors=tensors), document_bytes=10)


def test_an_input_over_the_pipelines_limit_is_refused() -> None:
    document = TensorDocument(tensors={"image": np.zeros((2, 2), np.uint8)})
    make().check_input(document, document_bytes=10)
    with pytest.raises(InvalidInput, match="accepts at most 9"):
        make(limits=PipelineLimits(input_bytes=9)).check_input(document, document_bytes=10)


@pytest.mark.parametrize(("size", "units"), [(0, 2), (1, 5), (1 << 20, 5), ((1 << 20) + 1, 8)])
def test_work_units_count_mebibytes_begun(size: int, units: int) -> None:
    assert WorkUnits(base=2, per_mebibyte=3).count(size) == units


def test_a_manifest_is_json_for_people_too() -> None:
    assert msgspec.json.decode(msgspec.json.encode(make()), type=Manifest) == make()


# What outputs are declared to be


SCORES = OutputSpec(dtype="F32", shape=(None, 3), minimum=0.0, maximum=1.0)


def scores(*values: float, dtype: type = np.float32) -> TensorDocument:
    return TensorDocument({"logits": np.array([values], dtype)})


def test_a_manifest_without_declared_outputs_is_encoded_as_before_there_were_any() -> None:
    assert "output_specs" not in tree_of(make())
    assert manifest_cid(make()) == "bafyreibziibzqd5d35gf7uhbamri34sri6iaaprl3yjn6sz3mzpnwhfidu"


def test_declared_outputs_are_part_of_the_identity_and_come_back() -> None:
    declared = make(output_specs={"logits": SCORES})
    assert manifest_cid(declared) != manifest_cid(make())
    assert decode_manifest(encode_manifest(declared)) == declared
    with pytest.raises(InvalidPipeline, match="not outputs of the pipeline"):
        decode_manifest(encode_manifest(make(output_specs={"other": SCORES})))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (scores(0, 0.5, 1), ""),
        (scores(0, 0.5, 1, dtype=np.float64), "is F64[1, 3]; F32[?, 3] is declared"),
        (scores(0, 1), "is F32[1, 2]; F32[?, 3] is declared"),
        (TensorDocument({"logits": np.zeros(3, np.float32)}), "is F32[3]"),
        (scores(0, np.nan, 1), "not finite"),
        (scores(0, -np.inf, 1), "not finite"),
        (scores(0, -0.5, 1), "below 0"),
        (scores(0, 0.5, 1.5), "above 1"),
    ],
)
def test_an_output_is_held_to_its_declaration(document: TensorDocument, said: str) -> None:
    manifest = make(output_specs={"logits": SCORES})
    if not said:
        manifest.check_output(document)
        return
    with pytest.raises(InvalidOutput) as refused:
        manifest.check_output(document)
    assert said in refused.value.detail
    assert refused.value.stage == "model"


def test_every_value_of_a_large_output_is_checked() -> None:
    spec = OutputSpec(dtype="F32", shape=(None,), maximum=1.0)
    values = np.zeros(200_000, np.float32)
    assert spec.difference(values) == ""
    values[-1] = 2
    assert "above 1" in spec.difference(values)


def test_values_that_are_not_finite_may_be_declared() -> None:
    spec = OutputSpec(dtype="F32", shape=(2,), minimum=0.0, finite=False)
    assert spec.difference(np.array([np.nan, np.inf], np.float32)) == ""
    assert "below 0" in spec.difference(np.array([np.nan, -np.inf], np.float32))


@pytest.mark.parametrize("bound", [float("nan"), float("inf"), "1"])
def test_a_bound_is_a_finite_number(bound: object) -> None:
    fields = {"dtype": "F32", "shape": [], "maximum": bound}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, OutputSpec)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "allowed"),
    [
        ("", Tolerance(atol=1e-2, rtol=2e-2), True),
        ("", Tolerance(atol=1.0, rtol=1.0), False),
        ("F32", Tolerance(atol=1e-3, rtol=1e-2), True),
        ("F32", Tolerance(atol=1e-2, rtol=1e-2), False),
        ("F16", Tolerance(atol=1e-2, rtol=1e-2), True),
        ("I64", Tolerance(atol=0.0, rtol=0.1), False),
    ],
)
def test_tolerances_have_ceilings_by_dtype(dtype: str, tolerance: Tolerance, allowed: bool) -> None:
    stage = ModelStage(
        name="model", artifact=MODEL, inputs={"x": "input.image"}, outputs=("logits",), tolerance=tolerance
    )
    specs = {"logits": OutputSpec(dtype=dtype, shape=())} if dtype else {}
    manifest = make(stages=(stage,), output_specs=specs)
    if allowed:
        check_tolerances(manifest)
        return
    with pytest.raises(InvalidPipeline, match="at most") as refused:
        check_tolerances(manifest)
    assert refused.value.stage == "model"
