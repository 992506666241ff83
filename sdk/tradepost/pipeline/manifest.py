"""The pipeline manifest: what runs, on what, within which limits. Its CID is the pipeline's identity.

A manifest is one DAG-CBOR block whose kernels and models are IPLD links, so pinning it pins the pipeline and
signing it signs every artifact in it. Decoding is strict: an unknown field, another version or a second
encoding of the same manifest is refused. Publishers write `pipeline.toml`; see `docs/pipelines.md`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import dag_cbor
import msgspec
from multiformats import CID

from tradepost.bounded import CidText, Count, Positive, Short
from tradepost.content.ipld.cids import Cid, cid_from_bytes, cid_of_block, cid_to_bytes, parse_cid
from tradepost.errors import InvalidCid, InvalidInput, InvalidOutput, InvalidPipeline
from tradepost.pipeline.execution_providers import Provider
from tradepost.pipeline.tensor_specs import OutputSpec, Part, TensorSpec
from tradepost.pipeline.tensors import TensorDocument, dtype_name
from tradepost.pipeline.tolerances import Tolerance, ceiling
from tradepost.schema_errors import describe_mismatch

__all__ = [
    "FORMAT",
    "INPUT",
    "ConditionalOperator",
    "GraphName",
    "KernelStage",
    "Manifest",
    "ModelStage",
    "Name",
    "OutputSpec",
    "PipelineLimits",
    "Provider",
    "Stage",
    "TensorName",
    "TensorSpec",
    "Tolerance",
    "Version",
    "WorkUnits",
    "check_connections",
    "check_tolerances",
    "decode_manifest",
    "encode_manifest",
    "manifest_cid",
    "split_reference",
]

FORMAT: Final = "tradepost-pipeline/1"
#: A job counts at most so many work units.
UNITS_MAX: Final = 1 << 53
MANIFEST_BYTES_MAX: Final = 256 << 10
STAGES_MAX: Final = 32

#: The name of the pipeline's own input in a reference such as `input.image`.
INPUT: Final = "input"

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}\Z")]
TensorName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.:/-]{0,127}\Z")]
#: A tensor of an ONNX graph, whose exporter chose the name.
GraphName = Annotated[Short, msgspec.Meta(min_length=1)]
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z.+-]{1,64}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=4096)]

#: ONNX operators that run a part of the graph depending on data: once, many times, or not at all.
ConditionalOperator = Literal["If", "Loop", "Scan"]


# What the DAG-CBOR and multiformats readers raise on hostile bytes, as fuzzing found.
_UNREADABLE: Final = (
    dag_cbor.decoding.err.CBORDecodingError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
)


class KernelStage(Part, frozen=True, kw_only=True, tag_field="kind", tag="kernel"):
    """A Wasm kernel. It receives a document of `inputs` with `metadata`, and must return `outputs`.

    `inputs` maps the kernel's tensor names to references, `stage.tensor` or `input.tensor`.
    `fuel` is in wasmtime's fuel units (about one per instruction); `memory_bytes` bounds linear memory.
    """

    name: Name
    artifact: CidText
    inputs: Annotated[dict[TensorName, TensorName], msgspec.Meta(min_length=1, max_length=64)]
    outputs: Annotated[tuple[TensorName, ...], msgspec.Meta(min_length=1, max_length=64)]
    metadata: Annotated[
        dict[TensorName, Annotated[str, msgspec.Meta(max_length=64 << 10)]], msgspec.Meta(max_length=64)
    ] = msgspec.field(default_factory=dict)
    fuel: Positive = 1_000_000_000
    memory_bytes: Annotated[int, msgspec.Meta(ge=1 << 16, le=1 << 32)] = 64 << 20

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names by which other stages refer to its outputs, which are the kernel's own."""
        return self.outputs


