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
from tradepost.errors import InvalidInput, InvalidPipeline
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    PipelineLimits,
    TensorSpec,
    WorkUnits,
    check_connections,
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
