"""Runs a pipeline's stages, in order, on one input document. This is the code that runs inside the runner.

Every stage's result becomes a canonical tensor document with exactly the declared outputs, whose hash goes
into the stage's report: that is what verification compares. The names of a stage's tensors never change on
the way. The pipeline's output document also carries the metadata of the stages that feed its outputs, merged
in stage order (the later stage wins).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from tradepost.errors import (
    InvalidTensorDocument,
    KernelTrap,
    LeaseTimeout,
    ModelFailure,
    StageFailure,
    TradepostError,
)
from tradepost.pipeline.manifest import INPUT, KernelStage, Manifest, ModelStage, Stage, split_reference
from tradepost.pipeline.tensors import Tensor, TensorDocument, decode, encode
from tradepost.receipts import StageReport, document_hash
from tradepost_worker.runner.inference import Inference, Model
from tradepost_worker.runner.kernel_sandbox import Kernel, Sandbox
from tradepost_worker.runner.messages import COMPILED_BYTES_MAX
from tradepost_worker.runner.pipeline_run import PipelineRun


class Executor:
    """One pipeline, its kernels compiled and its models loaded. `compiled` is code by the artifact's CID.

    Raises `StageFailure`, naming the stage, for an artifact that cannot be loaded anywhere.
    """

    def __init__(
        self,
        manifest: Manifest,
        artifacts: Mapping[str, bytes],
        *,
        sandbox: Sandbox,
        inference: Inference,
        compiled: Mapping[str, bytes] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manifest = manifest
        self._monotonic = monotonic
        self._kernels: dict[str, Kernel] = {}
        self._models: dict[str, Model] = {}
        self._compiled: dict[str, bytes] = {}
        known = compiled or {}
        for stage in manifest.stages:
            try:
                if isinstance(stage, KernelStage):
                    kernel = sandbox.load(artifacts[stage.artifact], known.get(stage.artifact))
                    self._kernels[stage.name] = kernel
                    self._keep_compiled(stage.artifact, kernel)
                else:
                    model = inference.load(
                        artifacts[stage.artifact],
                        providers=stage.providers,
                        conditional_operators=stage.conditional_operators,
                        elements_max=stage.memory_bytes,
                    )
                    _check_names(stage, model)
                    self._models[stage.name] = model
            except TradepostError as error:
                error.stage = stage.name
                raise

    def take_compiled(self) -> dict[str, bytes]:
        """The code of the kernels that were compiled here, by CID. It is handed over once."""
        compiled, self._compiled = self._compiled, {}
        return compiled

    def _keep_compiled(self, cid: str, kernel: Kernel) -> None:
        left = COMPILED_BYTES_MAX - sum(map(len, self._compiled.values()))
        if kernel.was_compiled_here and (code := kernel.serialize(bytes_max=left)) is not None:
            self._compiled[cid] = code

    def run(
        self,
        document: bytes,
        *,
        wall_s_max: float,
        on_stages: Callable[[Sequence[StageReport]], None] = lambda _: None,
    ) -> PipelineRun:
        """Run every stage on `document`; before each but the first, tell `on_stages` what is done.

        Raises `InvalidTensorDocument` or `InvalidInput` for an input that does not fit the pipeline, and
        `LeaseTimeout`, naming the stage, after `wall_s_max` seconds: neither is the pipeline's result.
        """
        due_s = self._monotonic() + wall_s_max
        input_ = decode(document, bytes_max=self._manifest.limits.input_bytes)
        self._manifest.check_input(input_, document_bytes=len(document))
        documents = {INPUT: input_}
        reports: list[StageReport] = []
        canonical = b""
        try:
            for stage in self._manifest.stages:
                if reports:
                    on_stages(reports)
                documents[stage.name], canonical, report = self._run_stage(stage, documents, due_s)
                reports.append(report)
            output = self._output(documents, canonical)
        except StageFailure as failure:
            return PipelineRun(stages=tuple(reports), failure=failure.to_problem())
        return PipelineRun(stages=tuple(reports), output=output)

    def _run_stage(
        self, stage: Stage, documents: Mapping[str, TensorDocument], due_s: float
    ) -> tuple[TensorDocument, bytes, StageReport]:
        """The stage's result, the same as a canonical document, and the report of it."""
        started_s = self._monotonic()
        tensors = {name: _resolve(reference, documents) for name, reference in stage.inputs.items()}
        fuel, provider = 0, ""
        try:
            if started_s >= due_s:
                raise LeaseTimeout("the earlier stages used all of the time")
            if isinstance(stage, KernelStage):
                result, fuel = self._run_kernel(stage, tensors, due_s - started_s)
            else:
                model = self._models[stage.name]
                names = stage.graph_outputs
                values = model.run(tensors, names.values(), wall_s_max=due_s - started_s)
                outputs = {name: values[graph_name] for name, graph_name in names.items()}
                result, provider = TensorDocument(outputs), model.provider
            canonical = _encode(result, stage)
        except TradepostError as error:
            error.stage = stage.name
            raise
        output = document_hash(canonical)
        wall_us = round((self._monotonic() - started_s) * 1e6)
        report = StageReport(stage=stage.name, output=output, fuel=fuel, provider=provider, wall_us=wall_us)
        return result, canonical, report

    def _run_kernel(
        self, stage: KernelStage, tensors: Mapping[str, Tensor], wall_s_max: float
    ) -> tuple[TensorDocument, int]:
        run = self._kernels[stage.name].run(
            encode(TensorDocument(tensors, stage.metadata)),
            fuel=stage.fuel,
            memory_bytes_max=stage.memory_bytes,
            # A result in linear memory cannot be larger, and one on stdout gets no more.
            output_bytes_max=stage.memory_bytes,
            wall_s_max=wall_s_max,
        )
        try:
            document = decode(run.output)
        except InvalidTensorDocument as error:
            raise KernelTrap(f"its output is not a tensor document: {error}", reason="bad-document") from None
        if missing := [name for name in stage.outputs if name not in document.tensors]:
            raise KernelTrap(f"it did not return its outputs {missing}", reason="bad-document")
        declared = {name: document[name] for name in stage.outputs}
        return TensorDocument(declared, document.metadata), run.fuel_used

    def _output(self, documents: Mapping[str, TensorDocument], last: bytes) -> bytes:
        """The pipeline's output document; `last` is the canonical document of the last stage."""
        references = self._manifest.outputs
        sources = {split_reference(reference)[0] for reference in references.values()} - {INPUT}
        feeding = [stage for stage in self._manifest.stages if stage.name in sources]
        tensors = {name: _resolve(reference, documents) for name, reference in references.items()}
        if _is_whole(self._manifest.stages[-1], references):
            output = last
        else:
            metadata: dict[str, str] = {}
            for stage in feeding:
                metadata |= documents[stage.name].metadata
            output = encode(TensorDocument(tensors, metadata))
        if len(output) > (most := self._manifest.limits.output_bytes):
            name = feeding[-1].name if feeding else INPUT
            raise StageFailure(
                f"the pipeline's output document has {len(output):,} bytes; its limit is {most:,}",
                stage=name,
                hint="Raise limits.output_bytes in pipeline.toml.",
            )
        self._manifest.check_output(TensorDocument(tensors))
        return output


def _is_whole(stage: Stage, references: Mapping[str, str]) -> bool:
    """Whether the references give all that `stage` returns, under the same names, and nothing else."""
    return dict(references) == {name: f"{stage.name}.{name}" for name in stage.output_names}


def _check_names(stage: ModelStage, model: Model) -> None:
    for kind, named, present in (
        ("input", stage.inputs, model.inputs),
        ("output", stage.graph_outputs.values(), model.outputs),
    ):
        if unknown := sorted(set(named) - set(present)):
            raise ModelFailure(f"the model has no {kind} {unknown}; it has {present}")


def _resolve(reference: str, documents: Mapping[str, TensorDocument]) -> Tensor:
    source, tensor = split_reference(reference)
    return documents[source][tensor]


def _encode(result: TensorDocument, stage: Stage) -> bytes:
    try:
        return encode(result)
    except InvalidTensorDocument as error:
        failure = KernelTrap if isinstance(stage, KernelStage) else ModelFailure
        raise failure(f"its output cannot be a tensor document: {error}") from None
