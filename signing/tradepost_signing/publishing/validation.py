"""Validates a complete pipeline before it is signed, so that its author sees mistakes before any job runs.

Kernels are checked against `tradepost-kernel/1`, models are loaded, and where both ends of a connection are
known (the pipeline's inputs and the models' inputs and outputs are; a kernel's outputs are not) they must
agree.
"""

from __future__ import annotations

from collections.abc import Mapping

from tradepost.content import Cid
from tradepost.errors import InvalidKernel, InvalidModel, InvalidPipeline
from tradepost.pipeline.kernel_abi import check_kernel
from tradepost.pipeline.manifest import (
    INPUT,
    KernelStage,
    Manifest,
    ModelStage,
    TensorSpec,
    check_connections,
    check_tolerances,
)
from tradepost.pipeline.tensors import DTYPES
from tradepost_signing.publishing.artifacts import Artifact
from tradepost_signing.publishing.names import among, quoted_key
from tradepost_signing.publishing.onnx_interface import Described, read_interface
from tradepost_signing.publishing.pipeline_toml import AuthoredPipeline

#: What is known statically about the tensors so far, by reference (`stage.tensor`).
Known = dict[str, TensorSpec]


def validate_pipeline(pipeline: AuthoredPipeline) -> None:
    """Raise unless every stage of `pipeline` can work: `InvalidPipeline`, `InvalidKernel` or `InvalidModel`.

    The error names the stage, and its hint the mend.
    """
    check_connections(pipeline.manifest)
    known = _declared_inputs(pipeline.manifest)
    for stage in pipeline.manifest.stages:
        artifact = pipeline.artifacts[Cid(stage.artifact)]
        if isinstance(stage, KernelStage):
            _check_kernel(stage, artifact)
        else:
            _check_model(stage, artifact, known)
    _check_outputs(pipeline.manifest, known)
    check_tolerances(pipeline.manifest)


def _declared_inputs(manifest: Manifest) -> Known:
    known: Known = {}
    for name, spec in manifest.inputs.items():
        if spec.dtype not in DTYPES:
            raise InvalidPipeline(
                f"inputs.{name} has the dtype {spec.dtype!r}", hint=among(spec.dtype, DTYPES.keys())
            )
        known[f"{INPUT}.{name}"] = spec
    return known


def _check_outputs(manifest: Manifest, known: Known) -> None:
    """Whether the declared outputs are what their stages give, as far as that is known."""
    for name, spec in manifest.output_specs.items():
        reference = manifest.outputs[name]
        if reference not in known:
            continue
        given, declared = known[reference], spec.tensor
        lengths = zip(given.shape, declared.shape, strict=False)
        # A shape of the engine's without dimensions is a scalar's, or of unknown rank.
        is_rank_right = not given.shape or len(given.shape) == len(declared.shape)
        fits = all(None in (have, want) or have == want for have, want in lengths)
        if given.dtype != declared.dtype or not is_rank_right or not fits:
            raise InvalidPipeline(
                f"the output {name!r} is declared as {declared}; {reference} is {given}",
                hint=f"Declare it as the stage gives it: {given}.",
            )


def _check_kernel(stage: KernelStage, artifact: Artifact) -> None:
    try:
        check_kernel(artifact.read_all())
    except InvalidKernel as error:
        raise InvalidKernel(
            f"{artifact.source}: {error.detail}",
            stage=stage.name,
            hint=error.hint or "Run it alone with `tradepost kernel run`.",
        ) from None


def _check_model(stage: ModelStage, artifact: Artifact, known: Known) -> None:
    try:
        interface = read_interface(artifact.content, conditional_operators=stage.conditional_operators)
    except InvalidModel as error:
        raise InvalidModel(
            f"{artifact.source}: {error.detail}",
            stage=stage.name,
            hint=error.hint or "Export it again; onnx.checker.check_model reports details.",
        ) from None
    for name, reference in stage.inputs.items():
        wanted = _find("input", name, interface.inputs, stage, artifact)
        if reference in known:
            _check_fit(stage, name, wanted, reference, known[reference])
    if missing := sorted(set(interface.inputs) - set(stage.inputs)):
        raise InvalidPipeline(
            f"{artifact.source} also needs the input {missing[0]!r}",
            stage=stage.name,
            hint=f'Add it to the stage: inputs = {{ {quoted_key(missing[0])} = "STAGE.TENSOR" }}.',
        )
    for name, graph_name in stage.graph_outputs.items():
        known[f"{stage.name}.{name}"] = _find("output", graph_name, interface.outputs, stage, artifact)


def _find(
    kind: str, name: str, described: Mapping[str, Described], stage: ModelStage, artifact: Artifact
) -> TensorSpec:
    if name not in described:
        raise InvalidPipeline(
            f"{artifact.source} has no {kind} {name!r}", stage=stage.name, hint=among(name, described)
        )
    tensor = described[name]
    if isinstance(tensor, str):
        raise InvalidPipeline(
            f"the {kind} {name!r} of {artifact.source} is a {tensor}",
            stage=stage.name,
            hint="Stages can exchange only tensors of numbers: export the model without it.",
        )
    return tensor


def _check_fit(stage: ModelStage, name: str, wanted: TensorSpec, reference: str, given: TensorSpec) -> None:
    what = f"its input {name!r} must be {wanted}; {reference} is {given}"
    if given.dtype != wanted.dtype:
        raise InvalidPipeline(
            what, stage=stage.name, hint=f"Provide {wanted.dtype}, or add a kernel that converts it."
        )
    if not given.shape or not wanted.shape:
        return  # a scalar or of unknown rank
    if len(given.shape) != len(wanted.shape):
        raise InvalidPipeline(
            what, stage=stage.name, hint=f"Provide {len(wanted.shape)} dimensions, not {len(given.shape)}."
        )
    for axis, (have, want) in enumerate(zip(given.shape, wanted.shape, strict=True)):
        if have is not None and want is not None and have != want:
            raise InvalidPipeline(what, stage=stage.name, hint=f"Dimension {axis} must be {want}.")