class ModelStage(Part, frozen=True, kw_only=True, tag_field="kind", tag="model"):
    """An ONNX model. `inputs` maps its graph inputs to references.

    `outputs` are graph outputs, by their own names or, as a map, by the names that other stages use.
    `providers` are the execution providers it may run on, best first. `memory_bytes` bounds the runner's
    whole address space while it is loaded. `conditional_operators` are those that its graph may hold.
    """

    name: Name
    artifact: CidText
    inputs: Annotated[dict[GraphName, TensorName], msgspec.Meta(min_length=1, max_length=64)]
    outputs: (
        Annotated[tuple[TensorName, ...], msgspec.Meta(min_length=1, max_length=64)]
        | Annotated[dict[TensorName, GraphName], msgspec.Meta(min_length=1, max_length=64)]
    )
    providers: Annotated[tuple[Provider, ...], msgspec.Meta(min_length=1, max_length=7)] = ("cpu",)
    tolerance: Tolerance = Tolerance()
    memory_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 40)] = 1 << 30
    conditional_operators: Annotated[tuple[ConditionalOperator, ...], msgspec.Meta(max_length=3)] = ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names by which other stages refer to its outputs."""
        return tuple(self.outputs)

    @property
    def graph_outputs(self) -> dict[str, str]:
        """The name of each output in the graph, by the name that other stages use."""
        return self.outputs if isinstance(self.outputs, dict) else {name: name for name in self.outputs}


Stage = KernelStage | ModelStage


class WorkUnits(Part, frozen=True, kw_only=True):
    """What a job on this pipeline is paid by: `base`, plus `per_mebibyte` for each MiB of input begun."""

    base: Positive = 1
    per_mebibyte: Count = 0

    def count(self, input_bytes: int) -> int:
        """The work units of a job whose input document has this many bytes, at most `UNITS_MAX`."""
        return min(UNITS_MAX, self.base + self.per_mebibyte * -(-input_bytes // (1 << 20)))


class PipelineLimits(Part, frozen=True, kw_only=True):
    """Bounds of one run: wall clock on the worker, and the sizes of the input and output documents."""

    wall_ms: Annotated[int, msgspec.Meta(ge=1, le=24 * 3600 * 1000)] = 30_000
    input_bytes: Positive = 64 << 20
    output_bytes: Positive = 64 << 20


class Manifest(Part, frozen=True, kw_only=True):
    """A pipeline: a DAG of stages in an order that runs, between declared inputs and outputs.

    `outputs` are the references of the output's tensors; `output_specs` declares what some or all of them
    are, by the same names.
    """

    format: Literal["tradepost-pipeline/1"] = FORMAT
    name: Name
    version: Version
    description: Text = ""
    inputs: Annotated[dict[TensorName, TensorSpec], msgspec.Meta(min_length=1, max_length=64)]
    stages: Annotated[tuple[Stage, ...], msgspec.Meta(min_length=1, max_length=STAGES_MAX)]
    outputs: Annotated[dict[TensorName, TensorName], msgspec.Meta(min_length=1, max_length=64)]
    output_specs: Annotated[dict[TensorName, OutputSpec], msgspec.Meta(max_length=64)] = msgspec.field(
        default_factory=dict
    )
    work_units: WorkUnits = WorkUnits()
    limits: PipelineLimits = PipelineLimits()

    def artifacts(self) -> list[Cid]:
        """The CIDs of every kernel and model, each once, in stage order."""
        return list(dict.fromkeys(Cid(stage.artifact) for stage in self.stages))

    def check_input(self, document: TensorDocument, *, document_bytes: int) -> None:
        """Raise `InvalidInput` unless `document` is what this pipeline declares."""
        self.check_input_bytes(document_bytes)
        for name, spec in self.inputs.items():
            if name not in document.tensors:
                raise InvalidInput(f"tensor {name!r} is missing; {self.name} needs it as {spec}")
            tensor = document.tensors[name]
            if not spec.admits(dtype_name(tensor), tensor.shape):
                raise InvalidInput(
                    f"tensor {name!r} is {dtype_name(tensor)}{list(tensor.shape)}; {self.name} needs {spec}"
                )
        if unknown := sorted(set(document.tensors) - set(self.inputs)):
            raise InvalidInput(f"tensors {unknown} are not inputs of {self.name}")

    def check_input_bytes(self, document_bytes: int) -> None:
        """Raise `InvalidInput` if an input of this size is too large for this pipeline."""
        if document_bytes > self.limits.input_bytes:
            raise InvalidInput(
                f"{document_bytes:,} bytes; {self.name} accepts at most {self.limits.input_bytes:,}"
            )

    def check_output(self, document: TensorDocument) -> None:
        """Raise `InvalidOutput`, naming the stage, unless the outputs are what this pipeline declares.

        The document must have the pipeline's outputs; those without a declaration may be anything.
        """
        for name, spec in sorted(self.output_specs.items()):
            if difference := spec.difference(document[name]):
                raise InvalidOutput(f"tensor {name!r} {difference}", stage=self.source_of(name))

    def source_of(self, output: str) -> str:
        """The stage that gives an output; the last one for an output that is an input of the pipeline."""
        source = split_reference(self.outputs[output])[0]
        return self.stages[-1].name if source == INPUT else source


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's DAG-CBOR block."""
    # Through JSON, whose arrays come back as the lists that the DAG-CBOR writer wants.
    tree = msgspec.json.decode(msgspec.json.encode(manifest))
    for stage in tree["stages"]:
        stage["artifact"] = CID.decode(cid_to_bytes(stage["artifact"]))
        # Left out where there are none: so manifests from before there was the field keep their CIDs.
        if not stage.get("conditional_operators"):
            stage.pop("conditional_operators", None)
    if not tree.get("output_specs"):
        tree.pop("output_specs", None)
    block: bytes = dag_cbor.encode(tree)
    return block


def manifest_cid(manifest: Manifest) -> Cid:
    """The pipeline's identity."""
    return cid_of_block(encode_manifest(manifest), "dag-cbor")


def decode_manifest(block: bytes) -> Manifest:
    """The manifest in a DAG-CBOR block. Raises `InvalidPipeline` unless it is valid and canonical."""
    if len(block) > MANIFEST_BYTES_MAX:
        raise InvalidPipeline(f"the manifest has {len(block):,} bytes; the limit is {MANIFEST_BYTES_MAX:,}")
    try:
        tree: Any = dag_cbor.decode(block)
        for stage in tree["stages"]:
            stage["artifact"] = cid_from_bytes(bytes(stage["artifact"]))
        manifest = msgspec.convert(tree, Manifest)
    except msgspec.ValidationError as error:
        raise InvalidPipeline(describe_mismatch(error, whole="the manifest", data=tree)) from None
    except InvalidCid as error:
        raise InvalidPipeline(f"a stage's artifact: {error}", hint=error.hint) from None
    except _UNREADABLE as error:
        raise InvalidPipeline(f"the manifest is not readable DAG-CBOR: {error}") from None
    if encode_manifest(manifest) != block:
        raise InvalidPipeline("the manifest is not in canonical form")
    check_connections(manifest)
    return manifest


def check_connections(manifest: Manifest) -> None:
    """Raise `InvalidPipeline`, naming the stage and the mend, unless every reference has a source.

    A stage may refer to the pipeline's input and to stages before it, so there are no cycles.
    """
    available: dict[str, tuple[str, ...]] = {INPUT: tuple(manifest.inputs)}
    for stage in manifest.stages:
        try:
            parse_cid(stage.artifact)
        except InvalidCid as error:
            raise InvalidPipeline(str(error), stage=stage.name) from None
        if stage.name in available:
            raise InvalidPipeline(
                f"the name {stage.name!r} is already used or reserved; rename the stage", stage=stage.name
            )
        names = stage.output_names
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise InvalidPipeline(f"outputs {sorted(duplicates)} are named twice", stage=stage.name)
        for tensor, reference in stage.inputs.items():
            _resolve(reference, available, what=f"its input {tensor!r}", stage=stage.name)
        available[stage.name] = names
    for tensor, reference in manifest.outputs.items():
        _resolve(reference, available, what=f"the pipeline's output {tensor!r}", stage=None)
    if unknown := sorted(set(manifest.output_specs) - set(manifest.outputs)):
        raise InvalidPipeline(f"output_specs declares {unknown}, which are not outputs of the pipeline")


def check_tolerances(manifest: Manifest) -> None:
    """Raise `InvalidPipeline`, naming the stage, if it tolerates more than the dtypes of its outputs allow.

    To be called when a pipeline is published. In those that are published already, the broker lowers the
    tolerance.
    """
    declared = {spec.dtype for spec in manifest.output_specs.values()}
    known = declared if set(manifest.output_specs) == set(manifest.outputs) else set()
    most = ceiling(known)
    for stage in manifest.stages:
        if not isinstance(stage, ModelStage):
            continue
        lowered = stage.tolerance.within(most)
        if lowered != stage.tolerance:
            where = f" for outputs of {', '.join(sorted(known))}" if known else ""
            raise InvalidPipeline(
                f"its tolerance is atol = {stage.tolerance.atol:g}, rtol = {stage.tolerance.rtol:g}; "
                f"at most {most.atol:g} and {most.rtol:g} are allowed{where}",
                stage=stage.name,
                hint=f"Set tolerance = {{ atol = {lowered.atol:g}, rtol = {lowered.rtol:g} }}, "
                "and measure by how much the providers differ.",
            )


def split_reference(reference: str) -> tuple[str, str]:
    """`stage.tensor` as its two parts; the tensor's name may itself contain dots."""
    stage, _, tensor = reference.partition(".")
    return stage, tensor


def _resolve(
    reference: str, available: Mapping[str, tuple[str, ...]], *, what: str, stage: str | None
) -> None:
    source, tensor = split_reference(reference)
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", source) or not tensor:
        raise InvalidPipeline(
            f"{what} refers to {reference!r}; write stage.tensor or input.tensor", stage=stage
        )
    if source not in available:
        known = ", ".join(available)
        raise InvalidPipeline(
            f"{what} refers to {source!r}, which is not an earlier stage (earlier: {known})", stage=stage
        )
    if tensor not in available[source]:
        known = ", ".join(available[source])
        raise InvalidPipeline(f"{what} refers to {tensor!r} of {source!r}, which has: {known}", stage=stage)
